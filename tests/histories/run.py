"""Record histories of entities or clusters under faults, and have a checker decide about each.

    python tests/histories/run.py simulated --seeds 0-999         entities
    python tests/histories/run.py sqlite --seeds 0-49             the same, with real processes
    python tests/histories/run.py postgres --seeds 0-49
    python tests/histories/run.py clusters --seeds 0-999 --processes 2     names, monitors, messages
    python tests/histories/run.py check FILE ...          files of one history, recorded before
    python tests/histories/run.py check-clusters FILE ...

Prints the totals.  A history with a violation, or one that did not end as it should, is kept, with
the command that plays it again; the exit status is 1 then.  `--keep FOLDER` keeps all of them.  A
seed of a real run draws the same faults again, but not the same run.
"""

from __future__ import annotations

import argparse
import logging
import multiprocessing
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path

import histories
from verdicts import (
    CLUSTERS,
    ENTITIES,
    Broken,
    Record,
    Subject,
    simulate,
    simulate_cluster,
    verdict,
)

KINDS = ("simulated", "sqlite", "postgres", "clusters")
CHECKS = {"check": ENTITIES, "check-clusters": CLUSTERS}


def recorder_of(kind: str) -> tuple[Record, Callable[[], None]]:
    """How to record a history of this kind, and what to call in the end."""
    match kind:
        case "simulated":
            return simulate, lambda: None
        case "clusters":
            return simulate_cluster, lambda: None
    import databases
    import real_clusters

    database = databases.Sqlite() if kind == "sqlite" else databases.Postgres()
    return lambda seed, folder: real_clusters.run(seed, folder, database), database.remove


def seeds(text: str) -> range:
    first, _, last = text.partition("-")
    return range(int(first), int(last or first) + 1)


def judge(kind: str, record: Record, folder: Path, keep: bool, seed: int) -> Counter[str]:
    """The totals of one history; of one with a violation, what was violated."""
    quiet()
    try:
        totals = verdict(kind, record, seed, folder, CLUSTERS if kind == "clusters" else ENTITIES)
    except Broken as broken:
        print(f"seed {seed}: {broken}", flush=True)  # noqa: T201
        violated = {f"VIOLATED {rule}": count for rule, count in broken.rules.items()}
        return Counter(BROKEN=1, **violated)
    if not keep:
        shutil.rmtree(folder / f"{kind}-{seed}")
    return totals


def verdicts_of(
    kind: str, which: Iterable[int], folder: Path, keep: bool, processes: int
) -> Iterator[Counter[str]]:
    record, end = recorder_of(kind)
    try:
        if processes == 1:
            yield from (judge(kind, record, folder, keep, seed) for seed in which)
            return
        with multiprocessing.get_context("spawn").Pool(processes) as pool:
            yield from pool.imap_unordered(partial(judge, kind, record, folder, keep), which)
    finally:
        end()


def quiet() -> None:
    """Faults are what we ask for."""
    logging.getLogger("steinadler").setLevel(logging.CRITICAL)


def report(totals: Counter[str]) -> None:
    for name in sorted(totals):
        print(f"{totals[name]:>9} {name}")  # noqa: T201


def recheck(subject: Subject, files: list[Path]) -> int:
    events = histories.load(files, subject.kinds)
    violations = subject.check(events)
    for violation in violations:
        print(violation)  # noqa: T201
    report(subject.tally(events))
    return 1 if violations else 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("kind", choices=(*KINDS, *CHECKS))
    parser.add_argument("--seeds", type=seeds, default=range(10), help="FIRST-LAST, or one")
    parser.add_argument("--keep", type=Path, default=None, help="a folder for all histories")
    parser.add_argument("--processes", type=int, default=1, help="of simulated histories")
    parser.add_argument("files", nargs="*", type=Path)
    options = parser.parse_args()
    if options.kind in CHECKS:
        return recheck(CHECKS[options.kind], options.files)
    if options.processes > 1 and options.kind not in ("simulated", "clusters"):
        parser.error("histories of real processes go one after the other")
    folder = options.keep or Path(tempfile.mkdtemp(prefix="steinadler-histories-"))
    totals: Counter[str] = Counter()
    for counts in verdicts_of(
        options.kind, options.seeds, folder, options.keep is not None, options.processes
    ):
        totals += counts
    report(totals)
    if not totals["BROKEN"] and options.keep is None:
        folder.rmdir()
    return 1 if totals["BROKEN"] else 0


if __name__ == "__main__":
    sys.exit(main())
