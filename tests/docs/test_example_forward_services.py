"""The example of services behind `expose` and `forward`, with the service that not all have."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from benchmarks.postgres_server import NotInstalled, PostgresServer


@pytest.mark.slow
def test_an_unmodified_postgresql_is_asked(tmp_path: Path) -> None:
    pytest.importorskip("psycopg")
    try:
        server = PostgresServer()
    except NotInstalled as error:
        pytest.skip(str(error))
    try:
        (folder,) = parse_qs(urlsplit(server.url()).query)["host"]
        done = subprocess.run(
            [sys.executable, "examples/forward_services.py", f"unix:{folder}/.s.PGSQL.5432"],
            env={**os.environ, "STEINADLER_HOME": str(tmp_path / "home")},
            cwd=Path(__file__).parents[2],
            capture_output=True,
            text=True,
            timeout=60,
        )
    finally:
        server.remove()
    assert done.returncode == 0, done.stderr
    assert "HTTP 200" in done.stdout
    assert "PostgreSQL " in done.stdout
