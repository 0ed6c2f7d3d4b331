"""What a history of nodes says about lives, views, processes and claims, ready to be asked.

Times are compared with their ends included, because what happens at one moment is written down in
no particular order: where a rule excuses something, that moment excuses too; where it demands
something, that moment does not count.

This file imports nothing of the library.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from cluster_events import (
    Claim,
    Closing,
    Down,
    End,
    Ended,
    Event,
    Granted,
    Healed,
    Refused,
    Released,
    Spawned,
    Start,
    Told,
    Up,
    View,
    life_of,
    name_of,
)
from histories import Fault, Malformed

# What a rule finds: its name, and what is wrong.
Found: TypeAlias = Iterator[tuple[str, str]]

# What a process is told that lost a name of the cluster.
LOST = "NameConflict: the name '{}' belongs to "


@dataclass(slots=True)
class Span:
    """From when to when something was so; for ever, unless it ended."""

    begin: float
    end: float = math.inf

    def touches(self, begin: float, end: float) -> bool:
        return self.begin <= end and begin <= self.end

    def covers(self, begin: float, end: float) -> bool:
        return self.begin <= begin and end < self.end


@dataclass(slots=True)
class Holding:
    """A claim to a name: asked for, granted or refused, and held until it was given back, lost,
    or over with its process.  `lost` is the moment in which the process was told."""

    claim: Claim
    granted: float | None = None
    refused: Refused | None = None
    until: float = math.inf
    lost: float | None = None


@dataclass(slots=True)
class Facts:
    """Made by `facts_of`."""

    events: Sequence[Event]
    lives: dict[str, Span] = field(default_factory=dict)  # until it was killed, or told to close
    over: dict[str, float] = field(default_factory=dict)
    processes: dict[str, Spawned] = field(default_factory=dict)
    ended: dict[str, Ended] = field(default_factory=dict)
    holdings: dict[str, Holding] = field(default_factory=dict)  # by operation
    told: list[tuple[Told | Ended, bool]] = field(default_factory=list)  # and had it the name?
    faults: list[Span] = field(default_factory=list)
    views: dict[tuple[int, str], View] = field(default_factory=dict)
    healed: float = math.inf
    settled: float = math.inf  # when the first node was asked what it believes
    _seen: dict[tuple[str, str], list[Span]] = field(default_factory=lambda: defaultdict(list))
    _others: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    _changes: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))

    def running(self, life: str) -> bool:
        """Whether the life goes on to the end of the history."""
        return life in self.lives and self.lives[life].end == math.inf

    def alive(self, process: str) -> bool:
        """Whether the process lived until the nodes were asked."""
        ended = self.ended.get(process)
        return self.running(life_of(process)) and (ended is None or ended.at >= self.settled)

    def end_of(self, process: str) -> float:
        """When it was over, by itself or with its node."""
        ended = self.ended.get(process)
        node = self.lives.get(life_of(process), Span(0, 0)).end
        return min(node, ended.at if ended is not None else math.inf)

    def spans(self, node: str, member: str) -> list[Span]:
        """When `node` held `member` for a member; itself as long as it lived."""
        if node == member:
            return [Span(self.lives[node].begin)]
        return self._seen[node, member]

    def holds(self, node: str, member: str, at: float) -> bool:
        return any(span.touches(at, at) for span in self.spans(node, member))

    def holds_throughout(self, node: str, member: str, begin: float, end: float) -> bool:
        return any(span.covers(begin, end) for span in self.spans(node, member))

    def both_hold(self, one: str, other: str, begin: float, end: float) -> bool:
        return self.holds_throughout(one, other, begin, end) and self.holds_throughout(
            other, one, begin, end
        )

    def lost_at(self, node: str, member: str) -> list[float]:
        """When `node` reported `member` down."""
        return [span.end for span in self.spans(node, member) if span.end < math.inf]

    def lost_sight(self, node: str, member: str, begin: float, end: float) -> bool:
        """Whether `node` reported `member` down then, or did not hold it to begin with: it may
        report it up in the same moment, and a little later."""
        return not any(span.begin < begin <= span.end for span in self.spans(node, member)) or any(
            begin <= at <= end for at in self.lost_at(node, member)
        )

    def lives_seen(self, node: str, name: str, at: float) -> list[str]:
        """Which lives of that name `node` held for a member."""
        known = {*self._others[node], node}
        return [m for m in sorted(known) if name_of(m) == name and self.holds(node, m, at)]

    def view_unchanged(self, node: str, begin: float, end: float) -> frozenset[str] | None:
        """Whom `node` held for members, this whole time; None when that changed."""
        if any(begin <= at <= end for at in self._changes[node]):
            return None
        known = {*self._others[node], node}
        return frozenset(m for m in known if self.holds(node, m, begin))


def facts_of(events: Sequence[Event]) -> Facts:
    """Read a history.  Raises `Malformed` when it does not fit together."""
    facts = Facts(sorted(events, key=lambda event: event.at))
    open_faults: dict[str, list[Span]] = defaultdict(list)
    granted: dict[tuple[str, str], list[Holding]] = defaultdict(list)
    for event in facts.events:
        match event:
            case Start(_, at, node):
                facts.lives[node] = Span(at)
            case Closing(_, at, node) | End(_, at, node):
                _known(node in facts.lives, event, node)
                facts.lives[node].end = min(facts.lives[node].end, at)
                if isinstance(event, End):
                    facts.over[node] = at
            case Up(_, at, node, member):
                facts._seen[node, member].append(Span(at))
                facts._others[node].add(member)
                facts._changes[node].append(at)
            case Down(_, at, node, member, _):
                spans = facts._seen[node, member]
                _known(bool(spans) and spans[-1].end == math.inf, event, member)
                spans[-1].end = at
                facts._changes[node].append(at)
            case Spawned():
                facts.processes[event.process] = event
            case Ended(_, _, process, _):
                _known(process in facts.processes, event, process)
                facts.ended[process] = event
            case Claim(_, _, process, op, _):
                _known(process in facts.processes, event, process)
                facts.holdings[op] = Holding(event)
            case Granted(_, at, op):
                _known(op in facts.holdings, event, op)
                holding = facts.holdings[op]
                holding.granted = at
                granted[holding.claim.process, holding.claim.name].append(holding)
            case Refused(_, _, op, _):
                _known(op in facts.holdings, event, op)
                facts.holdings[op].refused = event
            case Released(_, at, process, name):
                _known(bool(granted[process, name]), event, name)
                for holding in granted.pop((process, name)):
                    holding.until = at
            case Fault(_, at, kind, target):
                if kind == "heal":
                    _known(bool(open_faults[target]), event, target)
                    open_faults[target].pop().end = at
                else:
                    span = Span(at)
                    facts.faults.append(span)
                    open_faults[f"{kind} {target}"].append(span)
            case Healed(_, at):
                facts.healed = at
            case View(_, at, node, phase):
                facts.views[phase, node] = event
                facts.settled = min(facts.settled, at)
            case _:
                pass
    _losses(facts)
    return facts


def _losses(facts: Facts) -> None:
    """End each claim with its process, and where its process was told that it lost."""
    of_process: dict[str, list[Holding]] = defaultdict(list)
    for holding in facts.holdings.values():
        of_process[holding.claim.process].append(holding)
        holding.until = min(holding.until, facts.end_of(holding.claim.process))
    for event in facts.events:
        if isinstance(event, (Told, Ended)) and event.reason.startswith(LOST.partition(" ")[0]):
            lost = [
                holding
                for holding in of_process[event.process]
                if event.reason.startswith(LOST.format(holding.claim.name))
                and holding.granted is not None
                and holding.granted <= event.at <= holding.until
                and holding.lost is None
            ]
            facts.told.append((event, bool(lost)))
            for holding in lost:  # several, when it had asked for what it had
                holding.lost = holding.until = event.at


def _known(known: bool, event: Event, what: str) -> None:
    if not known:
        raise Malformed(f"{event.where}: nothing was said about {what} before")
