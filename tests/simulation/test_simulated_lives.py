"""Monitors, links and names of real nodes that die, restart and lose each other (D1-D4, N1)."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from simulated import collect, echo, events_of, idle, meet, until
from trio.testing import MockClock

from steinadler import (
    Call,
    Down,
    Exit,
    Node,
    NodeDown,
    NoSuchProcess,
    Process,
    ProcessExited,
    ProcessId,
)
from steinadler.testing import SimulatedCluster

SEEDS = [
    *range(2),
    *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(100, 110)),
]


async def last_until(me: Process) -> None:
    """Ends as it is told."""
    match await me.receive():
        case "raise":
            raise ValueError("as told")
        case "return":
            return


async def pair(cluster: SimulatedCluster) -> tuple[Node, Node]:
    alice, bob, _ = await meet(cluster, "alice", "bob", "carol")
    return alice, bob


@pytest.mark.parametrize("seed", SEEDS)
async def test_a_monitor_fires_once_with_the_reason(seed: int, autojump_clock: MockClock) -> None:
    """D1: over cuts, whatever ends the process, for processes and for handles."""
    draw = random.Random(seed)
    got: list[Any] = []
    fired: Counter[str] = Counter()
    async with SimulatedCluster(seed, latency_s=(0.001, 0.02)) as cluster:
        alice, bob = await pair(cluster)
        expected: dict[ProcessId, str] = {}

        async def watch(me: Process, targets: list[ProcessId]) -> None:
            for target in targets:
                me.monitor(target)
            await collect(me, got)

        async def hold(target: ProcessId) -> None:
            async with alice.monitor(target) as down:
                assert (await down.wait()) is (await down.wait())
                assert down.down is not None
                assert down.down.reason == expected[target]
                fired["handle"] += 1

        targets = [bob.spawn(last_until) for _ in range(40)]
        ways = {"return": "normal", "raise": "ValueError: as told", "exit": "told", "": ""}
        told = {target: draw.choice(list(ways)) for target in targets}
        expected = {target: ways[way] or "noconnection" for target, way in told.items()}
        expected[ProcessId(bob.id, 999_999)] = "noproc"
        alice.spawn(watch, list(expected))
        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                for target in expected:
                    nursery.start_soon(hold, target)
                for target, way in told.items():
                    if draw.random() < 0.3:
                        cluster.cut("alice", "bob")
                    await trio.sleep(draw.uniform(0, 0.1))
                    if way == "exit":
                        alice.exit(target, "told")
                    elif way:
                        await alice.send(target, way)
                await trio.sleep(3)
                cluster.crash("bob")
            await trio.sleep(10)
        assert fired["handle"] == len(expected)
        assert all(isinstance(down, Down) for down in got)
        assert Counter((down.process, down.reason) for down in got) == Counter(expected.items())


@pytest.mark.parametrize("seed", range(3))
async def test_a_monitor_of_a_name_that_nobody_has_fires(
    seed: int, autojump_clock: MockClock
) -> None:
    """D1: noproc where there is a node, noconnection where there is none."""
    async with SimulatedCluster(seed) as cluster:
        alice, _ = await pair(cluster)
        for destination, reason in {
            "nobody": "noproc",
            "nobody@bob": "noproc",
            "nobody@dave": "noconnection",
        }.items():
            with trio.fail_after(1):
                async with alice.monitor(destination) as down:
                    assert (await down.wait()).reason == reason


@pytest.mark.parametrize("seed", SEEDS)
async def test_an_answer_or_a_down(seed: int, autojump_clock: MockClock) -> None:
    """D2: the process, or its node, dies at some point of the way; somebody always tells."""
    draw = random.Random(seed)
    ends: Counter[str] = Counter()

    async def answer(me: Process, to: ProcessId) -> None:
        while await me.receive() != "stop":
            await me.send(to, "answer")

    async with SimulatedCluster(seed, latency_s=(0.001, 0.01)) as cluster:
        alice, bob = await pair(cluster)
        got: list[Any] = []

        for attempt in range(15):
            got.clear()
            asked = trio.Event()

            async def ask(me: Process, server: ProcessId, asked: trio.Event = asked) -> None:
                me.monitor(server)
                try:
                    await me.send(server, "question")
                except NodeDown:
                    ends["not sent"] += 1
                got.append(await me.receive())
                asked.set()

            collector = alice.spawn(idle)
            server = bob.spawn(answer, collector)
            client = alice.spawn(ask, server)
            alice.exit(collector, "kill")
            bob.exit(server, "kill")
            server = bob.spawn(answer, client)
            client = alice.spawn(ask, server)
            with trio.fail_after(30):
                await trio.sleep(draw.uniform(0, 0.03))
                if attempt % 3 == 0:
                    cluster.crash("bob")
                    await asked.wait()
                    bob = await cluster.restart("bob")
                    await cluster.agreed()
                else:
                    bob.exit(server, "kill")
                    await asked.wait()
            ends[type(got[0]).__name__] += 1
        assert ends["Down"] > 0
        assert ends["Down"] + ends["str"] == 15


@pytest.mark.parametrize("seed", SEEDS)
async def test_a_new_life_is_not_the_old_one(seed: int, autojump_clock: MockClock) -> None:
    """D3: no message, reply or Down of the former life concerns the new one."""
    draw = random.Random(seed)
    async with SimulatedCluster(seed, latency_s=(0.001, 0.01)) as cluster:
        alice, bob = await pair(cluster)
        for life in range(4):
            before: list[Any] = []
            after: list[Any] = []
            ends: list[str] = []
            old = bob.spawn(collect, before)
            down = alice.monitor(old)

            async def ask(to: ProcessId, ends: list[str] = ends) -> None:
                try:
                    await alice.call(to, "?")
                except (NodeDown, ProcessExited) as error:
                    ends.append(type(error).__name__)

            async def keep_sending(to: ProcessId, life: int = life) -> None:
                number = 0
                while True:
                    try:
                        await alice.send(to, (life, number))
                    except NodeDown:
                        return
                    number += 1
                    await trio.sleep(0.001)

            with trio.fail_after(30):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(ask, old)
                    nursery.start_soon(keep_sending, old)
                    await trio.sleep(draw.uniform(0.02, 0.1))
                    cluster.crash("bob")
                    if draw.random() < 0.5:
                        await trio.sleep(draw.uniform(0, 0.02))
                    bob = await cluster.restart("bob")
                    new = bob.spawn(collect, after)
                    while new.number < old.number:
                        new = bob.spawn(collect, after)
                    new_down = alice.monitor(new)
                    await cluster.agreed()
                assert (await down.wait()).reason == "noconnection"
                assert ends == ["NodeDown"]
                with pytest.raises(NodeDown):
                    await alice.send(old, "too late")
                await alice.send(new, "hello")
                await trio.sleep(2)
            assert before
            assert after == ["hello"]
            # Asked before the new life was known, it may have fired; then it says so.
            assert new_down.down is None or new_down.down.reason == "noconnection"


@pytest.mark.parametrize("seed", range(3))
async def test_links_carry_exits_both_ways(seed: int, autojump_clock: MockClock) -> None:
    """D4: across nodes and cuts; whoever traps exits is told instead."""
    got: list[Any] = []

    async def tie(me: Process, other: ProcessId, trap: bool) -> None:
        me.trap_exits = trap
        me.link(other)
        await collect(me, got)

    async with SimulatedCluster(seed, latency_s=(0.001, 0.01)) as cluster:
        alice, bob = await pair(cluster)
        with trio.fail_after(30):
            for linker, linked, ends_first in ((alice, bob, 0), (alice, bob, 1)):
                far = linked.spawn(last_until)
                near = linker.spawn(tie, far, False)
                await trio.sleep(0.1)
                cluster.cut("alice", "bob")
                downs = [alice.monitor(process) for process in (near, far)]
                if ends_first == 0:
                    await alice.send(far, "raise")
                    reason = "ValueError: as told"
                else:
                    alice.exit(near, "enough")
                    reason = "enough"
                assert [(await down.wait()).reason for down in downs] == [reason, reason]
            quiet = bob.spawn(last_until)
            near = alice.spawn(tie, quiet, False)
            down = alice.monitor(near)
            await trio.sleep(0.1)
            await alice.send(quiet, "return")
            await trio.sleep(1)
            assert down.down is None  # "normal" ends nobody else
            far = bob.spawn(idle)
            trapper = alice.spawn(tie, far, True)
            broken = alice.spawn(tie, far, False)
            trapped, cancelled = alice.monitor(trapper), alice.monitor(broken)
            await trio.sleep(0.1)
            cluster.crash("bob")
            assert (await cancelled.wait()).reason == "noconnection"
            await trio.sleep(0.1)
            assert trapped.down is None
            assert got == [Exit(far, "noconnection")]


@pytest.mark.parametrize("seed", SEEDS)
async def test_a_name_is_free_before_anybody_hears(seed: int, autojump_clock: MockClock) -> None:
    """N1: whoever hears the Down finds the name free, there and from here."""
    async with SimulatedCluster(seed, latency_s=(0.001, 0.01)) as cluster:
        alice, bob = await pair(cluster)
        with trio.fail_after(30):
            for _ in range(10):
                first = bob.spawn(last_until, name="worker")
                local, remote = bob.monitor("worker"), alice.monitor("worker@bob")
                await alice.send("worker@bob", "return")
                await local.wait()
                second = bob.spawn(echo, name="worker")
                assert second != first
                assert (await remote.wait()).process == first
                assert await alice.whereis("worker@bob") == second
                assert await alice.call("worker@bob", 1) == 1
                bob.exit(second, "kill")
                await bob.monitor(second).wait()
                assert await alice.whereis("worker@bob") is None
                with pytest.raises(NoSuchProcess):
                    await alice.call("worker@bob", 1)


async def test_calls_to_a_process_that_ends_say_why(autojump_clock: MockClock) -> None:
    """C1: taken and unanswered, or not even taken."""

    async def take_one(me: Process) -> None:
        assert isinstance(await me.receive(), Call)
        await trio.sleep(1)
        raise ValueError("had enough")

    async with SimulatedCluster() as cluster:
        alice, bob = await pair(cluster)
        process = bob.spawn(take_one)
        ends: list[str] = []

        async def ask() -> None:
            try:
                await alice.call(process, "?")
            except ProcessExited as error:
                ends.append(error.reason)

        with trio.fail_after(5):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(ask)
                nursery.start_soon(ask)
        assert ends == ["ValueError: had enough"] * 2


@asynccontextmanager
async def connected_and_down(cluster: SimulatedCluster) -> AsyncIterator[tuple[Node, Node]]:
    """Alice and bob, who gave each other up, and have not yet said that they live."""
    alice, bob = await meet(cluster, "alice", "bob")
    with cluster.partition(["alice"], ["bob"]):
        await until(lambda: len(alice.members()) == len(bob.members()) == 1, within_s=10)
    await until(lambda: any(each.connected for each in alice.connections()), within_s=10)
    assert bob.id not in [member.node for member in alice.members()]
    yield alice, bob


@pytest.mark.parametrize("end", ["crash", "pause"])
async def test_one_that_is_back_and_dies_before_it_is_a_member_leaves_nothing(
    end: str, autojump_clock: MockClock
) -> None:
    """D1: nobody watches it, so nothing may wait for it."""
    async with SimulatedCluster(3, latency_s=(0.02, 0.02)) as cluster:
        async with connected_and_down(cluster) as (alice, bob):
            getattr(cluster, end)("bob")
            process = ProcessId(bob.id, 99)
            with trio.fail_after(1):
                async with alice.monitor(process) as down:
                    assert (await down.wait()).reason == "noconnection"
            with pytest.raises(NodeDown):
                await alice.send(process, "anything")
            await until(lambda: not alice.connections(), within_s=10)


async def test_one_that_is_back_and_says_that_it_lives_stays(autojump_clock: MockClock) -> None:
    async with SimulatedCluster(3, latency_s=(0.02, 0.02)) as cluster:
        async with connected_and_down(cluster) as (alice, bob):
            with trio.fail_after(2):
                await alice.wait_for_member("bob")
            async with alice.monitor(bob.spawn(idle)) as down, events_of(alice, bob) as told:
                await trio.sleep(30)
                assert down.down is None
            assert told == {"alice": [], "bob": []}
