"""Entities of several nodes: one owner, ordered handover, kills (E1-E3).

What holds whatever befalls a cluster is for recorded histories to say: see tests/histories.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from counting import KEY, Counting, meet_hosting, outcome_of, times, until_hosts
from trio.testing import MockClock

from steinadler import Node
from steinadler.delivery.placement import owner_of
from steinadler.entity.store import Reminder
from steinadler.errors import (
    EntityError,
    EntityHostFailed,
    EntityTimedOut,
    EntityUnavailable,
    RemoteError,
)
from steinadler.identity import EntityKey
from steinadler.testing import SimulatedCluster

NAMES = ("alice", "bob", "carol")
SEEDS = [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(100, 103))]


def keys_of(owner: str, names: tuple[str, ...] = NAMES, count: int = 1) -> list[EntityKey]:
    """Entities that a node owns when these host."""
    keys = (EntityKey("Counter", str(number)) for number in range(10_000))
    return [key for key in keys if owner_of(key, names) == owner][:count]


async def add(node: Node, key: EntityKey, number: int = 1, **options: Any) -> Any:
    return await node.entities.call(key, "add", (number,), **options)


class Calls:
    """Tasks that increment counters all the time where no call may fail, and what came of it."""

    def __init__(self) -> None:
        self.acknowledged: Counter[EntityKey] = Counter()
        self.errors: list[EntityError] = []
        self.slowest_s = 0.0
        self.stop = trio.Event()

    async def keep_adding(self, node: Node, key: EntityKey, every_s: float) -> None:
        while not self.stop.is_set():
            began = trio.current_time()
            try:
                await add(node, key, timeout_s=30)
            except EntityError as error:
                self.errors.append(error)
            else:
                self.acknowledged[key] += 1
                self.slowest_s = max(self.slowest_s, trio.current_time() - began)
            await trio.sleep(every_s)

    def check(self, cluster: SimulatedCluster) -> None:
        """No call failed, and each was carried out once (E2, E3)."""
        assert self.errors == []
        for key, acknowledged in self.acknowledged.items():
            assert int(cluster.contents.state[key]["count"].value) == acknowledged, key


@asynccontextmanager
async def calling(
    *nodes: Node, keys: list[EntityKey], every_s: float = 0.02
) -> AsyncIterator[Calls]:
    """Every node adds to every entity for the length of the block."""
    calls = Calls()
    async with trio.open_nursery() as nursery:
        for node in nodes:
            for key in keys:
                nursery.start_soon(calls.keep_adding, node, key, every_s)
        yield calls
        calls.stop.set()


# -- one owner ------------------------------------------------------------------------------------


async def test_calls_from_any_node_reach_the_one_owner(autojump_clock: MockClock) -> None:
    async with SimulatedCluster(2) as cluster:
        nodes, _, log = await meet_hosting(cluster, *NAMES)
        with trio.fail_after(60):
            for owner in NAMES:
                (key,) = keys_of(owner)
                for node in nodes:
                    assert await node.entities.call(key, "where", ()) == owner
        assert times(log, "activate") == 3


async def test_a_node_that_hosts_nothing_and_one_that_observes_may_call(
    autojump_clock: MockClock,
) -> None:
    async with SimulatedCluster(2) as cluster:
        await meet_hosting(cluster, *NAMES)
        (dave,) = await cluster.start("dave")
        (watcher,) = await cluster.start("watcher", observer=True)
        with trio.fail_after(10):
            for node in (dave, watcher):
                assert await node.entity("Counter", "one").call("where") == owner_of(KEY, NAMES)


async def test_afar_as_here_m5(autojump_clock: MockClock) -> None:
    """Errors, copies, deadlines and cancellation are those of a local call."""
    async with SimulatedCluster(2) as cluster:
        (alice, bob, _), behaviours, log = await meet_hosting(cluster, *NAMES)
        (key,) = keys_of("bob")
        bobs = behaviours["bob"]
        with trio.fail_after(60):
            assert await alice.entities.call(key, "echo", [(1, 2)]) == [(1, 2)]
            with pytest.raises(RemoteError, match="as told") as caught:
                await alice.entities.call(key, "fail", ())
            assert caught.value.type_name == "ValueError"
            with pytest.raises(EntityUnavailable, match="as told"):
                await alice.entities.call(key, "refuse", ())
            async with trio.open_nursery() as nursery:
                nursery.start_soon(alice.entities.call, key, "hold", ())
                await bobs.begun.wait()
                with pytest.raises(EntityTimedOut):
                    await add(alice, key, timeout_s=1)
                with trio.move_on_after(1) as scope:
                    await add(alice, key)
                assert scope.cancelled_caught
                await trio.sleep(0.1)
                assert bob.entities.statistics().waiting == 0
                bobs.may_end.set()
            assert await alice.entities.call(key, "get", ()) == 0
            reminder = Reminder("r", 1e10, 5.0, 3, 2e10, b"d")
            await alice.entities.set_reminder(key, reminder)
            assert await alice.entities.get_reminder(key, "r") == reminder
            await alice.entities.delete_reminder(key, "r")
            assert await alice.entities.get_reminder(key, "r") is None
        assert times(log, "add") == 0


async def test_a_wrong_owner_sends_the_call_on(autojump_clock: MockClock) -> None:
    """While two nodes see different members, calls arrive all the same, and run once."""
    async with SimulatedCluster(2) as cluster:
        (alice, *_), _, log = await meet_hosting(cluster, *NAMES)
        two = ("alice", "bob")
        key = next(k for k in keys_of("carol", count=20) if owner_of(k, two) == "bob")
        # As if carol's label were unknown.
        alice.entities._placement._hosts = {"Counter": list(two)}
        with trio.fail_after(10):
            assert await alice.entities.call(key, "where", ()) == "carol"
        assert times(log, "where") == 1
        assert alice.entities.statistics().retried == 1


async def test_the_owner_is_killed_and_the_next_call_finds_the_state(
    autojump_clock: MockClock,
) -> None:
    """S1, E2, E3: within 3.5 s; the turn that ran is not run again."""
    async with SimulatedCluster(2) as cluster:
        (alice, *_), behaviours, log = await meet_hosting(cluster, *NAMES)
        (key,) = keys_of("bob")
        with trio.fail_after(60):
            for expected in (1, 2, 3):
                assert await add(alice, key) == expected
            outcomes: list[Any] = []

            async def hold() -> None:
                outcomes.append(await outcome_of(lambda: alice.entities.call(key, "hold", ())))

            async with trio.open_nursery() as nursery:
                nursery.start_soon(hold)
                await behaviours["bob"].begun.wait()
                killed_at = trio.current_time()
                cluster.crash("bob")
            assert isinstance(outcomes[0], EntityHostFailed)
            assert await add(alice, key) == 4
            assert trio.current_time() - killed_at < 3.5
        assert times(log, "hold") == 1


@pytest.mark.slow
async def test_a_newcomer_takes_its_share_and_no_call_fails(autojump_clock: MockClock) -> None:
    """Ordered handover: the running turn ends, the old owner lets go, the new one begins."""
    async with SimulatedCluster(2, store_latency_s=(0.0005, 0.002)) as cluster:
        (alice, bob), _, log = await meet_hosting(cluster, "alice", "bob")
        keys = [EntityKey("Counter", str(number)) for number in range(12)]
        async with calling(alice, bob, keys=keys) as calls:
            await trio.sleep(1)
            (carol,) = await cluster.start("carol")
            carol.entities.host("Counter", Counting("carol", log))
            with trio.fail_after(10):
                await until_hosts(alice, *NAMES)
            await trio.sleep(2)
        calls.check(cluster)
        assert calls.slowest_s <= 1.0  # the planned handover's pause
        moved = [key for key in keys if owner_of(key, NAMES) == "carol"]
        assert moved
        assert {key.id for key in moved} == {
            id_ for node, what, id_ in log if (node, what) == ("carol", "activate")
        }
        unmoved = {key.id for key in keys if key not in moved}
        assert Counter(id_ for _, what, id_ in log if what == "activate" and id_ in unmoved) == (
            Counter(unmoved)
        )


@pytest.mark.parametrize("seed", SEEDS)
async def test_a_rolling_restart_fails_no_call(seed: int, autojump_clock: MockClock) -> None:
    async with SimulatedCluster(
        seed, latency_s=(0.0005, 0.005), store_latency_s=(0.0005, 0.005)
    ) as cluster:
        _, _, log = await meet_hosting(cluster, *NAMES)
        (caller,) = await cluster.start("dave")
        keys = [EntityKey("Counter", str(number)) for number in range(12)]
        async with calling(caller, keys=keys) as calls:
            with trio.fail_after(60):
                for name in NAMES:
                    await trio.sleep(1)
                    await cluster.stop(name)
                    await trio.sleep(0.5)
                    node = await cluster.restart(name)
                    node.entities.host("Counter", Counting(name, log))
                    await until_hosts(caller, *NAMES)
                await trio.sleep(1)
        assert sum(calls.acknowledged.values()) > 1000
        calls.check(cluster)


@pytest.mark.slow
@pytest.mark.parametrize("seed", SEEDS)
async def test_a_restarted_node_that_is_called_itself_forks_nothing(
    seed: int, autojump_clock: MockClock
) -> None:
    """It has met nobody yet, and owns everything as far as it knows: it waits for the holders."""
    async with SimulatedCluster(seed, store_latency_s=(0.0005, 0.005)) as cluster:
        (alice, *_), _, log = await meet_hosting(cluster, *NAMES)
        keys = [EntityKey("Counter", str(number)) for number in range(12)]
        async with calling(alice, keys=keys) as calls:
            await trio.sleep(0.5)
            await cluster.stop("bob")
            bob = await cluster.restart("bob")
            bob.entities.host("Counter", Counting("bob", log))
            async with calling(bob, keys=keys) as more:
                await trio.sleep(5)
        calls.errors += more.errors
        calls.acknowledged += more.acknowledged
        calls.check(cluster)


async def test_a_reminder_runs_on_its_owner_once_and_moves_with_it_e3(
    autojump_clock: MockClock,
) -> None:
    async with SimulatedCluster(2) as cluster:
        (alice, *_), _, log = await meet_hosting(cluster, *NAMES)
        (key,) = keys_of("bob")
        with trio.fail_after(200):
            await alice.entities.call(key, "remind", ("r", 10.0, 10.0, None))
            await trio.sleep(25)
            assert [entry for entry in log if entry[1] == "reminder r"] == [
                ("bob", "reminder r", key.id)
            ] * 2
            cluster.crash("bob")
            await trio.sleep(20)
        owner = owner_of(key, ("alice", "carol"))
        assert [entry[0] for entry in log if entry[1] == "reminder r"][2:] == [owner] * 2


@pytest.mark.parametrize(
    "fields",
    [
        ("r", 0.0, -1.0, None, None, b""),
        ("r", 0.0, 0.0, None, None, b""),
        ("r", "soon", None, None, None, b""),
        (5, 0.0, None, None, None, b""),
    ],
)
async def test_a_members_impossible_reminder_is_refused_and_harms_nothing_x4(
    fields: tuple[Any, ...], autojump_clock: MockClock
) -> None:
    async with SimulatedCluster(1) as cluster:
        (alice,), _, log = await meet_hosting(cluster, "alice")
        (mallory,) = await cluster.start("mallory")
        with trio.fail_after(60):
            assert await mallory.entities.call(KEY, "add", (1,)) == 1
            with pytest.raises(RemoteError) as raised:
                await mallory.entities.set_reminder(KEY, Reminder(*fields))
            assert raised.value.type_name == "ConfigError"
            await trio.sleep(5)
            assert await mallory.entities.call(KEY, "add", (1,)) == 2
        assert alice.entities.statistics().lost == 0
        assert times(log, "activate") == 1


@pytest.mark.parametrize("caller", ["alice", "bob"])
async def test_who_asks_of_reminders_need_not_wait_for_ever(
    caller: str, autojump_clock: MockClock
) -> None:
    class Dawdling(Counting):
        async def activate(self, entity: Any) -> None:
            await self.may_end.wait()
            await super().activate(entity)

    async with SimulatedCluster(1) as cluster:
        alice, bob = await cluster.start("alice", "bob")
        behaviour = Dawdling("alice")
        alice.entities.host("Counter", behaviour)
        with trio.fail_after(60):
            await cluster.agreed()
            await until_hosts(bob, "alice")
            entities = {"alice": alice, "bob": bob}[caller].entities
            began = trio.current_time()
            with pytest.raises(EntityTimedOut, match="'set_reminder' within 3 s"):
                await entities.set_reminder(KEY, Reminder("r", 0.0), timeout_s=3)
            assert trio.current_time() - began == pytest.approx(3, abs=0.1)
            behaviour.may_end.set()
            assert await bob.entities.call(KEY, "get", ()) == 0
            assert await entities.get_reminder(KEY, "r") is None  # what nobody waits for is dropped
