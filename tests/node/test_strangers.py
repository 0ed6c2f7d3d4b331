"""Who dials an address that all members of a large cluster are told of."""

from __future__ import annotations

import math
import random

from steinadler.identity import Address
from steinadler.node.strangers import LONGEST_WAIT_S, MAX_STRANGERS, TURN_S, Strangers

ALICE, BOB = Address("alice", 4370), Address("bob", 4370)


def test_each_waits_for_a_turn_of_its_own() -> None:
    strangers = Strangers(random.Random(1))
    assert strangers.next_deadline() == math.inf
    strangers.heard(ALICE, 500, now=7.0)
    at = strangers.next_deadline()
    assert 7.0 <= at <= 7.0 + 500 * TURN_S
    strangers.heard(ALICE, 500, now=7.5)  # again: it is waiting already
    strangers.heard(BOB, 1, now=6.0)
    assert strangers.due(6.0 + TURN_S) == [BOB]
    assert strangers.next_deadline() == at
    assert strangers.due(at) == [ALICE]
    assert strangers.due(math.inf) == []


def test_a_hundred_members_dial_in_a_second_whatever_the_size_of_the_cluster() -> None:
    for members in (100, 900):
        waiting = [Strangers(random.Random(seed)) for seed in range(members)]
        for each in waiting:
            each.heard(ALICE, members, now=0.0)
        early = sum(each.next_deadline() <= 0.5 for each in waiting)
        assert 25 <= early <= 80


def test_nobody_waits_for_longer_than_that() -> None:
    strangers = Strangers(random.Random(1))
    strangers.heard(ALICE, 1_000_000, now=0.0)
    assert strangers.next_deadline() <= LONGEST_WAIT_S


def test_the_waiting_are_bounded_x4() -> None:
    strangers = Strangers(random.Random(1))
    for number in range(MAX_STRANGERS + 10):
        strangers.heard(Address(f"h{number}", 4370), 500, now=0.0)
    assert len(strangers.due(math.inf)) == MAX_STRANGERS
