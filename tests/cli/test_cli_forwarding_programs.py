"""Unmodified programs through `expose` and `forward`: PostgreSQL, WebSockets, HTTP, for a while.

All at once over one connection between the two nodes, for STEINADLER_SOAK_S seconds (20).
"""

from __future__ import annotations

import hashlib
import http.client
import http.server
import os
import random
import subprocess
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
import trio
import trio_websocket
from carriers import running
from commands import Steinadler

from benchmarks.postgres_server import NotInstalled, PostgresServer

SOAK_S = float(os.environ.get("STEINADLER_SOAK_S", "20"))


@pytest.fixture(scope="module")
def postgres() -> Iterator[PostgresServer]:
    try:
        server = PostgresServer()
    except NotInstalled as error:
        pytest.skip(str(error))
    yield server
    server.remove()


class Digests(http.server.BaseHTTPRequestHandler):
    """Answers a body with its digest and itself."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Digest", hashlib.sha256(body).hexdigest())
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def http_server() -> Iterator[int]:
    """The standard library's, in a thread; its port."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Digests) as server:
        server.daemon_threads = False
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join()


@asynccontextmanager
async def echoing_web_sockets() -> AsyncIterator[int]:
    """A server of trio-websocket; its port."""

    async def echo(request: trio_websocket.WebSocketRequest) -> None:
        socket = await request.accept()
        while True:
            try:
                await socket.send_message(await socket.get_message())
            except trio_websocket.ConnectionClosed:
                return

    async with trio.open_nursery() as nursery:
        serve = partial(trio_websocket.serve_websocket, ssl_context=None)
        server = await nursery.start(serve, echo, "127.0.0.1", 0)
        yield server.port
        nursery.cancel_scope.cancel()


def use_http(port: int, seconds: float) -> int:
    """One client that keeps its connection; how many requests it made."""
    rng, count, until = random.Random(1), 0, time.monotonic() + seconds
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    while time.monotonic() < until:
        body = rng.randbytes(rng.choice((1, 100, 20_000, 300_000)))
        connection.request("POST", "/", body)
        answer = connection.getresponse()
        assert answer.read() == body
        assert answer.headers["Digest"] == hashlib.sha256(body).hexdigest()
        count += 1
    connection.close()
    return count


def use_psycopg(port: int, seconds: float) -> int:
    """Transactions, a large result, COPY both ways; how often."""
    import psycopg

    count, until = 0, time.monotonic() + seconds
    with psycopg.connect(f"postgresql://postgres@127.0.0.1:{port}/postgres") as connection:
        connection.execute("CREATE TEMPORARY TABLE kept (number integer, text text)")
        while time.monotonic() < until:
            with connection.transaction(), connection.cursor() as cursor:
                cursor.execute("TRUNCATE kept")
                with cursor.copy("COPY kept FROM STDIN") as copy:
                    for number in range(2000):
                        copy.write_row((number, "x" * 100))
                cursor.execute("SELECT number, text FROM kept ORDER BY number")
                assert cursor.fetchall() == [(number, "x" * 100) for number in range(2000)]
            with pytest.raises(psycopg.errors.DivisionByZero), connection.transaction():
                connection.execute("SELECT 1 / 0")
            count += 1
    return count


def use_pgbench(program: Path, port: int, seconds: float) -> str:
    """PostgreSQL's own load, eight clients; what it reports."""
    command = [str(program), "-h", "127.0.0.1", "-p", str(port), "-U", "postgres"]
    load = ["-n", "-c", "8", "-j", "2", "-T", str(max(1, int(seconds)))]
    subprocess.run([*command, "-i", "-q", "postgres"], check=True, capture_output=True)
    done = subprocess.run([*command, *load, "postgres"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


async def use_web_socket(port: int, seconds: float) -> int:
    """One client, text and binary; how many messages came back."""
    rng, count = random.Random(2), 0
    async with trio_websocket.open_websocket_url(f"ws://127.0.0.1:{port}/") as socket:
        with trio.move_on_after(seconds):
            while True:
                sent = rng.choice(("ü" * 10, "", rng.randbytes(10), rng.randbytes(100_000)))
                with trio.CancelScope(shield=True), trio.fail_after(20):
                    await socket.send_message(sent)
                    assert await socket.get_message() == sent
                count += 1
                await trio.lowlevel.checkpoint()
    return count


@pytest.mark.slow
async def test_programs_notice_nothing(
    steinadler: Steinadler, postgres: PostgresServer, record_property: Callable[[str, object], None]
) -> None:
    """M1 to M3, for whoever knows nothing of it; afterwards no connection is left or broke off."""
    folder = parse_qs(urlsplit(postgres.url()).query)["host"][0]
    pgbench = postgres.program("pgbench")
    results: dict[str, object] = {}

    async def use(name: str, *call: object) -> None:
        results[name] = await trio.to_thread.run_sync(*call)  # type: ignore[arg-type]

    async def use_sockets(port: int) -> None:
        results["websocket"] = await use_web_socket(port, SOAK_S)

    with trio.fail_after(SOAK_S + 60), http_server() as http_port:
        async with echoing_web_sockets() as socket_port:
            exposed = (
                *("expose", "db", f"unix:{folder}/.s.PGSQL.5432"),
                *("web", str(http_port), "chat", str(socket_port)),
            )
            services = ("0", "db", "0", "web", "0", "chat")
            async with (
                running(steinadler, *exposed) as exposing,
                running(steinadler, "forward", *services) as forwarding,
            ):
                db, web, chat = (
                    int(route["place"].rpartition(":")[2]) for route in forwarding.ready["services"]
                )
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(use, "psycopg", use_psycopg, db, SOAK_S)
                    nursery.start_soon(use, "pgbench", use_pgbench, pgbench, db, SOAK_S)
                    nursery.start_soon(use, "http", use_http, web, SOAK_S)
                    nursery.start_soon(use_sockets, chat)
                for command in (forwarding, exposing):
                    command.process.terminate()
                    left = (await command.next("left"))["services"]
                    assert [(each["failed"], each["broken"]) for each in left] == [(0, 0)] * 3
                    assert await command.process.wait() == 0
    record_property("results", results)
    assert "number of failed transactions: 0 " in str(results["pgbench"])
    assert all(results[name] for name in ("psycopg", "http", "websocket"))
