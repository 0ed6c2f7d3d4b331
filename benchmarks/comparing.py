"""Runs in turn, and what they come to: medians, and ratios pair by pair.

A machine that others share, or that changes its clock, is faster in one minute than in the next.
So ours and theirs run one straight after the other, in the opposite order in each next pair, and
a ratio is taken within a pair only; medians are over the pairs.  Means would let one disturbed
run speak for all.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from benchmarks.measuring import Figures
from benchmarks.sides import OURS, Description
from benchmarks.workloads import Better, Figure, Target, Workload

Run = Callable[[Description, Workload], Figures]
# Shares of one core's load that others may take before the result says so.
IDLE_LOAD = 0.5


@dataclass(frozen=True, slots=True)
class Row:
    """One figure of one workload, over all pairs."""

    workload: Workload
    figure: Figure
    ours: tuple[float, ...]
    theirs: tuple[float, ...]

    @property
    def ratios(self) -> list[float]:
        """Ours / theirs of each pair; pairs in which theirs is nothing are left out."""
        return [a / b for a, b in zip(self.ours, self.theirs, strict=True) if b]

    @property
    def ratio(self) -> float | None:
        """The median of the pairs' ratios; None when there is nothing to compare with."""
        return median(self.ratios) if self.ratios else None

    @property
    def advantage(self) -> float | None:
        """How many times better ours is, whichever way is better; below 1 it is worse."""
        if not self.ratio:
            return None
        return self.ratio if self.figure.better is Better.HIGHER else 1 / self.ratio

    @property
    def target(self) -> Target | None:
        return next((t for t in self.workload.targets if t.key == self.figure.key), None)

    def reached(self) -> bool | None:
        """Whether the target is reached; None when there is none, or nothing to compare with."""
        target = self.target
        if target is None:
            return None
        value = self.ratio if target.of_ratio else median(self.ours)
        if value is None:
            return None
        return (
            value >= target.limit if self.figure.better is Better.HIGHER else value <= target.limit
        )


@dataclass(slots=True)
class Comparison:
    """All rows, and what could not be had, with the reason."""

    peer: Description
    pairs: int
    rows: list[Row] = field(default_factory=list)
    gaps: dict[str, str] = field(default_factory=dict)
    load_before: float = 0.0

    @property
    def busy(self) -> bool:
        """Whether others used the machine when this began."""
        return self.load_before > IDLE_LOAD

    def as_json(self) -> dict[str, Any]:
        return {
            "peer": self.peer.name,
            "pairs": self.pairs,
            "load_before": self.load_before,
            "cannot": self.gaps,
            "figures": [
                {
                    "workload": row.workload.name,
                    "figure": row.figure.key,
                    "ours": list(row.ours),
                    "theirs": list(row.theirs),
                    "ratio": row.ratio,
                    "target_reached": row.reached(),
                }
                for row in self.rows
            ],
        }


def compare(
    peer: Description,
    workloads: Iterable[Workload],
    pairs: int,
    run: Run,
    progress: Callable[[str], None],
) -> Comparison:
    """Run every workload `pairs` times on both sides; `run` may raise `RunFailed`.

    A workload that the peer cannot do, or that it failed at, becomes a gap, with ours measured
    all the same; a failure of ours is raised.
    """
    result = Comparison(peer, pairs, load_before=os.getloadavg()[0])
    for workload in workloads:
        why_not = peer.why_not(workload)
        ours: list[Figures] = []
        theirs: list[Figures] = []
        for number in range(pairs):
            progress(f"{workload.name}: pair {number + 1} of {pairs}")
            turns = (OURS, peer) if number % 2 == 0 else (peer, OURS)
            for side in turns:
                if side is OURS:
                    ours.append(run(OURS, workload))
                elif why_not is None:
                    try:
                        theirs.append(run(peer, workload))
                    except RuntimeError as error:
                        why_not = f"failed: {error}"
        if why_not is not None:
            result.gaps[workload.name] = why_not
            theirs = []
        result.rows += [row_of(workload, figure, ours, theirs) for figure in workload.figures]
    return result


def row_of(workload: Workload, figure: Figure, ours: list[Figures], theirs: list[Figures]) -> Row:
    """One figure's row; a side with no results has zeros, which are never divided by."""
    mine = tuple(figures[figure.key] for figures in ours)
    peers = tuple(figures.get(figure.key, 0.0) for figures in theirs) or (0.0,) * len(mine)
    return Row(workload, figure, mine, peers)
