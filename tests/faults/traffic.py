"""Steady traffic between two nodes, and the account of what became of each message.

Every process of one node sends to two of the other, the one by its ProcessId and the other by its
name, so that each message's fate is known by (sender, receiver, number) and both kinds of channel
are at work.  Most messages are small; now and then one travels in fragments.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from itertools import pairwise

import trio

from steinadler import Config, MailboxFull, Node, Process, ProcessId, WireSettings

TICK_S = 0.02
SMALL_BYTES, LARGE_BYTES, ONE_LARGE_IN = 100, 20_000, 200
HOLD = "read no more"

# Small windows, so that credit is on its way at every cut; and soon given back when it is quiet.
BUSY = Config(wire=WireSettings(window_bytes=8_192, channel_idle_s=0.5))

Pair = tuple[str, str]  # sender, receiver


@dataclass(frozen=True, slots=True)
class Account:
    """What became of all messages."""

    sent: int
    lost: int
    doubled: int
    reordered: int

    @property
    def faultless(self) -> bool:
        return self.sent > 0 and self.lost == self.doubled == self.reordered == 0


class Traffic:
    """Messages between `one` and `other`: `per_second` each way, through `processes` in all.

    `run` sends for a while; then `arrived` tells when all of them are there.
    """

    def __init__(
        self, one: Node, other: Node, *, seed: int, processes: int = 100, per_second: int = 5_000
    ) -> None:
        self.sent: dict[Pair, int] = {}
        self.got: dict[Pair, list[int]] = {}
        self._begin = trio.Event()
        self._end_time = math.inf
        self._senders = processes
        self._all_sent = trio.Event()
        self._interval_s = processes / 2 / per_second
        self._nodes = (one, other)
        self._processes: dict[Node, list[ProcessId]] = {one: [], other: []}
        for number in range(processes):
            node, peer = self._nodes if number % 2 else self._nodes[::-1]
            draw = random.Random(f"{seed}/{number}")
            index = number // 2
            process = node.spawn(self._work, peer, index, draw, name=f"worker{index}")
            self._processes[node].append(process)

    async def run(self, seconds: float) -> None:
        """Send for so long, and wait until the last one was sent."""
        self._end_time = trio.current_time() + seconds
        self._begin.set()
        await self._all_sent.wait()

    def arrived(self) -> bool:
        """Whether as many messages have come as went."""
        return sum(map(len, self.got.values())) >= sum(self.sent.values())

    def account(self) -> Account:
        """What became of the messages so far; call it when none is on its way."""
        lost = doubled = reordered = 0
        assert self.got.keys() <= self.sent.keys()
        for pair, sent in self.sent.items():
            got = self.got.get(pair, [])
            lost += len(set(range(sent)) - set(got))
            doubled += len(got) - len(set(got))
            reordered += sum(after < before for before, after in pairwise(got))
        return Account(sum(self.sent.values()), lost, doubled, reordered)

    # -- processes ----------------------------------------------------------------------------

    async def _work(self, me: Process, peer: Node, index: int, draw: random.Random) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._send, me, peer, index, draw)
            async for message in me:
                if message == HOLD:
                    await trio.sleep_forever()
                sender, number, _ = message
                self.got.setdefault((sender, str(me.id)), []).append(number)

    async def _send(self, me: Process, peer: Node, index: int, draw: random.Random) -> None:
        await self._begin.wait()
        others = self._processes[peer]
        next_index = (index + 1) % len(others)
        ways = (
            (others[index], others[index]),
            (f"worker{next_index}@{peer.name}", others[next_index]),
        )
        await trio.sleep(draw.uniform(0, TICK_S))
        start = trio.current_time()
        count = 0
        while (now := trio.current_time()) < self._end_time:
            while count < (now - start) / self._interval_s:
                destination, receiver = ways[count % 2]
                pair = (str(me.id), str(receiver))
                number = self.sent.get(pair, 0)
                size = LARGE_BYTES if draw.randrange(ONE_LARGE_IN) == 0 else SMALL_BYTES
                await me.send(destination, (pair[0], number, b"x" * size))
                self.sent[pair] = number + 1
                count += 1
            await trio.sleep(TICK_S)
        self._senders -= 1
        if self._senders == 0:
            self._all_sent.set()

    # -- afterwards ---------------------------------------------------------------------------

    async def assert_nothing_is_left(self) -> None:
        """Nothing waits, nothing is unacknowledged, and no byte of credit is lost.

        Everything must have arrived.  The processes take nothing more after this.
        """
        for node, peer in (self._nodes, self._nodes[::-1]):
            for process in self._processes[peer]:
                await node.send(process, HOLD)
        # An idle channel closes once its whole credit is back, to the byte: two are always open.
        idle = [(node.name, 2, 2) for node in self._nodes]
        with trio.fail_after(10 * BUSY.wire.channel_idle_s + 5):
            while self._open_channels() != idle or unacknowledged(*self._nodes):  # noqa: ASYNC110
                await trio.sleep(0.05)
        for node in self._nodes:
            assert node.statistics().messages_queued == 0
            assert node.statistics().messages_dropped == 0
            assert [each.bytes_unconsumed for each in node.connections()] == [0]
        rooms = self._room()
        assert len(rooms) == 2 * sum(map(len, self._processes.values())) + 2
        assert len(set(rooms.values())) == 1
        assert min(rooms.values()) > 1

    def _open_channels(self) -> list[tuple[str, int, int]]:
        return [
            (node.name, each.channels, each.peer_channels)
            for node in self._nodes
            for each in node.connections()
        ]

    def _room(self) -> dict[str, int]:
        """How many messages each destination takes before it is full, and a new one's."""
        rooms: dict[str, int] = {}
        for node, peer in (self._nodes, self._nodes[::-1]):
            rooms[f"new@{peer.name}"] = _fill(node, peer.spawn(_never_read))
            for index, process in enumerate(self._processes[peer]):
                rooms[str(process)] = _fill(node, process)
                name = f"worker{index}@{peer.name}"
                rooms[name] = _fill(node, name)
        return rooms


def unacknowledged(*nodes: Node) -> int:
    """Bytes that these nodes keep in case a connection breaks."""
    return sum(each.bytes_unacknowledged for node in nodes for each in node.connections())


async def _never_read(me: Process) -> None:
    await trio.sleep_forever()


def _fill(node: Node, destination: ProcessId | str) -> int:
    count = 0
    try:
        while True:
            node.send_nowait(destination, b"x" * SMALL_BYTES)
            count += 1
    except MailboxFull:
        return count
