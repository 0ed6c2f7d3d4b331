"""Entities that move: what is late on its way to or from the store fails no call (E1, E2).

Each test holds back one answer or one write of the store for as long as it takes the other node to
get on, which is what a busy disk does now and then.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio
from counting import Counting, meet_hosting, outcome_of, times, until_hosts
from trio.testing import MockClock

from steinadler import Node
from steinadler.delivery.placement import owner_of
from steinadler.entity.store import Activation, Store
from steinadler.errors import StaleEpoch
from steinadler.identity import EntityKey
from steinadler.testing import SimulatedCluster

BOTH = ("alice", "bob")
# Alice's while she hosts alone, and bob's when he does too.
KEY = next(
    key
    for key in (EntityKey("Counter", str(number)) for number in range(99))
    if owner_of(key, BOTH) == "bob"
)


class Late:
    """Holds back a store's next activation, on its way there or its answer on the way back."""

    def __init__(self, store: Store, *, answer: bool) -> None:
        self.reached, self.go_on = trio.Event(), trio.Event()
        self._activate: Callable[..., Awaitable[Activation]] = store.activate
        self._store: Any = store
        self._answer = answer
        self._store.activate = self._late

    async def _late(self, *args: Any) -> Activation:
        self._store.activate = self._activate
        taken = await self._activate(*args) if self._answer else None
        self.reached.set()
        await self.go_on.wait()
        return taken or await self._activate(*args)


async def add(node: Node) -> Any:
    return await outcome_of(lambda: node.entities.call(KEY, "add", (1,)))


async def join(cluster: SimulatedCluster, log: list[tuple[str, str, str]]) -> Node:
    """Bob comes, and hosts."""
    (bob,) = await cluster.start("bob")
    bob.entities.host("Counter", Counting("bob", log))
    await until_hosts(bob, *BOTH)
    return bob


async def test_a_former_owners_late_activation_ends_no_turn_of_the_new_owner_e1(
    autojump_clock: MockClock,
) -> None:
    async with SimulatedCluster(1) as cluster:
        (alice,), _, log = await meet_hosting(cluster, "alice")
        late = Late(cluster.store("alice"), answer=False)
        results: list[Any] = []
        answered = trio.Event()

        async def call() -> None:
            results.append(await add(alice))
            answered.set()

        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(call)
                await late.reached.wait()
                await join(cluster, log)
                await until_hosts(alice, *BOTH)
                await answered.wait()
                late.go_on.set()
            await trio.sleep(1)
            results += [await add(alice), await add(alice)]
        assert results == [1, 2, 3]
        assert {node for node, what, _ in log if what == "add"} == {"bob"}
        assert alice.entities.active_count("Counter") == 0


async def test_an_owner_whose_epoch_is_on_its_way_to_it_is_waited_for_e1(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bob reads in the store that alice has it before alice hears so herself."""
    async with SimulatedCluster(1) as cluster:
        (alice,), _, log = await meet_hosting(cluster, "alice")
        late = Late(cluster.store("alice"), answer=True)
        # She has not heard that bob hosts, for the length of the test.
        monkeypatch.setattr(alice.entities._placement, "_members", lambda: (alice.members()[0],))
        assert alice.members()[0].node == alice.id
        results: list[tuple[str, Any]] = []

        async def call(node: Node) -> None:
            results.append((node.name, await add(node)))

        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(call, alice)
                await late.reached.wait()
                nursery.start_soon(call, await join(cluster, log))
                await trio.sleep(2)
                assert results == []
                late.go_on.set()
        assert sorted(total for _, total in results) == [1, 2]
        assert {name for name, _ in results} == set(BOTH)


async def test_many_that_are_asked_for_at_once_are_all_let_go(autojump_clock: MockClock) -> None:
    """Five hundred entities move to a newcomer, each by a call to it, and each once."""
    keys = [EntityKey("Counter", f"many{number}") for number in range(500)]
    moving = [key for key in keys if owner_of(key, BOTH) == "bob"]
    async with SimulatedCluster(1) as cluster:
        (alice,), _, log = await meet_hosting(cluster, "alice")
        for key in keys:
            await alice.entities.call(key, "add", (1,))
        with trio.fail_after(60):
            bob = await join(cluster, log)
            async with trio.open_nursery() as nursery:
                for key in moving:
                    nursery.start_soon(bob.entities.call, key, "add", (1,))
            assert bob.entities.active_count("Counter") == len(moving)
            assert alice.entities.active_count("Counter") == len(keys) - len(moving)
        assert times(log, "deactivate") == len(moving)
        assert {cluster.contents.held[key].epoch for key in moving} == {2}


async def test_in_a_partition_a_refused_turn_stored_nothing_and_the_next_call_succeeds_e1(
    autojump_clock: MockClock,
) -> None:
    """What a caller on each side sees while both sides reach the store and call one entity."""
    async with SimulatedCluster(1) as cluster:
        (alice, bob), _, _ = await meet_hosting(cluster, *BOTH)

        def stored() -> int:
            return int(cluster.contents.state[KEY]["count"].value)

        with trio.fail_after(60):
            assert await add(bob) == 1
            with cluster.partition({"alice"}, {"bob"}):
                await until_hosts(alice, "alice")
                await until_hosts(bob, "bob")
                total = 1
                for node in (alice, bob, alice, bob):
                    if total > 1 or node is bob:
                        assert isinstance(await add(node), StaleEpoch)
                        assert stored() == total
                    total += 1
                    assert await add(node) == stored() == total
            await cluster.agreed()
            await until_hosts(alice, *BOTH)
            await until_hosts(bob, *BOTH)
            assert [await add(alice), await add(bob), await add(alice)] == [6, 7, 8]
