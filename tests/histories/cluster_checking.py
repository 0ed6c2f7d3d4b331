"""Decides from the record of a run of nodes alone whether the cluster kept its promises in it.

What is demanded, in the words of docs/promises.md; "the end" is when the nodes were asked, 10 s
after the last fault had ended.

**Agreement.**  Every node that is up counts exactly those that are up, in their present lives; for
each name it gives the one process that holds it, and for each group exactly the processes that
joined and did not leave, all of them alive.  A moment after their processes ended, names and groups
are empty everywhere.

**Names** (N2).  At most one process holds a name in the end, and whoever was granted a name, lives
and was told nothing, is that one.  A process is told once for each name it loses, and the winner
that its node names had asked before it was granted.  Nobody is refused a name that nobody else
wanted.  And two processes do not hold one name, the second granted after the first, if both nodes
held the same members from the first claim on (or from 10 s before the second) until the second was
granted, and all of these held both: then nothing stood between them.

**Monitors** (D1).  A monitor fires once at most, and never without a cause: "noconnection" because
the watcher's node reported the target's down, or did not count it as a member at all; "noproc"
because the process had ended; any other reason because it ended so.  It must have fired by the end
if there was a cause, and the watcher lived to see it and did not let go of it.  Where the watcher's
node was paused or cut off this demands nothing less: it either reports the other node down, and
then the monitor says so, or it does not, and then the monitor waits for the process.  Where the
watcher or its node ended nothing is demanded, but that what fired had a cause.

**Messages.**  From one process to another in order (M1) and once (M2).  All of them (M3), if both
nodes held each other for members from the sending to the end, and both processes live.  What is
for one life reaches no other, and what comes from a life is taken by nobody whose node has reported
that life down (D3).

**Calls.**  Each has one end (C1), with a cause for each error, and is carried out once at most
(C3); the answer is that of this call (C2), from a process that it was for (D3).
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from cluster_delivery_rules import calls, lost, messages, monitors
from cluster_events import Agreed, Down, Event, Failed, Fired, Healed, Joined, Left
from cluster_facts import Facts, Found, facts_of
from cluster_name_rules import KNOWN_WITHIN_S, holders, standing, two_winners
from histories import Fault


@dataclass(frozen=True, slots=True)
class Violation:
    """One rule that was broken, and the events that show it."""

    rule: str
    text: str

    def __str__(self) -> str:
        return f"{self.rule}: {self.text}"


def check(events: Sequence[Event]) -> list[Violation]:
    """Every violation.  Raises `Malformed` for what is no history."""
    facts = facts_of(events)
    return [
        Violation(rule, text)
        for rules in (views, downs, holders, two_winners, monitors, messages, lost, calls)
        for rule, text in rules(facts)
    ]


# -- what nodes believe in the end -----------------------------------------------------------------


def views(facts: Facts) -> Found:
    """Agreement: members, names and groups."""
    up = sorted(life for life in facts.lives if facts.running(life))
    groups = groups_of(facts)
    for phase in (1, 2):
        for life in up:
            view = facts.views.get((phase, life))
            if view is None:
                yield "S views", f"{life} was not asked in phase {phase}"
                continue
            if sorted(view.members) != up:
                missing, extra = {*up} - {*view.members}, {*view.members} - {*up}
                yield "S members", f"{view.where}: {life} lacks {missing} and has {extra}"
            names = dict(view.names)
            held = standing(facts) if phase == 1 else {}
            for name in names.keys() | held.keys():
                may = [holding.claim.process for holding in held.get(name, [])]
                if names.get(name) not in (may or [None]):
                    told = f"{life} says that {name} is {names.get(name)}'s, and it is {may}"
                    yield "N2 agreed", f"{view.where}: {told}"
            told_groups = {group: sorted(members) for group, members in view.groups}
            for group in told_groups.keys() | groups.keys():
                have, should = told_groups.get(group, []), groups[group] if phase == 1 else []
                if have != sorted(should):
                    lacks, extra = {*should} - {*have}, {*have} - {*should}
                    told = f"{life}'s {group} lacks {lacks} and has {extra}"
                    yield "N3 groups", f"{view.where}: {told}"


def downs(facts: Facts) -> Found:
    """S2: nobody is down for nothing."""
    for event in facts.events:
        if isinstance(event, Down) and facts.running(event.member):
            shaken = any(s.touches(event.at - KNOWN_WITHIN_S, event.at) for s in facts.faults)
            if not shaken:
                yield "S2 cause", f"{event.where}: {event.member} is down for {event.node}"


def groups_of(facts: Facts) -> defaultdict[str, list[str]]:
    """Who is in which group in the end."""
    groups: defaultdict[str, list[str]] = defaultdict(list)
    for event in facts.events:
        match event:
            case Joined(_, _, process, group) if facts.alive(process):
                if process not in groups[group]:
                    groups[group].append(process)
            case Left(_, _, process, group) if process in groups[group]:
                groups[group].remove(process)
    return groups


# -- totals ----------------------------------------------------------------------------------------


def tally(events: Sequence[Event]) -> Counter[str]:
    """How much a history holds: a check of nothing finds nothing wrong."""
    counts: Counter[str] = Counter(histories=1, events=len(events))
    healed = math.inf
    for event in events:
        match event:
            case Fault(kind=kind):
                if kind != "heal":
                    counts[f"fault {kind}"] += 1
            case Fired():
                reason = event.reason.partition(":")[0]
                counts[f"monitor fired {reason}"] += 1
            case Failed():
                counts[f"call failed {event.error}"] += 1
            case Healed(_, at):
                healed = at
            case Agreed(_, at):
                counts[f"agreed within {math.ceil(at - healed):2} s of healing"] += 1
            case _:
                counts[type(event).__name__.lower()] += 1
    return counts
