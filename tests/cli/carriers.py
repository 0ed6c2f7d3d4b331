"""Runs `steinadler expose` and `forward` as their users do: as processes that tell what they do."""

from __future__ import annotations

import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import trio
from commands import Lines, Steinadler


class Command:
    """An `expose` or a `forward`, with `--json`."""

    def __init__(self, process: trio.Process, ready: dict[str, Any], lines: Lines) -> None:
        self.process = process
        self.ready = ready
        self.lines = lines

    @property
    def port(self) -> int:
        """Where a `forward` listens."""
        return int(self.ready["services"][0]["place"].rpartition(":")[2])

    async def next(self, event: str) -> dict[str, Any]:
        """The next line about that."""
        with trio.fail_after(10):
            while (told := await self.lines.next())["event"] != event:
                pass
        return told


@asynccontextmanager
async def running(steinadler: Steinadler, *words: str) -> AsyncIterator[Command]:
    """A command that is ready; killed afterwards when it still lives."""
    options = ("--host", "127.0.0.1", "--no-mdns", "--json")
    process = await steinadler.open(*words, *options, stdout=subprocess.PIPE)
    assert process.stdout is not None
    try:
        lines = Lines(process.stdout)
        with trio.fail_after(20):
            ready = await lines.next()
        assert ready["event"] == "ready"
        yield Command(process, ready, lines)
    finally:
        process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()
            await process.stdout.aclose()
