"""Entities, on a node alone: what calls of them cost, and what they take up.

The server that every workload has beside it is idle here: these are calls within one process.
"""

from __future__ import annotations

import gc
import os
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import trio

import steinadler
from benchmarks.measuring import PAYLOAD, Figures, Ready, resident_bytes
from steinadler.entity.behaviour import Active, Behaviour, Turn
from steinadler.entity.store import Store
from steinadler.identity import EntityKey
from steinadler.testing import MemoryStore


class Echo(Behaviour):
    """Answers with the argument, after it wrote what it is told to write."""

    async def activate(self, entity: Active) -> None:
        pass

    async def run(self, entity: Active, turn: Turn) -> Any:
        if turn.method == "write":
            await entity.write({"state": turn.argument})
        return turn.argument

    async def deactivate(self, entity: Active) -> None:
        pass


@asynccontextmanager
async def _host(store: Store | None) -> AsyncIterator[steinadler.Node]:
    with tempfile.TemporaryDirectory() as folder:
        async with steinadler.open_node(
            "alone", host="127.0.0.1", home=Path(folder), mdns=False, store=store
        ) as node:
            node.entities.host("Echo", Echo())
            yield node


async def _rate(node: steinadler.Node, method: str, width: int, seconds: float) -> Figures:
    count = 0

    async def call(key: EntityKey) -> None:
        nonlocal count
        while True:
            await node.entities.call(key, method, PAYLOAD)
            count += 1

    keys = [EntityKey("Echo", str(number)) for number in range(width)]
    for key in keys:
        await node.entities.call(key, "echo", PAYLOAD)
    started = time.perf_counter()
    with trio.move_on_after(seconds):
        async with trio.open_nursery() as nursery:
            for key in keys:
                nursery.start_soon(call, key)
    return {"calls_per_s": round(count / (time.perf_counter() - started))}


async def calls(ready: Ready, width: int, seconds: float) -> Figures:
    async with _host(MemoryStore()) as node:
        return await _rate(node, "echo", width, seconds)


async def writes(ready: Ready, width: int, seconds: float) -> Figures:
    async with _host(None) as node:
        return await _rate(node, "write", width, seconds)


async def memory(ready: Ready, width: int, seconds: float) -> Figures:
    """Activate many, a hundred at a time, and divide by how many."""
    async with _host(MemoryStore()) as node:

        async def activate(numbers: range) -> None:
            for number in numbers:
                await node.entities.call(EntityKey("Echo", f"{number:08}"), "echo", None)

        async def activate_all(first: int, last: int) -> None:
            async with trio.open_nursery() as nursery:
                for lane in range(100):
                    nursery.start_soon(activate, range(first + lane, last, 100))

        warm_up = max(1, width // 10)
        await activate_all(0, warm_up)
        gc.collect()
        before = resident_bytes(os.getpid())
        started = time.perf_counter()
        await activate_all(warm_up, warm_up + width)
        took = time.perf_counter() - started
        gc.collect()
        grown = resident_bytes(os.getpid()) - before
        return {"bytes": round(grown / width), "activations_per_s": round(width / took)}
