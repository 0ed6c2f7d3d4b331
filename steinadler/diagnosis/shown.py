"""What certificate somebody shows whom we refuse: for the report, and believed by nobody.

A handshake that fails does not tell what was shown.  So another one is made that asks for no proof,
and ends before anything is sent or taken.  The context is made here and goes no further, and no
stream comes of it: for nodes there is still no way to turn verification off (X1).
"""

from __future__ import annotations

import socket
import ssl
from contextlib import suppress
from typing import NoReturn

import trio
from cryptography import x509

from steinadler.diagnosis.outcomes import Shown
from steinadler.diagnosis.validity import Validity
from steinadler.errors import SecurityError
from steinadler.identity import Address
from steinadler.security import SpiffePattern
from steinadler.security.contexts import ALPN
from steinadler.security.peer import spiffe_id
from steinadler.transport.carrier import SocketCarrier
from steinadler.transport.tls import handshake

LOOK_S = 1.0


async def connect(address: Address) -> SocketCarrier:
    """A TCP connection to a literal address; raises `OSError`, waits as long as the kernel does."""
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    with trio.socket.socket(family, socket.SOCK_STREAM) as sock:
        await sock.connect((address.host, address.port))
        return SocketCarrier(socket.socket(fileno=sock.detach()))


async def look(address: Address) -> Shown | None:
    """What is shown there; None when nothing can be had within a second."""
    shown: list[bytes] = []

    def note(der: bytes) -> NoReturn:
        shown.append(der)
        raise SecurityError("it was only looked at")

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols([ALPN])
    with trio.move_on_after(LOOK_S), suppress(OSError, trio.BrokenResourceError, SecurityError):
        await handshake(await connect(address), context, server_side=False, judge=note)
    return read_shown(shown[0]) if shown else None


def read_shown(der: bytes) -> Shown | None:
    """What it says; None for what cannot be read."""
    try:
        certificate = x509.load_der_x509_certificate(der)
        validity = Validity.of("it", certificate)
        subject = certificate.subject.rfc4514_string()
    except Exception:  # a damaged certificate raises any of an undocumented set
        return None
    try:
        uri = spiffe_id(der)
    except SecurityError:
        return Shown(subject or "nobody", validity, None)
    pattern = SpiffePattern.like(uri)
    return Shown(uri, validity, pattern.cluster_id if pattern is not None else None)
