"""Runs `steinadler sidecar` as its users do: as a process, in a home folder of its own."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import trio
from app_program import client, path

from steinadler.sidecar.app_client import AppAnswer, AppClient, AppDown, unix


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@dataclass
class Running:
    """A sidecar as a process."""

    process: trio.Process
    ready: dict[str, Any]
    client: AppClient
    lines: Any

    async def call(self, id_: str, method: str, body: bytes = b"") -> AppAnswer:
        with trio.fail_after(30):
            where = path("Cart", id_, f"method/{method}")
            return await self.client.request("POST", where, (), body)

    async def metrics(self) -> list[bytes]:
        return (await self.client.request("GET", "/metrics")).body.splitlines()

    async def healthy(self) -> bool:
        try:
            return (await self.client.request("GET", "/v1.0/healthz")).status == 204
        except AppDown:
            return False


async def read_line(stream: trio.abc.ReceiveStream, kept: bytearray) -> dict[str, Any]:
    while b"\n" not in kept:
        more = await stream.receive_some()
        assert more, "it ended"
        kept += more
    line, _, rest = bytes(kept).partition(b"\n")
    kept[:] = rest
    event: dict[str, Any] = json.loads(line)
    return event


@asynccontextmanager
async def running(
    home: Path, name: str, *options: str, log: Path | None = None, **env: str
) -> AsyncIterator[Running]:
    """`steinadler sidecar`, killed afterwards when it still lives.  `log`: for what it logs."""
    command = [sys.executable, "-m", "steinadler", "sidecar", "--name", name, "--host", "127.0.0.1"]
    with open(log or os.devnull, "ab") as stderr:  # noqa: ASYNC230
        process = await trio.lowlevel.open_process(
            [*command, "--no-mdns", "--json", *options],
            env={**os.environ, "STEINADLER_HOME": str(home), **env},
            stdout=subprocess.PIPE,
            stderr=stderr if log is not None else None,
        )
    assert process.stdout is not None
    kept = bytearray()
    made: AppClient | None = None
    try:
        with trio.fail_after(30):
            ready = await read_line(process.stdout, kept)
        assert (ready["event"], ready["name"]) == ("ready", name)
        where = ready["http"][0]
        if where.startswith("unix:"):
            made = AppClient(unix(where[5:]), "localhost", max_body_bytes=1 << 20)
        else:
            made = client(int(where.rpartition(":")[2]))
        yield Running(process, ready, made, lambda: read_line(process.stdout, kept))
    finally:
        if made is not None:
            made.close()
        process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()
            await process.stdout.aclose()


async def knows(sidecar: Running, count: int) -> None:
    """Wait until so many members are counted."""
    line = f"steinadler_node_members {float(count)}".encode()
    with trio.fail_after(10):
        while line not in await sidecar.metrics():  # noqa: ASYNC110
            await trio.sleep(0.02)
