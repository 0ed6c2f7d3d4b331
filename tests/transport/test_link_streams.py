"""A link and the connections that carry it, one after the other: nothing twice, nothing lost."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from steinadler.config import WireSettings
from steinadler.errors import RemoteProtocolError
from steinadler.identity import NODE, Address, NodeId
from steinadler.transport.link import Link, LinkState
from steinadler.transport.network import PeerIdentity, SecureStream
from steinadler.wire.channels import ToName
from steinadler.wire.frames import FrameType
from steinadler.wire.session import Arrived, Event, PeerLimits, Session

SETTINGS = WireSettings()
LIMITS = PeerLimits(SETTINGS.window_bytes, SETTINGS.max_message_bytes, SETTINGS.reassembly_bytes)


class Pipe(SecureStream):
    """The near end of a connection; the test holds the far end."""

    def __init__(self) -> None:
        self.peer = PeerIdentity("0" * 32, NODE, "bob")
        self.remote = Address("127.0.0.1", 1)
        self.written = b""
        self.closed = False
        self.in_hand = trio.Event()  # somebody has bytes that it has not returned yet
        self.let_go = trio.Event()
        self.let_go.set()
        self._send, self._receive = trio.open_memory_channel[bytes](10)

    def say(self, data: bytes) -> None:
        self._send.send_nowait(data)

    def write_nowait(self, data: bytes) -> bool:
        if self.closed:
            raise trio.ClosedResourceError
        self.written += data
        return True

    async def flush(self) -> None:
        await trio.lowlevel.checkpoint()
        if self.closed:
            raise trio.ClosedResourceError

    async def receive_some(self) -> bytes:
        data = await self._receive.receive()
        self.in_hand.set()
        with trio.CancelScope(shield=True):  # the bytes have left the socket
            await self.let_go.wait()
        return data

    def close_nowait(self) -> None:
        self.closed = True


class FarEnd:
    """The peer's session, and what came to ours."""

    def __init__(self) -> None:
        self.session = Session(SETTINGS)
        self.session.connected(LIMITS, 0)
        self.arrived: list[bytes] = []
        self.link = Link(NodeId("bob", 1), NODE, 1, SETTINGS, self._handle, self._dial)

    def _handle(self, link: Link, events: list[Event]) -> None:
        for event in events:
            if isinstance(event, Arrived):
                self.arrived.extend(event.bodies)

    def _dial(self, link: Link) -> None:
        """The test makes the connections."""

    def message(self, body: bytes) -> bytes:
        self.session.enqueue(self.session.channel(ToName("x")), FrameType.MESSAGES, body)
        return self.session.data_to_send()

    def attach(self) -> Pipe:
        pipe = Pipe()
        self.link.attach(pipe, LIMITS, 0)
        return pipe


async def test_bytes_of_a_connection_that_was_replaced_are_left_to_the_new_one_m2() -> None:
    """The peer sends again from where the new handshake says; reading both would be twice."""
    far = FarEnd()
    first = far.attach()
    data = far.message(b"once")
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(far.link.run, first, b"")
            first.let_go = trio.Event()
            first.say(data)
            await first.in_hand.wait()
            second = far.attach()  # while the reader of the first has the bytes in hand
            first.let_go.set()
            nursery.start_soon(far.link.run, second, b"")
            await trio.testing.wait_all_tasks_blocked()
            assert far.arrived == []
            far.session.connected(LIMITS, 0)
            second.say(far.session.data_to_send())
            await trio.testing.wait_all_tasks_blocked()
            assert far.arrived == [b"once"]
            assert far.link.state is LinkState.CONNECTED
            nursery.cancel_scope.cancel()


async def test_what_a_broken_connection_did_not_deliver_goes_out_on_the_next_m3() -> None:
    far = FarEnd()
    first = far.attach()
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(far.link.run, first, b"")
            await trio.testing.wait_all_tasks_blocked()
            session = far.link.session
            session.enqueue(session.channel(ToName("y")), FrameType.MESSAGES, b"to you")
            far.link.flush()
            await trio.testing.wait_all_tasks_blocked()
            lost = first.written
            assert lost
            first.say(b"")
            await trio.testing.wait_all_tasks_blocked()
            assert far.link.state is LinkState.WAITING
            second = far.attach()
            nursery.start_soon(far.link.run, second, b"")
            await trio.testing.wait_all_tasks_blocked()
            assert second.written == lost
            nursery.cancel_scope.cancel()


async def test_a_rule_broken_by_the_peer_is_raised_and_closes_the_connection_x4() -> None:
    far = FarEnd()
    pipe = far.attach()
    with trio.fail_after(5), pytest.raises(RemoteProtocolError):
        await far.link.run(pipe, b"\xff" * 64)
    assert pipe.closed


async def test_the_end_of_a_link_wakes_everybody_who_waits_to_send() -> None:
    far = FarEnd()
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(far.link.wait_for_credit, ToName("y"))
            await trio.testing.wait_all_tasks_blocked()
            far.link.end("down")
    assert far.link.end_reason == "down"


async def test_a_sender_that_gives_up_does_not_take_the_turn_of_the_next() -> None:
    far = FarEnd()
    target = ToName("y")
    woken: list[int] = []

    async def wait(number: int, scope: trio.CancelScope) -> None:
        with scope:
            await far.link.wait_for_credit(target)
            woken.append(number)

    scopes = [trio.CancelScope() for _ in range(3)]
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            for number, scope in enumerate(scopes):
                nursery.start_soon(wait, number, scope)
                await trio.testing.wait_all_tasks_blocked()
            scopes[0].cancel()
            far.link.wake_for_credit(target)
            await trio.testing.wait_all_tasks_blocked()
            assert woken == [1]
            far.link.wake_for_credit(target)
            await trio.testing.wait_all_tasks_blocked()
            assert woken == [1, 2]
