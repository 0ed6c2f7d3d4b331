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
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from cluster_events import (
    Agreed,
    Answered,
    Asked,
    Conflict,
    Down,
    Event,
    Failed,
    Fired,
    Healed,
    Joined,
    Left,
    Received,
    Sent,
    Served,
    Unwatch,
    Watch,
    life_of,
    name_of,
)
from cluster_facts import Facts, Holding, facts_of
from histories import Fault

# Within so long a connected side knows who holds a name.
KNOWN_WITHIN_S = 10.0
# For so long a claim that came to nothing, or whose node is dead, may keep others from a name.
REMEMBERED_S = 25.0
# How the reason of a process's end may begin.
REASONS = ("normal", "ValueError: as told", "killed", "shutdown", "NameConflict: ")


@dataclass(frozen=True, slots=True)
class Violation:
    """One rule that was broken, and the events that show it."""

    rule: str
    text: str

    def __str__(self) -> str:
        return f"{self.rule}: {self.text}"


_Found: TypeAlias = Iterator[tuple[str, str]]


def check(events: Sequence[Event]) -> list[Violation]:
    """Every violation.  Raises `Malformed` for what is no history."""
    facts = facts_of(events)
    return [
        Violation(rule, text)
        for rules in (_views, _holders, _two_winners, _monitors, _messages, _lost, _calls)
        for rule, text in rules(facts)
    ]


# -- what nodes believe in the end -----------------------------------------------------------------


def _views(facts: Facts) -> _Found:
    """Agreement: members, names and groups; nodes that are down for a reason."""
    up = sorted(life for life in facts.lives if facts.running(life))
    groups = _groups(facts)
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
            holders = _standing(facts) if phase == 1 else {}
            for name in names.keys() | holders.keys():
                may = [holding.claim.process for holding in holders.get(name, [])]
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
    for event in facts.events:
        if isinstance(event, Down) and facts.running(event.member):
            shaken = any(s.touches(event.at - KNOWN_WITHIN_S, event.at) for s in facts.faults)
            if not shaken:
                yield "S2 cause", f"{event.where}: {event.member} is down for {event.node}"


def _groups(facts: Facts) -> defaultdict[str, list[str]]:
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


# -- names -----------------------------------------------------------------------------------------


def _standing(facts: Facts) -> defaultdict[str, list[Holding]]:
    """Who holds which name in the end, as far as it was told."""
    found: defaultdict[str, list[Holding]] = defaultdict(list)
    for holding in facts.holdings.values():
        if holding.granted is not None and holding.until >= facts.settled:
            found[holding.claim.name].append(holding)
    return found


def _holders(facts: Facts) -> _Found:
    """N2: one holder; the loser is told, once; the oldest claim wins; no refusal for nothing."""
    for name, holdings in sorted(_standing(facts).items()):
        if len({holding.claim.process for holding in holdings}) > 1:
            told = ", ".join(f"{h.claim.process} ({h.claim.where})" for h in holdings)
            yield "N2 one winner", f"{name} is held by {told}"
    for event, had_it in facts.told:
        if not had_it:
            yield "N2 told", f"{event.where}: {event.process} had lost nothing: {event.reason}"
    for event in facts.events:
        if not isinstance(event, Conflict) or life_of(event.loser) != event.node:
            continue
        mine = [h for h in _claims(facts, event.name, event.loser) if h.granted is not None]
        lost_now = [h for h in mine if h.lost == event.at]
        if not lost_now and facts.end_of(event.loser) > event.at:
            yield "N2 told", f"{event.where}: {event.loser} was not told that it lost {event.name}"
        for holding in lost_now:
            assert holding.granted is not None
            rivals = _claims(facts, event.name, event.winner)
            if not any(rival.claim.at <= holding.granted for rival in rivals):
                yield "N2 oldest", f"{event.where}: {event.winner} asked after {event.loser} had it"
    for op, holding in facts.holdings.items():
        claim, refused = holding.claim, holding.refused
        if refused is None:
            if holding.granted is None and facts.running(life_of(claim.process)):
                yield "N2 no answer", f"{claim.where}: {op} was never answered"
        elif refused.error not in ("NameConflict", "NoSuchProcess", "NodeClosed"):
            yield "N2 error", f"{refused.where}: {op} failed with {refused.error}"
        elif refused.error == "NoSuchProcess" and facts.end_of(claim.process) > refused.at:
            yield "N2 error", f"{refused.where}: {claim.process} lives"
        elif refused.error == "NameConflict" and not _wanted(facts, holding, refused.at):
            yield "N2 for nothing", f"{refused.where}: nobody else wanted {claim.name}"


def _claims(facts: Facts, name: str, process: str) -> list[Holding]:
    return [
        holding
        for holding in facts.holdings.values()
        if holding.claim.name == name and holding.claim.process == process
    ]


def _wanted(facts: Facts, refused: Holding, at: float) -> bool:
    """Whether anybody else had the name, or had asked for it, not long before."""
    return any(
        other.claim.name == refused.claim.name
        and other.claim.process != refused.claim.process
        and other.claim.at <= at
        and max(other.until, other.claim.at) >= refused.claim.at - REMEMBERED_S
        for other in facts.holdings.values()
    )


def _two_winners(facts: Facts) -> _Found:
    """N2: within a connected side a name is granted to one."""
    by_name: defaultdict[str, list[tuple[float, Holding]]] = defaultdict(list)
    for holding in facts.holdings.values():
        if holding.granted is not None:
            by_name[holding.claim.name].append((holding.granted, holding))
    for name, granted in sorted(by_name.items()):
        granted.sort(key=lambda pair: pair[0])
        for n, (at, second) in enumerate(granted):
            for first_at, first in granted[:n]:
                one, other = first.claim.process, second.claim.process
                if one == other or first.until <= at:
                    continue
                begin = max(first.claim.at, second.claim.at - KNOWN_WITHIN_S)
                if _one_side(facts, life_of(one), life_of(other), begin, at):
                    yield (
                        "N2 one side",
                        f"{name} was granted to {other} ({second.claim.where}), and {one} has it "
                        f"since {first_at} ({first.claim.where})",
                    )


def _one_side(facts: Facts, one: str, other: str, begin: float, end: float) -> bool:
    side = facts.view_unchanged(one, begin, end)
    return (
        side is not None
        and side == facts.view_unchanged(other, begin, end)
        and all(
            facts.holds_throughout(member, each, begin, end)
            for member in side
            for each in (one, other)
            if member in facts.lives
        )
    )


# -- monitors --------------------------------------------------------------------------------------


def _monitors(facts: Facts) -> _Found:
    """D1 and D3: see the head of this file."""
    fired: defaultdict[tuple[str, int], list[Fired]] = defaultdict(list)
    let_go = set[tuple[str, int]]()
    watches: dict[tuple[str, int], Watch] = {}
    for event in facts.events:
        match event:
            case Watch():
                watches[event.process, event.reference] = event
            case Unwatch():
                let_go.add((event.process, event.reference))
            case Fired():
                fired[event.process, event.reference].append(event)
    for key in fired.keys() - watches.keys():
        yield "D1 invented", f"{fired[key][0].where}: nobody watches with {key[1]}"
    for key, watch in watches.items():
        downs = fired[key]
        if len(downs) > 1:
            yield "D1 once", f"{watch.where} fired at {', '.join(down.where for down in downs)}"
        targets = _targets(facts, watch)
        for down in downs[:1]:
            if down.target not in (watch.target, *targets):
                yield "D3 wrong life", f"{down.where}: {down.target} is not {watch.target}"
            elif not _has_cause(facts, watch, down, targets):
                yield "D1 cause", f"{down.where} ({watch.where}): {watch.target}: {down.reason}"
        if not downs and key not in let_go and _must_have_fired(facts, watch, targets):
            yield "D1 fired", f"{watch.where}: the monitor of {watch.target} did not fire"
    for ended in facts.ended.values():
        if not ended.reason.startswith(REASONS):
            yield "D1 reason", f"{ended.where}: {ended.process} ended with {ended.reason}"


def _targets(facts: Facts, watch: Watch) -> list[str]:
    """Which processes a monitor may be of: several when lives changed in that moment."""
    if "#" in watch.target:
        return [watch.target]
    name = watch.target.partition("@")[2]
    lives = facts.lives_seen(life_of(watch.process), name, watch.at)
    return [inbox for life in lives if (inbox := _inbox(facts, life)) is not None]


def _inbox(facts: Facts, life: str) -> str | None:
    """The first process of a life."""
    return next((process for process in facts.processes if life_of(process) == life), None)


def _has_cause(facts: Facts, watch: Watch, down: Fired, targets: list[str]) -> bool:
    me = life_of(watch.process)
    match down.reason:
        case "noconnection":
            seen = [life_of(target) for target in targets]
            return not seen or any(facts.lost_sight(me, n, watch.at, down.at) for n in seen)
        case "noproc":
            return any(facts.end_of(target) <= down.at for target in targets)
        case reason:
            ended = (facts.ended.get(target) for target in targets)
            return any(e is not None and e.at <= down.at and e.reason == reason for e in ended)


def _must_have_fired(facts: Facts, watch: Watch, targets: list[str]) -> bool:
    """Whether there was a cause in time, for a watcher that was there to be told."""
    me = life_of(watch.process)
    watcher = facts.ended.get(watch.process)
    until = math.inf if watcher is None else watcher.at
    return facts.running(me) and all(
        _ended_in_time(facts, target, until)
        or any(watch.at <= at < until for at in facts.lost_at(me, life_of(target)))
        or not facts.holds(me, life_of(target), watch.at)
        for target in targets
    )


def _ended_in_time(facts: Facts, target: str, until: float) -> bool:
    """Whether whoever watches the target up to that time must have heard of its end: what ended
    before the healing is known when the nodes are asked, what ended then is so a while later."""
    end = facts.end_of(target)
    return (end <= facts.healed and facts.settled <= until) or (end < until == math.inf)


# -- messages --------------------------------------------------------------------------------------


def _messages(facts: Facts) -> _Found:
    """M1, M2 and D3: what was received was sent to this life, by a life that was there."""
    sent = {(e.process, e.number): e for e in facts.events if isinstance(e, Sent)}
    seen: dict[tuple[str, int], Received] = {}
    latest: dict[tuple[str, str, bool], Received] = {}
    for event in facts.events:
        if not isinstance(event, Received):
            continue
        key = (event.sender, event.number)
        told = f"{event.where}: {event.process} received {event.number} of {event.sender}"
        if key in seen:
            yield "M2 once", f"{told} again, after {seen[key].where}"
        seen.setdefault(key, event)
        if key not in sent:
            if facts.running(life_of(event.sender)):
                yield "M2 invented", f"{told}, which was not sent"
        elif sent[key].to != event.to:
            yield "M2 invented", f"{told}, which was sent to {sent[key].to}"
        if not _is_for(facts, event.to, event.process, event.at):
            yield "D3 wrong life", f"{told}, which is for {event.to}"
        if not facts.holds(life_of(event.process), life_of(event.sender), event.at):
            yield "D3 late", f"{told}, whose node is no member for it"
        # By name and by process are two channels; a cluster-wide name stands for the process.
        way = (event.sender, event.process, event.to.startswith("inbox@"))
        if way in latest and latest[way].number > event.number:
            yield "M1 order", f"{told} after {latest[way].number} ({latest[way].where})"
        latest[way] = event


def _is_for(facts: Facts, to: str, process: str, at: float) -> bool:
    """Whether what is sent to `to` may reach that process."""
    if "#" in to:
        return to == process
    name, _, where = to.partition("@")
    if where != "*":
        return where == name_of(process)
    return any(holding.claim.at <= at for holding in _claims(facts, name, process))


def _lost(facts: Facts) -> _Found:
    """M3: what was sent was received."""
    received = {(e.sender, e.number) for e in facts.events if isinstance(e, Received)}
    for event in facts.events:
        if not isinstance(event, Sent) or (event.process, event.number) in received:
            continue
        me = life_of(event.process)
        target: str | None = event.to
        if event.to.startswith("inbox@"):
            lives = facts.lives_seen(me, event.to.partition("@")[2], event.at)
            target = _inbox(facts, lives[0]) if len(lives) == 1 else None
        if (
            target in facts.processes
            and facts.running(me)
            and facts.alive(target)
            and facts.both_hold(me, life_of(target), event.at, facts.settled)
        ):
            yield "M3 lost", f"{event.where}: {target} did not receive {event.number}"


# -- calls -----------------------------------------------------------------------------------------


def _calls(facts: Facts) -> _Found:
    """C1, C2, C3, and D3 for replies."""
    asked = {event.op: event for event in facts.events if isinstance(event, Asked)}
    served: dict[str, Served] = {}
    ends: defaultdict[str, list[Answered | Failed]] = defaultdict(list)
    for event in facts.events:
        match event:
            case Served(_, at, process, op):
                if op in served:
                    yield "C3 once", f"{event.where}: {op} was served at {served[op].where}"
                served[op] = event
                if op not in asked or not _is_for(facts, asked[op].to, process, at):
                    yield "D3 wrong life", f"{event.where}: {process} served {op}"
            case Answered(_, _, process, op, by):
                ends[op].append(event)
                if op not in asked or asked[op].process != process:
                    yield "C2 other", f"{event.where}: {process} got the answer to {op}"
                elif op not in served or served[op].process != by:
                    yield (
                        "D3 wrong life",
                        f"{event.where}: {by} answered {op} unasked",
                    )
            case Failed():
                ends[event.op].append(event)
                call = asked.get(event.op)
                if call is None or not _failed_for(facts, call, event):
                    yield "C1 cause", f"{event.where}: {event.op} failed with {event.error}"
    for op, call in asked.items():
        if len(ends[op]) > 1 or (not ends[op] and facts.running(life_of(call.process))):
            told = ", ".join(end.where for end in ends[op]) or "none"
            yield "C1 one end", f"{call.where}: the ends of {op}: {told}"


def _failed_for(facts: Facts, call: Asked, failed: Failed) -> bool:
    """Whether there was a cause for this error."""
    me, (name, _, where) = life_of(call.process), call.to.partition("@")
    if where == "*":
        return failed.error in ("NodeDown", "NoSuchProcess", "ProcessExited", "gave up")
    if where:
        lives = facts.lives_seen(me, where, call.at)
        targets = [inbox for life in lives if (inbox := _inbox(facts, life)) is not None]
    else:
        targets = [name]
    match failed.error:
        case "NodeDown":
            return not targets or any(
                facts.lost_sight(me, life_of(target), call.at, failed.at) for target in targets
            )
        case "NoSuchProcess" | "ProcessExited":
            return any(facts.end_of(target) <= failed.at for target in targets)
        case error:
            return error in ("gave up", "NodeClosed")


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
