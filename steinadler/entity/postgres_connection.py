"""One connection to PostgreSQL, and what its errors mean.

It is psycopg's synchronous one, because its asynchronous ones are asyncio's.  It is made when it
is needed and thrown away after any failure: the call that finds the server gone also says why,
and the first one after the server's return finds it back.  psycopg's pool was refused: it hides
why a connection cannot be made behind a time-out of its own, tries again ever more rarely, and
keeps four threads for the two connections that a store needs.

Nothing waits for the server for ever: what is not answered within `ANSWER_TIMEOUT_S` fails, and
the server ends a transaction in which a node fell silent, with the locks that it holds.
"""

from __future__ import annotations

import contextlib
import select
import time
from collections.abc import Generator, Iterator
from typing import Any, TypeAlias

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from steinadler.errors import ConfigError, StoreUnavailable

CONNECT_TIMEOUT_S = 5
ANSWER_TIMEOUT_S = 10.0
# How long a transaction waits for another's row, and how long one may be silent meanwhile.  The
# second is the shorter: a node that stopped inside a transaction fails nobody else's.
_LOCK_TIMEOUT_MS = 5000
_SILENCE_TIMEOUT_MS = 3000

_SETTINGS = f"""SELECT
    set_config('lock_timeout', '{_LOCK_TIMEOUT_MS}', false),
    set_config('idle_in_transaction_session_timeout', '{_SILENCE_TIMEOUT_MS}', false),
    set_config('default_transaction_isolation', 'read committed', false),
    -- Stronger settings stay; an acknowledged turn is on disk at least.
    CASE current_setting('synchronous_commit')
        WHEN 'off' THEN set_config('synchronous_commit', 'on', false) END"""
Row: TypeAlias = tuple[Any, ...]


class Connection(psycopg.Connection[Row]):
    """A connection that waits for no answer beyond its `deadline`, in `time.monotonic`'s time."""

    deadline = float("inf")

    def wait(self, gen: Generator[Any, Any, Any], *args: Any, **options: Any) -> Any:
        return super().wait(_bounded(gen, self.deadline), *args, **options)


def _bounded(gen: Generator[Any, Any, Any], deadline: float) -> Generator[Any, Any, Any]:
    """The same, until the deadline: psycopg resumes it ten times a second when nothing comes."""
    try:
        wanted = next(gen)
        while True:
            ready = yield wanted
            if not ready and time.monotonic() > deadline:
                raise psycopg.OperationalError(f"no answer within {ANSWER_TIMEOUT_S:g} s")
            wanted = gen.send(ready)
    except StopIteration as stop:
        return stop.value


class ServerConnection:
    """The connection to the server of a URL; raises `ConfigError` for a URL that is none."""

    def __init__(self, url: str) -> None:
        try:
            given = conninfo_to_dict(url)
        except psycopg.Error as error:
            raise ConfigError(f"the URL is none of PostgreSQL's: {_line(error)}") from error
        self.where = (
            f"database {given.get('dbname') or given.get('user') or 'of this user'!r} of "
            f"PostgreSQL at {given.get('host') or 'this machine'}"
        )
        defaults: dict[str, Any] = {
            "connect_timeout": CONNECT_TIMEOUT_S,
            "application_name": "steinadler",
            # A server that vanished is noticed while nothing is asked, too.
            "keepalives_idle": 10,
            "keepalives_interval": 5,
            "keepalives_count": 3,
        }
        self._conninfo = make_conninfo("", **(defaults | given))
        self._connection: Connection | None = None

    @contextlib.contextmanager
    def use(self) -> Iterator[Connection]:
        """The connection, for one block; on an error it is closed, and what it had begun undone.

        Raises `StoreUnavailable` for whatever is the server's, the network's or an operator's.
        """
        try:
            yield self._connected()
        except BaseException as error:
            self.close()
            if isinstance(error, psycopg.Error):
                first = _first(error)
                raise _explained(self.where, first) from first
            raise

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
        self._connection = None

    def _connected(self) -> Connection:
        if self._connection is not None and _has_ended(self._connection):
            self.close()
        deadline = time.monotonic() + ANSWER_TIMEOUT_S
        if self._connection is None:
            connection = Connection.connect(self._conninfo, autocommit=True)
            self._connection = connection
            connection.deadline = deadline
            connection.execute(_SETTINGS)
        self._connection.deadline = deadline
        return self._connection


def _has_ended(connection: Connection) -> bool:
    """Whether the server has hung up.  It says nothing else to a connection that asks nothing."""
    if connection.closed:
        return True
    if not hasattr(select, "poll"):
        return False  # Windows: the first call after a restart of the server fails
    poll = select.poll()
    poll.register(connection.fileno(), select.POLLIN)
    return bool(poll.poll(0))


# -- errors ----------------------------------------------------------------------------------------

# libpq tells why it could not connect in words alone; these are the server's, in English.
_REFUSED = ("authentication failed", "pg_hba.conf", "no password supplied", "role ")


def _first(error: psycopg.Error) -> psycopg.Error:
    """What went wrong first: leaving a pipeline that has failed fails too, in its own words."""
    while isinstance(error.__context__, psycopg.Error):
        error = error.__context__
    return error


def _line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0]


def is_hopeless(error: psycopg.Error) -> bool:
    """Whether somebody must change something before this can work."""
    words = str(error)
    return error.sqlstate in ("28000", "28P01", "3D000", "3F000", "42501") or (
        error.sqlstate is None
        and ("does not exist" in words or any(word in words for word in _REFUSED))
    )


def is_undone(error: BaseException | None) -> bool:
    """Whether the server has taken the whole transaction back, to be tried again."""
    return isinstance(error, psycopg.Error) and error.sqlstate in ("40001", "40P01")


def _explained(where: str, error: psycopg.Error) -> Exception:
    """What to tell of an error: whose it is, and what to do.  A bug stays as it is."""
    words = _line(error)
    match error.sqlstate:
        case "3D000" | None if "database" in words and "does not exist" in words:
            advice = "create it (createdb), or correct the URL"
        case "28000" | "28P01":
            advice = "correct the user or password in the URL, or pg_hba.conf"
        case None if any(word in words for word in _REFUSED):
            advice = "correct the user or password in the URL, or pg_hba.conf"
        case None:
            advice = "is the server up, and does the URL name its host and port?"
        case "42501" | "3F000":
            advice = "let the user create tables there: GRANT CREATE ON SCHEMA, or a search_path"
        case "42P01" | "42703":
            advice = "somebody changed the tables; restore them, or restart the nodes"
        case "25006":
            advice = "the server is a standby, or read-only; name the primary in the URL"
        case "53100":
            advice = "the server's disk is full; free some space there"
        case "55P03":
            advice = "another session keeps an entity's row locked; end its transaction"
        case state if state[:2] in ("22", "23", "42", "0A"):
            return error
        case _:
            advice = "see the server's log"
    return StoreUnavailable(f"{where}: {words}; {advice}")
