"""What a TLS client asks for, read before the handshake begins (RFC 8446, section 4.1.2).

One port serves members, who show a certificate, and joiners, who have none yet.  Which a client
is, its first record says: in the ALPN names that it offers (RFC 7301).  OpenSSL could tell too, but
only in the middle of the handshake, when what is asked of the client can no longer be changed from
Python.

So nothing hangs on what is read here but the choice between two TLS contexts, each of which then
insists on what it is for.  Whoever lies, or writes what this reads otherwise than OpenSSL does, is
refused by one of them.
"""

from __future__ import annotations

_RECORD_HEADER_BYTES = 5
# RFC 8446, section 5.1: the most that a record in clear may hold.
_MAX_RECORD_BYTES = 16 * 1024
_HANDSHAKE_RECORD = 0x16
_CLIENT_HELLO = 1
_ALPN_EXTENSION = 16


def missing_bytes(begin: bytes) -> int:
    """How many more bytes belong to the first record; 0 when it is whole, or is none."""
    if begin and begin[0] != _HANDSHAKE_RECORD:
        return 0
    if len(begin) < _RECORD_HEADER_BYTES:
        return _RECORD_HEADER_BYTES - len(begin)
    size = int.from_bytes(begin[3:5], "big")
    if size > _MAX_RECORD_BYTES:
        return 0
    return max(0, _RECORD_HEADER_BYTES + size - len(begin))


def offered_protocols(begin: bytes) -> tuple[str, ...]:
    """The ALPN names in a ClientHello that is whole in the first record; none for all else."""
    try:
        record = _Reader(begin)
        if record.number(1) != _HANDSHAKE_RECORD:
            return ()
        record.skip(2)
        message = _Reader(record.vector(2))
        if message.number(1) != _CLIENT_HELLO:
            return ()
        hello = _Reader(message.vector(3))
        hello.skip(2 + 32)  # legacy_version, random
        for length_bytes in (1, 2, 1):  # legacy_session_id, cipher_suites, legacy_compression
            hello.vector(length_bytes)
        extensions = _Reader(hello.vector(2))
        while not extensions.at_end:
            kind, body = extensions.number(2), extensions.vector(2)
            if kind == _ALPN_EXTENSION:
                return _names(_Reader(_Reader(body).vector(2)))
    except EOFError:
        pass
    return ()


def _names(names: _Reader) -> tuple[str, ...]:
    found = []
    while not names.at_end:
        found.append(names.vector(1).decode("ascii", "replace"))
    return tuple(found)


class _Reader:
    """Reads numbers and vectors (RFC 8446, section 3); raises `EOFError` where they are cut off."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._position = 0

    @property
    def at_end(self) -> bool:
        return self._position == len(self._data)

    def number(self, size: int) -> int:
        return int.from_bytes(self._take(size), "big")

    def vector(self, length_bytes: int) -> bytes:
        return self._take(self.number(length_bytes))

    def skip(self, size: int) -> None:
        self._take(size)

    def _take(self, size: int) -> bytes:
        taken = self._data[self._position : self._position + size]
        if len(taken) < size:
            raise EOFError
        self._position += size
        return taken
