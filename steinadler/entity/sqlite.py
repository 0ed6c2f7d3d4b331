"""Entities in one SQLite file, shared by the nodes of one machine.

Durable means power loss too: the write-ahead log is synced at each commit (`synchronous=FULL`;
SQLite's default for a log, NORMAL, may lose the last commits).  Two connections: one writes, and
one reads beside it, which a write-ahead log lets it do without waiting.

A process waits for its turn to write by asking again every millisecond, up to `LOCK_PATIENCE_S`.
SQLite's own waiting sleeps ever longer, up to 100 ms, so that a process that writes without pause
would keep all others out.

Rows go into a statement by the dozen, as one list of VALUES: each step of a statement lets go of
the interpreter's lock and takes it back.  Beside a busy event loop a group of 256 takes less than
half as long as with a statement for each row.

After any failure the connection is thrown away, which undoes what it had begun, and the next
call makes a new one: one rule, whether the disk was full, the lock was taken, or the file was
replaced.  A file that is gone is not made again: acknowledged turns were in it.

The file must be on a disk of this machine: the log's index is shared memory.
"""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from steinadler.entity.database import Activate, Database, Outcome, Write, place_of, settle
from steinadler.entity.store import Due, Held, Put, Reminder, SetReminder
from steinadler.errors import ConfigError, StoreUnavailable
from steinadler.identity import EntityKey
from steinadler.security.files import sync_folder

LOCK_PATIENCE_S = 5.0
_LOCK_POLL_S = 0.001
# Marks the file as ours ("Stei"); file(1) and SQLite's magic.txt know it as the application id.
_APPLICATION_ID = 0x53746569
_MAX_ROWS = 64
_SWEEP_ROWS = 1000

# What makes each version of the schema from the one before it; none is ever changed.
_MIGRATIONS = (
    (
        "CREATE TABLE entities (type TEXT NOT NULL, id TEXT NOT NULL, epoch INTEGER NOT NULL,"
        " owner TEXT, incarnation INTEGER, PRIMARY KEY (type, id))",
        "CREATE TABLE state (type TEXT NOT NULL, id TEXT NOT NULL, key TEXT NOT NULL,"
        " value BLOB NOT NULL, expires_at REAL, PRIMARY KEY (type, id, key))",
        "CREATE INDEX state_expires ON state (expires_at) WHERE expires_at IS NOT NULL",
        "CREATE TABLE reminders (type TEXT NOT NULL, id TEXT NOT NULL, name TEXT NOT NULL,"
        " due_at REAL NOT NULL, period_s REAL, repeats INTEGER, expires_at REAL,"
        " data BLOB NOT NULL, PRIMARY KEY (type, id, name))",
        "CREATE INDEX reminders_due ON reminders (type, due_at)",
        "CREATE INDEX reminders_expire ON reminders (expires_at) WHERE expires_at IS NOT NULL",
    ),
)

_HELD = """WITH wanted (n, type, id) AS (VALUES {})
SELECT json_group_array(json_array(n, epoch, owner, incarnation))
FROM wanted CROSS JOIN entities USING (type, id)"""
_SET_HOLDERS = """INSERT INTO entities (type, id, epoch, owner, incarnation) VALUES {}
ON CONFLICT (type, id) DO UPDATE
SET epoch = excluded.epoch, owner = excluded.owner, incarnation = excluded.incarnation"""
_PUT = """INSERT INTO state (type, id, key, value, expires_at) VALUES {}
ON CONFLICT (type, id, key) DO UPDATE
SET value = excluded.value, expires_at = excluded.expires_at"""
_DELETE = "DELETE FROM state WHERE (type, id, key) IN (VALUES {})"
_SET_REMINDERS = """INSERT OR REPLACE INTO reminders
(type, id, name, due_at, period_s, repeats, expires_at, data) VALUES {}"""
_DELETE_REMINDERS = "DELETE FROM reminders WHERE (type, id, name) IN (VALUES {})"
_STATE = "SELECT type, id, key, value, expires_at FROM state WHERE (type, id) IN (VALUES {})"
_REMINDER = "name, due_at, period_s, repeats, expires_at, data"
_SWEEP = (
    "DELETE FROM {0} WHERE rowid IN (SELECT rowid FROM {0} WHERE expires_at <= ?"
    f" LIMIT {_SWEEP_ROWS})"
)


class SqliteDatabase(Database):
    """The database at `path`; the file is made when it opens, mode 0600, and its folder too."""

    def __init__(self, path: Path) -> None:
        self._path = path.absolute()
        self._writer = _Connection(self._path, timeout_s=0)
        self._reader = _Connection(self._path, timeout_s=LOCK_PATIENCE_S)

    def open(self) -> None:
        _make(self._path)
        try:
            self._prepare()
        except StoreUnavailable as error:
            if isinstance(error.__cause__, sqlite3.Error) and _code(error.__cause__) in _HOPELESS:
                raise ConfigError(str(error)) from error
            raise

    def _prepare(self) -> None:
        with self._writer.use() as connection:
            # Another process may be making the same file, which shuts readers out for a moment.
            connection.execute(f"PRAGMA busy_timeout = {int(LOCK_PATIENCE_S * 1000)}")
            connection.execute("BEGIN")
            version = self._version(connection)
            connection.execute("COMMIT")
            connection.execute("PRAGMA busy_timeout = 0")
            # Others' files have been refused by now: this is the first thing that changes one.
            if _patiently(connection, "PRAGMA journal_mode = WAL") != [("wal",)]:
                raise ConfigError(
                    f"SQLite cannot keep a write-ahead log beside {self._path}; "
                    "put the file on a disk of this machine"
                )
            if version < len(_MIGRATIONS):
                _patiently(connection, "BEGIN IMMEDIATE")
                for migration in _MIGRATIONS[self._version(connection) :]:
                    for statement in migration:
                        connection.execute(statement)
                connection.execute(f"PRAGMA application_id = {_APPLICATION_ID}")
                connection.execute(f"PRAGMA user_version = {len(_MIGRATIONS)}")
                connection.execute("COMMIT")

    def close(self) -> None:
        self._reader.close()
        self._writer.close()

    def write(self, group: Sequence[Write]) -> Sequence[Outcome]:
        with self._writer.use() as connection:
            _patiently(connection, "BEGIN IMMEDIATE")
            keys = list(dict.fromkeys(write.key for write in group))
            settlement = settle(group, _held(connection, keys))
            _run(
                connection,
                _SET_HOLDERS,
                [
                    (key.type, key.id, held.epoch, *(held.owner or (None, None)))
                    for key, held in settlement.holders.items()
                ],
            )
            puts, deletes = [], []
            for (key, name), change in settlement.state.items():
                if isinstance(change, Put):
                    puts.append((key.type, key.id, name, change.value, change.expires_at))
                else:
                    deletes.append((key.type, key.id, name))
            _run(connection, _PUT, puts)
            _run(connection, _DELETE, deletes)
            sets, deletes = [], []
            for (key, name), reminding in settlement.reminders.items():
                if isinstance(reminding, SetReminder):
                    sets.append((key.type, key.id, *reminding.reminder.as_tuple()))
                else:
                    deletes.append((key.type, key.id, name))
            _run(connection, _SET_REMINDERS, sets)
            _run(connection, _DELETE_REMINDERS, deletes)
            activated = {write.key for write in group if isinstance(write, Activate)}
            state = [
                (EntityKey(type_, id_), name, value, expires_at)
                for type_, id_, name, value, expires_at in _run(
                    connection, _STATE, [(key.type, key.id) for key in activated]
                )
            ]
            connection.execute("COMMIT")
            return settlement.outcomes(group, state)

    def sweep(self, now: float) -> None:
        with self._writer.use() as connection:
            for table in ("state", "reminders"):
                deleted = _SWEEP_ROWS
                while deleted == _SWEEP_ROWS:
                    _patiently(connection, "BEGIN IMMEDIATE")
                    deleted = connection.execute(_SWEEP.format(table), (now,)).rowcount
                    connection.execute("COMMIT")

    def look_up(self, key: EntityKey) -> Held | None:
        with self._reader.use() as connection:
            return _held(connection, [key]).get(key)

    def reminders(self, key: EntityKey) -> Sequence[Reminder]:
        with self._reader.use() as connection:
            rows = connection.execute(
                f"SELECT {_REMINDER} FROM reminders WHERE (type, id) = (?, ?) ORDER BY name",
                (key.type, key.id),
            )
            return [Reminder(*row) for row in rows]

    def due(self, type: str, before: float, limit: int, after: Due | None = None) -> Sequence[Due]:
        place = place_of(after)
        with self._reader.use() as connection:
            rows = connection.execute(
                f"SELECT type, id, {_REMINDER} FROM reminders WHERE type = ? AND due_at <= ?"
                " AND due_at >= ? AND (due_at, id, name) > (?, ?, ?)"
                " AND (expires_at IS NULL OR expires_at > due_at)"
                " ORDER BY due_at, id, name LIMIT ?",
                (type, before, place[0], *place, limit),
            )
            return [(EntityKey(row[0], row[1]), Reminder(*row[2:])) for row in rows]

    def _version(self, connection: sqlite3.Connection) -> int:
        """The version of the schema; raises `ConfigError` when it is none of ours."""
        # Another process that opens the file for the first time locks even readers out.
        ((application,),) = _patiently(connection, "PRAGMA application_id")
        ((version,),) = _patiently(connection, "PRAGMA user_version")
        ((tables,),) = _patiently(connection, "SELECT count(*) FROM sqlite_master")
        if application != _APPLICATION_ID and (application, version, tables) != (0, 0, 0):
            raise ConfigError(f"{self._path} is a database of another program; name another file")
        if version > len(_MIGRATIONS):
            raise ConfigError(
                f"{self._path} is of schema version {version}, and this version of Steinadler "
                f"knows {len(_MIGRATIONS)}; upgrade"
            )
        return int(version)


class _Connection:
    """One connection: made when it is needed, thrown away after any failure."""

    def __init__(self, path: Path, *, timeout_s: float) -> None:
        self._path = path
        self._timeout_s = timeout_s
        self._connection: sqlite3.Connection | None = None
        self._file: tuple[int, int] | None = None

    @contextlib.contextmanager
    def use(self) -> Iterator[sqlite3.Connection]:
        try:
            yield self._connected()
        except BaseException as error:
            self.close()
            if isinstance(error, sqlite3.Error | OSError):
                raise _explained(self._path, error) from error
            raise

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
        self._connection = None

    def _connected(self) -> sqlite3.Connection:
        # Whoever writes to a file that was removed, or moved away, writes to nowhere.
        status = self._path.stat()
        file = (status.st_dev, status.st_ino)
        if self._connection is not None and file != self._file:
            self.close()
        if self._connection is None:
            self._connection = sqlite3.connect(
                f"{self._path.as_uri()}?mode=rw",
                uri=True,
                isolation_level=None,
                check_same_thread=False,
                timeout=self._timeout_s,
                cached_statements=256,
            )
            self._file = file
            _patiently(self._connection, "PRAGMA synchronous = FULL")
            # macOS: what fsync leaves in the disk's cache is lost with the power.
            self._connection.execute("PRAGMA fullfsync = ON")
        return self._connection


def _make(path: Path) -> None:
    """Make an empty file, and its folder, unless there is one; raise `ConfigError` if not."""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not path.exists():
            # Complete under another name first: closing a descriptor of a file that SQLite has
            # open in this process would give up SQLite's locks (POSIX, fcntl).
            descriptor, unnamed = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
            os.close(descriptor)
            try:
                with contextlib.suppress(FileExistsError):
                    os.link(unnamed, path)
            finally:
                os.unlink(unnamed)
            sync_folder(path.parent)
    except OSError as error:
        raise ConfigError(f"{error.filename or path} cannot be made: {error.strerror}") from error
    if not path.is_file():
        raise ConfigError(f"{path} is not a file; name one for the entities' state")
    if not os.access(path, os.R_OK | os.W_OK):
        raise ConfigError(f"this user may not read and write {path}; chown or chmod it")


def _patiently(connection: sqlite3.Connection, statement: str) -> list[Any]:
    """Execute a statement that needs a lock; ask again until `LOCK_PATIENCE_S` is over."""
    deadline = time.monotonic() + LOCK_PATIENCE_S
    while True:
        try:
            return connection.execute(statement).fetchall()
        except sqlite3.OperationalError as error:
            if _code(error) not in _LOCKED or time.monotonic() >= deadline:
                raise
        time.sleep(_LOCK_POLL_S)


def _run(connection: sqlite3.Connection, statement: str, rows: Sequence[Any]) -> list[Any]:
    """Execute a statement for all rows, by powers of two: few sizes, which SQLite prepares once."""
    results: list[Any] = []
    start = 0
    while start < len(rows):
        count = min(1 << (len(rows) - start).bit_length() - 1, _MAX_ROWS)
        some = rows[start : start + count]
        row = f"({', '.join('?' * len(some[0]))})"
        values = [value for each in some for value in each]
        results += connection.execute(statement.format(", ".join([row] * count)), values)
        start += count
    return results


def _held(connection: sqlite3.Connection, keys: Sequence[EntityKey]) -> dict[EntityKey, Held]:
    held: dict[EntityKey, Held] = {}
    asked = [(n, key.type, key.id) for n, key in enumerate(keys)]
    for (found,) in _run(connection, _HELD, asked):
        for n, epoch, owner, incarnation in json.loads(found):
            held[keys[n]] = Held(epoch, None if owner is None else (owner, incarnation))
    return held


def _code(error: sqlite3.Error) -> int | None:
    """SQLite's primary result code; None when the error is Python's."""
    code: int | None = getattr(error, "sqlite_errorcode", None)
    return None if code is None else code & 0xFF


_HOPELESS = {sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_READONLY}
_LOCKED = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_PROTOCOL}


def _explained(path: Path, error: sqlite3.Error | OSError) -> Exception:
    """What to tell of an error: whose it is, and what to do.  A bug stays as it is."""
    if isinstance(error, FileNotFoundError):
        return StoreUnavailable(
            f"{path} is gone: put it back; a node that is opened without it starts afresh"
        )
    if isinstance(error, OSError):
        return StoreUnavailable(f"{path}: {error.strerror}")
    match _code(error):
        case sqlite3.SQLITE_BUSY | sqlite3.SQLITE_LOCKED | sqlite3.SQLITE_PROTOCOL:
            text = (
                f"another process has kept {path} locked for {LOCK_PATIENCE_S:g} s; "
                "is one stopped, or a shell inside a transaction? Let it go on, or end it"
            )
        case sqlite3.SQLITE_FULL:
            text = f"no space is left for {path}; free some on its disk"
        case sqlite3.SQLITE_NOTADB:
            text = f"{path} is not a SQLite database; name another file, or move it away"
        case sqlite3.SQLITE_CORRUPT:
            text = f"{path} is damaged ({error}); restore it from a copy"
        case sqlite3.SQLITE_READONLY:
            text = f"{path} cannot be written ({error}); make it and its folder writable"
        case sqlite3.SQLITE_CANTOPEN:
            text = f"{path} cannot be opened ({error}); are it and its folder writable?"
        case sqlite3.SQLITE_IOERR:
            text = f"the disk failed at {path} ({error}); look at the disk and its quota"
        case None | sqlite3.SQLITE_CONSTRAINT | sqlite3.SQLITE_MISMATCH | sqlite3.SQLITE_TOOBIG:
            return error
        case _:
            text = f"SQLite failed at {path}: {error}"
    return StoreUnavailable(text)
