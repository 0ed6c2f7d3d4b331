"""Turns within turns of one chain of calls: never more than there is room for, and alone (E1)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import trio
from counting import outcome_of
from trio.testing import MockClock, wait_all_tasks_blocked

from steinadler import Config
from steinadler.config import EntitySettings
from steinadler.entity.behaviour import Active, Behaviour, Kind, Turn
from steinadler.entity.router import Entities
from steinadler.entity.store import Reminder
from steinadler.errors import EntityTimedOut
from steinadler.identity import EntityKey
from steinadler.testing import SimulatedCluster

KEY = EntityKey("Nesting", "1")


class Nesting(Behaviour):
    """A call names its chain in its argument, and runs until its method `may_end`."""

    def __init__(self, max_depth: int = 2) -> None:
        self.max_depth = max_depth
        self.running: list[tuple[str, str | None]] = []  # method, chain
        self.deepest = 0
        self.log: list[str] = []
        self.may_end: dict[str, trio.Event] = {}
        self.reminded = trio.Event()

    async def activate(self, entity: Active) -> None: ...
    async def deactivate(self, entity: Active) -> None:
        self.log.append("deactivate")
        assert not self.running

    def chain_of(self, turn: Turn) -> str | None:
        return str(turn.argument[0]) if turn.argument else None

    async def run(self, entity: Active, turn: Turn) -> str | None:
        mine = (turn.method, entity.chain)
        self.log.append(turn.method)
        self.running.append(mine)
        self.deepest = max(self.deepest, len(self.running))
        assert len({chain for _, chain in self.running}) == 1, "two chains at a time (E1)"
        try:
            if turn.method in self.may_end:
                await self.may_end[turn.method].wait()
            if turn.kind is Kind.CALL and turn.method == "remind":
                await entity.set_reminder(Reminder("due", entity.now() + 2, data=b"{"))
            if turn.kind is Kind.REMINDER:
                self.reminded.set()
            return entity.chain
        finally:
            self.running.remove(mine)

    async def until_running(self, method: str) -> None:
        while method not in [each for each, _ in self.running]:  # noqa: ASYNC110 - nobody says
            await trio.sleep(0.001)


@asynccontextmanager
async def nesting(behaviour: Nesting, **settings: Any) -> AsyncIterator[Entities]:
    config = Config(entities=replace(EntitySettings(), **settings))
    async with SimulatedCluster(1, config=config) as cluster:
        (node,) = await cluster.start("alice")
        node.entities.host("Nesting", behaviour)
        with trio.fail_after(1000):
            yield node.entities


async def test_no_more_turns_than_places_however_many_come_at_once(
    autojump_clock: MockClock,
) -> None:
    behaviour = Nesting(max_depth=3)
    behaviour.may_end = {"first": trio.Event(), "nested": trio.Event()}
    async with nesting(behaviour) as entities:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(entities.call, KEY, "first", ("c",))
            await behaviour.until_running("first")
            for _ in range(20):
                nursery.start_soon(entities.call, KEY, "nested", ("c",))
            await wait_all_tasks_blocked()
            assert behaviour.running == [("first", "c"), ("nested", "c"), ("nested", "c")]
            for event in behaviour.may_end.values():
                event.set()
        assert behaviour.deepest == 3
        assert behaviour.log.count("nested") == 20


async def test_what_comes_as_its_chain_ends_runs_beside_no_other_chain_e1(
    autojump_clock: MockClock,
) -> None:
    behaviour = Nesting(max_depth=4)
    async with nesting(behaviour) as entities:
        for _ in range(20):  # who is first within a tick is up to chance
            behaviour.may_end = {"first": trio.Event()}
            async with trio.open_nursery() as nursery:
                nursery.start_soon(entities.call, KEY, "first", ("c",))
                await behaviour.until_running("first")
                nursery.start_soon(entities.call, KEY, "stranger", ())
                await wait_all_tasks_blocked()
                nursery.start_soon(entities.call, KEY, "nested", ("c",))
                behaviour.may_end["first"].set()


async def test_a_turn_does_not_end_before_those_that_are_nested_in_it_e1(
    autojump_clock: MockClock,
) -> None:
    behaviour = Nesting()
    behaviour.may_end = {"nested": trio.Event(), "first": trio.Event()}
    async with nesting(behaviour) as entities:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(entities.call, KEY, "first", ("c",))
            await behaviour.until_running("first")
            nursery.start_soon(entities.call, KEY, "nested", ("c",))
            nursery.start_soon(entities.call, KEY, "stranger", ("d",))
            await behaviour.until_running("nested")
            behaviour.may_end["first"].set()
            await wait_all_tasks_blocked()
            assert behaviour.running == [("nested", "c")]
            behaviour.may_end["nested"].set()
        assert behaviour.log == ["first", "nested", "stranger"]


async def test_what_is_nested_is_cut_short_with_its_turn(autojump_clock: MockClock) -> None:
    behaviour = Nesting()
    behaviour.may_end = {"nested": trio.Event(), "first": trio.Event()}
    ended: list[Any] = []

    async with nesting(behaviour, turn_timeout_s=10) as entities:

        async def call(method: str) -> None:
            ended.append(await outcome_of(lambda: entities.call(KEY, method, ("c",))))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(call, "first")
            await trio.sleep(5)
            nursery.start_soon(call, "nested")
        assert [type(each) for each in ended] == [EntityTimedOut, EntityTimedOut]
        behaviour.may_end.clear()
        assert await entities.call(KEY, "again", ("e",)) == "e"
        assert behaviour.log == ["first", "nested", "deactivate", "again"]


async def test_a_reminder_that_is_due_within_a_turn_waits_for_its_own(
    autojump_clock: MockClock,
) -> None:
    """What it brings is no call, and says nothing of chains."""
    behaviour = Nesting()
    async with nesting(behaviour) as entities:
        await entities.call(KEY, "remind", ("c",))
        behaviour.may_end = {"first": trio.Event()}
        async with trio.open_nursery() as nursery:
            nursery.start_soon(entities.call, KEY, "first", ("c",))
            await behaviour.until_running("first")
            await trio.sleep(5)
            assert not behaviour.reminded.is_set()
            behaviour.may_end["first"].set()
        await behaviour.reminded.wait()
