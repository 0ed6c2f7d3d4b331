"""TLS contexts: the one place that says what is asked of a connection.

TLS 1.3 alone, a certificate of the peer on both sides, and trust in the authorities that are
given, and in no others (promises X1, X2).  Host names are not checked, because the identity in
the certificate is (`steinadler.security.pattern`); session tickets are off, because a resumed
session would skip the certificates.  The one exception is another protocol, for those who ask to
be let in: there, the dialling side has no certificate yet (`steinadler.security.enrolment`).

Python's `ssl` loads keys from files alone, so a key passes through one, in a private folder, for
the blink of the loading; it is encrypted under a password that never leaves memory, so that a
process killed in that blink leaves nothing of use behind.
"""

from __future__ import annotations

import secrets
import ssl
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes

from steinadler.errors import SecurityError

ALPN = "steinadler/1"
JOIN_ALPN = "steinadler-join/1"


@dataclass(frozen=True, slots=True)
class Shown:
    """One certificate, the contexts that show it, and from when on a newer one should be had."""

    certificate: x509.Certificate
    renew_at: datetime
    server: ssl.SSLContext
    client: ssl.SSLContext


def make_shown(
    chain: Sequence[x509.Certificate],
    key: PrivateKeyTypes,
    trust: Iterable[x509.Certificate],
    renew_at: datetime,
) -> Shown:
    """Contexts for both ends of connections.

    `chain` is the certificate, and then those between it and an authority, if any; `trust` the
    authorities that peers' certificates may come from.  Raises `SecurityError` when OpenSSL will
    not have them.
    """
    authorities = b"".join(each.public_bytes(serialization.Encoding.DER) for each in trust)
    try:
        server = _context(ssl.PROTOCOL_TLS_SERVER, authorities)
        client = _context(ssl.PROTOCOL_TLS_CLIENT, authorities)
        server.num_tickets = 0
        _load(chain, key, server, client)
    except OSError as error:  # ssl.SSLError is one
        raise SecurityError(f"the certificate cannot be loaded: {error}") from error
    return Shown(chain[0], renew_at, server, client)


def make_join_server(chain: Sequence[x509.Certificate], key: PrivateKeyTypes) -> ssl.SSLContext:
    """For a connection of somebody who has no certificate yet; raises as `make_shown`.

    It speaks `JOIN_ALPN`, and so serves for nothing else than asking for one.
    """
    context = _bare_context(ssl.PROTOCOL_TLS_SERVER, JOIN_ALPN)
    context.num_tickets = 0
    try:
        _load(chain, key, context)
    except OSError as error:
        raise SecurityError(f"the certificate cannot be loaded: {error}") from error
    return context


def make_join_client() -> ssl.SSLContext:
    """For whoever has no certificate, and knows of the other side only a fingerprint.

    OpenSSL cannot verify a chain by that: `steinadler.security.joiner` does, before it says
    anything.
    """
    return _bare_context(ssl.PROTOCOL_TLS_CLIENT, JOIN_ALPN)


def shake_hands(shown: Shown) -> None:
    """A handshake with oneself, in memory: what peers of the same trust will say of it.

    Raises `ssl.SSLError`, the refusing side's.
    """
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    # In this order, the client speaks first, and each step needs only what came before.
    client = shown.client.wrap_bio(down, up, server_side=False)
    server = shown.server.wrap_bio(up, down, server_side=True)
    unfinished = [client, server]
    while unfinished:
        for side in tuple(unfinished):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
            unfinished.remove(side)


def _context(protocol: ssl._SSLMethod, authorities: bytes) -> ssl.SSLContext:
    context = _bare_context(protocol, ALPN)
    context.verify_mode = ssl.CERT_REQUIRED
    # Partial chains: an authority that is trusted need not be a root, as those of Vault seldom are.
    context.verify_flags |= ssl.VERIFY_X509_STRICT | ssl.VERIFY_X509_PARTIAL_CHAIN
    context.load_verify_locations(cadata=authorities)
    return context


def _bare_context(protocol: ssl._SSLMethod, alpn: str) -> ssl.SSLContext:
    # Made bare, not by ssl.create_default_context: that one trusts the system's authorities and
    # writes session secrets to SSLKEYLOGFILE.
    context = ssl.SSLContext(protocol)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.maximum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols([alpn])
    return context


def _load(
    chain: Sequence[x509.Certificate], key: PrivateKeyTypes, *contexts: ssl.SSLContext
) -> None:
    password = secrets.token_hex(32)
    pem = b"".join(each.public_bytes(serialization.Encoding.PEM) for each in chain)
    pem += key.private_bytes(
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
