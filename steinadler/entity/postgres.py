"""Entities in PostgreSQL, for clusters of machines.

A group takes two trips to the server, sent as pipelines: the first begins the transaction and
locks the rows of the group's entities (`FOR UPDATE`, in the order of their keys, so that two
nodes never wait for each other in a circle); the second writes and commits.  Each statement
takes all its rows as arrays (`unnest`), so their number does not matter.

Ids, keys and names are `bytea`, because PostgreSQL's text cannot hold every text (U+0000) and
depends on the database's encoding; `SET bytea_output = 'escape'` shows them readably in psql.
The tables are made in the first schema of the user's search path.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

import psycopg

from steinadler.entity.database import (
    Activate,
    Database,
    Outcome,
    Settlement,
    Write,
    place_of,
    settle,
)
from steinadler.entity.postgres_connection import (
    Connection,
    Row,
    ServerConnection,
    is_hopeless,
    is_undone,
)
from steinadler.entity.store import (
    Delete,
    DeleteReminder,
    Due,
    Held,
    Put,
    Reminder,
    SetReminder,
)
from steinadler.errors import ConfigError, StoreUnavailable
from steinadler.identity import EntityKey

# Any number, the same for all nodes: who holds it makes or migrates the schema.
_SCHEMA_LOCK = 0x53746569
_SWEEP_ROWS = 1000
# A deadlock or a serialization failure undoes the whole transaction: it can be tried again.
_TRIES = 3

# What makes each version of the schema from the one before it; none is ever changed.
_MIGRATIONS = (
    (
        """CREATE TABLE steinadler_entities (
            type text COLLATE "C" NOT NULL, id bytea NOT NULL, epoch bigint NOT NULL,
            owner text, incarnation bigint, PRIMARY KEY (type, id))""",
        """CREATE TABLE steinadler_state (
            type text COLLATE "C" NOT NULL, id bytea NOT NULL, key bytea NOT NULL,
            value bytea NOT NULL, expires_at double precision, PRIMARY KEY (type, id, key))""",
        """CREATE INDEX steinadler_state_expires ON steinadler_state (expires_at)
            WHERE expires_at IS NOT NULL""",
        """CREATE TABLE steinadler_reminders (
            type text COLLATE "C" NOT NULL, id bytea NOT NULL, name bytea NOT NULL,
            due_at double precision NOT NULL, period_s double precision, repeats bigint,
            expires_at double precision, data bytea NOT NULL, PRIMARY KEY (type, id, name))""",
        "CREATE INDEX steinadler_reminders_due ON steinadler_reminders (type, due_at)",
        """CREATE INDEX steinadler_reminders_expire ON steinadler_reminders (expires_at)
            WHERE expires_at IS NOT NULL""",
    ),
)

_NEW = """INSERT INTO steinadler_entities (type, id, epoch)
SELECT type, id, 0 FROM unnest(%b::text[], %b::bytea[]) AS new (type, id)
ORDER BY type COLLATE "C", id ON CONFLICT DO NOTHING"""
_LOCK = """SELECT e.type, e.id, e.epoch, e.owner, e.incarnation FROM steinadler_entities e
JOIN unnest(%b::text[], %b::bytea[]) AS w (type, id) ON e.type = w.type AND e.id = w.id
ORDER BY e.type, e.id FOR UPDATE OF e"""
_SET_HOLDERS = """UPDATE steinadler_entities e
SET epoch = w.epoch, owner = w.owner, incarnation = w.incarnation
FROM unnest(%b::text[], %b::bytea[], %b::bigint[], %b::text[], %b::bigint[])
    AS w (type, id, epoch, owner, incarnation)
WHERE e.type = w.type AND e.id = w.id"""
_PUT = """INSERT INTO steinadler_state (type, id, key, value, expires_at)
SELECT * FROM unnest(%b::text[], %b::bytea[], %b::bytea[], %b::bytea[], %b::float8[])
ON CONFLICT (type, id, key) DO UPDATE
SET value = excluded.value, expires_at = excluded.expires_at"""
_DELETE = """DELETE FROM steinadler_state s
USING unnest(%b::text[], %b::bytea[], %b::bytea[]) AS w (type, id, key)
WHERE s.type = w.type AND s.id = w.id AND s.key = w.key"""
_SET_REMINDERS = """INSERT INTO steinadler_reminders
    (type, id, name, due_at, period_s, repeats, expires_at, data)
SELECT * FROM unnest(%b::text[], %b::bytea[], %b::bytea[], %b::float8[], %b::float8[],
    %b::bigint[], %b::float8[], %b::bytea[])
ON CONFLICT (type, id, name) DO UPDATE
SET due_at = excluded.due_at, period_s = excluded.period_s, repeats = excluded.repeats,
    expires_at = excluded.expires_at, data = excluded.data"""
_DELETE_REMINDERS = """DELETE FROM steinadler_reminders r
USING unnest(%b::text[], %b::bytea[], %b::bytea[]) AS w (type, id, name)
WHERE r.type = w.type AND r.id = w.id AND r.name = w.name"""
_STATE = """SELECT s.type, s.id, s.key, s.value, s.expires_at FROM steinadler_state s
JOIN unnest(%b::text[], %b::bytea[]) AS w (type, id) ON s.type = w.type AND s.id = w.id"""
_HELD = "SELECT epoch, owner, incarnation FROM steinadler_entities WHERE type = %b AND id = %b"
_REMINDER = "name, due_at, period_s, repeats, expires_at, data"
_REMINDERS = f"""SELECT {_REMINDER} FROM steinadler_reminders
WHERE type = %b AND id = %b ORDER BY name"""
_DUE = f"""SELECT type, id, {_REMINDER} FROM steinadler_reminders
WHERE type = %b AND due_at <= %b AND due_at >= %b AND (due_at, id, name) > (%b, %b, %b)
    AND (expires_at IS NULL OR expires_at > due_at)
ORDER BY due_at, id, name LIMIT %b"""
_SWEEP = f"""DELETE FROM {{0}} WHERE ctid IN (
    SELECT ctid FROM {{0}} WHERE expires_at <= %b LIMIT {_SWEEP_ROWS} FOR UPDATE SKIP LOCKED)"""

# How the columns of a statement's arrays are written.
_TEXT_AND_BYTES = (str, str.encode)
_NAMED = (str, str.encode, str.encode)


class PostgresDatabase(Database):
    """The database at `url`, one of libpq's.  Raises `ConfigError` for a URL that is none."""

    def __init__(self, url: str) -> None:
        self._writer = ServerConnection(url)
        self._reader = ServerConnection(url)

    def open(self) -> None:
        try:
            with self._writer.use() as connection, connection.transaction():
                connection.execute("SELECT pg_advisory_xact_lock(%b)", (_SCHEMA_LOCK,))
                self._migrate(connection)
        except StoreUnavailable as error:
            if isinstance(error.__cause__, psycopg.Error) and is_hopeless(error.__cause__):
                raise ConfigError(str(error)) from error
            raise

    def close(self) -> None:
        self._reader.close()
        self._writer.close()

    def write(self, group: Sequence[Write]) -> Sequence[Outcome]:
        for tries_left in reversed(range(_TRIES)):
            try:
                return self._write(group)
            except StoreUnavailable as error:
                if not tries_left or not is_undone(error.__cause__):
                    raise
        raise AssertionError("the last try returns or raises")

    def _write(self, group: Sequence[Write]) -> Sequence[Outcome]:
        keys = list(dict.fromkeys(write.key for write in group))
        activated = list({write.key: None for write in group if isinstance(write, Activate)})
        with self._writer.use() as connection:
            with _pipeline(connection):
                connection.execute("BEGIN")
                if activated:
                    connection.execute(_NEW, _arrays(_TEXT_AND_BYTES, _ids(activated)))
                locked = connection.execute(_LOCK, _arrays(_TEXT_AND_BYTES, _ids(keys)))
            held = {
                EntityKey(type_, id_.decode()): Held(
                    epoch, None if owner is None else (owner, incarnation)
                )
                for type_, id_, epoch, owner, incarnation in locked
            }
            settlement = settle(group, held)
            state: Sequence[Row] = ()
            with _pipeline(connection):
                _put_down(connection, settlement)
                if activated:
                    found = connection.execute(_STATE, _arrays(_TEXT_AND_BYTES, _ids(activated)))
                connection.execute("COMMIT")
            if activated:
                state = found.fetchall()
            return settlement.outcomes(
                group,
                (
                    (EntityKey(type_, id_.decode()), name.decode(), value, expires_at)
                    for type_, id_, name, value, expires_at in state
                ),
            )

    def sweep(self, now: float) -> None:
        with self._writer.use() as connection:
            for table in ("steinadler_state", "steinadler_reminders"):
                deleted = _SWEEP_ROWS
                while deleted == _SWEEP_ROWS:
                    deleted = connection.execute(_SWEEP.format(table), (now,)).rowcount

    def look_up(self, key: EntityKey) -> Held | None:
        with self._reader.use() as connection:
            row = connection.execute(_HELD, (key.type, key.id.encode())).fetchone()
        if row is None:
            return None
        epoch, owner, incarnation = row
        return Held(epoch, None if owner is None else (owner, incarnation))

    def reminders(self, key: EntityKey) -> Sequence[Reminder]:
        with self._reader.use() as connection:
            rows = connection.execute(_REMINDERS, (key.type, key.id.encode())).fetchall()
        return [_reminder(row) for row in rows]

    def due(self, type: str, before: float, limit: int, after: Due | None = None) -> Sequence[Due]:
        due_at, id_, name = place_of(after)
        with self._reader.use() as connection:
            asked = (
                type,
                float(before),
                float(due_at),
                float(due_at),
                id_.encode(),
                name.encode(),
                limit,
            )
            rows = connection.execute(_DUE, asked).fetchall()
        return [(EntityKey(row[0], row[1].decode()), _reminder(row[2:])) for row in rows]

    def _migrate(self, connection: Connection) -> None:
        connection.execute(
            "CREATE TABLE IF NOT EXISTS steinadler_schema (version integer NOT NULL)"
        )
        row = connection.execute("SELECT version FROM steinadler_schema").fetchone()
        version = 0 if row is None else row[0]
        if version > len(_MIGRATIONS):
            raise ConfigError(
                f"the tables in {self._writer.where} are of schema version {version}, and this "
                f"version of Steinadler knows {len(_MIGRATIONS)}; upgrade"
            )
        if version == len(_MIGRATIONS):
            return
        for migration in _MIGRATIONS[version:]:
            for statement in migration:
                connection.execute(statement)
        connection.execute("DELETE FROM steinadler_schema")
        connection.execute("INSERT INTO steinadler_schema VALUES (%b)", (len(_MIGRATIONS),))


def _pipeline(connection: Connection) -> contextlib.AbstractContextManager[object]:
    # libpq before 14 has none: each statement is a trip then.
    return connection.pipeline() if psycopg.Pipeline.is_supported() else contextlib.nullcontext()


def _put_down(connection: Connection, settlement: Settlement) -> None:
    """Write what a group comes to."""
    holders = [
        (key.type, key.id, held.epoch, *(held.owner or (None, None)))
        for key, held in settlement.holders.items()
    ]
    _run(connection, _SET_HOLDERS, (*_TEXT_AND_BYTES, int, str, int), holders)
    state = settlement.state.items()
    _run(
        connection,
        _PUT,
        (*_NAMED, bytes, float),
        [
            (key.type, key.id, name, change.value, change.expires_at)
            for (key, name), change in state
            if isinstance(change, Put)
        ],
    )
    deleted = [(key.type, key.id, name) for (key, name), put in state if isinstance(put, Delete)]
    _run(connection, _DELETE, _NAMED, deleted)
    reminders = settlement.reminders.items()
    _run(
        connection,
        _SET_REMINDERS,
        (*_NAMED, float, float, int, float, bytes),
        [
            (key.type, key.id, *change.reminder.as_tuple())
            for (key, _), change in reminders
            if isinstance(change, SetReminder)
        ],
    )
    deleted = [
        (key.type, key.id, name)
        for (key, name), change in reminders
        if isinstance(change, DeleteReminder)
    ]
    _run(connection, _DELETE_REMINDERS, _NAMED, deleted)


def _run(
    connection: Connection,
    statement: str,
    types: Sequence[Callable[[Any], Any]],
    rows: Sequence[Row],
) -> None:
    if rows:
        connection.execute(statement, _arrays(types, rows))


def _arrays(types: Sequence[Callable[[Any], Any]], rows: Sequence[Row]) -> list[list[Any]]:
    """Rows as one array for each column, each of one type alone: psycopg takes no mixed ones."""
    return [
        [None if value is None else as_type(value) for value in column]
        for as_type, column in zip(types, zip(*rows, strict=True), strict=True)
    ]


def _ids(keys: Sequence[EntityKey]) -> list[Row]:
    return [(key.type, key.id) for key in keys]


def _reminder(row: Row) -> Reminder:
    return Reminder(row[0].decode(), *row[1:])
