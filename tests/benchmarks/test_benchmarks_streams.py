"""The benchmark of streams: its arithmetic is right, and every part yields its figures.

Nothing here looks at how fast anything is.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.measuring import Figures
from benchmarks.streams import PARTS, Job, Row, in_turn

ROOT = Path(__file__).resolve().parents[2]


def streams(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "benchmarks.streams", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def test_ratios_are_taken_pair_by_pair_and_their_median_is_what_a_target_is_for() -> None:
    row = Row("MB/s", (80.0, 10.0, 90.0), (100.0, 10.0, 100.0), 0.9, of_ratio=True)
    assert row.ratios == [0.8, 1.0, 0.9]
    assert row.reached is True
    assert Row("MB/s", (80.0,), (100.0,), 0.9, of_ratio=True).reached is False


def test_a_limit_is_of_our_own_median_and_less_may_be_better() -> None:
    assert Row("p99", (9.0, 12.0, 10.0), target=10.0, more=False).reached is True
    assert Row("p99", (9.0, 12.0, 11.0), target=10.0, more=False).reached is False
    assert Row("a second", (9.0, 12.0, 11.0), target=10.0).reached is True
    assert Row("a second", (9.0,)).reached is None


def test_sides_take_turns_and_so_does_who_begins() -> None:
    order: list[str] = []

    def side(name: str) -> Figures:
        order.append(name)
        return {"number": float(len(order))}

    def ours(job: Job) -> Figures:
        return side("ours")

    def peer(job: Job) -> Figures:
        return side("peer")

    got = in_turn({"ours": ours, "peer": peer}, {}, 3)
    assert order == ["ours", "peer", "peer", "ours", "ours", "peer"]
    assert [each["number"] for each in got["ours"]] == [1, 4, 5]


def test_an_unknown_part_is_refused_with_the_known_ones() -> None:
    done = streams("thruput")
    assert done.returncode == 2
    assert "throughput" in done.stderr


@pytest.mark.slow
def test_every_part_yields_its_figures(tmp_path: Path) -> None:
    """For so short a time that they mean nothing: about 30 s in all."""
    parts = [part for part in PARTS if part != "curl" or shutil.which("curl")]
    file = tmp_path / "figures.json"
    done = streams(*parts, "--pairs", "1", "--seconds", "0.1", "--json", str(file))
    assert done.returncode == 0, done.stderr
    results = json.loads(file.read_text())
    assert set(results) == {"load_before", *parts}
    for part in parts:
        for row in results[part]:
            assert len(row["ours"]) == 1, row
            assert row["ours"][0] > 0 or "growth" in row["figure"], row
