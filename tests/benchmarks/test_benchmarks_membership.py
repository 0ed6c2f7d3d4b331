"""The promises S1 and S2 as real processes keep them; a few runs of what the benchmark repeats."""

from __future__ import annotations

import pytest

from benchmarks.membership import pause, silence, spread


def test_times_are_told_by_nearest_rank() -> None:
    assert spread([0.003, 0.001, 0.002]) == {
        "count": 3,
        "min_ms": 1.0,
        "p50_ms": 2.0,
        "p99_ms": 3.0,
        "max_ms": 3.0,
    }


@pytest.mark.slow
async def test_a_killed_process_is_down_at_once_s1() -> None:
    """S1: at both others.  Bounded loosely: the machine has other things to do."""
    figures = await silence("kill", runs=3)
    assert figures["count"] == 6
    assert figures["max_ms"] < 500


@pytest.mark.slow
async def test_a_stopped_process_is_down_after_two_to_three_seconds_s1_s2() -> None:
    """S1 and S2: at both others, and it comes back."""
    figures = await silence("stop", runs=2)
    assert figures["count"] == 4
    assert 2000 < figures["min_ms"] <= figures["max_ms"] < 4000


@pytest.mark.slow
async def test_a_process_stopped_for_a_second_and_a_half_is_forgiven_s2() -> None:
    """S2: by all, and all by it."""
    assert await pause(runs=3) == {"runs": 3, "declared_down": 0}
