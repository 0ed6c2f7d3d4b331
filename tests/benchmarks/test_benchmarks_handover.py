"""Handover through real sidecars: no call fails, nothing is lost; and what is counted as what."""

from __future__ import annotations

import pytest

from benchmarks.handover import measure, pauses, spread
from benchmarks.handover_load import Done, Sidecars


def test_a_pause_is_the_time_of_a_new_owners_first_call() -> None:
    calls = [
        Done("1", 0.0, 0.1, "alice"),
        Done("2", 0.0, 0.2, "bob"),
        Done("1", 1.0, 1.5, "bob"),  # it moved, and this one waited
        Done("1", 2.0, 2.9, "bob"),
        Done("2", 2.0, 2.1, "bob"),
        Done("1", 3.0, 3.25, "alice"),  # and back
    ]
    assert pauses(calls[::-1]) == [0.5, 0.25]
    assert spread([0.5, 0.25]) == {"p50_ms": 500.0, "p99_ms": 500.0, "max_ms": 500.0}


def test_a_sidecar_that_turned_somebody_away_is_not_called() -> None:
    sidecars = Sidecars({"alice": 1, "bob": 2, "carol": 3})
    assert {sidecars.next() for _ in range(3)} == {"alice", "bob", "carol"}
    sidecars.turned_away("bob")
    sidecars.turned_away("bob")
    assert {sidecars.next() for _ in range(4)} == {"alice", "carol"}
    sidecars.turned_away("alice")
    sidecars.turned_away("carol")
    assert sidecars.next() is None


@pytest.mark.slow
async def test_a_rolling_restart_of_real_sidecars_fails_no_call_e2_e3() -> None:
    """And after a kill the next call comes through; every counter holds what was acknowledged."""
    figures = await measure(rounds=1, kills=1, rate=40.0, ids=30, say=lambda _: None)
    assert figures["miscounted"] == []
    rolling = figures["rolling"]
    assert (rolling["failed"], rolling["moved"] > 10, rolling["calls"] > 100) == (0, True, True)
    assert figures["kill"]["to_next_call"]["max_ms"] < 10_000  # on whatever machine this is
