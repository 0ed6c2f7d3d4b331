"""Figures of streams: each against traffic that is known."""

from __future__ import annotations

import pytest
import trio
import trio.testing
from simulated import meet, until
from trio.testing import MockClock

from steinadler import (
    Node,
    NodeClosed,
    NodeDown,
    Process,
    ReceiveChannel,
    StreamListener,
    StreamStatistics,
)
from steinadler.testing import SimulatedCluster

KIB = 1024


def lone(node: Node) -> StreamStatistics:
    (found,) = node.stream_statistics()
    return found


def with_peer(node: Node, name: str) -> int:
    (found,) = [each.streams for each in node.connections() if each.node.name == name]
    return found


async def test_a_byte_stream_is_counted_at_both_ends(autojump_clock: MockClock) -> None:
    async with SimulatedCluster(1) as cluster:
        alice, bob = await meet(cluster, "alice", "bob")
        listener = bob.listen("web")
        near = await alice.connect("web@bob")
        far = await listener.accept()
        await near.send_all(b"x" * 100 * KIB)
        await until(lambda: lone(bob).bytes_received == 100 * KIB, within_s=5)
        assert await far.receive_some(64 * KIB)
        here, there = lone(alice), lone(bob)
        assert (here.peer, here.service, here.opened_here) == (bob.id, "web", True)
        assert (there.peer, there.service, there.opened_here) == (alice.id, "web", False)
        assert here.number == there.number
        assert (here.bytes_sent, here.bytes_received, here.bytes_waiting) == (100 * KIB, 0, 0)
        assert 0 < there.bytes_waiting <= 100 * KIB - 1
        assert with_peer(alice, "bob") == with_peer(bob, "alice") == 1
        assert alice.statistics().streams == bob.statistics().streams == 1

        await near.aclose()
        await far.aclose()
        await until(lambda: not alice.stream_statistics(), within_s=5)
        await until(lambda: not bob.stream_statistics(), within_s=5)
        assert with_peer(alice, "bob") == with_peer(bob, "alice") == 0
        for node, sent, received in ((alice, 100 * KIB, 0), (bob, 0, 100 * KIB)):
            totals = node.statistics()
            assert totals.streams == 0
            assert (totals.stream_bytes_sent, totals.stream_bytes_received) == (sent, received)


async def test_a_stream_within_a_node_has_two_ends(autojump_clock: MockClock) -> None:
    async with SimulatedCluster(2) as cluster:
        (alice,) = await cluster.start("alice")
        send, receive = alice.open_channel()
        assert alice.statistics().streams == 2
        await send.send("page")
        sending, receiving = sorted(alice.stream_statistics(), key=lambda each: each.bytes_received)
        assert {sending.service, receiving.service} == {None}
        assert sending.bytes_sent == receiving.bytes_received == receiving.bytes_waiting == 5
        send.close()
        receive.close()
        totals = alice.statistics()
        assert (totals.streams, totals.stream_bytes_sent, totals.stream_bytes_received) == (0, 5, 5)


async def test_the_busiest_streams_come_first(autojump_clock: MockClock) -> None:
    async with SimulatedCluster(3) as cluster:
        alice, bob = await meet(cluster, "alice", "bob")
        with bob.listen("web"):
            streams = [await alice.connect("web@bob") for _ in range(5)]
            for stream, size in zip(streams, (3, 50, 1, 40, 2), strict=True):
                await stream.send_all(b"x" * size)
            assert [each.bytes_sent for each in alice.stream_statistics(3)] == [50, 40, 3]
            assert len(alice.stream_statistics()) == 5
            assert alice.stream_statistics(0) == ()

            told = await bob.call("$statistics@alice", ("statistics", 2))
            assert [each["bytes_sent"] for each in told["streams"]] == [50, 40]
            assert told["streams"][0]["service"] == "web"
            assert told["node"]["streams"] == 5
            (link,) = told["connections"]
            assert link["streams"] == 5


async def test_objects_count_as_messages_and_pieces_as_bytes_m4(autojump_clock: MockClock) -> None:
    async with SimulatedCluster(6) as cluster:
        alice, bob = await meet(cluster, "alice", "bob")
        bob.listen("web")
        stream = await alice.connect("web@bob")
        claimed: list[ReceiveChannel] = []

        async def receiver(me: Process) -> None:
            claimed.append(await me.node.claim(await me.receive()))
            await trio.sleep_forever()

        send, receive = alice.open_channel()
        await alice.send(bob.spawn(receiver), receive.ref())
        await send.send("the first")
        await until(lambda: bob.statistics().messages_received > 0 and bool(claimed), within_s=5)
        with cluster.partition(["alice"], ["bob"]):
            cluster.cut("alice", "bob")
            await trio.sleep(0.01)
            dropped = alice.statistics().messages_dropped
            for number in range(3):
                await send.send(number)
            await stream.send_all(b"x" * 100 * KIB)
            await stream.send_eof()
            (link,) = alice.connections()
            assert link.messages_queued == alice.statistics().messages_queued == 3
            assert link.bytes_queued == 3 + 100 * KIB
            cluster.crash("bob")
            with pytest.raises(NodeDown):
                while True:
                    await send.send("a hundred and one")
                    await trio.sleep(0.1)
        assert alice.statistics().messages_dropped >= dropped + 3


async def test_services_are_told_with_those_who_offer_them(autojump_clock: MockClock) -> None:
    async with SimulatedCluster(4) as cluster:
        alice, bob = await meet(cluster, "alice", "bob")
        (eve,) = await cluster.start("eve", observer=True)

        def told(node: Node) -> dict[str, list[str]]:
            return {
                service: [member.node.name for member in members]
                for service, members in node.services().items()
            }

        listeners: list[StreamListener] = [
            alice.listen("web"),
            bob.listen("web"),
            bob.listen("database"),
        ]
        everything = {"database": ["bob"], "web": ["alice", "bob"]}
        for node in (alice, bob, eve):
            await until(lambda node=node: told(node) == everything, within_s=5)
        for listener in listeners[1:]:
            listener.close()
        for node in (alice, bob, eve):
            await until(lambda node=node: told(node) == {"web": ["alice"]}, within_s=5)


async def test_a_change_of_labels_wakes_who_waits_for_one(autojump_clock: MockClock) -> None:
    async with SimulatedCluster(5) as cluster:
        alice, bob = await meet(cluster, "alice", "bob")
        with trio.fail_after(5):
            bob.listen("web")
            while not alice.services():
                await alice.wait_for_change()
        await cluster.stop("alice")
        with pytest.raises(NodeClosed):
            await alice.wait_for_change()
