"""What a node or an observer shows to its peers, and how it judges what they show.

    Credentials             the interface, and when contexts are made anew
      IssuedCredentials     certified by the cluster's authority, whose key is at hand
        HomeCredentials     and that authority is one of this user's home (`home`)
      FileCredentials       from files that somebody else renews (`from_files`)
        JoinedCredentials   and they are in this user's home, by a token (`home`)

A pair of contexts is for one certificate and one set of trusted authorities.  It is made anew at
the first request after the certificate's time to be renewed, or after the material behind it
changed.  So renewal needs no task and no timer: established connections are not touched, and the
next handshake shows the new certificate.  A renewal that fails while the old certificate is still
good is one warning, and is tried again after ten seconds; a task that renews was refused, because
it would have to be told when the clock is set, and its failure would be nobody's.

The key of `IssuedCredentials` is made when they are, and is held in memory only: every life of a
node has its own, nothing needs to be guarded on disk, and a restart is a rotation.
"""

from __future__ import annotations

import abc
import logging
import ssl
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from steinadler.errors import SecurityError
from steinadler.security.authority import Authority
from steinadler.security.contexts import ALPN as ALPN
from steinadler.security.contexts import Shown, make_shown
from steinadler.security.pattern import SpiffePattern
from steinadler.security.peer import PeerIdentity

# How long a failed renewal waits for the next attempt, unless the material changes.
RETRY_AFTER = timedelta(seconds=10)

_log = logging.getLogger("steinadler.security")


def utc_now() -> datetime:
    """The wall clock, with its zone."""
    return datetime.now(UTC)


class Credentials(abc.ABC):
    """A certificate, its key, and whom it trusts.

    `identity` is what the certificate says; it stays as long as the credentials live.  `pattern`
    is how the certificates of this cluster name their holders.

    A subclass says when its material changed (`_stamp`) and makes contexts of it (`_make`), and
    ends its `__init__` with `_begin`.
    """

    identity: PeerIdentity
    pattern: SpiffePattern

    @property
    def certificate(self) -> x509.Certificate:
        """The certificate that the next handshake shows; raises as `server_context` does."""
        return self._current().certificate

    def server_context(self) -> ssl.SSLContext:
        """The context for the side that was dialled.

        Raises `SecurityError` only when the certificate has expired and there is no newer one.
        May block for some 10 ms, when there is a newer one, on reading files and loading them.
        """
        return self._current().server

    def client_context(self) -> ssl.SSLContext:
        """The context for the side that dials; as `server_context`."""
        return self._current().client

    def judge(self, der: bytes) -> PeerIdentity:
        """Whom a peer's certificate names, its chain having been verified by a context of ours.

        Raises `SecurityError`, with a text for the log, when it is nobody that may connect.
        """
        return self.pattern.identify(der)

    @abc.abstractmethod
    def replace_trust(self, authorities: Iterable[x509.Certificate]) -> None:
        """Trust these authorities, and no others, from the next handshake on.

        Where they are kept on disk they are written there, which blocks for some milliseconds.
        Raises `SecurityError` when that fails, when there are none, and when it is not this
        cluster's authority that says whom to trust.
        """

    # -- of subclasses ------------------------------------------------------------------------

    @abc.abstractmethod
    def _stamp(self) -> object:
        """Equal to the former one as long as nothing changed.  Cheap: asked for at handshakes."""

    @abc.abstractmethod
    def _make(self, now: datetime) -> Shown:
        """Contexts of what there is now; raises `SecurityError` when they cannot be made."""

    def _begin(self, clock: Callable[[], datetime]) -> None:
        self._clock = clock
        self._complaint = ""
        # Taken before the making: what changes meanwhile is seen at the next request.
        self._seen = self._stamp()
        self._shown = self._make(clock())
        self._next_attempt = self._shown.renew_at

    def _current(self) -> Shown:
        now, stamp = self._clock(), self._stamp()
        if now >= self._next_attempt or stamp != self._seen:
            self._seen = stamp
            try:
                self._shown = self._make(now)
            except SecurityError as error:
                self._next_attempt = now + RETRY_AFTER
                self._complain(str(error))
            else:
                self._next_attempt, self._complaint = self._shown.renew_at, ""
        if now >= self._shown.certificate.not_valid_after_utc:
            raise SecurityError(
                f"the certificate of {self.identity} has expired, at "
                f"{self._shown.certificate.not_valid_after_utc}, and there is no newer one: "
                f"{self._complaint}"
            )
        return self._shown

    def _complain(self, what: str) -> None:
        if what != self._complaint:
            self._complaint = what
            _log.warning(
                "the certificate of %s could not be renewed, and the old one is used on: %s",
                self.identity,
                what,
            )


class Signing(NamedTuple):
    """An authority whose key is at hand, and all that are trusted, itself among them."""

    authority: Authority
    trust: tuple[x509.Certificate, ...]


class IssuedCredentials(Credentials):
    """Credentials whose certificate this process signs itself, with the authority's key."""

    def __init__(
        self,
        authority: Authority,
        identity: PeerIdentity,
        *,
        trust: Iterable[x509.Certificate] = (),
        clock: Callable[[], datetime] = utc_now,
    ) -> None:
        """Make a key and have it certified.

        `trust`: whom to trust, the authority by default.  Raises `SecurityError` when the
        authority is not valid now or the certificate cannot be loaded.
        """
        self.identity = identity
        self.pattern = SpiffePattern.of_cluster(identity.cluster_id)
        self._signing = Signing(authority, tuple(trust) or (authority.certificate,))
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._begin(clock)

    def replace_trust(self, authorities: Iterable[x509.Certificate]) -> None:
        trust = tuple(authorities)
        if not trust:
            raise SecurityError("a cluster without an authority trusts nobody")
        self._signing = self._signing._replace(trust=trust)

    def _stamp(self) -> object:
        return self._signing

    def _read_signing(self) -> Signing:
        """Who signs now; raises `SecurityError` when nobody can."""
        return self._signing

    def _make(self, now: datetime) -> Shown:
        authority, trust = self._read_signing()
        certificate = authority.issue(self.identity, self._key.public_key(), now)
        renew_at = now + (certificate.not_valid_after_utc - now) * 2 / 3
        return make_shown([certificate], self._key, trust, renew_at)
