"""Processes and watchers that the simulated tests share."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import trio

from steinadler import Call, Node, Process
from steinadler.node import NodeDown, NodeUp
from steinadler.testing import SimulatedCluster


async def echo(me: Process) -> None:
    async for message in me:
        if isinstance(message, Call):
            message.reply(message.request)


async def collect(me: Process, into: list[Any]) -> None:
    async for message in me:
        into.append(message)  # noqa: PERF401 - it never ends


async def idle(me: Process) -> None:
    await trio.sleep_forever()


async def meet(cluster: SimulatedCluster, *names: str) -> tuple[Node, ...]:
    """Start nodes, and wait until each is connected to each."""
    nodes = await cluster.start(*names)
    with trio.fail_after(10):
        await cluster.agreed()
        for node in nodes:
            for other in names:
                await node.call(f"$echo@{other}", 1)
    return nodes


async def until(condition: Callable[[], bool], within_s: float) -> None:
    """Wait until `condition` holds; it is looked at every 10 ms."""
    with trio.fail_after(within_s):
        while not condition():  # noqa: ASYNC110 - nobody says when it does
            await trio.sleep(0.01)


@asynccontextmanager
async def events_of(*nodes: Node) -> AsyncIterator[dict[str, list[tuple[float, str, str]]]]:
    """(time, "up" or "down", name) as each node tells it, for the length of the block."""
    told: dict[str, list[tuple[float, str, str]]] = {node.name: [] for node in nodes}

    async def listen(node: Node, *, task_status: trio.TaskStatus[None]) -> None:
        events = node.events()
        task_status.started()
        async for event in events:
            match event:
                case NodeUp(member):
                    told[node.name].append((trio.current_time(), "up", member.node.name))
                case NodeDown(member):
                    told[node.name].append((trio.current_time(), "down", member.node.name))

    async with trio.open_nursery() as nursery:
        for node in nodes:
            await nursery.start(listen, node)
        yield told
        nursery.cancel_scope.cancel()
