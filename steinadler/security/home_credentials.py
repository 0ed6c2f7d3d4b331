"""Credentials that live in a user's home, and follow what becomes of its files.

    HomeCredentials      of an issuer's home: its authority certifies them, again and again
    JoinedCredentials    of a joined home: given by a token, renewed by a member that signs

Whom they trust is the home's document (`steinadler.security.trust`) in both cases.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from steinadler.errors import SecurityError
from steinadler.identity import OBSERVER
from steinadler.security.authority import CLOCK_SKEW, Authority
from steinadler.security.cluster_folder import ClusterFolder
from steinadler.security.contexts import Shown, make_join_server
from steinadler.security.credentials import IssuedCredentials
from steinadler.security.files import stamp_of
from steinadler.security.from_files import FileCredentials
from steinadler.security.pattern import SpiffePattern
from steinadler.security.peer import PeerIdentity
from steinadler.security.registrar import Registrar
from steinadler.security.signing_request import make_request
from steinadler.security.trust import Trust, is_issued_by


class Request(NamedTuple):
    """A signing request that was sent, and the key that it is for."""

    key: ec.EllipticCurvePrivateKey
    der: bytes


class HomeCredentials(IssuedCredentials):
    """Credentials that the authority of a home certifies, as it is at each renewal.

    All nodes of a home follow what becomes of its files: whom they trust, and who signs.  Where
    the key is taken away, nobody has a certificate any longer than the one it has.
    """

    def __init__(
        self, folder: ClusterFolder, identity: PeerIdentity, *, clock: Callable[[], datetime]
    ) -> None:
        self._folder = folder
        super().__init__(folder.authority(), identity, clock=clock)
        self.registrar = Registrar(folder, identity.cluster_id, self._show_to_joiners, clock=clock)
        self._shown_to_joiners: tuple[x509.Certificate, ssl.SSLContext] | None = None

    def store_trust(self) -> None:
        self._folder.take_trust(self._trust)

    def change_trust(self, change: Callable[[Trust, list[Authority]], Trust]) -> Trust:
        return self._folder.change_trust(change)

    def _show_to_joiners(self) -> tuple[x509.Certificate, ssl.SSLContext]:
        shown, certificate = self._shown_to_joiners, self.certificate
        if shown is None or shown[0] != certificate:
            shown = self._shown_to_joiners = certificate, make_join_server([certificate], self._key)
        return shown

    def _stamp(self) -> object:
        return stamp_of((self._folder.key_path, self._folder.trust_path))

    def _read_trust(self) -> Trust:
        return self._folder.read_trust()

    def _read_authority(self) -> Authority:
        return self._folder.authority()


class JoinedCredentials(FileCredentials):
    """Credentials that a joined home was given, and keeps in one file; renewed by replacing it.

    The one who replaces it is the node, by a request to a member that holds the authority's key:
    see `renew_at`.
    """

    def __init__(
        self, folder: ClusterFolder, cluster_id: str, file: Path, *, clock: Callable[[], datetime]
    ) -> None:
        self._folder = folder
        self.file = file
        pattern = SpiffePattern.of_cluster(cluster_id)
        super().__init__(file, ca=folder.trust_path, pattern=pattern, clock=clock)

    def store_trust(self) -> None:
        self._folder.take_trust(self._trust)

    def for_observing(self) -> JoinedCredentials | None:
        """Those of the observer of the same name, which a token gives beside a node's, if this
        home has them.  Raises `SecurityError` when they cannot be used."""
        cluster_id, role, name = self.identity.cluster_id, self.identity.role, self.identity.name
        file = self._folder.credentials_path(OBSERVER, name)
        if role == OBSERVER or not file.exists():
            return None
        return JoinedCredentials(self._folder, cluster_id, file, clock=self._clock)

    def renew_at(self) -> datetime:
        """From when on to ask for a new certificate: at two thirds of this one's life, or at once
        when the authority that signs is another one now.

        Raises `SecurityError` when it has expired.
        """
        certificate = self.certificate
        since = certificate.not_valid_before_utc
        if not is_issued_by(certificate, self._trust.signs):
            return since
        # It was signed later than it is good from.  Never all of a short life is past then.
        signed = min(since + CLOCK_SKEW, certificate.not_valid_after_utc)
        return signed + (certificate.not_valid_after_utc - signed) * 2 / 3

    def make_request(self) -> Request:
        """Ask to have a new key certified."""
        key = ec.generate_private_key(ec.SECP256R1())
        return Request(key, make_request(self.identity, key))

    def renew(self, request: Request, certificate: x509.Certificate) -> None:
        """Keep what a request was answered with, and show it from the next handshake on.

        Blocks for some milliseconds.  Raises `SecurityError` when it is not what was asked for,
        or cannot be stored.
        """
        der = certificate.public_bytes(serialization.Encoding.DER)
        if self.judge(der) != self.identity or certificate.public_key() != request.key.public_key():
            raise SecurityError("the answer certifies another key, or somebody else")
        if not self._trust.is_trusted(certificate):
            raise SecurityError("the answer is of an authority that is not trusted here")
        self._check_time(certificate, self._clock())
        role, name = self.identity.role, self.identity.name
        try:
            self._folder.store_credentials(role, name, request.key, [certificate])
        except OSError as error:
            raise SecurityError(f"{self.file} cannot be written: {error.strerror}") from error

    def _read_trust(self) -> Trust:
        return self._folder.read_trust()

    def _authorities(self) -> tuple[x509.Certificate, ...]:
        return self._trust.authorities

    def _is_of_trusted(self, certificate: x509.Certificate) -> bool:
        return self._trust.is_trusted(certificate)

    def _check_chain(self, shown: Shown) -> None:
        # Whom the cluster trusts is not this node's to weigh: when its own certificate is of an
        # authority that was dropped, peers refuse it, and it must not trust that one any longer.
        pass
