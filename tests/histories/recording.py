"""Writes a history while its run goes: see `histories` for what is written.

One line, one write: what a process wrote before it was killed is in the file, and the system has
it whatever becomes of the process.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

import cbor2


class Recorder:
    """One file of a history; `clock` tells the seconds that all files of the history share."""

    def __init__(self, path: Path, clock: Callable[[], float]) -> None:
        self.path = path
        self.clock = clock
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND)

    def __enter__(self) -> Recorder:
        return self

    def __exit__(
        self,
        type_: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        os.close(self._file)

    def write(self, event: str, **facts: Any) -> None:
        """Write an event that has no time."""
        line = json.dumps({"event": event, **facts}, separators=(",", ":"))
        os.write(self._file, line.encode() + b"\n")

    def note(self, event: str, **facts: Any) -> None:
        """Write what happens now."""
        self.write(event, at=self.clock(), **facts)

    def commit(self, n: int, entity: str, held: int, state: bytes, at: float | None = None) -> None:
        """The store took this state of an entity, in epoch `held` by its own account."""
        turns = turns_in(state)
        op, epoch = turns[-1] if turns else ("nothing", 0)
        facts = {"epoch": epoch, "held": held, "count": len(turns), "op": op}
        self.write("commit", n=n, entity=entity, **facts, at=at)

    def stored(self, entity: str, state: bytes) -> None:
        """The store has this in the end."""
        self.write("stored", entity=entity, turns=turns_in(state))


def turns_in(state: bytes) -> list[tuple[str, int]]:
    """The operations that a stored `Ledger` holds, each with the epoch of its turn."""
    found = []
    for turn in cbor2.loads(state)["turns"]:
        op, _, epoch = turn.rpartition("@")
        found.append((op, int(epoch)))
    return found
