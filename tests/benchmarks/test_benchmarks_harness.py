"""The benchmarks' harness: it runs, its arithmetic is right, and it refuses in one line.

Nothing here looks at how fast anything is.
"""

from __future__ import annotations

import json
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from benchmarks import reporting, sides, workloads
from benchmarks.comparing import Comparison, Row, compare
from benchmarks.measuring import Figures, drive, in_threads, spread
from benchmarks.running import RunFailed
from benchmarks.sides import OURS, Description
from benchmarks.workloads import Better, Figure, Workload

ROOT = Path(__file__).resolve().parents[2]
ERLANG = sides.BY_NAME["erlang"]
CALL = workloads.BY_NAME["call"]
ONE_WAY = workloads.BY_NAME["one-way-1"]


def benchmarks(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "benchmarks", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )


# -- it runs --------------------------------------------------------------------------------------


@pytest.mark.slow
def test_our_side_of_every_timed_loop_yields_all_its_figures(tmp_path: Path) -> None:
    names = ["call", "one-way-16", "calls-16", "large", "slow-receiver"]
    file = tmp_path / "figures.json"
    done = benchmarks("run", *names, "--time", "0.01", "--json", str(file))
    assert done.returncode == 0, done.stderr
    figures = json.loads(file.read_text())
    assert list(figures) == names
    for name in names:
        assert {f.key for f in workloads.BY_NAME[name].figures} <= set(figures[name])
    assert figures["one-way-16"]["messages_per_s"] > 0


@pytest.mark.slow
def test_dialling_gives_the_first_and_the_later_times(tmp_path: Path) -> None:
    file = tmp_path / "figures.json"
    done = benchmarks("run", "dial", "--json", str(file))
    assert done.returncode == 0, done.stderr
    figures = json.loads(file.read_text())["dial"]
    assert figures["first_ms"] > 0
    assert figures["again_ms"] > 0


def test_list_names_every_workload_and_every_peer() -> None:
    done = benchmarks("list")
    assert done.returncode == 0
    for workload in workloads.ALL:
        assert workload.name in done.stdout
    for peer in sides.PEERS:
        assert peer.name in done.stdout


# -- it refuses in one line -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["run", "calls-17"], "there is no workload 'calls-17'"),
        (["compare", "thespian"], "there is no peer 'thespian'"),
        (["run", "call", "--time", "0.01", "--json", "/nowhere/at/all"], "cannot write"),
    ],
)
def test_a_wrong_argument_is_one_line_and_a_failure(arguments: list[str], complaint: str) -> None:
    done = benchmarks(*arguments)
    assert done.returncode != 0
    assert complaint in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_a_peer_that_is_not_installed_says_how_to_install_it() -> None:
    absent = Description(
        "none", "Nothing", "nowhere", "clear text",
        needs_modules=("no_such_module_here",), install="pip install nothing",
    )  # fmt: skip
    missing = absent.missing()
    assert missing is not None
    assert "no_such_module_here" in missing
    assert "pip install nothing" in missing
    assert "\n" not in missing


# -- its arithmetic -------------------------------------------------------------------------------


def test_a_ratio_is_taken_within_a_pair_and_its_median_over_pairs() -> None:
    # The machine was three times slower in the last pair; the ratios do not mind.
    row = Row(CALL, CALL.figures[0], ours=(100.0, 110.0, 300.0), theirs=(200.0, 200.0, 600.0))
    assert row.ratios == [0.5, 0.55, 0.5]
    assert row.ratio == 0.5
    assert row.advantage == 2.0


@pytest.mark.parametrize(
    ("better", "ratio", "reached"),
    [
        (Better.LOWER, 0.9, True),
        (Better.LOWER, 1.1, False),
        (Better.HIGHER, 1.1, True),
        (Better.HIGHER, 0.9, False),
    ],
)
def test_a_target_is_reached_on_the_better_side_of_it(
    better: Better, ratio: float, reached: bool
) -> None:
    figure = Figure("value", "s", better)
    workload = Workload(
        "some", "", workloads.Kind.CALL, (figure,), 1.0, targets=(workloads.Target("value", 1.0),)
    )
    assert Row(workload, figure, (ratio,), (1.0,)).reached() is reached


def test_a_target_of_ours_alone_needs_no_peer() -> None:
    memory = workloads.BY_NAME["process-memory"]
    assert Row(memory, memory.figures[0], (4000.0,), (0.0,)).reached() is True
    assert Row(memory, memory.figures[0], (5000.0,), (0.0,)).reached() is False


def test_percentiles_of_a_known_sample() -> None:
    figures = spread([number / 1e6 for number in range(1, 102)])
    assert figures == {"p50_us": 51.0, "p99_us": 100.0}


def test_sides_take_turns_and_each_goes_first_in_half_of_the_pairs() -> None:
    order: list[str] = []

    def run(side: Description, workload: Workload) -> Figures:
        order.append(side.name)
        return {"p50_us": 1.0, "p99_us": 1.0, "cpu_us": 1.0}

    compare(ERLANG, [CALL], 2, run, lambda _: None)
    assert order == ["steinadler", "erlang", "erlang", "steinadler"]


def test_what_a_peer_cannot_do_is_a_gap_with_its_reason_and_ours_is_measured() -> None:
    rpyc = sides.BY_NAME["rpyc"]

    def run(side: Description, workload: Workload) -> Figures:
        assert side is OURS
        return {"messages_per_s": 10.0, "cpu_us": 1.0}

    result = compare(rpyc, [ONE_WAY], 2, run, lambda _: None)
    assert "one-way" in result.gaps["one-way-1"]
    assert result.rows[0].ours == (10.0, 10.0)
    assert result.rows[0].ratio is None
    assert "cannot" in reporting.markdown(result)


def test_a_peer_that_fails_is_a_gap_and_ours_that_fails_is_an_error() -> None:
    def failing(which: str) -> Comparison:
        def run(side: Description, workload: Workload) -> Figures:
            if side.name == which:
                raise RunFailed("it fell over")
            return {"messages_per_s": 10.0, "cpu_us": 1.0}

        return compare(ERLANG, [ONE_WAY], 2, run, lambda _: None)

    assert failing("erlang").gaps == {"one-way-1": "failed: it fell over"}
    with pytest.raises(RunFailed, match="it fell over"):
        failing("steinadler")


def test_the_plot_is_well_formed_and_has_a_bar_for_each_compared_workload() -> None:
    comparison = Comparison(ERLANG, 1, load_before=0.0)
    comparison.rows = [
        Row(CALL, CALL.figures[0], (100.0,), (200.0,)),
        Row(ONE_WAY, ONE_WAY.figures[0], (600.0,), (300.0,)),
        Row(ONE_WAY, ONE_WAY.figures[0], (600.0,), (0.0,)),  # nothing to compare with
    ]
    picture = ElementTree.fromstring(reporting.svg(comparison))
    texts = [element.text for element in picture.iter() if element.tag.endswith("text")]
    assert texts.count("2.00x") == 2


def test_a_busy_machine_is_said_in_the_caption() -> None:
    assert "not idle" in reporting.caption(Comparison(ERLANG, 5, load_before=2.5))
    assert "not idle" not in reporting.caption(Comparison(ERLANG, 5, load_before=0.1))


def test_a_table_goes_into_its_own_place_of_a_document() -> None:
    document = "# P\n<!-- erlang -->\nold\n<!-- end -->\n<!-- ray -->\nkept\n<!-- end -->\n"
    filled = reporting.filled(document, "erlang", "new\n")
    assert filled == document.replace("old", "new")
    assert reporting.filled("", "erlang", "new\n") == "new\n"


# -- sides that block -----------------------------------------------------------------------------


def test_a_failure_in_one_of_several_threads_is_not_lost() -> None:
    async def fine() -> None: ...

    async def broken() -> None:
        raise ValueError("in a thread")

    with pytest.raises(ValueError, match="in a thread"):
        drive(in_threads, fine, broken)
