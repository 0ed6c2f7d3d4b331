"""Ray's side: an actor, called by a driver of its own; Ray's cluster is started with the server.

The actor's process is the receiver.  A message is a call whose result nobody asks for.
Ray listens on the machine's own address even when told otherwise, so its tokens are left on;
where that address must not be used, run the comparison in a network namespace with only `lo`.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

os.environ["RAY_AUTH_MODE"] = "token"  # before the import, which reads it
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"

import ray

from benchmarks.measuring import (
    Counter,
    Job,
    Ready,
    announce,
    main,
    wait_for_end,
)

NAMESPACE = "benchmark"


class Bench:
    """The actor: one call at a time, in order, as Ray's actors do by default."""

    def __init__(self) -> None:
        self._counter = Counter()

    def pid(self) -> int:
        return os.getpid()

    def echo(self, payload: bytes) -> bytes:
        return payload

    def sink(self, payload: bytes) -> None:
        self._counter.add(payload)

    def reset(self) -> None:
        self._counter.reset()

    def received(self, count: int) -> float:
        return self._counter.took(count)


async def serve(folder: Path) -> None:
    context = ray.init(
        num_cpus=2,
        include_dashboard=False,
        namespace=NAMESPACE,
        log_to_driver=False,
        logging_level="ERROR",
        _node_ip_address="127.0.0.1",
        _temp_dir=str(folder / "ray"),
    )
    try:
        actor = ray.remote(Bench).options(name="bench").remote()
        pid = await asyncio.wrap_future(actor.pid.remote().future())
        announce(pid=pid, address=context.address_info["gcs_address"])
        await asyncio.to_thread(wait_for_end)
    finally:
        ray.shutdown()


class Client:
    """`Side` on a handle of the actor."""

    def __init__(self, actor: Any, server_pid: int) -> None:
        self.server_pid = server_pid
        self._actor = actor

    async def call(self, payload: bytes) -> object:
        return await self._actor.echo.remote(payload)

    async def send(self, payload: bytes) -> None:
        self._actor.sink.remote(payload)

    async def reset(self) -> None:
        await self._actor.reset.remote()

    async def received(self, count: int) -> float:
        return float(await self._actor.received.remote(count))

    async def together(self, *jobs: Job) -> None:
        await asyncio.gather(*(job() for job in jobs))


@asynccontextmanager
async def connect(ready: Ready) -> AsyncIterator[Client]:
    ray.init(
        address=ready["address"],
        namespace=NAMESPACE,
        log_to_driver=False,
        logging_level="ERROR",
        _node_ip_address="127.0.0.1",
    )
    try:
        yield Client(ray.get_actor("bench"), ready["pid"])
    finally:
        ray.shutdown()


if __name__ == "__main__":
    main(lambda function, *args: asyncio.run(function(*args)), serve, connect)
