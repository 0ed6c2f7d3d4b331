"""Strangers by the hundred at a port, on real sockets: members come and go as before (X4)."""

from __future__ import annotations

import os
import socket
import ssl
from contextlib import ExitStack, suppress

import trio
from machines import Machine
from test_tcp_network import Refusals, bare_context, get_through, refusals, serving

from steinadler.transport.handshake_gate import PATIENCE_S, ROOM_FACTOR, RefusalLog

__all__ = ["refusals"]
PLACES = 4


def client_hello() -> bytes:
    """What a TLS client says first."""
    out = ssl.MemoryBIO()
    tls = bare_context().wrap_bio(ssl.MemoryBIO(), out)
    with suppress(ssl.SSLWantReadError):
        tls.do_handshake()
    return out.read()


async def connect(open_: ExitStack, port: int, said: bytes) -> None:
    sock = socket.create_connection(("127.0.0.1", port), timeout=5)
    open_.callback(sock.close)
    sock.sendall(said)
    await trio.lowlevel.checkpoint()


async def test_members_get_in_while_the_same_address_holds_all_the_room(machine: Machine) -> None:
    """Silent, slow and stuck in mid-handshake, five times as many as there is room for."""
    alice, bob = machine.network("alice"), machine.network("bob", max_handshakes=PLACES)
    hello = client_hello()
    async with serving(bob) as address:
        with ExitStack() as open_:
            for _ in range(5 * PLACES * (1 + ROOM_FACTOR) // 2):
                for said in (b"", hello[:3]):
                    await connect(open_, address.port, said)
            await get_through(alice, address)


async def test_clients_stuck_in_mid_handshake_make_way_for_members(machine: Machine) -> None:
    alice, bob = machine.network("alice"), machine.network("bob", max_handshakes=PLACES)
    hello = client_hello()
    async with serving(bob) as address:
        with ExitStack() as open_:
            for _ in range(PLACES):
                await connect(open_, address.port, hello)
            began = trio.current_time()
            await get_through(alice, address)
            assert trio.current_time() - began < 3 * PATIENCE_S, "and not handshake_timeout_s"


async def test_handshakes_begin_at_a_rate(machine: Machine) -> None:
    """What all strangers can take of the processor is bounded; who waits is served in time."""
    alice = machine.network("alice")
    bob = machine.network("bob", max_handshakes=1, handshakes_per_s=4)
    async with serving(bob) as address:
        began = trio.current_time()
        for _ in range(4):
            await get_through(alice, address)
        assert trio.current_time() - began > 0.7


async def test_a_flood_of_garbage_is_a_few_lines_in_the_log(
    machine: Machine, refusals: Refusals
) -> None:
    alice, bob = machine.network("alice"), machine.network("bob")
    async with serving(bob) as address:
        with ExitStack() as open_:
            for _ in range(10 * RefusalLog.BURST):
                await connect(open_, address.port, b"\0" + os.urandom(50))
            await get_through(alice, address)
        lines = 0
        while not refusals.none_left():
            await refusals.next()
            lines += 1
        assert RefusalLog.BURST <= lines <= RefusalLog.BURST + 20
