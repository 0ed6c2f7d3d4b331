"""A process that never reads, and many that push at it: only they wait, and memory is bounded (M6).

Two operating-system processes.  In turn, the same senders push as hard as they can at a process
that reads and at one that never does, while calls to a third one are timed.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import trio
from running_programs import Program

MOST_GROWTH_MIB = 64
# At most double is promised; the rest is what a busy machine does to a figure of milliseconds.
MOST_RATIO, NOISE_MS = 2 * 1.25, 5


@pytest.mark.skipif(sys.platform != "linux", reason="reads resident memory from /proc")
@pytest.mark.parametrize(
    ("windows", "stone_s", "sink_s"),
    [(3, 0.2, 0.2), pytest.param(6, 5, 0.6, marks=pytest.mark.slow)],
    ids=["seconds", "half a minute"],
)
async def test_a_process_that_never_reads_costs_only_its_senders(
    windows: int,
    stone_s: float,
    sink_s: float,
    tmp_path: Path,
    nursery: trio.Nursery,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """M6, X4: memory of both nodes grows 64 MiB at most; calls to others stay as fast."""
    numbers = map(str, (windows, stone_s, sink_s))
    with trio.fail_after(60 + 2 * windows * (stone_s + sink_s)):
        receiver = await nursery.start(Program.run, tmp_path, "receive")
        assert await receiver.answer() == {"ready": True}
        flood = await nursery.start(Program.run, tmp_path, "flood", *numbers)
        found = await flood.answer()
    nursery.cancel_scope.cancel()
    with capsys.disabled():
        print(f"\n{found}")  # noqa: T201
    assert found["members"] == 2
    # The load is far over what a process that reads could take, and some of it was pushed on.
    assert found["sent"]["sink"] > 10 * found["sent"]["stone"] > 0
    assert found["refused"]["stone"] > 0
    assert max(found["growth_mib"]) <= MOST_GROWTH_MIB, found
    assert found["p99_ms"]["stone"] <= MOST_RATIO * found["p99_ms"]["sink"] + NOISE_MS, found
