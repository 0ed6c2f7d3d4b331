"""What callers send to a sidecar, for the fuzzer: a connection's bytes, and the bodies in them.

Invariant: whoever reaches the port gets answers or is hung up on.  Nothing but `Problem` comes out
of what reads a request, and `ConfigError` out of what reads a program's own description; a number
that is let through is one that the timers can count with (X4).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import trio

from steinadler.entity import requests
from steinadler.errors import ConfigError
from steinadler.sidecar import bodies as readers
from steinadler.sidecar.app_config import read_config
from steinadler.sidecar.durations import LONGEST_S
from steinadler.sidecar.exchange import Answer, BodyCutShort, BodyTooLarge, Request
from steinadler.sidecar.http1 import Drain, Http1Connection
from steinadler.sidecar.problems import Problem
from steinadler.sidecar.routes import find

NOW = 1_700_000_000.0
MAX_BODY = 5_000
MAX_TEXT = 2_000


def told(text: str, status: int) -> None:
    """The caller hears what it did wrong, and not much of it again."""
    assert 400 <= status < 500
    assert 0 < len(text) < MAX_TEXT


def bodies(data: bytes) -> None:
    """A body, read as each of the things that it may be."""
    for read in (_changes, _timer, _reminder, _arguments, _config):
        try:
            read(data)
        except Problem as problem:
            told(problem.body.decode(), problem.status)
        except (ConfigError, ValueError) as error:
            told(str(error), 400 if read in (_config, _arguments) else 500)


def _changes(data: bytes) -> None:
    changes = readers.read_changes(data)
    assert set(changes.ttl_s) <= {key for key, value in changes.values.items() if value is not None}
    assert all(0 < ttl <= 10**10 for ttl in changes.ttl_s.values())


def _timer(data: bytes) -> None:
    timer = readers.read_timer("timer", data, NOW)
    assert 0 <= timer.due_s <= LONGEST_S
    assert timer.period_s is None or 0 < timer.period_s <= LONGEST_S
    assert timer.ttl_s is None or timer.due_s < timer.ttl_s <= LONGEST_S
    readers.read_json(timer.argument)


def _reminder(data: bytes) -> None:
    reminder = readers.read_reminder("reminder", data, NOW)
    assert math.isfinite(reminder.due_at)
    readers.read_json(readers.describe_reminder(reminder))


def _arguments(data: bytes) -> None:
    requests.response(list(requests.arguments(data)))


def _config(data: bytes) -> None:
    for settings in read_config(data).values():
        assert 0 < settings.idle_s <= LONGEST_S


class Memory:
    """A socket whose far end has said all that it will ever say, in pieces."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self.sent = b""

    async def receive(self) -> bytes:
        await trio.lowlevel.checkpoint()
        return next(self._pieces, b"")

    def receive_nowait(self) -> bytes | None:
        return next(self._pieces, b"")

    async def send(self, data: bytes, limit_s: float) -> None:
        self.sent += data

    def send_end(self) -> None: ...


async def _handler(request: Request) -> Answer:
    try:
        found = find(request.verb, request.path)
        body = await request.read_body(MAX_BODY)
    except Problem as problem:
        return Answer(problem.status, body=problem.body)
    except BodyTooLarge:
        return Answer(413)
    except BodyCutShort:
        return Answer(400)
    assert len(body) <= MAX_BODY
    assert all(found.arguments.values()), "no part of a path is empty"
    return Answer(200, body=body)


def http(data: bytes) -> None:
    """Everything that a client sends on one connection."""
    cuts = (len(data) or 1, 1 + max(len(data) % 50, len(data) // 40))
    whole, pieces = trio.run(_served, data, cuts)
    told = _statuses(pieces)
    # Who is answered before it has said all is told that nothing more will be answered.
    last = pieces[pieces.rfind(b"HTTP/1.1 ") :].partition(b"\r\n\r\n")[0].lower()
    gave_up = last.endswith(b"\r\nconnection: close")
    assert told == _statuses(whole)[: len(told) if gave_up else None], (
        "where the network cuts makes no difference"
    )


async def _served(data: bytes, cuts: tuple[int, ...]) -> list[bytes]:
    sent = []
    for cut in cuts:
        sock = Memory(data[at : at + cut] for at in range(0, len(data), cut))
        await Http1Connection(sock, _handler, Drain()).run()  # type: ignore[arg-type]
        sent.append(sock.sent)
    return sent


def _statuses(sent: bytes) -> list[bytes]:
    """Of the answers; whether a 100 goes before one depends on what has come by then."""
    lines = sent.split(b"\r\n")
    return [line for line in lines if line.startswith(b"HTTP/1.1 ") and b" 100 " not in line]


_PUT = b"PUT /v1.0/actors/Cart/7/%b HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n%b"
BODIES = [
    b'[{"operation":"upsert","request":{"key":"a","value":[1,2.5,null,{"b":"c"}],'
    b'"metadata":{"ttlInSeconds":"60"}}},{"operation":"delete","request":{"key":"b"}}]',
    b'{"dueTime":"0h0m10s","period":"R5/PT10S","ttl":"1h","data":{"x":1},"callback":"tick"}',
    b'{"dueTime":"2030-01-02T03:04:05Z","period":"1m30.5s"}',
    b'{"entities":["Cart"],"actorIdleTimeout":"1h","reentrancy":{"enabled":true,'
    b'"maxStackDepth":32},"entitiesConfig":[{"entities":["Cart"],"drainRebalancedActors":false}]}',
    b"[1e308, -0.0, 123456789012345678901234567890, true]",
]
EXCHANGES = [
    b"".join(
        _PUT % (what, len(body), body)
        for what, body in zip(
            (b"state", b"timers/t", b"reminders/r", b"method/m", b"method/%F0%9F%A6%85"),
            BODIES,
            strict=True,
        )
    ),
    b"GET /v1.0/healthz HTTP/1.1\r\nHost: a\r\n\r\n" * 3,
    b"POST /v1.0/actors/Cart/7/method/m HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n"
    b"Expect: 100-continue\r\n\r\n3\r\nabc\r\n0\r\n\r\nGET / HTTP/1.0\r\n\r\n",
]
SEEDS: dict[Callable[[bytes], None], list[bytes]] = {bodies: BODIES, http: EXCHANGES}
