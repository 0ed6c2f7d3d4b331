"""The arithmetic, the probe ring and the gossip queue, each by itself."""

from __future__ import annotations

import math
import random
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steinadler.config import MembershipSettings
from steinadler.errors import ConfigError
from steinadler.identity import Address, NodeId
from steinadler.membership import Member
from steinadler.membership.dissemination import BATCH_BYTES, GossipQueue, batches
from steinadler.membership.health import JITTER_S, MAX_SCORE, Health, LocalHealth
from steinadler.membership.probes import MAX_RELAYS, ProbeRing, Relay, Relays
from steinadler.membership.timing import (
    probes_per_round,
    suspicion_timeout_s,
    transmissions,
)

DEFAULTS = MembershipSettings()


def member(name: str, size: int = 0) -> Member:
    return Member(NodeId(name, 1), labels=(("x", "x" * size),) if size else ())


@pytest.mark.parametrize(
    ("others", "probes"),
    [(0, 0), (1, 1), (2, 1), (3, 2), (4, 2), (7, 4), (8, 4), (9, 4), (31, 4), (999, 4)],
)
def test_half_of_the_others_are_probed_four_at_most(others: int, probes: int) -> None:
    """S1: in a small cluster everybody is probed by everybody in two rounds."""
    assert probes_per_round(others) == probes


# What the table in `timing` says: by how many others there are, for 0, 1, 2 and 3 confirmations.
SUSPICIONS = {
    0: (1, 1, 1, 1),
    1: (3, 1, 1, 1),
    2: (3, 1.74, 1, 1),
    3: (3, 2, 1.42, 1),
    4: (3, 2, 1.42, 1),
    999: (3, 2, 1.42, 1),
}


@pytest.mark.parametrize("others", SUSPICIONS)
def test_suspicion_shrinks_with_confirmations(others: int) -> None:
    """Lifeguard IV-B: from unconfirmed_factor times to once suspicion_s, at any size (S1)."""
    found = [suspicion_timeout_s(DEFAULTS, c + 1, others) / DEFAULTS.suspicion_s for c in range(4)]
    assert found == pytest.approx(SUSPICIONS[others], abs=0.005)
    assert suspicion_timeout_s(DEFAULTS, 0, others) == 3 * DEFAULTS.suspicion_s  # hearsay


@given(
    st.integers(0, 10), st.integers(0, 2000), st.floats(0.01, 60), st.floats(1, 20), st.booleans()
)
def test_suspicion_is_bounded_and_falls(
    accusers: int, others: int, shortest: float, factor: float, local_health: bool
) -> None:
    """S1 and S2: never under suspicion_s, never over its bound, never longer for an accuser."""
    settings = MembershipSettings(
        suspicion_s=shortest, unconfirmed_factor=factor, local_health=local_health
    )
    now = suspicion_timeout_s(settings, accusers, others)
    then = suspicion_timeout_s(settings, accusers + 1, others)
    slack = 1 + 1e-9
    assert shortest <= then * slack <= now * slack**2 <= shortest * factor * slack**3
    if not local_health or accusers > min(others, 3):
        assert now == shortest


@pytest.mark.parametrize(("members", "sent"), [(1, 4), (9, 4), (10, 8), (99, 8), (100, 12)])
def test_an_update_is_passed_on_a_logarithmic_number_of_times(members: int, sent: int) -> None:
    """SWIM 4.1."""
    assert transmissions(DEFAULTS, members) == sent


@pytest.mark.parametrize(
    ("late", "allowance", "score"),
    [
        *((late, 0, 0) for late in (-math.inf, -1, 0, JITTER_S)),
        (0.1, 0.2, 0),
        (0.31, 0.61, 1),
        (1.9, 2.2, 6),
        (9, 9.3, MAX_SCORE),
    ],
)
def test_a_stall_is_made_up_for_and_remembered(late: float, allowance: float, score: int) -> None:
    """S2: the time lost, and as much again to read; and whoever was away doubts its judgement."""
    health = LocalHealth(DEFAULTS)
    assert health.ran_late(late) == pytest.approx(allowance)
    assert health.score == score
    blocked_s = late if late > 0.3 else 0
    assert health.report() == Health(score, blocked_s > 0, blocked_s, blocked_s)


def test_what_lowers_and_raises_the_score() -> None:
    """Lifeguard IV-A: the table in `health`, and the multiplier that follows."""
    health = LocalHealth(DEFAULTS)
    health.probe_failed(asked=3, nacked=3)
    assert health.scaled(0.3) == 0.3
    health.probe_failed(asked=3, nacked=1)
    assert health.scaled(0.3) == pytest.approx(0.9)
    health.probe_failed(asked=0, nacked=0)
    health.accused()
    assert health.score == 4
    health.interval_passed()
    assert health.score == 4  # it was not well for all of it
    health.interval_passed()
    assert health.score == 3


@given(st.lists(st.tuples(st.integers(0, 3), st.floats(0, 100))))
def test_the_score_stays_in_its_bounds_and_time_heals(happenings: list[tuple[int, float]]) -> None:
    """S1: whatever happened, a node that is well for 2 s judges as fast as any."""
    health = LocalHealth(DEFAULTS)
    for kind, amount in happenings:
        match kind:
            case 0:
                assert 0 <= health.ran_late(amount) <= amount + DEFAULTS.direct_timeout_s
            case 1:
                health.probe_failed(int(amount), 0)
            case 2:
                health.accused()
            case _:
                health.interval_passed()
        assert 0 <= health.score <= MAX_SCORE
    for _ in range(MAX_SCORE + 1):
        health.interval_passed()
    assert health.score == 0


def test_plain_swim_has_no_doubts() -> None:
    """The benchmark's switch: no score, no allowance, no confirmations."""
    health = LocalHealth(MembershipSettings(local_health=False))
    health.probe_failed(asked=3, nacked=0)
    health.accused()
    assert health.ran_late(5) == 0
    assert health.score == 0


@pytest.mark.parametrize(
    ("settings", "bounds"),
    [
        (MembershipSettings.one_machine(), (2.2, 2.5)),
        (MembershipSettings.lan(), (2.2, 2.7)),
        (MembershipSettings.wan(), (7.0, 9.0)),
    ],
)
def test_the_profiles_keep_what_they_say(
    settings: MembershipSettings, bounds: tuple[float, float]
) -> None:
    """S1 and S2: their docstrings, by the formula."""
    earliest = settings.direct_timeout_s + settings.indirect_timeout_s + settings.suspicion_s
    assert (earliest, earliest + 2 * settings.probe_interval_s) == pytest.approx(bounds)


def test_a_factor_that_would_shorten_suspicion_is_refused() -> None:
    """S2: an accusation of one alone is no better than one that others confirm."""
    with pytest.raises(ConfigError, match="unconfirmed_factor"):
        MembershipSettings(unconfirmed_factor=0.9)


@given(st.integers(0, 2**32), st.integers(1, 8))
def test_in_a_small_ring_nobody_waits_more_than_two_rounds(seed: int, others: int) -> None:
    """S1: the gap that the latest detection time is computed from."""
    ring = ProbeRing(random.Random(seed))
    for number in range(others):
        ring.add(str(number))
    rounds = [ring.take(probes_per_round(others)) for _ in range(12)]
    for one, two in pairwise(rounds):
        assert {*one, *two} == {str(number) for number in range(others)}


@given(st.integers(0, 2**32), st.integers(1, 30), st.lists(st.integers(0, 29)))
def test_the_ring_reaches_everybody_within_two_passes(
    seed: int, size: int, removed: list[int]
) -> None:
    """SWIM 4.3: at most 2n - 1 probes until a given member is probed, also after some went."""
    ring = ProbeRing(random.Random(seed))
    names = {str(number) for number in range(size)}
    for name in names:
        ring.add(name)
    ring.take(size // 2)
    for name in names & {str(number) for number in removed}:
        ring.discard(name)
        names.remove(name)
    assert len(ring) == len(names)
    taken = [name for _ in range(2 * len(names) - 1) for name in ring.take(1)]
    assert set(taken) == names


@given(st.integers(0, 2**32), st.integers(0, 7), st.integers(0, 7))
def test_removal_skips_nobody(seed: int, taken: int, removed: int) -> None:
    """S1: a member's turn does not slip by because another one went."""
    ring = ProbeRing(random.Random(seed))
    for number in range(8):
        ring.add(str(number))
    order = ring.take(8)
    ring.take(taken)
    ring.discard(order[removed])
    expected = [name for name in order[taken:] + order[:taken] if name != order[removed]]
    assert ring.take(7) == expected


def test_relays_are_bounded_expire_and_answer_only_their_target() -> None:
    """X4: ping requests cost a peer more than they cost us."""
    relays = Relays()
    alice, bob, eve = (NodeId(name, 1) for name in ("alice", "bob", "eve"))
    for sequence in range(MAX_RELAYS + 1):
        relays.start(sequence, Relay(alice, sequence, bob, math.inf, expires=float(sequence)))
    assert relays.answered(0, bob) is None  # given up for the newest
    assert relays.answered(7, eve) is None
    relay = relays.answered(7, bob)
    assert relay is not None
    assert relay.origin == alice
    assert relays.answered(7, bob) is None
    relays.expire(100.0)
    assert relays.answered(100, bob) is None
    assert relays.answered(101, bob) is not None


def test_the_queue_sends_what_was_sent_least_first_and_each_often_enough() -> None:
    """SWIM 4.1: bounded piggy-back, preference to the young, a budget per update."""
    queue = GossipQueue()
    old, new = member("old"), member("new")
    queue.put(old)
    assert queue.take(3) == (old,)
    queue.put(new)
    assert queue.take(3, size=new.size_bound()) == (new,)
    assert queue.take(3) == (old, new)
    assert queue.take(3) == (old, new)
    assert queue.take(3) == ()
    assert len(queue) == 0


def test_the_queue_holds_one_update_per_name() -> None:
    """A newer record takes the place of the older one, with a budget of its own."""
    queue = GossipQueue()
    queue.put(member("a"))
    queue.take(9)
    queue.put(member("a", 5))
    assert len(queue) == 1
    assert queue.take(1) == (member("a", 5),)
    queue.put(member("a"), sent=2)
    queue.discard("a")
    queue.discard("never there")
    assert queue.take(9) == ()


def test_an_update_larger_than_the_piggyback_still_leaves() -> None:
    """Nothing gets stuck at the head of the queue."""
    queue = GossipQueue()
    queue.put(member("large", 3000))
    queue.put(member("small"))
    assert queue.take(1) == (member("large", 3000),)
    assert queue.take(1) == (member("small"),)


@given(st.lists(st.integers(0, 4000), max_size=40))
def test_a_table_is_split_into_messages_that_fit(sizes: list[int]) -> None:
    """X4: in order, complete, each within the batch size; an empty table is one message."""
    records = [
        Member(NodeId(str(number), 1), (Address("h" * size, 1),))
        for number, size in enumerate(sizes)
    ]
    runs = batches(records)
    assert [record for run in runs for record in run] == records
    assert all(sum(record.size_bound() for record in run) <= BATCH_BYTES for run in runs)
    assert len(runs) == 1 or all(runs)
