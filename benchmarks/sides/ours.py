"""Steinadler's side: a node that serves, and a node that calls it."""

from __future__ import annotations

import gc
import os
import shutil
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import trio

import steinadler
from benchmarks.measuring import (
    PAYLOAD,
    Figures,
    Job,
    Ready,
    announce,
    dial_figures,
    main,
    resident_bytes,
    wait_for_end,
)
from benchmarks.sides import entities
from benchmarks.workloads import Kind
from steinadler.discovery import Candidate, Source
from steinadler.discovery.source import Found

# -- the server's processes -----------------------------------------------------------------------


async def echo(me: steinadler.Process) -> None:
    async for call in me:
        call.reply(call.request)


async def sink(me: steinadler.Process) -> None:
    """Counts messages.  A call with None resets; one with n is answered at the n-th message."""
    count, wanted, started = 0, -1, 0.0
    waiting: Any = None
    async for message in me:
        if not isinstance(message, steinadler.Call):
            if count == 0:
                started = time.perf_counter()
            count += 1
            if count == wanted:
                waiting.reply(time.perf_counter() - started)
        elif message.request is None:
            count, wanted = 0, -1
            message.reply()
        elif count >= message.request:
            message.reply(time.perf_counter() - started)
        else:
            wanted, waiting = message.request, message


async def slow(me: steinadler.Process, taken: list[int]) -> None:
    """Takes 10 messages, then 10 ms of rest."""
    while True:
        for _ in range(10):
            await me.receive()
            taken[0] += 1
        await trio.sleep(0.01)


async def tally(me: steinadler.Process, taken: list[int]) -> None:
    """Answers how many messages `slow` has taken, and this process's resident bytes."""
    async for call in me:
        gc.collect()
        call.reply((taken[0], resident_bytes(os.getpid())))


async def serve(folder: Path) -> None:
    taken = [0]
    async with steinadler.open_node("server", host="127.0.0.1", home=folder, mdns=False) as node:
        node.spawn(echo, name="echo")
        node.spawn(sink, name="sink")
        node.spawn(slow, taken, name="slow")
        node.spawn(tally, taken, name="tally")
        announce(home=str(folder), address=str(node.addresses[0]))
        await trio.to_thread.run_sync(wait_for_end)


# -- the client -----------------------------------------------------------------------------------


class Client:
    """`Side` on a node."""

    def __init__(self, node: steinadler.Node, server_pid: int) -> None:
        self.node = node
        self.server_pid = server_pid

    async def call(self, payload: bytes) -> object:
        return await self.node.call("echo@server", payload)

    async def send(self, payload: bytes) -> None:
        await self.node.send("sink@server", payload)

    async def reset(self) -> None:
        await self.node.call("sink@server", None)

    async def received(self, count: int) -> float:
        return float(await self.node.call("sink@server", count))

    async def together(self, *jobs: Job) -> None:
        async with trio.open_nursery() as nursery:
            for job in jobs:
                nursery.start_soon(job)


@asynccontextmanager
async def connect(ready: Ready) -> AsyncIterator[Client]:
    async with steinadler.open_node(
        "client",
        host="127.0.0.1",
        home=Path(ready["home"]),
        seeds=[ready["address"]],
        mdns=False,
    ) as node:
        await node.wait_for_member("server")
        yield Client(node, ready["pid"])


class OnDemand(Source):
    """A source that knows the server's address, and tells it when asked to."""

    def __init__(self, address: str) -> None:
        self._address = steinadler.Address(*_host_and_port(address))
        self.asked = trio.Event()

    async def run(
        self, found: Found, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        task_status.started()
        await self.asked.wait()
        found(Candidate(self._address, "benchmark"))


def _host_and_port(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    return host, int(port)


async def dial(ready: Ready, again: int, _: float) -> Figures:
    """As with Erlang's `net_kernel:connect_node`: the node is up, and knows nobody yet."""
    times = []
    with tempfile.TemporaryDirectory() as folder:
        # A home of its own: the server's runtime folder would tell the address too early.
        shutil.copytree(Path(ready["home"]) / "clusters", Path(folder) / "clusters")
        for number in range(1 + again):
            source = OnDemand(ready["address"])
            async with steinadler.open_node(
                f"client-{number}",
                host="127.0.0.1",
                home=Path(folder),
                mdns=False,
                sources=[source],
            ) as node:
                await trio.sleep(0.05)  # let the node's tasks come to rest
                started = time.perf_counter()
                source.asked.set()
                await node.wait_for_member("server")
                await node.call("echo@server", PAYLOAD)
                times.append(time.perf_counter() - started)
    return dial_figures(times)


async def idle(me: steinadler.Process) -> None:
    await me.receive()


async def process_memory(ready: Ready, width: int, seconds: float) -> Figures:
    """Spawn many, and divide by how many; the node is alone, for others change nothing."""
    with tempfile.TemporaryDirectory() as folder:
        async with steinadler.open_node(
            "alone", host="127.0.0.1", home=Path(folder), mdns=False
        ) as node:
            node.spawn(idle)
            await trio.testing.wait_all_tasks_blocked()
            gc.collect()
            before = resident_bytes(os.getpid())
            for _ in range(width):
                node.spawn(idle)
            await trio.testing.wait_all_tasks_blocked()
            gc.collect()
            return {"bytes": round((resident_bytes(os.getpid()) - before) / width)}


async def connection_memory(ready: Ready, width: int, _: float) -> Figures:
    """Growth of the server while many observers connect to it from this process, per observer.

    Both ends of a connection are built alike, so one end is what is counted; the observers'
    own nodes, in this process, are not.
    """
    async with connect(ready) as client, AsyncExitStack() as stack:

        async def observe(number: int) -> None:
            node = await stack.enter_async_context(
                steinadler.open_node(
                    f"observer-{number}",
                    home=Path(ready["home"]),
                    seeds=[ready["address"]],
                    mdns=False,
                    observer=True,
                )
            )
            await node.wait_for_member("server")
            await node.call("echo@server", PAYLOAD)

        async def resident() -> int:
            _, size = await client.node.call("tally@server", None)
            return int(size)

        first = max(1, width // 10)  # what the first few make is not each one's share
        for number in range(first):
            await observe(number)
        before = await resident()
        for number in range(first, first + width):
            await observe(number)
        return {"bytes": round((await resident() - before) / width)}


async def slow_receiver(ready: Ready, _: int, seconds: float) -> Figures:
    async with connect(ready) as client:
        node = client.node
        received_before, server_before = await node.call("tally@server", None)
        gc.collect()
        here_before = resident_bytes(os.getpid())
        sent = 0
        started = time.perf_counter()
        with trio.move_on_after(seconds):
            while True:
                await node.send("slow@server", PAYLOAD)
                sent += 1
        took = time.perf_counter() - started
        here = resident_bytes(os.getpid())
        received, server = await node.call("tally@server", None)
    return {
        "received_per_s": round((received - received_before) / took),
        "sent_per_s": round(sent / took),
        "receiver_growth_kib": round((server - server_before) / 1024),
        "sender_growth_kib": round((here - here_before) / 1024),
    }


if __name__ == "__main__":
    import trio.testing

    main(
        trio.run,
        serve,
        connect,
        {
            Kind.DIAL: dial,
            Kind.PROCESS_MEMORY: process_memory,
            Kind.CONNECTION_MEMORY: connection_memory,
            Kind.SLOW_RECEIVER: slow_receiver,
            Kind.ENTITY_CALLS: entities.calls,
            Kind.ENTITY_WRITES: entities.writes,
            Kind.ENTITY_MEMORY: entities.memory,
        },
    )
