"""Statistics: each figure against traffic that is known, on a network whose latency is known."""

from __future__ import annotations

from typing import Any

import pytest
import trio
import trio.testing
from simulated import collect, idle, meet, until
from trio.testing import MockClock

from steinadler import Call, Config, ConnectionStatistics, Node, Process, WireSettings
from steinadler.testing import SimulatedCluster

LATENCY_S = 0.01
KIB = 1024
OVERHEAD_BYTES = 64  # of each item, as credit counts it


def connection(node: Node, name: str) -> ConnectionStatistics:
    (found,) = [each for each in node.connections() if each.node.name == name]
    return found


async def test_messages_and_bytes_are_counted_at_both_ends(autojump_clock: MockClock) -> None:
    async with SimulatedCluster(1, latency_s=(LATENCY_S, LATENCY_S)) as cluster:
        alice, bob = await meet(cluster, "alice", "bob")
        got: list[Any] = []
        sink = bob.spawn(collect, got)
        await trio.sleep(1)
        before = connection(alice, "bob"), connection(bob, "alice")
        for number in range(500):
            await alice.send(sink, b"%04d" % number + b"x" * 996)
        await until(lambda: len(got) == 500, within_s=10)
        after = connection(alice, "bob"), connection(bob, "alice")
        assert after[0].messages_sent - before[0].messages_sent == 500
        assert after[1].messages_received - before[1].messages_received == 500
        # 1000 bytes, 3 for CBOR, 2 for its length in a frame; headers and gossip take little more.
        for grown in (
            after[0].bytes_sent - before[0].bytes_sent,
            after[1].bytes_received - before[1].bytes_received,
        ):
            assert 500 * 1005 <= grown <= 500 * 1005 * 1.02
        assert (after[0].messages_queued, after[0].bytes_queued) == (0, 0)
        assert (after[0].bytes_retransmitted, after[0].resumptions) == (0, 0)
        totals = alice.statistics()
        assert totals.messages_sent == after[0].messages_sent, "its only connection"
        assert totals.bytes_sent == after[0].bytes_sent
        (taken,) = [each for each in bob.processes() if each.id == sink]
        assert (taken.messages_taken, taken.messages_waiting) == (500, 0)


async def test_the_round_trip_is_the_network_s(autojump_clock: MockClock) -> None:
    async with SimulatedCluster(2, latency_s=(LATENCY_S, LATENCY_S)) as cluster:
        alice, bob = await cluster.start("alice", "bob")
        await cluster.agreed()
        await trio.sleep(1)
        for node, peer in ((alice, "bob"), (bob, "alice")):
            assert connection(node, peer).round_trip_s == pytest.approx(2 * LATENCY_S)
            assert connection(node, peer).round_trip_latest_s == pytest.approx(2 * LATENCY_S)
        with cluster.slow(0.04, 0.04):
            await trio.sleep(0.6)
            slowed = connection(alice, "bob")
            assert slowed.round_trip_latest_s == pytest.approx(2 * LATENCY_S + 0.08)
            assert slowed.round_trip_s is not None
            assert 2 * LATENCY_S < slowed.round_trip_s < 2 * LATENCY_S + 0.08, "smoothed"


async def test_the_round_trip_is_the_same_under_load(autojump_clock: MockClock) -> None:
    """M6: probes do not wait behind messages."""
    async with SimulatedCluster(3, latency_s=(LATENCY_S, LATENCY_S)) as cluster:
        alice, bob = await meet(cluster, "alice", "bob")
        got: list[Any] = []
        sink = bob.spawn(collect, got)

        async def flood() -> None:
            while True:
                await alice.send(sink, b"x" * 8 * KIB)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(flood)
            await trio.sleep(2)
            assert connection(alice, "bob").round_trip_s == pytest.approx(2 * LATENCY_S, rel=0.5)
            nursery.cancel_scope.cancel()
        assert len(got) > 1000


async def test_what_a_cut_makes_travel_again_is_counted(autojump_clock: MockClock) -> None:
    """M3: and each message counts once, however often it travelled."""
    async with SimulatedCluster(4, latency_s=(LATENCY_S, LATENCY_S)) as cluster:
        alice, bob = await meet(cluster, "alice", "bob")
        got: list[Any] = []
        sink = bob.spawn(collect, got)
        await trio.sleep(0.5)
        sent = alice.statistics().messages_sent
        assert connection(alice, "bob").bytes_retransmitted == 0
        for _ in range(10):
            await alice.send(sink, b"x" * KIB)
        await trio.sleep(LATENCY_S / 2)  # written, and on its way
        waiting = connection(alice, "bob").bytes_unacknowledged
        assert waiting > 10 * KIB
        cluster.cut("alice", "bob")
        await until(lambda: len(got) == 10, within_s=5)
        after = connection(alice, "bob")
        assert after.resumptions == connection(bob, "alice").resumptions == 1
        assert after.bytes_retransmitted == waiting
        assert after.messages_sent - sent == 10
        assert alice.statistics().bytes_retransmitted == waiting
        await until(lambda: connection(alice, "bob").bytes_unacknowledged == 0, within_s=1)
        connected_s = connection(alice, "bob").connected_s
        assert connected_s is not None
        assert connected_s < 5, "of the new connection"


async def test_a_cut_connection_says_so(autojump_clock: MockClock) -> None:
    async with SimulatedCluster(5, latency_s=(LATENCY_S, LATENCY_S)) as cluster:
        alice, _ = await meet(cluster, "alice", "bob")
        remote = connection(alice, "bob").remote
        assert remote is not None
        assert remote.host == "bob"
        with cluster.refusing({"alice"}, {"bob"}):
            cluster.cut("alice", "bob")
            await trio.testing.wait_all_tasks_blocked()
            broken = connection(alice, "bob")
            assert (broken.connected, broken.connected_s, broken.remote) == (False, None, None)


async def test_who_does_not_read_shows_as_depth_and_credit(autojump_clock: MockClock) -> None:
    """M6: one window is used up; the sender, the peer and the process each say so."""
    config = Config(wire=WireSettings(window_bytes=64 * KIB))
    async with SimulatedCluster(6, latency_s=(LATENCY_S, LATENCY_S), config=config) as cluster:
        alice, bob = await meet(cluster, "alice", "bob")
        deaf = bob.spawn(idle, name="deaf")
        async with trio.open_nursery() as nursery:

            async def send() -> None:
                while True:
                    await alice.send(deaf, b"x" * 1021)  # 1024 as CBOR

            nursery.start_soon(send)
            await trio.sleep(1)
            each = KIB + OVERHEAD_BYTES
            count = -(-64 * KIB // each)  # an item may start with any credit left
            (process,) = [p for p in bob.processes() if p.id == deaf]
            assert (process.names, process.function) == (("deaf",), "idle")
            assert (process.messages_waiting, process.bytes_waiting) == (count, count * KIB)
            assert process.messages_taken == 0
            assert connection(bob, "alice").bytes_unconsumed == count * each
            assert connection(alice, "bob").channels_without_credit == 1
            assert connection(bob, "alice").channels_without_credit == 0
            assert bob.processes(busiest=1) == (process,)
            nursery.cancel_scope.cancel()
        async with bob.monitor(deaf) as down:
            bob.exit(deaf, "kill")
            await down.wait()
        assert connection(bob, "alice").bytes_unconsumed == 0, "given back"


async def test_what_has_no_connection_is_queued(autojump_clock: MockClock) -> None:
    async with SimulatedCluster(7, latency_s=(LATENCY_S, LATENCY_S)) as cluster:
        alice, bob = await meet(cluster, "alice", "bob")
        sink = bob.spawn(idle)
        with cluster.refusing({"alice"}, {"bob"}):
            cluster.cut("alice", "bob")
            await trio.testing.wait_all_tasks_blocked()
            for _ in range(7):
                await alice.send(sink, b"x" * 97)  # 99 as CBOR
            queued = connection(alice, "bob")
            assert (queued.messages_queued, queued.bytes_queued) == (7, 7 * 99)
            assert alice.statistics().messages_queued == 7


async def test_a_process_tells_of_itself(autojump_clock: MockClock) -> None:
    """What waits, what it took, whom it owes, who waits to send, and what hangs on it."""
    config = Config(mailbox_bytes=2 * KIB)
    told: list[Any] = []

    async def looks(me: Process) -> None:
        first, second = await me.receive(), await me.receive()
        me.monitor("$echo@alice")
        me.link(friend)
        told.append(me.statistics())
        assert isinstance(second, Call)
        second.reply(first)
        told.append(me.statistics())
        await trio.sleep_forever()

    async with SimulatedCluster(8, config=config) as cluster:
        (alice,) = await cluster.start("alice")
        friend = alice.spawn(idle)
        process = alice.spawn(looks, name="looks")
        alice.register("mirror", process)
        async with alice.monitor(process), trio.open_nursery() as nursery:
            alice.send_nowait(process, 1)
            nursery.start_soon(alice.call, process, 2)
            await trio.testing.wait_all_tasks_blocked()
            first, second = told
            assert (first.id, first.names) == (process, ("looks", "mirror"))
            assert (first.messages_taken, first.messages_waiting) == (2, 0)
            assert (first.calls_owed, second.calls_owed) == (1, 0)
            assert (first.monitors, first.watchers, first.links) == (1, 1, 1)
            assert first.local_credit_bytes == 2 * KIB

            alice.send_nowait(process, b"x" * 3 * KIB)
            for _ in range(3):
                nursery.start_soon(alice.send, process, b"y")
            await trio.testing.wait_all_tasks_blocked()
            (full,) = [each for each in alice.processes() if each.id == process]
            assert (full.messages_waiting, full.local_senders_waiting) == (1, 3)
            assert full.local_credit_bytes == 2 * KIB - (3 * KIB + 3) - OVERHEAD_BYTES
            nursery.cancel_scope.cancel()
        assert alice.statistics().calls_waiting == alice.statistics().calls_owed == 0


async def test_a_peer_is_told_the_same(autojump_clock: MockClock) -> None:
    """$statistics: every field by its name, and as many processes as were asked for."""
    async with SimulatedCluster(9) as cluster:
        alice, bob = await meet(cluster, "alice", "bob")
        for _ in range(10):
            bob.spawn(idle)
        told = await alice.call("$statistics@bob", ("statistics", 3))
        assert told["node"]["processes"] == bob.statistics().processes
        assert len(told["processes"]) == 3
        (facts,) = told["connections"]
        assert facts["node"] == alice.id
        assert set(facts) == set(ConnectionStatistics.__slots__)
