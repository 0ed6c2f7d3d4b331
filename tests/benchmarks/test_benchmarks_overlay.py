"""Clusters of many members, as the benchmark measures them: the targets, at sizes that tests have
time for, from one seed."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from xml.etree import ElementTree

import pytest

from benchmarks import overlay_engines, overlay_nodes
from benchmarks.overlay_engines import Engines
from benchmarks.overlay_figures import Figures, as_json, plot, verdicts
from steinadler import Config, MembershipSettings
from steinadler.membership.overlay import Overlay

ROOT = Path(__file__).resolve().parents[2]
Measure = Callable[[int, int, Config, Callable[[str], None], int], Figures]


def figures_of(
    measure: Measure, *sizes: int, config: Config | None = None, repeats: int = 1
) -> list[Figures]:
    lines: list[str] = []
    found = [measure(size, 5, config or Config(), lines.append, repeats) for size in sizes]
    assert len(lines) >= len(sizes)
    return found


def reached(figures: list[Figures], settings: MembershipSettings) -> bool:
    return all(verdicts(figures, settings).values())


@pytest.fixture(scope="module")
def forty() -> Figures:
    """Forty engines."""
    return figures_of(overlay_engines.measure, 40)[0]


@pytest.mark.slow
def test_engines_of_forty_and_of_a_hundred_members(forty: Figures) -> None:
    """A join, a kill and a silence are known in time, at the same load of each node."""
    figures = [forty, *figures_of(overlay_engines.measure, 100)]
    assert reached(figures, MembershipSettings())
    assert all(each.connections[0] >= 8 for each in figures)
    assert all(each.silences[0].seconds > 2 for each in figures)  # S2


@pytest.mark.slow
def test_whole_nodes_beyond_a_mesh() -> None:
    """The same with everything that a node is, where a mesh ends at six."""
    config = Config(membership=MembershipSettings(mesh_size=6, rings=3))
    figures = figures_of(overlay_nodes.run, 14, config=config)
    assert reached(figures, config.membership)
    assert figures[0].connections[2] <= 6


@pytest.mark.slow
def test_sixty_whole_nodes() -> None:
    """At default settings."""
    assert reached(figures_of(overlay_nodes.run, 60), MembershipSettings())


@pytest.mark.slow
def test_a_thousand_engines() -> None:
    """At default settings, and no busier than a hundred."""
    assert reached(figures_of(overlay_engines.measure, 100, 1000), MembershipSettings())


def test_one_seed_is_one_run(forty: Figures) -> None:
    """But for the CPU that it took."""
    (again,) = figures_of(overlay_engines.measure, 40)
    assert replace(again, cpu_s=forty.cpu_s) == forty


def test_a_cluster_that_founders_share_is_one_in_which_all_met() -> None:
    """What tables have in common is kept once: nothing else differs from tables of their own."""
    settings = MembershipSettings()
    here = Engines(60, 1, settings)
    here.run(2.0)
    here.join()
    here.kill()
    here.run(1.0)
    assert here.agreed()
    running = {host.id for host in here.running()}
    for host in here.running():
        assert {member.node for member in host.engine.members()} == running
        overlay = Overlay(settings.mesh_size, settings.rings)
        for node in running:
            overlay.add(node.name)
        found = overlay.neighbours_of(host.id.name)
        assert {node.name for node in host.engine.neighbours()} == set(found)


def test_a_target_that_is_missed_is_said_to_be(forty: Figures) -> None:
    figures = forty
    settings = MembershipSettings()
    late = replace(figures.silences[0], seconds=9.0)
    for worse in (
        replace(figures, wrong=1),
        replace(figures, silences=(late,)),
        replace(figures, joins=(late,)),
        replace(figures, kills=(late,)),
        replace(figures, connections=(9, 12.0, 17)),
        replace(figures, rest=replace(figures.rest, messages=figures.rest.messages * 2)),
    ):
        assert list(verdicts([figures, worse], settings).values()).count(False) == 1


def test_figures_are_written_drawn_and_put_together(forty: Figures, tmp_path: Path) -> None:
    figures = forty
    settings = MembershipSettings()
    for members in (40, 400):
        told = as_json("engines", 5, [replace(figures, members=members)], settings)
        (tmp_path / f"{members}.json").write_text(json.dumps(told))
        assert Figures.from_json(json.loads(json.dumps(asdict(figures)))) == figures
    command = [sys.executable, "-m", "benchmarks.overlay", "together"]
    files = [str(tmp_path / f"{members}.json") for members in (400, 40)]
    written = ["--json", str(tmp_path / "all.json"), "--plot", str(tmp_path / "all.svg")]
    done = subprocess.run(
        [*command, *files, *written], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert "NOT REACHED" not in done.stdout
    together = json.loads((tmp_path / "all.json").read_text())
    assert [size["members"] for size in together["sizes"]] == [40, 400]
    drawn = ElementTree.fromstring((tmp_path / "all.svg").read_text())
    assert len(drawn.findall("{http://www.w3.org/2000/svg}g")) == 5
    assert plot("one size", [figures], settings)
