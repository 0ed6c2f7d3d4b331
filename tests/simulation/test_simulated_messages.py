"""Messages and calls between real nodes, while the network does its worst (M1-M5, C1-C3)."""

from __future__ import annotations

import random
from collections import Counter
from contextlib import ExitStack
from typing import Any

import pytest
import trio
from simulated import collect, echo, idle, meet, until
from trio.testing import MockClock

from steinadler import (
    Call,
    Config,
    Node,
    NodeDown,
    NoSuchProcess,
    NotEncodable,
    Process,
    ProcessExited,
    RemoteError,
    WireSettings,
)
from steinadler.testing import SimulatedCluster

# Small windows, so that credit, acknowledgements and fragments are all at work.
TIGHT = Config(
    wire=WireSettings(
        window_bytes=8_192,
        max_message_bytes=200_000,
        reassembly_bytes=200_000,
        max_unacknowledged_bytes=65_536,
    )
)
MANY_SEEDS = [
    *range(3),
    *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(100, 112)),
]
PROCESSES = 6


async def cut_often(cluster: SimulatedCluster, seed: int) -> None:
    draw = random.Random(seed)
    while True:
        await trio.sleep(draw.uniform(0.05, 0.5))
        cluster.cut("alice", "bob")


async def stream_both_ways(cluster: SimulatedCluster, seed: int, count: int) -> None:
    """Through many processes at once; asserts that each got all, once, in order."""
    draw = random.Random(seed)
    alice, bob = await cluster.start("alice", "bob", config=TIGHT)
    await cluster.agreed()
    got: dict[str, list[Any]] = {}

    async def send(node: Node, destination: str) -> None:
        for number in range(count):
            size = draw.choice((0, 10, 1_000, 20_000, 60_000)) if number % 10 == 0 else 10
            await node.send(destination, (number, "x" * size))
            if number % 3 == 0:
                await trio.sleep(draw.uniform(0, 0.2))

    with trio.fail_after(300):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(cut_often, cluster, seed)
            async with trio.open_nursery() as senders:
                for number in range(PROCESSES):
                    for node, peer in ((alice, bob), (bob, alice)):
                        destination = f"collect{number}@{node.name}"
                        got[destination] = []
                        node.spawn(collect, got[destination], name=f"collect{number}")
                        senders.start_soon(send, peer, destination)
            nursery.cancel_scope.cancel()
        await until(lambda: all(len(items) >= count for items in got.values()), within_s=60)
        await trio.sleep(10)  # whatever may still come
    assert all([n for n, _ in items] == list(range(count)) for items in got.values())
    assert all(len(node.members()) == 2 for node in (alice, bob))


@pytest.mark.parametrize("seed", MANY_SEEDS)
async def test_no_cut_loses_doubles_or_reorders_anything(
    seed: int, autojump_clock: MockClock
) -> None:
    """M1, M2, M3: the connection is cut every 50 to 500 ms."""
    async with SimulatedCluster(seed, latency_s=(0.0005, 0.01)) as cluster:
        await stream_both_ways(cluster, seed, 150)
        statistics = [node.statistics() for node in cluster.running()]
        assert sum(each.bytes_retransmitted for each in statistics) > 0


@pytest.mark.parametrize("seed", MANY_SEEDS)
async def test_no_accident_loses_doubles_or_reorders_anything(
    seed: int, autojump_clock: MockClock
) -> None:
    """M1, M2, M3: as above, and packets are lost, late and fatal to their connections."""
    async with SimulatedCluster(seed, latency_s=(0.0005, 0.005)) as cluster:
        with ExitStack() as faults:
            for fault in (
                cluster.lossy(0.01),
                cluster.resetting(0.01),
                cluster.slow(0, 0.02),
            ):
                faults.enter_context(fault)
            await stream_both_ways(cluster, seed, 60)


@pytest.mark.parametrize("seed", range(3))
async def test_short_partitions_and_pauses_lose_nothing(
    seed: int, autojump_clock: MockClock
) -> None:
    """M3: while nobody is declared down, nothing is lost."""
    got: list[Any] = []
    async with SimulatedCluster(seed) as cluster:
        alice, bob, _ = await meet(cluster, "alice", "bob", "carol")
        bob.spawn(collect, got, name="collect")

        async def send() -> None:
            for number in range(400):
                await alice.send("collect@bob", number)
                await trio.sleep(0.02)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(send)
            with cluster.partition({"alice"}, {"bob"}):
                await trio.sleep(1.5)
            with cluster.paused("bob"):
                await trio.sleep(1.5)
            with cluster.paused("alice"):
                await trio.sleep(1.5)
        await until(lambda: len(got) == 400, within_s=10)
    assert got == list(range(400))


@pytest.mark.parametrize("seed", range(3))
async def test_what_a_dead_node_did_not_get_is_counted_and_told_once(
    seed: int, autojump_clock: MockClock
) -> None:
    """M4: calls and monitors hear of it, each once; senders who wait are let go."""
    async with SimulatedCluster(seed) as cluster:
        alice, bob, _ = await cluster.start("alice", "bob", "carol", config=TIGHT)
        await cluster.agreed()
        sleeper = bob.spawn(idle, name="sleeper")
        ends: Counter[str] = Counter()

        async def ask() -> None:
            try:
                await alice.call(sleeper, "?")
            except NodeDown:
                ends["call"] += 1

        async def fill() -> None:
            try:
                while True:
                    await alice.send("sleeper@bob", "x" * 1000)
            except NodeDown:
                ends["send"] += 1

        async def watch() -> None:
            async with alice.monitor(sleeper) as down:
                assert (await down.wait()).reason == "noconnection"
                ends["monitor"] += 1

        with trio.fail_after(30):
            async with trio.open_nursery() as nursery:
                for task in (ask, ask, fill, fill, watch, watch):
                    nursery.start_soon(task)
                await trio.sleep(0.5)
                with cluster.partition({"bob"}, {"alice", "carol"}):
                    for number in range(5):
                        alice.send_nowait("nobody@bob", number)
                    await trio.sleep(0.5)
                    ends["before"] = sum(ends.values())
                    await trio.sleep(4)
            await cluster.agreed()
        assert ends == {"call": 2, "send": 2, "monitor": 2, "before": 0}
        assert alice.statistics().messages_dropped >= 5


async def test_here_and_there_are_the_same(autojump_clock: MockClock) -> None:
    """M5: the receiver's own copy; what cannot travel raises before anything is queued."""
    async with SimulatedCluster() as cluster:
        alice, bob = await cluster.start("alice", "bob")
        await cluster.agreed()
        for node in (alice, bob):
            got: list[Any] = []
            node.spawn(collect, got, name="collect")
            node.spawn(echo, name="echo")
            message = {"list": [1, 2], "tuple": (3, "x"), "set": {4}}
            await alice.send(f"collect@{node.name}", message)
            message["list"].append(5)  # type: ignore[attr-defined]
            with pytest.raises(NotEncodable):
                await alice.send(f"collect@{node.name}", object())
            with pytest.raises(NotEncodable):
                await alice.call(f"echo@{node.name}", object())
            reply = await alice.call(f"echo@{node.name}", message)
            assert reply == message
            assert reply is not message
            await trio.sleep(1)
            assert got == [{"list": [1, 2], "tuple": (3, "x"), "set": {4}}]


async def serve(me: Process, seen: Counter[int]) -> None:
    """Answers in several ways, some of them late; counts what it was asked (C3)."""
    async for message in me:
        if not isinstance(message, Call):
            continue
        kind, number = message.request
        seen[number] += 1
        match kind:
            case "reply":
                message.reply(number)
            case "fail":
                message.fail(ValueError(f"no {number}"))
            case "late":
                await trio.sleep(0.01)
                message.reply(number)
            case "die":
                raise RuntimeError(f"died of {number}")


@pytest.mark.parametrize("seed", MANY_SEEDS)
async def test_a_call_ends_in_exactly_one_way(seed: int, autojump_clock: MockClock) -> None:
    """C1, C2, C3: calls of all kinds at once, cancelled at any point, over a bad network."""
    draw = random.Random(seed)
    seen: Counter[int] = Counter()
    ends: Counter[str] = Counter()
    async with SimulatedCluster(seed, latency_s=(0.001, 0.02)) as cluster:
        alice, bob = await cluster.start("alice", "bob", config=TIGHT)
        await cluster.agreed()

        async def keep_serving() -> None:
            while True:
                process = bob.spawn(serve, seen, name="serve")
                await bob.monitor(process).wait()

        async def ask(first: int) -> None:
            for number in range(first, first + 100):
                kind = draw.choice(("reply", "reply", "late", "fail", "nobody", "die"))
                if kind == "die" and draw.random() < 0.8:
                    kind = "reply"
                destination = "nobody@bob" if kind == "nobody" else "serve@bob"
                request = (kind, number)
                patience = draw.choice((draw.uniform(0, 0.05), 60))
                with trio.move_on_after(patience) as scope:
                    try:
                        answer = await alice.call(destination, request)
                        assert answer == number
                        assert kind in ("reply", "late")
                        ends["reply"] += 1
                    except RemoteError as error:
                        ends[f"{kind}: {str(error).replace(str(number), 'N')}"] += 1
                    except NoSuchProcess:
                        ends["nobody"] += 1
                    except ProcessExited as error:
                        ends[error.reason.rstrip("0123456789")] += 1
                if scope.cancelled_caught:
                    assert patience < 60
                    ends["cancelled"] += 1

        with trio.fail_after(600):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(keep_serving)
                nursery.start_soon(cut_often, cluster, seed)
                async with trio.open_nursery() as askers:
                    for asker in range(5):
                        askers.start_soon(ask, asker * 100)
                nursery.cancel_scope.cancel()
        await trio.sleep(5)
        assert sum(ends.values()) == 500
        assert min(ends.values()) > 0
        assert set(ends) == {
            "reply",
            "fail: ValueError: no N",
            "nobody",
            "RuntimeError: died of ",
            "cancelled",
        }
        assert max(seen.values()) == 1
        # Nothing is owed or awaited any more.
        assert len(alice._router.calls.pending) == len(bob._router.calls.owed) == 0


async def test_a_reply_to_nobody_is_seen_by_nobody(autojump_clock: MockClock) -> None:
    """C2: cancelled at every millisecond of its way, a call leaves the next one alone."""
    async with SimulatedCluster(latency_s=(0.005, 0.01)) as cluster:
        alice, bob = await cluster.start("alice", "bob")
        await cluster.agreed()
        bob.spawn(echo, name="echo")
        cancelled = 0
        for millisecond in range(40):
            with trio.move_on_after(millisecond / 1000) as scope:
                assert await alice.call("echo@bob", ("early", millisecond))
            cancelled += scope.cancelled_caught
            assert await alice.call("echo@bob", millisecond) == millisecond
        assert 10 <= cancelled < 40
