"""Records one history, and has `checking` decide about it."""

from __future__ import annotations

import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import checking
import histories
import simulating

# What to call to record one history: a seed, and a folder that takes its files.
Record = Callable[[int, Path], None]


class Broken(AssertionError):
    """A history that broke a rule, or did not end as it should; the text tells all about it."""


def verdict(kind: str, record: Record, seed: int, folder: Path) -> Counter[str]:
    """Record one history into a new folder below `folder`, and return its totals.

    Raises `Broken`; the files stay then.
    """
    files = folder / f"{kind}-{seed}"
    files.mkdir(parents=True)
    again = f"python tests/histories/run.py {kind} --seeds {seed} --keep FOLDER"
    try:
        record(seed, files)
        events = histories.load(sorted(files.glob("*.jsonl")))
        violations = checking.check(events)
    except Exception as error:
        told = "".join(traceback.format_exception(error))
        raise Broken(f"{told}{files} has what was recorded; again: {again}") from error
    if violations:
        told = "\n".join(map(str, violations[:20]))
        raise Broken(f"{len(violations)} violations:\n{told}\nin {files}; again: {again}")
    return checking.tally(events)


def simulate(seed: int, files: Path) -> None:
    """A simulated history is one file."""
    simulating.run(seed, files / "all.jsonl")
