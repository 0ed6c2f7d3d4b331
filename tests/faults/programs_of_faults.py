"""What runs in other operating-system processes, as told on their command line.

    python programs_of_faults.py live HOME SEED          bob, who tells alice which life he is
    python programs_of_faults.py receive HOME            bob, with a process that never reads
    python programs_of_faults.py flood HOME WINDOWS STONE_S SINK_S    alice, who pushes at it

Each prints one line of JSON: `live` and `receive` when they are ready, `flood` when it is done.
The former two end with their standard input.
"""

from __future__ import annotations

import gc
import json
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import trio

from steinadler import Call, MailboxFull, Node, NodeDown, Process, open_node

SMALL, LARGE = b"x" * 100, b"x" * 10_000
SENDERS, PUSHERS = 24, 4


def say(facts: dict[str, Any]) -> None:
    """To whoever started this."""
    sys.stdout.write(json.dumps(facts) + "\n")
    sys.stdout.flush()


async def until_left() -> None:
    """Until standard input ends."""
    await trio.to_thread.run_sync(sys.stdin.read, abandon_on_cancel=True)


# -- live ------------------------------------------------------------------------------------------


async def tell(me: Process) -> None:
    """Tells alice all the time which life this is."""
    node = me.node
    assert isinstance(node, Node)
    await node.wait_for_member("alice")
    while True:
        try:
            await me.send("hear@alice", node.id.incarnation)
        except NodeDown:
            await node.wait_for_member("alice")
        await trio.sleep(0.01)


async def collect_messages(me: Process, into: list[Any]) -> None:
    """Keeps messages, and leaves calls unanswered."""
    async for message in me:
        if not isinstance(message, Call):
            into.append(message)  # noqa: PERF401 - it never ends


async def answer(me: Process, reply: Callable[[], Any]) -> None:
    """Answers every call alike."""
    async for message in me:
        if isinstance(message, Call):
            message.reply(reply())


async def live(home: Path, seed: str) -> None:
    got: list[Any] = []
    options: dict[str, Any] = {"host": "127.0.0.1", "mdns": False, "home": home}
    async with open_node("bob", seeds=[seed], **options) as node:
        node.spawn(tell)
        node.spawn(collect_messages, got, name="target")
        node.spawn(answer, lambda: got, name="told")
        say({"incarnation": node.id.incarnation, "address": str(node.addresses[0])})
        await until_left()


# -- receive and flood -----------------------------------------------------------------------------


def resident_mib() -> float:
    """The memory of this process (Linux)."""
    gc.collect()
    with open("/proc/self/status") as file:
        kib = next(line.split()[1] for line in file if line.startswith("VmRSS"))
    return int(kib) / 1024


async def never_read(me: Process) -> None:
    await trio.sleep_forever()


async def read(me: Process) -> None:
    async for _ in me:
        pass


async def receive(home: Path) -> None:
    async with open_node("bob", host="127.0.0.1", mdns=False, home=home) as node:
        node.spawn(never_read, name="stone")
        node.spawn(read, name="sink")
        node.spawn(answer, resident_mib, name="memory")
        say({"ready": True})
        await until_left()


class Flood:
    """Senders that push at one process as hard as they can, and a caller beside them."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.sent = {"stone": 0, "sink": 0}
        self.refused = {"stone": 0, "sink": 0}

    async def window(self, name: str, seconds: float) -> list[float]:
        """Push for so long; return how long each call to another process took meanwhile."""
        times: list[float] = []
        with trio.move_on_after(seconds):
            async with trio.open_nursery() as nursery:
                for number in range(SENDERS):
                    nursery.start_soon(self._send, name, LARGE if number % 8 == 0 else SMALL)
                for _ in range(PUSHERS):
                    nursery.start_soon(self._push, name)
                while True:
                    started = trio.current_time()
                    await self.node.call("$echo@bob", 1)
                    times.append(trio.current_time() - started)
        await self.node.call("$echo@bob", 1)  # what went out before it has arrived
        return times

    async def _send(self, name: str, message: bytes) -> None:
        while True:
            await self.node.send(f"{name}@bob", message)
            self.sent[name] += 1

    async def _push(self, name: str) -> None:
        while True:
            try:
                self.node.send_nowait(f"{name}@bob", SMALL)
                self.sent[name] += 1
            except MailboxFull:
                self.refused[name] += 1
            await trio.lowlevel.checkpoint()


def p99(times: list[float]) -> float:
    return sorted(times)[int(len(times) * 0.99)]


async def flood(home: Path, windows: int, stone_s: float, sink_s: float) -> None:
    async with open_node("alice", host="127.0.0.1", mdns=False, home=home) as node:
        await node.wait_for_member("bob")
        flood = Flood(node)
        # Once each, so that what a process takes for any load at all is not taken for growth.
        await flood.window("sink", sink_s)
        before = resident_mib(), await node.call("memory@bob", None)
        found: dict[str, list[float]] = {"stone": [], "sink": []}
        most = list(before)
        for _ in range(windows):
            for name, seconds in (("sink", sink_s), ("stone", stone_s)):
                found[name].append(p99(await flood.window(name, seconds)))
                now = resident_mib(), await node.call("memory@bob", None)
                most = [max(pair) for pair in zip(most, now, strict=True)]
        say(
            {
                "sent": flood.sent,
                "refused": flood.refused,
                "p99_ms": {name: statistics.median(times) * 1000 for name, times in found.items()},
                "windows_ms": {
                    name: [round(time * 1000, 2) for time in times] for name, times in found.items()
                },
                "growth_mib": [now - then for now, then in zip(most, before, strict=True)],
                "resident_mib": most,
                "members": len(node.members()),
            }
        )


def main(what: str, home: str, *rest: str) -> None:
    match what, rest:
        case "live", (seed,):
            trio.run(live, Path(home), seed)
        case "receive", ():
            trio.run(receive, Path(home))
        case "flood", (windows, stone_s, sink_s):
            trio.run(flood, Path(home), int(windows), float(stone_s), float(sink_s))


if __name__ == "__main__":
    main(*sys.argv[1:])
