"""Record histories of entities under faults, and have `checking` decide about each.

    python tests/histories/run.py simulated --seeds 0-999
    python tests/histories/run.py sqlite --seeds 0-49
    python tests/histories/run.py postgres --seeds 0-49
    python tests/histories/run.py check FILE ...          files of one history, recorded before

Prints the totals.  A history with a violation, or one that did not end as it should, is kept, with
the command that plays it again; the exit status is 1 then.  `--keep FOLDER` keeps all of them.  A
seed of a real run draws the same faults again, but not the same run.
"""

from __future__ import annotations

import argparse
import logging
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import checking
import histories
from verdicts import Broken, Record, simulate, verdict


def recorder_of(kind: str) -> tuple[Record, Callable[[], None]]:
    """How to record a history of this kind, and what to call in the end."""
    if kind == "simulated":
        return simulate, lambda: None
    import databases
    import real_clusters

    database = databases.Sqlite() if kind == "sqlite" else databases.Postgres()
    return lambda seed, folder: real_clusters.run(seed, folder, database), database.remove


def seeds(text: str) -> range:
    first, _, last = text.partition("-")
    return range(int(first), int(last or first) + 1)


def report(totals: Counter[str]) -> None:
    for name in sorted(totals):
        print(f"{totals[name]:>9} {name}")  # noqa: T201


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("kind", choices=("simulated", "sqlite", "postgres", "check"))
    parser.add_argument("--seeds", type=seeds, default=range(10), help="FIRST-LAST, or one")
    parser.add_argument("--keep", type=Path, default=None, help="a folder for all histories")
    parser.add_argument("files", nargs="*", type=Path)
    options = parser.parse_args()
    logging.getLogger("steinadler").setLevel(logging.CRITICAL)  # faults are what we ask for
    if options.kind == "check":
        events = histories.load(options.files)
        violations = checking.check(events)
        for violation in violations:
            print(violation)  # noqa: T201
        report(checking.tally(events))
        return 1 if violations else 0
    folder = options.keep or Path(tempfile.mkdtemp(prefix="steinadler-histories-"))
    totals: Counter[str] = Counter()
    record, end = recorder_of(options.kind)
    try:
        for seed in options.seeds:
            try:
                totals += verdict(options.kind, record, seed, folder)
            except Broken as broken:
                totals["BROKEN"] += 1
                print(f"seed {seed}: {broken}", flush=True)  # noqa: T201
                continue
            if options.keep is None:
                shutil.rmtree(folder / f"{options.kind}-{seed}")
    finally:
        end()
    report(totals)
    if not totals["BROKEN"] and options.keep is None:
        folder.rmdir()
    return 1 if totals["BROKEN"] else 0


if __name__ == "__main__":
    sys.exit(main())
