"""Runs `steinadler` as its users do: as a process, in a home folder of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import trio


@dataclass(frozen=True)
class Result:
    """How a command ended."""

    code: int
    stdout: str
    stderr: str

    @property
    def json(self) -> Any:
        """What it printed: exactly one JSON value on exactly one line."""
        assert self.code == 0, self.stderr
        assert self.stdout.count("\n") == 1
        return json.loads(self.stdout)

    def failed(self, code: int, *words: str) -> None:
        """Check that it said why in one line on stderr, and nothing on stdout."""
        assert (self.code, self.stdout) == (code, ""), self
        assert self.stderr.count("\n") == 1, self.stderr
        assert self.stderr.startswith("steinadler")
        for word in words:
            assert word in self.stderr


class RunningNode:
    """A `steinadler node --json`, and what it tells."""

    def __init__(self, process: trio.Process, ready: dict[str, Any], lines: Lines) -> None:
        self.process = process
        self.ready = ready
        self._lines = lines

    @property
    def address(self) -> str:
        return str(self.ready["addresses"][0])

    async def next_event(self) -> dict[str, Any]:
        """The next line, as JSON."""
        return await self._lines.next()

    async def stop(self, number: int = signal.SIGTERM) -> int:
        """Send a signal, and return the exit code."""
        self.process.send_signal(number)
        return await self.process.wait()


class Lines:
    """JSON lines out of a pipe."""

    def __init__(self, stream: trio.abc.ReceiveStream) -> None:
        self._stream = stream
        self._data = b""

    async def next(self) -> dict[str, Any]:
        while b"\n" not in self._data:
            more = await self._stream.receive_some()
            assert more, "it ended"
            self._data += more
        line, _, self._data = self._data.partition(b"\n")
        event: dict[str, Any] = json.loads(line)
        return event


class Steinadler:
    """The command, with one home folder, without multicast."""

    def __init__(self, home: Path, folder: Path) -> None:
        self.home = home
        self.folder = folder

    async def open(self, *words: str, **options: Any) -> trio.Process:
        """Start a command."""
        return await trio.lowlevel.open_process(
            [sys.executable, "-m", "steinadler", *words],
            env={**os.environ, "STEINADLER_HOME": str(self.home)},
            cwd=self.folder,
            **options,
        )

    async def run(self, *words: str) -> Result:
        """Run a command to its end, which comes within 20 s."""
        with trio.fail_after(20):
            done = await trio.run_process(
                [sys.executable, "-m", "steinadler", *words],
                env={**os.environ, "STEINADLER_HOME": str(self.home)},
                cwd=self.folder,
                check=False,
                capture_stdout=True,
                capture_stderr=True,
            )
        return Result(done.returncode, done.stdout.decode(), done.stderr.decode())

    async def ask(self, *words: str) -> Result:
        """Run a command that observes, without multicast."""
        return await self.run(*words, "--no-mdns")

    @asynccontextmanager
    async def node(self, name: str, *options: str) -> AsyncIterator[RunningNode]:
        """A node that is ready; killed afterwards when it still lives."""
        words = ("node", name, "--host", "127.0.0.1", "--no-mdns", "--json", *options)
        process = await self.open(*words, stdout=subprocess.PIPE)
        assert process.stdout is not None
        try:
            lines = Lines(process.stdout)
            with trio.fail_after(20):
                ready = await lines.next()
            assert (ready["event"], ready["name"]) == ("ready", name)
            yield RunningNode(process, ready, lines)
        finally:
            process.kill()
            with trio.CancelScope(shield=True):
                await process.wait()
                await process.stdout.aclose()
