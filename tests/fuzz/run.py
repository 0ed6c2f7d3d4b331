"""Search for inputs that break a target's invariant, guided by the lines that they reach.

    python tests/fuzz/run.py [--minutes M] [--seed N] [TARGET ...]

Runs each target (all of them without names; see fuzz_targets.py) for its share of M minutes, one
without `--minutes`.  Kept in tests/fuzz/corpus/TARGET, under the hash of its bytes: every input
that broke the invariant (its traceback is printed, and the exit status is 1), and every input of
at most 4 KiB that reached a line of the library that none before it did.
"""

from __future__ import annotations

import argparse
import hashlib
import random
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

from fuzz_targets import CORPUS, SEEDS, TARGETS, corpus

import steinadler

# Longer than this for one input is a breach too: a node would not answer anybody meanwhile.
MAX_SECONDS = 2.0
MAX_KEPT_BYTES = 4096
MAX_INPUT_BYTES = 100_000

_LIBRARY = str(Path(steinadler.__file__).parent)
_TELLING = [
    *(bytes([n]) for n in (0, 1, 2, 0x7F, 0x80, 0x81, 0x9F, 0xBF, 0xA0, 0xC2, 0xF7, 0xFF)),
    *(n.to_bytes(8, "big") for n in (0, 1, 2, 72, 73, 2**31, 2**63, 2**64 - 1)),
    *(n.to_bytes(4, "big") for n in (2, 3, 16_364, 16_365, 40_000, 2**32 - 1)),
    *(n.to_bytes(2, "big") for n in (0, 1, 16_368, 16_369, 65_535)),
    *(b"\xd9" + n.to_bytes(2, "big") for n in range(22_497, 22_504)),
]


class Lines:
    """The lines of the library that were ever run."""

    def __init__(self) -> None:
        self.seen: set[tuple[str, int]] = set()

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
        return self._line if frame.f_code.co_filename.startswith(_LIBRARY) else None

    def _line(self, frame: FrameType, event: str, arg: Any) -> Any:
        self.seen.add((frame.f_code.co_filename, frame.f_lineno))
        return self._line


def mutated(data: bytes, pool: list[bytes], rng: random.Random) -> bytes:
    """`data` after a few small injuries."""
    for _ in range(rng.choice((1, 1, 2, 3, 6))):
        at = rng.randint(0, len(data))
        end = min(len(data), at + rng.choice((0, 1, 2, 4, 8, 16, 64)))
        match rng.randrange(7):
            case 0 if data:
                at = rng.randrange(len(data))
                data = data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1 :]
            case 1:
                data = data[:at] + rng.choice(_TELLING) + data[end:]
            case 2:
                data = data[:at] + data[end:]
            case 3:
                data = data[:end] + data[at:end] * rng.choice((1, 1, 2, 50)) + data[end:]
            case 4:
                other = rng.choice(pool)
                start = rng.randint(0, len(other))
                data = data[:at] + other[start : start + rng.choice((4, 16, 64, 4096))] + data[end:]
            case 5:
                data = data[:at] + rng.randbytes(rng.randint(1, 4)) + data[end:]
            case _:
                data = data + rng.choice(pool)
    return data[:MAX_INPUT_BYTES]


def keep(name: str, data: bytes) -> Path:
    """Put an input into the corpus."""
    path = CORPUS / name / f"{hashlib.sha256(data).hexdigest()[:16]}.bin"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def search(name: str, seconds: float, rng: random.Random) -> int:
    """Try inputs on one target; return how many broke its invariant."""
    target = TARGETS[name]
    lines = Lines()
    pool = [*SEEDS[target], *(path.read_bytes() for path in corpus(name))]
    breaches: set[str] = set()
    tried = kept = 0
    end = time.monotonic() + seconds
    untried = list(pool)
    while untried or time.monotonic() < end:
        data = untried.pop() if untried else mutated(rng.choice(pool), pool, rng)
        tried += 1
        started = time.monotonic()
        try:
            new = lines.reached_by(lambda data=data: target(data))  # type: ignore[misc]
            assert time.monotonic() - started < MAX_SECONDS, "it took too long"
        except Exception as error:
            last = traceback.extract_tb(error.__traceback__)[-1]
            where = f"{type(error).__name__} at {last.filename}:{last.lineno}"
            if where not in breaches:  # one input for each defect
                breaches.add(where)
                print(f"{name}: BROKEN by {keep(name, data)}\n{traceback.format_exc()}")  # noqa: T201
            continue
        if new and data not in pool:
            pool.append(data)
            if len(data) <= MAX_KEPT_BYTES:
                keep(name, data)
                kept += 1
    print(f"{name}: {tried} inputs, {len(lines.seen)} lines, {kept} kept, {len(breaches)} broken")  # noqa: T201
    return len(breaches)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--minutes", type=float, default=1.0, help="for all targets together")
    parser.add_argument("--seed", type=int, default=None, help="of the mutations")
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=", ".join(TARGETS))
    options = parser.parse_args()
    unknown = set(options.targets) - set(TARGETS)
    if unknown:
        parser.error(f"no target is called {', '.join(sorted(unknown))}")
    names = options.targets or list(TARGETS)
    rng = random.Random(options.seed)
    seconds = options.minutes * 60 / len(names)
    return 1 if sum(search(name, seconds, rng) for name in names) else 0


if __name__ == "__main__":
    sys.exit(main())
