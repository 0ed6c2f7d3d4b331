"""A connection that brings nothing, of a member that others hear: S2 and M3."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from steinadler.config import MembershipSettings
from steinadler.identity import Address, NodeId
from steinadler.membership import (
    Connected,
    Disconnected,
    Effect,
    Member,
    MemberState,
    PathLost,
    Received,
    Send,
    Suspected,
    Swim,
)
from steinadler.membership.messages import Ack, Gossip, Ping, PingRequest

SETTINGS = MembershipSettings()
START = 50.0
ME, BOB, CAROL = (
    Member(NodeId(name, 10), (Address(name, 4370),)) for name in ("me", "bob", "carol")
)


class Path:
    """An engine beside bob, who answers only by way of carol; `events` is what it asks for."""

    def __init__(self) -> None:
        self.now = START
        self.events: list[tuple[float, Effect]] = []
        self.answers_directly = False
        self.speaks_at: list[float] = []  # of its own accord, over the connection
        self.swim = Swim(ME, SETTINGS, random.Random(1))
        self._take(self.swim.tick(START))
        for member in (BOB, CAROL):
            self._take(self.swim.handle(Connected(member), START))

    def run(self, seconds: float) -> None:
        end = self.now + seconds
        while (due := min([self.swim.next_deadline(), *self.speaks_at])) <= end:
            self.now = max(self.now, due)
            if due in self.speaks_at:
                self.speaks_at.remove(due)
                self._hear(Received(BOB.node, Ping(999)))
            self._take(self.swim.tick(self.now))
        self.now = end

    def lost(self) -> list[float]:
        return [at - START for at, event in self.events if event == PathLost(BOB.node)]

    def _hear(self, event: Received) -> None:
        self._take(self.swim.handle(event, self.now))

    def _take(self, effects: list[Effect]) -> None:
        for effect in effects:
            match effect:
                case Send(to, Ping(sequence)) if to != BOB.node or self.answers_directly:
                    self._hear(Received(to, Ack(sequence)))
                case Send(to, PingRequest(sequence)) if to == CAROL.node:
                    self._hear(Received(to, Ack(sequence)))
                case Send():
                    pass
                case _:
                    self.events.append((self.now, effect))


def test_two_probes_that_only_others_have_an_answer_to_give_the_path_up() -> None:
    path = Path()
    path.run(2)
    # The first comes within two rounds, the second at once; each is answered by carol after 0.3 s.
    assert path.lost()[0] <= 2 * SETTINGS.probe_interval_s + 2 * SETTINGS.direct_timeout_s + 0.01
    assert not any(isinstance(event, Suspected) for _, event in path.events)


def test_it_is_said_again_for_the_next_connection_and_not_without_one() -> None:
    path = Path()
    path.run(2)
    said = len(path.lost())
    path.swim.handle(Disconnected(BOB.node, False), path.now)
    path.run(3)
    assert len(path.lost()) == said
    path.swim.handle(Connected(BOB), path.now)
    path.run(3)
    assert len(path.lost()) > said


@pytest.mark.parametrize("spoke_after_s", [0.4, 0.6, 0.8])
def test_whatever_comes_directly_starts_the_count_anew(spoke_after_s: float) -> None:
    quiet, spoken = Path(), Path()
    for path in (quiet, spoken):
        path.run(0.35)
    spoken.speaks_at = [START + 0.35 + spoke_after_s * n for n in range(1, 12)]
    quiet.run(8 * spoke_after_s)
    spoken.run(8 * spoke_after_s)
    assert quiet.lost()
    assert len(spoken.lost()) < len(quiet.lost())


def test_a_path_that_answers_is_kept() -> None:
    path = Path()
    path.answers_directly = True
    path.run(10)
    assert path.lost() == []


# -- who is asked, and who is told ----------------------------------------------------------------

OTHERS = [Member(NodeId(f"n{n}", 10), (Address(f"n{n}", 4370),)) for n in range(12)]


class Beside:
    """An engine connected to many, of whom `silent` do not answer it."""

    def __init__(self, *silent: Member) -> None:
        self.now = START
        self.silent = [member.node for member in silent]
        self.sent: list[Send] = []
        self.swim = Swim(ME, SETTINGS, random.Random(1))
        self._take(self.swim.tick(START))
        for member in OTHERS:
            self._take(self.swim.handle(Connected(member), START))

    def run(self, seconds: float) -> None:
        end = self.now + seconds
        while self.swim.next_deadline() <= end:
            self.now = self.swim.next_deadline()
            self._take(self.swim.tick(self.now))
        self.now = end

    def hear(self, event: Received | Disconnected) -> None:
        self._take(self.swim.handle(event, self.now))

    def asked(self, about: Member) -> dict[NodeId, int]:
        """Whom it asks about a member whose connection breaks, and with which sequence."""
        self.sent.clear()
        self.hear(Disconnected(about.node, False))
        return {
            send.to: send.message.sequence
            for send in self.sent
            if isinstance(send.message, PingRequest) and send.message.target == about.node
        }

    def _take(self, effects: list[Effect]) -> None:
        for effect in effects:
            if not isinstance(effect, Send):
                continue
            self.sent.append(effect)
            match effect:
                case Send(to, Ping(sequence)) if to not in self.silent:
                    self.hear(Received(to, Ack(sequence)))


def test_whoever_had_the_answer_is_asked_first_also_about_others_s2() -> None:
    """A node may hang on one other alone, and three drawn from many would seldom be that one."""
    bob, eve, mallory, *_ = OTHERS
    beside = Beside(bob, eve, mallory)
    gateway, sequence = beside.asked(bob).popitem()
    beside.hear(Received(gateway, Ack(sequence)))
    assert gateway in beside.asked(eve)
    assert gateway in beside.asked(mallory)
    for member in (bob, eve):
        beside.swim.handle(Connected(member), beside.now)
    assert not all(gateway in beside.asked(other) for other in OTHERS[3:]), "bob is heard again"


def test_an_accusation_is_repeated_while_nobody_refutes_it() -> None:
    """Those who were told first may all be out of reach, and then the accused would never hear."""
    bob = OTHERS[0]
    beside = Beside(bob)
    beside.run(5)
    told = [
        send.to
        for send in beside.sent
        for record in getattr(send.message, "updates", ())
        if record.node == bob.node and record.state is MemberState.SUSPECT
    ]
    # Once it would be eight messages among thirteen members, beside those to the accused.
    assert sum(to != bob.node for to in told) > 12


def test_a_refutation_that_only_others_heard_is_a_way_around_too() -> None:
    """And another probe of the accused follows at once."""
    bob, carol, *_ = OTHERS
    beside = Beside(bob)
    while beside.swim.find(bob.node.name).state is not MemberState.SUSPECT:  # type: ignore[union-attr]
        beside.run(SETTINGS.probe_interval_s)
    beside.sent.clear()
    beside.hear(Received(carol.node, Gossip((replace(bob, refutation=1),))))
    assert [type(send.message) for send in beside.sent if send.to == bob.node] == [Ping]
