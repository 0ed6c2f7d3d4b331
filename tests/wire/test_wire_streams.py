"""A direction of a stream is a channel of the session: its bytes and objects in order (M1) and once
(M2), also when connections break (M3), its credit, and its end, which is the channel's CLOSE."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace

import pytest
from wire_pair import SETTINGS, Pair, bodies_in, frames_in, limits_of, send

from steinadler.errors import DeliveryError
from steinadler.wire import plain
from steinadler.wire.channels import ITEM_OVERHEAD_BYTES, InboundChannel, ToProcess, ToStream
from steinadler.wire.frames import (
    HEADER_BYTES,
    MAX_ITEM_BYTES,
    MAX_PAYLOAD_BYTES,
    FrameType,
    split_frame,
)
from steinadler.wire.session import Arrived, Event, Session
from steinadler.wire.signals import failure_array, failure_of

STREAM, OTHER = ToStream(1, by_sender=True), ToStream(2, by_sender=False)
WINDOW = SETTINGS.window_bytes
LARGE = b"L" * 60_000


def send_bytes(session: Session, data: bytes, target: ToStream = STREAM) -> int:
    return session.enqueue_bytes(session.channel(target), memoryview(data))


def seen(events: list[Event]) -> list[tuple[int, FrameType, bytes]]:
    """(number of the stream, type, what came), the pieces of a byte stream joined."""
    got: list[tuple[int, FrameType, bytes]] = []
    for event in events:
        assert isinstance(event, Arrived)
        target = event.channel.target
        assert isinstance(target, ToStream)
        for body in event.bodies:
            last = got[-1] if got else None
            if last is not None and last[:2] == (target.number, FrameType.BYTES) == (
                target.number,
                event.type,
            ):
                got[-1] = (target.number, FrameType.BYTES, last[2] + body)
            else:
                got.append((target.number, event.type, body))
    return got


def inbound(session: Session, target: ToStream = STREAM) -> InboundChannel:
    return next(c for c in session._receiving.channels() if c.target == target)


# -- order and credit -----------------------------------------------------------------------------


def test_small_pieces_that_wait_are_joined_and_cost_as_one_at_both_ends() -> None:
    pair = Pair()
    near, far = pair.sessions
    for number in range(30):
        assert send_bytes(near, bytes([number]) * 100) == 100
    channel = near.channel(STREAM)
    assert len(channel.queue) == 1
    assert channel.credit == WINDOW - 3_000 - ITEM_OVERHEAD_BYTES
    events = pair.exchange(0)
    assert bodies_in(events) == [b"".join(bytes([n]) * 100 for n in range(30))]
    arrived = inbound(far)
    assert arrived.credit == channel.credit
    far.consumed(arrived, 3_000, 1)
    far.close_idle_channels()  # grants what is owed, however little
    pair.exchange(1)
    assert channel.credit == arrived.credit == WINDOW


def test_a_joined_piece_fits_a_frame_and_is_overdrawn_by_no_more_than_that() -> None:
    pair = Pair()
    near = pair.sessions[0]
    send_bytes(near, b"x" * 4_096)
    taken = 4_096 + send_bytes(near, b"y" * 1_000_000)
    channel = near.channel(STREAM)
    assert all(len(body) <= MAX_PAYLOAD_BYTES for _, body in channel.queue)
    assert -MAX_PAYLOAD_BYTES - ITEM_OVERHEAD_BYTES < channel.credit <= 0
    assert taken == WINDOW - channel.credit - len(channel.queue) * ITEM_OVERHEAD_BYTES
    assert send_bytes(near, b"z") == 0
    assert len(b"".join(bodies_in(pair.exchange(0)))) == taken  # no rule of the peer's is broken


def test_bytes_of_any_sizes_arrive_in_order_and_all_credit_comes_back_m1() -> None:
    draw = random.Random(1)
    pair = Pair()
    near, far = pair.sessions
    sent, got = bytearray(), bytearray()
    held: list[bytes] = []

    def take(events: list[Event]) -> None:
        for body in bodies_in(events):
            got.extend(body)
            held.append(body)

    for _ in range(2_000):
        data = draw.randbytes(draw.choice((1, 7, 100, 4_095, 4_096, 4_097, 30_000)))
        sent += data[: send_bytes(near, data)]
        if draw.random() < 0.3:
            pair.write(0)
        if draw.random() < 0.3:
            take(pair.deliver(0, draw.choice((None, 1, 1_000))))
        if held and draw.random() < 0.5:
            far.consumed(inbound(far), len(held.pop()), 1)
            far.acknowledge()
            pair.write(1)
            pair.deliver(1)
    take(pair.deliver(0) + pair.exchange(0))
    assert got == sent
    assert len(sent) > 10 * WINDOW
    for body in held:
        far.consumed(inbound(far), len(body), 1)
    far.close_idle_channels()
    pair.exchange(1)
    assert near.channel(STREAM).credit == WINDOW


def test_streams_take_turns_and_wait_behind_messages_m6() -> None:
    pair = Pair(replace(SETTINGS, window_bytes=100_000))
    near = pair.sessions[0]
    for target in (STREAM, OTHER):
        assert send_bytes(near, bytes(90_000), target) == 90_000
    send(near, ToProcess(1), b"small")
    first, second = (frames_in(near.data_to_send()) for _ in range(2))
    assert next(f.type for f in first if f.type != FrameType.OPEN) == FrameType.MESSAGES
    bulk = [frame.channel for frame in first + second if frame.type == FrameType.BYTES]
    assert len(set(bulk)) == 2
    assert len(bulk) < 2 * 90_000 / MAX_PAYLOAD_BYTES  # neither was done when the other began


# -- the end --------------------------------------------------------------------------------------


def test_the_end_comes_behind_what_was_sent() -> None:
    pair = Pair()
    near, far = pair.sessions
    send_bytes(near, b"some")
    near.end_stream(STREAM, b"why")
    send(near, OTHER, b"object")
    near.end_stream(OTHER, b"")
    events = seen(pair.exchange(0))
    assert [event[1:] for event in events if event[0] == 1] == [
        (FrameType.BYTES, b"some"),
        (FrameType.CLOSE, b"why"),
    ]
    assert [event[1:] for event in events if event[0] == 2] == [
        (FrameType.MESSAGES, b"object"),
        (FrameType.CLOSE, b""),
    ]
    assert near.levels().channels == far.levels().peer_channels == 2
    assert near.drained


# One frame of a large item goes out, and the next one when it was acknowledged.
ONE_BY_ONE = replace(SETTINGS, max_unacknowledged_bulk_bytes=1, reassembly_bytes=100_000)


def send_frames(pair: Pair, count: int) -> None:
    """Let session 0 send so many frames of what is at hand, which arrive."""
    for _ in range(count):
        pair.write(0)
        assert pair.deliver(0) == []
        pair.acknowledge(1)


@pytest.mark.parametrize("sent_frames", [0, 1, 2, 3])
def test_an_end_instead_of_what_waits_leaves_the_rest_of_a_large_object_unsent(
    sent_frames: int,
) -> None:
    pair = Pair(ONE_BY_ONE)
    near, far = pair.sessions
    send(near, STREAM, LARGE)
    send_frames(pair, sent_frames)
    assert far._receiving._reassembly_bytes == (len(LARGE) if sent_frames else 0)
    near.end_stream(STREAM, b"", drop_queued=True)
    assert near.levels().bytes_queued == 0
    assert seen(pair.exchange(0)) == [(1, FrameType.CLOSE, b"")]
    assert far._receiving._reassembly_bytes == near._sending._open_reassembly_bytes == 0
    assert near.drained
    assert near._sending.unacknowledged.bulk_bytes == 0
    send(near, ToProcess(1), b"M" * 100_000)  # all the room is there
    assert bodies_in(pair.exchange(0)) == [b"M" * 100_000]


def test_room_of_a_large_object_that_was_dropped_is_free_when_the_peer_knows_it_m3() -> None:
    """More unfinished items than the peer has room for would end the session."""
    pair = Pair(ONE_BY_ONE)
    near, far = pair.sessions
    send(near, STREAM, LARGE)
    send(near, ToProcess(1), b"M" * len(LARGE))  # waits for room, in front of the stream's turn
    send_frames(pair, 1)
    near.end_stream(STREAM, b"", drop_queued=True)
    assert bodies_in(pair.exchange(0)) == [b"", b"M" * len(LARGE)]
    assert far._receiving._reassembly_bytes == near._sending._open_reassembly_bytes == 0


def test_dropping_what_waits_for_room_lets_others_have_it() -> None:
    """The stream that was dropped was itself the next to begin."""
    pair = Pair(ONE_BY_ONE)
    near = pair.sessions[0]
    send(near, ToProcess(1), LARGE)
    send(near, STREAM, LARGE)
    send(near, ToProcess(2), b"M" * 30_000)
    send_frames(pair, 2)
    near.end_stream(STREAM, b"", drop_queued=True)
    assert sorted(bodies_in(pair.exchange(0))) == [b"", LARGE, b"M" * 30_000]


def test_what_was_queued_before_an_end_that_drops_it_never_comes() -> None:
    pair = Pair()
    near, _ = pair.sessions
    send_bytes(near, b"first")
    assert seen(pair.exchange(0)) == [(1, FrameType.BYTES, b"first")]
    send_bytes(near, b"second")
    near.end_stream(STREAM, b"", drop_queued=True)
    assert seen(pair.exchange(0)) == [(1, FrameType.CLOSE, b"")]


# -- connections that break -----------------------------------------------------------------------


def talk(near: Session) -> None:
    """Everything that streams say."""
    send_bytes(near, b"one" * 40)
    send_bytes(near, b"two" * 40, OTHER)
    send(near, ToStream(3, by_sender=True), b"object")
    near.end_stream(STREAM, b"")
    near.end_stream(OTHER, b"reason", drop_queued=True)
    send(near, ToStream(4, by_sender=True), b"F" * (MAX_ITEM_BYTES + 100))
    near.end_stream(ToStream(4, by_sender=True), b"")
    near.end_stream(ToStream(5, by_sender=True), b"never used")


def test_a_connection_that_breaks_at_any_byte_loses_and_doubles_nothing_m3() -> None:
    whole = Pair()
    talk(whole.sessions[0])
    data = b""
    while batch := whole.sessions[0].data_to_send():
        data += batch
    expected = seen(whole.sessions[1].receive(data))
    assert len(expected) == 7
    for cut in places_to_cut(data):
        pair = Pair()
        near, far = pair.sessions
        talk(near)
        while pair.write(0):
            pass
        events = pair.deliver(0, cut)
        pair.resume()
        events += pair.exchange(0)
        assert seen(events) == expected, cut
        assert near.drained
        assert near.levels().channels == far.levels().peer_channels == 3  # one was left open


def places_to_cut(data: bytes) -> list[int]:
    """Every byte of short frames, and those around the ends of long ones."""
    places, position = set(), 0
    while position < len(data):
        split = split_frame(data[position:])
        assert split is not None
        end = position + HEADER_BYTES + len(split[0].payload)
        places |= set(range(position, min(end, position + 200))) | {end - 1, end}
        position = end
    return sorted(places)


# -- places ---------------------------------------------------------------------------------------


def test_a_streams_channel_is_not_closed_for_being_idle() -> None:
    pair = Pair()
    near, far = pair.sessions
    channel = near.channel(STREAM)
    send_bytes(near, b"x")
    pair.exchange(0)
    far.consumed(inbound(far), 1, 1)
    for _ in range(3):
        for side in (0, 1):
            pair.sessions[side].close_idle_channels()
            pair.exchange(side)
    assert channel.credit == WINDOW
    assert near.channel(STREAM) is channel
    assert not channel.closed
    assert send_bytes(near, b"y") == 1
    assert bodies_in(pair.exchange(0)) == [b"y"]


def streams(count: int) -> list[ToStream]:
    return [ToStream(number, by_sender=True) for number in range(1, count + 1)]


@pytest.mark.parametrize(
    "what",
    [
        lambda near: near.channel(ToStream(99, by_sender=True)),
        lambda near: near.channel(ToProcess(1)),
    ],
    ids=["a stream", "a process"],
)
def test_streams_take_places_until_they_end(what: Callable[[Session], object]) -> None:
    pair = Pair()
    near = pair.sessions[0]
    most = SETTINGS.max_channels - 2
    for target in streams(most):
        send_bytes(near, b"x", target)
    pair.exchange(0)
    with pytest.raises(DeliveryError, match="max_channels"):
        what(near)
    near.end_stream(STREAM, b"")
    assert seen(pair.exchange(0)) == [(1, FrameType.CLOSE, b"")]
    assert what(near) is not None


def test_an_end_without_a_place_waits_for_one() -> None:
    """Nobody is there to be told that it was refused."""
    pair = Pair()
    near = pair.sessions[0]
    for target in streams(SETTINGS.max_channels - 2):
        send_bytes(near, b"x", target)
    pair.exchange(0)
    late = ToStream(99, by_sender=True)
    near.end_stream(late, b"late")
    assert pair.exchange(0) == []
    near.end_stream(STREAM, b"")
    events = pair.exchange(0)
    near.receive(b"")  # places are given out when something is read
    assert seen(events + pair.exchange(0)) == [
        (1, FrameType.CLOSE, b""),
        (99, FrameType.CLOSE, b"late"),
    ]


def test_before_the_first_connection_a_stream_can_end_and_nothing_else() -> None:
    pair = Pair(connected=False)
    near = pair.sessions[0]
    assert send_bytes(near, b"x") == 0
    near.end_stream(OTHER, b"")
    pair.resume()
    assert seen(pair.exchange(0)) == [(2, FrameType.CLOSE, b"")]
    assert limits_of(SETTINGS).window_bytes == near.channel(ToStream(9, by_sender=True)).credit


def test_the_longest_reason_fits_its_frame() -> None:
    """An exception's text is a program's; one too long for a frame would end the session."""
    pair = Pair()
    longest = plain.dumps(failure_array(("\N{EAGLE}" * 5_000, "\N{EAGLE}" * 5_000)))
    pair.sessions[0].end_stream(STREAM, longest)
    ((_, type_, reason),) = seen(pair.exchange(0))
    assert type_ is FrameType.CLOSE
    name, text = failure_of(plain.loads(reason))
    assert set(name + text) == {"\N{EAGLE}"}
