"""Records one history, and has its checker decide about it."""

from __future__ import annotations

import traceback
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import checking
import cluster_checking
import cluster_events
import cluster_simulating
import histories
import simulating

# What to call to record one history: a seed, and a folder that takes its files.  May return what
# tells this run from another of the same seed.
Record = Callable[[int, Path], str | None]


class Broken(AssertionError):
    """A history that broke a rule, or did not end as it should; the text tells all about it.

    `rules` counts what was violated, by rule.
    """

    def __init__(self, text: str, rules: Counter[str]) -> None:
        super().__init__(text)
        self.rules = rules


@dataclass(frozen=True, slots=True)
class Subject:
    """What a history is about: the kinds of its events, and who decides about them."""

    kinds: Mapping[str, type[Any]]
    check: Callable[[Sequence[Any]], Sequence[Any]]
    tally: Callable[[Sequence[Any]], Counter[str]]


ENTITIES = Subject(histories.KINDS, checking.check, checking.tally)
CLUSTERS = Subject(cluster_events.KINDS, cluster_checking.check, cluster_checking.tally)


def verdict(
    kind: str, record: Record, seed: int, folder: Path, subject: Subject = ENTITIES
) -> Counter[str]:
    """Record one history into a new folder below `folder`, and return its totals.

    Raises `Broken`; the files stay then.
    """
    files = folder / f"{kind}-{seed}"
    files.mkdir(parents=True)
    again = f"python tests/histories/run.py {kind} --seeds {seed} --keep FOLDER"
    try:
        digest = record(seed, files)
        events = histories.load(sorted(files.glob("*.jsonl")), subject.kinds)
        violations = subject.check(events)
    except Exception as error:
        told = "".join(traceback.format_exception(error))
        text = f"{told}{files} has what was recorded; again: {again}"
        raise Broken(text, Counter([type(error).__name__])) from error
    if violations:
        told = "\n".join(map(str, violations[:20]))
        trace = f", trace {digest}" if digest else ""
        text = f"{len(violations)} violations:\n{told}\nin {files}{trace}; again: {again}"
        raise Broken(text, Counter(violation.rule for violation in violations))
    return subject.tally(events)


def simulate(seed: int, files: Path) -> None:
    """A simulated history is one file."""
    simulating.run(seed, files / "all.jsonl")


def simulate_cluster(seed: int, files: Path) -> str:
    """A history of whole nodes."""
    return cluster_simulating.run(seed, files / "all.jsonl")
