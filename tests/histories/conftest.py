"""A real PostgreSQL server for the histories that need one."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from databases import Database, Postgres, Sqlite

from benchmarks.postgres_server import NotInstalled


@pytest.fixture
def database(request: pytest.FixtureRequest) -> Iterator[Database]:
    """The store that the test names; skips where PostgreSQL is not installed."""
    if request.param == "sqlite":
        yield Sqlite()
        return
    pytest.importorskip("psycopg")
    try:
        postgres = Postgres()
    except NotInstalled as error:
        pytest.skip(str(error))
    yield postgres
    postgres.remove()
