"""Our side of every workload: a server node and a client node, each its own process.

    python -m benchmarks.ours serve HOME
    python -m benchmarks.ours run HOME WORKLOAD

The client prints one JSON object of figures; seconds, microseconds and counts are in the keys.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import trio

import steinadler

PAYLOAD = b"x" * 100
LARGE = b"x" * (8 * 1024 * 1024)
ONE_WAY_MESSAGES = 300_000
CALLS = 30_000

Figures = dict[str, float]


# -- the server's processes -----------------------------------------------------------------------


async def echo(me: steinadler.Process) -> None:
    async for call in me:
        call.reply(call.request)


async def sink(me: steinadler.Process) -> None:
    """Counts messages; a call waits for the n-th and answers with the seconds since the first."""
    count, wanted, started = 0, 0, 0.0
    waiting: steinadler.Call | None = None
    async for message in me:
        if isinstance(message, steinadler.Call):
            count, wanted, waiting = 0, message.request, message
            continue
        if count == 0:
            started = time.perf_counter()
        count += 1
        if waiting is not None and count == wanted:
            waiting.reply(time.perf_counter() - started)
            waiting = None


async def serve(home: Path) -> None:
    async with steinadler.open_node(
        "server", host="127.0.0.1", home=home, mdns=False
    ) as node:
        node.spawn(echo, name="echo")
        node.spawn(sink, name="sink")
        print("ready", flush=True)
        await trio.sleep_forever()


# -- the client's workloads -----------------------------------------------------------------------


def spread(samples: list[float]) -> Figures:
    """Median and 99th percentile of round trips, in microseconds."""
    return {
        "p50_us": round(median(samples) * 1e6, 1),
        "p99_us": round(quantiles(samples, n=100)[98] * 1e6, 1),
    }


async def timed_calls(node: steinadler.Node, count: int) -> list[float]:
    samples = []
    for _ in range(count):
        started = time.perf_counter()
        await node.call("echo@server", PAYLOAD)
        samples.append(time.perf_counter() - started)
    return samples


async def call_sequential(node: steinadler.Node) -> Figures:
    await timed_calls(node, 500)
    return spread(await timed_calls(node, 5_000))


def one_way(senders: int) -> Callable[[steinadler.Node], Awaitable[Figures]]:
    async def workload(node: steinadler.Node) -> Figures:
        took: list[float] = []
        each = ONE_WAY_MESSAGES // senders

        async def send() -> None:
            for _ in range(each):
                await node.send("sink@server", PAYLOAD)

        async def count() -> None:
            took.append(await node.call("sink@server", each * senders))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(count)
            await trio.testing.wait_all_tasks_blocked()
            for _ in range(senders):
                nursery.start_soon(send)
        return {"messages_per_s": round(each * senders / took[0])}

    return workload


def calls(in_flight: int) -> Callable[[steinadler.Node], Awaitable[Figures]]:
    async def workload(node: steinadler.Node) -> Figures:
        each = CALLS // in_flight

        async def caller() -> None:
            for _ in range(each):
                await node.call("echo@server", PAYLOAD)

        started = time.perf_counter()
        async with trio.open_nursery() as nursery:
            for _ in range(in_flight):
                nursery.start_soon(caller)
        return {"calls_per_s": round(each * in_flight / (time.perf_counter() - started))}

    return workload


async def large(node: steinadler.Node) -> Figures:
    count = 40
    took: list[float] = []

    async def wait() -> None:
        took.append(await node.call("sink@server", count + 1))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked()
        await node.send("sink@server", PAYLOAD)  # starts the clock
        for _ in range(count):
            await node.send("sink@server", LARGE)
    return {"mb_per_s": round(count * len(LARGE) / took[0] / 1e6, 1)}


async def call_under_flood(node: steinadler.Node) -> Figures:
    samples: list[float] = []
    async with trio.open_nursery() as nursery:

        async def flood() -> None:
            while True:
                await node.send("sink@server", LARGE)

        nursery.start_soon(flood)
        await timed_calls(node, 20)
        samples = await timed_calls(node, 400)
        nursery.cancel_scope.cancel()
    return spread(samples)


async def dial(_: steinadler.Node, home: Path) -> Figures:
    """From nothing open to the first answer, node set-up excluded from neither side."""
    raise RuntimeError("measured by `measure_dial`")


WORKLOADS: dict[str, Callable[[steinadler.Node], Awaitable[Figures]]] = {
    "call": call_sequential,
    "one-way-1": one_way(1),
    "one-way-16": one_way(16),
    "calls-16": calls(16),
    "calls-128": calls(128),
    "calls-1024": calls(1024),
    "large": large,
    "call-under-flood": call_under_flood,
}


async def run(home: Path, names: list[str]) -> dict[str, Figures]:
    results = {}
    for name in names:
        async with steinadler.open_node(
            "client", host="127.0.0.1", home=home, mdns=False
        ) as node:
            with trio.fail_after(120):
                await node.wait_for_member("server")
                results[name] = await WORKLOADS[name](node)
    return results


def main(arguments: list[str]) -> Any:
    match arguments:
        case ["serve", home]:
            trio.run(serve, Path(home))
        case ["run", home, *names]:
            print(json.dumps(trio.run(run, Path(home), names or list(WORKLOADS))))


if __name__ == "__main__":
    import trio.testing

    main(sys.argv[1:])
