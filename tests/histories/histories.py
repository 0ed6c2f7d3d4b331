"""What is written down of a run of entities under faults, and how it is read again.

A history is what clients, stores and whoever made the faults wrote down while a run went, one JSON
object a line.  Every life of a process writes a file of its own; here they are put together.
`at` is in seconds by one clock for all files; `n` is the order in which writes stood in the store.

    invoke    at, client, entity, op, command      a client calls; `op` names this one operation
    ok        at, client, op, result               it was acknowledged: so many turns are stored
    error     at, client, op, error                it failed; the error's name
    fault     at, kind, target                     what was done to the cluster, and `heal` after it
    activate  n, entity, epoch, owner              the store gave out an epoch
    commit    n, entity, epoch, held, count, op    a turn was stored: by an activation of `epoch`,
              (and at, where the store can tell)   while the store's own epoch was `held`
    stored    entity, turns                        what the store holds at the end: [[op, epoch], …]

An operation without `ok` or `error` was cut off with its client: it may have run, or not.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeAlias


class Malformed(Exception):
    """The record itself makes no sense; the text begins with the file and line."""


@dataclass(frozen=True, slots=True)
class Invoke:
    where: str
    at: float
    client: str
    entity: str
    op: str
    command: str


@dataclass(frozen=True, slots=True)
class Ok:
    where: str
    at: float
    client: str
    op: str
    result: int


@dataclass(frozen=True, slots=True)
class Error:
    where: str
    at: float
    client: str
    op: str
    error: str


@dataclass(frozen=True, slots=True)
class Fault:
    where: str
    at: float
    kind: str
    target: str


@dataclass(frozen=True, slots=True)
class Activate:
    where: str
    n: int
    entity: str
    epoch: int
    owner: str


@dataclass(frozen=True, slots=True)
class Commit:
    where: str
    n: int
    entity: str
    epoch: int
    held: int
    count: int
    op: str
    at: float | None = None


@dataclass(frozen=True, slots=True)
class Stored:
    where: str
    entity: str
    turns: tuple[tuple[str, int], ...]


Event: TypeAlias = Invoke | Ok | Error | Fault | Activate | Commit | Stored
KINDS: dict[str, type[Event]] = {
    kind.__name__.lower(): kind for kind in (Invoke, Ok, Error, Fault, Activate, Commit, Stored)
}


# -- reading ---------------------------------------------------------------------------------------


def load(paths: Iterable[Path], kinds: Mapping[str, type[Any]] = KINDS) -> list[Any]:
    """The events of several files, those of one file in its order.  Raises `Malformed`."""
    events: list[Any] = []
    for path in paths:
        lines = path.read_text().split("\n")
        # Whoever is killed may leave half a line, and nothing after it.
        events += parse(lines[:-1], path.name, kinds)
    return events


def parse(
    lines: Iterable[str], name: str = "line", kinds: Mapping[str, type[Any]] = KINDS
) -> Iterator[Any]:
    """Events, one for each line.  Raises `Malformed`."""
    for number, line in enumerate(lines, 1):
        where = f"{name}:{number}"
        try:
            facts = json.loads(line)
            kind = kinds[facts.pop("event")]
            if kind is Stored:
                facts["turns"] = [(str(op), int(epoch)) for op, epoch in facts["turns"]]
            event = kind(where, **{key: _frozen(value) for key, value in facts.items()})
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise Malformed(f"{where}: not an event ({error!r}): {line[:200]}") from error
        _check_types(event)
        yield event


def _frozen(value: Any) -> Any:
    return tuple(map(_frozen, value)) if isinstance(value, (list, tuple)) else value


def _check_types(event: Any) -> None:
    for field in fields(event):
        value = getattr(event, field.name)
        match field.type:
            case "str":
                fits = isinstance(value, str)
            case "int":
                fits = type(value) is int
            case "bool":
                fits = type(value) is bool
            case "float" | "float | None":
                fits = type(value) in (int, float) or (value is None and field.type != "float")
            case _:
                fits = isinstance(value, tuple)
        if not fits:
            raise Malformed(f"{event.where}: {field.name} is {value!r}")
