"""A connection that brings nothing, of a member that others hear: S2 and M3."""

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
    PathLost,
    Received,
    Send,
    Suspected,
    Swim,
)
from steinadler.membership.messages import Ack, Ping, PingRequest

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
