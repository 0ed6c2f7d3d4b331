"""What carries the encrypted bytes of a connection: a socket, or a stream through a third node.

TLS does not care (RFC 8446 says nothing of sockets), so whatever can take bytes and give bytes
without waiting, and can be waited for, carries a connection.  `transport.tls` drives either by
these few methods, and the relay of a connection sees what any cable would see of it.
"""

from __future__ import annotations

import socket
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol

import trio

from steinadler.identity import Address, NodeId
from steinadler.transport import idle_polling

_RECEIVE_BYTES = 256 * 1024
# Encrypted bytes that the kernel may hold unsent.  Short, because what is written next, however
# urgent, goes out behind them; and no loss to throughput, because bytes in flight do not count.
_UNSENT_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class Via:
    """In place of an address: the way goes through this node, its relay."""

    relay: NodeId

    def __str__(self) -> str:
        return f"via {self.relay}"


class Carrier(Protocol):
    """A way for bytes in both directions.

    `send_nowait` and `receive_nowait` raise an `OSError` when the way is broken.
    """

    @property
    def remote(self) -> Address | Via:
        """Its far end; raises an `OSError` when there is none any more."""

    def send_nowait(self, data: memoryview) -> int:
        """Take as much of `data` as there is room for; how many bytes that is, 0 for none now."""

    def receive_nowait(self) -> bytes | None:
        """What has come: None when nothing is there yet, `b""` at the end."""

    @property
    def emptied(self) -> bool:
        """Whether the last `receive_nowait` took all there was: another now would be in vain."""

    async def wait_writable(self) -> None:
        """Wait until there may be room.  Raises `trio.ClosedResourceError` once closed."""

    async def wait_readable(self) -> None:
        """Wait until something may be there.  Raises `trio.ClosedResourceError` once closed."""

    def close(self) -> None:
        """Give the way up at once, and end every wait on it.  Never raises; repeatable."""


class SocketCarrier:
    """A connected TCP socket, made non-blocking and this object's to close."""

    __slots__ = ("_unread", "emptied", "sock")

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.emptied = False
        self._unread = b""
        sock.setblocking(False)
        # A connection that was reset meanwhile fails here in odd words; its first read has the
        # right ones.
        with suppress(OSError):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if hasattr(socket, "TCP_NOTSENT_LOWAT"):
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, _UNSENT_BYTES)

    @property
    def remote(self) -> Address:
        return address_of(self.sock.getpeername())

    def send_nowait(self, data: memoryview) -> int:
        try:
            return self.sock.send(data)
        except BlockingIOError:
            return 0

    def receive_nowait(self) -> bytes | None:
        if self._unread:
            data, self._unread = self._unread, b""
            return data
        try:
            data = self.sock.recv(_RECEIVE_BYTES)
        except BlockingIOError:
            self.emptied = True
            return None
        self.emptied = 0 < len(data) < _RECEIVE_BYTES
        return data

    def put_back(self, data: bytes) -> None:
        """Have the next `receive_nowait` return this again, which was looked at and not used."""
        self._unread = data + self._unread
        self.emptied = False

    async def wait_writable(self) -> None:
        await trio.lowlevel.wait_writable(self.sock)

    async def wait_readable(self) -> None:
        await trio.lowlevel.wait_readable(self.sock)

    def poll_when_idle(self, limit_s: float) -> None:
        """Poll it for up to so long at a time while nothing else runs: see `idle_polling`."""
        idle_polling.watch(self.sock, limit_s)

    def close(self) -> None:
        if self.sock.fileno() >= 0:
            idle_polling.unwatch(self.sock)
            trio.lowlevel.notify_closing(self.sock)
            with suppress(OSError):
                self.sock.close()


def address_of(sockaddr: tuple[object, ...]) -> Address:
    """The address in a socket's own form; an IPv4 address mapped into IPv6 is itself again."""
    host, port = str(sockaddr[0]), sockaddr[1]
    assert isinstance(port, int)
    return Address(host.removeprefix("::ffff:") if "." in host else host, port)
