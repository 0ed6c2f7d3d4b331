"""TLS inside a relayed byte stream: a `SecureStream` like any other, of which the relay reads
nothing; by three nodes on real sockets."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeAlias

import pytest
import trio

from steinadler.identity import NODE
from steinadler.node.relaying import RelayedCarrier
from steinadler.security.home import open_home
from steinadler.stream.byte_stream import ByteStream
from steinadler.transport.tls import TlsStream, handshake

sys.path.append(str(Path(__file__).parents[1] / "transport"))

from conformance import PROMISES, PairFactory, Promise

Ends: TypeAlias = tuple[TlsStream, TlsStream]

SECRET = b"nobody but bob may read this"


@asynccontextmanager
async def secured(home_folder: Path, near: ByteStream, far: ByteStream) -> AsyncIterator[Ends]:
    """TLS between alice and bob, over the two ends of a way for bytes."""
    home = open_home(home_folder)
    streams: dict[str, TlsStream] = {}

    async def shake(name: str, stream: ByteStream) -> None:
        mine = home.credentials(home.default_cluster(), NODE, name)
        dials = name == "alice"
        streams[name] = await handshake(
            RelayedCarrier(stream, lambda: None),
            mine.client_context() if dials else mine.server_context(),
            server_side=not dials,
            judge=mine.judge,
        )

    async with trio.open_nursery() as nursery:
        nursery.start_soon(shake, "alice", near)
        nursery.start_soon(shake, "bob", far)
    try:
        yield streams["alice"], streams["bob"]
    finally:
        for stream in streams.values():
            stream.close_nowait()


@pytest.fixture
def make_pair(nodes: Any) -> PairFactory:
    """Without the pump, which would make room by itself."""

    @asynccontextmanager
    async def pair() -> AsyncIterator[Ends]:
        alice, bob = [await nodes.open(name) for name in ("alice", "bob")]
        await alice.wait_for_member("bob")
        with bob.listen("far") as listener:
            near, far = await alice.connect("far@bob"), await listener.accept()
            async with secured(nodes.home, near, far) as ends:
                yield ends

    return pair


@pytest.mark.parametrize("promise", PROMISES, ids=lambda promise: promise.__name__)
async def test_conformance(promise: Promise, make_pair: PairFactory) -> None:
    with trio.fail_after(20):
        await promise(make_pair)


async def test_the_relay_reads_nothing_x1(nodes: Any) -> None:
    carol, alice, bob = [await nodes.open(name) for name in ("carol", "alice", "bob")]
    for node in (alice, bob):
        await node.wait_for_member("carol")
    seen: list[bytes] = []

    async def pump(source: ByteStream, sink: ByteStream) -> None:
        async for data in source:
            seen.append(data)
            await sink.send_all(data)

    with (
        trio.fail_after(10),
        carol.listen("a") as from_alice,
        bob.listen("b") as from_carol,
    ):
        near, middle = await alice.connect("a@carol"), await from_alice.accept()
        onward, far = await carol.connect("b@bob"), await from_carol.accept()
        async with trio.open_nursery() as pumping:
            pumping.start_soon(pump, middle, onward)
            pumping.start_soon(pump, onward, middle)
            async with secured(nodes.home, near, far) as (at_alice, at_bob):
                at_alice.write_nowait(SECRET)
                assert await at_bob.receive_some() == SECRET
                assert str(at_alice.remote) == "via carol"
                assert (at_bob.peer.name, at_alice.peer.name) == ("alice", "bob")
                pumping.cancel_scope.cancel()
    assert seen
    assert SECRET not in b"".join(seen)
