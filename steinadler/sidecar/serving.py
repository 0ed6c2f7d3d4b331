"""HTTP on TCP or a Unix socket: HTTP/1.1 by `http1`, HTTP/2 without TLS by Hypercorn on Trio.

Which of them a connection speaks is known by its first bytes: an HTTP/2 client that knows whom it
talks to opens with a fixed preface (RFC 9113 section 3.4).  Asking for HTTP/2 by `Upgrade` is
ignored, as a server may, and as RFC 9113 gave it up: such a client goes on with HTTP/1.1.

Hypercorn served HTTP/1.1 too once.  Its tasks and channels for each request cost several times what
the request did; figures are in docs/performance.md.

Hypercorn's own `serve` was refused for the loop around them: there one connection's exception ends
the server, and some can be had from outside (a path that is not ASCII, over HTTP/2).  Here such a
connection closes, with a line in the log.
"""

from __future__ import annotations

import logging
from functools import partial
from typing import Any

import trio
from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.config import Config
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import ConnectionState, LifespanState

from steinadler.errors import ConfigError
from steinadler.sidecar.asgi import application
from steinadler.sidecar.exchange import Handler
from steinadler.sidecar.http1 import (
    HEAD_LIMIT_S,
    KEEP_ALIVE_S,
    MAX_HEAD_BYTES,
    Drain,
    Http1Connection,
)
from steinadler.sidecar.sockets import Socket

logger = logging.getLogger("steinadler.sidecar")

# How long requests that are under way at the end may take; as long as turns do by default.
GRACE_S = 10.0
# How long connections that seem idle are kept after the last one was accepted.
LAST_REQUESTS_S = 0.1
_BACKLOG = 1024
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


async def listen_tcp(host: str, port: int) -> list[trio.SocketListener]:
    """Listen on every address of a host; port 0 is any free one.  Raises `ConfigError`."""
    try:
        return await trio.open_tcp_listeners(port, host=host, backlog=_BACKLOG)
    except OSError as error:
        raise ConfigError(f"cannot serve HTTP at {host}:{port}: {error.strerror}") from error


async def serve(handler: Handler, listeners: list[trio.SocketListener], stop: trio.Event) -> None:
    """Serve until `stop` is set, and then until what is under way has ended, `GRACE_S` at most.

    Cancelled, it closes everything at once.
    """
    server = _Server(handler)
    async with trio.open_nursery() as connections:
        async with trio.open_nursery() as accepting:
            accepting.start_soon(
                partial(trio.serve_listeners, server.handle, listeners, handler_nursery=connections)
            )
            await stop.wait()
            accepting.cancel_scope.cancel()
        # Who connected just now has a request on the way, and is not to be taken for idle.
        await trio.sleep(LAST_REQUESTS_S)
        await server.drain()
        connections.cancel_scope.deadline = trio.current_time() + GRACE_S


class _Server:
    """What its connections have in common."""

    def __init__(self, handler: Handler) -> None:
        self._handler = handler
        self._drain = Drain()
        self._application = ASGIWrapper(application(handler))  # type: ignore[arg-type]
        self._config = Config()
        self._config.accesslog = None
        self._config.errorlog = logger
        self._config.include_server_header = False
        self._config.h2_max_header_list_size = MAX_HEAD_BYTES
        self._config.keep_alive_timeout = KEEP_ALIVE_S
        self._config.keep_alive_max_requests = 1 << 62
        self._context = WorkerContext(None)

    async def drain(self) -> None:
        self._drain.begin()
        await self._context.terminated.set()

    async def handle(self, stream: trio.SocketStream) -> None:
        sock = Socket(stream)
        try:
            first = await self._first_bytes(sock)
            if first.startswith(PREFACE):
                await self._serve_http2(sock.stream(), first)
            elif first:
                await Http1Connection(sock, self._handler, self._drain, first).run()
        except OSError as error:
            logger.debug("a connection broke: %s", error)
        except Exception as error:
            logger.warning("a connection is closed: %s", _first_line(error))
        finally:
            sock.close()

    async def _first_bytes(self, sock: Socket) -> bytes:
        """So many that it is certain which protocol they are of; none when there are no more."""
        first = b""
        while len(first) < len(PREFACE) and PREFACE.startswith(first):
            more = await self._drain.receive(sock, HEAD_LIMIT_S if first else KEEP_ALIVE_S)
            if not more:
                return first
            first += more
        return first

    async def _serve_http2(self, stream: trio.SocketStream, first: bytes) -> None:
        state = ConnectionState(LifespanState())
        read: Any = _Read(stream, first)
        server: Any = TCPServer(self._application, self._config, self._context, state, read)
        try:
            await server
        finally:
            stream.socket.close()  # Hypercorn does not when it is cancelled


class _Read(trio.abc.HalfCloseableStream):
    """A stream of which something was read already, as Hypercorn wants it."""

    def __init__(self, stream: trio.SocketStream, first: bytes) -> None:
        self._stream = stream
        self._first = first
        self.socket = stream.socket

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        if self._first:
            await trio.lowlevel.checkpoint()
            first, self._first = self._first, b""
            return first
        return await self._stream.receive_some(max_bytes)

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self._stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def send_eof(self) -> None:
        await self._stream.send_eof()

    async def aclose(self) -> None:
        await self._stream.aclose()


def _first_line(error: BaseException) -> str:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return f"{type(error).__name__}: {error}".splitlines()[0]
