"""Losses and merges as one engine's effects tell of them, and which side is small: no I/O."""

from __future__ import annotations

import random
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steinadler.config import MembershipSettings
from steinadler.identity import NodeId
from steinadler.membership import (
    Blocked,
    Connected,
    Member,
    MembersLost,
    MemberState,
    Partitions,
    Received,
    SidesMerged,
    Swim,
)
from steinadler.membership.messages import Gossip
from steinadler.membership.partition import LONGEST_S, QUIET_S

ALIVE, SUSPECT, DOWN, LEFT = MemberState
# Forgets before the friend, who answers no probes, could be condemned.
SETTINGS = MembershipSettings(forget_s=1.5, sync_interval_s=0.5)


class World:
    """The engine of `me`, fed with records by a friend who is never lost."""

    def __init__(self, me: str, *others: str, observer: bool = False) -> None:
        self.now = 100.0
        self.told: list[MembersLost | SidesMerged] = []
        self.engine = Swim(Member(NodeId(me, 1)), SETTINGS, random.Random(1), observer=observer)
        self.partitions = Partitions(self.engine, SETTINGS)
        self.lives = dict.fromkeys(others, 1)
        self.words = dict.fromkeys(others, 0)
        friend = self.friend = NodeId(others[0], 1)
        effects = self.engine.handle(Connected(Member(friend)), self.now)
        self.partitions.handle(effects, self.now)
        self.hear(ALIVE, *others[1:])

    def hear(self, state: MemberState, *names: str) -> None:
        """Hear, in one message, that these are in that state; what is alive again says so."""
        records = []
        for name in names:
            if state is ALIVE:
                self.words[name] = self.words.get(name, 0) + 1
            node = NodeId(name, self.lives.setdefault(name, 1))
            records.append(Member(node, state=state, refutation=self.words[name]))
        effects = self.engine.handle(Received(self.friend, Gossip(tuple(records))), self.now)
        # Nobody ticks this engine, so it holds itself for late.
        heard = [effect for effect in effects if not isinstance(effect, Blocked)]
        self.partitions.handle(heard, self.now)

    def restart(self, name: str) -> None:
        self.lives[name] += 1
        self.hear(ALIVE, name)

    def forget(self) -> None:
        """Wait until the engine has forgotten who is down."""
        end = self.now + SETTINGS.forget_s + SETTINGS.sync_interval_s
        while self.now <= end:
            effects = self.engine.tick(self.now)
            self.partitions.handle([e for e in effects if not isinstance(e, Blocked)], self.now)
            self.now = max(self.now, self.engine.next_deadline())
        assert self.engine.find("c") is None

    def falls_silent(self, *names: str) -> None:
        self.hear(SUSPECT, *names)
        self.now += SETTINGS.suspicion_s
        self.hear(DOWN, *names)

    def wait(self, seconds: float) -> None:
        """Tick whenever it is due, for so long."""
        end = self.now + seconds
        while (due := self.partitions.next_deadline()) <= end:
            self.now = max(due, self.now)
            events = self.partitions.tick(self.now)
            assert events, "it was due, and had nothing to tell"
            self.told += events
        self.now = end

    def take(self) -> list[tuple[str, str, bool]]:
        told, self.told = self.told, []
        return [(type(event).__name__, names(event.members), event.minority) for event in told]


def names(members: Iterable[Member]) -> str:
    return " ".join(member.node.name for member in members)


def test_those_who_go_within_a_second_of_each_other_are_one_loss() -> None:
    world = World("b", "a", "c", "d", "e")
    world.falls_silent("e")
    world.wait(QUIET_S * 0.9)
    world.falls_silent("d")
    world.wait(QUIET_S * 0.9)
    assert world.take() == []
    world.wait(QUIET_S)
    assert world.take() == [("MembersLost", "d e", False)]
    world.falls_silent("c")
    world.wait(QUIET_S)
    assert world.take() == [("MembersLost", "c", True)]
    assert world.partitions.lost == 3


def test_a_loss_waits_for_the_verdict_on_suspects_but_not_for_ever() -> None:
    world = World("b", "a", "c", "d", "e")
    world.hear(SUSPECT, "c", "d", "e")
    world.hear(DOWN, "c")
    world.wait(3)
    world.hear(DOWN, "d")
    assert world.take() == []
    world.hear(ALIVE, "e")
    world.wait(QUIET_S)
    assert world.take() == [("MembersLost", "c d", False)]

    world = World("b", "a", "c", "d", "e")
    world.hear(SUSPECT, "e")
    world.hear(DOWN, "d", "c")
    world.wait(LONGEST_S)
    assert world.take() == [("MembersLost", "c d", False)]


def test_a_process_that_died_alone_is_no_loss_and_several_at_once_are() -> None:
    """A refused dial condemns without a suspicion before."""
    world = World("b", "a", "c", "d", "e")
    for name in "edc":  # one after the other
        world.hear(DOWN, name)
        world.partitions.tick(world.now + QUIET_S)
        world.now += QUIET_S
    assert world.told == []
    assert (world.partitions.lost, world.partitions.in_minority) == (0, False)

    world = World("b", "a", "c", "d", "e")
    world.hear(DOWN, "c", "d", "e")
    world.wait(QUIET_S)
    assert world.take() == [("MembersLost", "c d e", True)]


def test_a_death_is_certain_also_where_a_word_of_suspicion_came_first() -> None:
    """Whoever was refused had suspected it since the connection broke, milliseconds ago."""
    world = World("b", "a", "c", "d", "e")
    world.hear(SUSPECT, "c")
    world.now += 0.1
    world.hear(DOWN, "c")
    assert world.partitions.tick(world.now + QUIET_S) == []
    assert world.partitions.lost == 0


def test_who_was_late_himself_takes_a_verdict_for_one_on_silence() -> None:
    """He may have read at once what was said with seconds between."""
    world = World("b", "a", "c", "d", "e")
    world.now += 5
    world.partitions.handle([Blocked(1.5)], world.now)
    world.hear(SUSPECT, "c")
    world.hear(DOWN, "c")
    world.wait(QUIET_S)
    assert world.take() == [("MembersLost", "c", False)]


@pytest.mark.parametrize("how", [DOWN, LEFT])
def test_a_side_that_shrinks_to_a_minority_is_told_so(how: MemberState) -> None:
    """Nobody more is lost by it."""
    world = World("d", "c", "a", "b", "e")
    world.falls_silent("a", "b")
    world.wait(QUIET_S)
    assert world.take() == [("MembersLost", "a b", False)]
    world.hear(how, "e")
    world.wait(QUIET_S)
    assert world.take() == [("MembersLost", "", True)]
    assert world.partitions.lost == 2
    world.wait(5)
    world.hear(ALIVE, "a", "b")
    world.wait(5)
    assert world.take() == [("SidesMerged", "a b", False)]


def test_a_silent_one_is_lost_also_alone() -> None:
    world = World("b", "a", "c")
    world.falls_silent("c")
    world.wait(QUIET_S)
    assert world.take() == [("MembersLost", "c", False)]


def test_who_leaves_or_is_replaced_is_not_lost() -> None:
    world = World("b", "a", "c", "d")
    world.hear(SUSPECT, "c", "d")
    world.hear(LEFT, "c")
    world.restart("d")
    assert world.partitions.next_deadline() == float("inf")


def test_who_was_down_for_less_than_a_second_is_not_told_of() -> None:
    world = World("b", "a", "c", "d")
    world.falls_silent("c", "d")
    world.wait(QUIET_S / 2)
    world.hear(ALIVE, "c", "d")
    world.wait(2 * QUIET_S)
    assert world.take() == []


def test_those_who_return_in_one_message_are_one_merge() -> None:
    world = World("b", "a", "c", "d", "e")
    world.falls_silent("c", "d", "e")
    world.wait(QUIET_S)
    world.take()
    world.hear(ALIVE, "c", "d", "e")
    world.wait(0)
    assert world.take() == [("SidesMerged", "c d e", False)]


def test_a_loss_after_one_that_is_forgotten_begins_anew() -> None:
    world = World("a", "b", "c", "d", "e")
    world.falls_silent("c", "d", "e")
    world.wait(QUIET_S)
    world.forget()
    world.take()
    world.hear(ALIVE, "x")
    world.falls_silent("x")
    world.wait(QUIET_S)
    assert world.take() == [("MembersLost", "x", False)]
    assert str(world.partitions) == "2 of 3 members are here"


def test_those_who_return_are_one_merge_which_is_told_at_once_when_it_is_the_last() -> None:
    world = World("b", "a", "c", "d", "e")
    world.falls_silent("c", "d", "e")
    world.wait(QUIET_S)
    assert world.take() == [("MembersLost", "c d e", True)]
    world.hear(ALIVE, "d")
    world.wait(QUIET_S * 0.9)
    assert world.take() == []
    world.wait(QUIET_S * 0.2)
    assert world.take() == [("SidesMerged", "d", False)], "three of five are here"
    world.hear(ALIVE, "c")
    world.hear(ALIVE, "e")
    world.wait(0)
    assert world.take() == [("SidesMerged", "c e", False)]
    assert world.partitions.lost == 0


@pytest.mark.parametrize("how", ["left", "restarted"])
def test_one_that_returns_and_is_gone_for_good_at_once_is_in_no_merge(how: str) -> None:
    world = World("b", "a", "c", "d", "e", "f")
    world.falls_silent("d", "e", "f")
    world.wait(2)
    assert world.take() == [("MembersLost", "d e f", False)]
    world.hear(ALIVE, "d")
    world.wait(QUIET_S / 2)
    if how == "left":
        world.hear(LEFT, "d")
    else:
        world.restart("d")
    world.wait(5)
    assert world.take() == []
    world.hear(ALIVE, "e", "f")
    world.wait(5)
    assert world.take() == [("SidesMerged", "e f", False)]


def test_one_that_returns_and_is_lost_again_at_once_was_never_back() -> None:
    world = World("b", "a", "c", "d", "e")
    world.falls_silent("c", "d")
    world.wait(QUIET_S)
    world.take()
    world.hear(ALIVE, "c")
    world.hear(DOWN, "c")
    world.wait(QUIET_S)
    assert world.take() == []
    assert world.partitions.lost == 2


def test_a_minority_is_told_of_once() -> None:
    world = World("b", "a", "c", "d", "e")
    world.falls_silent("c", "d", "e")
    world.wait(QUIET_S)
    assert world.take() == [("MembersLost", "c d e", True)]
    world.hear(ALIVE, "c")
    world.hear(DOWN, "c")
    world.wait(5)
    assert world.take() == []
    assert world.partitions.in_minority


@pytest.mark.parametrize(
    ("me", "here", "lost", "minority"),
    [
        ("a", "b", "c d", False),  # halves: the lowest name is here
        ("b", "c", "a d", True),
        ("b", "", "a", True),
        ("a", "", "b", False),
        ("c", "d e", "a b", False),
        ("a", "b", "c d e", True),
        ("a", "", "b c d e", True),
    ],
)
def test_a_minority_is_fewer_than_half_or_half_without_the_lowest_name(
    me: str, here: str, lost: str, minority: bool
) -> None:
    world = World(me, *here.split(), *lost.split())
    world.falls_silent(*lost.split())
    world.wait(QUIET_S)
    assert world.take() == [("MembersLost", lost, minority)]
    assert world.partitions.in_minority is minority
    count = len(here.split()) + 1
    assert str(world.partitions) == f"{count} of {count + len(lost.split())} members are here"


def test_a_second_loss_counts_with_the_first() -> None:
    """Two of the three that are left of five are no majority of five."""
    world = World("a", "b", "c", "d", "e")
    world.falls_silent("d", "e")
    world.wait(QUIET_S)
    world.falls_silent("c")
    world.wait(QUIET_S)
    assert world.take() == [("MembersLost", "d e", False), ("MembersLost", "c", True)]


def test_a_side_does_not_start_itself_a_majority() -> None:
    world = World("a", "b", "c", "d", "e")
    world.falls_silent("c", "d", "e")
    world.wait(QUIET_S)
    world.hear(ALIVE, "x", "y", "z")
    assert world.partitions.in_minority
    world.hear(ALIVE, "c", "d", "e")
    world.wait(QUIET_S)
    world.take()
    world.falls_silent("c", "d", "e")
    world.wait(QUIET_S)
    assert world.take() == [("MembersLost", "c d e", False)], "now x, y and z count"


@pytest.mark.parametrize("how", ["restarted", "left", "forgotten"])
def test_who_is_started_anew_or_has_left_or_is_forgotten_is_missing_no_more(how: str) -> None:
    world = World("a", "b", "c", "d", "e")
    world.falls_silent("c", "d", "e")
    world.wait(QUIET_S)
    assert world.partitions.in_minority
    match how:
        case "restarted":
            world.restart("c")
            assert str(world.partitions) == "3 of 5 members are here"
        case "left":
            world.hear(LEFT, "c", "d")
            assert str(world.partitions) == "2 of 3 members are here"
        case "forgotten":
            world.forget()
    assert not world.partitions.in_minority
    world.wait(QUIET_S)
    assert world.take() == [("MembersLost", "c d e", True), ("SidesMerged", "", False)]


def test_an_observer_counts_whom_it_sees_and_not_itself() -> None:
    world = World("watcher", "a", "b", "c", observer=True)
    world.falls_silent("b", "c")
    world.wait(QUIET_S)
    assert world.take() == [("MembersLost", "b c", True)]
    assert str(world.partitions) == "1 of 3 members are here"


@given(st.lists(st.sampled_from("abcdefgh"), min_size=2, unique=True), st.data())
def test_at_most_one_side_is_no_minority(everyone: list[str], data: st.DataObject) -> None:
    """However a cluster falls apart, and into however many sides."""
    side_of = {name: data.draw(st.integers(0, 2)) for name in everyone}
    large = []
    for side in sorted(set(side_of.values())):
        here = [name for name in everyone if side_of[name] == side]
        lost = [name for name in everyone if side_of[name] != side]
        world = World("watcher", *here, *lost, observer=True)
        for part in range(3):
            cut = [name for name in lost if side_of[name] == part]
            if cut:
                world.falls_silent(*cut)
                world.wait(data.draw(st.sampled_from([0.0, 2.0])))
        world.wait(QUIET_S)
        if not world.partitions.in_minority:
            large.append(side)
    assert len(large) <= 1
