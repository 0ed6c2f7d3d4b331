"""HTTP/1.1 and cleartext HTTP/2 on TCP or a Unix socket, by Hypercorn's connections on Trio.

Hypercorn's own `serve` was refused for the loop around them: there one connection's exception ends
the server, and some can be had from outside (a path that is not ASCII, over HTTP/2).  Here such a
connection closes, with a line in the log.
"""

from __future__ import annotations

import logging
import os
import stat
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import trio
from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.config import Config
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import ConnectionState, LifespanState

from steinadler.errors import ConfigError

logger = logging.getLogger("steinadler.sidecar")

# A percent-encoded id of the largest size, several times over: whoever sends more gets a problem.
MAX_HEAD_BYTES = 64 * 1024
# Longer than clients keep connections that they do not use, so that closing them is theirs.
KEEP_ALIVE_S = 300.0
# How long requests that are under way at the end may take; as long as turns do by default.
GRACE_S = 10.0
# How long connections that seem idle are kept after the last one was accepted.
LAST_REQUESTS_S = 0.1
_BACKLOG = 1024


async def listen_tcp(host: str, port: int) -> list[trio.SocketListener]:
    """Listen on every address of a host; port 0 is any free one.  Raises `ConfigError`."""
    try:
        return await trio.open_tcp_listeners(port, host=host, backlog=_BACKLOG)
    except OSError as error:
        raise ConfigError(f"cannot serve HTTP at {host}:{port}: {error.strerror}") from error


async def listen_unix(path: str) -> list[trio.SocketListener]:
    """Listen on a Unix socket that only this user may use; one that nobody listens on is replaced.

    Raises `ConfigError`.
    """
    sock = trio.socket.socket(trio.socket.AF_UNIX)
    try:
        await _remove_dead_socket(path)
        before = os.umask(0o177)
        try:
            await sock.bind(path)
        finally:
            os.umask(before)
        sock.listen(_BACKLOG)
    except OSError as error:
        sock.close()
        raise ConfigError(f"cannot serve HTTP at {path}: {error.strerror or error}") from error
    return [trio.SocketListener(sock)]


async def _remove_dead_socket(path: str) -> None:
    try:
        if not stat.S_ISSOCK(os.stat(path).st_mode):
            return
    except FileNotFoundError:
        return
    try:
        stream = await trio.open_unix_socket(path)
    except ConnectionRefusedError:
        os.unlink(path)
    else:
        await stream.aclose()


async def serve(
    app: Callable[..., Awaitable[None]], listeners: list[trio.SocketListener], stop: trio.Event
) -> None:
    """Serve until `stop` is set, and then until what is under way has ended, `GRACE_S` at most.

    Cancelled, it closes everything at once.
    """
    config = Config()
    config.accesslog = None
    config.errorlog = logger
    config.include_server_header = False
    config.h11_max_incomplete_size = MAX_HEAD_BYTES
    config.h2_max_header_list_size = MAX_HEAD_BYTES
    config.keep_alive_timeout = KEEP_ALIVE_S
    config.keep_alive_max_requests = 1 << 62
    context = WorkerContext(None)
    wrapped = ASGIWrapper(app)

    async def handle(stream: trio.SocketStream) -> None:
        state = ConnectionState(LifespanState())
        server: Any = TCPServer(wrapped, config, context, state, stream)  # type: ignore[arg-type]
        try:
            await server
        except Exception as error:
            logger.warning("a connection is closed: %s", _first_line(error))

    async with trio.open_nursery() as connections:
        async with trio.open_nursery() as accepting:
            accepting.start_soon(
                partial(trio.serve_listeners, handle, listeners, handler_nursery=connections)
            )
            await stop.wait()
            accepting.cancel_scope.cancel()
        # Who connected just now has a request on the way, and is not to be taken for idle.
        await trio.sleep(LAST_REQUESTS_S)
        await context.terminated.set()
        connections.cancel_scope.deadline = trio.current_time() + GRACE_S


def _first_line(error: BaseException) -> str:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return f"{type(error).__name__}: {error}".splitlines()[0]
