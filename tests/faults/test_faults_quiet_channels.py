"""Channels that nobody uses, open or closed, put nothing on the wire."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import trio
from simulated import collect, until
from traffic import unacknowledged
from trio.testing import MockClock

from steinadler import Config, WireSettings
from steinadler.testing import Packet, PacketKind, SimulatedCluster
from steinadler.wire.frames import FrameReader, FrameType

CHANNELS = 200


class Counted:
    """A rule that lets everything pass, and counts the frames of each type."""

    def __init__(self) -> None:
        self.types: Counter[FrameType] = Counter()
        self._seen: set[tuple[str, int]] = set()  # it is asked more than once about a packet
        self._readers = {"alice": FrameReader(), "bob": FrameReader()}

    def __call__(self, packet: Packet) -> None:
        if packet.kind is PacketKind.DATA and (packet.source, packet.number) not in self._seen:
            self._seen.add((packet.source, packet.number))
            frames = self._readers[packet.source].feed(packet.data)
            self.types.update(FrameType(frame.type) for frame in frames)


@pytest.mark.parametrize("idle_s", [1.0, 3_600.0], ids=["closed", "open"])
async def test_a_quiet_channel_costs_nothing_on_the_wire(
    idle_s: float, autojump_clock: MockClock
) -> None:
    """After its last message and its last credit: a minute with no frame but what members say of
    members, and of names."""
    config = Config(wire=WireSettings(channel_idle_s=idle_s))
    got: list[Any] = []
    async with SimulatedCluster(config=config) as cluster:
        alice, bob = await cluster.start("alice", "bob")
        with trio.fail_after(120):
            await cluster.agreed()
            processes = [bob.spawn(collect, got) for _ in range(CHANNELS)]
            for process in processes:
                await alice.send(process, "x" * 100)
            await until(lambda: len(got) == CHANNELS, within_s=5)
            await trio.sleep(5)
            counted = Counted()
            with cluster.rule(counted):
                await trio.sleep(60)
            assert counted.types.keys() == {FrameType.GOSSIP, FrameType.REGISTRY}
            # The count would see one: the next message, and its acknowledgement.
            with cluster.rule(counted):
                await alice.send(processes[0], "again")
                await until(lambda: len(got) > CHANNELS, within_s=5)
                await until(lambda: not unacknowledged(alice, bob), within_s=5)
        assert counted.types[FrameType.MESSAGES] == 1
        assert counted.types[FrameType.ACKNOWLEDGE] == 1
        assert counted.types[FrameType.OPEN] == int(idle_s < 60)  # it had been closed, or not
