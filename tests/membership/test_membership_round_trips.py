"""Round trips: from a ping to its answer and to nothing else, smoothed as RFC 6298 says."""

from __future__ import annotations

import random

import pytest

from steinadler.config import MembershipSettings
from steinadler.identity import Address, NodeId
from steinadler.membership import (
    Connected,
    Disconnected,
    Effect,
    Member,
    Received,
    RoundTrip,
    Send,
    Swim,
)
from steinadler.membership.messages import Ack, Gossip, Ping
from steinadler.membership.round_trips import RoundTrips

ME, BOB = (Member(NodeId(name, 10), (Address(name, 4370),)) for name in ("me", "bob"))


def connected_engine() -> Swim:
    swim = Swim(ME, MembershipSettings(), random.Random(1))
    swim.handle(Connected(BOB), 0.0)
    return swim


def next_ping(swim: Swim) -> tuple[int, float]:
    """Let the engine ping bob; return the ping's sequence and when it went out."""
    while True:
        now = swim.next_deadline()
        sequence = sequence_in(swim.tick(now))
        if sequence is not None:
            return sequence, now


def sequence_in(effects: list[Effect]) -> int | None:
    for effect in effects:
        match effect:
            case Send(to, Ping(sequence)) if to == BOB.node:
                return sequence
    return None


def test_an_answer_tells_the_round_trip() -> None:
    swim = connected_engine()
    assert swim.round_trip(BOB.node) is None
    sequence, now = next_ping(swim)
    swim.handle(Received(BOB.node, Ack(sequence)), now + 0.03)
    assert swim.round_trip(BOB.node) == RoundTrip(pytest.approx(0.03), pytest.approx(0.03))


def test_other_words_of_the_peer_neither_end_nor_count_as_a_measurement() -> None:
    swim = connected_engine()
    sequence, now = next_ping(swim)
    swim.handle(Received(BOB.node, Gossip(())), now + 0.01)
    swim.handle(Received(BOB.node, Ack(sequence + 1000)), now + 0.02)
    assert swim.round_trip(BOB.node) is None
    swim.handle(Received(BOB.node, Ack(sequence)), now + 0.05)
    swim.handle(Received(BOB.node, Ack(sequence)), now + 0.09)
    found = swim.round_trip(BOB.node)
    assert found is not None
    assert found.latest_s == pytest.approx(0.05)


def test_an_answer_to_an_earlier_ping_is_none_to_this_one() -> None:
    swim = connected_engine()
    early, now = next_ping(swim)
    swim.handle(Received(BOB.node, Gossip(())), now)  # a sign of life: the next round asks again
    late, now = next_ping(swim)
    assert late != early
    swim.handle(Received(BOB.node, Ack(early)), now + 0.001)
    assert swim.round_trip(BOB.node) is None


def test_who_left_is_forgotten() -> None:
    swim = connected_engine()
    sequence, now = next_ping(swim)
    swim.handle(Received(BOB.node, Ack(sequence)), now + 0.03)
    swim.handle(Disconnected(BOB.node, goodbye=True), now + 0.04)
    assert swim.round_trip(BOB.node) is None


def test_later_measurements_count_an_eighth() -> None:
    """RFC 6298 section 2: SRTT <- 7/8 SRTT + 1/8 R, and the first as it is."""
    times = RoundTrips()
    for sequence, (took, smoothed) in enumerate([(0.08, 0.08), (0.16, 0.09), (0.01, 0.08)]):
        times.asked(BOB.node, sequence, 5.0)
        times.answered(BOB.node, sequence, 5.0 + took)
        assert times.find(BOB.node) == RoundTrip(pytest.approx(took), pytest.approx(smoothed))
