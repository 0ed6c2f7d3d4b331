"""Partitions as programs see them: who was lost together, who came back, and which side is small.

    Up, Down, Suspected, Cleared --> Partitions --> MembersLost, SidesMerged
                                                --> is this side a minority, and of how many?

**A loss** is members that went down together.  The group stays open for a second after the last of
them, and while anybody is suspected, so that one cut is one event.  Who left, or was replaced by a
later life, is not lost: it said so itself.  Nor is one who went down alone without having been
silent: its host refused a dial, of ours or of whoever says so, and its process is gone and on no
other side.  Several at a time are lost even so, because a firewall that rejects answers just like
hosts whose processes have died; and one that fell silent may be alive elsewhere, alone or not.
Where somebody else's verdict has no reason with it, the time tells: a verdict on silence takes
`suspicion_s` from the first word of suspicion, and a refusal comes with it or soon after.  A node
that was itself late cannot tell, and takes it for silence.

**A minority** is fewer than half of those who were members before the first loss and are here now
or still lost; of two exact halves, the one without the lowest name.  So at most one side is none,
as with Akka's "keep-majority" (Split Brain Resolver), whose tie rule this is.  Counted are names: a
lost node that is started anew is here.  Who came after the loss does not count until nobody is
missing any more, also as in Akka: either side could start itself a majority.  Unlike there, the
lost go on counting until they are back, leave, are replaced or are forgotten (`forget_s`); two
losses in a row do not make half of a half a majority.

A size given by configuration was refused as the measure (Hazelcast's split-brain protection,
etcd's fixed membership): it is safe however nodes come and go, and wrong the day after somebody
adds two.  Waiting for agreement within a side was refused too: there is nobody to agree with when
one is alone, and membership has agreed already.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from steinadler.config import MembershipSettings
from steinadler.identity import NodeId
from steinadler.membership.events import (
    REFUSED,
    SILENT,
    Blocked,
    Cleared,
    Down,
    Effect,
    Suspected,
    Up,
)
from steinadler.membership.members import Member, MemberState
from steinadler.membership.swim import Swim

# One cut is noticed over up to some 1.2 s, without gaps of this size (2 to 20 members).
QUIET_S = 1.0
# A member that is suspected again and again does not keep what is known from being told.
LONGEST_S = 10.0


@dataclass(frozen=True, slots=True)
class MembersLost:
    """These members went down together: cut off, or dead, which cannot be told from here.

    Comes within about a second after the last `NodeDown` of them (10 s at most after the first).
    `minority`: this node's side is the smaller one.  It may become that because somebody leaves,
    or dies for certain, while others are lost: then nobody (more) is lost, and `members` is empty.
    """

    members: tuple[Member, ...]
    minority: bool


@dataclass(frozen=True, slots=True)
class SidesMerged:
    """These members, which were lost, are back in the same lives.

    Comes with the last `NodeUp` when nobody is missing any more, else a second after it.
    `minority`: this node's side is still the smaller one, because others are missing.  It may also
    cease to be that because one of the lost is started anew, leaves or is forgotten: then nobody
    (more) is back, and `members` is empty.
    """

    members: tuple[Member, ...]
    minority: bool


class Partitions:
    """Groups what one engine says of members into losses and merges, by its clock.

    Hand in all effects with `handle`, and call `tick` at `next_deadline()`.
    """

    def __init__(self, engine: Swim, settings: MembershipSettings) -> None:
        self._engine = engine
        self._silence_s = settings.suspicion_s / 2
        # The names that count, while somebody is missing; otherwise everybody's would.
        self._voters: frozenset[str] | None = None
        self._suspects: dict[NodeId, float] = {}  # and since when
        self._late_at = -math.inf
        # What was last told of it, and whether it is otherwise now for another reason than those
        # that are told in their time.
        self._minority = self._tipped = False
        # Who went down since the last loss was told, and whether it had fallen silent.
        self._going: dict[NodeId, bool] = {}
        self._lost: set[NodeId] = set()
        self._back: dict[NodeId, Member] = {}
        self._began = self._last_down = self._last_up = -math.inf

    def __str__(self) -> str:
        """How many of how many are here, for people."""
        here, missing = self._count()
        return f"{len(here)} of {len(here) + len(missing)} members are here"

    @property
    def lost(self) -> int:
        """How many members are lost."""
        self._review()
        return len(self._lost)

    @property
    def in_minority(self) -> bool:
        """Whether this side is the smaller one; never before a loss was told."""
        self._review()
        if not self._lost:
            return False
        here, missing = self._count()
        if len(here) == len(missing):
            return min(here | missing) in missing
        return len(here) < len(missing)

    def next_deadline(self) -> float:
        """When `tick` has something to tell, unless more happens before."""
        return -math.inf if self._tipped else min(self._loss_due(), self._merge_due())

    def handle(self, effects: Iterable[Effect], now: float) -> None:
        """Take in what the engine said, in one go."""
        somebody_moved = False
        for effect in effects:
            match effect:
                case Suspected(member):
                    self._suspects.setdefault(member.node, now)
                case Cleared(member):
                    self._suspects.pop(member.node, None)
                case Up(member):
                    self._came(member, now)
                    somebody_moved = True
                case Down(member, reason):
                    self._went(member, reason, now)
                    somebody_moved = True
                case Blocked():
                    self._late_at = now
                case _:
                    pass  # not about who is there
        if self._going and self._voters is None:
            members = (member.node.name for member in self._engine.members())
            self._voters = frozenset((*members, *(node.name for node in self._going)))
        if somebody_moved or self._minority:  # whoever is forgotten does not say so
            self._weigh()

    def tick(self, now: float) -> list[MembersLost | SidesMerged]:
        """What is to be told by now."""
        events: list[MembersLost | SidesMerged] = []
        if self._merge_due() <= now:
            back = _by_name(self._back.values())
            self._back.clear()
            events.append(SidesMerged(back, self.in_minority))
        if self._loss_due() <= now:
            died = len(self._going) == 1 and not any(self._going.values())
            gone = [] if died else [node for node in self._going if self._may_return(node)]
            self._going.clear()
            self._lost.update(gone)
            if gone:
                records = filter(None, (self._engine.find(node.name) for node in gone))
                events.append(MembersLost(_by_name(records), self.in_minority))
            self._review()
        if events:
            self._minority = self.in_minority
        self._weigh()
        if self._tipped:
            self._minority, self._tipped = not self._minority, False
            events.append(MembersLost((), True) if self._minority else SidesMerged((), False))
        return events

    def _came(self, member: Member, now: float) -> None:
        node = member.node
        self._going.pop(node, None)  # it was away for a moment only
        if node in self._lost:
            self._lost.discard(node)
            self._back[node] = member
            self._last_up = now
        self._review()

    def _went(self, member: Member, reason: str, now: float) -> None:
        node = member.node
        silent_s = now - self._suspects.pop(node, now)
        was_late = now - self._late_at < 2 * self._silence_s  # and heard both at once, perhaps
        silent = reason == SILENT or (
            reason != REFUSED and (was_late or silent_s >= self._silence_s)
        )
        was_back = self._back.pop(node, None) is not None  # which nobody was told
        if member.state is not MemberState.DOWN:
            return  # it left, or a later life has its place
        self._review()
        if was_back:
            self._lost.add(node)
            return
        if not self._going:
            self._began = now
        self._going[node] = silent
        self._last_down = now

    def _weigh(self) -> None:
        """Is this side the smaller one, or no more, and no loss or merge is about to say so?"""
        about_to_tell = bool(self._going or self._back)
        self._tipped = not about_to_tell and self.in_minority is not self._minority

    def _loss_due(self) -> float:
        if not self._going:
            return math.inf
        longest = self._began + LONGEST_S
        return longest if self._suspects else min(self._last_down + QUIET_S, longest)

    def _merge_due(self) -> float:
        if not self._back:
            return math.inf
        return self._last_up + QUIET_S if self._lost else self._last_up

    def _review(self) -> None:
        """Whoever left, was replaced or is forgotten is missing no more."""
        if self._lost:
            self._lost = set(filter(self._may_return, self._lost))
        if not (self._lost or self._going or self._back):
            self._voters = None

    def _count(self) -> tuple[set[str], set[str]]:
        """The names that count and are here, and those that are missing."""
        voters = self._voters or frozenset[str]()
        here = set(filter(self._is_member, voters))
        missing = {node.name for node in (*self._lost, *self._going) if self._may_return(node)}
        return here, (missing & voters) - here

    def _is_member(self, name: str) -> bool:
        record = self._engine.find(name)
        return record is not None and record.state.is_member

    def _may_return(self, node: NodeId) -> bool:
        """Also of one that is up again, which its `Up`, later in the same effects, will tell."""
        record = self._engine.find(node.name)
        return record is not None and record.node == node and record.state is not MemberState.LEFT


def _by_name(members: Iterable[Member]) -> tuple[Member, ...]:
    return tuple(sorted(members, key=lambda member: member.node.name))
