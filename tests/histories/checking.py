"""Decides from the record of a run alone whether E1, E2 and E3 held in it.

Every turn appends the name of its operation to the entity's state.  So what is stored in the end
is the order in which turns ran, and nothing has to be searched for, as a checker of single
registers must (Wing & Gong, "Testing and verifying concurrent objects", 1993): each operation has
its place or none.  A counter alone was refused: with it one lost turn and one that ran twice look
like none.

This file imports nothing of the library: what each error promises is written down here again.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from histories import Activate, Commit, Error, Event, Fault, Invoke, Malformed, Ok, Stored

# An operation that failed so is not stored: nothing ran, it was refused, or it was undone
# (docs/entities.md, "What fails").  After any other error it may be.
CERTAINLY_NOT_STORED = frozenset(
    (
        *("RemoteError", "NotEncodable", "MessageTooLarge", "StaleEpoch"),
        *("NoSuchCommand", "NoSuchEntityType", "EntityUnavailable"),
    )
)
# After these nothing has run, so a client may call again.
NOTHING_RAN = frozenset(("NoSuchEntityType", "EntityUnavailable"))


@dataclass(frozen=True, slots=True)
class Violation:
    """One rule that was broken, and the events that show it."""

    rule: str
    entity: str
    text: str

    def __str__(self) -> str:
        return f"{self.rule}: entity {self.entity}: {self.text}"


# -- what became of each operation -----------------------------------------------------------------


@dataclass(slots=True)
class Operation:
    """One operation: its last invocation, and how that ended; None when nobody said."""

    invoke: Invoke
    end: Ok | Error | None = None

    @property
    def certainly_not(self) -> bool:
        return isinstance(self.end, Error) and self.end.error in CERTAINLY_NOT_STORED


def operations(events: Sequence[Event]) -> dict[str, Operation]:
    """By name.  Raises `Malformed` when invocations and ends do not go together, or when a client
    repeated what may have run: then nothing could be said about the library."""
    found: dict[str, Operation] = {}
    for event in _in_time(events):
        if isinstance(event, Invoke):
            former = found.get(event.op)
            if former is not None:
                nothing_ran = isinstance(former.end, Error) and former.end.error in NOTHING_RAN
                if not nothing_ran or former.invoke.entity != event.entity:
                    raise Malformed(
                        f"{event.where}: {event.op} is invoked again, after {former.invoke.where}, "
                        "though it may have run"
                    )
            found[event.op] = Operation(event)
            continue
        operation = found.get(event.op)
        if operation is None:
            raise Malformed(f"{event.where}: {event.op} ends, and was not invoked before")
        if operation.end is not None:
            raise Malformed(f"{event.where}: {event.op} ended already, at {operation.end.where}")
        if operation.invoke.client != event.client:
            raise Malformed(f"{event.where}: {event.op} was invoked by {operation.invoke.client}")
        operation.end = event
    return found


def _in_time(events: Sequence[Event]) -> list[Invoke | Ok | Error]:
    """What clients did, in order; at the same moment, as it was written."""
    found = [event for event in events if isinstance(event, (Invoke, Ok, Error))]
    return sorted(found, key=lambda event: event.at)


# -- the rules -------------------------------------------------------------------------------------


def check(events: Sequence[Event]) -> list[Violation]:
    """Every violation.  Raises `Malformed` for what is no history."""
    done = operations(events)
    by_entity: defaultdict[str, list[Operation]] = defaultdict(list)
    for operation in done.values():
        by_entity[operation.invoke.entity].append(operation)
    stored: dict[str, Stored] = {}
    writes: defaultdict[str, list[Activate | Commit]] = defaultdict(list)
    for event in events:
        if isinstance(event, Stored):
            if event.entity in stored:
                raise Malformed(f"{event.where}: {event.entity} is stored twice")
            stored[event.entity] = event
        elif isinstance(event, (Activate, Commit)):
            writes[event.entity].append(event)
    violations: list[Violation] = []
    for entity in sorted(by_entity.keys() | stored.keys() | writes.keys()):
        of_entity = sorted(writes[entity], key=lambda write: write.n)
        commits = [write for write in of_entity if isinstance(write, Commit)]
        final = stored.get(entity) or Stored("the end", entity, ())
        for rule, text in (
            *_epochs(of_entity),
            *_chain(commits, final),
            *_outcomes(by_entity[entity], commits, final),
            *_order(by_entity[entity], commits, final),
        ):
            violations.append(Violation(rule, entity, text))
    return violations


_Found: TypeAlias = Iterator[tuple[str, str]]


def _epochs(writes: Sequence[Activate | Commit]) -> _Found:
    """E1: an epoch has one owner, later ones are higher, and only the latest writes."""
    latest: Activate | None = None
    last: Commit | None = None
    for write in writes:
        if isinstance(write, Activate):
            if latest is not None and write.epoch <= latest.epoch:
                yield (
                    "E1 one owner",
                    f"{write.where} gives {write.owner} epoch {write.epoch}, after {latest.where} "
                    f"gave {latest.owner} epoch {latest.epoch}",
                )
            latest = write
            continue
        if last is not None and write.epoch < last.epoch:
            yield (
                "E1 epochs",
                f"{write.where} commits {write.op} under epoch {write.epoch}, after {last.where} "
                f"committed {last.op} under {last.epoch}",
            )
        last = write
        if latest is None or write.epoch != latest.epoch or write.held != latest.epoch:
            given = "none" if latest is None else f"{latest.epoch} ({latest.where})"
            yield (
                "E1 fence",
                f"{write.where} commits {write.op} under epoch {write.epoch}, the store holding "
                f"{write.held}, and the latest that was given out is {given}",
            )


def _chain(commits: Sequence[Commit], final: Stored) -> _Found:
    """E1: each commit adds one turn to the one before it, and so all of them are stored."""
    for count, commit in enumerate(commits, 1):
        if commit.count != count:
            yield (
                "E1 chain",
                f"{commit.where} commits {commit.op} as turn {commit.count}, and {count - 1} "
                f"were committed before ({commits[count - 2].where if count > 1 else 'none'})",
            )
            return  # all that follow are off as well
    written = tuple((commit.op, commit.epoch) for commit in commits)
    if written != final.turns:
        place = next(
            (
                n
                for n, pair in enumerate(zip(written, final.turns, strict=False))
                if len({*pair}) > 1
            ),
            min(len(written), len(final.turns)),
        )
        yield (
            "E1 chain",
            f"turn {place + 1} was committed as {written[place : place + 1]}, and {final.where} "
            f"has {final.turns[place : place + 1]}; {len(written)} were committed, "
            f"{len(final.turns)} are stored",
        )


def _outcomes(done: Sequence[Operation], commits: Sequence[Commit], final: Stored) -> _Found:
    """E2 and E3: acknowledged is stored, once; failed for certain is not; nothing is twice."""
    times = Counter(op for op, _ in final.turns)
    tries = Counter(commit.op for commit in commits)
    known = {operation.invoke.op: operation for operation in done}
    for op in times | tries:
        if op not in known:
            yield "E3 invented", f"{op} is stored, and nobody asked for it"
        elif times[op] > 1 or tries[op] > 1:
            yield (
                "E3 once",
                f"{op}, invoked at {known[op].invoke.where}, is stored {times[op]} times, and was "
                f"committed at {', '.join(c.where for c in commits if c.op == op) or 'no time'}",
            )
    for op, operation in known.items():
        end = operation.end
        if isinstance(end, Ok) and not times[op]:
            yield "E2 stored", f"{op} was acknowledged at {end.where}, and is not stored"
        elif operation.certainly_not and isinstance(end, Error) and (times[op] or tries[op]):
            yield "E3 not run", f"{op} failed with {end.error} at {end.where}, and is stored"


def _order(done: Sequence[Operation], commits: Sequence[Commit], final: Stored) -> _Found:
    """E1: callers were told the places that the turns have, and whoever called after another was
    answered comes after it.  E2: nobody was answered before the commit."""
    places = {op: place for place, (op, _) in enumerate(final.turns, 1)}
    moments: list[tuple[float, int, Operation]] = []
    for operation in done:
        place = places.get(operation.invoke.op)
        if place is None:
            continue
        # At the same moment neither came first: invocations are looked at before ends.
        moments.append((operation.invoke.at, 0, operation))
        if isinstance(operation.end, Ok):
            moments.append((operation.end.at, 1, operation))
            if operation.end.result != place:
                yield (
                    "E1 results",
                    f"{operation.end.where} tells {operation.invoke.op} that it was turn "
                    f"{operation.end.result}, and it is turn {place}",
                )
    highest, holder = 0, None
    for _, ended, operation in sorted(moments, key=lambda moment: moment[:2]):
        place = places[operation.invoke.op]
        if ended and place > highest:
            highest, holder = place, operation
        elif not ended and holder is not None and place < highest:
            assert holder.end is not None
            yield (
                "E1 order",
                f"{operation.invoke.op}, invoked at {operation.invoke.where}, is turn {place}, "
                f"though {holder.invoke.op}, turn {highest}, was answered before: "
                f"{holder.end.where}",
            )
    committed = {commit.op: commit for commit in commits}
    for operation in done:
        commit, end = committed.get(operation.invoke.op), operation.end
        if commit is None or commit.at is None:
            continue
        if commit.at < operation.invoke.at:
            yield (
                "E3 early",
                f"{commit.where} commits {commit.op} before {operation.invoke.where} asks for it",
            )
        if isinstance(end, Ok) and commit.at > end.at:
            yield "E2 early", f"{end.where} tells of {commit.op} before {commit.where} commits it"


# -- totals ----------------------------------------------------------------------------------------


def tally(events: Sequence[Event]) -> Counter[str]:
    """How much a history holds: a check of nothing finds nothing wrong."""
    counts: Counter[str] = Counter(histories=1, events=len(events))
    for operation in operations(events).values():
        counts["operations"] += 1
        match operation.end:
            case Ok():
                counts["acknowledged"] += 1
            case Error() as end:
                kind = "failed" if operation.certainly_not else "unknown"
                counts[kind] += 1
                counts[f"error {end.error}"] += 1
            case None:
                counts["unknown"] += 1
                counts["error (cut off)"] += 1
    last_epoch: dict[str, Activate] = {}
    for event in events:
        match event:
            case Activate():
                counts["activations"] += 1
                former = last_epoch.get(event.entity)
                if former is not None and former.owner != event.owner:
                    counts["moves"] += 1
                last_epoch[event.entity] = event
            case Commit():
                counts["commits"] += 1
            case Stored():
                counts["stored turns"] += len(event.turns)
            case Fault(kind=kind) if kind != "heal":
                counts[f"fault {kind}"] += 1
    return counts
