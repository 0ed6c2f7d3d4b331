"""What a node or an observer shows to its peers, and how it judges what they show.

    Credentials             the interface, and when contexts are made anew
      IssuedCredentials     certified by the cluster's authority, whose key is at hand
        HomeCredentials     and that authority is one of this user's home
      FileCredentials       from files that somebody else renews (`from_files`)
        JoinedCredentials   and they are in this user's home, by a token

A pair of contexts is for one certificate and one set of trusted authorities.  It is made anew at
the first request after the certificate's time to be renewed, or after the material behind it
changed.  So renewal needs no task and no timer: established connections are not touched, and the
next handshake shows the new certificate.  A renewal that fails while the old certificate is still
good is one warning, and is tried again after ten seconds; a task that renews was refused, because
it would have to be told when the clock is set, and its failure would be nobody's.

**Whom to trust** (`trust`) is held in memory and, in homes, on disk.  A document that others bring
counts from `adopt` on, at once; `store_trust`, which waits for the disk, comes afterwards.  What
the disk has that is later was put there by another process of this home, and is taken at the next
look.

The key of `IssuedCredentials` is made when they are, and is held in memory only: every life of a
node has its own, nothing needs to be guarded on disk, and a restart is a rotation.
"""

from __future__ import annotations

import abc
import logging
import ssl
from collections.abc import Callable, Iterable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from steinadler.errors import CertificateRevoked, SecurityError
from steinadler.security.authority import Authority
from steinadler.security.contexts import ALPN as ALPN
from steinadler.security.contexts import Shown, make_shown
from steinadler.security.pattern import SpiffePattern
from steinadler.security.peer import PeerIdentity
from steinadler.security.trust import Trust

if TYPE_CHECKING:
    from steinadler.security.registrar import Registrar  # which knows folders, and they this

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

    A subclass says when its material changed (`_stamp`) and makes contexts of it (`_make`), says
    whom it trusts (`_read_trust`), and ends its `__init__` with `_begin`.
    """

    identity: PeerIdentity
    pattern: SpiffePattern
    _trust: Trust
    # Lets joiners in, where the cluster's key is in a home.
    registrar: Registrar | None = None

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

        Raises `SecurityError`, with a text for the log, when it is nobody that may connect;
        `CertificateRevoked` when it was one.
        """
        identity = self.pattern.identify(der)
        if self._trust.revoked:
            good_from = x509.load_der_x509_certificate(der).not_valid_before_utc
            self._trust.revoked.check(identity.name, good_from)
        return identity

    def judge_again(self, der: bytes) -> None:
        """Judge a certificate that was good in a handshake, after whom to trust has changed.

        Raises as `judge`, and `SecurityError` when its authority is trusted no longer.
        """
        self.judge(der)
        if not self._is_of_trusted(x509.load_der_x509_certificate(der)):
            raise SecurityError("its certificate is of an authority that is trusted no longer")

    # -- whom to trust ------------------------------------------------------------------------

    @property
    def trust(self) -> Trust:
        """Whom to trust, and who was revoked, as far as is known here."""
        return self._trust

    def adopt(self, later: Trust) -> bool:
        """Trust as this says from now on; False when it is not later than what is held.

        Raises `SecurityError` when nobody who is trusted here signed it.
        """
        if not self._trust.judge(later):
            return False
        self._trust = later
        return True

    def store_trust(self) -> None:  # noqa: B027  # most have no such place
        """Put what is held where it outlives this process, if there is such a place.

        Blocks for some milliseconds.  Raises `SecurityError` when that fails.
        """

    def change_trust(self, change: Callable[[Trust, list[Authority]], Trust]) -> Trust:
        """What `change` makes of what is held, and of the authorities whose keys are at hand.

        Blocks for some milliseconds, where it is on disk.  It counts here once it is adopted.
        Raises what `change` raises, and `SecurityError` when no key is at hand.
        """
        raise SecurityError("the key of the cluster's authority is not here")

    def authority(self) -> Authority | None:
        """The authority that signs for nodes, if its key is at hand.  Blocks as contexts do."""
        return None

    def look(self) -> None:
        """See what has changed on the disk, as a handshake would."""
        with suppress(SecurityError):  # which were complained about already
            self._current()

    def check_own(self) -> None:
        """Raise `CertificateRevoked` when peers will not have this node any longer."""
        revoked, name = self._trust.revoked, self.identity.name
        if name not in revoked.barred:
            try:
                certificate = self._current().certificate
            except SecurityError:
                return
            revoked.check(name, certificate.not_valid_before_utc)
            return
        entry = revoked.find(name)
        assert entry is not None
        raise CertificateRevoked(
            f"{self.identity} was revoked at {entry.at}: nobody takes its connections.  Where the "
            f"cluster's key is, 'steinadler cluster readmit {name}' lets it be certified anew"
        )

    # -- of subclasses ------------------------------------------------------------------------

    @abc.abstractmethod
    def _stamp(self) -> object:
        """Equal to the former one as long as nothing changed.  Cheap: asked for at handshakes."""

    @abc.abstractmethod
    def _make(self, now: datetime) -> Shown:
        """Contexts of what there is now; raises `SecurityError` when they cannot be made."""

    def _read_trust(self) -> Trust:
        """Whom to trust as it is kept; raises `SecurityError` when it cannot be read."""
        return self._trust

    def _is_of_trusted(self, certificate: x509.Certificate) -> bool:
        """Whether an authority that is trusted now signed a certificate that once was good."""
        return self._trust.is_trusted(certificate)

    def _begin(self, clock: Callable[[], datetime]) -> None:
        self._clock = clock
        self._complaint = ""
        # Taken before the making: what changes meanwhile is seen at the next request.
        seen = self._stamp()
        self._trust = self._read_trust()
        self._seen = (seen, self._trust.mark)
        self._shown = self._make(clock())
        self._next_attempt = self._shown.renew_at
        self.check_own()

    def _current(self) -> Shown:
        now, stamp = self._clock(), self._stamp()
        if now >= self._next_attempt or (stamp, self._trust.mark) != self._seen:
            try:
                found = self._read_trust()
                if found.mark >= self._trust.mark:
                    self._trust = found
                self._seen = (stamp, self._trust.mark)
                self._shown = self._make(now)
            except CertificateRevoked:  # which is for `check_own` to tell
                self._seen = (stamp, self._trust.mark)
                self._next_attempt = now + RETRY_AFTER
            except SecurityError as error:
                self._seen = (stamp, self._trust.mark)
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
        self._authority: Authority | None = authority
        self._given = authority
        self._trust = Trust(
            identity.cluster_id, 0, tuple(trust) or (authority.certificate,), authority.revoked
        )
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._begin(clock)

    def change_trust(self, change: Callable[[Trust, list[Authority]], Trust]) -> Trust:
        return change(self._trust, [self._given])

    def authority(self) -> Authority | None:
        self.look()
        signs = self._authority
        # Of the list, what is held here may be later than what the authority was read with.
        return signs and Authority(signs.certificate, signs.key, revoked=self._trust.revoked)

    def _stamp(self) -> object:
        return self._given

    def _read_authority(self) -> Authority:
        """Who signs now; raises `SecurityError` when nobody can."""
        return self._given

    def _make(self, now: datetime) -> Shown:
        self._authority = None  # unless there still is one
        self._authority = authority = self._read_authority()
        certificate = authority.issue(self.identity, self._key.public_key(), now)
        renew_at = now + (certificate.not_valid_after_utc - now) * 2 / 3
        return make_shown([certificate], self._key, self._trust.authorities, renew_at)
