"""One process's key and certificate, and the TLS contexts made of them.

The key is made when the `Credentials` are made and is held in memory only: every life of a node
has its own, nothing needs to be guarded on disk, and a restart is a rotation.  Python's `ssl`
loads keys from files alone, so a context's key passes through one, in a private folder, for the
blink of the loading; it is encrypted under a password that never leaves memory, so that a
process killed in that blink leaves nothing of use behind.

A context is for one certificate.  It is made anew at the first request after two thirds of the
certificate's validity, so renewal needs no task and no timer: established connections are not
touched, and the next handshake shows the new certificate.  A renewal that fails while the old
certificate is still good is logged and tried again at the next request.

Contexts speak TLS 1.3 alone, demand a certificate of the peer on both sides, and trust this
cluster's authority alone (promises X1, X2).  Host names are not checked, because the identity
in the certificate is (`steinadler.security.peer`); session tickets are off, because a resumed
session would skip the certificates.
"""

from __future__ import annotations

import logging
import secrets
import ssl
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from steinadler.errors import SecurityError
from steinadler.security.authority import Authority
from steinadler.security.peer import PeerIdentity

ALPN = "steinadler/1"

_log = logging.getLogger("steinadler.security")


def utc_now() -> datetime:
    """The wall clock, with its zone."""
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True)
class _Issue:
    """One certificate and the contexts that show it."""

    certificate: x509.Certificate
    renew_at: datetime
    server: ssl.SSLContext
    client: ssl.SSLContext


class Credentials:
    """What a node or an observer shows to its peers.

    Made by `Home.credentials`.  `identity` is what the certificate says.
    """

    def __init__(
        self,
        authority: Authority,
        identity: PeerIdentity,
        *,
        clock: Callable[[], datetime] = utc_now,
    ) -> None:
        """Make a key and have it certified.

        Raises `SecurityError` when the authority is not valid now or the certificate cannot be
        loaded.
        """
        self.identity = identity
        self._authority = authority
        self._clock = clock
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._issue = self._renewed(clock())

    @property
    def certificate(self) -> x509.Certificate:
        """The certificate that the next handshake shows."""
        return self._current().certificate

    def server_context(self) -> ssl.SSLContext:
        """The context for the side that was dialled.

        Raises `SecurityError` only when the certificate has expired and renewing it failed.
        """
        return self._current().server

    def client_context(self) -> ssl.SSLContext:
        """The context for the side that dials; raises as `server_context` does."""
        return self._current().client

    def _current(self) -> _Issue:
        now = self._clock()
        if now < self._issue.renew_at:
            return self._issue
        try:
            self._issue = self._renewed(now)
        except SecurityError as error:
            if now >= self._issue.certificate.not_valid_after_utc:
                raise
            _log.warning("the certificate of %s could not be renewed: %s", self.identity, error)
        return self._issue

    def _renewed(self, now: datetime) -> _Issue:
        certificate = self._authority.issue(self.identity, self._key.public_key(), now)
        server = _context(ssl.PROTOCOL_TLS_SERVER, self._authority.certificate)
        client = _context(ssl.PROTOCOL_TLS_CLIENT, self._authority.certificate)
        server.num_tickets = 0
        try:
            _load(certificate, self._key, server, client)
        except OSError as error:  # ssl.SSLError is one
            raise SecurityError(f"the new certificate cannot be loaded: {error}") from error
        return _Issue(
            certificate=certificate,
            renew_at=now + (certificate.not_valid_after_utc - now) * 2 / 3,
            server=server,
            client=client,
        )


def _context(protocol: ssl._SSLMethod, authority: x509.Certificate) -> ssl.SSLContext:
    # Made bare, not by ssl.create_default_context: that one trusts the system's authorities and
    # writes session secrets to SSLKEYLOGFILE.
    context = ssl.SSLContext(protocol)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.maximum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.verify_mode = ssl.CERT_REQUIRED
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    context.load_verify_locations(cadata=authority.public_bytes(serialization.Encoding.DER))
    context.set_alpn_protocols([ALPN])
    return context


def _load(
    certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey, *contexts: ssl.SSLContext
) -> None:
    password = secrets.token_hex(32)
    pem = certificate.public_bytes(serialization.Encoding.PEM) + key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(password.encode()),
    )
    with tempfile.TemporaryDirectory(prefix="steinadler-") as folder:
        path = Path(folder, "certificate-and-key.pem")
        path.touch(mode=0o600)
        path.write_bytes(pem)
        for context in contexts:
            context.load_cert_chain(path, password=password)
