"""The stream over TLS and TCP: the conformance suite, and what only a real socket can do."""

from __future__ import annotations

import socket
import ssl
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing
from conformance import PROMISES, PairFactory, Promise, receive_exactly
from machines import Machine, connected_sockets

from steinadler.security import Credentials
from steinadler.transport.carrier import SocketCarrier, address_of
from steinadler.transport.tls import TlsStream, handshake

# Header, content type and authentication tag (RFC 8446, section 5.2).
_RECORD_OVERHEAD = 5 + 1 + 16


@asynccontextmanager
async def tls_pair(
    client: Credentials, server: Credentials
) -> AsyncIterator[tuple[TlsStream, TlsStream]]:
    near, far = connected_sockets()
    streams: dict[bool, TlsStream] = {}

    async def shake(sock: socket.socket, context: ssl.SSLContext, server_side: bool) -> None:
        streams[server_side] = await handshake(
            SocketCarrier(sock), context, server_side=server_side, judge=client.judge
        )

    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(shake, near, client.client_context(), False)
            nursery.start_soon(shake, far, server.server_context(), True)
        try:
            yield streams[False], streams[True]
        finally:
            for stream in streams.values():
                stream.close_nowait()


@pytest.fixture
def make_pair(machine: Machine) -> PairFactory:
    alice, bob = machine.credentials("alice"), machine.credentials("bob")
    return lambda: tls_pair(alice, bob)


@pytest.mark.parametrize("promise", PROMISES, ids=lambda promise: promise.__name__)
async def test_conformance(promise: Promise, make_pair: PairFactory) -> None:
    await promise(make_pair)


async def test_the_peer_is_who_its_certificate_says(
    machine: Machine, make_pair: PairFactory
) -> None:
    """X3: names come from certificates, on both sides."""
    async with make_pair() as (alice, bob):
        assert alice.peer == machine.credentials("bob").identity
        assert bob.peer == machine.credentials("alice").identity
        assert alice.remote.host == bob.remote.host == "127.0.0.1"


async def test_bytes_are_encrypted_and_not_delayed(make_pair: PairFactory) -> None:
    """X1, and Nagle's algorithm is off on both sides."""
    async with make_pair() as (alice, bob):
        for stream in (alice, bob):
            sock = stream._ciphertext.carrier.sock
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        secret = b"nobody but bob may read this"
        assert alice.write_nowait(secret)
        raw = bob._ciphertext.carrier.sock
        await trio.lowlevel.wait_readable(raw)
        assert secret not in raw.recv(10_000, socket.MSG_PEEK)
        assert await bob.receive_some() == secret


async def test_what_follows_the_handshake_at_once_is_not_forgotten(machine: Machine) -> None:
    """Bytes in the segment that ended the handshake are there for the first read."""
    alice, bob = machine.credentials("alice"), machine.credentials("bob")
    near, far = connected_sockets()
    with trio.fail_after(10):
        up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
        tls = alice.client_context().wrap_bio(down, up)
        received: list[bytes] = []

        async def serve() -> None:
            stream = await handshake(
                SocketCarrier(far), bob.server_context(), server_side=True, judge=bob.judge
            )
            received.append(await stream.receive_some())
            stream.close_nowait()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve)
            near.setblocking(False)
            with pytest.raises(ssl.SSLWantReadError):
                tls.do_handshake()
            near.send(up.read())
            while True:
                await trio.lowlevel.wait_readable(near)
                down.write(near.recv(65536))
                try:
                    tls.do_handshake()
                    break
                except ssl.SSLWantReadError:
                    continue
            tls.write(b"early")
            near.send(up.read())
        near.close()
    assert received == [b"early"]


async def test_one_read_takes_all_that_is_at_hand(make_pair: PairFactory) -> None:
    """Section 10: many small writes cost the reader one wake-up."""
    async with make_pair() as (alice, bob):
        for _ in range(100):
            assert alice.write_nowait(b"0123456789")
        raw, on_the_wire = bob._ciphertext.carrier.sock, 100 * (10 + _RECORD_OVERHEAD)
        while len(raw.recv(2 * on_the_wire, socket.MSG_PEEK)) < on_the_wire:
            await trio.lowlevel.checkpoint()
        assert await bob.receive_some() == b"0123456789" * 100


@pytest.mark.parametrize("alert_first", [True, False], ids=["close_notify", "ragged"])
async def test_both_kinds_of_end_are_the_end(make_pair: PairFactory, alert_first: bool) -> None:
    """With TLS's closing alert or without, the stream ends plainly after what was sent."""
    async with make_pair() as (alice, bob):
        assert alice.write_nowait(b"bye")
        if alert_first:
            with pytest.raises(ssl.SSLWantReadError):
                alice._tls.unwrap()
            assert alice._push()
        else:
            alice._ciphertext.carrier.sock.shutdown(socket.SHUT_WR)
        assert await receive_exactly(bob, 3) == b"bye"
        assert await bob.receive_some() == b""
        assert await bob.receive_some() == b""


async def test_a_forged_record_breaks_the_stream_after_what_was_authentic(
    make_pair: PairFactory,
) -> None:
    """X4: bytes that were not encrypted by the peer end the connection, and stay its end."""
    async with make_pair() as (alice, bob):
        assert alice.write_nowait(b"authentic")
        alice._ciphertext.carrier.sock.send(b"\x17\x03\x03\x00\x20" + bytes(32))
        assert await receive_exactly(bob, 9) == b"authentic"
        for _ in range(2):
            with pytest.raises(trio.BrokenResourceError, match="TLS failed"):
                await bob.receive_some()
        with pytest.raises(trio.BrokenResourceError):
            bob.write_nowait(b"x")


async def test_a_reset_is_not_an_end(make_pair: PairFactory) -> None:
    """A connection that failed raises, also after the write that noticed it first."""
    async with make_pair() as (alice, bob):
        linger = struct.pack("ii", 1, 0)
        alice._ciphertext.carrier.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        alice.close_nowait()
        await trio.lowlevel.wait_readable(bob._ciphertext.carrier.sock)
        with pytest.raises(trio.BrokenResourceError):
            bob.write_nowait(b"x")
        for _ in range(2):
            with pytest.raises(trio.BrokenResourceError):
                await bob.receive_some()


async def test_a_cancelled_handshake_closes_its_socket(machine: Machine) -> None:
    alice = machine.credentials("alice")
    near, far = connected_sockets()
    with far:
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(
                    lambda: handshake(
                        SocketCarrier(near),
                        alice.client_context(),
                        server_side=False,
                        judge=alice.judge,
                    )
                )
                await trio.testing.wait_all_tasks_blocked()
                scope.cancel()
        assert scope.cancelled_caught
        assert near.fileno() == -1


def test_a_mapped_address_is_told_as_the_one_it_is() -> None:
    assert str(address_of(("::ffff:127.0.0.1", 80, 0, 0))) == "127.0.0.1:80"
    assert str(address_of(("::1", 80, 0, 0))) == "[::1]:80"
