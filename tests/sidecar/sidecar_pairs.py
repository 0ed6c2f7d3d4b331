"""Sidecars and their programs in the test's own task tree, over nodes on loopback."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import trio
from app_program import Program, client

from steinadler import Config, Node
from steinadler.sidecar import Sidecar, SidecarSettings, open_sidecar
from steinadler.sidecar.app_client import AppAnswer, AppClient
from steinadler.sidecar.serving import listen_tcp, serve
from steinadler.testing.stores import MemoryContents, MemoryStore


async def until(condition: Callable[[], object]) -> None:
    """Wait for what no event tells of."""
    with trio.fail_after(10):
        while not condition():  # noqa: ASYNC110
            await trio.sleep(0.005)


@dataclass
class Pair:
    """A sidecar and its program."""

    node: Node
    sidecar: Sidecar
    program: Program
    client: AppClient
    port: int
    app_port: int
    stop_app: trio.CancelScope
    app_listeners: list[trio.SocketListener]

    async def ask(
        self, verb: str, path: str, body: bytes = b"", headers: dict[str, str] | None = None
    ) -> AppAnswer:
        """A request to the sidecar."""
        with trio.fail_after(30):
            return await self.client.request(verb, path, list((headers or {}).items()), body)


class Sidecars:
    """Opens pairs."""

    def __init__(self, nursery: trio.Nursery, nodes: Any) -> None:
        self._nursery = nursery
        self._nodes = nodes
        self._opened: list[Pair] = []
        self.contents = MemoryContents()

    async def open(
        self,
        name: str = "alice",
        *,
        config: Any = None,
        app: bool = True,
        settings: SidecarSettings | None = None,
        node_config: Config | None = None,
        store: Any = None,
    ) -> Pair:
        """A sidecar that has read its program's configuration, unless `app` is False: then the
        program is not there yet."""
        node = await self._nodes.open(
            name, store=store or MemoryStore(self.contents), config=node_config
        )
        app_listeners = await listen_tcp("127.0.0.1", 0)
        app_port = app_listeners[0].socket.getsockname()[1]
        sidecar: Sidecar = await self._nursery.start(
            self._run, node, replace(settings or SidecarSettings(), http_port=0, app_port=app_port)
        )
        port = int(sidecar.addresses[0].rpartition(":")[2])
        program = Program(port)
        if config is not None:
            program.config = config
        pair = Pair(node, sidecar, program, client(port), port, app_port, trio.CancelScope(), [])
        self._opened.append(pair)
        if not app:
            await app_listeners[0].aclose()
            return pair
        self._nursery.start_soon(self._serve, pair, app_listeners)
        await until(lambda: pair.sidecar.app_up())
        return pair

    def close_clients(self) -> None:
        """Close what the tests' own clients keep open."""
        for pair in self._opened:
            pair.client.close()
            pair.program.sidecar.close()

    async def start_app(self, pair: Pair) -> None:
        """Start the program of a pair (again)."""
        pair.stop_app = trio.CancelScope()
        self._nursery.start_soon(self._serve, pair, await listen_tcp("127.0.0.1", pair.app_port))

    def restart_app(self, pair: Pair) -> None:
        """End the program and start the next before anybody can look: its port never refuses."""
        listeners = [trio.SocketListener(each.socket.dup()) for each in pair.app_listeners]
        pair.stop_app.cancel()
        pair.stop_app = trio.CancelScope()
        self._nursery.start_soon(self._serve, pair, listeners)

    async def _serve(self, pair: Pair, listeners: list[trio.SocketListener]) -> None:
        pair.app_listeners = listeners
        with pair.stop_app:
            await serve(pair.program, listeners, trio.Event())

    async def _run(
        self, node: Node, settings: SidecarSettings, *, task_status: trio.TaskStatus[Sidecar]
    ) -> None:
        async with open_sidecar(node, settings) as sidecar:
            task_status.started(sidecar)
            await trio.sleep_forever()
