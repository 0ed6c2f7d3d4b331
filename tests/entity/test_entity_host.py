"""One node: activation, turns, what waits, passivation, what is lost, timers and reminders."""

from __future__ import annotations

import gc
import weakref
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest
import trio
from counting import KEY, Counting, meet_hosting, outcome_of, times
from trio.testing import MockClock

from steinadler import Config, Node
from steinadler.config import EntitySettings
from steinadler.entity import schedule
from steinadler.entity.store import Held, Reminder
from steinadler.errors import (
    ConfigError,
    EntityTimedOut,
    EntityUnavailable,
    NoSuchCommand,
    NoSuchEntityType,
    NotEncodable,
    RemoteError,
    StaleEpoch,
    StoreUnavailable,
)
from steinadler.identity import EntityKey
from steinadler.testing import SimulatedCluster

OTHER = EntityKey("Counter", "other")


class Alone:
    """A node that hosts counters, alone in its cluster."""

    def __init__(self, cluster: SimulatedCluster, node: Node, behaviour: Counting) -> None:
        self.cluster = cluster
        self.node = node
        self.behaviour = behaviour
        self.log = behaviour.log
        self.entities = node.entities

    async def call(self, method: str, *args: Any, key: EntityKey = KEY, **options: Any) -> Any:
        return await self.entities.call(key, method, args, **options)

    def steal(self, key: EntityKey = KEY) -> None:
        """Another node takes the entity over, in the store."""
        held = self.cluster.contents.held[key]
        self.cluster.contents.held[key] = Held(held.epoch + 1, ("thief", 1))

    async def gone(self) -> None:
        while self.entities.active_count("Counter"):  # noqa: ASYNC110 - nobody says when
            await trio.sleep(0.01)


@asynccontextmanager
async def alone(**settings: Any) -> AsyncIterator[Alone]:
    config = Config(entities=replace(EntitySettings(), **settings))
    async with SimulatedCluster(1, config=config) as cluster:
        nodes, behaviours, _ = await meet_hosting(cluster, "alice")
        with trio.fail_after(100_000):
            yield Alone(cluster, nodes[0], behaviours["alice"])


# -- calls ----------------------------------------------------------------------------------------


async def test_the_first_call_activates_and_the_next_finds_it_active(
    autojump_clock: MockClock,
) -> None:
    async with alone() as host:
        assert host.entities.active(KEY) is None
        assert await host.call("add", 2) == 2
        assert await host.call("add", 3) == 5
        assert [what for _, what, _ in host.log] == ["activate", "add", "add"]
        active = host.entities.active(KEY)
        assert active is not None
        assert (active.key, active.epoch, active.memory) == (KEY, 1, 5)
        assert host.entities.active_count("Counter") == 1


async def test_the_turn_and_the_caller_get_their_own_copies_m5(autojump_clock: MockClock) -> None:
    """Local calls encode and decode, as remote ones must."""
    async with alone() as host:
        given = [1, {"a": (2, 3)}]
        got = await host.call("echo", given)
        assert got == (given,)
        assert got[0] is not given
        with pytest.raises(NotEncodable):
            await host.call("echo", object())
        assert times(host.log, "echo") == 1


async def test_errors_come_as_they_would_from_afar(autojump_clock: MockClock) -> None:
    async with alone() as host:
        with pytest.raises(RemoteError, match="as told") as caught:
            await host.call("fail")
        assert caught.value.type_name == "ValueError"
        with pytest.raises(EntityUnavailable, match="as told"):
            await host.call("refuse")
        with pytest.raises(NoSuchCommand):
            await host.call("fly")
        with pytest.raises(RemoteError) as caught:
            await host.call("unsayable")
        assert caught.value.type_name == "NotEncodable"
        assert await host.call("add", 1) == 1  # it stays active
        assert times(host.log, "activate") == 1


async def test_a_type_that_nobody_hosts(autojump_clock: MockClock) -> None:
    async with alone(wait_for_host_s=7) as host:
        began = trio.current_time()
        with pytest.raises(NoSuchEntityType, match="Cart"):
            await host.entities.call(EntityKey("Cart", "1"), "add", ())
        assert trio.current_time() - began == pytest.approx(7)


async def test_a_call_waits_for_a_host_to_come(autojump_clock: MockClock) -> None:
    async with alone() as host:
        got: list[Any] = []

        async def call() -> None:
            got.append(await host.entities.call(EntityKey("Late", "1"), "where", ()))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(call)
            await trio.sleep(5)
            host.entities.host("Late", Counting("late"))
        assert got == ["late"]


async def test_turns_of_one_entity_follow_each_other_and_others_do_not_wait_e1(
    autojump_clock: MockClock,
) -> None:
    async with alone() as host:
        results: list[Any] = []

        async def add(number: int) -> None:
            results.append(await host.call("add", number))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(host.call, "hold")
            await host.behaviour.begun.wait()
            for number in (1, 10, 100):
                nursery.start_soon(add, number)
                await trio.sleep(0.1)
            assert await host.call("add", 7, key=OTHER) == 7
            assert results == []
            host.behaviour.may_end.set()
        assert results == [1, 11, 111]


async def test_what_waits_is_bounded_and_the_refused_did_not_run(autojump_clock: MockClock) -> None:
    async with alone(max_waiting_calls=3) as host:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(host.call, "hold")
            await host.behaviour.begun.wait()
            for _ in range(3):
                nursery.start_soon(host.call, "add", 1)
            await trio.sleep(0.1)
            with pytest.raises(EntityUnavailable, match="3 calls wait"):
                await host.call("add", 1000)
            host.behaviour.may_end.set()
        assert await host.call("get") == 3


async def test_no_more_entities_than_the_limit_are_active_x4(autojump_clock: MockClock) -> None:
    async with alone(max_active=1) as host:
        await host.call("add", 1)
        with pytest.raises(EntityUnavailable, match="max_active"):
            await host.call("add", 1, key=OTHER)


async def test_a_caller_that_gives_up_takes_back_what_has_not_begun(
    autojump_clock: MockClock,
) -> None:
    """Cancelled or out of time: a call that waits does not run, and one that runs goes on."""
    async with alone() as host:
        async with trio.open_nursery() as nursery:
            with trio.move_on_after(1) as first:
                await host.call("hold")
            assert first.cancelled_caught
            with trio.move_on_after(1) as second:
                await host.call("add", 1)
            assert second.cancelled_caught
            with pytest.raises(EntityTimedOut, match="within 2 s"):
                await host.call("add", 10, timeout_s=2)
            nursery.start_soon(host.call, "add", 100)
            await trio.sleep(0.1)
            assert host.behaviour.running == 1
            host.behaviour.may_end.set()
        assert await host.call("get") == 100


async def test_a_turn_past_its_limit_is_cut_and_its_entity_starts_anew(
    autojump_clock: MockClock,
) -> None:
    async with alone(turn_timeout_s=4) as host:
        await host.call("add", 1)
        began = trio.current_time()
        with pytest.raises(EntityTimedOut, match="too long"):
            await host.call("hold")
        assert 4 <= trio.current_time() - began <= 7
        assert await host.call("add", 1) == 2
        assert times(host.log, "activate") == 2


async def test_an_answer_that_came_too_late_to_be_cut_cuts_no_other_turn(
    autojump_clock: MockClock,
) -> None:
    """A worker that was to be cancelled gives up its scope with the turn that it was meant for."""
    async with alone(turn_timeout_s=4) as host:

        async def end_when_cut() -> None:
            while host.behaviour.running:
                await trio.sleep(1)
                if trio.current_time() > began + 4:
                    host.behaviour.may_end.set()

        began = trio.current_time()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(outcome_of, lambda: host.call("hold"))
            await host.behaviour.begun.wait()
            nursery.start_soon(end_when_cut)
        for _ in range(3):
            assert await host.call("echo", 1) == (1,)


# -- passivation ----------------------------------------------------------------------------------


async def test_an_idle_entity_is_passivated_and_finds_its_state_again(
    autojump_clock: MockClock,
) -> None:
    async with alone() as host:
        host.behaviour.idle_s = 100
        await host.call("add", 5)
        await trio.sleep(60)
        await host.call("add", 1, key=OTHER)
        await host.call("add", 1)
        await trio.sleep(60)  # 120 since it began, 60 since it was called
        assert host.entities.active(KEY) is not None
        await trio.sleep(45)
        assert host.entities.active(KEY) is None
        assert host.cluster.contents.held[KEY].owner is None
        assert await host.call("get") == 6
        statistics = host.entities.statistics()
        assert (statistics.passivations, statistics.activations, statistics.turns) == (2, 3, 4)


async def test_many_are_passivated(autojump_clock: MockClock) -> None:
    """More than are deactivated at once."""
    async with alone() as host:
        host.behaviour.idle_s = 100
        for number in range(600):
            await host.call("echo", key=EntityKey("Counter", str(number)))
        assert host.entities.active_count("Counter") == 600
        await trio.sleep(120)
        assert host.entities.active_count("Counter") == 0


# -- what is lost ---------------------------------------------------------------------------------


async def test_a_turn_whose_write_is_refused_is_not_acknowledged_e1(
    autojump_clock: MockClock,
) -> None:
    async with alone() as host:
        await host.call("add", 1)
        host.steal()
        with pytest.raises(StaleEpoch):
            await host.call("add", 10)
        await host.gone()
        assert host.cluster.contents.held[KEY].owner == ("thief", 1)  # not ours to let go of
        assert await host.call("add", 100) == 101
        assert host.cluster.contents.held[KEY].epoch == 3


async def test_a_write_with_an_unknown_outcome_is_not_acknowledged_e2(
    autojump_clock: MockClock,
) -> None:
    """The next turn sees what the store holds, whatever was in memory."""
    async with alone() as host:
        await host.call("add", 1)
        with host.cluster.store("alice").outage():
            with pytest.raises(StoreUnavailable):
                await host.call("add", 10)
            with pytest.raises(StoreUnavailable):
                await host.call("add", 10)
        assert await host.call("add", 100) == 101


async def test_a_write_that_is_swallowed_is_not_acknowledged_either_e2(
    autojump_clock: MockClock,
) -> None:
    class Swallowing(Counting):
        async def run(self, entity: Any, turn: Any) -> Any:
            return await outcome_of(lambda: entity.write({"count": b"1"})) and "fine"

    async with alone() as host:
        host.entities.host("Swallowing", Swallowing("alice"))
        key = EntityKey("Swallowing", "1")
        await host.entities.call(key, "add", ())
        host.steal(key)
        with pytest.raises(StaleEpoch):
            await host.entities.call(key, "add", ())


async def test_nothing_is_kept_of_an_entity_that_was_lost(autojump_clock: MockClock) -> None:
    """Neither what its turn had in its hands nor, for all of `idle_s`, the object."""

    class Large:
        pass

    held: list[weakref.ref[Large]] = []

    class Holding(Counting):
        async def run(self, entity: Any, turn: Any) -> Any:
            large = Large()
            held.append(weakref.ref(large))
            await entity.write({"count": b"1"})

    async with alone() as host:
        host.entities.host("Holding", Holding("alice"))
        key = EntityKey("Holding", "1")
        for _ in range(40):
            await outcome_of(lambda: host.entities.call(key, "get", ()))
            host.steal(key)
        gc.collect()
        assert host.entities.statistics().lost > 10
        assert [each for each in held if each() is not None] == []
        assert host.entities._host is not None
        assert len(host.entities._host._attendant._idle) <= 10


async def test_an_activation_that_fails_fails_who_waits_and_is_tried_again(
    autojump_clock: MockClock,
) -> None:
    class Failing(Counting):
        fails = True

        async def activate(self, entity: Any) -> None:
            if self.fails:
                raise ValueError("as told")
            await super().activate(entity)

    async with alone() as host:
        behaviour = Failing("alice")
        host.entities.host("Failing", behaviour)
        key = EntityKey("Failing", "1")
        with pytest.raises(RemoteError, match="as told"):
            await host.entities.call(key, "get", ())
        assert host.entities.active_count("Failing") == 0
        assert host.cluster.contents.held[key].owner is None
        behaviour.fails = False
        assert await host.entities.call(key, "get", ()) == 0


async def test_expired_state_is_not_read(autojump_clock: MockClock) -> None:
    """Neither by the activation that wrote it nor by a later one."""
    async with alone() as host:
        host.behaviour.idle_s = 20
        await host.call("write", {"short": b"1", "long": b"2"}, {"short": 10.0, "long": 1000.0})
        assert await host.call("read", "short") == b"1"
        await trio.sleep(11)
        assert await host.call("read", "short") is None
        await host.call("write", {"short": b"3"}, {"short": 50.0})
        await trio.sleep(30)
        await host.gone()
        assert await host.call("read", "short") == b"3"
        await trio.sleep(15)
        await host.call("echo")
        await trio.sleep(10)
        assert await host.call("read", "short") is None
        assert await host.call("read", "long") == b"2"


# -- hosting --------------------------------------------------------------------------------------


async def test_who_stops_hosting_lets_the_turn_end_and_owns_nothing(
    autojump_clock: MockClock,
) -> None:
    async with alone() as host:
        got: list[Any] = []

        async def hold() -> None:
            got.append(await host.call("hold"))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(hold)
            await host.behaviour.begun.wait()
            await host.call("add", 1, key=OTHER)
            nursery.start_soon(host.entities.stop_hosting, "Counter")
            await trio.sleep(1)
            assert host.entities.active(OTHER) is None
            assert host.entities.hosted() == ()
            assert "$entities" not in host.node.labels
            assert got == []
            host.behaviour.may_end.set()
        assert got == ["held"]
        assert host.entities.active_count("Counter") == 0
        assert host.cluster.contents.held[KEY].owner is None
        host.entities.host("Counter", host.behaviour)
        assert await host.call("get", key=OTHER) == 1


async def test_a_turn_that_does_not_end_is_cut_when_its_entity_must_go(
    autojump_clock: MockClock,
) -> None:
    async with alone(drain_s=3) as host:
        errors: list[Any] = []

        async def hold() -> None:
            errors.append(await outcome_of(lambda: host.call("hold")))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(hold)
            await host.behaviour.begun.wait()
            with trio.fail_after(6):
                await host.entities.stop_hosting()
        assert isinstance(errors[0], EntityTimedOut)


async def test_what_cannot_be_hosted(autojump_clock: MockClock) -> None:
    async with alone() as host:
        with pytest.raises(ConfigError, match="already"):
            host.entities.host("Counter", host.behaviour)
        with pytest.raises(ConfigError, match="not an entity type"):
            host.entities.host("a,b", host.behaviour)
        with pytest.raises(ConfigError, match="not an entity type"):
            host.node.entity(42, "1")  # type: ignore[arg-type]
        with pytest.raises(ConfigError, match="an entity's id is text"):
            host.node.entity("Counter", 42)  # type: ignore[arg-type]
        for number in range(8):
            with_many = f"{number}" * 250
            host.entities.host(with_many, host.behaviour)
        with pytest.raises(ConfigError, match="take 2048 characters at most"):
            host.entities.host("x" * 250, host.behaviour)
        assert "x" * 250 not in host.entities.hosted()
        (observer,) = await host.cluster.start("watcher", observer=True)
        with pytest.raises(ConfigError, match="observes"):
            observer.entities.host("Counter", host.behaviour)


# -- timers and reminders -------------------------------------------------------------------------


async def test_timers_run_on_their_grid_and_end(autojump_clock: MockClock) -> None:
    async with alone() as host:
        await host.call("timer", "once", 5.0, None, None, None)
        await trio.sleep(4.9)
        assert times(host.log, "timer tick") == 0
        await trio.sleep(0.2)
        assert times(host.log, "timer tick") == 1
        await host.call("timer", "thrice", 10.0, 10.0, 2, None)
        await trio.sleep(1000)
        assert times(host.log, "timer tick") == 4
        await host.call("timer", "for a while", 10.0, 10.0, None, 35.0)
        await trio.sleep(1000)
        assert times(host.log, "timer tick") == 7
        await host.call("timer", "stopped", 10.0, 10.0, None, None)
        await trio.sleep(15)
        await host.call("stop", "stopped")
        await trio.sleep(1000)
        assert times(host.log, "timer tick") == 8


async def test_a_timer_that_is_set_again_and_again_is_kept_once(
    autojump_clock: MockClock,
) -> None:
    async with alone() as host:
        for _ in range(100):
            await host.call("timer", "t", 30.0, None, None, None)
        assert host.entities._host is not None
        timers: Any = host.entities._host.on_timer.__self__  # type: ignore[attr-defined]
        assert len(timers._agenda) <= 10
        await trio.sleep(31)
        assert times(host.log, "timer tick") == 1


async def test_a_timer_ends_with_its_activation(autojump_clock: MockClock) -> None:
    async with alone() as host:
        host.behaviour.idle_s = 50
        await host.call("timer", "late", 100.0, None, None, None)
        await trio.sleep(200)
        assert times(host.log, "timer tick") == 0
        await host.call("timer", "late", 30.0, None, None, None)
        await trio.sleep(31)
        assert times(host.log, "timer tick") == 1


async def test_a_timer_does_not_pile_up_behind_a_long_turn(autojump_clock: MockClock) -> None:
    async with alone(turn_timeout_s=1000) as host:
        await host.call("timer", "often", 1.0, 1.0, None, None)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(host.call, "hold")
            await trio.sleep(100.5)
            assert times(host.log, "timer tick") == 0
            host.behaviour.may_end.set()
        await trio.sleep(0.1)
        assert times(host.log, "timer tick") == 1
        await trio.sleep(1)
        assert times(host.log, "timer tick") == 2


async def test_a_reminder_outlives_the_activation(autojump_clock: MockClock) -> None:
    async with alone() as host:
        host.behaviour.idle_s = 20
        await host.call("remind", "once", 100.0, None, None)
        await host.call("remind", "thrice", 50.0, 50.0, 2)
        await trio.sleep(45)
        await host.gone()
        await trio.sleep(58)
        assert times(host.log, "reminder once") == 1
        assert times(host.log, "reminder thrice") == 2
        await trio.sleep(1000)
        assert times(host.log, "reminder once") == 1
        assert times(host.log, "reminder thrice") == 3
        assert host.cluster.contents.reminders[KEY] == {}


async def test_missed_occurrences_are_run_once(autojump_clock: MockClock) -> None:
    async with alone() as host:
        await host.call("remind", "often", 10.0, 10.0, None)
        await host.entities.stop_hosting()
        await trio.sleep(95)
        host.entities.host("Counter", host.behaviour)
        await trio.sleep(2)
        assert times(host.log, "reminder often") == 1
        await trio.sleep(10)
        assert times(host.log, "reminder often") == 2


async def test_reminders_are_changed_beside_a_turn(autojump_clock: MockClock) -> None:
    """As a program behind a sidecar does from within its own turn: it must not wait for itself."""
    async with alone() as host:
        due_at = host.entities.active(KEY) is None and 1_750_000_500.0
        reminder = Reminder("r", float(due_at), data=b"d")
        await host.entities.set_reminder(KEY, reminder)  # of one that is not active
        async with trio.open_nursery() as nursery:
            nursery.start_soon(host.call, "hold")
            await host.behaviour.begun.wait()
            assert await host.entities.get_reminder(KEY, "r") == reminder
            later = replace(reminder, due_at=reminder.due_at + 100)
            await host.entities.set_reminder(KEY, later)
            assert await host.entities.get_reminder(KEY, "r") == later
            host.behaviour.may_end.set()
        await trio.sleep(550)
        assert times(host.log, "reminder r") == 0
        await trio.sleep(60)
        assert times(host.log, "reminder r") == 1
        await host.entities.set_reminder(KEY, replace(later, due_at=later.due_at + 100))
        await host.entities.delete_reminder(KEY, "r")
        assert await host.entities.get_reminder(KEY, "r") is None
        await trio.sleep(200)
        assert times(host.log, "reminder r") == 1


async def test_an_occurrence_is_taken_before_its_turn_e3(autojump_clock: MockClock) -> None:
    """So that it cannot run twice; when it cannot be taken, it is not run yet."""
    async with alone() as host:
        await host.call("remind", "r", 10.0, None, None)
        with host.cluster.store("alice").outage():
            await trio.sleep(60)
            assert times(host.log, "reminder r") == 0
        await trio.sleep(5)
        assert times(host.log, "reminder r") == 1
        assert host.cluster.contents.reminders[KEY] == {}


async def test_reminders_that_are_stuck_hold_up_no_others(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of entities that cannot be activated: the earliest of all, and more than one poll reads."""
    monkeypatch.setattr(schedule, "PAGE", 5)
    monkeypatch.setattr(schedule, "PAGES_PER_POLL", 2)
    attempts: Counter[str] = Counter()

    class Stuck(Counting):
        async def activate(self, entity: Any) -> None:
            attempts[entity.key.id] += 1
            if entity.key.id.startswith("stuck"):
                raise EntityUnavailable("as told")
            await super().activate(entity)

    async with alone() as host:
        now = host.entities._host.clock() if host.entities._host else 0.0
        host.entities.host("Stuck", behaviour := Stuck("alice"))
        reminders = host.cluster.contents.reminders
        for number in range(40):
            key = EntityKey("Stuck", f"stuck {number}")
            reminders[key] = {name: Reminder(name, now - 1000, data=b"d") for name in "ab"}
        for type_ in ("Stuck", "Counter"):
            reminders[EntityKey(type_, "good")] = {"r": Reminder("r", now + 5, data=b"d")}
        await trio.sleep(8)
        assert times(host.log, "reminder r") == 1  # of another type: as if nothing was stuck
        await trio.sleep(10)
        assert times(behaviour.log, "reminder r") == 1
        await trio.sleep(200)
        assert len(attempts) == 41
        assert all(2 <= attempts[f"stuck {number}"] <= 10 for number in range(40))


async def test_a_store_that_is_away_at_first_is_opened_later(autojump_clock: MockClock) -> None:
    async with SimulatedCluster(1) as cluster:
        (node,) = await cluster.start("alice")
        with cluster.store("alice").outage():
            node.entities.host("Counter", Counting("alice"))
            with pytest.raises(StoreUnavailable):
                await node.entities.call(KEY, "get", ())
        with trio.fail_after(5):
            await trio.sleep(2)
            assert await node.entities.call(KEY, "get", ()) == 0
