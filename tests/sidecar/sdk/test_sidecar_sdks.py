"""Dapr's own SDKs, unmodified, as programs behind sidecars and as callers (issue 4).

Each program is a process behind a sidecar of its own; callers are processes of both languages, at
a third sidecar, which has no program.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import trio
from sidecar_processes import Running, free_port, knows, running

pytestmark = pytest.mark.slow  # several processes and two languages each

HERE = Path(__file__).parent
JAVASCRIPT = HERE / "javascript"


@pytest.fixture(scope="session")
def node_path(pytestconfig: pytest.Config) -> Path:
    """Where the JavaScript SDK is; installed once, as package-lock.json says."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        pytest.skip("there is no Node.js")
    assert pytestconfig.cache is not None
    folder = pytestconfig.cache.mkdir("sidecar-javascript")
    lock = (JAVASCRIPT / "package-lock.json").read_bytes()
    installed = folder / "installed.json"
    if not installed.exists() or installed.read_bytes() != lock:
        for name in ("package.json", "package-lock.json"):
            shutil.copy(JAVASCRIPT / name, folder / name)
        done = subprocess.run(
            ["npm", "ci", "--no-audit", "--no-fund"],
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        if done.returncode != 0:
            pytest.skip(f"npm ci failed: {done.stderr[-300:]}")
        installed.write_bytes(lock)
    return folder / "node_modules"


@pytest.fixture
def python_sdk() -> None:
    for name in ("dapr", "fastapi", "uvicorn"):
        if find_spec(name) is None:
            pytest.skip(f"{name} is not installed: it is in the extra 'test'")


class Caller:
    """A process that calls actors, one line each."""

    def __init__(self, process: trio.Process) -> None:
        self._process = process
        self._kept = b""

    async def call(self, type_: str, id_: str, method: str, argument: Any = None) -> Any:
        told, answer = await self.try_call(type_, id_, method, argument)
        assert told == "ok", answer
        return answer

    async def fails(self, type_: str, id_: str, method: str, argument: Any = None) -> str:
        told, text = await self.try_call(type_, id_, method, argument)
        assert told == "failed", text
        return str(text)

    async def try_call(self, *request: Any) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with trio.fail_after(30):
            await self._process.stdin.send_all(json.dumps(request).encode() + b"\n")
            while b"\n" not in self._kept:
                more = await self._process.stdout.receive_some()
                assert more, "the caller died"
                self._kept += more
        line, _, self._kept = self._kept.partition(b"\n")
        return json.loads(line)


class Stage:
    """Sidecars, programs and callers of one test."""

    def __init__(self, folder: Path, stack: AsyncExitStack) -> None:
        self._folder = folder
        self._stack = stack
        self.notes = folder / "notes"
        self.notes.touch()

    async def sidecar(self, name: str, *options: str) -> Running:
        home = self._folder / "home"
        return await self._stack.enter_async_context(running(home, name, *options))

    async def host(
        self, name: str, command: list[str], idle: str, **env: str
    ) -> tuple[Running, trio.Process]:
        """A sidecar and its program, which is told both ports."""
        app_port, http_port = free_port(), free_port()
        sidecar = await self.sidecar(
            name, "--app-port", str(app_port), "--http-port", str(http_port)
        )
        words = [word.format(app=app_port, http=http_port) for word in command]
        process = await self.process(words, DAPR_HTTP_PORT=str(http_port), IDLE=idle, **env)
        with trio.fail_after(60):
            while not await sidecar.healthy():  # noqa: ASYNC110
                await trio.sleep(0.05)
        return sidecar, process

    async def process(self, words: list[str], **env: str) -> trio.Process:
        return await self._stack.enter_async_context(self._process(words, env))

    @asynccontextmanager
    async def _process(self, words: list[str], env: dict[str, str]) -> AsyncIterator[trio.Process]:
        with (self._folder / "log").open("ab") as log:
            process = await trio.lowlevel.open_process(
                words,
                env={**os.environ, "NOTES": str(self.notes), **env},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE if "client" in words[1] else log,
                stderr=log,
            )
        try:
            yield process
        finally:
            process.kill()
            with trio.CancelScope(shield=True):
                await process.wait()
                assert process.stdin is not None
                await process.stdin.aclose()
                if process.stdout is not None:
                    await process.stdout.aclose()

    async def python_host(self, name: str, idle_s: float = 3600) -> tuple[Running, trio.Process]:
        return await self.host(
            name, [sys.executable, str(HERE / "counter_app.py"), "{app}"], str(idle_s)
        )

    async def javascript_host(
        self, name: str, node_path: Path, idle: str = "1h"
    ) -> tuple[Running, trio.Process]:
        command = ["node", str(JAVASCRIPT / "app.js"), "{app}", "{http}", str(self.notes)]
        return await self.host(name, command, idle, NODE_PATH=str(node_path))

    async def python_caller(self, sidecar: Running) -> Caller:
        port = sidecar.ready["http"][0].rpartition(":")[2]
        words = [sys.executable, str(HERE / "counter_client.py")]
        return Caller(await self.process(words, DAPR_HTTP_PORT=port))

    async def javascript_caller(self, sidecar: Running, node_path: Path) -> Caller:
        port = sidecar.ready["http"][0].rpartition(":")[2]
        words = ["node", str(JAVASCRIPT / "client.js"), port]
        return Caller(await self.process(words, NODE_PATH=str(node_path)))

    async def noted(self, line: str) -> None:
        with trio.fail_after(20):
            while line not in self.notes.read_text().splitlines():  # noqa: ASYNC110
                await trio.sleep(0.05)


@pytest.fixture
async def stage(tmp_path: Path) -> AsyncIterator[Stage]:
    async with AsyncExitStack() as stack:
        yield Stage(tmp_path, stack)


async def grows(caller: Caller, type_: str, id_: str, get: str, key: str, step: int) -> None:
    """Wait until a counter has grown twice, each time by the step."""
    with trio.fail_after(20):
        while (value := await caller.call(type_, id_, get, key) or 0) < 2 * step:  # noqa: ASYNC110
            await trio.sleep(0.05)
    assert value % step == 0


async def rests(caller: Caller, type_: str, id_: str, get: str, key: str) -> None:
    """Check that a counter does not grow any more, for longer than it took before."""
    value = await caller.call(type_, id_, get, key)
    await trio.sleep(0.8)
    assert await caller.call(type_, id_, get, key) == value


async def test_the_python_sdk(stage: Stage, python_sdk: None) -> None:
    """Hosting on two nodes, calls across them, state, timers, reminders, errors, handover."""
    alice, _ = await stage.python_host("alice")
    bob, _ = await stage.python_host("bob")
    carol = await stage.sidecar("carol", "--http-port", "0")
    await knows(carol, 3)
    caller = await stage.python_caller(carol)
    ids = [str(number) for number in range(8)]
    for id_ in ids:
        assert await caller.call("PyCounter", id_, "Add", 2) == 2
        assert await caller.call("PyCounter", id_, "Add", 3) == 5
        assert await caller.call("PyCounter", id_, "Get", "count") == 5
    active = b'steinadler_entities_active{type="PyCounter"} '
    counts = [
        float(line.removeprefix(active))
        for sidecar in (alice, bob)
        for line in await sidecar.metrics()
        if line.startswith(active)
    ]
    assert sum(counts) == len(ids)
    assert all(counts), "both nodes own some"
    assert await caller.call("PyCounter", ids[0], "AddAt", ids[1]) == 6
    assert "out of ink" in await caller.fails("PyCounter", "0", "Fail")
    assert await caller.call("PyCounter", "0", "Get", "count") == 5
    assert await caller.fails("PyCounter", "0", "Fly")

    await caller.call("PyCounter", "0", "Timer", True)
    await grows(caller, "PyCounter", "0", "Get", "ticks", 2)
    await caller.call("PyCounter", "0", "Timer", False)
    await rests(caller, "PyCounter", "0", "Get", "ticks")
    for id_ in ids:
        await caller.call("PyCounter", id_, "Remind", True)
    for id_ in ids:
        await grows(caller, "PyCounter", id_, "Get", "reminded", 3)

    bob.process.send_signal(signal.SIGTERM)
    for id_ in ids:
        before = await caller.call("PyCounter", id_, "Get", "reminded")
        assert await caller.call("PyCounter", id_, "Add", 1) == 6 + (id_ == ids[1])
        with trio.fail_after(20):
            while await caller.call("PyCounter", id_, "Get", "reminded") == before:  # noqa: ASYNC110
                await trio.sleep(0.05)
    with trio.fail_after(15):
        assert await bob.process.wait() == 0
    for id_ in ids:
        await caller.call("PyCounter", id_, "Remind", False)
    await rests(caller, "PyCounter", "0", "Get", "reminded")


async def test_the_python_sdk_is_told_of_deactivation(stage: Stage, python_sdk: None) -> None:
    sidecar, _ = await stage.python_host("alice", idle_s=1)
    caller = await stage.python_caller(sidecar)
    assert await caller.call("PyCounter", "ü b", "Add", 1) == 1
    await stage.noted("ü b")
    assert await caller.call("PyCounter", "ü b", "Add", 1) == 2


async def test_the_javascript_sdk(stage: Stage, node_path: Path) -> None:
    """Hosting on two nodes, calls across them, state, timers, reminders, errors, handover."""
    alice, app = await stage.javascript_host("alice", node_path)
    bob, _ = await stage.javascript_host("bob", node_path)
    carol = await stage.sidecar("carol", "--http-port", "0")
    await knows(carol, 3)
    caller = await stage.javascript_caller(carol, node_path)
    ids = ["a/b", "ü", *(str(number) for number in range(6))]
    for id_ in ids:
        assert await caller.call("JsCounter", id_, "add", 2) == 2
        assert await caller.call("JsCounter", id_, "add", 3) == 5
        assert await caller.call("JsCounter", id_, "get", "count") == 5
    assert await caller.fails("JsCounter", "0", "fail")
    assert await caller.fails("JsCounter", "0", "fly")
    assert await caller.call("JsCounter", "0", "get", "count") == 5

    await caller.call("JsCounter", "0", "timer", True)
    await grows(caller, "JsCounter", "0", "get", "ticks", 2)
    await caller.call("JsCounter", "0", "timer", False)
    await rests(caller, "JsCounter", "0", "get", "ticks")
    for id_ in ids:
        await caller.call("JsCounter", id_, "remind", True)
    for id_ in ids:
        await grows(caller, "JsCounter", id_, "get", "reminded", 3)
    bob.process.send_signal(signal.SIGTERM)
    for id_ in ids:
        assert await caller.call("JsCounter", id_, "add", 1) == 6
        await caller.call("JsCounter", id_, "remind", False)
    with trio.fail_after(15):
        assert await bob.process.wait() == 0
    await rests(caller, "JsCounter", "0", "get", "reminded")
    assert app.returncode is None
    assert await alice.healthy()


async def test_the_javascript_sdk_is_told_of_deactivation(stage: Stage, node_path: Path) -> None:
    """And of nothing that it does not know: it would die of that."""
    sidecar, app = await stage.javascript_host("alice", node_path, idle="1s")
    caller = await stage.javascript_caller(sidecar, node_path)
    assert await caller.call("JsCounter", "1", "add", 1) == 1
    await stage.noted("1")
    assert await caller.call("JsCounter", "1", "add", 1) == 2
    assert app.returncode is None


async def test_the_languages_call_each_other(
    stage: Stage, python_sdk: None, node_path: Path
) -> None:
    python, _ = await stage.python_host("alice")
    javascript, _ = await stage.javascript_host("bob", node_path)
    await knows(python, 2)
    await knows(javascript, 2)
    from_python = await stage.python_caller(python)
    from_javascript = await stage.javascript_caller(javascript, node_path)
    assert await from_python.call("JsCounter", "x", "add", [4]) == 4
    assert await from_javascript.call("JsCounter", "x", "add", 1) == 5
    # The JavaScript SDK sends the list of a method's arguments.
    assert await from_javascript.call("PyCounter", "x", "Get", "count") is None
    assert await from_python.call("PyCounter", "x", "Add", 1) == 1
