"""The stores of real histories: a journal that the database itself writes, and outages.

Triggers write the journal, in the transaction that they are about: what is in it stood, and in
the order of the writes to one entity, whichever process made them.  It is read, and what is stored
in the end too, without the library.
"""

from __future__ import annotations

import sqlite3
from abc import ABC, abstractmethod
from collections.abc import Iterable
from pathlib import Path
from typing import Any, ClassVar

import trio
from recording import Recorder

from benchmarks.postgres_server import PostgresServer
from steinadler.entity.stores import open_store

# Below it a locked file would only be slow: `programs_of_histories` has the nodes wait no longer.
LOCK_PATIENCE_S = 0.2
_READ = "SELECT n, id, epoch, owner, state FROM journal ORDER BY n"


class Database(ABC):
    """A store, empty for each history; its kind, and what outages it may have."""

    kind: ClassVar[str]
    outages: ClassVar[tuple[str, ...]]

    async def prepare(self, folder: Path) -> str:
        """Make a place where nothing is yet, with its journal, and return its URL."""
        url = self._fresh(folder)
        store = open_store(url)
        await store.open()
        await store.aclose()
        await trio.to_thread.run_sync(self._add_journal, url)
        return url

    def write_down(self, url: str, recorder: Recorder) -> None:
        """Write what the store saw, and what it holds, into a history."""
        journal, state = self._read(url)
        for n, entity, epoch, owner, committed in journal:
            if committed is None:
                recorder.write("activate", n=n, entity=entity, epoch=epoch, owner=owner)
            else:
                recorder.commit(n, entity, epoch, bytes(committed))
        for entity, stored in state:
            recorder.stored(entity, bytes(stored))

    @abstractmethod
    async def outage(self, url: str, how: str, for_s: float) -> None:
        """Let nodes have trouble with the store for about so long; `how` is one of `outages`."""

    def remove(self) -> None:  # noqa: B027 - only a server leaves something
        """Leave nothing behind."""

    @abstractmethod
    def _fresh(self, folder: Path) -> str: ...

    @abstractmethod
    def _add_journal(self, url: str) -> None: ...

    @abstractmethod
    def _read(self, url: str) -> tuple[Iterable[Any], Iterable[Any]]: ...


class Sqlite(Database):
    """A file in the folder of the history; an outage is somebody who keeps it locked."""

    kind = "sqlite"
    outages = ("lock",)

    def _fresh(self, folder: Path) -> str:
        return f"sqlite://{folder / 'entities.sqlite3'}"

    def _connect(self, url: str) -> sqlite3.Connection:
        return sqlite3.connect(
            url.removeprefix("sqlite://"), isolation_level=None, check_same_thread=False
        )

    def _add_journal(self, url: str) -> None:
        note = "INSERT INTO journal (id, epoch, owner, state)"
        activated = f"{note} VALUES (new.id, new.epoch, new.owner || '/' || new.incarnation, NULL)"
        committed = f"""{note} SELECT new.id, epoch, NULL, new.value FROM entities
            WHERE type = new.type AND id = new.id"""
        connection = self._connect(url)
        connection.executescript(
            f"""CREATE TABLE journal (n INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT, epoch INTEGER,
                owner TEXT, state BLOB);
            CREATE TRIGGER activated AFTER INSERT ON entities BEGIN {activated}; END;
            CREATE TRIGGER activated_again AFTER UPDATE ON entities WHEN new.epoch <> old.epoch
                BEGIN {activated}; END;
            CREATE TRIGGER committed AFTER INSERT ON state BEGIN {committed}; END;
            CREATE TRIGGER committed_again AFTER UPDATE ON state BEGIN {committed}; END;"""
        )
        connection.close()

    async def outage(self, url: str, how: str, for_s: float) -> None:
        connection = self._connect(url)
        connection.execute("PRAGMA busy_timeout = 10000")
        try:
            await trio.to_thread.run_sync(connection.execute, "BEGIN IMMEDIATE")
            await trio.sleep(for_s)
        finally:
            connection.close()

    def _read(self, url: str) -> tuple[Iterable[Any], Iterable[Any]]:
        connection = self._connect(url)
        try:
            return (
                connection.execute(_READ).fetchall(),
                connection.execute("SELECT id, value FROM state ORDER BY id").fetchall(),
            )
        finally:
            connection.close()


class Postgres(Database):
    """A schema of a server, which is stopped, crashes, or throws everybody out."""

    kind = "postgres"
    outages = ("restart", "crash", "disconnection")

    def __init__(self, server: PostgresServer | None = None) -> None:
        self._server = server or PostgresServer()

    def remove(self) -> None:
        self._server.remove()

    def _fresh(self, folder: Path) -> str:
        return self._server.fresh_url()

    def _add_journal(self, url: str) -> None:
        import psycopg

        note = "INSERT INTO journal (id, epoch, owner, state)"
        function = "RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
        each = "FOR EACH ROW"
        with psycopg.connect(url) as connection:
            connection.execute(
                """CREATE TABLE journal (n bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
                    id text, epoch bigint, owner text, state bytea)"""
            )
            connection.execute(
                f"""CREATE FUNCTION activated() {function} {note} VALUES (
                    convert_from(new.id, 'UTF8'), new.epoch, new.owner || '/' || new.incarnation,
                    NULL); RETURN NULL; END $$"""
            )
            connection.execute(
                f"""CREATE FUNCTION committed() {function} {note}
                    SELECT convert_from(new.id, 'UTF8'), epoch, NULL, new.value
                    FROM steinadler_entities WHERE type = new.type AND id = new.id;
                    RETURN NULL; END $$"""
            )
            connection.execute(
                f"""CREATE TRIGGER activated AFTER UPDATE ON steinadler_entities {each}
                    WHEN (new.epoch <> old.epoch) EXECUTE FUNCTION activated()"""
            )
            connection.execute(
                f"""CREATE TRIGGER committed AFTER INSERT OR UPDATE ON steinadler_state {each}
                    EXECUTE FUNCTION committed()"""
            )

    async def outage(self, url: str, how: str, for_s: float) -> None:
        if how == "disconnection":
            until = trio.current_time() + for_s
            while trio.current_time() < until:
                await trio.to_thread.run_sync(self._throw_out)
                await trio.sleep(0.1)
            return
        with trio.CancelScope(shield=True):  # a server that is half stopped serves nobody
            await trio.to_thread.run_sync(
                self._server.stop, "immediate" if how == "crash" else "fast"
            )
            await trio.sleep(for_s)
            await trio.to_thread.run_sync(self._server.start)

    def _throw_out(self) -> None:
        import psycopg

        with psycopg.connect(self._server.url()) as connection:
            connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE application_name = 'steinadler'"
            )

    def _read(self, url: str) -> tuple[Iterable[Any], Iterable[Any]]:
        import psycopg

        with psycopg.connect(url) as connection:
            return (
                connection.execute(_READ).fetchall(),
                connection.execute(
                    "SELECT convert_from(id, 'UTF8'), value FROM steinadler_state ORDER BY id"
                ).fetchall(),
            )
