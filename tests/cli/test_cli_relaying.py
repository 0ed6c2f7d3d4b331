"""Relays between real nodes in one program: what clients see when something goes wrong."""

from __future__ import annotations

import logging
import re
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from functools import partial
from typing import Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from steinadler import Address, Node
from steinadler.cli import relaying
from steinadler.cli.places import dial, listening, place_of
from steinadler.cli.relaying import Relay, Route

ANY_PORT = Address("127.0.0.1", 0)


class Running:
    """A relay at work."""

    def __init__(self, relay: Relay, place: Address, drain_s: float) -> None:
        self.place = place
        self.relay = relay
        self.leave = trio.Event()
        self.left = trio.Event()
        self._drain_s = drain_s
        self.drained_with: list[int] = []

    @property
    def figures(self) -> relaying.Figures:
        return self.relay.routes[0].figures

    async def run(self) -> None:
        await self.relay.run(
            self.leave, self._drain_s, lambda: self.drained_with.append(self.relay.open)
        )
        self.left.set()

    async def connect(self) -> trio.SocketStream:
        return await dial(self.place)


class Relays:
    """Starts relays, which end with the test."""

    def __init__(self, nursery: trio.Nursery, stack: AsyncExitStack) -> None:
        self._nursery = nursery
        self._stack = stack

    def _start(
        self, route: Route, place: Address, max_connections: int = 100, drain_s: float = 60
    ) -> Running:
        running = Running(Relay([route], max_connections), place, drain_s)
        self._nursery.start_soon(running.run)
        return running

    def expose(self, node: Node, name: str, place: Address, drain_s: float = 60) -> Running:
        route = Route(name, str(place), [node.listen(name)], partial(dial, place))
        return self._start(route, place, drain_s=drain_s)

    async def forward(self, node: Node, service: str, most: int = 100) -> Running:
        listeners = await self._stack.enter_async_context(listening(ANY_PORT))
        place = place_of(listeners[0], ANY_PORT)
        assert isinstance(place, Address)
        route = Route(service, str(place), listeners, partial(node.connect, service))
        return self._start(route, place, most)

    async def serve(self, handler: Callable[[trio.SocketStream], Any]) -> Address:
        """A service of this machine."""
        (listener,) = await self._stack.enter_async_context(listening(ANY_PORT))
        place = place_of(listener, ANY_PORT)
        self._nursery.start_soon(trio.serve_listeners, handler, [listener])
        assert isinstance(place, Address)
        return place


@asynccontextmanager
async def relays_until_the_end() -> AsyncIterator[Relays]:
    with trio.fail_after(20):
        async with AsyncExitStack() as stack, trio.open_nursery() as nursery:
            yield Relays(nursery, stack)
            nursery.cancel_scope.cancel()


async def echo(stream: trio.abc.HalfCloseableStream) -> None:
    with suppress(trio.BrokenResourceError):
        async for piece in stream:
            await stream.send_all(piece)
        await stream.send_eof()


async def until(condition: Callable[[], object]) -> None:
    """Wait for what no event tells of."""
    while not condition():  # noqa: ASYNC110
        await trio.sleep(0.002)


async def unused_place() -> Address:
    async with listening(ANY_PORT) as (listener,):
        place = place_of(listener, ANY_PORT)
    assert isinstance(place, Address)
    return place


async def is_reset(stream: trio.SocketStream) -> bool:
    """Whether the other end breaks it off, and does not end it."""
    try:
        return await stream.receive_some() != b""
    except trio.BrokenResourceError as error:
        return isinstance(error.__cause__, ConnectionResetError)
    finally:
        await stream.aclose()


async def is_turned_away(running: Running) -> bool:
    """Whether a client is reset that has just come: it may see that when it connects, or reads."""
    try:
        stream = await running.connect()
    except OSError as error:
        return "reset by peer" in str(error)
    return await is_reset(stream)


async def test_what_is_exposed_is_forwarded_to(nodes: Any) -> None:
    """M1, M2: bytes both ways, whole and in order, and each end by itself; all is counted."""
    alice, bob = await nodes.open_all("alice", "bob")
    async with relays_until_the_end() as relays:
        exposed = relays.expose(bob, "echo", await relays.serve(echo))
        forwarded = await relays.forward(alice, "echo@bob")
        data = bytes(range(256)) * 4000
        async with await forwarded.connect() as stream, trio.open_nursery() as nursery:

            async def send() -> None:
                await stream.send_all(data)
                await stream.send_eof()

            nursery.start_soon(send)
            assert b"".join([piece async for piece in stream]) == data
        for running in (forwarded, exposed):
            await until(lambda running=running: not running.figures.open)
            assert running.figures == relaying.Figures(
                connections=1, bytes_to_service=len(data), bytes_from_service=len(data)
            )


async def test_a_service_that_refuses_resets_the_client(
    nodes: Any, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On both nodes one line says why, and not one for each connection."""
    alice, bob = await nodes.open_all("alice", "bob")
    async with relays_until_the_end() as relays:
        nowhere = await unused_place()
        exposed = relays.expose(bob, "web", nowhere)
        forwarded = await relays.forward(alice, "web@*")
        await until(lambda: alice.streams.offering("web"))
        with caplog.at_level(logging.INFO, "steinadler.relay"):
            for _ in range(5):
                assert await is_turned_away(forwarded)
            first = [record.getMessage() for record in caplog.records]
            caplog.clear()
            monkeypatch.setattr(relaying, "QUIET_S", 0.0)
            assert await is_turned_away(forwarded)
            again = [record.getMessage() for record in caplog.records]
        assert sorted(first) == sorted(
            [
                f"a connection to web came to nothing: {nowhere} cannot be reached: "
                "Connection refused",
                f"a connection to web@* broke off: OSError: {nowhere} cannot be reached: "
                "Connection refused",
            ]
        )
        assert [text.endswith(" (and 4 times since last told)") for text in again] == [True, True]
        assert (exposed.figures.failed, forwarded.figures.broken) == (6, 6)


@pytest.mark.parametrize(
    ("service", "said"),
    [
        ("web@*", "no member offers the service 'web'"),
        ("web@dave", "'dave' is down: .* not a member"),
    ],
)
async def test_a_service_that_nobody_offers(
    nodes: Any, caplog: pytest.LogCaptureFixture, service: str, said: str
) -> None:
    """Its clients are turned away at once, and the log says why."""
    alice = await nodes.open("alice")
    async with relays_until_the_end() as relays:
        forwarded = await relays.forward(alice, service)
        assert await is_turned_away(forwarded)
        assert forwarded.figures == relaying.Figures(connections=1, failed=1)
    (record,) = [each for each in caplog.records if each.name == "steinadler.relay"]
    assert record.levelno == logging.WARNING
    assert f"a connection to {service} came to nothing" in record.getMessage()
    assert re.search(said, record.getMessage())


async def test_connections_go_round_among_those_that_offer_the_service(nodes: Any) -> None:
    alice, bob, carol = await nodes.open_all("alice", "bob", "carol")
    async with relays_until_the_end() as relays:
        exposed = {
            node.name: relays.expose(node, "echo", await relays.serve(echo))
            for node in (bob, carol)
        }
        forwarded = await relays.forward(alice, "echo@*")
        await until(lambda: len(alice.streams.offering("echo")) == 2)

        async def use() -> None:
            async with await forwarded.connect() as stream:
                await stream.send_all(b"x")
                assert await stream.receive_some() == b"x"

        for _ in range(4):
            await use()
        assert [exposed[name].figures.connections for name in ("bob", "carol")] == [2, 2]
        exposed["bob"].leave.set()
        await exposed["bob"].left.wait()
        await nodes.close(bob)
        for _ in range(3):
            await use()
        assert exposed["carol"].figures.connections == 5
        assert forwarded.figures.failed == 0


async def test_a_node_that_goes_down_resets_its_clients(
    nodes: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """M4: what had arrived can be read; then it is a reset and not an end."""
    alice, bob = await nodes.open_all("alice", "bob")
    async with relays_until_the_end() as relays:
        await relays.serve(echo)
        listener = bob.listen("echo")
        forwarded = await relays.forward(alice, "echo@bob")
        stream = await forwarded.connect()
        far = await listener.accept()
        await far.send_all(b"half of")
        assert await stream.receive_some() == b"half of"
        await nodes.close(bob)
        assert await is_reset(stream)
        await until(lambda: forwarded.figures.broken)
    assert "a connection to echo@bob broke off: node 'bob' is down: left" in caplog.text


async def test_a_reset_at_either_end_is_one_at_the_other(
    nodes: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """And nothing for the log: programs do so every day."""
    alice, bob = await nodes.open_all("alice", "bob")
    accepted: list[trio.SocketStream] = []

    async def hold(stream: trio.SocketStream) -> None:
        accepted.append(stream)
        await trio.sleep_forever()

    async with relays_until_the_end() as relays:
        relays.expose(bob, "hold", await relays.serve(hold))
        forwarded = await relays.forward(alice, "hold@bob")
        client = await forwarded.connect()
        await until(lambda: accepted)
        relaying.break_off(client)
        assert await is_reset(accepted.pop())
        client = await forwarded.connect()
        await until(lambda: accepted)
        relaying.break_off(accepted.pop())
        assert await is_reset(client)
        await until(lambda: forwarded.figures.broken == 2)
    assert not [each for each in caplog.records if each.name == "steinadler.relay"]


async def test_a_drain_accepts_nothing_more_and_lets_open_connections_end(nodes: Any) -> None:
    alice, bob = await nodes.open_all("alice", "bob")
    async with relays_until_the_end() as relays:
        exposed = relays.expose(bob, "echo", await relays.serve(echo))
        forwarded = await relays.forward(alice, "echo@bob")
        stream = await forwarded.connect()
        await stream.send_all(b"before")
        assert await stream.receive_some() == b"before"
        exposed.leave.set()
        await until(lambda: not alice.streams.offering("echo"))
        forwarded.leave.set()
        await wait_all_tasks_blocked()
        with pytest.raises(OSError, match="refused"):
            await forwarded.connect()
        await stream.send_all(b"after")
        assert await stream.receive_some() == b"after"
        assert (exposed.drained_with, forwarded.drained_with) == ([1], [1])
        assert not exposed.left.is_set()
        await stream.aclose()
        await exposed.left.wait()
        await forwarded.left.wait()
        assert (exposed.figures.broken, forwarded.figures.broken) == (0, 0)


async def test_a_drain_ends_in_time(nodes: Any) -> None:
    """What is still open then is reset at both ends."""
    alice, bob = await nodes.open_all("alice", "bob")
    async with relays_until_the_end() as relays:
        exposed = relays.expose(bob, "echo", await relays.serve(echo), drain_s=0.05)
        forwarded = await relays.forward(alice, "echo@bob")
        stream = await forwarded.connect()
        await stream.send_all(b"x")
        assert await stream.receive_some() == b"x"
        exposed.leave.set()
        await exposed.left.wait()
        assert await is_reset(stream)
        await until(lambda: not alice.stream_statistics() and not bob.stream_statistics())


async def test_more_connections_than_allowed_wait(nodes: Any) -> None:
    """One at a time here: the second is carried when the first has ended, and so on."""
    alice, bob = await nodes.open_all("alice", "bob")
    async with relays_until_the_end() as relays:
        relays.expose(bob, "echo", await relays.serve(echo))
        forwarded = await relays.forward(alice, "echo@bob", most=1)
        streams = [await forwarded.connect() for _ in range(4)]
        for stream in streams:
            await stream.send_all(b"me")
        for place, stream in enumerate(streams):
            assert await stream.receive_some() == b"me"
            assert forwarded.figures.connections == place + 1
            assert forwarded.figures.open == 1
            await stream.aclose()
        waiting = await forwarded.connect(), await forwarded.connect()
        await until(lambda: forwarded.figures.connections == 5)
        await wait_all_tasks_blocked()
        forwarded.leave.set()
        assert await is_reset(waiting[1]), "it was accepted, and then nobody carried it"
        await waiting[0].aclose()
        await forwarded.left.wait()
