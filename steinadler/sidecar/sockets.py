"""A connected socket, read and written with as few turns of Trio's scheduler as can be.

`trio.SocketStream` was refused: it tries every read before it waits, in vain when an answer or the
next request is still to come, and lets other tasks run after every write.  Here a read waits first,
and a write that the kernel takes at once is no checkpoint.
"""

from __future__ import annotations

import socket

import trio

RECEIVE_BYTES = 64 * 1024


class Socket:
    """The connection of a stream, which it takes over.  For one task at a time."""

    __slots__ = ("_sock",)

    def __init__(self, stream: trio.SocketStream) -> None:
        self._sock = socket.socket(fileno=stream.socket.detach())
        self._sock.setblocking(False)

    async def receive(self) -> bytes:
        """Wait for bytes; `b""` is the end.  Cancelled, it has taken none.  Raises `OSError`."""
        while True:
            await trio.lowlevel.wait_readable(self._sock)
            if (data := self.receive_nowait()) is not None:
                return data

    def receive_nowait(self) -> bytes | None:
        """What is there now; None when nothing is, not even the end.  Raises `OSError`."""
        try:
            return self._sock.recv(RECEIVE_BYTES)
        except BlockingIOError:
            return None

    async def send(self, data: bytes, limit_s: float) -> None:
        """Send all; a checkpoint only when the kernel does not take it at once.

        Cancelled, some of it may have been sent.  Raises `OSError`: a `TimeoutError` when it was
        not taken within `limit_s`.
        """
        sent = self._send_some(data)
        if sent == len(data):
            return
        with trio.move_on_after(limit_s):
            rest = memoryview(data)[sent:]
            while rest:
                await trio.lowlevel.wait_writable(self._sock)
                rest = rest[self._send_some(rest) :]
            return
        raise TimeoutError(f"the other end did not read for {limit_s:g} s")

    def _send_some(self, data: bytes | memoryview) -> int:
        try:
            return self._sock.send(data)
        except BlockingIOError:
            return 0

    def send_end(self) -> None:
        """Say that nothing more will be sent.  Raises `OSError`."""
        self._sock.shutdown(socket.SHUT_WR)

    def stream(self) -> trio.SocketStream:
        """Give the connection back."""
        sock = socket.socket(fileno=self._sock.detach())
        return trio.SocketStream(trio.socket.from_stdlib_socket(sock))

    def close(self) -> None:
        """Close it; repeatable, and no checkpoint."""
        self._sock.close()
