"""TLS 1.3 over a socket, or whatever else carries bytes, driven by hand through an `ssl.SSLObject`.

Encrypted bytes pass between the carrier and OpenSSL through two memory buffers (RFC 8446 says
nothing of sockets, and neither does the `SSLObject`).  `trio.SSLStream` was refused: it allows
no write without an `await`, takes locks and checkpoints on every operation, and costs 25 to 30 %
of a small call's round trip.  Here a write encrypts and sends inline, and a read takes all that
the carrier has, decrypts it, and returns it as one.

The rules that follow:

- `write_nowait` encrypts at once and in order, so ciphertext must leave in that order: what the
  carrier does not take stays in the outgoing buffer, whoever pushes next pushes from there, and
  a cancelled `flush` loses nothing.
- A read waits only when the carrier is empty, and the last read already told when it is.  When
  it did not have to wait it still lets other tasks run once, so that no peer's flood can starve
  the rest of the node.
- The end of what the carrier brings is the end of the stream, with or without TLS's own closing
  alert: the frames above tell a truncated stream from a finished one.
- In TLS 1.3 the dialling side finishes its handshake before the other has judged its
  certificate.  A dial may thus succeed although the peer refuses us; the first read then
  raises `trio.BrokenResourceError` with the reason.
"""

from __future__ import annotations

import re
import socket
import ssl
from collections.abc import Callable
from contextlib import suppress
from enum import Enum, auto

import trio

from steinadler.errors import SecurityError
from steinadler.identity import Address
from steinadler.security.contexts import ALPN
from steinadler.security.peer import PeerIdentity
from steinadler.transport.carrier import Carrier, Via
from steinadler.transport.network import SecureStream

# The most plain text in one record (RFC 8446, section 5.1).
_RECORD_BYTES = 16 * 1024
_TLS_HANDSHAKE = b"\x16"
_TLS_ALERT = b"\x15"
_HTTP = re.compile(rb"[A-Z]{3,10} \S|HTTP/")
_CLOSED_EARLY = "the connection was closed during the TLS handshake"


class _Ciphertext:
    """The encrypted bytes between a carrier and an `SSLObject`, both ways."""

    __slots__ = ("_unsent", "carrier", "incoming", "outgoing")

    def __init__(self, carrier: Carrier) -> None:
        self.carrier = carrier
        self.incoming = ssl.MemoryBIO()
        self.outgoing = ssl.MemoryBIO()
        self._unsent = memoryview(b"")

    def push(self) -> bool:
        """Send without waiting; True when nothing is left.  Raises the carrier's `OSError`."""
        while True:
            if not self._unsent:
                if not self.outgoing.pending:
                    return True
                self._unsent = memoryview(self.outgoing.read())
            sent = self.carrier.send_nowait(self._unsent)
            if not sent:
                return False
            self._unsent = self._unsent[sent:]

    def pull(self) -> bytes | None:
        """Receive without waiting: None when nothing is there, `b""` at the end of the stream.

        Raises the carrier's `OSError`.
        """
        data = self.carrier.receive_nowait()
        if data is not None:
            self.incoming.write(data)
        return data


class AnotherProtocol(SecurityError):
    """Something answers at the far end, and it does not speak Steinadler's protocol at all."""


class _State(Enum):
    """What reading and closing have come to.  Sending ends with a failure or with CLOSED."""

    OPEN = auto()
    ENDED = auto()
    BROKEN = auto()
    CLOSED = auto()


class TlsPipe:
    """Bytes over TLS 1.3, as `SecureStream` has them, and no word of who the peer is."""

    def __init__(self, ciphertext: _Ciphertext, tls: ssl.SSLObject, remote: Address | Via) -> None:
        self.remote = remote
        self._ciphertext = ciphertext
        self._tls = tls
        self._state = _State.OPEN
        # The last read took all that there was: asking again now would be in vain.
        self._emptied = False
        # The first thing that went wrong, in either direction.
        self._failure: OSError | None = None

    def write_nowait(self, data: bytes) -> bool:
        self._require_sendable()
        if data:
            try:
                self._tls.write(data)
            except ssl.SSLError as error:
                raise self._failed(error) from error
        return self._push()

    async def flush(self) -> None:
        await trio.lowlevel.checkpoint_if_cancelled()
        waited = False
        while True:
            self._require_sendable()
            if self._push():
                break
            await self._ciphertext.carrier.wait_writable()
            waited = True
        if not waited:
            await trio.lowlevel.cancel_shielded_checkpoint()

    async def receive_some(self) -> bytes:
        await trio.lowlevel.checkpoint_if_cancelled()
        waited = self._emptied and self._state is _State.OPEN
        if waited:
            await self._ciphertext.carrier.wait_readable()
        while (data := self._receive_nowait()) is None:
            await self._ciphertext.carrier.wait_readable()
            waited = True
        if not waited:
            # Shielded: the data has left the socket, and must not be lost to a cancellation.
            await trio.lowlevel.cancel_shielded_checkpoint()
        return data

    def close_nowait(self) -> None:
        if self._state is _State.CLOSED:
            return
        self._state = _State.CLOSED
        self._ciphertext.carrier.close()

    def _require_sendable(self) -> None:
        if self._state is _State.CLOSED:
            raise trio.ClosedResourceError("this side has closed the connection")
        if self._failure is not None:
            raise trio.BrokenResourceError(explain(self._failure)) from self._failure

    def _push(self) -> bool:
        try:
            return self._ciphertext.push()
        except OSError as error:
            raise self._failed(error) from error

    def _failed(self, error: OSError) -> trio.BrokenResourceError:
        if self._failure is None:
            self._failure = error
        return trio.BrokenResourceError(explain(error))

    def _receive_nowait(self) -> bytes | None:
        """What has come in, decrypted; None when more must come first."""
        match self._state:
            case _State.OPEN:
                pass
            case _State.ENDED:
                return b""
            case _State.BROKEN:
                assert self._failure is not None
                raise trio.BrokenResourceError(explain(self._failure)) from self._failure
            case _State.CLOSED:
                raise trio.ClosedResourceError("this side has closed the connection")
        # What followed the handshake in the same segment is here already.
        if self._ciphertext.incoming.pending and (data := self._decrypt()) is not None:
            return data
        try:
            arrived = self._ciphertext.pull()
        except OSError as error:
            self._state = _State.BROKEN
            raise self._failed(error) from error
        self._emptied = self._ciphertext.carrier.emptied
        if arrived is None:
            return None
        if arrived:
            return self._decrypt()
        # A send that failed has swallowed a socket's error, and left what looks like an end.
        if self._failure is not None:
            self._state = _State.BROKEN
            raise trio.BrokenResourceError(explain(self._failure)) from self._failure
        self._state = _State.ENDED
        return b""

    def _decrypt(self) -> bytes | None:
        tls, incoming = self._tls, self._ciphertext.incoming
        records: list[bytes] = []
        try:
            while record := tls.read(_RECORD_BYTES):
                records.append(record)
                # Saves the exception that one more read would cost.
                if not incoming.pending and not tls.pending():
                    break
            else:
                self._state = _State.ENDED
        except ssl.SSLWantReadError:
            if not records:
                return None
        except ssl.SSLError as error:
            # What was authentic before the error is delivered; the next read raises.
            self._state = _State.BROKEN
            broken = self._failed(error)
            with suppress(OSError):
                self._ciphertext.push()  # the alert
            if not records:
                raise broken from error
        return records[0] if len(records) == 1 else b"".join(records)


class TlsStream(TlsPipe, SecureStream):
    """A `SecureStream` over TLS 1.3; made by `handshake`."""

    def __init__(
        self,
        ciphertext: _Ciphertext,
        tls: ssl.SSLObject,
        peer: PeerIdentity,
        remote: Address | Via,
        certificate: bytes,
    ) -> None:
        super().__init__(ciphertext, tls, remote)
        self.peer = peer
        self.certificate = certificate


async def handshake(
    carrier: Carrier,
    context: ssl.SSLContext,
    *,
    server_side: bool,
    judge: Callable[[bytes], PeerIdentity],
) -> TlsStream:
    """Authenticate both sides of a connection, and return the stream over it.

    Takes ownership of `carrier`: on any exception, cancellation included, it is closed.  The
    stream's `peer` is what `judge` makes of the peer's certificate, in DER, once its chain has been
    verified; it raises `SecurityError` when that may not connect.  Its `remote` is the carrier's.

    Waits without limit: the caller bounds it.  Raises `SecurityError` when the far end is not a
    peer of the cluster, with a text that says what it is instead (`AnotherProtocol` when it is
    no node of any cluster), and `trio.BrokenResourceError` when the connection failed or was
    closed before the end.
    """
    try:
        ciphertext, tls = await _shake(carrier, context, server_side)
        certificate = _certificate(tls)
        return TlsStream(ciphertext, tls, judge(certificate), carrier.remote, certificate)
    except OSError as error:
        carrier.close()
        raise trio.BrokenResourceError(explain(error)) from error
    except BaseException:
        carrier.close()
        raise


async def open_pipe(
    carrier: Carrier, context: ssl.SSLContext, *, server_side: bool, alpn: str
) -> tuple[TlsPipe, bytes]:
    """A handshake for another protocol than the nodes' own; the context alone says what it asks of
    the peer.

    Returns the pipe, and the certificate that the peer has shown, in DER, or nothing.  Takes
    ownership of `carrier`, waits and raises as `handshake`.
    """
    try:
        ciphertext, tls = await _shake(carrier, context, server_side)
        _require_protocol(tls, alpn)
        shown = tls.getpeercert(binary_form=True) or b""
        return TlsPipe(ciphertext, tls, carrier.remote), shown
    except OSError as error:
        carrier.close()
        raise trio.BrokenResourceError(explain(error)) from error
    except BaseException:
        carrier.close()
        raise


async def _shake(
    carrier: Carrier, context: ssl.SSLContext, server_side: bool
) -> tuple[_Ciphertext, ssl.SSLObject]:
    ciphertext = _Ciphertext(carrier)
    tls = context.wrap_bio(ciphertext.incoming, ciphertext.outgoing, server_side=server_side)
    try:
        await _exchange(ciphertext, tls)
    except ssl.SSLError as error:
        with suppress(OSError):
            ciphertext.push()  # the alert tells the peer why
        raise SecurityError(explain(error)) from error
    return ciphertext, tls


async def _exchange(ciphertext: _Ciphertext, tls: ssl.SSLObject) -> None:
    heard = False
    while True:
        try:
            tls.do_handshake()
            finished = True
        except ssl.SSLWantReadError:
            finished = False
        while not ciphertext.push():
            await ciphertext.carrier.wait_writable()
        if finished:
            return
        while (data := ciphertext.pull()) is None:
            await ciphertext.carrier.wait_readable()
        if not data:
            raise trio.BrokenResourceError(_CLOSED_EARLY)
        if not heard:
            _require_tls(data)
        heard = True


def look_at_first_bytes(sock: socket.socket) -> None:
    """Raise what `handshake` would for what has come in so far, without taking it: much cheaper."""
    try:
        data = sock.recv(16, socket.MSG_PEEK)
    except BlockingIOError:
        return
    except OSError as error:
        raise trio.BrokenResourceError(explain(error)) from error
    if not data:
        raise trio.BrokenResourceError(_CLOSED_EARLY)
    _require_tls(data)


def _require_tls(data: bytes) -> None:
    # Seen here, because OpenSSL's word for it differs from version to version.
    if data[:1] not in (_TLS_HANDSHAKE, _TLS_ALERT):
        raise AnotherProtocol("plain HTTP" if _HTTP.match(data) else "not TLS")


def _certificate(tls: ssl.SSLObject) -> bytes:
    """The peer's certificate, when the connection is what it has to be (promises X1, X2)."""
    _require_protocol(tls, ALPN)
    der = tls.getpeercert(binary_form=True)
    if der is None:
        raise SecurityError("no certificate shown")
    return der


def _require_protocol(tls: ssl.SSLObject, alpn: str) -> None:
    if tls.version() != "TLSv1.3":
        raise SecurityError(f"{tls.version()} where TLS 1.3 is required")
    if tls.selected_alpn_protocol() != alpn:
        raise AnotherProtocol(f"TLS, but not {alpn} (ALPN)")


def explain(error: OSError) -> str:
    """What went wrong with a connection, in words for a log."""
    match error:
        case ssl.SSLCertVerificationError(verify_code=10):
            return "certificate expired"
        case ssl.SSLCertVerificationError(verify_code=9):
            return "certificate not valid yet; do the clocks agree?"
        # X509_V_ERR_*: no issuer found (2, 20, 21), self-signed (18, 19), bad signature (7).
        case ssl.SSLCertVerificationError(verify_code=2 | 7 | 18 | 19 | 20 | 21):
            return "certificate not signed by this cluster's CA"
        case ssl.SSLCertVerificationError(verify_message=message):
            return f"certificate not acceptable: {message}"
        case ssl.SSLError(reason="PEER_DID_NOT_RETURN_A_CERTIFICATE"):
            return "no certificate shown"
        case ssl.SSLError(reason="UNSUPPORTED_PROTOCOL" | "TLSV1_ALERT_PROTOCOL_VERSION"):
            return "a TLS version other than 1.3"
        case ssl.SSLError(reason="TLSV1_ALERT_UNKNOWN_CA"):
            return "the peer says that our certificate is not signed by its cluster's CA"
        case ssl.SSLError(reason=str(reason)) if "ALERT" in reason:
            return f"the peer refuses us: {reason.partition('ALERT_')[2].replace('_', ' ').lower()}"
        case ssl.SSLError():
            return f"TLS failed: {error.reason or error}"
        case _:
            return error.strerror or str(error)
