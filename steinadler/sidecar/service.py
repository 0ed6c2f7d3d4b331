"""One sidecar, composed: a node's entities, the HTTP API in front of them, the program behind.

    serving    everything is served
    draining   not ready any more: the types are given up in order, so turns that run end, entities
               are deactivated, and other nodes have them.  All is served still: turns that run
               need their state, and calls find the new owners
    stopped    every request is told so (503, `Retry-After`) until nobody came for `PARTING_S`;
               those under way end

Clients that use a connection again would otherwise find it closed under a request that they have
just sent, and could not know that nothing ran: so from `draining` on each answer says that its
connection closes, and whoever uses another one after that is told 503 first.  To wait for a fixed
time was not enough: on a busy machine requests wait longer than that to be read.

and then the node leaves, with its goodbye.  A program that went first does not hold that up.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from importlib.metadata import version

import trio

from steinadler.errors import ConfigError
from steinadler.node import ConnectionStatistics, Node, NodeStatistics
from steinadler.sidecar.api import Api, Phase
from steinadler.sidecar.app_client import AppClient, tcp, unix
from steinadler.sidecar.app_link import AppLink
from steinadler.sidecar.metrics import Metrics
from steinadler.sidecar.serving import listen_tcp, serve
from steinadler.transport import unix_sockets

logger = logging.getLogger("steinadler.sidecar")

MIB = 1024 * 1024
# How long nobody must have been told 503 before connections are refused, and the most it takes.
PARTING_S, LONGEST_PARTING_S = 0.5, 5.0


@dataclass(frozen=True, slots=True)
class SidecarSettings:
    """How a sidecar serves, and where its program is.

    `http_host`, `http_port` (0: any free port), or `http_socket`, a path: where the API is.
    `app_host`, `app_port`, or `app_socket`: where the program is; neither for none.
    `api_token`: what callers must show; `app_token`: what the program is shown.
    `max_body_bytes`: of one request, and of one answer of the program.
    `call_timeout_s`: how long callers wait that do not say how long.
    """

    http_host: str = "127.0.0.1"
    http_port: int = 3500
    http_socket: str | None = None
    app_host: str = "127.0.0.1"
    app_port: int | None = None
    app_socket: str | None = None
    api_token: str | None = None
    app_token: str | None = None
    max_body_bytes: int = 4 * MIB
    call_timeout_s: float = 60.0

    def __post_init__(self) -> None:
        for name in ("max_body_bytes", "call_timeout_s"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name} must be greater than zero")
        for path in (self.http_socket, self.app_socket):
            if path is not None:
                unix_sockets.check_path(path)
        if self.app_port is not None and self.app_socket is not None:
            raise ConfigError("the program is at a port or at a socket, not at both")
        for token in (self.api_token, self.app_token):
            if token is not None and not (token.isascii() and token.isprintable() and token):
                raise ConfigError("a token is printable ASCII, and not empty")


class Sidecar:
    """One sidecar.  Made by `open_sidecar`."""

    def __init__(self, node: Node, settings: SidecarSettings) -> None:
        self._node = node
        self._settings = settings
        self._stop = trio.Event()
        self._closed = trio.Event()
        self._following = trio.CancelScope()
        self.metrics = Metrics(self)
        self.app = _client(settings)
        self.link: AppLink | None = None
        if self.app is not None:
            self.link = AppLink(self.app, node.entities, self.metrics)
        self.api = Api(
            node.entities,
            self.link,
            self.metrics,
            name=node.name,
            version=version("steinadler"),
            token=settings.api_token,
            max_body_bytes=settings.max_body_bytes,
            timeout_s=settings.call_timeout_s,
        )
        # Where the API is: "127.0.0.1:3500", "[::1]:3500" or "unix:/path".
        self.addresses: tuple[str, ...] = ()

    # -- figures ------------------------------------------------------------------------------

    def node(self) -> NodeStatistics:
        return self._node.statistics()

    def connections(self) -> tuple[ConnectionStatistics, ...]:
        return self._node.connections()

    def active(self) -> dict[str, int]:
        entities = self._node.entities
        return {type_: entities.active_count(type_) for type_ in entities.hosted()}

    def app_up(self) -> bool:
        return self.link is not None and self.link.up

    # -- life ---------------------------------------------------------------------------------

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until `drain` is through."""
        try:
            async with self._listening() as listeners, trio.open_nursery() as nursery:
                nursery.start_soon(self._follow)
                nursery.start_soon(serve, self.api, listeners, self._stop)
                task_status.started()
        finally:
            self._closed.set()
            if self.app is not None:
                self.app.close()

    @asynccontextmanager
    async def _listening(self) -> AsyncIterator[list[trio.SocketListener]]:
        settings = self._settings
        if settings.http_socket is not None:
            async with unix_sockets.listening(settings.http_socket) as listener:
                self.addresses = (f"unix:{settings.http_socket}",)
                yield [listener]
        else:
            listeners = await listen_tcp(settings.http_host, settings.http_port)
            self.addresses = tuple(_address(each) for each in listeners)
            yield listeners  # `serve` closes them

    async def _follow(self) -> None:
        if self.link is not None:
            with self._following:
                await self.link.run()

    async def drain(self) -> None:
        """Leave in order; returns when no entity is active here and nothing is served any more.

        Turns that take longer than `EntitySettings.drain_s` to end are cancelled.
        """
        self.api.phase = Phase.DRAINING
        if self.link is not None:
            self.link.patient = False
            self._following.cancel()
        await self._node.entities.stop_hosting()
        self.api.phase = Phase.STOPPED
        await self._part()
        self._stop.set()
        await self._closed.wait()

    async def _part(self) -> None:
        with trio.move_on_after(LONGEST_PARTING_S):
            turned_away = -1
            while turned_away != self.api.turned_away:
                turned_away = self.api.turned_away
                await trio.sleep(PARTING_S)


@asynccontextmanager
async def open_sidecar(node: Node, settings: SidecarSettings) -> AsyncIterator[Sidecar]:
    """Serve a node's entities over HTTP for the length of the block.

    Serves on entry; `drain` ends it in order, and leaving the block at once.  Raises `ConfigError`
    when it cannot listen.
    """
    sidecar = Sidecar(node, settings)
    failure: ConfigError | None = None
    async with trio.open_nursery() as nursery:
        try:
            await nursery.start(sidecar.run)
        except ConfigError as error:
            failure = error  # raised in here it would come out in a group
        else:
            yield sidecar
        nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure


def _client(settings: SidecarSettings) -> AppClient | None:
    connect: Callable[..., object]
    if settings.app_socket is not None:
        connect, host = unix(settings.app_socket), "localhost"
    elif settings.app_port is not None:
        connect, host = tcp(settings.app_host, settings.app_port), _host(settings)
    else:
        return None
    return AppClient(
        connect, host, token=settings.app_token, max_body_bytes=settings.max_body_bytes
    )


def _host(settings: SidecarSettings) -> str:
    host = f"[{settings.app_host}]" if ":" in settings.app_host else settings.app_host
    return f"{host}:{settings.app_port}"


def _address(listener: trio.SocketListener) -> str:
    host, port = listener.socket.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
