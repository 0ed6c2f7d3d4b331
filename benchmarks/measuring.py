"""How a side written in Python does a workload: one implementation for all of them.

A side says how it calls, sends and counts (`Side`); the loops and the clock are here, so no side
is measured with a kinder loop than another.  The loops are `async` functions whatever the side
runs on: Trio, asyncio, or (`drive`) plain threads, whose awaitables never suspend.

A side's module is a program of two commands:

    python -m benchmarks.sides.NAME serve FOLDER            prints {"pid": ..., ...} once ready
    python -m benchmarks.sides.NAME run READY KIND SECONDS WIDTH    prints the figures

The server stays until its standard input closes, so it cannot outlive the program that began it.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from statistics import median, quantiles
from typing import Any, Protocol

from benchmarks.workloads import LARGE_BYTES, PAYLOAD_BYTES, Kind

PAYLOAD = b"x" * PAYLOAD_BYTES
LARGE = b"x" * LARGE_BYTES
# How many messages go out between two looks at the clock.
BATCH = 64
WARM_UP = 0.2  # of the timed part

Figures = dict[str, float]
Ready = dict[str, Any]
Job = Callable[[], Awaitable[None]]


class Side(Protocol):
    """One side's own way to do things.  `server_pid` is the receiving process."""

    server_pid: int

    async def call(self, payload: bytes) -> object:
        """A request and its answer, the payload both ways."""

    async def send(self, payload: bytes) -> object:
        """A message to the counting receiver."""

    async def reset(self) -> None:
        """Let the receiver count from zero."""

    async def received(self, count: int) -> float:
        """Wait until the receiver has `count` messages; its seconds from the first to that."""

    async def together(self, *jobs: Job) -> None:
        """Run them all at once, to the end."""


Connect = Callable[[Ready], AbstractAsyncContextManager[Side]]
Special = Callable[[Ready, int, float], Awaitable[Figures]]


# -- what Linux knows of a process ----------------------------------------------------------------


def cpu_seconds(pid: int) -> float:
    """User and system time of a process so far, in the kernel's steps of 10 ms."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def resident_bytes(pid: int) -> int:
    """Memory of a process that is in RAM now."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


class CpuMeter:
    """CPU time that this process and the server take from now on."""

    def __init__(self, server_pid: int) -> None:
        self._pids = (os.getpid(), server_pid)
        self._before = self._now()

    def _now(self) -> float:
        return sum(cpu_seconds(pid) for pid in self._pids)

    def us_per(self, items: int) -> float:
        """Microseconds for each of so many items."""
        return round((self._now() - self._before) / items * 1e6, 2)


# -- the workloads --------------------------------------------------------------------------------


def spread(samples: list[float]) -> Figures:
    """Median and 99th percentile of times in seconds, as microseconds."""
    if len(samples) == 1:
        samples = samples * 2
    return {
        "p50_us": round(median(samples) * 1e6, 1),
        "p99_us": round(quantiles(samples, n=100, method="inclusive")[98] * 1e6, 1),
    }


async def timed_calls(side: Side, seconds: float) -> list[float]:
    """Calls one after the other for so long: the time of each."""
    samples = []
    now = time.perf_counter()
    end = now + seconds
    while now < end:
        await side.call(PAYLOAD)
        started, now = now, time.perf_counter()
        samples.append(now - started)
    return samples


async def call(side: Side, seconds: float, _: int) -> Figures:
    await timed_calls(side, seconds * WARM_UP)
    meter = CpuMeter(side.server_pid)
    samples = await timed_calls(side, seconds)
    return spread(samples) | {"cpu_us": meter.us_per(len(samples))}


async def one_way(side: Side, seconds: float, width: int) -> Figures:
    sent = 0

    async def sender() -> None:
        nonlocal sent
        mine = 0
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            for _ in range(BATCH):
                await side.send(PAYLOAD)
            mine += BATCH
        sent += mine

    await timed_calls(side, seconds * WARM_UP)
    await side.reset()
    meter = CpuMeter(side.server_pid)
    await side.together(*[sender] * width)
    took = await side.received(sent)
    return {"messages_per_s": round(sent / took), "cpu_us": meter.us_per(sent)}


async def calls(side: Side, seconds: float, width: int) -> Figures:
    done = 0

    async def caller() -> None:
        nonlocal done
        mine = 0
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            await side.call(PAYLOAD)
            mine += 1
        done += mine

    await timed_calls(side, seconds * WARM_UP)
    meter = CpuMeter(side.server_pid)
    started = time.perf_counter()
    await side.together(*[caller] * width)
    took = time.perf_counter() - started
    return {"calls_per_s": round(done / took), "cpu_us": meter.us_per(done)}


async def large(side: Side, seconds: float, _: int) -> Figures:
    await timed_calls(side, seconds * WARM_UP / 4)
    await side.reset()
    meter = CpuMeter(side.server_pid)
    await side.send(PAYLOAD)  # starts the receiver's clock
    sent = 0
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or not sent:
        await side.send(LARGE)
        sent += 1
    took = await side.received(sent + 1)
    return {
        "mb_per_s": round(sent * LARGE_BYTES / took / 1e6, 1),
        "cpu_us": meter.us_per(sent),
    }


async def flood(side: Side, seconds: float, _: int) -> Figures:
    over = False
    samples: list[float] = []

    async def flooder() -> None:
        while not over:
            await side.send(LARGE)

    async def caller() -> None:
        nonlocal over
        await timed_calls(side, seconds * WARM_UP)
        samples.extend(await timed_calls(side, seconds))
        over = True

    await side.together(flooder, caller)
    return spread(samples) | {"answered": len(samples)}


async def dial(connect: Connect, ready: Ready, again: int) -> Figures:
    """Time to the first answer, on a fresh connection each time."""
    times = []
    for _ in range(1 + again):
        started = time.perf_counter()
        async with connect(ready) as side:
            await side.call(PAYLOAD)
            times.append(time.perf_counter() - started)
    return dial_figures(times)


def dial_figures(times: list[float]) -> Figures:
    return {
        "first_ms": round(times[0] * 1e3, 2),
        "again_ms": round(median(times[1:]) * 1e3, 2),
    }


_LOOPS: dict[Kind, Callable[[Side, float, int], Awaitable[Figures]]] = {
    Kind.CALL: call,
    Kind.ONE_WAY: one_way,
    Kind.CALLS: calls,
    Kind.LARGE: large,
    Kind.FLOOD: flood,
}


# -- a side's program -----------------------------------------------------------------------------


def announce(**facts: Any) -> None:
    """Tell whoever started this server that it is ready, and how to reach it."""
    print(json.dumps({"pid": os.getpid()} | facts), flush=True)  # noqa: T201


def wait_for_end() -> None:
    """Block until standard input closes."""
    sys.stdin.buffer.read()


def drive(function: Callable[..., Coroutine[Any, Any, Any]], *args: Any) -> Any:
    """Run an `async` function that never suspends: that of a side which blocks instead."""
    try:
        function(*args).send(None)
    except StopIteration as done:
        return done.value
    raise RuntimeError("a blocking side must not suspend")


async def in_threads(*jobs: Job) -> None:
    """`Side.together` for a side which blocks."""
    failures: list[BaseException] = []

    async def run(job: Job) -> None:
        try:
            await job()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=drive, args=(run, job)) for job in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]


class Counter:
    """A counting receiver for sides that have no process of their own for it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.reset()

    def reset(self) -> None:
        self._count = 0
        self._started = self._latest = 0.0

    def add(self, _: object = None) -> None:
        now = time.perf_counter()
        with self._lock:
            if self._count == 0:
                self._started = now
            self._count += 1
            self._latest = now

    def took(self, count: int) -> float:
        """Seconds from the first message to the latest, or -1.0 until all `count` are there."""
        return self._latest - self._started if self._count >= count else -1.0


def main(
    run: Callable[..., Any],
    serve: Callable[[Path], Any],
    connect: Connect,
    special: dict[Kind, Special] | None = None,
) -> None:
    """The program of a Python side: `run` is `trio.run`, `asyncio_run` or `drive`."""
    match sys.argv[1:]:
        case ["serve", folder]:
            run(serve, Path(folder))
        case ["run", ready, kind, seconds, width]:
            figures = run(
                _measure, connect, special or {}, json.loads(ready), Kind(kind), float(seconds),
                int(width),
            )  # fmt: skip
            print(json.dumps(figures), flush=True)  # noqa: T201
        case _:
            sys.exit("usage: serve FOLDER | run READY KIND SECONDS WIDTH")


async def _measure(
    connect: Connect,
    special: dict[Kind, Special],
    ready: Ready,
    kind: Kind,
    seconds: float,
    width: int,
) -> Figures:
    gc.collect()
    gc.freeze()  # what the imports made is not the workload's to walk through
    if kind in special:
        return await special[kind](ready, width, seconds)
    if kind is Kind.DIAL:
        return await dial(connect, ready, width)
    async with connect(ready) as side:
        return await _LOOPS[kind](side, seconds, width)
