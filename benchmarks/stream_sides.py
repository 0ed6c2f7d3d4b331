"""Two programs with streams between them: over a cluster's link, or `trio.SSLStream` on TCP.

    python -m benchmarks.stream_sides serve OURS|BARE FOLDER     prints {"pid": ..., ...} once ready
    python -m benchmarks.stream_sides drive OURS|BARE READY      reads jobs, prints figures, by line

Both sides run this same code on Trio's stream interface, with the same certificates and TLS
settings, and differ in `connect` and `listen` alone.  The first byte of a stream says what its
server does with it.  What is sent is counted where it arrives, so nothing that a buffer holds
counts as sent.
"""

from __future__ import annotations

import gc
import json
import os
import ssl
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import trio

import steinadler
from benchmarks.measuring import (
    BATCH,
    PAYLOAD,
    Figures,
    announce,
    cpu_seconds,
    resident_bytes,
    spread,
    wait_for_end,
)
from benchmarks.sides.ours import echo, sink
from steinadler.identity import NODE
from steinadler.security.home import open_home

OURS, BARE = "ours", "bare"
SERVICE = "bench"
# What one `send_all` is given, and what one `receive_some` asks for.
CHUNK_BYTES = 65_536
SMALL_BYTES = 1024
# What a stream is for.
SINK, ECHO, HOLD, STALL, TALLY, SETTLE = b"S", b"E", b"H", b"X", b"T", b"G"  # T: how many sinks
RELEASE = b"R"  # of those that stall

Connect = Callable[[], Awaitable[trio.abc.Stream]]


# -- the server -----------------------------------------------------------------------------------


class Server:
    """What every stream is answered with."""

    def __init__(self) -> None:
        # When each sink of one job had its first bytes; how many it had at its end, and when.
        self._began: list[float] = []
        self._counted: list[tuple[int, float]] = []
        self._one_more = trio.Event()
        self._released = trio.Event()

    async def handle(self, stream: trio.abc.Stream) -> None:
        """Serve one stream to its end."""
        match await stream.receive_some(1):
            case b"S":
                await self._count(stream)
            case b"E":
                while await _echo(stream):
                    pass
            case b"H":
                await stream.receive_some(1)  # its opener says nothing until it closes
            case b"X":
                await self._released.wait()
            case b"R":
                self._released.set()
                self._released = trio.Event()
                await self._tell(stream, {})
            case b"T":
                await self._tally(stream, int.from_bytes(await stream.receive_some(1)))
            case b"G":
                gc.collect()
                await self._tell(stream, {"resident_bytes": resident_bytes(os.getpid())})
        await stream.aclose()

    async def _count(self, stream: trio.abc.Stream) -> None:
        count = len(await stream.receive_some(CHUNK_BYTES))
        self._began.append(time.perf_counter())
        while data := await stream.receive_some(CHUNK_BYTES):
            count += len(data)
        self._counted.append((count, time.perf_counter()))
        self._one_more.set()

    async def _tally(self, stream: trio.abc.Stream, sinks: int) -> None:
        """What so many sinks had, when all of them have ended; the next job begins at nothing."""
        while len(self._counted) < sinks:
            self._one_more = trio.Event()
            await self._one_more.wait()
        counts = [count for count, _ in self._counted]
        seconds = max(ended for _, ended in self._counted) - min(self._began)
        self._began, self._counted = [], []
        await self._tell(stream, {"counts": counts, "seconds": seconds})

    async def _tell(self, stream: trio.abc.Stream, facts: dict[str, Any]) -> None:
        await stream.send_all(json.dumps(facts).encode() + b"\n")


async def _echo(stream: trio.abc.Stream) -> bool:
    # A function of its own: while it waits again, what it had last takes no memory.
    data = await stream.receive_some(CHUNK_BYTES)
    if data:
        await stream.send_all(data)
    return bool(data)


async def objects(me: steinadler.Process) -> None:
    """Counts what comes on a channel whose end is in a call; a second call waits for so many."""
    took = 0.0
    async for call in me:
        if isinstance(call.request, steinadler.SourceRef):
            channel = await me.node.claim(call.request)
            call.reply(None)
            count, started = 0, 0.0
            async for _ in channel:
                started = started or time.perf_counter()
                count += 1
            took = time.perf_counter() - started
        else:
            call.reply((count, took))


async def serve(kind: str, folder: Path) -> None:
    server = Server()
    async with AsyncExitStack() as stack:
        if kind == OURS:
            node = await stack.enter_async_context(
                steinadler.open_node("server", host="127.0.0.1", home=folder, mdns=False)
            )
            node.spawn(echo, name="echo")
            node.spawn(sink, name="sink")
            node.spawn(objects, name="objects")
            # Benchmarks open many at once: nothing of that is to be refused.
            listener: trio.abc.Listener[Any] = node.listen(SERVICE, backlog=20_000)
            address = str(node.addresses[0])
        else:
            listener = (
                await trio.open_ssl_over_tcp_listeners(
                    0, contexts(folder)[0], host="127.0.0.1", backlog=4096
                )
            )[0]
            port = listener.transport_listener.socket.getsockname()[1]  # type: ignore[attr-defined]
            address = f"127.0.0.1:{port}"
        nursery = await stack.enter_async_context(trio.open_nursery())
        nursery.start_soon(trio.serve_listeners, server.handle, [listener])
        announce(home=str(folder), address=address)
        await trio.to_thread.run_sync(wait_for_end)
        nursery.cancel_scope.cancel()


def contexts(folder: Path) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """The server's and the client's TLS settings, as nodes of a cluster have them."""
    home = open_home(folder)
    credentials = home.credentials(home.default_cluster(), NODE, "bare")
    return credentials.server_context(), credentials.client_context()


# -- the client -----------------------------------------------------------------------------------


@asynccontextmanager
async def connecting(
    kind: str, ready: dict[str, Any]
) -> AsyncIterator[tuple[Connect, steinadler.Node | None]]:
    """How to open a stream to the server, and the node that does when there is one."""
    home = Path(ready["home"])
    if kind == OURS:
        async with steinadler.open_node(
            "client", host="127.0.0.1", home=home, seeds=[ready["address"]], mdns=False
        ) as node:
            await node.wait_for_member("server")
            yield lambda: node.connect(f"{SERVICE}@server"), node
    else:
        context = contexts(home)[1]
        host, _, port = ready["address"].rpartition(":")

        async def connect() -> trio.abc.Stream:
            stream = trio.SSLStream(await trio.open_tcp_stream(host, int(port)), context)
            await stream.do_handshake()
            return stream

        yield connect, None


class Driver:
    """The jobs.  Each returns its figures."""

    def __init__(self, connect: Connect, node: steinadler.Node | None, server_pid: int) -> None:
        self._connect = connect
        self._maybe_node = node
        self._pids = (os.getpid(), server_pid)
        self._chunk = os.urandom(CHUNK_BYTES)
        self._held: list[trio.abc.Stream] = []

    @property
    def _node(self) -> steinadler.Node:
        assert self._maybe_node is not None
        return self._maybe_node

    def _cpu(self) -> float:
        return sum(map(cpu_seconds, self._pids))

    async def _open(self, kind: bytes) -> trio.abc.Stream:
        stream = await self._connect()
        await stream.send_all(kind)
        return stream

    async def _use(self) -> trio.abc.Stream:
        """Open one, send 1 KB, receive it."""
        stream = await self._connect()
        await stream.send_all(ECHO + bytes(SMALL_BYTES))
        left = SMALL_BYTES
        while left:
            left -= len(await stream.receive_some(left))
        return stream

    async def _ask(self, kind: bytes) -> dict[str, Any]:
        stream = await self._open(kind)
        answer = b""
        while not answer.endswith(b"\n"):
            answer += await stream.receive_some(CHUNK_BYTES)
        await stream.aclose()
        facts: dict[str, Any] = json.loads(answer)
        return facts

    async def _tally(self, streams: int) -> dict[str, Any]:
        """What sinks counted, once all of them have seen the end."""
        return await self._ask(TALLY + bytes((streams,)))

    async def _write(self, streams: int, seconds: float) -> None:
        """Open so many streams, then send all they can for so long."""
        end = 0.0

        async def write(stream: trio.abc.Stream) -> None:
            while time.perf_counter() < end:
                await stream.send_all(self._chunk)
            await stream.aclose()

        opened = [await self._open(SINK) for _ in range(streams)]
        end = time.perf_counter() + seconds
        async with trio.open_nursery() as nursery:
            for stream in opened:
                nursery.start_soon(write, stream)

    # -- jobs ---------------------------------------------------------------------------------

    async def throughput(self, streams: int, seconds: float) -> Figures:
        """So many streams at once, each sending all it can for so long."""
        cpu = self._cpu()
        await self._write(streams, seconds)
        told = await self._tally(streams)
        total = sum(told["counts"])
        return {
            "mb_per_s": total / told["seconds"] / 1e6,
            "slowest_of_mean": min(told["counts"]) * streams / total,
            "cpu_s_per_gb": (self._cpu() - cpu) / total * 1e9,
        }

    async def calls(self, streams: int, seconds: float) -> Figures:
        """Small calls, one after the other, while so many streams send all they can."""
        samples = []
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._write, streams, seconds * 1.5)
            await trio.sleep(seconds * 0.25 if streams else 0)  # until the streams are at speed
            now = time.perf_counter()
            end = now + seconds
            while now < end:
                await self._node.call("echo@server", PAYLOAD)
                began, now = now, time.perf_counter()
                samples.append(now - began)
        total = 0
        if streams:
            told = await self._tally(streams)
            total = sum(told["counts"]) / told["seconds"]
        return spread(samples) | {"answered": len(samples), "mb_per_s": total / 1e6}

    async def short_lived(self, width: int, seconds: float) -> Figures:
        """Open, send 1 KB, receive 1 KB, close; so many tasks at it at once."""
        done = 0
        end = time.perf_counter() + seconds

        async def again_and_again() -> None:
            nonlocal done
            while time.perf_counter() < end:
                await (await self._use()).aclose()
                done += 1

        cpu, started = self._cpu(), time.perf_counter()
        async with trio.open_nursery() as nursery:
            for _ in range(width):
                nursery.start_soon(again_and_again)
        took = time.perf_counter() - started
        return {"streams_per_s": done / took, "cpu_us": (self._cpu() - cpu) / done * 1e6}

    async def _resident(self) -> tuple[int, int]:
        gc.collect()
        facts = await self._ask(SETTLE)
        gc.collect()
        return resident_bytes(os.getpid()), facts["resident_bytes"]

    async def idle(self, streams: int, used: bool) -> Figures:
        """Growth of both processes by so many streams that are open and say nothing, or nothing
        more.  Each is served by a task that waits to receive; they stay open.
        """
        here, there = await self._resident()
        limit = trio.CapacityLimiter(64)

        async def hold() -> None:
            async with limit:
                self._held.append(await (self._use() if used else self._open(HOLD)))

        async with trio.open_nursery() as nursery:
            for _ in range(streams):
                nursery.start_soon(hold)
        here_now, there_now = await self._resident()
        return {
            "client_kib": (here_now - here) / streams / 1024,
            "server_kib": (there_now - there) / streams / 1024,
            "mib": (here_now - here + there_now - there) / 2**20,
        }

    async def stalled(self, streams: int, seconds: float, stalled: int) -> Figures:
        """Throughput of some streams while readers of others have stopped, before, and after."""
        before = await self.throughput(streams, seconds)
        here, there = await self._resident()
        sent = 0

        async def write_in_vain() -> None:
            nonlocal sent
            async with await self._open(STALL) as stream:
                while True:
                    await stream.send_all(self._chunk[:SMALL_BYTES])
                    sent += SMALL_BYTES

        async with trio.open_nursery() as nursery:
            for _ in range(stalled):
                nursery.start_soon(write_in_vain)
            so_far = -1
            while sent != so_far:  # until all of them wait
                so_far = sent
                await trio.sleep(0.1)
            here_now, there_now = await self._resident()
            during = await self.throughput(streams, seconds)
            nursery.cancel_scope.cancel()
        await self._ask(RELEASE)
        after = await self.throughput(streams, seconds)
        otherwise = (before["mb_per_s"] + after["mb_per_s"]) / 2
        return {
            "otherwise_mb_per_s": otherwise,
            "during_mb_per_s": during["mb_per_s"],
            "during_of_otherwise": during["mb_per_s"] / otherwise,
            "in_flight_kib": sent / stalled / 1024,
            "client_growth_kib": (here_now - here) / stalled / 1024,
            "server_growth_kib": (there_now - there) / stalled / 1024,
        }

    async def channel(self, seconds: float) -> Figures:
        """Small objects through one channel."""
        sending, receiving = self._node.open_channel()
        await self._node.call("objects@server", receiving.ref())
        cpu, sent = self._cpu(), 0
        end = time.perf_counter() + seconds
        async with sending:
            while time.perf_counter() < end:
                for _ in range(BATCH):
                    await sending.send(PAYLOAD)
                sent += BATCH
        count, took = await self._node.call("objects@server", None)
        assert count == sent
        return {"objects_per_s": sent / took, "cpu_us": (self._cpu() - cpu) / sent * 1e6}

    async def messages(self, seconds: float) -> Figures:
        """Small messages to one process, as `channel`."""
        await self._node.call("sink@server", None)
        cpu, sent = self._cpu(), 0
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            for _ in range(BATCH):
                await self._node.send("sink@server", PAYLOAD)
            sent += BATCH
        took = await self._node.call("sink@server", sent)
        return {"objects_per_s": sent / took, "cpu_us": (self._cpu() - cpu) / sent * 1e6}


async def drive(kind: str, ready: dict[str, Any]) -> None:
    async with AsyncExitStack() as stack:
        connect, node = await stack.enter_async_context(connecting(kind, ready))
        driver = Driver(connect, node, ready["pid"])
        gc.collect()
        gc.freeze()  # what the imports made is not the workload's to walk through
        announce()
        while line := await trio.to_thread.run_sync(sys.stdin.readline):
            job = json.loads(line)
            figures = await getattr(driver, job.pop("do"))(**job)
            print(json.dumps(figures), flush=True)  # noqa: T201


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["serve", kind, folder]:
            trio.run(serve, kind, Path(folder))
        case ["drive", kind, ready]:
            trio.run(drive, kind, json.loads(ready))
        case _:
            sys.exit("usage: serve ours|bare FOLDER | drive ours|bare READY")
