"""Which writes share a transaction, and that none of them suffers for another."""

from __future__ import annotations

import queue
from collections.abc import Sequence

import pytest
import trio

from steinadler import StoreUnavailable
from steinadler.entity import grouping
from steinadler.entity.database import Database, Outcome, Write, settle, size_of
from steinadler.entity.grouping import MAX_GROUP_BYTES, MAX_GROUP_WRITES, GroupingStore
from steinadler.entity.store import Commit, Due, Held, Put, Reminder
from steinadler.entity.stores import open_store
from steinadler.errors import ConfigError
from steinadler.identity import EntityKey
from steinadler.testing import MemoryContents, MemoryStore

KEY = EntityKey("Cart", "1")


class SlowDatabase(Database):
    """Writes nothing, and each group only when it is let."""

    def __init__(self) -> None:
        self.groups: list[Sequence[Write]] = []
        self.begun: queue.SimpleQueue[None] = queue.SimpleQueue()
        self.let: queue.SimpleQueue[Exception | None] = queue.SimpleQueue()

    def open(self) -> None: ...
    def close(self) -> None: ...
    def sweep(self, now: float) -> None: ...

    def write(self, group: Sequence[Write]) -> Sequence[Outcome]:
        self.groups.append(group)
        self.begun.put(None)
        error = self.let.get(timeout=10)
        if error is not None:
            raise error
        held = {write.key: Held(1, ("a", 1)) for write in group}
        return settle(group, held).outcomes(group, ())

    def look_up(self, key: EntityKey) -> Held | None:
        return None

    def reminders(self, key: EntityKey) -> Sequence[Reminder]:
        return ()

    def due(self, type: str, before: float, limit: int, after: Due | None = None) -> Sequence[Due]:
        return ()

    async def has_begun(self) -> None:
        await trio.to_thread.run_sync(lambda: self.begun.get(timeout=10))


def commit(number: int, size: int = 0) -> Commit:
    return Commit(EntityKey("Cart", str(number)), 1, (Put("k", bytes(size)),))


async def test_what_arrives_meanwhile_goes_with_the_next_group() -> None:
    database = SlowDatabase()
    store = GroupingStore(database)
    await store.open()
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(store.commit, commit(0))
            await database.has_begun()
            for number in range(1, MAX_GROUP_WRITES + 11):
                nursery.start_soon(store.commit, commit(number))
            await trio.testing.wait_all_tasks_blocked()
            for _ in range(3):
                database.let.put(None)
    assert [len(group) for group in database.groups] == [1, MAX_GROUP_WRITES, 10]
    await store.aclose()


async def test_a_group_is_bounded_in_bytes_too() -> None:
    database = SlowDatabase()
    store = GroupingStore(database)
    await store.open()
    sizes = [10, MAX_GROUP_BYTES // 2, MAX_GROUP_BYTES // 3, MAX_GROUP_BYTES // 2]
    sizes += [2 * MAX_GROUP_BYTES, 10]
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            for number, size in enumerate(sizes):
                nursery.start_soon(store.commit, commit(number, size))
                await trio.testing.wait_all_tasks_blocked()
            await database.has_begun()
            for _ in sizes:
                database.let.put(None)
    groups = [sum(map(size_of, group)) for group in database.groups]
    assert sum(map(len, database.groups)) == len(sizes)
    # What is too large for any group goes alone.
    assert all(
        size <= MAX_GROUP_BYTES or len(group) == 1
        for size, group in zip(groups, database.groups, strict=True)
    )
    assert any(len(group) > 1 for group in database.groups)
    await store.aclose()


async def test_a_cancelled_one_is_left_out_and_the_others_go() -> None:
    database = SlowDatabase()
    store = GroupingStore(database)
    await store.open()
    under_way, waiting = trio.CancelScope(), trio.CancelScope()

    async def commit_in(scope: trio.CancelScope, number: int) -> None:
        with scope:
            await store.commit(commit(number))

    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(commit_in, under_way, 0)
            await database.has_begun()
            nursery.start_soon(commit_in, waiting, 1)
            nursery.start_soon(store.commit, commit(2))
            await trio.testing.wait_all_tasks_blocked()
            under_way.cancel()
            waiting.cancel()
            await trio.testing.wait_all_tasks_blocked()
            # Nobody waits for them any more, and both know that at once.
            assert under_way.cancelled_caught
            assert waiting.cancelled_caught
            for _ in range(2):
                database.let.put(None)
    ids = [[write.key.id for write in group] for group in database.groups]
    assert ids == [["0"], ["2"]]
    await store.aclose()


async def test_a_failure_is_each_ones_own_and_the_next_group_is_tried() -> None:
    database = SlowDatabase()
    store = GroupingStore(database)
    await store.open()
    errors: list[Exception] = []

    async def failing(number: int) -> None:
        with pytest.raises(StoreUnavailable, match=r"^full$") as caught:
            await store.commit(commit(number))
        errors.append(caught.value)

    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(store.commit, commit(0))
            await database.has_begun()
            for number in range(1, 4):
                nursery.start_soon(failing, number)
            await trio.testing.wait_all_tasks_blocked()
            database.let.put(None)
            database.let.put(StoreUnavailable("full"))
        assert len(set(map(id, errors))) == 3
        database.let.put(None)
        await store.commit(commit(4))
    await store.aclose()


async def test_a_bug_is_raised_where_the_write_was_asked_for() -> None:
    database = SlowDatabase()
    store = GroupingStore(database)
    await store.open()
    with trio.fail_after(10):
        database.let.put(ZeroDivisionError("a bug"))
        with pytest.raises(ZeroDivisionError, match="a bug"):
            await store.commit(commit(0))
        database.let.put(None)
        await store.commit(commit(1))
    await store.aclose()


async def test_a_sweep_that_fails_ends_no_write(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Failing(SlowDatabase):
        def sweep(self, now: float) -> None:
            self.begun.put(None)
            raise ZeroDivisionError("a bug")

    monkeypatch.setattr(grouping, "SWEEP_INTERVAL_S", 0.001)
    database = Failing()
    store = GroupingStore(database)
    await store.open()
    with trio.fail_after(10):
        await database.has_begun()
        database.let.put(None)
        await store.commit(commit(0))
        await store.aclose()
    assert "was not deleted: a bug" in caplog.text


async def test_a_program_may_end_without_closing_its_store() -> None:
    database = SlowDatabase()
    store = GroupingStore(database)

    async def abandoned() -> None:
        await store.open()
        with trio.move_on_after(0.01):
            await store.commit(commit(0))

    await trio.to_thread.run_sync(trio.run, abandoned)
    writer = store._writer
    assert writer is not None
    assert writer.daemon
    database.let.put(None)  # answered to a Trio that is no more
    store._queue.put(None)
    await trio.to_thread.run_sync(writer.join, 10)
    assert not writer.is_alive()


# -- the store in memory ---------------------------------------------------------------------------


async def test_an_outage_cuts_off_one_store_and_ends(autojump_clock: trio.abc.Clock) -> None:
    contents = MemoryContents()
    cut, other = MemoryStore(contents, latency_s=(1, 2)), MemoryStore(contents)
    await cut.open()
    with cut.outage(), cut.outage():
        with pytest.raises(StoreUnavailable):
            await cut.look_up(KEY)
        assert (await other.activate(KEY, ("a", 1), 0)).epoch == 1
    assert await cut.look_up(KEY) == Held(1, ("a", 1))


async def test_an_answer_may_be_lost_after_the_deed(autojump_clock: trio.abc.Clock) -> None:
    store = MemoryStore(latency_s=(1, 1))
    with trio.move_on_after(1.5):
        await store.activate(KEY, ("a", 1), 0)
    assert store.contents.held[KEY].epoch == 1

    async def cut_off() -> None:
        await trio.sleep(1.5)
        with store.outage():
            await trio.sleep(1)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(cut_off)
        with pytest.raises(StoreUnavailable):
            await store.commit(Commit(KEY, 1, (Put("k", b"1"),)))
    assert store.contents.state[KEY]["k"].value == b"1"


async def test_a_seed_repeats_its_latencies(autojump_clock: trio.abc.Clock) -> None:
    async def lasts(seed: int) -> list[float]:
        store, times = MemoryStore(seed=seed, latency_s=(0.1, 5)), []
        for _ in range(5):
            await store.look_up(KEY)
            times.append(round(trio.current_time() - started, 6))
        return times

    runs = []
    for seed in (1, 1, 2):
        started = trio.current_time()
        runs.append(await lasts(seed))
    assert runs[0] == runs[1] != runs[2]


# -- names of stores -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("", "names no store"),
        ("entities.sqlite3", "sqlite:///PATH"),
        ("mysql://root:secret@host/db", "mysql"),
        ("sqlite://", "names no file"),
        ("sqlite:///", "names no file"),
        ("sqlite://host/path", "three slashes"),
        ("sqlite:///a?mode=memory", "%3F"),
        ("sqlite:///a%00b", "names no file"),
        ("sqlite://[/a", "not a URL"),
        ("postgresql://host/db?nonsense=1", "PostgreSQL"),
    ],
)
def test_a_url_that_names_no_store_says_what_to_write(url: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        open_store(url)
    assert "secret" not in str(caught.value)


def test_the_path_of_a_url_is_the_files() -> None:
    paths = {
        "sqlite:///a/b%20c%3Fd.sqlite3": "/a/b c?d.sqlite3",
        "sqlite:////a/b": "/a/b",
        "SQLite:///a": "/a",
    }
    for url, path in paths.items():
        store = open_store(url)
        assert isinstance(store, GroupingStore)
        assert str(store._database._path) == path  # type: ignore[attr-defined]
