"""Pyro5's side: a daemon, msgpack, and one-way methods; each thread has a proxy of its own."""

from __future__ import annotations

import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import Pyro5.api

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

Pyro5.api.config.SERIALIZER = "msgpack"  # the fastest that takes bytes as they are


@Pyro5.api.expose
class Bench:
    """What the daemon offers: one instance for all connections."""

    def __init__(self) -> None:
        self._counter = Counter()

    def echo(self, payload: bytes) -> bytes:
        return payload

    @Pyro5.api.oneway
    def sink(self, payload: bytes) -> None:
        self._counter.add(payload)

    def reset(self) -> None:
        self._counter.reset()

    def received(self, count: int) -> float:
        while (took := self._counter.took(count)) < 0:
            time.sleep(0.01)
        return took


async def serve(_: Path) -> None:
    daemon = Pyro5.api.Daemon(host="127.0.0.1")
    uri = daemon.register(Bench(), "bench")
    threading.Thread(target=daemon.requestLoop, daemon=True).start()
    announce(uri=str(uri))
    wait_for_end()


class Client:
    """`Side` on proxies, one for each thread, as Pyro5 asks for."""

    def __init__(self, uri: str, server_pid: int) -> None:
        self.server_pid = server_pid
        self._uri = uri
        self._local = threading.local()

    @property
    def _proxy(self) -> Any:
        proxy = getattr(self._local, "proxy", None)
        if proxy is None:
            proxy = self._local.proxy = Pyro5.api.Proxy(self._uri)
        return proxy

    async def call(self, payload: bytes) -> object:
        return self._proxy.echo(payload)

    async def send(self, payload: bytes) -> None:
        self._proxy.sink(payload)

    async def reset(self) -> None:
        self._proxy.reset()

    async def received(self, count: int) -> float:
        return float(self._proxy.received(count))

    async def together(self, *jobs: Job) -> None:
        await in_threads(*jobs)

    def close(self) -> None:
        self._proxy._pyroRelease()


@asynccontextmanager
async def connect(ready: Ready) -> AsyncIterator[Client]:
    client = Client(ready["uri"], ready["pid"])
    try:
        yield client
    finally:
        client.close()


if __name__ == "__main__":
    main(drive, serve, connect)
