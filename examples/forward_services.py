"""Services that know nothing of a cluster, used by clients that know nothing of it either.

    python examples/forward_services.py [POSTGRES]

runs the HTTP server of Python's standard library behind `steinadler expose`, and asks it with the
standard library's client through `steinadler forward`: five programs, two of them ours.  With
POSTGRES, where a PostgreSQL server listens (127.0.0.1:5432, unix:/run/postgresql/.s.PGSQL.5432),
that one is exposed too, and asked with psycopg.  By hand, on the machine that has the services:

    steinadler expose web 127.0.0.1:8000 db unix:/run/postgresql/.s.PGSQL.5432

and on each that uses them:

    steinadler forward 8000 web 5432 db
    curl http://127.0.0.1:8000/
    psql -h 127.0.0.1 -U postgres

Between the two commands everything travels over the cluster's links, by mutual TLS; neither the
services nor their clients are set up for that.  Start a second `expose web` on another machine, and
new connections take turns between both.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
STEINADLER = [sys.executable, "-m", "steinadler"]


@contextmanager
def program(*command: str) -> Iterator[Iterator[str]]:
    """Run a program for the length of the block; what it prints, line by line."""
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        try:
            assert process.stdout is not None
            yield process.stdout
        finally:
            process.terminate()  # expose and forward drain: no connection is left


def ready(lines: Iterator[str]) -> list[dict[str, Any]]:
    """Wait for the first line of `expose` or `forward`: the services, and where they are."""
    event = json.loads(next(lines))
    services: list[dict[str, Any]] = event["services"]
    for service in services:
        print(f"{event['name']}: {service['service']} at {service['place']}")
    return services


def fetch(place: str) -> None:
    """Ask the HTTP server for this file."""
    with urllib.request.urlopen(f"http://{place}/{Path(__file__).name}", timeout=10) as answer:
        page = answer.read()
        print(f"HTTP {answer.status} from {answer.headers['Server']}, {len(page)} bytes")
    if page != Path(__file__).read_bytes():
        raise SystemExit("that is another file")


def query(place: str) -> None:
    """Ask PostgreSQL what it is."""
    import psycopg  # pip install 'steinadler[postgres]'

    with psycopg.connect(f"postgresql://postgres@{place}/postgres") as connection:
        (version,) = connection.execute("SHOW server_version").fetchone() or ("nothing",)
        print(f"PostgreSQL {version}")


def main(postgres: list[str]) -> None:
    with ExitStack() as running:

        def start(*command: str) -> Iterator[str]:
            return running.enter_context(program(*command))

        server = [sys.executable, "-m", "http.server", "0", "--bind", "127.0.0.1"]
        serving = next(start(*server, "--directory", str(HERE)))
        port = serving.partition(" port ")[2].split()[0]  # Serving HTTP on 127.0.0.1 port ...

        exposed = ["web", port, *(word for place in postgres for word in ("db", place))]
        ready(start(*STEINADLER, "expose", *exposed, "--json"))
        forwarded = ["0", "web", *(word for _ in postgres for word in ("0", "db"))]
        places = [
            each["place"] for each in ready(start(*STEINADLER, "forward", *forwarded, "--json"))
        ]

        fetch(places[0])
        for place in places[1:]:
            query(place)


if __name__ == "__main__":
    main(sys.argv[1:2])
