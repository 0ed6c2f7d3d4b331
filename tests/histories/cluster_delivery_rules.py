"""The rules about monitors, messages and calls (D1, D3, M1-M3, C1-C3).

The head of `cluster_checking` tells them in words.
"""

from __future__ import annotations

import math
from collections import defaultdict

from cluster_events import (
    Answered,
    Asked,
    Failed,
    Fired,
    Received,
    Sent,
    Served,
    Unwatch,
    Watch,
    life_of,
    name_of,
)
from cluster_facts import Facts, Found
from cluster_name_rules import claims_of

# How the reason of a process's end may begin.
REASONS = ("normal", "ValueError: as told", "killed", "shutdown", "NameConflict: ")


# -- monitors --------------------------------------------------------------------------------------


def monitors(facts: Facts) -> Found:
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


def messages(facts: Facts) -> Found:
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
    return any(holding.claim.at <= at for holding in claims_of(facts, name, process))


def lost(facts: Facts) -> Found:
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


def calls(facts: Facts) -> Found:
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
