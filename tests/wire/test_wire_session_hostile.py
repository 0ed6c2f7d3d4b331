"""Invariant: whatever bytes arrive, `Session.receive` returns events or raises
`RemoteProtocolError`, and what the peer can make a session hold stays within its settings (X4).
"""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from wire_pair import SETTINGS, Pair, Peer, bodies_in, limits_of, send

from steinadler.errors import RemoteProtocolError
from steinadler.wire.channels import ITEM_OVERHEAD_BYTES, ToName, ToProcess
from steinadler.wire.frames import (
    FLAG_FIRST,
    MAX_ITEM_BYTES,
    MAX_PAYLOAD_BYTES,
    FrameType,
    encode_frame,
    pack_first_fragment,
    pack_items,
)
from steinadler.wire.session import Arrived, PeerLimits, Session

T = FrameType


def target(number: int) -> bytes:
    return b"\0" + number.to_bytes(8, "big")


def begin(peer: Peer, channel: int, total: int, data: bytes = b"x", type_: T = T.MESSAGES) -> None:
    peer.says(T.FRAGMENT, channel, pack_first_fragment(type_, total, data), flags=FLAG_FIRST)


def without_credit(peer: Peer) -> None:
    peer.opens(2, 1)
    peer.items(T.MESSAGES, 2, bytes(MAX_ITEM_BYTES))
    peer.items(T.MESSAGES, 2, bytes(SETTINGS.window_bytes - MAX_ITEM_BYTES))
    peer.items(T.MESSAGES, 2, b"")


def without_credit_in_one_frame(peer: Peer) -> None:
    peer.opens(2, 1)
    most = SETTINGS.window_bytes // ITEM_OVERHEAD_BYTES + 1
    assert len(bodies_in(peer.items(T.CALLS, 2, *[b""] * most))) == most
    peer.opens(3, 2)
    peer.items(T.CALLS, 3, *[b""] * (most + 1))


def without_credit_large(peer: Peer) -> None:
    peer.opens(2, 1)
    for _ in range(2):
        begin(peer, 2, 20_000)
        peer.says(T.FRAGMENT, 2, bytes(16_000))
        peer.says(T.FRAGMENT, 2, bytes(3_999))


def replays(peer: Peer) -> None:
    peer.opens(2, 1)
    frame = peer.frame(T.MESSAGES, 2, pack_items([b"once"]))
    assert bodies_in(peer.session.receive(frame)) == [b"once"]
    peer.session.receive(frame)


def skips(peer: Peer) -> None:
    peer.opens(2, 1)
    peer.says(T.MESSAGES, 2, pack_items([b"x"]), skip=1)


def skips_with_an_unknown_frame(peer: Peer) -> None:
    peer.says(0xC0 | 0x3F, skip=1)


def opens_an_open_channel(peer: Peer) -> None:
    peer.opens(2, 1)
    peer.opens(2, 2)


def opens_a_second_channel_to_one_process(peer: Peer) -> None:
    peer.opens(2, 1)
    peer.opens(3, 1)


def opens_control_again(peer: Peer) -> None:
    peer.says(T.OPEN, 2, b"\2" + bytes(8))


def opens_too_many(peer: Peer) -> None:
    for number in range(SETTINGS.max_channels + 1):
        peer.opens(2 + number, number)


def fragment_inside_a_large_item(peer: Peer) -> None:
    peer.opens(2, 1)
    begin(peer, 2, 50_000)
    begin(peer, 2, 50_000)


def item_inside_a_large_item(peer: Peer) -> None:
    peer.opens(2, 1)
    begin(peer, 2, 50_000)
    peer.items(T.MESSAGES, 2, b"x")


def empty_fragment(peer: Peer) -> None:
    peer.opens(2, 1)
    begin(peer, 2, 50_000)
    peer.says(T.FRAGMENT, 2, b"")


def fragment_past_the_end(peer: Peer) -> None:
    peer.opens(2, 1)
    begin(peer, 2, 20_000)
    peer.says(T.FRAGMENT, 2, bytes(16_000))
    peer.says(T.FRAGMENT, 2, bytes(4_000))


def fragment_of_nothing(peer: Peer) -> None:
    peer.opens(2, 1)
    peer.says(T.FRAGMENT, 2, b"x")


def fragmented_item_over_the_limit(peer: Peer) -> None:
    peer.opens(2, 1)
    begin(peer, 2, SETTINGS.max_message_bytes + ITEM_OVERHEAD_BYTES + 1)


def fragmented_item_that_needs_none(peer: Peer) -> None:
    peer.opens(2, 1)
    begin(peer, 2, MAX_ITEM_BYTES)


def more_unfinished_items_than_allowed(peer: Peer) -> None:
    for number in range(2):
        peer.opens(2 + number, number)
        begin(peer, 2 + number, SETTINGS.max_message_bytes)


def closes_with_items_not_consumed(peer: Peer) -> None:
    peer.opens(2, 1)
    peer.items(T.MESSAGES, 2, b"x")
    peer.says(T.CLOSE, 2)


def closes_inside_a_large_item(peer: Peer) -> None:
    peer.opens(2, 1)
    begin(peer, 2, 50_000)
    peer.says(T.CLOSE, 2)


def grants_over_its_own_window(peer: Peer) -> None:
    channel = send(peer.session, ToProcess(1), b"x")
    peer.says(T.CREDIT, channel.id, (1 + ITEM_OVERHEAD_BYTES).to_bytes(8, "big"))
    assert channel.credit == SETTINGS.window_bytes
    peer.says(T.CREDIT, channel.id, (1).to_bytes(8, "big"))


def says(type_: int, channel: int = 0, payload: bytes = b"") -> Callable[[Peer], None]:
    def script(peer: Peer) -> None:
        peer.opens(2, 1)
        peer.says(type_, channel, payload)

    return script


def acknowledges_the_future(peer: Peer) -> None:
    peer.session.enqueue_signal(b"x")
    peer.session.data_to_send()
    peer.session.receive(encode_frame(T.ACKNOWLEDGE, sequence=1))
    peer.session.receive(encode_frame(T.ACKNOWLEDGE, sequence=2))


CRIMES: dict[str, tuple[Callable[[Peer], None], str]] = {
    "sends without credit": (without_credit, "without credit"),
    "sends without credit in one frame": (without_credit_in_one_frame, "without credit"),
    "sends without credit in fragments": (without_credit_large, "without credit"),
    "replays a frame": (replays, "frame 2 after frame 2"),
    "skips a number": (skips, "frame 3 after frame 1"),
    "skips a number of an unknown frame": (skips_with_an_unknown_frame, "frame 2 after frame 0"),
    "opens a channel twice": (opens_an_open_channel, "open already"),
    "opens two channels to one": (opens_a_second_channel_to_one_process, "a second channel"),
    "opens control a second time": (opens_control_again, "a second channel"),
    "opens channel 0": (says(T.OPEN, 0, target(5)), "open already"),
    "opens channel 1": (says(T.OPEN, 1, target(5)), "open already"),
    "opens too many": (opens_too_many, "more than 64 channels"),
    "opens to nothing": (says(T.OPEN, 3, b""), "does not decode"),
    "opens to half a number": (says(T.OPEN, 3, b"\0\1\2"), "does not decode"),
    "opens to an empty name": (says(T.OPEN, 3, b"\1"), "unknown kind"),
    "opens to a long name": (says(T.OPEN, 3, b"\1" + b"x" * 256), "unknown kind"),
    "opens to a name that is no text": (says(T.OPEN, 3, b"\1\xff"), "does not decode"),
    "opens to an unknown kind": (says(T.OPEN, 3, b"\7" + bytes(8)), "unknown kind"),
    "opens to a stream of neither side": (says(T.OPEN, 3, b"\3\2" + bytes(8)), "unknown kind"),
    "opens to a stream without number": (says(T.OPEN, 3, b"\3\1"), "does not decode"),
    "sends on no channel": (says(T.MESSAGES, 9, pack_items([b"x"])), "not open"),
    "fragments on no channel": (says(T.FRAGMENT, 9, b"x"), "not open"),
    "begins inside a large item": (fragment_inside_a_large_item, "inside another"),
    "sends inside a large item": (item_inside_a_large_item, "inside an unfinished one"),
    "sends an empty fragment": (empty_fragment, "empty"),
    "fragments past the end": (fragment_past_the_end, "past its item's end"),
    "fragments nothing": (fragment_of_nothing, "of nothing"),
    "fragments too much": (fragmented_item_over_the_limit, "the limit is"),
    "fragments too little": (fragmented_item_that_needs_none, "the limit is"),
    "begins too much": (more_unfinished_items_than_allowed, "reassembly_bytes"),
    "acknowledges the future": (acknowledges_the_future, "the last sent is 1"),
    "closes channel 0": (says(T.CLOSE, 0), "cannot close"),
    "closes channel 1": (says(T.CLOSE, 1), "cannot close"),
    "closes what is not open": (says(T.CLOSE, 9), "not open"),
    "closes before its items are taken": (closes_with_items_not_consumed, "before its items"),
    "closes inside a large item": (closes_inside_a_large_item, "cannot close"),
    "grants too much": (grants_over_its_own_window, "over the peer's own window"),
    "grants on control": (says(T.CREDIT, 0, (1).to_bytes(8, "big")), "over the peer's"),
    "grants nonsense": (says(T.CREDIT, 0, b"abc"), "does not decode"),
    "sends messages to the node": (says(T.MESSAGES, 0, pack_items([b"x"])), "MESSAGES on"),
    "sends replies on control": (says(T.REPLIES, 0, pack_items([b"x"])), "REPLIES on"),
    "sends signals among replies": (says(T.SIGNALS, 1, pack_items([b"x"])), "SIGNALS on"),
    "sends calls among replies": (says(T.CALLS, 1, pack_items([b"x"])), "CALLS on"),
    "sends replies to a process": (says(T.REPLIES, 2, pack_items([b"x"])), "REPLIES on"),
    "fragments a reply to a process": (
        lambda peer: (peer.opens(2, 1), begin(peer, 2, 50_000, type_=T.REPLIES))[1],
        "REPLIES on",
    ),
    "says Hello again": (says(T.HELLO), "0x01 in a session"),
    "rejects too late": (says(T.REJECT), "0x02 in a session"),
    "sends an unknown frame": (says(0x3F), "0x3f in a session"),
    "sends an unknown numbered frame": (says(0xBF), "0xbf in a session"),
    "sends items that do not add up": (says(T.MESSAGES, 2, b"\0\2\0\1"), "lengths"),
    "sends a frame over the limit": (
        lambda peer: peer.session.receive(b"\xff\xff" + bytes(14)) and None,
        "the limit is 16384",
    ),
}


@pytest.mark.parametrize(("crime", "told"), CRIMES.values(), ids=CRIMES)
def test_a_peer_that_breaks_a_rule_is_told_which(crime: Callable[[Peer], None], told: str) -> None:
    with pytest.raises(RemoteProtocolError, match=told):
        crime(Peer())


def test_everything_short_of_those_crimes_is_allowed() -> None:
    """Each at its limit; so that the table above shows the limits and not just refusals."""
    peer = Peer()
    for number in range(SETTINGS.max_channels - 2):
        peer.opens(2 + number, number)
    begin(peer, 2, SETTINGS.max_message_bytes + ITEM_OVERHEAD_BYTES)
    begin(peer, 3, SETTINGS.reassembly_bytes - SETTINGS.max_message_bytes)
    peer.items(T.MESSAGES, 4, b"x" * MAX_ITEM_BYTES)
    peer.items(T.CALLS, 4, b"y")
    assert bodies_in(peer.items(T.SIGNALS, 4, b"signal")) == [b"signal"]
    peer.says(T.CLOSE, 5)
    peer.opens(5000, 3)
    peer.says(T.CREDIT, 9, (1).to_bytes(8, "big"))
    assert peer.says(0xC0 | 0x3F, 77, b"of a later version") == []
    assert peer.says(0x40 | 0x3F, 77, b"of a later version") == []
    assert bodies_in(peer.items(T.REPLIES, 1, b"reply")) == [b"reply"]


def test_a_process_cannot_be_flooded_by_closing_and_opening_channels() -> None:
    """X4: one process has one window's worth from a peer, whatever channels come and go."""
    peer = Peer()
    peer.opens(2, 1)
    (arrived,) = peer.items(T.MESSAGES, 2, bytes(16_000))
    assert isinstance(arrived, Arrived)
    peer.session.consumed(arrived.channel, 16_000)
    peer.says(T.CLOSE, 2)
    peer.opens(3, 1)
    peer.items(T.MESSAGES, 3, bytes(16_000))
    with pytest.raises(RemoteProtocolError):
        peer.says(T.CLOSE, 3)


@pytest.mark.parametrize("size", [1, 2, 7])
def test_a_large_item_in_tiny_fragments_costs_little_more_than_its_bytes(size: int) -> None:
    """X4: not a Python object per fragment."""
    peer = Peer()
    peer.opens(2, 1)
    begin(peer, 2, 90_000)
    fragments = [peer.frame(T.FRAGMENT, 2, b"z" * size) for _ in range(60_000 // size)]
    data = b"".join(fragments)
    del fragments
    pieces = [data[at : at + 65_536] for at in range(0, len(data), 65_536)]
    del data
    tracemalloc.start()
    try:
        for piece in pieces:
            peer.session.receive(piece)
        assert tracemalloc.get_traced_memory()[0] < 150_000
    finally:
        tracemalloc.stop()


def test_a_claimed_size_costs_nothing_until_its_bytes_are_there() -> None:
    large = {"max_message_bytes": 1 << 30, "reassembly_bytes": 1 << 30}
    peer = Peer(replace(SETTINGS, max_queued_reply_bytes=1 << 30, **large))
    peer.opens(2, 1)
    tracemalloc.start()
    try:
        begin(peer, 2, 1 << 30)
        assert tracemalloc.get_traced_memory()[1] < 100_000
    finally:
        tracemalloc.stop()


# -- fuzz -------------------------------------------------------------------------------------


def feed(session: Session, data: bytes) -> None:
    tracemalloc.start()
    try:
        session.receive(data)
    except RemoteProtocolError:
        pass
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 20 * len(data) + 100_000


def connected() -> Session:
    session = Session(SETTINGS)
    session.connected(limits_of(SETTINGS), 0)
    session.enqueue_signal(b"something to acknowledge")
    send(session, ToProcess(1), b"something to grant credit for")
    session.data_to_send()
    return session


@given(st.binary(max_size=200))
@example(b"\0")
def test_arbitrary_bytes(data: bytes) -> None:
    feed(connected(), data)


@st.composite
def conversations(draw: st.DrawFn) -> bytes:
    """Frames with small numbers in every field, mostly in sequence."""
    peer = Peer()
    data = b""
    for _ in range(draw(st.integers(1, 12))):
        type_ = draw(st.sampled_from([*FrameType, 0x3F, 0x7F, 0xBF, 0xFF]))
        payload = draw(
            st.binary(max_size=12)
            | st.builds(target, st.integers(0, 4))
            | st.lists(st.binary(max_size=4), max_size=4).map(pack_items)
            | st.builds(
                pack_first_fragment,
                st.sampled_from(FrameType),
                st.integers(MAX_ITEM_BYTES, MAX_ITEM_BYTES + 3),
                st.sampled_from([b"x", bytes(MAX_PAYLOAD_BYTES - 5)]),
            )
            | st.integers(0, 2**64 - 1).map(lambda n: n.to_bytes(8, "big"))
        )
        data += peer.frame(
            type_,
            draw(st.integers(0, 5)),
            payload,
            flags=draw(st.integers(0, 1)),
            skip=draw(st.sampled_from([0] * 9 + [1])),
        )
    return data


@given(conversations())
@settings(max_examples=100, deadline=None)
def test_arbitrary_conversations(data: bytes) -> None:
    feed(connected(), data)


def valid_stream() -> bytes:
    """One of everything that a session says."""
    pair = Pair()
    session = pair.sessions[0]
    for size in (0, 5, MAX_ITEM_BYTES + 1000):
        send(session, ToProcess(1), bytes(size))
    send(session, ToName("counter"), b"call", T.CALLS)
    session.enqueue_signal(b"signal")
    session.enqueue_reply(b"reply")
    session.enqueue_reply(bytes(MAX_ITEM_BYTES + 5))
    session.gossip(b"gossip")
    session.goodbye("done")
    data = b""
    while batch := session.data_to_send():
        data += batch
    return data


VALID = valid_stream()


@given(
    st.lists(
        st.tuples(
            st.integers(0, 400) | st.integers(0, len(VALID) - 1),
            st.binary(max_size=4),
            st.integers(0, 4),
        ),
        min_size=1,
        max_size=3,
    )
)
@settings(max_examples=100, deadline=None)
def test_mutations_of_a_valid_stream(changes: list[tuple[int, bytes, int]]) -> None:
    data = VALID
    for at, put, cut in changes:
        data = data[:at] + put + data[at + cut :]
    feed(connected(), data)


@given(st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1))
def test_any_resumption_is_taken_up_or_refused(first: int, second: int) -> None:
    session = connected()
    for claimed in (first, first % 5, second % 5):
        try:
            session.connected(PeerLimits(1, 1, 1), claimed)
        except RemoteProtocolError:
            continue
        session.data_to_send()
