"""What goes wrong, as somebody with a shell and curl sees it: real processes, exact codes, and
texts that name what was wrong.  More of it, without processes, is in test_sidecar_api.py.
"""

from __future__ import annotations

import json
import resource
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import trio
from program_processes import both, program
from sidecar_processes import Running, free_port, running

pytestmark = pytest.mark.slow  # a sidecar and a program each


async def curl(sidecar: Running, path: str, *words: str) -> tuple[int, Any]:
    """A request about actors; the status, and the JSON of the answer."""
    port = sidecar.ready["http"][0].rpartition(":")[2]
    url = f"http://127.0.0.1:{port}/v1.0/actors/{path}"
    command = ["curl", "-sS", "--path-as-is", "-m", "30", "-w", "\\n%{http_code}", url, *words]
    ran = await trio.run_process(command, capture_stdout=True)
    body, _, status = ran.stdout.rpartition(b"\n")
    return int(status), json.loads(body) if body else None


async def is_told(sidecar: Running, path: str, *words: str, code: str, text: str) -> int:
    """Check that the answer is that problem, and return its status."""
    status, told = await curl(sidecar, path, *words)
    assert isinstance(told, dict), (path[:100], words, status, told)
    assert (told["errorCode"], text in told["message"]) == (code, True), told
    return status


ADD = "method/add"
UPSERT = [{"operation": "upsert", "request": {"key": "k", "value": "x" * 150_000}}]


async def test_requests_that_are_wrong(tmp_path: Path) -> None:
    async with both(tmp_path, "alice", "--turn-timeout", "1") as (alice, _):
        bad = "ERR_MALFORMED_REQUEST"
        for path, words, code, text in (
            (
                f"Plane/1/{ADD}",
                ["-H", "Steinadler-Timeout-Ms: 500"],
                "ERR_ACTOR_TYPE_NOT_FOUND",
                "no member hosts Plane; nothing ran",
            ),
            ("Cart/1/method/fly", [], "ERR_ACTOR_METHOD_NOT_FOUND", "Cart has no method 'fly'"),
            ("Cart/2/method/slow", ["-d", "20"], "ERR_ACTOR_TIMEOUT", "Cart/2 took too long"),
            (
                "Cart/3/method/slow",
                ["-d", "20", "-H", "Steinadler-Timeout-Ms: 200"],
                "ERR_ACTOR_TIMEOUT",
                "did not answer 'slow' within 0.2 s",
            ),
            ("Cart/1/state", ["-d", "x=1"], bad, "the body is not JSON"),
            ("Cart/1/state", ["-d", "{}"], bad, "a transaction is a list"),
            ("Cart/cold/state", ["-d", "[]"], "ERR_ACTOR_NOT_ACTIVE", "Cart/cold is not active"),
            (
                "Cart/1/method/echo",
                ["-d", f"@{tmp_path / 'big'}"],
                "ERR_BODY_TOO_LARGE",
                "4194304 bytes at most (--max-body)",
            ),
            ("Cart/1/reminders/r", ["-d", '{"dueTime": "soon"}'], bad, "'soon' is not a duration"),
            ("Cart/1/reminders/r", ["-d", '{"period": "P1Y"}'], bad, "'P1Y' is not a duration"),
            (f"Cart/{'x' * 1025}/{ADD}", [], bad, "1 to 1024 bytes; this one takes 1025"),
            (f"Cart/{'x' * 10_000}/{ADD}", [], bad, "this one takes 10000"),
            (f"Cart/{quote('ü' * 5000)}/{ADD}", [], bad, "this one takes 10000"),
            (f"{'x' * 10_000}/1/{ADD}", [], bad, "1 to 255 visible ASCII characters"),
            (f"Cart/a/b/{ADD}", [], "ERR_NOT_FOUND", "see /openapi.json"),
            (f"Cart//{ADD}", [], bad, "a part of the path is empty"),
            (f"Cart/gr%FCn/{ADD}", [], bad, "not UTF-8"),
            ("Cart/1/method/echo", ["-X", "PATCH"], "ERR_METHOD_NOT_ALLOWED", "not PATCH"),
        ):
            (tmp_path / "big").write_bytes(b"x" * 5_000_000)
            verb = [] if "-X" in words else ["-X", "POST"]
            await is_told(alice, path, *verb, *words, code=code, text=text)
        for id_ in ("a/b", "a b", "grün/ß€🐦", "%2F", "a?b#c", "x" * 1024, ".."):
            assert await curl(alice, f"Cart/{quote(id_, safe='')}/{ADD}", "-d", "1") == (200, 1)


async def test_a_program_that_is_not_there_and_one_that_dies(tmp_path: Path) -> None:
    app_port, http_port = free_port(), free_port()
    options = ("--app-port", str(app_port), "--http-port", str(http_port))
    log = tmp_path / "log"
    async with running(tmp_path, "alice", *options, log=log) as alice:
        soon = ("-H", "Steinadler-Timeout-Ms: 500")
        text = "no member hosts Cart; nothing ran; the program of this sidecar is not there"
        path = f"Cart/1/{ADD}"
        await is_told(alice, path, "-d", "1", *soon, code="ERR_ACTOR_TYPE_NOT_FOUND", text=text)
        waiting = f"waiting for the program: .* 127.0.0.1:{app_port}"
        assert await in_log(log, waiting) == 1, "told once, with the address"
        async with program(app_port, http_port):
            assert await curl(alice, path, "-d", "1") == (200, 1)
            text = "the program closed the connection without an answer"
            await is_told(
                alice, "Cart/1/method/die", "-d", "", code="ERR_ACTOR_HOST_FAILED", text=text
            )
        text = "the program cannot be reached"
        await is_told(alice, path, "-d", "1", *soon, code="ERR_ACTOR_UNAVAILABLE", text=text)
        async with program(app_port, http_port):
            assert await curl(alice, path, "-d", "1") == (200, 2)


async def in_log(log: Path, pattern: str) -> int:
    """How many lines of a log match."""
    ran = await trio.run_process(
        ["grep", "-cE", pattern, str(log)], capture_stdout=True, check=False
    )
    return int(ran.stdout)


async def test_a_store_that_is_locked_full_gone_and_back(tmp_path: Path) -> None:
    """Each is named, with what to do; nothing is acknowledged meanwhile, nothing is lost (E2)."""
    folder, log = tmp_path / "store", tmp_path / "log"
    folder.mkdir()
    file = folder / "s.sqlite3"
    store = ("--store", f"sqlite:///{file}")
    async with both(tmp_path / "home", "alice", *store, log=log) as (alice, _):
        count = 0

        async def works() -> None:
            nonlocal count
            count += 1
            assert await curl(alice, f"Cart/1/{ADD}", "-d", "1") == (200, count)

        async def fails(text: str, path: str = f"Cart/1/{ADD}", body: str = "1") -> None:
            status = await is_told(alice, path, "-d", body, code="ERR_STATE_STORE", text=text)
            assert status == 503

        await works()
        locker = sqlite3.connect(file)
        locker.execute("BEGIN EXCLUSIVE")
        try:
            await fails("another process has kept")
        finally:
            locker.close()
        await works()

        resource.prlimit(alice.process.pid, resource.RLIMIT_FSIZE, (120_000, -1))
        much = tmp_path / "much"
        much.write_text(json.dumps({"verb": "POST", "path": "state", "body": UPSERT}))
        await fails("look at the disk", "Cart/2/method/ask", f"@{much}")
        resource.prlimit(alice.process.pid, resource.RLIMIT_FSIZE, (-1, -1))
        await works()

        folder.rename(tmp_path / "elsewhere")
        await fails(f"{file} is gone: put it back")
        (tmp_path / "elsewhere").rename(folder)
        await works()
    assert await in_log(log, "the store of entities fails") == 3, "each is told once"


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        ("hello", "the program.s answer is not HTTP"),
        ("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello", "/dapr/config is not JSON"),
        ("HTTP/1.1 500 Oh\r\ncontent-length: 0", "/dapr/config answered with status 500"),
    ],
)
async def test_a_program_that_answers_garbage(tmp_path: Path, answer: str, told: str) -> None:
    """As soon as it comes up; for garbage in a turn see test_sidecar_api.py."""
    app_port, log = free_port(), tmp_path / "log"
    script = (
        "import socketserver, sys\n"
        "class Garbage(socketserver.StreamRequestHandler):\n"
        "    def handle(self):\n"
        "        self.rfile.readline(); self.wfile.write(sys.argv[2].encode() + b'\\r\\n\\r\\n')\n"
        "socketserver.TCPServer.allow_reuse_address = True\n"
        "socketserver.TCPServer(('127.0.0.1', int(sys.argv[1])), Garbage).serve_forever()\n"
    )
    process = await trio.lowlevel.open_process(
        [sys.executable, "-c", script, str(app_port), answer], stderr=subprocess.DEVNULL
    )
    try:
        options = ("--app-port", str(app_port), "--http-port", "0")
        async with running(tmp_path, "alice", *options, log=log):
            with trio.fail_after(20):
                while not await in_log(log, f"waiting for the program: {told}"):  # noqa: ASYNC110
                    await trio.sleep(0.05)
    finally:
        process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()
