"""A program with entities, behind a sidecar: in a test's own task tree, or as a process.

    python app_program.py APP_PORT SIDECAR_PORT

It keeps nothing in memory: its counters are in the state, so that every turn asks the sidecar.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import quote, unquote

import trio

from steinadler.sidecar.app_client import AppAnswer, AppClient, tcp
from steinadler.sidecar.exchange import Answer, Request
from steinadler.sidecar.serving import listen_tcp, serve

Turn = Callable[["Program", str, bytes, dict[str, str]], Awaitable[tuple[int, bytes]]]
JSON = ("content-type", "application/json")


class Program:
    """The handler.  `seen` is what it was asked, `commands` may be added to."""

    def __init__(self, sidecar_port: int) -> None:
        self.sidecar = client(sidecar_port)
        self.config: Any = {"entities": ["Cart"], "actorIdleTimeout": "1h"}
        self.healthy = True
        self.seen: list[tuple[str, str]] = []
        self.headers: dict[str, str] = {}
        self.says_also: list[tuple[bytes, bytes]] = []
        self.running: set[str] = set()
        self.commands: dict[str, Turn] = dict(COMMANDS)

    def count(self, verb: str, ending: str) -> int:
        """How many requests ended so."""
        return sum(seen == verb and path.endswith(ending) for seen, path in self.seen)

    async def __call__(self, request: Request) -> Answer:
        body = await request.read_body(1 << 24)
        headers = {
            name.decode(): value.decode("latin-1") for name, value in request.headers.items()
        }
        status, answer = await self.answer(request.verb, request.path.decode(), headers, body)
        kind = b"application/json" if status == 200 else b"text/plain"
        told = headers.get("content-type", kind.decode()).encode()
        own = ((b"content-type", told), (b"x-program", b"yes"), *self.says_also)
        return Answer(status, own, answer)

    async def answer(
        self, verb: str, path: str, headers: dict[str, str], body: bytes
    ) -> tuple[int, bytes]:
        if (verb, path) == ("GET", "/healthz"):
            return (200 if self.healthy else 500), b""
        self.seen.append((verb, path))
        if (verb, path) == ("GET", "/dapr/config"):
            return 200, json.dumps(self.config).encode()
        match verb, path.split("/")[1:]:
            case "DELETE", ["actors", _, _]:
                return 200, b""
            case "PUT", ["actors", type_, id_, "method", "timer" | "remind" as kind, name]:
                return await self.turn(f"{type_}/{id_}", kind, name, headers, body)
            case "PUT", ["actors", type_, id_, "method", method]:
                return await self.turn(f"{type_}/{id_}", unquote(method), "", headers, body)
        return 404, b"no such path"

    async def turn(
        self, key: str, method: str, name: str, headers: dict[str, str], body: bytes
    ) -> tuple[int, bytes]:
        command = self.commands.get(method)
        if command is None:
            return 404, b"no such method"
        self.headers = headers
        assert key not in self.running or method == "reenter", "two turns at a time"
        self.running.add(key)
        try:
            return await command(self, key, body or name.encode(), headers)
        finally:
            self.running.discard(key)

    async def ask(
        self, verb: str, path: str, body: Any = None, headers: dict[str, str] | None = None
    ) -> AppAnswer:
        data = b"" if body is None else json.dumps(body).encode()
        sent = [JSON, *(headers or {}).items()]
        return await self.sidecar.request(verb, path, sent, data)

    async def add(self, key: str, name: str, amount: int) -> int:
        """One transaction on the state of an entity."""
        base = f"/v1.0/actors/{key}/state"
        read = await self.ask("GET", f"{base}/{name}")
        assert read.status in (200, 204), read
        total = amount + (json.loads(read.body) if read.status == 200 else 0)
        operation = {"operation": "upsert", "request": {"key": name, "value": total}}
        written = await self.ask("POST", base, [operation])
        if written.status != 204:
            raise RuntimeError(written.body.decode())
        return total


def client(port: int) -> AppClient:
    return AppClient(tcp("127.0.0.1", port), f"127.0.0.1:{port}", max_body_bytes=1 << 24)


async def add(app: Program, key: str, body: bytes, headers: dict[str, str]) -> tuple[int, bytes]:
    try:
        return 200, b"%d" % await app.add(key, "count", int(body or b"1"))
    except RuntimeError as error:
        return 500, str(error).encode()


async def echo(app: Program, key: str, body: bytes, headers: dict[str, str]) -> tuple[int, bytes]:
    return 200, body


async def fail(app: Program, key: str, body: bytes, headers: dict[str, str]) -> tuple[int, bytes]:
    return 500, b'{"errorCode": "OUT_OF_INK", "message": "refill"}'


async def slow(app: Program, key: str, body: bytes, headers: dict[str, str]) -> tuple[int, bytes]:
    await trio.sleep(float(body))
    return 200, b"at last"


async def due(app: Program, key: str, body: bytes, headers: dict[str, str]) -> tuple[int, bytes]:
    """A timer or a reminder: counts itself."""
    return 200, b"%d" % await app.add(key, "ticks", 1)


async def ask(app: Program, key: str, body: bytes, headers: dict[str, str]) -> tuple[int, bytes]:
    """Make a request about itself in the middle of the turn."""
    told = json.loads(body)
    answer = await app.ask(told["verb"], f"/v1.0/actors/{key}/{told['path']}", told.get("body"))
    return 200, json.dumps([answer.status, answer.body.decode()]).encode()


async def reenter(
    app: Program, key: str, body: bytes, headers: dict[str, str]
) -> tuple[int, bytes]:
    """Call itself, so many levels deep."""
    depth = int(body)
    if depth == 0:
        return 200, b"0"
    chain = headers.get("dapr-reentrancy-id", "")
    answer = await app.ask(
        "POST",
        f"/v1.0/actors/{key}/method/reenter",
        depth - 1,
        {"Dapr-Reentrancy-Id": chain, "Steinadler-Timeout-Ms": "1000"},
    )
    return (200, b"%d" % (int(answer.body) + 1)) if answer.status == 200 else (500, answer.body)


async def die(app: Program, key: str, body: bytes, headers: dict[str, str]) -> tuple[int, bytes]:
    os._exit(3)


COMMANDS: dict[str, Turn] = {
    "add": add,
    "echo": echo,
    "fail": fail,
    "slow": slow,
    "timer": due,
    "remind": due,
    "ask": ask,
    "reenter": reenter,
    "die": die,
}


def path(type_: str, id_: str, rest: str) -> str:
    """A path at the sidecar."""
    return f"/v1.0/actors/{quote(type_, safe='')}/{quote(id_, safe='')}/{rest}"


async def main() -> None:
    app_port, sidecar_port = map(int, sys.argv[1:])
    listeners = await listen_tcp("127.0.0.1", app_port)
    print("listening", flush=True)  # noqa: T201
    await serve(Program(sidecar_port), listeners, trio.Event())


if __name__ == "__main__":
    trio.run(main)
