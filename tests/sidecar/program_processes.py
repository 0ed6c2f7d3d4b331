"""Runs app_program.py as a process, alone or behind a sidecar."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import trio
from sidecar_processes import Running, free_port, running

PROGRAM = Path(__file__).with_name("app_program.py")


@asynccontextmanager
async def program(app_port: int, sidecar_port: int) -> AsyncIterator[trio.Process]:
    """The program as a process."""
    process = await trio.lowlevel.open_process(
        [sys.executable, str(PROGRAM), str(app_port), str(sidecar_port)], stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    try:
        with trio.fail_after(30):
            assert (await process.stdout.receive_some()).startswith(b"listening")
        yield process
    finally:
        process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()
            await process.stdout.aclose()


@asynccontextmanager
async def both(
    home: Path, name: str, *options: str, log: Path | None = None
) -> AsyncIterator[tuple[Running, trio.Process]]:
    """A sidecar and its program, ready."""
    app_port, http_port = free_port(), free_port()
    ports = {"APP_PORT": str(app_port), "DAPR_HTTP_PORT": str(http_port)}
    async with (
        running(home, name, *options, log=log, **ports) as sidecar,
        program(app_port, http_port) as app,
    ):
        with trio.fail_after(10):
            while not await sidecar.healthy():  # noqa: ASYNC110
                await trio.sleep(0.02)
        yield sidecar, app
