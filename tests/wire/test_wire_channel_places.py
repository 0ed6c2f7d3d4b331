"""The peer allows so many channels and no more: who makes way, who is refused, who waits (X4)."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from wire_pair import SETTINGS, Pair, bodies_in, send

from steinadler.errors import DeliveryError
from steinadler.wire.channels import (
    FIRST_FREE_CHANNEL,
    InboundChannel,
    OutboundChannel,
    ToName,
    ToProcess,
)
from steinadler.wire.frames import FrameType
from steinadler.wire.session import Arrived, Event, Granted, Session

PLACES = 3
FEW = replace(SETTINGS, max_channels=FIRST_FREE_CHANNEL + PLACES)
LARGE = b"L" * 20_000


def consume_all(pair: Pair, side: int, events: list[Event]) -> None:
    for event in events:
        if isinstance(event, Arrived) and event.type is not FrameType.SIGNALS:
            for body in event.bodies:
                pair.consume(side, event.channel, body)


def give_back(pair: Pair, number: int, arrived: dict[int, InboundChannel], size: int) -> None:
    """The process of that number takes what it was sent, and its node says so at once."""
    pair.sessions[1].consumed(arrived[number], size)
    pair.write(1)
    pair.deliver(1)


def filled() -> tuple[Pair, list[OutboundChannel], dict[int, InboundChannel]]:
    """Every place is taken by a process that has half a window unconsumed."""
    pair = Pair(FEW)
    channels = [send(pair.sessions[0], ToProcess(n), bytes(15_000)) for n in range(PLACES)]
    arrived = {
        event.channel.target.number: event.channel
        for event in pair.exchange(0)
        if isinstance(event, Arrived) and isinstance(event.channel.target, ToProcess)
    }
    assert len(arrived) == PLACES
    return pair, channels, arrived


def test_a_message_for_one_destination_too_many_is_refused_before_anything_is_queued() -> None:
    pair, channels, _ = filled()
    session = pair.sessions[0]
    with pytest.raises(DeliveryError, match="max_channels"):
        session.channel(ToProcess(77))
    assert session.queued_items == 0
    assert [session.channel(channel.target) for channel in channels] == channels
    assert not any(channel.closed for channel in channels)


def test_the_channel_that_was_idle_for_longest_makes_way() -> None:
    pair, channels, arrived = filled()
    session = pair.sessions[0]
    for number in (2, 0, 1):
        give_back(pair, number, arrived, 15_000)
    for number in (1, 2):  # 0 is now the one that sent least recently
        session.enqueue_signal(b"signal", ToProcess(number))
        pair.exchange(0)
    send(session, ToProcess(77), b"new")
    assert [channel.closed for channel in channels] == [True, False, False]
    assert bodies_in(pair.exchange(0)) == [b"new"]
    send(session, ToProcess(78), b"newer")
    assert [channel.closed for channel in channels] == [True, True, False]
    assert bodies_in(pair.exchange(0)) == [b"newer"]


def test_a_channel_with_credit_outstanding_never_makes_way() -> None:
    """It would have a second window at the receiver (M6)."""
    pair, channels, arrived = filled()
    give_back(pair, 1, arrived, 15_000)
    send(pair.sessions[0], ToProcess(77), b"new")
    assert [channel.closed for channel in channels] == [False, True, False]
    with pytest.raises(DeliveryError):
        pair.sessions[0].channel(ToProcess(78))


def test_a_full_receiver_gives_back_small_debts_at_once() -> None:
    """Else a burst to many destinations would be refused until the next sweep, 30 s later."""
    pair = Pair(FEW)
    for number in range(10 * PLACES):
        send(pair.sessions[0], ToProcess(number), b"small")
        consume_all(pair, 1, pair.exchange(0))
        pair.exchange(1)


def test_a_signal_is_never_refused_and_waits_for_a_place() -> None:
    pair, _, arrived = filled()
    session = pair.sessions[0]
    session.enqueue_signal(b"first", ToName("x"))
    session.enqueue_signal(b"second", ToName("x"))
    session.enqueue_signal(b"other", ToName("y"))
    assert not session.wants_to_send
    assert not session.drained
    assert session.queued_items == 3
    assert not session.channel(ToName("x")).take_credit(1)
    give_back(pair, 1, arrived, 15_000)
    assert session.wants_to_send
    pair.write(0)
    assert bodies_in(pair.deliver(0)) == [b"first", b"second"]
    pair.acknowledge(1)
    assert bodies_in(pair.exchange(0)) == [b"other"]
    assert session.drained


def test_a_message_stays_behind_the_signal_that_waits_m1() -> None:
    """And its sender is told when there is credit."""
    pair, _, arrived = filled()
    session = pair.sessions[0]
    session.enqueue_signal(b"signal", ToName("x"))
    pair.sessions[1].consumed(arrived[1], 15_000)
    pair.write(1)
    assert Granted(ToName("x")) in pair.deliver(1)
    send(session, ToName("x"), b"message")
    assert bodies_in(pair.exchange(0)) == [b"signal", b"message"]


def test_whoever_waits_is_served_before_whoever_comes_later() -> None:
    pair, _, arrived = filled()
    session = pair.sessions[0]
    session.enqueue_signal(b"signal", ToName("x"))
    session.enqueue_signal(b"later", ToName("y"))
    give_back(pair, 1, arrived, 15_000)
    pair.write(0)  # the channel to x is idle now, and its place is for y
    with pytest.raises(DeliveryError):
        session.channel(ToProcess(77))


def test_large_replies_take_turns_when_there_is_one_place() -> None:
    pair = Pair(replace(SETTINGS, max_channels=FIRST_FREE_CHANNEL + 1))
    replies = [bytes([n]) * len(LARGE) for n in range(5)]
    for reply in replies:
        pair.sessions[0].enqueue_reply(reply)
    arrived: list[bytes] = []
    while not pair.sessions[0].drained:
        arrived += bodies_in(pair.exchange(0))
    assert arrived == replies


def test_what_was_opened_before_the_first_hello_is_cut_to_what_that_allows() -> None:
    pair = Pair(FEW, connected=False)
    session = pair.sessions[0]
    early = [session.channel(ToProcess(n)) for n in range(PLACES + 2)]
    pair.resume()
    assert [channel.closed for channel in early] == [False] * PLACES + [True] * 2
    assert [channel.credit for channel in early[:PLACES]] == [FEW.window_bytes] * PLACES


def test_signals_queued_before_the_first_hello_all_arrive_however_little_that_allows() -> None:
    pair = Pair(FEW, connected=False)
    session = pair.sessions[0]
    idle = session.channel(ToProcess(1))
    for number in range(PLACES + 4):
        session.enqueue_signal(b"%d" % number, ToName(f"watcher-{number}"))
    pair.resume()
    assert idle.closed
    assert bodies_in(pair.exchange(0)) == [b"%d" % number for number in range(PLACES + 4)]
    assert session.drained


@given(seed=st.integers(0, 2**32), places=st.integers(1, 5))
def test_whatever_is_sent_the_peers_limit_holds_and_all_that_was_taken_arrives(
    seed: int, places: int
) -> None:
    """M2, M3.  Were the limit broken, `receive` would raise."""
    rng = random.Random(seed)
    pair = Pair(replace(SETTINGS, max_channels=FIRST_FREE_CHANNEL + places))
    session: Session = pair.sessions[0]
    expected: Counter[bytes] = Counter()
    seen: Counter[bytes] = Counter()
    held: list[Event] = []

    def arrived(events: list[Event]) -> None:
        seen.update(bodies_in(events))
        held.extend(events)

    for step in range(120):
        target = ToProcess(rng.randrange(3 * places))
        body = step.to_bytes(4, "big").ljust(rng.choice([4, 4, 9_000, 20_000]), b".")
        match rng.randrange(8):
            case 0 | 1 | 2:
                try:
                    channel = session.channel(target)
                except DeliveryError:
                    continue
                if channel.take_credit(len(body)):
                    session.enqueue(channel, FrameType.MESSAGES, body)
                    expected[body] += 1
            case 3:
                session.enqueue_signal(body, target)
                expected[body] += 1
            case 4:
                session.enqueue_reply(body)
                expected[body] += 1
            case 5:
                consume_all_messages(pair, held)
            case 6:
                pair.resume()
            case _:
                pair.write(0)
                arrived(pair.deliver(0))
                pair.sessions[1].acknowledge()
                pair.write(1)
                pair.deliver(1)
    while not session.drained:
        consume_all_messages(pair, held)
        pair.sessions[1].close_idle_channels()
        for side in (1, 0):
            pair.sessions[side].acknowledge()
            pair.write(side)
            arrived(pair.deliver(side))
    assert session.drained
    assert seen == expected


def consume_all_messages(pair: Pair, held: list[Event]) -> None:
    for event in held:
        if isinstance(event, Arrived) and event.type is FrameType.MESSAGES:
            for body in event.bodies:
                pair.consume(1, event.channel, body)
    held.clear()
