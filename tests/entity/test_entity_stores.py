"""What a store promises (entity/store.py), of every store alike: SQLite, PostgreSQL, and memory.

E1: epochs only grow, and who has an older one changes nothing.  E2: what was acknowledged stays.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import trio

from benchmarks.postgres_server import PostgresServer
from steinadler import ConfigError, StaleEpoch, StateTooLarge, StoreUnavailable
from steinadler.entity import grouping
from steinadler.entity.database import MAX_COMMIT_BYTES, MAX_KEY_BYTES
from steinadler.entity.grouping import GroupingStore
from steinadler.entity.store import (
    Commit,
    Delete,
    DeleteReminder,
    Due,
    Held,
    Put,
    Reminder,
    SetReminder,
    Store,
)
from steinadler.entity.stores import open_store
from steinadler.identity import EntityKey
from steinadler.testing import MemoryContents, MemoryStore

PROGRAM = Path(__file__).with_name("programs_of_stores.py")
NOW = 1_000_000.0
CART = EntityKey("Cart", "42")
ALICE, BOB = ("alice", 1), ("bob", 2)


@dataclass(frozen=True)
class Place:
    """Where stores find the same contents."""

    make: Callable[[], Store]
    url: str = ""


Another = Callable[[], Awaitable[Store]]


def durable_place(kind: str, request: pytest.FixtureRequest, folder: Path) -> Place:
    if kind == "sqlite":
        url = f"sqlite://{folder}/entities.sqlite3"
    else:
        server: PostgresServer = request.getfixturevalue("postgres")
        url = server.fresh_url()
    return Place(lambda: open_store(url), url)


@pytest.fixture(params=["memory", "sqlite", "postgres"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    if request.param == "memory":
        contents = MemoryContents()
        return Place(lambda: MemoryStore(contents))
    return durable_place(request.param, request, tmp_path)


@pytest.fixture(params=["sqlite", "postgres"])
def durable(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    return durable_place(request.param, request, tmp_path)


async def opener(place: Place) -> AsyncIterator[Another]:
    opened = []

    async def another() -> Store:
        store = place.make()
        await store.open()
        opened.append(store)
        return store

    yield another
    for store in opened:
        await store.aclose()


@pytest.fixture
async def another(place: Place) -> AsyncIterator[Another]:
    """Opens stores at one place."""
    async for each in opener(place):
        yield each


@pytest.fixture
async def store(another: Another) -> Store:
    return await another()


async def take(store: Store, key: EntityKey = CART, owner: tuple[str, int] = ALICE) -> int:
    return (await store.activate(key, owner, NOW)).epoch


async def state_of(store: Store, key: EntityKey = CART) -> dict[str, bytes]:
    """What stands, by taking the entity over."""
    return dict((await store.activate(key, ("reader", 0), NOW)).state)


# -- epochs (E1) -----------------------------------------------------------------------------------


async def test_e1_each_activation_takes_the_next_epoch(store: Store) -> None:
    assert await store.look_up(CART) is None
    assert [await take(store, owner=owner) for owner in (ALICE, BOB, ALICE)] == [1, 2, 3]
    assert await store.look_up(CART) == Held(3, ALICE)


async def test_e1_a_stale_commit_changes_nothing(store: Store) -> None:
    old = await take(store)
    await store.commit(
        Commit(CART, old, (Put("items", b"1"), SetReminder(Reminder("pay", NOW + 60))))
    )
    new = await take(store, owner=BOB)
    for epoch in (old, new + 1):
        with pytest.raises(StaleEpoch, match="Cart/42"):
            await store.commit(
                Commit(CART, epoch, (Put("items", b"2"), Put("more", b""), DeleteReminder("pay")))
            )
    assert await store.look_up(CART) == Held(new, BOB)
    assert [reminder.name for reminder in await store.reminders(CART)] == ["pay"]
    assert await state_of(store) == {"items": b"1"}


async def test_e1_an_activation_that_was_to_follow_another_epoch_takes_nothing(
    store: Store,
) -> None:
    assert (await store.activate(CART, ALICE, NOW, 0)).epoch == 1
    await store.commit(Commit(CART, 1, (Put("items", b"1"),)))
    for late in (0, 2):
        with pytest.raises(StaleEpoch, match="Cart/42"):
            await store.activate(CART, BOB, NOW, late)
    assert await store.look_up(CART) == Held(1, ALICE)
    await store.release(CART, 1)  # which ends no epoch
    taken = await store.activate(CART, BOB, NOW, 1)
    assert (taken.epoch, taken.state) == (2, {"items": b"1"})


async def test_e1_of_many_that_saw_the_same_epoch_one_takes_the_next(another: Another) -> None:
    taken = []

    async def take_first(store: Store, number: int) -> None:
        with contextlib.suppress(StaleEpoch):
            taken.append((await store.activate(CART, ("node", number), NOW, 0)).epoch)

    stores = [await another() for _ in range(3)]
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            for number in range(12):
                nursery.start_soon(take_first, stores[number % 3], number)
    assert taken == [1]


async def test_e1_nobody_commits_to_what_was_never_activated(store: Store) -> None:
    for epoch in (0, 1):
        with pytest.raises(StaleEpoch):
            await store.commit(Commit(CART, epoch, (Put("items", b"1"),)))
    assert await store.look_up(CART) is None


async def test_e1_epochs_only_grow_under_concurrent_activation(another: Another) -> None:
    keys = [EntityKey("Cart", str(number)) for number in range(3)]
    taken: dict[EntityKey, list[int]] = {key: [] for key in keys}

    async def compete(store: Store) -> None:
        for _ in range(20):
            for key in keys:
                taken[key].append(await take(store, key))

    stores = [await another() for _ in range(4)]
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            for store in stores:
                nursery.start_soon(compete, store)
    # None was given twice, none left out.
    assert all(sorted(epochs) == list(range(1, 81)) for epochs in taken.values())


async def test_e1_of_two_owners_only_the_last_one_commits(another: Another) -> None:
    acknowledged = refused = 0

    async def count(store: Store) -> None:
        nonlocal acknowledged, refused
        for _ in range(10):
            activation = await store.activate(CART, ALICE, NOW)
            value = int(activation.state.get("count", b"0"))
            for _ in range(3):
                value += 1
                try:
                    await store.commit(
                        Commit(CART, activation.epoch, (Put("count", b"%d" % value),))
                    )
                except StaleEpoch:
                    refused += 1
                    break
                acknowledged += 1

    stores = [await another() for _ in range(3)]
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            for store in stores:
                nursery.start_soon(count, store)
    assert refused > 0
    assert (await state_of(stores[0]))["count"] == b"%d" % acknowledged


async def test_e1_releasing_is_for_the_latest_owner(store: Store) -> None:
    old, new = await take(store), await take(store, owner=BOB)
    await store.release(CART, old)
    assert await store.look_up(CART) == Held(new, BOB)
    await store.release(CART, new)
    assert await store.look_up(CART) == Held(new, None)
    assert await take(store) == new + 1


async def test_e1_a_group_with_one_stale_commit_commits_the_rest(store: Store) -> None:
    keys = [EntityKey("Cart", str(number)) for number in range(100)]
    epochs = [await take(store, key) for key in keys]
    await take(store, keys[50], BOB)
    stale: list[EntityKey] = []

    async def commit(key: EntityKey, epoch: int) -> None:
        try:
            await store.commit(Commit(key, epoch, (Put("who", key.id.encode()),)))
        except StaleEpoch:
            stale.append(key)

    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            for key, epoch in zip(keys, epochs, strict=True):
                nursery.start_soon(commit, key, epoch)
    assert stale == [keys[50]]
    states = {key: await state_of(store, key) for key in keys}
    assert states == {key: {} if key in stale else {"who": key.id.encode()} for key in keys}


# -- changes ---------------------------------------------------------------------------------------


async def test_changes_of_a_commit_are_made_in_order(store: Store) -> None:
    epoch = await take(store)
    await store.commit(Commit(CART, epoch, (Put("a", b"1"), Put("b", b"1"))))
    await store.commit(
        Commit(
            CART,
            epoch,
            (Delete("a"), Put("a", b"2"), Put("b", b"2"), Delete("b"), Delete("never set")),
        )
    )
    assert await state_of(store) == {"a": b"2"}


async def test_entities_do_not_share_state(store: Store) -> None:
    other = EntityKey("Cart", "43")
    for key in (CART, other):
        await store.commit(Commit(key, await take(store, key), (Put("who", key.id.encode()),)))
    assert await state_of(store) == {"who": b"42"}
    assert await state_of(store, other) == {"who": b"43"}


async def test_keys_expire(store: Store) -> None:
    puts = (Put("gone", b"", NOW), Put("soon", b"", NOW + 0.5), Put("stays", b""))
    await store.commit(Commit(CART, await take(store), puts))
    activation = await store.activate(CART, BOB, NOW)
    assert activation.state == {"soon": b"", "stays": b""}
    assert activation.expires_at == {"soon": NOW + 0.5}
    assert (await store.activate(CART, BOB, NOW + 1)).state == {"stays": b""}
    # What is set again without an end has none.
    await store.commit(Commit(CART, activation.epoch + 1, (Put("soon", b"1"),)))
    assert (await store.activate(CART, BOB, NOW + 1)).expires_at == {}


async def test_any_text_is_an_id_and_a_key_and_any_bytes_are_a_value(store: Store) -> None:
    texts = [
        "/",
        " ",
        "a/b c?d#e%f",
        "\0",
        "a\0",
        "\x01\x00",
        "Ünïcödé 🦅",
        "'; DROP TABLE",
        "é" * 512,
    ]
    assert len(texts[-1].encode()) == MAX_KEY_BYTES
    value = bytes(range(256))
    for text in texts:
        key = EntityKey("!-+.~" + "x" * 250, text)
        reminder = Reminder(text, NOW, data=value)
        epoch = await take(store, key)
        await store.commit(Commit(key, epoch, (Put(text, value), SetReminder(reminder))))
        await store.commit(Commit(key, epoch, [Put("b" + text[:99], b"")]))
    for text in texts:
        key = EntityKey("!-+.~" + "x" * 250, text)
        assert await state_of(store, key) == {text: value, "b" + text[:99]: b""}
        assert [r.name for r in await store.reminders(key)] == [text]
    found = await store.due(key.type, NOW, 100)
    assert sorted(key.id for key, _ in found) == sorted(texts)


async def test_values_may_be_large(store: Store) -> None:
    value = bytes(range(256)) * 4 * 1024 * 8
    await store.commit(Commit(CART, await take(store), (Put("large", value),)))
    assert await state_of(store) == {"large": value}


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (Put("large", bytes(MAX_COMMIT_BYTES)), StateTooLarge),
        (Put("k" * (MAX_KEY_BYTES + 1), b""), StateTooLarge),
        (Delete("é" * MAX_KEY_BYTES), StateTooLarge),
        (SetReminder(Reminder("n" * (MAX_KEY_BYTES + 1), NOW)), StateTooLarge),
        (Put("\ud800", b""), ConfigError),
        (DeleteReminder("\ud800"), ConfigError),
        (Put("text", "text"), ConfigError),  # type: ignore[arg-type]
        (Put("never", b"", float("nan")), ConfigError),
        (SetReminder(Reminder("never", float("inf"))), ConfigError),
        (SetReminder(Reminder("often", NOW, repeats=2**63)), ConfigError),
        (SetReminder(Reminder("busy", NOW, period_s=0.0)), ConfigError),
        (SetReminder(Reminder("back", NOW, period_s=-1.0)), ConfigError),
        (SetReminder(Reminder("busy", NOW, period_s=1e-9)), ConfigError),
        (SetReminder(Reminder("far", NOW, period_s=1e300)), ConfigError),
        (SetReminder(Reminder("far", 10**5000)), ConfigError),
        # Of other types than they should be, as a member may send them.
        (SetReminder(Reminder(5, NOW)), ConfigError),  # type: ignore[arg-type]
        (SetReminder(Reminder("when", "soon")), ConfigError),  # type: ignore[arg-type]
        (SetReminder(Reminder("when", None)), ConfigError),  # type: ignore[arg-type]
        (SetReminder(Reminder("when", True)), ConfigError),
        (SetReminder(Reminder("often", NOW, period_s="1")), ConfigError),  # type: ignore[arg-type]
        (SetReminder(Reminder("half", NOW, repeats=1.5)), ConfigError),  # type: ignore[arg-type]
        (SetReminder(Reminder("data", NOW, data="text")), ConfigError),  # type: ignore[arg-type]
        (DeleteReminder(5), ConfigError),  # type: ignore[arg-type]
    ],
)
async def test_what_no_store_can_hold_fails_alone(
    store: Store, change: Put, error: type[Exception]
) -> None:
    epoch = await take(store)
    with pytest.raises(error):
        await store.commit(Commit(CART, epoch, (Put("before", b""), change)))
    await store.commit(Commit(CART, epoch, (Put("after", b""),)))
    assert await state_of(store) == {"after": b""}


# -- reminders -------------------------------------------------------------------------------------


async def test_reminders_are_set_replaced_and_deleted(store: Store) -> None:
    epoch = await take(store)
    first = Reminder("pay", NOW + 60, period_s=10.5, repeats=3, expires_at=NOW + 600, data=b"\0")
    again, other = Reminder("pay", NOW + 61), Reminder("é", NOW + 5)
    await store.commit(Commit(CART, epoch, (SetReminder(first), SetReminder(other))))
    assert await store.reminders(CART) == [first, other]
    await store.commit(Commit(CART, epoch, (SetReminder(again), DeleteReminder("none"))))
    assert await store.reminders(CART) == [again, other]
    await store.commit(Commit(CART, epoch, (DeleteReminder("pay"),)))
    assert await store.reminders(CART) == [other]
    assert await store.reminders(EntityKey("Cart", "43")) == []


async def test_what_is_due_comes_in_the_order_of_time_page_by_page(store: Store) -> None:
    dues = [("A", "1", "r", 30), ("A", "2", "r", 10), ("B", "1", "r", 20), ("A", "é", "r", 10)]
    dues += [("A", "2", "q", 10), ("A", "z", "r", 10)]
    for type_, id_, name, due_at in dues:
        key = EntityKey(type_, id_)
        reminder = SetReminder(Reminder(name, NOW + due_at))
        await store.commit(Commit(key, await take(store, key), (reminder,)))
    late = Reminder("never", NOW, expires_at=NOW)
    await store.commit(Commit(key, await take(store, key), (SetReminder(late),)))

    async def due(type_: str, before: float, page: int) -> list[str]:
        found: list[Due] = []
        while part := await store.due(type_, NOW + before, page, found[-1] if found else None):
            assert len(part) <= page
            found += part
        return [key.id + reminder.name for key, reminder in found]

    for page in (1, 2, 3, 10):
        assert await due("A", 100, page) == ["2q", "2r", "zr", "ér", "1r"]
        assert await due("A", 20, page) == ["2q", "2r", "zr", "ér"]
    assert await due("B", 100, 10) == ["1r"]
    assert await due("B", 19, 10) == await due("C", 100, 10) == []


# -- durability (E2) -------------------------------------------------------------------------------


async def test_e2_what_was_acknowledged_outlives_the_store(place: Place) -> None:
    first = place.make()
    await first.open()
    await first.commit(Commit(CART, await take(first), (Put("items", b"1"),)))
    await first.aclose()
    second = place.make()
    await second.open()
    assert await state_of(second) == {"items": b"1"}
    await second.aclose()


def start(*arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, str(PROGRAM), *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def count_until(url: str, value: int, acknowledged: dict[str, int]) -> None:
    """Let the program count up to a value, kill it, and read what it said until then."""
    with start("count", url, str(len(acknowledged))) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if not line.endswith("\n"):
                break  # it was killed in the middle of saying it
            name, counted = line.split()
            acknowledged[name] = int(counted)
            if int(counted) == value:
                process.kill()


async def test_e2_a_killed_process_loses_no_acknowledged_commit(durable: Place) -> None:
    acknowledged = dict.fromkeys(map(str, range(8)), 0)
    for life in range(1, 4):
        with trio.fail_after(30):
            await trio.to_thread.run_sync(count_until, durable.url, 40 * life, acknowledged)
    store = durable.make()
    await store.open()
    for name, value in acknowledged.items():
        stored = int((await state_of(store, EntityKey("Counter", name)))["count"])
        # One more may stand in each life, of which the answer was lost.
        assert value <= stored <= value + 1
    await store.aclose()


async def test_e2_a_crash_of_the_server_loses_no_acknowledged_commit(
    postgres: PostgresServer,
) -> None:
    store = open_store(postgres.fresh_url())
    await store.open()
    epoch = await take(store)
    acknowledged = 0
    try:
        with trio.fail_after(30):
            async with trio.open_nursery() as nursery:

                async def count() -> None:
                    nonlocal acknowledged
                    with pytest.raises(StoreUnavailable):
                        while True:
                            change = Put("count", b"%d" % (acknowledged + 1))
                            await store.commit(Commit(CART, epoch, (change,)))
                            acknowledged += 1
                            if acknowledged == 50:
                                nursery.start_soon(
                                    trio.to_thread.run_sync, postgres.stop, "immediate"
                                )

                nursery.start_soon(count)
    finally:
        postgres.start()
    stored = int((await state_of(store))["count"])
    assert acknowledged <= stored <= acknowledged + 1
    await store.aclose()


@pytest.mark.slow
async def test_e1_processes_share_one_database(durable: Place) -> None:
    store = durable.make()
    await store.open()
    processes = [start("contend", durable.url, "40") for _ in range(2)]
    with trio.fail_after(30):
        for process in processes:
            output, _ = await trio.to_thread.run_sync(process.communicate)
            assert output.split()[0] == "40"
    assert await state_of(store, EntityKey("Counter", "shared")) == {"count": b"80"}
    await store.aclose()


# -- cancellation ----------------------------------------------------------------------------------


async def test_one_that_is_cancelled_disturbs_no_other(store: Store) -> None:
    keys = [EntityKey("Cart", str(number)) for number in range(50)]
    epochs = [await take(store, key) for key in keys]

    async def commit(key: EntityKey, epoch: int, scope: trio.CancelScope) -> None:
        with scope:
            await store.commit(Commit(key, epoch, (Put("a", b""), Put("b", b""))))

    scopes = [trio.CancelScope() for _ in keys]
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            for key, epoch, scope in zip(keys, epochs, scopes, strict=True):
                nursery.start_soon(commit, key, epoch, scope)
            await trio.testing.wait_all_tasks_blocked()
            for scope in scopes[::5]:
                scope.cancel()
    for key, scope in zip(keys, scopes, strict=True):
        state = await state_of(store, key)
        # Cancelled ones may or may not stand, but never by halves.
        assert state == {"a": b"", "b": b""} or (state == {} and scope.cancelled_caught)


async def test_a_store_that_is_not_open_says_so(durable: Place) -> None:
    store = durable.make()
    with pytest.raises(StoreUnavailable, match="not open"):
        await store.look_up(CART)
    await store.open()
    await store.aclose()
    await store.aclose()
    with pytest.raises(StoreUnavailable, match="not open"):
        await take(store)


async def test_closing_finishes_what_is_under_way(durable: Place) -> None:
    store = durable.make()
    await store.open()
    epoch = await take(store)
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(store.commit, Commit(CART, epoch, (Put("last", b""),)))
            await trio.testing.wait_all_tasks_blocked()
            with trio.CancelScope() as scope:
                scope.cancel()
                await store.aclose()
    store = durable.make()
    await store.open()
    assert await state_of(store) == {"last": b""}
    await store.aclose()


# -- expiry ----------------------------------------------------------------------------------------


async def test_what_has_expired_is_deleted_in_time(
    durable: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grouping, "SWEEP_INTERVAL_S", 0.02)
    store = durable.make()
    assert isinstance(store, GroupingStore)
    swept = trio.Event()
    token = trio.lowlevel.current_trio_token()
    sweep = store._database.sweep

    def sweep_and_tell(now: float) -> None:
        sweep(now)
        token.run_sync_soon(swept.set)

    await store.open()
    epoch = await take(store)
    gone, stays = (Put("gone", b"", NOW), Reminder("gone", NOW, expires_at=NOW + 1)), "stays"
    await store.commit(
        Commit(
            CART,
            epoch,
            (gone[0], SetReminder(gone[1]), Put(stays, b""), SetReminder(Reminder(stays, NOW))),
        )
    )
    store._database.sweep = sweep_and_tell  # type: ignore[method-assign]
    with trio.fail_after(10):
        await swept.wait()
    assert [reminder.name for reminder in await store.reminders(CART)] == [stays]
    # As long ago as it was set, it would be seen if it were there.
    assert (await store.activate(CART, BOB, 0.0)).state == {stays: b""}
    await store.aclose()
