"""Programs that were written for sockets, unchanged, over streams of the cluster."""

from __future__ import annotations

import ssl
from collections.abc import Iterable
from functools import partial
from types import SimpleNamespace
from typing import Any

import h11
import httpcore
import pytest
import trio
import trustme
from httpcore._backends.trio import TrioStream
from hypercorn.config import Config as HypercornConfig
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import ConnectionState
from hypercorn.utils import wrap_app

from steinadler import ByteStream, Node

Pair = tuple[Node, Node]
BODY = bytes(range(256)) * 2_000  # many windows


@pytest.fixture(scope="module")
def contexts() -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """Of a client and of a server called "inside"."""
    authority = trustme.CA()
    client, server = ssl.create_default_context(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.configure_trust(client)
    authority.issue_cert("inside").configure_cert(server)
    return client, server


class ClusterStream(TrioStream):
    """httpcore's own, which asks a stream for its socket when it looks for unexpected bytes."""

    def get_extra_info(self, info: str) -> Any:
        return super().get_extra_info(info) if info == "ssl_object" else None

    async def start_tls(self, *args: Any, **options: Any) -> httpcore.AsyncNetworkStream:
        inside = await super().start_tls(*args, **options)
        assert isinstance(inside, TrioStream)
        return ClusterStream(inside._stream)


class ClusterBackend(httpcore.AsyncNetworkBackend):
    """Connections of httpcore to services: the host of the URL names the service."""

    def __init__(self, node: Node) -> None:
        self._node = node

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 - httpcore says so
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        return ClusterStream(await self._node.connect(f"{host}@*"))


async def test_tls_within_a_stream(
    pair: Pair, contexts: tuple[ssl.SSLContext, ssl.SSLContext]
) -> None:
    """`trio.SSLStream` at both ends, with a clean end of TLS."""
    here, there = pair
    client, server = contexts

    async def serve(stream: ByteStream) -> None:
        inside = trio.SSLStream(stream, server, server_side=True)
        async for chunk in inside:
            await inside.send_all(chunk)
        await inside.aclose()

    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            await nursery.start(trio.serve_listeners, serve, [there.listen("tls")])
            outside = await here.connect(f"tls@{there.name}")
            inside = trio.SSLStream(outside, client, server_hostname="inside")
            got = bytearray()
            async with trio.open_nursery() as echoing:
                echoing.start_soon(inside.send_all, BODY)
                while len(got) < len(BODY):
                    got += await inside.receive_some()
            assert got == BODY
            await inside.aclose()
            nursery.cancel_scope.cancel()


async def h11_server(stream: ByteStream) -> None:
    """Answers each request with its own body."""
    connection = h11.Connection(h11.SERVER)
    try:
        while True:
            body = bytearray()
            while not isinstance(event := connection.next_event(), h11.EndOfMessage):
                if event is h11.NEED_DATA:
                    connection.receive_data(await stream.receive_some())
                elif isinstance(event, h11.Data):
                    body += event.data
                elif isinstance(event, h11.ConnectionClosed):
                    return
            headers = [("content-length", str(len(body)))]
            for answer in (
                h11.Response(status_code=200, headers=headers),
                h11.Data(data=body),
                h11.EndOfMessage(),
            ):
                await stream.send_all(connection.send(answer) or b"")
            connection.start_next_cycle()
    finally:
        await stream.aclose()


async def echo_app(scope: Any, receive: Any, send: Any) -> None:
    """ASGI: answers each request with its own body, in pieces."""
    if scope["type"] != "http":
        return
    await send({"type": "http.response.start", "status": 200, "headers": []})
    more = True
    while more:
        message = await receive()
        more = message.get("more_body", False)
        await send(
            {"type": "http.response.body", "body": message.get("body", b""), "more_body": more}
        )


def hypercorn_server(config: HypercornConfig) -> Any:
    """Hypercorn's server of one connection; its `worker_serve` takes sockets of the system only,
    and of a stream's socket this asks for addresses, to tell them the program."""
    context = WorkerContext(None)
    app = wrap_app(echo_app, config.wsgi_max_body_size, "asgi")

    async def serve(stream: ByteStream) -> None:
        nowhere = SimpleNamespace(family=None, getpeername=lambda: None, getsockname=lambda: None)
        stream.socket = nowhere  # type: ignore[attr-defined]
        await TCPServer(app, config, context, ConnectionState({}), stream)  # type: ignore[arg-type]

    return serve


@pytest.mark.parametrize("server", ["h11", "hypercorn"])
async def test_a_client_of_http_and_a_server(pair: Pair, server: str) -> None:
    """httpcore, with its pool, asks h11 and Hypercorn."""
    here, there = pair
    serve = h11_server if server == "h11" else hypercorn_server(HypercornConfig())
    answers: list[bytes] = []

    async def ask(pool: httpcore.AsyncConnectionPool, number: int) -> None:
        content = bytes([number]) * (1 if number % 2 else 100_000)
        response = await pool.request("POST", "http://web/", content=content)
        assert response.status == 200
        assert response.content == content
        answers.append(response.content)

    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            await nursery.start(partial(trio.serve_listeners, serve, [there.listen("web")]))
            # "service@*" is known by label, which travels with gossip.
            while not any(m.label("$services") for m in here.members()):  # noqa: ASYNC110
                await trio.sleep(0.002)
            backend = ClusterBackend(here)
            async with httpcore.AsyncConnectionPool(
                network_backend=backend, max_connections=4
            ) as pool:
                async with trio.open_nursery() as asking:
                    for number in range(20):
                        asking.start_soon(ask, pool, number)
                assert 1 <= len(pool.connections) <= 4
            nursery.cancel_scope.cancel()
    assert len(answers) == 20


async def test_a_client_of_https(
    pair: Pair, contexts: tuple[ssl.SSLContext, ssl.SSLContext]
) -> None:
    """httpcore's TLS inside of a stream: what the proxy of a cluster carries in practice."""
    here, there = pair
    client, server = contexts

    async def serve(stream: ByteStream) -> None:
        await h11_server(
            trio.SSLStream(stream, server, server_side=True, https_compatible=True)  # type: ignore[arg-type]
        )

    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            await nursery.start(trio.serve_listeners, serve, [there.listen("inside")])
            while not any(m.label("$services") for m in here.members()):  # noqa: ASYNC110
                await trio.sleep(0.002)
            async with httpcore.AsyncConnectionPool(
                network_backend=ClusterBackend(here), ssl_context=client
            ) as pool:
                response = await pool.request("POST", "https://inside/", content=BODY)
                assert response.content == BODY
            nursery.cancel_scope.cancel()
