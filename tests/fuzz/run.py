"""Search for inputs that break a target's invariant, guided by what they reach.

    python tests/fuzz/run.py [--seconds S] [TARGET ...]

Runs each target (all of them without names; see fuzz_targets.py) for S seconds, 10 without
`--seconds`; needs `pip install 'steinadler[fuzz]'`.  A target takes three steps, each in a process
of its own, so that whatever happens to it is noticed here:

    search   atheris (libFuzzer) mutates inputs.  An exception, a crash of native code, an input
             that takes over a second of processor time and a heap over 1 GiB are each a breach.
    sift     kept in tests/fuzz/corpus/TARGET, under the hash of its bytes: every input that broke
             the invariant, and of the others the smallest that reach a line of the library each,
             if they have at most 4 KiB.
    measure  all that the search found is run again under tracemalloc: no input may take more than
             a megabyte and 200 times its length, and 1,000 of them leave nothing behind.

The exit status is 1 when something was broken.  A mutation engine of our own came before atheris,
and reached half as much in the same time.
"""

from __future__ import annotations

import argparse
import gc
import hashlib
import os
import re
import subprocess
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

# No node would answer anybody meanwhile.
MAX_SECONDS = 1.0
MAX_KEPT_BYTES = 4096
MAX_INPUT_BYTES = 65_536
MAX_HEAP_MB = 1024
# What one input may take, and what so many runs may leave behind.
MAX_PEAK_BYTES, MAX_PEAK_FACTOR = 1_000_000, 200
MEASURED_RUNS, MAX_GROWTH_BYTES = 1_000, 64 * 1024
# An instrumented target runs several times slower; who takes longer than this is stuck.
STUCK_S = 30
FOLDER = Path(__file__).parent


class Lines:
    """The lines of the library that were ever run."""

    def __init__(self) -> None:
        import steinadler

        self.seen: set[tuple[str, int]] = set()
        self._library = str(Path(steinadler.__file__).parent)

    def reached_by(self, run: Callable[[], None]) -> bool:
        """Run, and say whether it reached a line that is new."""
        before = len(self.seen)
        sys.settrace(self._enter)
        try:
            run()
        finally:
            sys.settrace(None)
        return len(self.seen) > before

    def _enter(self, frame: FrameType, event: str, arg: Any) -> Any:
        return self._line if frame.f_code.co_filename.startswith(self._library) else None

    def _line(self, frame: FrameType, event: str, arg: Any) -> Any:
        self.seen.add((frame.f_code.co_filename, frame.f_lineno))
        return self._line


def inputs(*folders: Path) -> list[bytes]:
    """What lies in these folders, the smallest first."""
    found = {path.read_bytes() for folder in folders for path in folder.glob("*") if path.is_file()}
    return sorted(found, key=lambda data: (len(data), data))


def keep(name: str, data: bytes) -> Path:
    """Put an input into the corpus."""
    path = FOLDER / "corpus" / name / f"{hashlib.sha256(data).hexdigest()[:16]}.bin"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


# -- the steps, each in a process of its own --------------------------------------------------


def do_search(name: str, seconds: str, found: str) -> None:
    """Mutate until the time is up, or something is broken."""
    import atheris

    with atheris.instrument_imports(include=["steinadler"], enable_loader_override=False):
        from fuzz_targets import SEEDS, TARGETS
    target = TARGETS[name]
    for data in SEEDS[target]:
        Path(found, hashlib.sha256(data).hexdigest()[:16]).write_bytes(data)

    def run(data: bytes) -> None:
        began = time.thread_time()
        target(data)
        assert time.thread_time() - began < MAX_SECONDS, "it took too long"

    limits = [f"-max_len={MAX_INPUT_BYTES}", f"-rss_limit_mb={MAX_HEAP_MB}", f"-timeout={STUCK_S}"]
    report = [
        f"-max_total_time={seconds}",
        "-print_final_stats=1",
        f"-artifact_prefix={found}/broke-",
    ]
    folders = [found, str(FOLDER / "corpus" / name)]
    Path(folders[1]).mkdir(parents=True, exist_ok=True)
    atheris.Setup([sys.argv[0], *limits, *report, *folders], run)
    atheris.Fuzz()


def do_replay(name: str, path: str) -> None:
    """One input, without instruments: whether it is broken, or was only slow with them."""
    from fuzz_targets import TARGETS

    began = time.thread_time()
    TARGETS[name](Path(path).read_bytes())
    assert time.thread_time() - began < MAX_SECONDS, "it took too long"


def do_sift(name: str, found: str) -> None:
    """Keep what reaches something new."""
    from fuzz_targets import TARGETS

    lines, kept = Lines(), 0
    target = TARGETS[name]
    known = inputs(FOLDER / "corpus" / name)
    for data in [*known, *inputs(Path(found))]:
        new = lines.reached_by(lambda data=data: target(data))  # type: ignore[misc]
        if new and data not in known and len(data) <= MAX_KEPT_BYTES:
            keep(name, data)
            kept += 1
    print(f"{len(lines.seen)} lines, {kept} kept")  # noqa: T201


def memory_in_use() -> int:
    """Bytes, without what is to be collected, and without the interpreter's cache of attributes:
    a `match` of classes fills it with up to 4,096 names (CPython 3.11)."""
    sys._clear_type_cache()
    gc.collect()
    return tracemalloc.get_traced_memory()[0]


def do_measure(name: str, found: str) -> None:
    """Run all of it over and over: what one input takes, and what stays of many."""
    from fuzz_targets import TARGETS

    target = TARGETS[name]
    pool = inputs(FOLDER / "corpus" / name, Path(found))
    many = [data for _ in range(-(-MEASURED_RUNS // len(pool))) for data in pool]
    for data in many:  # what is made once is made now, by Python itself too
        target(data)
    tracemalloc.start()
    worst = 0.0
    for data in pool:
        tracemalloc.reset_peak()
        before = tracemalloc.get_traced_memory()[0]
        target(data)
        peak = tracemalloc.get_traced_memory()[1] - before
        worst = max(worst, peak / (MAX_PEAK_BYTES + MAX_PEAK_FACTOR * len(data)))
        assert worst <= 1, f"{keep(name, data)} takes {peak} bytes for {len(data)}"
    before = memory_in_use()
    for data in many:
        target(data)
    growth = memory_in_use() - before
    assert growth <= MAX_GROWTH_BYTES, f"{len(many)} inputs left {growth} bytes"
    print(f"peak {worst:.0%} of what is allowed, {growth} bytes left of {len(many)} runs")  # noqa: T201


STEPS = {"search": do_search, "replay": do_replay, "sift": do_sift, "measure": do_measure}


# -- one target after the other ---------------------------------------------------------------


def step(which: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a step in a process of its own."""
    command = [sys.executable, __file__, "--step", which, *arguments]
    return subprocess.run(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        check=False,
        env={**os.environ, "PYTHONHASHSEED": "0"},
    )


def tried_in(text: str) -> int:
    """How many inputs a search says that it tried; of one that broke off, up to its last word."""
    counts = re.findall(r"number_of_executed_units: (\d+)", text) or re.findall(
        r"^#(\d+)", text, re.M
    )
    return int(counts[-1]) if counts else 0


def fuzz(name: str, seconds: float) -> int:
    """Search one target; return how many of its steps found something broken."""
    broken = tried = 0
    with tempfile.TemporaryDirectory(prefix="steinadler-fuzz-") as found:
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0 and not broken:
            done = step("search", name, str(max(1, round(left))), found)
            tried += tried_in(done.stdout)
            artifacts = list(Path(found).glob("broke-*"))
            for path in artifacts:
                replayed = step("replay", name, str(path))
                if replayed.returncode:
                    broken += 1
                    where = keep(name, path.read_bytes())
                    print(f"{name}: BROKEN by {where}\n{replayed.stdout}")  # noqa: T201
                path.unlink()
            if done.returncode and not artifacts:
                broken += 1
                print(f"{name}: the search failed\n{done.stdout[-4000:]}")  # noqa: T201
        told = [f"{tried} inputs"]
        for which in ("sift", "measure") if not broken else ():
            done = step(which, name, found)
            told.append(done.stdout.strip())
            broken += bool(done.returncode)
    print(f"{name}: {', '.join(told)}, {broken} broken", flush=True)  # noqa: T201
    return broken


def main() -> int:
    sys.path.insert(0, str(FOLDER))
    if sys.argv[1:2] == ["--step"]:
        which, *arguments = sys.argv[2:]
        STEPS[which](*arguments)
        return 0
    from fuzz_targets import TARGETS

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seconds", type=float, default=10.0, help="for each target")
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=", ".join(TARGETS))
    options = parser.parse_args()
    unknown = set(options.targets) - set(TARGETS)
    if unknown:
        parser.error(f"no target is called {', '.join(sorted(unknown))}")
    try:
        import atheris  # noqa: F401
    except ImportError:
        parser.error("the search needs atheris: pip install 'steinadler[fuzz]'")
    return 1 if sum(fuzz(name, options.seconds) for name in options.targets or TARGETS) else 0


if __name__ == "__main__":
    sys.exit(main())
