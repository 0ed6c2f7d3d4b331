"""What every test may use, and what none may leave behind."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import trio
from hypothesis import HealthCheck, settings

from steinadler import Node, open_node

# How fast examples are made says something about the machine, and nothing about the code.
settings.register_profile("steinadler", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("steinadler")


@pytest.fixture(autouse=True)
def leaves_nothing_behind() -> Iterator[None]:
    """Fail a test after which a thread or a child process is left."""
    threads, children = set(threading.enumerate()), _children()
    yield
    # Trio keeps idle workers for ten seconds, for whoever needs one next.
    left: set[object] = {
        thread
        for thread in set(threading.enumerate()) - threads
        if thread.is_alive() and not thread.name.startswith("Trio")
    }
    left |= _children() - children
    assert not left, f"left behind: {left}"


def _children() -> set[int]:
    """The child processes of this one, where the system tells (Linux)."""
    found: set[int] = set()
    for path in Path("/proc/self/task").glob("*/children"):
        with suppress(FileNotFoundError):  # a thread that has just ended
            found.update(map(int, path.read_text().split()))
    return found


class Nodes:
    """Opens nodes of one cluster on loopback, each in a task of its own, without mDNS."""

    def __init__(self, nursery: trio.Nursery, home: Path) -> None:
        self.home = home
        self._nursery = nursery
        self._open: dict[Node, tuple[trio.Event, trio.Event]] = {}

    async def open(self, name: str, **options: Any) -> Node:
        """Open a node; it finds the others through the runtime folder."""
        settings = {"mdns": False, "host": "127.0.0.1", "home": self.home, **options}
        node: Node = await self._nursery.start(self._run, name, settings)
        return node

    async def open_all(self, *names: str) -> list[Node]:
        """Open several nodes, and wait until each counts all of them."""
        opened = [await self.open(name) for name in names]
        with trio.fail_after(10):
            for node in opened:
                await node.wait_for_members(len(self._open))
        return opened

    async def close(self, node: Node) -> None:
        """Leave the node's block, and wait until it has closed."""
        stop, closed = self._open.pop(node)
        stop.set()
        await closed.wait()

    async def _run(
        self, name: str, settings: dict[str, Any], *, task_status: trio.TaskStatus[Node]
    ) -> None:
        stop, closed = trio.Event(), trio.Event()
        try:
            async with open_node(name, **settings) as node:
                self._open[node] = (stop, closed)
                task_status.started(node)
                await stop.wait()
        finally:
            closed.set()


@pytest.fixture
async def nodes(nursery: trio.Nursery, tmp_path: Path) -> Nodes:
    """Nodes that are closed when the test ends."""
    return Nodes(nursery, tmp_path / "home")
