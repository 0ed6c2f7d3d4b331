"""Who comes to the door gets a turn, whoever else came by another way before."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from trio.testing import MockClock

from steinadler.identity import Address, NodeId
from steinadler.transport.carrier import Via
from steinadler.transport.handshake_gate import HandshakeGate
from steinadler.transport.welcoming import Welcome


class Way:
    """A carrier on which something has been said."""

    emptied = False

    def __init__(self, remote: Address | Via) -> None:
        self.remote = remote

    async def wait_readable(self) -> None:
        await trio.lowlevel.checkpoint()

    def close(self) -> None:
        pytest.fail("it was turned away")


async def shake_hands(carrier: Any, remote: Address | Via) -> Any:
    await trio.sleep(0.001)
    return object()


async def handle(stream: Any) -> None:
    pass


async def test_a_guest_through_a_relay_takes_nobodys_turn_away(autojump_clock: MockClock) -> None:
    """Turns by time are given by one task at a time; when it ends, another goes on."""
    door = Welcome(HandshakeGate(2, 50.0), 5.0, shake_hands)

    async def come(remote: Address | Via) -> None:
        way: Any = Way(remote)
        if isinstance(remote, Via):
            await door.welcome(way, handle)
        else:  # as the port's task does
            await door._receive(way, remote, door._arrived(remote.host), handle)

    port_guests: list[Address | Via] = [Address(f"10.0.0.{number}", 1) for number in range(6)]
    relayed = Via(NodeId("relay", 1))
    async with trio.open_nursery() as port:
        port.start_soon(door.serve, [], handle)
        for guests in [[*port_guests[:3], relayed], port_guests] * 20:
            with trio.fail_after(1):  # two at once, one in 20 ms after that
                async with trio.open_nursery() as nursery:
                    for guest in guests:
                        nursery.start_soon(come, guest)
                        await trio.sleep(0.003)
            await trio.sleep(1)
        port.cancel_scope.cancel()
