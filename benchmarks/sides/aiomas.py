"""aiomas's side: its RPC over TCP with the MessagePack codec.

Every request is answered, so "sending" an 8 MiB message is a request that returns nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiomas
import msgpack

from benchmarks.measuring import Counter, Job, Ready, announce, main, wait_for_end


class MsgPack(aiomas.MsgPack):  # type: ignore[misc]
    """aiomas's codec, without the `encoding` argument that msgpack 1.0 did away with."""

    def decode(self, data: bytes) -> Any:
        return msgpack.unpackb(data, object_hook=self.deserialize_obj, use_list=False)


class Bench:
    """What the server offers."""

    router = aiomas.rpc.Service()

    def __init__(self) -> None:
        self._counter = Counter()

    @aiomas.expose
    def echo(self, payload: bytes) -> bytes:
        return payload

    @aiomas.expose
    def sink(self, payload: bytes) -> None:
        self._counter.add(payload)

    @aiomas.expose
    def reset(self) -> None:
        self._counter.reset()

    @aiomas.expose
    def received(self, count: int) -> float:
        return self._counter.took(count)


async def serve(folder: Path) -> None:
    server = await aiomas.rpc.start_server(("127.0.0.1", 0), Bench(), codec=MsgPack)
    announce(port=server.sockets[0].getsockname()[1])
    await asyncio.to_thread(wait_for_end)
    server.close()


class Client:
    """`Side` on one connection."""

    def __init__(self, connection: Any, server_pid: int) -> None:
        self.server_pid = server_pid
        self._remote = connection.remote

    async def call(self, payload: bytes) -> object:
        return await self._remote.echo(payload)

    async def send(self, payload: bytes) -> None:
        await self._remote.sink(payload)

    async def reset(self) -> None:
        await self._remote.reset()

    async def received(self, count: int) -> float:
        return float(await self._remote.received(count))

    async def together(self, *jobs: Job) -> None:
        await asyncio.gather(*(job() for job in jobs))


@asynccontextmanager
async def connect(ready: Ready) -> AsyncIterator[Client]:
    connection = await aiomas.rpc.open_connection(("127.0.0.1", ready["port"]), codec=MsgPack)
    try:
        yield Client(connection, ready["pid"])
    finally:
        await connection.close()


if __name__ == "__main__":
    main(lambda function, *args: asyncio.run(function(*args)), serve, connect)
