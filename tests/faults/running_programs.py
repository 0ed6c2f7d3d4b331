"""Starts `programs_of_faults` as operating-system processes, and hears what they say."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import trio

_PROGRAM = Path(__file__).with_name("programs_of_faults.py")


class Program:
    """One process; killed when the task that runs it is cancelled."""

    def __init__(self, process: trio.Process) -> None:
        self._process = process

    async def answer(self) -> dict[str, Any]:
        """Wait for its line of JSON."""
        assert self._process.stdout is not None
        line = b""
        while not line.endswith(b"\n"):
            data = await self._process.stdout.receive_some()
            assert data, "the program ended without a word; its errors are above"
            line += data
        answer: dict[str, Any] = json.loads(line)
        return answer

    def kill(self) -> None:
        """SIGKILL."""
        self._process.kill()

    @classmethod
    async def run(
        cls, home: Path, what: str, *rest: str, task_status: trio.TaskStatus[Program]
    ) -> None:
        """Run until it ends, or until cancelled."""
        process = await trio.lowlevel.open_process(
            [sys.executable, str(_PROGRAM), what, str(home), *rest],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        try:
            task_status.started(cls(process))
            await process.wait()
        finally:
            process.kill()
            with trio.CancelScope(shield=True):
                await process.wait()
            for pipe in (process.stdin, process.stdout):
                assert pipe is not None
                with trio.CancelScope(shield=True):
                    await pipe.aclose()
