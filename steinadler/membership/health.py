"""Local health: how far this node may trust its own silence-hearing (Lifeguard, section IV-A).

A detector cannot tell a silent peer from its own deafness.  What tells them apart is evidence
about this node itself, and all of it comes here:

    what happened                                             score
    a probe failed, and so many of those asked did not nack   + that many (1 if nobody was asked)
    others suspected this node, and it had to refute          + 1
    it ran so late, in whole `direct_timeout_s`               + that many
    `probe_interval_s` without any of these                   - 1

The score, 0 to 7, is used in two ways, for what is still to be timed and for what is being timed.
Probes made from now on wait (score + 1) times as long before others are asked, and rounds are so
many times as far apart: that is Lifeguard's multiplier.  And what was being timed while this node
did not run is moved by the time that it lost, and as much again, one direct timeout at the most,
to read what arrived meanwhile: answers may be waiting in the sockets, and a verdict must not
overtake them (promise S2).

Waiting for the score alone to stretch what is pending was refused: it is a guess in whole steps
where the time lost is known, and it would delay the verdict on a dead member (S1) by seconds for
every hiccup.  Moving verdicts alone was refused: a node that runs, but hears nothing, is never
late.

memberlist lowers the score with each probe that is answered.  Here four may be answered in one
round, so that a node which is starved between rounds would never look ill; and the worse it is,
the rarer its rounds, so that a node alone with two others would need 9 s to recover from one long
stall, and its confirmation of a death would be that late (S1).  By time it needs 2 s.
"""

from __future__ import annotations

from dataclasses import dataclass

from steinadler.config import MembershipSettings

# The highest score: probes then take and rest eight times as long (memberlist's default).
MAX_SCORE = 7
# Later than this was not jitter: the process was stopped or starved, or its loop was blocked.
JITTER_S = 0.05


@dataclass(frozen=True, slots=True)
class Health:
    """How well a node itself runs.

    `score`: 0 when nothing speaks against it, 7 at the worst; its probes are now (score + 1) times
    as patient.  Since it opened: it was `blocked` so often, each time for at least
    `direct_timeout_s`, `blocked_s` seconds in all and `longest_block_s` at once.
    """

    score: int
    blocked: int
    blocked_s: float
    longest_block_s: float


class LocalHealth:
    """The score of one node, and what follows from it."""

    def __init__(self, settings: MembershipSettings) -> None:
        self._settings = settings
        self._score = 0
        self._well = True  # since the last interval began
        self._blocked = 0
        self._blocked_s = self._longest_block_s = 0.0

    @property
    def score(self) -> int:
        """0 to 7."""
        return self._score

    def report(self) -> Health:
        """For people."""
        return Health(self._score, self._blocked, self._blocked_s, self._longest_block_s)

    def scaled(self, seconds: float) -> float:
        """So long for a healthy node is how long for this one."""
        return seconds * (self._score + 1)

    def probe_failed(self, asked: int, nacked: int) -> None:
        """One answered neither us nor those `asked`, of whom so many said that they are there."""
        self._worsen(asked - nacked if asked else 1)

    def accused(self) -> None:
        """Others held this node for silent."""
        self._worsen(1)

    def interval_passed(self) -> None:
        """If nothing was wrong for a whole `probe_interval_s`, some trust is regained."""
        if self._well:
            self._score = max(0, self._score - 1)
        self._well = True

    def ran_late(self, late_s: float) -> float:
        """The engine was called `late_s` late; by how much every pending verdict falls later.

        0 for jitter, 0.05 s.  The part of it that is for reading is no larger than the time lost,
        so that a node which is always late still reaches its verdicts.
        """
        if late_s <= JITTER_S or not self._settings.local_health:
            return 0.0
        if self.is_blocked(late_s):
            self._blocked += 1
            self._blocked_s += late_s
            self._longest_block_s = max(self._longest_block_s, late_s)
        self._worsen(int(late_s / self._settings.direct_timeout_s))
        return late_s + min(late_s, self._settings.direct_timeout_s)

    def is_blocked(self, late_s: float) -> bool:
        """Whether others notice it: their probes went unanswered for that long."""
        return late_s >= self._settings.direct_timeout_s

    def _worsen(self, by: int) -> None:
        if self._settings.local_health and by > 0:
            self._score = min(MAX_SCORE, self._score + by)
            self._well = False
