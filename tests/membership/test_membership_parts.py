"""The arithmetic, the probe ring and the gossip queue, each by itself."""

from __future__ import annotations

import math
import random
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steinadler.config import MembershipSettings
from steinadler.identity import Address, NodeId
from steinadler.membership import Member
from steinadler.membership.dissemination import BATCH_BYTES, GossipQueue, batches
from steinadler.membership.probes import MAX_RELAYS, ProbeRing, Relay, Relays
from steinadler.membership.timing import (
    STALL_S,
    probes_per_round,
    stall_allowance_s,
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


@pytest.mark.parametrize(
    ("members", "factor"), [(0, 1.0), (1, 1.0), (2, 1.0), (10, 1.0), (100, 2.0), (1000, 3.0)]
)
def test_suspicion_grows_with_the_logarithm_of_the_cluster(members: int, factor: float) -> None:
    """SWIM 4.2: gossip has to reach the suspect and come back."""
    assert suspicion_timeout_s(DEFAULTS, members) == pytest.approx(DEFAULTS.suspicion_s * factor)


@pytest.mark.parametrize(("members", "sent"), [(1, 4), (9, 4), (10, 8), (99, 8), (100, 12)])
def test_an_update_is_passed_on_a_logarithmic_number_of_times(members: int, sent: int) -> None:
    """SWIM 4.1."""
    assert transmissions(DEFAULTS, members) == sent


@pytest.mark.parametrize(
    ("late", "allowance"),
    [(-math.inf, 0), (-1, 0), (0, 0), (STALL_S, 0), (0.1, 0.2), (0.3, 0.6), (1.9, 2.2)],
)
def test_a_stall_is_made_up_for(late: float, allowance: float) -> None:
    """S2: the time lost, and as much again to read, one direct timeout at most."""
    assert stall_allowance_s(DEFAULTS, late) == pytest.approx(allowance)


def test_the_defaults_keep_the_promise_on_paper() -> None:
    """S1 and S2: the formula of MembershipSettings, with 0.2 s to spare on both sides."""
    earliest = (
        DEFAULTS.direct_timeout_s + DEFAULTS.indirect_timeout_s + suspicion_timeout_s(DEFAULTS, 3)
    )
    assert earliest >= 2.2
    assert earliest + 2 * DEFAULTS.probe_interval_s <= 2.8


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
        ring.remove(name)
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
    ring.remove(order[removed])
    expected = [name for name in order[taken:] + order[:taken] if name != order[removed]]
    assert ring.take(7) == expected


def test_relays_are_bounded_expire_and_answer_only_their_target() -> None:
    """X4: ping requests cost a peer more than they cost us."""
    relays = Relays()
    alice, bob, eve = (NodeId(name, 1) for name in ("alice", "bob", "eve"))
    for sequence in range(MAX_RELAYS + 1):
        relays.start(sequence, Relay(alice, sequence, bob, expires=float(sequence)))
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
