"""Sidecars, programs of several languages behind them, and callers, each a process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import trio
from sidecar_processes import Running, free_port, running

HERE = Path(__file__).parent
JAVASCRIPT = HERE / "javascript"


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
        self._programs: dict[str, tuple[list[str], dict[str, str]]] = {}

    async def sidecar(self, name: str, *options: str) -> Running:
        home = self._folder / "home"
        return await self._stack.enter_async_context(running(home, name, *options))

    async def host(self, name: str, command: list[str], **env: str) -> tuple[Running, trio.Process]:
        """A sidecar and its program, which is told both ports, and is ready."""
        app_port, http_port = free_port(), free_port()
        sidecar = await self.sidecar(
            name, "--app-port", str(app_port), "--http-port", str(http_port)
        )
        words = [word.format(app=app_port, http=http_port) for word in command]
        ports = {"APP_PORT": str(app_port), "DAPR_HTTP_PORT": str(http_port)}
        self._programs[name] = words, {**ports, **env}
        process = await self.start_again(name)
        with trio.fail_after(60):
            while not await sidecar.healthy():
                assert process.returncode is None, (self._folder / "log").read_text()
                await trio.sleep(0.05)
        return sidecar, process

    async def start_again(self, name: str) -> trio.Process:
        """The program of a sidecar, once more."""
        words, env = self._programs[name]
        return await self.process(words, **env)

    async def run(self, words: list[str], **env: str) -> subprocess.CompletedProcess[bytes]:
        """A program that comes to its end."""
        with trio.fail_after(30):
            return await trio.run_process(
                words,
                env={**os.environ, **env},
                capture_stdout=True,
                capture_stderr=True,
                check=False,
            )

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
        command = [sys.executable, str(HERE / "counter_app.py"), "{app}"]
        return await self.host(name, command, IDLE=str(idle_s))

    async def javascript_host(
        self, name: str, node_path: Path, idle: str = "1h"
    ) -> tuple[Running, trio.Process]:
        command = ["node", str(JAVASCRIPT / "app.js"), "{app}", "{http}", str(self.notes)]
        return await self.host(name, command, IDLE=idle, NODE_PATH=str(node_path))

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
