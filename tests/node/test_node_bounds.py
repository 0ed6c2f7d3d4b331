"""X4: what a peer can make a node hold, each up to its bound, with another node's calls going on.

The peers here have real credentials; what makes them hostile is that they ask and do not read.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from typing import Any

import pytest
import trio
from programs import sleeper, until
from raw_peer import RawPeer, raw_peer

from steinadler import (
    Call,
    Config,
    MailboxFull,
    MembershipSettings,
    Node,
    Process,
    RemoteError,
    WireSettings,
)
from steinadler.wire import plain
from steinadler.wire.channels import CONTROL, Target, ToName, ToProcess
from steinadler.wire.frames import FrameType, unpack_items
from steinadler.wire.signals import MonitorRequest, encode_signal

KIB = 1024
WIRE = WireSettings(
    max_message_bytes=64 * KIB,
    reassembly_bytes=128 * KIB,
    max_unacknowledged_bytes=64 * KIB,
    max_queued_reply_bytes=64 * KIB,
    max_unanswered_calls=10,
)
# The peers here answer no probes, and are not to be down for that, however slow the machine is.
PATIENT = MembershipSettings(suspicion_s=60)


@pytest.fixture
async def node(nodes: Any) -> Node:
    opened: Node = await nodes.open("alice", config=Config(wire=WIRE, membership=PATIENT))
    return opened


@pytest.fixture
async def peer(node: Node, nodes: Any) -> AsyncIterator[RawPeer]:
    async with raw_peer(node, nodes.home) as connected:
        with trio.fail_after(5):
            await connected.shake_hands()
            await node.wait_for_member("mallory")
        yield connected


async def call(peer: RawPeer, target: Target, number: int, request: bytes) -> None:
    channel = peer.session.channel(target)
    peer.session.enqueue(channel, FrameType.CALLS, number.to_bytes(8, "big") + request)
    await send_all(peer)


async def send_all(peer: RawPeer) -> None:
    """What the session has to send, acknowledged or not."""
    while data := peer.session.data_to_send():
        await peer.say_if_open(data)
        peer.session._sending.acknowledged(peer.session._sending.last_sent)


GIVEN_UP = "closed the connection to mallory: protocol error: it asks and does not read"


def held_for_mallory(node: Node) -> int:
    links = [link for link in node._peering.connections.links() if link.node.name == "mallory"]
    return sum(link.session._sending._uncredited_bytes for link in links)


async def test_a_peer_that_calls_and_never_reads_is_given_up_and_nobody_else(
    node: Node, nodes: Any, caplog: pytest.LogCaptureFixture
) -> None:
    bob = await nodes.open("bob", config=Config(membership=PATIENT))
    with trio.fail_after(20):
        await bob.wait_for_member("alice")
        async with raw_peer(node, nodes.home) as peer:
            await peer.shake_hands()
            await node.wait_for_member("mallory")
            caplog.clear()
            number, most = 0, 0
            while GIVEN_UP not in caplog.text:
                for _ in range(8):
                    number += 1
                    await call(peer, ToName("$echo"), number, plain.dumps(bytes(30 * KIB)))
                assert await bob.call("$echo@alice", number) == number
                most = max(most, held_for_mallory(node))
            assert number < 5_000
        assert node._router.calls.refused_replies > 0
        assert WIRE.max_queued_reply_bytes < most <= 2 * WIRE.max_queued_reply_bytes + 64 * KIB
        # A node may have something of its own to say to it in the next session.
        assert held_for_mallory(node) < KIB, "what it did not read is gone with its session"
        assert await bob.call("$echo@alice", "alive") == "alive"


async def test_a_reply_that_found_no_room_fails_that_call_alone_c1(nodes: Any) -> None:
    """The caller here does read, so it sees what became of every call."""
    alice, bob = await nodes.open_all("alice", "bob")
    (link,) = (link for link in bob._peering.connections.links())
    failed: list[str] = []

    async def hold_replies(me: Process) -> None:
        async for message in me:
            assert isinstance(message, Call)
            # As if replies waited for alice beyond the bound.
            link.session._sending._uncredited_bytes += 65 << 20
            message.reply("too much")
            link.session._sending._uncredited_bytes -= 65 << 20

    bob.spawn(hold_replies, name="holds")
    with trio.fail_after(5):
        with pytest.raises(RemoteError, match="does not read") as caught:
            await alice.call("holds@bob", 1)
        failed.append(caught.value.type_name)
        assert await alice.call("$echo@bob", 2) == 2
    assert failed == ["MailboxFull"]
    assert bob._router.calls.refused_replies == 1


async def test_a_peer_that_asks_for_news_and_never_reads_is_given_up(
    node: Node, peer: RawPeer, caplog: pytest.LogCaptureFixture
) -> None:
    """Monitors of nobody are answered at once, ahead of everything and without credit."""
    reference = 0
    with trio.fail_after(10):
        while GIVEN_UP not in caplog.text:
            for _ in range(500):
                reference += 1
                request = MonitorRequest(reference, 10**9, 0)
                peer.session.enqueue_signal(encode_signal(request), CONTROL)
            await send_all(peer)
            await node.call("$echo", 1)
    assert reference < 50_000
    assert held_for_mallory(node) == 0


async def test_a_program_may_ask_no_more_of_a_node_that_does_not_read(
    node: Node, peer: RawPeer
) -> None:
    """Its monitors are refused where it can be told, before they can cost it the session."""
    there = next(m.node for m in node.members() if m.node.name == "mallory")
    placed = 0
    with pytest.raises(MailboxFull, match="has not read"):
        while True:
            node.monitor("anything@mallory")
            placed += 1
    assert placed > 100
    assert len(node._watching._held) == placed, "the one that was refused is not held"
    with pytest.raises(MailboxFull):
        node.exit("anything@mallory")
    (link,) = (link for link in node._peering.connections.links() if link.node == there)
    assert not link.session._sending.overrun
    assert await node.call("$echo", "others are not concerned") == "others are not concerned"


async def test_a_call_too_many_fails_and_makes_nothing_wait(node: Node, peer: RawPeer) -> None:
    async def never_answers(me: Process) -> None:
        held = [message async for message in me]
        assert not held

    process = node.spawn(never_answers)
    with trio.fail_after(5):
        for number in range(1, 31):
            await call(peer, ToProcess(process.number), number, plain.dumps(number))
        replies: list[bytes] = []
        while len(replies) < 20:
            frame = await peer.next_frame()
            assert frame is not None
            if frame.type == FrameType.REPLIES:
                replies += unpack_items(frame.payload)
        assert len(node._router.calls.owed) == 10
        assert node._router.calls.owed.count_for(peer.hello.node) == 10
        assert await node.call("$echo", 1) == 1, "calls of this node are its own affair"


async def test_messages_that_do_not_decode_do_not_fill_the_log(
    node: Node, peer: RawPeer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    channel = peer.session.channel(ToName("$echo"))
    with trio.fail_after(5):
        for _ in range(1_000):
            peer.session.enqueue(channel, FrameType.MESSAGES, b"\xff")
        await send_all(peer)
        await until(lambda: node._router.counters.undecodable == 1_000)
    told = [record for record in caplog.records if "dropped a message" in record.getMessage()]
    assert 5 < len(told) <= 11


async def test_a_full_node_spawns_no_more_for_its_peers(nodes: Any) -> None:
    alice = await nodes.open("alice", config=Config(max_processes=12))
    bob = await nodes.open("bob")
    with trio.fail_after(10):
        await bob.wait_for_member("alice")
        fits = 12 - alice.statistics().processes
        for number in range(fits):
            await bob.spawn_on("alice", "programs_sleeper", f"sleeper{number}")
        for ask in (bob.spawn_on, bob.run_on):
            with pytest.raises(RemoteError, match="max_processes"):
                await ask("alice", "programs_sleeper", "too many")
        alice.spawn(sleeper)  # its own programs may
        assert await bob.call("$echo@alice", 1) == 1
    assert fits > 0
