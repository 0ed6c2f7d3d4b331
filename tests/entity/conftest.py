"""What tests of entities share: a real PostgreSQL server."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from benchmarks.postgres_server import NotInstalled, PostgresServer


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """A server, started once; skips where it is not installed."""
    pytest.importorskip("psycopg")
    try:
        server = PostgresServer()
    except NotInstalled as error:
        pytest.skip(str(error))
    yield server
    server.remove()
