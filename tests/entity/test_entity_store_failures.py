"""Stores that are full, locked, gone, not theirs, or not there: what is said, and what comes after.

Whatever happens to a store, it can be asked again when the reason has gone, and what was
acknowledged before still stands (E2).
"""

from __future__ import annotations

import os
import signal
import sqlite3
import stat
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import trio

from benchmarks.postgres_server import PostgresServer
from steinadler import ConfigError, StoreUnavailable
from steinadler.entity import postgres_connection, sqlite
from steinadler.entity.store import Commit, Put, Reminder, Store
from steinadler.entity.stores import open_store
from steinadler.identity import EntityKey

PROGRAM = Path(__file__).with_name("programs_of_stores.py")
KEY = EntityKey("Jar", "1")
NOW = 1_000_000.0


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "entities.sqlite3"


@pytest.fixture
async def store(file: Path) -> AsyncIterator[Store]:
    store = open_store(f"sqlite://{file}")
    await store.open()
    yield store
    await store.aclose()


async def put(store: Store, key: str, epoch: int = 1) -> None:
    await store.commit(Commit(KEY, epoch, (Put(key, b""),)))


async def take(store: Store) -> set[str]:
    return set((await store.activate(KEY, ("alice", 1), NOW)).state)


async def refuses(url: str, words: str) -> None:
    """Opening is refused as something that somebody must mend, in one line with these words."""
    store = open_store(url)
    with pytest.raises(ConfigError, match=words) as caught:
        await store.open()
    assert "\n" not in str(caught.value)
    await store.aclose()


# -- SQLite ----------------------------------------------------------------------------------------


async def test_a_file_is_for_its_owner_and_synced_at_each_commit(tmp_path: Path) -> None:
    file = tmp_path / "made" / "for it" / "entities.sqlite3"
    database = sqlite.SqliteDatabase(file)
    database.open()
    try:
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
        assert list(file.parent.glob(".*")) == []
        with database._writer.use() as connection:
            settings = [
                connection.execute(f"PRAGMA {name}").fetchone()[0]
                for name in ("journal_mode", "synchronous", "fullfsync")
            ]
        assert settings == ["wal", 2, 1]
    finally:
        database.close()


async def test_the_rows_that_are_due_or_expired_are_found_by_an_index(file: Path) -> None:
    database = sqlite.SqliteDatabase(file)
    database.open()
    asked: list[str] = []
    with database._reader.use() as connection, database._writer.use() as writer:
        connection.set_trace_callback(asked.append)
        writer.set_trace_callback(asked.append)
    database.due("Jar", NOW, 10, (KEY, Reminder("r", NOW)))
    database.sweep(NOW)
    database.look_up(KEY)
    with database._reader.use() as connection:
        connection.set_trace_callback(None)
        asked = [each for each in asked if each.startswith(("SELECT", "DELETE", "WITH"))]
        assert len(asked) == 4
        for statement in asked:
            plan = [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {statement}")]
            of_tables = [step for step in plan if step not in ("SCAN wanted", "SCAN CONSTANT ROW")]
            assert not [step for step in of_tables if step.startswith("SCAN")], statement
            assert "USE TEMP B-TREE FOR ORDER BY" not in plan
    database.close()


async def test_a_locked_file_fails_in_bounded_time_and_recovers(
    store: Store, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite, "LOCK_PATIENCE_S", 0.1)
    await take(store)
    other = sqlite3.connect(file, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with trio.fail_after(10):
        with pytest.raises(StoreUnavailable, match=r"another process has kept .* locked"):
            await put(store, "meanwhile")
        # Who reads does not wait for who writes.
        assert (await store.look_up(KEY)) is not None
        other.execute("ROLLBACK")
        other.close()
        await put(store, "afterwards")
    assert await take(store) == {"afterwards"}


async def test_a_file_that_is_gone_is_not_made_again(store: Store, file: Path) -> None:
    await take(store)
    await put(store, "before")
    away = file.with_name("away")
    os.rename(file, away)
    for _ in range(2):
        with pytest.raises(StoreUnavailable, match="is gone: put it back"):
            await put(store, "meanwhile")
        with pytest.raises(StoreUnavailable, match="is gone"):
            await store.look_up(KEY)
    assert file.name not in os.listdir(file.parent)
    os.rename(away, file)
    await put(store, "afterwards")
    assert await take(store) == {"before", "afterwards"}


async def test_a_limit_on_files_is_a_full_disk(file: Path) -> None:
    command = [sys.executable, str(PROGRAM), "fill", f"sqlite://{file}", "400000"]
    done = await trio.run_process(command, capture_stdout=True)
    error, recovered = done.stdout.decode().splitlines()
    stored = int(error.split()[0])
    assert "look at the disk and its quota" in error
    assert recovered == "recovered"
    store = open_store(f"sqlite://{file}")
    await store.open()
    state = await take(store)
    await store.aclose()
    assert stored > 1
    assert {f"part {number}" for number in range(stored)} | {"after"} <= state


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "small"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "steinadler-test", str(folder)]
    try:
        mounted = subprocess.run(command, capture_output=True, timeout=10).returncode == 0
    except FileNotFoundError:
        mounted = False
    if not mounted:
        pytest.skip("this user may not mount a small file system")
    yield folder
    subprocess.run(["umount", str(folder)], check=True, timeout=10)


async def test_a_full_disk_says_so_and_recovers(small_disk: Path) -> None:
    ballast = small_disk / "ballast"
    store = open_store(f"sqlite://{small_disk}/entities.sqlite3")
    await store.open()
    await take(store)
    await put(store, "before")
    with ballast.open("wb", buffering=0) as file, pytest.raises(OSError, match="No space"):
        while True:
            file.write(bytes(4096))
    with pytest.raises(StoreUnavailable, match=r"no space is left for .*; free some"):
        for number in range(1000):
            await put(store, f"{number:01000}")
    ballast.unlink()
    await put(store, "afterwards")
    assert await take(store) >= {"before", "afterwards"}
    await store.aclose()


def test_no_database_and_anothers_database_are_left_alone(file: Path) -> None:
    file.write_bytes(b"a shopping list\n" * 100)
    before = file.read_bytes()
    with pytest.raises(ConfigError, match="is not a SQLite database; name another file"):
        sqlite.SqliteDatabase(file).open()
    assert file.read_bytes() == before
    file.unlink()
    with sqlite3.connect(file) as connection:
        connection.execute("CREATE TABLE bookmarks (url)")
    connection.close()
    before = file.read_bytes()
    with pytest.raises(ConfigError, match="is a database of another program"):
        sqlite.SqliteDatabase(file).open()
    assert file.read_bytes() == before


async def test_a_later_versions_file_is_refused(store: Store, file: Path) -> None:
    with sqlite3.connect(file) as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()
    await refuses(f"sqlite://{file}", "schema version 99, and this .* knows 1; upgrade")


async def test_a_place_where_no_file_can_be_says_so(tmp_path: Path) -> None:
    await refuses(f"sqlite://{tmp_path}", "is not a file")
    (tmp_path / "file").touch()
    await refuses(f"sqlite://{tmp_path}/file/entities", "file cannot be made")


async def test_many_may_open_one_new_file_at_once(file: Path) -> None:
    stores = [open_store(f"sqlite://{file}") for _ in range(8)]
    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            for store in stores:
                nursery.start_soon(store.open)
    for store in stores:
        await take(store)
        await store.aclose()
    assert list(file.parent.glob(".*")) == []


# -- PostgreSQL ------------------------------------------------------------------------------------


async def test_a_server_that_is_down_says_so_and_is_found_again(postgres: PostgresServer) -> None:
    store = open_store(postgres.fresh_url())
    await store.open()
    await take(store)
    await put(store, "before")
    await trio.to_thread.run_sync(postgres.stop)
    try:
        for _ in range(2):
            with trio.fail_after(10), pytest.raises(StoreUnavailable, match="is the server up"):
                await put(store, "meanwhile")
            with trio.fail_after(10), pytest.raises(StoreUnavailable, match="is the server up"):
                await store.look_up(KEY)
        other = open_store(postgres.url())
        with pytest.raises(StoreUnavailable, match="is the server up"):
            await other.open()
    finally:
        await trio.to_thread.run_sync(postgres.start)
    # Not one call fails because of connections from before.
    assert await store.look_up(KEY) is not None
    await put(store, "afterwards")
    assert await take(store) == {"before", "afterwards"}
    await store.aclose()


async def test_a_restart_between_two_calls_fails_neither(postgres: PostgresServer) -> None:
    store = open_store(postgres.fresh_url())
    await store.open()
    await take(store)
    assert await store.look_up(KEY) is not None
    await trio.to_thread.run_sync(postgres.stop)
    await trio.to_thread.run_sync(postgres.start)
    await put(store, "afterwards")
    assert await store.look_up(KEY) is not None
    await store.aclose()


async def test_a_server_that_does_not_answer_fails_in_bounded_time(
    postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres_connection, "ANSWER_TIMEOUT_S", 0.5)
    store = open_store(postgres.fresh_url())
    await store.open()
    await take(store)
    session = store._database._writer._connection.info.backend_pid  # type: ignore[attr-defined]
    os.kill(session, signal.SIGSTOP)
    try:
        with trio.fail_after(5), pytest.raises(StoreUnavailable, match=r"no answer within 0\.5 s"):
            await put(store, "meanwhile")
        await put(store, "afterwards")
    finally:
        os.kill(session, signal.SIGCONT)
    assert await take(store) >= {"afterwards"}
    await store.aclose()


@pytest.mark.slow
async def test_a_node_that_stops_in_a_transaction_fails_nobody_else(
    postgres: PostgresServer,
) -> None:
    import psycopg

    url = postgres.fresh_url()
    store, other = open_store(url), open_store(url)
    await store.open()
    await other.open()
    await take(store)
    # What a stopped node is to the server: it has the row, and says no more.
    writer = other._database._writer  # type: ignore[attr-defined]
    with writer.use() as connection:
        connection.execute("BEGIN")
        connection.execute("SELECT * FROM steinadler_entities FOR UPDATE")
    started = time.monotonic()
    with trio.fail_after(10):
        await put(store, "afterwards")
    assert 1 < time.monotonic() - started < 5
    # The stopped one finds out when it goes on: what it had begun is undone.
    with pytest.raises(psycopg.errors.IdleInTransactionSessionTimeout):
        connection.execute("COMMIT")
    await store.aclose()
    await other.aclose()


async def test_a_url_that_the_server_refuses_says_what_to_correct(
    postgres: PostgresServer,
) -> None:
    await refuses(postgres.url(user="mallory"), "correct the user or password")
    await refuses(postgres.url(database="nowhere"), "create it .createdb., or correct the URL")
    url = "postgresql://postgres:secret@127.0.0.1:1/postgres"
    store = open_store(url)
    with pytest.raises(StoreUnavailable, match="is the server up") as caught:
        await store.open()
    assert "secret" not in str(caught.value)


async def test_a_user_who_may_not_make_tables_is_told_so(postgres: PostgresServer) -> None:
    import psycopg

    with psycopg.connect(postgres.url()) as connection:
        connection.execute("DROP ROLE IF EXISTS guest")
        connection.execute("CREATE ROLE guest LOGIN")
    await refuses(postgres.url(user="guest"), "GRANT CREATE ON SCHEMA")


async def test_tables_of_a_later_version_are_refused(postgres: PostgresServer) -> None:
    import psycopg

    url = postgres.fresh_url()
    store = open_store(url)
    await store.open()
    await store.aclose()
    with psycopg.connect(url) as connection:
        connection.execute("UPDATE steinadler_schema SET version = 99")
    await refuses(url, "schema version 99, and this version of Steinadler knows 1; upgrade")


async def test_many_may_make_the_tables_at_once(postgres: PostgresServer) -> None:
    url = postgres.fresh_url()
    stores = [open_store(url) for _ in range(8)]
    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            for store in stores:
                nursery.start_soon(store.open)
    for store in stores:
        await take(store)
        await store.aclose()


async def test_an_acknowledged_commit_is_on_the_servers_disk(postgres: PostgresServer) -> None:
    """A user's `synchronous_commit = off` does not go for turns (E2)."""
    store = open_store(postgres.fresh_url() + "%20-csynchronous_commit%3Doff")
    await store.open()
    await take(store)
    with store._database._writer.use() as connection:  # type: ignore[attr-defined]
        assert connection.execute("SHOW synchronous_commit").fetchone() == ("on",)
    await store.aclose()
