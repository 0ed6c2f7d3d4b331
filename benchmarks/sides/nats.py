"""NATS's side: two nats-py clients and the broker between them, as NATS is used.

The CPU time of the broker is not counted.  It takes messages of 8 MiB only when told to.
"""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import nats

from benchmarks.measuring import Counter, Job, Ready, announce, main, wait_for_end
from benchmarks.workloads import LARGE_BYTES

UNLIMITED = -1
CALL_TIMEOUT_S = 30.0


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


async def serve(folder: Path) -> None:
    port = _free_port()
    settings = folder / "nats.conf"
    settings.write_text(
        f"host: 127.0.0.1\nport: {port}\nmax_payload: {LARGE_BYTES}\n"
        f"max_pending: {32 * LARGE_BYTES}\n"
    )
    command = ["nats-server", "-c", str(settings)]
    # Nothing else runs yet that this could hold up.
    broker = subprocess.Popen(command, stderr=subprocess.DEVNULL)  # noqa: ASYNC220
    try:
        await _serve(port)
    finally:
        broker.terminate()
        broker.wait()


async def _serve(port: int) -> None:
    counter = Counter()
    client = await nats.connect(f"nats://127.0.0.1:{port}", max_reconnect_attempts=100,
                                reconnect_time_wait=0.05)  # fmt: skip

    async def echo(message: Any) -> None:
        await message.respond(message.data)

    async def sink(message: Any) -> None:
        counter.add(message.data)

    async def control(message: Any) -> None:
        wanted = json.loads(message.data)
        if wanted is None:
            counter.reset()
            await message.respond(b"null")
        else:
            await message.respond(json.dumps(counter.took(wanted)).encode())

    await client.subscribe("echo", cb=echo)
    # By default nats-py drops what is over its limits; the promise to compare with is to keep.
    await client.subscribe(
        "sink", cb=sink, pending_msgs_limit=UNLIMITED, pending_bytes_limit=UNLIMITED
    )
    await client.subscribe("control", cb=control)
    await client.flush()
    announce(port=port)
    await asyncio.to_thread(wait_for_end)
    await client.close()


class Client:
    """`Side` on one connection to the broker."""

    def __init__(self, client: Any, server_pid: int) -> None:
        self.server_pid = server_pid
        self._client = client

    async def call(self, payload: bytes) -> object:
        return await self._client.request("echo", payload, timeout=CALL_TIMEOUT_S)

    async def send(self, payload: bytes) -> None:
        await self._client.publish("sink", payload)

    async def reset(self) -> None:
        await self._client.request("control", b"null", timeout=CALL_TIMEOUT_S)

    async def received(self, count: int) -> float:
        wanted = json.dumps(count).encode()
        while True:
            answer = await self._client.request("control", wanted, timeout=CALL_TIMEOUT_S)
            took = float(json.loads(answer.data))
            if took >= 0:
                return took
            await asyncio.sleep(0.01)

    async def together(self, *jobs: Job) -> None:
        await asyncio.gather(*(job() for job in jobs))


@asynccontextmanager
async def connect(ready: Ready) -> AsyncIterator[Client]:
    client = await nats.connect(f"nats://127.0.0.1:{ready['port']}")
    try:
        yield Client(client, ready["pid"])
    finally:
        await client.close()


if __name__ == "__main__":
    main(lambda function, *args: asyncio.run(function(*args)), serve, connect)
