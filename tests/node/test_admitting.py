"""S2, X4: a node gives its name up to those who had it first, and not to one that says so."""

from __future__ import annotations

import random

import pytest

from steinadler import MembershipSettings, NameConflict, NodeId, SteinadlerError
from steinadler.membership import Member, Swim
from steinadler.node.admitting import NAME_CONFLICT_PATIENCE_S, Admitting
from steinadler.wire.handshake import Reject, RejectReason

ME = NodeId("alice", 2_000)
IN_USE = Reject(RejectReason.NAME_IN_USE, "there is another alice")


class Door(Admitting):
    """One that only notes why the node would end."""

    def __init__(self) -> None:
        self.failures: list[SteinadlerError] = []
        engine = Swim(Member(ME), MembershipSettings(), random.Random(1))
        super().__init__(ME, engine, self.failures.append)


@pytest.fixture
def door() -> Door:
    return Door()


def test_the_node_of_that_name_itself_is_believed_at_once(door: Door) -> None:
    door.rejected(IN_USE, "alice", wanted_by=3, now=0)
    assert isinstance(door.failures[0], NameConflict)


def test_a_shadow_of_a_former_life_is_waited_out(door: Door) -> None:
    door.rejected(IN_USE, "bob", wanted_by=0, now=0)
    door.rejected(IN_USE, "bob", wanted_by=0, now=NAME_CONFLICT_PATIENCE_S - 1)
    door.met("bob")  # who noticed that the former life is over
    door.rejected(IN_USE, "carol", wanted_by=0, now=NAME_CONFLICT_PATIENCE_S + 1)
    assert not door.failures


def test_who_is_turned_away_for_too_long_gives_up(door: Door) -> None:
    door.rejected(IN_USE, "bob", wanted_by=0, now=0)
    door.rejected(IN_USE, "bob", wanted_by=0, now=NAME_CONFLICT_PATIENCE_S)
    assert str(door.failures[0]) == IN_USE.detail


def test_one_that_means_harm_ends_nobody_whom_others_want(door: Door) -> None:
    for second in range(60):
        door.rejected(IN_USE, "mallory", wanted_by=1, now=second)
    assert not door.failures


def test_other_reasons_say_nothing_of_the_name(door: Door) -> None:
    for second in range(60):
        door.rejected(Reject(RejectReason.CLOSING, "bye"), "bob", wanted_by=0, now=second)
    assert not door.failures
