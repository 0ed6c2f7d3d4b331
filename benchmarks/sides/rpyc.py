"""RPyC's side: a threaded server; each thread of the client has a connection of its own.

Every request is answered, so "sending" an 8 MiB message is a request that returns nothing.
"""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import rpyc
from rpyc.utils.server import ThreadedServer

from benchmarks.measuring import (
    Counter,
    Job,
    Ready,
    announce,
    drive,
    in_threads,
    main,
    wait_for_end,
)

_counter = Counter()


class Bench(rpyc.Service):  # type: ignore[misc]
    """What the server offers."""

    def exposed_echo(self, payload: bytes) -> bytes:
        return payload

    def exposed_sink(self, payload: bytes) -> None:
        _counter.add(payload)

    def exposed_reset(self) -> None:
        _counter.reset()

    def exposed_received(self, count: int) -> float:
        return _counter.took(count)


async def serve(_: Path) -> None:
    server = ThreadedServer(Bench, hostname="127.0.0.1", port=0)
    threading.Thread(target=server.start, daemon=True).start()
    announce(port=server.port)
    wait_for_end()


class Client:
    """`Side` on connections, one for each thread."""

    def __init__(self, port: int, server_pid: int) -> None:
        self.server_pid = server_pid
        self._port = port
        self._local = threading.local()

    @property
    def _root(self) -> Any:
        # The methods are kept: each `root.name` would be a round trip of its own.
        methods = getattr(self._local, "methods", None)
        if methods is None:
            self._local.connection = rpyc.connect("127.0.0.1", self._port)
            methods = self._local.methods = _Methods(self._local.connection.root)
        return methods

    async def call(self, payload: bytes) -> object:
        return self._root.echo(payload)

    async def send(self, payload: bytes) -> None:
        self._root.sink(payload)

    async def reset(self) -> None:
        self._root.reset()

    async def received(self, count: int) -> float:
        return float(self._root.received(count))

    async def together(self, *jobs: Job) -> None:
        await in_threads(*jobs)

    def close(self) -> None:
        if (connection := getattr(self._local, "connection", None)) is not None:
            connection.close()


class _Methods:
    def __init__(self, root: Any) -> None:
        self.echo = root.echo
        self.sink = root.sink
        self.reset = root.reset
        self.received = root.received


@asynccontextmanager
async def connect(ready: Ready) -> AsyncIterator[Client]:
    client = Client(ready["port"], ready["pid"])
    try:
        yield client
    finally:
        client.close()


if __name__ == "__main__":
    main(drive, serve, connect)
