"""A store beside a dictionary, whatever is asked of it in whatever order.

The model takes writes one by one; SQLite gets them by groups, so this also says that a group
comes to what its writes come to one after the other (E1).
"""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import trio
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from steinadler import StaleEpoch
from steinadler.entity.database import Activate, Outcome, Release, Write
from steinadler.entity.sqlite import SqliteDatabase
from steinadler.entity.store import (
    Activation,
    Change,
    Commit,
    Delete,
    DeleteReminder,
    Held,
    Put,
    Reminder,
    SetReminder,
)
from steinadler.identity import EntityKey
from steinadler.testing import MemoryStore

KEYS = [EntityKey("A", "1"), EntityKey("A", "2"), EntityKey("B", "1")]
NAMES = ["a", "b\0", "ü"]
keys = st.sampled_from(KEYS)
names = st.sampled_from(NAMES)
times = st.sampled_from([1.0, 2.0, 3.0, 4.0])
ends = st.none() | times
changes = st.one_of(
    st.builds(Put, names, st.binary(max_size=3), ends),
    st.builds(Delete, names),
    st.builds(
        SetReminder,
        st.builds(
            Reminder, names, times, ends, st.none() | st.just(2), ends, st.binary(max_size=2)
        ),
    ),
    st.builds(DeleteReminder, names),
)
# How far behind the latest epoch a write's own one is.
lags = st.sampled_from([0, 0, 0, 1])


@dataclass
class Entity:
    """What the model knows of one."""

    epoch: int = 0
    owner: tuple[str, int] | None = None
    state: dict[str, Put] = field(default_factory=dict)
    reminders: dict[str, Reminder] = field(default_factory=dict)


class Model:
    def __init__(self) -> None:
        self.entities = {key: Entity() for key in KEYS}

    def write(self, write: Write) -> Outcome:
        entity = self.entities[write.key]
        if isinstance(write, Activate):
            if write.after not in (None, entity.epoch):
                return StaleEpoch()
            entity.epoch += 1
            entity.owner = write.owner
            state = {
                name: put
                for name, put in entity.state.items()
                if put.expires_at is None or put.expires_at > write.now
            }
            return Activation(
                entity.epoch,
                {name: put.value for name, put in state.items()},
                {name: put.expires_at for name, put in state.items() if put.expires_at},
            )
        stands = 0 < write.epoch == entity.epoch
        if isinstance(write, Release):
            entity.owner = None if stands else entity.owner
            return None
        if not stands:
            return StaleEpoch()
        for change in write.changes:
            self.change(entity, change)
        return None

    def change(self, entity: Entity, change: Change) -> None:
        match change:
            case Put():
                entity.state[change.key] = change
            case Delete():
                entity.state.pop(change.key, None)
            case SetReminder():
                entity.reminders[change.reminder.name] = change.reminder
            case DeleteReminder():
                entity.reminders.pop(change.name, None)


def same(outcome: Outcome, expected: Outcome) -> bool:
    if isinstance(expected, StaleEpoch):
        return isinstance(outcome, StaleEpoch)
    return outcome == expected


class Stores(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="steinadler-model-"))
        self.sqlite = SqliteDatabase(self.folder / "entities.sqlite3")
        self.sqlite.open()
        self.memory = MemoryStore()
        self.model = Model()

    def teardown(self) -> None:
        self.sqlite.close()
        shutil.rmtree(self.folder)

    @rule(
        group=st.lists(
            st.one_of(
                st.tuples(st.just("activate"), keys, times, st.none() | lags),
                st.tuples(st.just("release"), keys, lags),
                st.tuples(st.just("commit"), keys, lags, st.lists(changes, max_size=4)),
            ),
            min_size=1,
            max_size=8,
        )
    )
    def write(self, group: list[tuple]) -> None:
        # Epochs that were known before the group: nobody has one of which it was not told.
        before = {key: entity.epoch for key, entity in self.model.entities.items()}
        writes: list[Write] = []
        for what, key, *rest in group:
            if what == "activate":
                after = None if rest[1] is None else before[key] - rest[1]
                writes.append(Activate(key, (f"node{len(writes)}", 7), rest[0], after))
            elif what == "release":
                writes.append(Release(key, before[key] - rest[0]))
            else:
                writes.append(Commit(key, before[key] - rest[0], rest[1]))
        expected = [self.model.write(write) for write in writes]
        assert all(map(same, self.sqlite.write(writes), expected))
        assert all(map(same, trio.run(self.in_memory, writes), expected))

    async def in_memory(self, writes: list[Write]) -> list[Outcome]:
        outcomes: list[Outcome] = []
        for write in writes:
            try:
                if isinstance(write, Activate):
                    facts = (write.key, write.owner, write.now, write.after)
                    outcomes.append(await self.memory.activate(*facts))
                elif isinstance(write, Release):
                    await self.memory.release(write.key, write.epoch)
                    outcomes.append(None)
                else:
                    await self.memory.commit(write)
                    outcomes.append(None)
            except StaleEpoch as error:
                outcomes.append(error)
        return outcomes

    @rule(now=times)
    def sweep(self, now: float) -> None:
        """What is swept is what no activation from then on would see."""
        self.sqlite.sweep(now)
        for entity in self.model.entities.values():
            for expiring in (entity.state, entity.reminders):
                for name, thing in list(expiring.items()):
                    if thing.expires_at is not None and thing.expires_at <= now:
                        del expiring[name]
        for key in KEYS:
            self.memory.contents.state[key] = dict(self.model.entities[key].state)
            self.memory.contents.reminders[key] = dict(self.model.entities[key].reminders)

    @rule(before=times, type_=st.sampled_from(["A", "B", "C"]), first=st.integers(0, 99))
    def due(self, before: float, type_: str, first: int) -> None:
        """All that is due, in two parts."""
        expected = [
            (key, reminder)
            for key, entity in self.model.entities.items()
            for reminder in entity.reminders.values()
            if key.type == type_
            and reminder.due_at <= before
            and (reminder.expires_at is None or reminder.expires_at > reminder.due_at)
        ]
        expected.sort(key=lambda due: (due[1].due_at, due[0].id, due[1].name))
        last = expected[first - 1] if 0 < first <= len(expected) else None
        rest = expected if last is None else expected[first:]
        assert list(self.sqlite.due(type_, before, 99, last)) == rest
        assert list(trio.run(self.memory.due, type_, before, 99, last)) == rest
        assert list(self.sqlite.due(type_, before, 2, last)) == rest[:2]

    @invariant()
    def holders_and_reminders_are_the_models(self) -> None:
        for key, entity in self.model.entities.items():
            expected = Held(entity.epoch, entity.owner) if entity.epoch else None
            assert self.sqlite.look_up(key) == expected
            assert trio.run(self.memory.look_up, key) == expected
            reminders = sorted(entity.reminders.values(), key=lambda r: r.name)
            assert self.sqlite.reminders(key) == reminders
            assert trio.run(self.memory.reminders, key) == reminders


TestStores = Stores.TestCase
TestStores.settings = settings(max_examples=15, stateful_step_count=15)
