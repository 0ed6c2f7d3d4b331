"""X4: what a peer can make a session hold that it pays no credit for, each up to its bound.

The peer here asks and does not read: it neither acknowledges nor says that it consumed anything.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
from wire_pair import SETTINGS, Pair, Peer, frames_in, limits_of, send

from steinadler.config import WireSettings
from steinadler.errors import ConfigError, RemoteProtocolError
from steinadler.wire.channels import (
    CHANNEL_OVERHEAD_BYTES,
    ITEM_OVERHEAD_BYTES,
    ToName,
    ToProcess,
)
from steinadler.wire.frames import FrameType
from steinadler.wire.session import MAX_GOSSIP_BYTES, Arrived, Session

BOUND = 100_000
BOUNDED = replace(SETTINGS, max_queued_reply_bytes=BOUND)
COST = 1_000 + ITEM_OVERHEAD_BYTES


def fill_with_replies(session: Session) -> int:
    """Replies as long as they find room; how many."""
    count = 0
    while session.has_room_for_reply(1_000):
        session.enqueue_reply(bytes(1_000))
        count += 1
    return count


def overrun(session: Session) -> None:
    while not session._sending.overrun:
        session.enqueue_signal(b"x")


def test_replies_find_room_up_to_the_bound_and_again_when_they_are_sent() -> None:
    peer = Peer(BOUNDED)
    count = fill_with_replies(peer.session)
    assert BOUND - 2 * COST < count * COST <= BOUND + ITEM_OVERHEAD_BYTES
    while peer.session.data_to_send():
        pass
    assert fill_with_replies(peer.session) == count


@pytest.mark.parametrize("size", [0, 1_000, 50_000])
@pytest.mark.parametrize("kind", ["reply", "control", "to a process", "to a name"])
def test_what_was_sent_no_longer_counts(size: int, kind: str) -> None:
    pair = Pair(BOUNDED)
    session = pair.sessions[0]
    for _ in range(20):
        match kind:
            case "reply":
                session.enqueue_reply(bytes(size))
            case "control":
                session.enqueue_signal(bytes(size))
            case "to a process":
                session.enqueue_signal(bytes(size), ToProcess(5))
            case _:
                session.enqueue_signal(bytes(size), ToName("five"))
        assert session._sending._uncredited_bytes == size + ITEM_OVERHEAD_BYTES
        pair.exchange(0)
        assert session._sending._uncredited_bytes == 0


def test_one_reply_of_the_largest_size_always_finds_room() -> None:
    session = Peer(BOUNDED).session
    assert session.has_room_for_reply(SETTINGS.max_message_bytes)
    with pytest.raises(ConfigError, match="max_queued_reply_bytes"):
        replace(SETTINGS, max_queued_reply_bytes=SETTINGS.max_message_bytes - 1)


def test_a_peer_that_asks_and_never_reads_has_its_session_given_up() -> None:
    peer = Peer(BOUNDED)
    fill_with_replies(peer.session)
    assert peer.says(0xC0 | 0x3F) == [], "it may still ask for small things"
    count = 0
    while not peer.session._sending.overrun:
        peer.session.enqueue_signal(b"x")
        peer.session.enqueue_reply(b"y")
        count += 1
    assert count * 2 * (1 + ITEM_OVERHEAD_BYTES) < BOUND + 2 * COST
    waiting = peer.session.queued_items
    peer.session.enqueue_signal(b"dropped")
    peer.session.enqueue_reply(b"dropped")
    assert peer.session.queued_items == waiting
    with pytest.raises(RemoteProtocolError, match="asks and does not read"):
        peer.says(0xC0 | 0x3F)


def test_and_cannot_resume_it() -> None:
    peer = Peer(BOUNDED)
    overrun(peer.session)
    with pytest.raises(RemoteProtocolError, match="asks and does not read"):
        peer.session.connected(limits_of(BOUNDED), 0)


def test_a_signal_that_waits_for_a_channel_counts_as_a_channel_too() -> None:
    session = Peer(BOUNDED).session
    number = 0
    while not session._sending.overrun:
        session.enqueue_signal(b"down", ToProcess(number))
        number += 1
    assert number * (CHANNEL_OVERHEAD_BYTES + ITEM_OVERHEAD_BYTES) < 2 * BOUND + 100_000


def test_control_is_not_sent_on_and_on_to_a_peer_that_acknowledges_nothing() -> None:
    """It would be kept, in case the connection breaks, for ever."""
    settings = WireSettings(max_unacknowledged_bytes=200_000)
    session = Peer(settings).session
    sent = 0
    for _ in range(2_000):
        session.enqueue_signal(bytes(1_000))
        sent += len(session.data_to_send())
    assert 400_000 <= sent < 400_000 + 70_000
    assert not session.wants_to_send
    assert session.unacknowledged_bytes == sent
    session._sending.acknowledged(session._sending.last_sent)
    assert session.wants_to_send


def test_a_batch_of_control_is_no_larger_than_any_other() -> None:
    session = Peer().session
    for _ in range(90):
        session.enqueue_signal(bytes(1_000))
    assert len(session.data_to_send()) < 65_536 + 16_384
    assert session.wants_to_send


def test_membership_messages_that_nobody_reads_are_dropped() -> None:
    session = Peer().session
    for _ in range(2 * MAX_GOSSIP_BYTES // 10_000):
        session.gossip(bytes(10_000))
    assert MAX_GOSSIP_BYTES - 60_000 < len(session.data_to_send()) <= MAX_GOSSIP_BYTES
    session.gossip(b"and taken again")
    assert frames_in(session.data_to_send())[0].payload == b"and taken again"
    for _ in range(2 * MAX_GOSSIP_BYTES // 10_000):
        session.gossip(bytes(10_000))
    session.connected(limits_of(SETTINGS), 0)
    session.gossip(b"also on the next connection")
    assert session.wants_to_send


def test_acknowledgements_do_not_add_up() -> None:
    peer = Peer()
    for _ in range(1_000):
        peer.says(0xC0 | 0x3F)
        peer.session.acknowledge()
    (frame,) = frames_in(peer.session.data_to_send())
    assert (frame.type, frame.sequence) == (FrameType.ACKNOWLEDGE, 1_000)
    assert not peer.session.wants_to_send
    peer.session.acknowledge()
    assert not peer.session.wants_to_send, "there is nothing new to acknowledge"


def test_credit_for_one_channel_goes_back_in_one_frame_however_often_it_was_given() -> None:
    peer = Peer()
    peer.opens(2, 1)
    for _ in range(50):
        (arrived,) = peer.items(FrameType.MESSAGES, 2, bytes(SETTINGS.window_bytes // 2))
        assert isinstance(arrived, Arrived)
        assert peer.session.consumed(arrived.channel, SETTINGS.window_bytes // 2)
    grants = [f for f in frames_in(peer.session.data_to_send()) if f.type == FrameType.CREDIT]
    assert [frame.channel for frame in grants] == [2]
    granted = int.from_bytes(grants[0].payload, "big")
    assert granted == 50 * (SETTINGS.window_bytes // 2 + ITEM_OVERHEAD_BYTES)


def test_credit_for_a_channel_that_closes_is_for_nobody() -> None:
    """A peer that opens, sends, and closes without reading would heap it up."""
    peer = Peer()
    for number in range(2, 500):
        peer.opens(number, 1)
        (arrived,) = peer.items(FrameType.MESSAGES, number, bytes(SETTINGS.window_bytes // 2))
        assert isinstance(arrived, Arrived)
        peer.session.consumed(arrived.channel, SETTINGS.window_bytes // 2)
        peer.says(FrameType.CLOSE, number)
    assert not peer.session._sending._grants


def test_a_programs_messages_to_a_peer_that_reads_nothing_are_bounded_by_credit() -> None:
    """M6: and its other channels have theirs."""
    session = Peer(BOUNDED).session
    for number in range(3):
        channel = session.channel(ToProcess(number))
        while channel.take_credit(1_000):
            session.enqueue(channel, FrameType.MESSAGES, bytes(1_000))
        assert len(channel.queue) * COST < SETTINGS.window_bytes + COST
    assert session.has_room_for_reply(1_000), "messages take no room from replies"
    send(session, ToProcess(7), b"still has credit")
