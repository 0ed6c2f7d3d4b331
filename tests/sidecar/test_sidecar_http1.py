"""HTTP/1.1 as the sidecar serves it: exchanges whole, byte by byte, and with more behind them."""

from __future__ import annotations

import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial

import h11
import pytest
import trio
import trio.testing

from steinadler.sidecar import http1
from steinadler.sidecar.exchange import (
    Answer,
    BodyCutShort,
    BodyTooLarge,
    Handler,
    Request,
    joined,
)
from steinadler.sidecar.serving import PREFACE, listen_tcp, serve
from steinadler.sidecar.sockets import Socket

LIMIT = 10_000
NEXT = b"GET /next HTTP/1.1\r\nHost: a\r\n\r\n"


async def echo(request: Request) -> Answer:
    """What was asked; what is wrong with a body has a status of its own."""
    try:
        body = await request.read_body(LIMIT)
    except BodyTooLarge:
        return Answer(413, body=b"too large")
    except BodyCutShort:
        return Answer(400, body=b"cut short")
    return Answer(200, body=b"%b %b %b" % (request.verb.encode(), request.path, body))


@dataclass
class Server:
    port: int
    stop: trio.Event
    ended: trio.Event

    async def connect(self) -> trio.SocketStream:
        return await trio.open_tcp_stream("127.0.0.1", self.port)


@asynccontextmanager
async def serving(handler: Handler = echo) -> AsyncIterator[Server]:
    listeners = await listen_tcp("127.0.0.1", 0)
    port = listeners[0].socket.getsockname()[1]
    server = Server(port, trio.Event(), trio.Event())

    async def run() -> None:
        await serve(handler, listeners, server.stop)
        server.ended.set()

    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run)
            yield server
            nursery.cancel_scope.cancel()


async def whole(stream: trio.SocketStream, data: bytes) -> None:
    await stream.send_all(data)


async def bytewise(stream: trio.SocketStream, data: bytes) -> None:
    for at in range(len(data)):
        await stream.send_all(data[at : at + 1])


SendWay = Callable[[trio.SocketStream, bytes], Awaitable[None]]


async def answers(stream: trio.SocketStream, *verbs: str) -> list[tuple[int, bytes]]:
    """Status and body of the answers to requests of these verbs, and of what comes between."""
    parser = h11.Connection(h11.CLIENT)
    got: list[tuple[int, bytes]] = []
    for verb in verbs:
        parser.send(h11.Request(method=verb, target="/", headers=[("Host", "a")]))
        parser.send(h11.EndOfMessage())
        status, body = 0, b""
        while True:
            event = parser.next_event()
            if event is h11.NEED_DATA:
                parser.receive_data(await stream.receive_some())
            elif isinstance(event, h11.InformationalResponse):
                got.append((event.status_code, b""))
            elif isinstance(event, h11.Response):
                status = event.status_code
            elif isinstance(event, h11.Data):
                body += event.data
            else:
                assert isinstance(event, h11.EndOfMessage), event
                break
        got.append((status, body))
        if parser.our_state is h11.DONE and parser.their_state is h11.DONE:
            parser.start_next_cycle()
    return got


async def until_closed(stream: trio.SocketStream) -> bytes:
    got = b""
    while more := await stream.receive_some():
        got += more
    return got


# What is sent, and the answers: the verb, the status, the body.
EXCHANGES: dict[str, tuple[bytes, list[tuple[str, int, bytes]]]] = {
    "no body": (b"GET /a?b=c HTTP/1.1\r\nHost: a\r\n\r\n", [("GET", 200, b"GET /a ")]),
    "a length": (
        b"POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nxyz",
        [("POST", 200, b"POST /a xyz")],
    ),
    "chunks": (
        b"PUT /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"3\r\nxyz\r\n2;ext=1\r\nuv\r\n0\r\nTrailer: 1\r\n\r\n",
        [("PUT", 200, b"PUT /a xyzuv")],
    ),
    "head": (b"HEAD /a HTTP/1.1\r\nHost: a\r\n\r\n", [("HEAD", 200, b"")]),
    "ahead of the answers": (
        b"GET /1 HTTP/1.1\r\nHost: a\r\n\r\n"
        b"POST /2 HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx"
        b"GET /3 HTTP/1.1\r\nHost: a\r\n\r\n",
        [("GET", 200, b"GET /1 "), ("POST", 200, b"POST /2 x"), ("GET", 200, b"GET /3 ")],
    ),
    "an upgrade that is not taken": (
        b"GET /a HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n"
        b"HTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA\r\n\r\n",
        [("GET", 200, b"GET /a ")],
    ),
    "begins as the preface of HTTP/2": (
        b"PRI /a HTTP/1.1\r\nHost: a\r\n\r\n",
        [("PRI", 200, b"PRI /a ")],
    ),
    "an empty path": (b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", [("OPTIONS", 200, b"OPTIONS * ")]),
}


@pytest.mark.parametrize("send", [whole, bytewise])
@pytest.mark.parametrize("name", EXCHANGES)
async def test_an_exchange_and_what_is_behind_it(name: str, send: SendWay) -> None:
    data, expected = EXCHANGES[name]
    async with serving() as server:
        stream = await server.connect()
        verbs = [verb for verb, _, _ in expected]
        told = [(status, body) for _, status, body in expected]
        await send(stream, data)
        assert await answers(stream, *verbs) == told
        await send(stream, data + NEXT)
        assert await answers(stream, *verbs, "GET") == [*told, (200, b"GET /next ")]
        await stream.aclose()


@pytest.mark.parametrize("send", [whole, bytewise])
@pytest.mark.parametrize(
    "head",
    [b"GET /a HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", b"GET /a HTTP/1.0\r\n\r\n"],
)
async def test_the_last_request_of_a_connection(head: bytes, send: SendWay) -> None:
    async with serving() as server:
        stream = await server.connect()
        await send(stream, head)
        assert await answers(stream, "GET") == [(200, b"GET /a ")]
        assert await stream.receive_some() == b""
        await stream.aclose()


@pytest.mark.parametrize("send", [whole, bytewise])
@pytest.mark.parametrize(
    "data",
    [
        b"\x16\x03\x01\x02\x00\r\n\r\n",
        b"GET /a HTTP/1.1\r\n\r\n",
        b"GET /a HTTP/3.7\r\nHost: a\r\n\r\n",
        b"GET /a b HTTP/1.1\r\nHost: a\r\n\r\n",
        b"POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nx",
        b"POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n",
        b"GET /a HTTP/1.1\r\nHost: a\r\nBad Name: 1\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n",
    ],
)
async def test_what_is_no_request_is_told_so_and_ends_the_connection(
    data: bytes, send: SendWay
) -> None:
    async with serving() as server:
        stream = await server.connect()
        await send(stream, data)
        ((status, body),) = await answers(stream, "GET")
        assert (status, json.loads(body)["errorCode"]) == (400, "ERR_MALFORMED_REQUEST")
        assert await stream.receive_some() == b""
        await stream.aclose()


async def test_a_head_over_the_limit_is_refused() -> None:
    async with serving() as server:
        stream = await server.connect()
        room = http1.MAX_HEAD_BYTES - 1000
        await stream.send_all(b"GET /a HTTP/1.1\r\nHost: a\r\nX: " + b"x" * room + b"\r\n\r\n")
        assert await answers(stream, "GET") == [(200, b"GET /a ")]
        await stream.send_all(b"GET /a HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 2 * room)
        ((status, _),) = await answers(stream, "GET")
        assert status == 400
        await stream.aclose()


async def test_a_client_that_asks_whether_to_go_on_is_told_when_its_body_is_wanted() -> None:
    async with serving() as server:
        stream = await server.connect()
        head = b"POST /a HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: %d\r\n\r\n"
        await stream.send_all(head % 3)
        assert (await stream.receive_some()).startswith(b"HTTP/1.1 100 ")
        await stream.send_all(b"xyz" + NEXT)
        expected = [(200, b"POST /a xyz"), (200, b"GET /next ")]
        assert await answers(stream, "POST", "GET") == expected
        await stream.send_all(head % (LIMIT + 1))
        assert await answers(stream, "POST") == [(413, b"too large")], "and not 100 first"
        assert await stream.receive_some() == b"", "it may or may not send the body now"
        await stream.aclose()


@pytest.mark.parametrize(
    "head",
    [b"Content-Length: 5000000\r\n\r\n", b"Transfer-Encoding: chunked\r\n\r\n"],
    ids=["a length", "chunks"],
)
async def test_a_body_over_the_limit_is_refused_before_it_was_all_sent(head: bytes) -> None:
    async with serving() as server:
        stream = await server.connect()
        await stream.send_all(b"POST /a HTTP/1.1\r\nHost: a\r\n" + head)
        for _ in range(20):
            await stream.send_all(b"400\r\n" + b"x" * 1024 + b"\r\n")
        assert await answers(stream, "POST") == [(413, b"too large")]
        assert await stream.receive_some() == b""
        await stream.aclose()


async def test_a_client_that_reads_only_after_it_sent_all_hears_why() -> None:
    """Closing at once would reset the connection under the answer."""
    async with serving() as server:
        stream = await server.connect()
        await stream.send_all(b"POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 5000000\r\n\r\n")
        await stream.send_all(b"x" * 5_000_000)
        assert await answers(stream, "POST") == [(413, b"too large")]
        await stream.aclose()


async def test_a_body_of_just_the_limit_is_taken() -> None:
    async with serving() as server:
        stream = await server.connect()
        await stream.send_all(b"POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % LIMIT)
        await stream.send_all(b"x" * LIMIT)
        assert await answers(stream, "POST") == [(200, b"POST /a " + b"x" * LIMIT)]
        await stream.aclose()


async def not_found(request: Request) -> Answer:
    """Reads no body but those of /next."""
    return await echo(request) if request.path == b"/next" else Answer(404)


@pytest.mark.parametrize("send", [whole, bytewise])
async def test_a_body_nobody_reads_does_not_become_the_next_request(send: SendWay) -> None:
    async with serving(not_found) as server:
        stream = await server.connect()
        await send(stream, b"POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 5000\r\n\r\n" + NEXT)
        assert await answers(stream, "POST") == [(404, b"")]
        assert await until_closed(stream) == b""
        await stream.aclose()


async def test_a_body_nobody_reads_and_that_is_there_costs_no_connection() -> None:
    async with serving(not_found) as server:
        stream = await server.connect()
        await stream.send_all(b"POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nxyz" + NEXT)
        assert await answers(stream, "POST", "GET") == [(404, b""), (200, b"GET /next ")]
        await stream.aclose()


async def test_a_body_that_makes_no_sense_is_no_body() -> None:
    async with serving() as server:
        for bad in (b"zz\r\n", b"3\r\nabcd\r\n"):
            stream = await server.connect()
            head = b"POST /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
            await stream.send_all(head + bad)
            assert await answers(stream, "POST") == [(400, b"cut short")]
            assert await stream.receive_some() == b""
            await stream.aclose()


async def test_a_client_that_sends_no_more_gets_its_answers() -> None:
    async with serving() as server:
        stream = await server.connect()
        await stream.send_all(NEXT + NEXT)
        await stream.send_eof()
        assert await answers(stream, "GET", "GET") == [(200, b"GET /next ")] * 2
        assert await stream.receive_some() == b""
        await stream.aclose()


async def test_a_request_goes_on_when_its_client_hangs_up() -> None:
    """E3: it may have run, so it is not cut short."""
    begun, hung_up, done = trio.Event(), trio.Event(), trio.Event()

    async def slow(request: Request) -> Answer:
        begun.set()
        await hung_up.wait()
        done.set()
        return Answer(200)

    async with serving(slow) as server:
        stream = await server.connect()
        await stream.send_all(NEXT)
        await begun.wait()
        await stream.aclose()
        hung_up.set()
        await done.wait()
        stream = await server.connect()
        await stream.send_all(NEXT)
        assert await answers(stream, "GET") == [(200, b"")]
        await stream.aclose()


@pytest.mark.parametrize(
    ("limit", "sent", "told"),
    [
        ("KEEP_ALIVE_S", NEXT, [(200, b"GET /next ")]),
        ("HEAD_LIMIT_S", NEXT + b"GET /", [(200, b"GET /next ")]),
        (
            "BODY_LIMIT_S",
            b"POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nx",
            [(400, b"cut short")],
        ),
    ],
)
async def test_a_slow_client_is_hung_up_on(
    monkeypatch: pytest.MonkeyPatch, limit: str, sent: bytes, told: list[tuple[int, bytes]]
) -> None:
    monkeypatch.setattr(http1, limit, 0.05)
    monkeypatch.setattr(http1, "LINGER_S", 0.05)
    async with serving() as server:
        stream = await server.connect()
        await stream.send_all(sent)
        assert await answers(stream, "GET") == told
        assert await stream.receive_some() == b""
        await stream.aclose()


async def test_a_client_that_takes_no_answer_is_hung_up_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(http1, "ANSWER_LIMIT_S", 0.05)

    async def much(request: Request) -> Answer:
        return Answer(200, body=bytes(32 << 20))

    async with serving(much) as server:
        stream = await server.connect()
        await stream.send_all(NEXT)
        server.stop.set()
        await server.ended.wait()
        assert len(await until_closed(stream)) < 32 << 20
        await stream.aclose()


async def test_requests_sent_ahead_do_not_keep_others_waiting() -> None:
    """M6, for HTTP: one client's burst is served in turn with what else there is to do."""
    turns = 0

    async def count(request: Request) -> Answer:
        nonlocal turns
        turns += 1
        return Answer(200)

    async with serving(count) as server:
        stream = await server.connect()
        await stream.send_all(NEXT * 1000)
        seen = set()
        while turns < 1000:
            seen.add(turns)
            await trio.lowlevel.checkpoint()
        assert len(seen) > 500
        await stream.aclose()


async def test_draining_answers_what_is_under_way_and_closes_the_rest() -> None:
    begun, go_on = trio.Event(), trio.Event()

    async def slow(request: Request) -> Answer:
        if request.path == b"/slow":
            begun.set()
            await go_on.wait()
        return await echo(request)

    async with serving(slow) as server:
        busy, idle, fresh = [await server.connect() for _ in range(3)]
        await idle.send_all(NEXT)
        assert await answers(idle, "GET") == [(200, b"GET /next ")]
        await busy.send_all(b"GET /slow HTTP/1.1\r\nHost: a\r\n\r\n" + NEXT)
        await begun.wait()
        server.stop.set()
        for stream in (idle, fresh):
            assert await stream.receive_some() == b""
        go_on.set()
        got = await until_closed(busy)
        assert got.count(b"HTTP/1.1 200") == 1
        assert b"connection: close" in got.lower()
        await server.ended.wait()
        for stream in (busy, idle, fresh):
            await stream.aclose()


async def test_a_request_that_comes_as_draining_begins_is_taken() -> None:
    drain = http1.Drain()
    ours, theirs = socket.socketpair()
    sock = Socket(trio.SocketStream(trio.socket.from_stdlib_socket(ours)))
    got: list[bytes] = []

    async def receive() -> None:
        got.append(await drain.receive(sock, 60))

    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(receive)
            await trio.testing.wait_all_tasks_blocked()
            theirs.sendall(NEXT)
            drain.begin()
        await receive()
    assert got == [NEXT, b""], "and no other is waited for"
    sock.close()
    theirs.close()


async def test_what_cannot_be_sent_or_is_raised_ends_its_connection_alone(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def odd(request: Request) -> Answer:
        if request.path == b"/raise":
            raise RuntimeError("odd")
        if request.path == b"/split":
            return Answer(200, ((b"x", b"1\r\nx: 2"),))
        return await echo(request)

    async with serving(odd) as server:
        good = await server.connect()
        for path in (b"/raise", b"/split"):
            stream = await server.connect()
            await stream.send_all(b"GET %b HTTP/1.1\r\nHost: a\r\n\r\n" % path)
            assert await until_closed(stream) == b""
            await stream.aclose()
            await good.send_all(NEXT)
            assert await answers(good, "GET") == [(200, b"GET /next ")]
        await good.aclose()
    assert [record.levelname for record in caplog.records] == ["WARNING", "WARNING"]


@pytest.mark.parametrize("send", [whole, bytewise])
async def test_http_2_is_known_by_its_preface(send: SendWay) -> None:
    import h2.connection
    import h2.events

    async with serving() as server:
        stream = await server.connect()
        connection = h2.connection.H2Connection()
        connection.initiate_connection()
        head = [(":method", "POST"), (":path", "/a"), (":scheme", "http"), (":authority", "a")]
        connection.send_headers(1, head)
        connection.send_data(1, b"xyz", end_stream=True)
        connection.send_headers(3, head)
        sent = connection.data_to_send()
        assert sent.startswith(PREFACE)
        await send(stream, sent)
        connection.send_data(3, b"x" * 8000)
        connection.send_data(3, b"x" * 8000, end_stream=True)
        await stream.send_all(connection.data_to_send())
        statuses, bodies = {}, {1: b"", 3: b""}
        ended = 0
        while ended < 2:
            for event in connection.receive_data(await stream.receive_some()):
                match event:
                    case h2.events.ResponseReceived(stream_id=number):
                        statuses[number] = dict(event.headers)[b":status"]
                    case h2.events.DataReceived(stream_id=number):
                        bodies[number] += event.data
                    case h2.events.StreamEnded():
                        ended += 1
        assert (statuses, bodies) == (
            {1: b"200", 3: b"413"},
            {1: b"POST /a xyz", 3: b"too large"},
        )
        await stream.aclose()


async def test_many_connections_at_once() -> None:
    async with serving() as server:

        async def ask(number: int) -> None:
            stream = await server.connect()
            for _ in range(3):
                await stream.send_all(b"GET /%d HTTP/1.1\r\nHost: a\r\n\r\n" % number)
                assert await answers(stream, "GET") == [(200, b"GET /%d " % number)]
            await stream.aclose()

        async with trio.open_nursery() as nursery:
            for number in range(50):
                nursery.start_soon(partial(ask, number))


async def test_a_body_of_many_small_chunks_keeps_nobody_from_running() -> None:
    """All of them come in one piece, and each is an event of its own."""
    ticks = while_reading = 0

    async def handler(request: Request) -> Answer:
        nonlocal while_reading
        before = ticks
        body = await request.read_body(LIMIT)
        while_reading = ticks - before
        return Answer(200, body=b"%d" % len(body))

    async def tick() -> None:
        nonlocal ticks
        while True:
            await trio.lowlevel.checkpoint()
            ticks += 1

    head = b"POST /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
    async with serving(handler) as server, trio.open_nursery() as nursery:
        stream = await server.connect()
        async with stream:
            nursery.start_soon(tick)
            await stream.send_all(head + 8000 * b"1\r\nx\r\n" + b"0\r\n\r\n")
            assert await answers(stream, "POST") == [(200, b"8000")]
        nursery.cancel_scope.cancel()
    assert while_reading >= 8000 / http1.CHUNKS_AT_A_TIME - 1


async def test_a_busy_sender_has_no_longer_for_a_body_than_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(http1, "BODY_LIMIT_S", 0.0)
    head = b"POST /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
    async with serving() as server, await server.connect() as stream:
        await stream.send_all(head + 1000 * b"1\r\nx\r\n" + b"0\r\n\r\n")
        assert await answers(stream, "POST") == [(400, b"cut short")]


def test_lines_of_one_header_are_one() -> None:
    lines = [(b"x-a", b"1"), (b"cookie", b"a=1"), (b"x-b", b"2"), (b"x-a", b"3"), (b"x-a", b"")]
    lines += [(b"cookie", b"b=2"), (b"set-cookie", b"c"), (b"set-cookie", b"d")]
    assert joined(lines) == {
        b"x-a": b"1, 3, ",
        b"cookie": b"a=1; b=2",
        b"x-b": b"2",
        b"set-cookie": b"d",
    }
    assert joined(lines[:2]) == dict(lines[:2])
