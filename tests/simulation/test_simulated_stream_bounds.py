"""What a peer may open: as many streams as `max_streams` says, whatever becomes of their halves."""

from __future__ import annotations

import pytest
import trio
import trio.testing
from simulated import meet, until
from trio.testing import MockClock

from steinadler import Config, StreamRefused, StreamSettings
from steinadler.testing import SimulatedCluster

CONFIG = Config(streams=StreamSettings(max_streams=3))


async def test_half_closed_streams_count_until_both_halves_have_ended_x4(
    autojump_clock: MockClock,
) -> None:
    async with SimulatedCluster(1, config=CONFIG) as cluster:
        alice, bob = await meet(cluster, "alice", "bob")
        listener = bob.listen("web")
        held = []
        with trio.fail_after(10):
            for _ in range(3):
                near = await alice.connect("web@bob")
                held.append((near, await listener.accept()))
            await held[0][0].send_eof()
            await held[1][1].send_eof()
            assert await held[0][1].receive_some() == b""
            assert await held[1][0].receive_some() == b""
            with pytest.raises(StreamRefused, match="opened 3 streams"):
                await alice.connect("web@bob")

            await held[0][1].send_eof()  # now both halves of it have ended
            assert await held[0][0].receive_some() == b""
            await alice.connect("web@bob")


async def test_what_a_node_opens_itself_takes_nothing_from_its_peer(
    autojump_clock: MockClock,
) -> None:
    async with SimulatedCluster(2, config=CONFIG) as cluster:
        alice, bob = await meet(cluster, "alice", "bob")
        with alice.listen("web"), bob.listen("web"), trio.fail_after(10):
            streams = [await bob.connect("web@alice") for _ in range(3)]
            streams += [await alice.connect("web@bob") for _ in range(3)]
            for node, peer in ((alice, bob), (bob, alice)):
                assert node.statistics().streams == 6
                assert node.streams.table.opened_by(peer.id) == 3
            for stream in streams:
                await stream.aclose()
            await until(
                lambda: all(node.streams.table.opened_by(node.id) == 0 for node in (alice, bob)),
                within_s=5,
            )
