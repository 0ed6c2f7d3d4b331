"""The command line: `list`, `run` and `compare`.  Errors are one line and a non-zero exit."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from benchmarks import reporting, sides, workloads
from benchmarks.comparing import compare as compare_sides
from benchmarks.running import RunFailed, run_once
from benchmarks.workloads import Workload

LEAST_PAIRS = 5

time_option = click.option(
    "--time",
    "factor",
    type=click.FloatRange(min=0, min_open=True),
    default=1.0,
    show_default=True,
    help="Let timed parts last so many times as long.",
)
json_option = click.option(
    "--json", "json_file", type=click.Path(dir_okay=False, path_type=Path), help="Write figures."
)


def _choose(names: tuple[str, ...], factor: float) -> list[Workload]:
    for name in names:
        if name not in workloads.BY_NAME:
            known = ", ".join(workloads.BY_NAME)
            raise click.ClickException(f"there is no workload {name!r}; there are: {known}")
    chosen = [workloads.BY_NAME[name] for name in names] if names else list(workloads.ALL)
    return [workload.lasting(factor) for workload in chosen]


def _write(file: Path | None, value: Any) -> None:
    if file is not None:
        _write_text(file, json.dumps(value, indent=1) + "\n")


def _write_text(file: Path, text: str) -> None:
    try:
        file.write_text(text)
    except OSError as error:
        raise click.ClickException(f"cannot write {file}: {error.strerror}") from None


@click.group()
def main() -> None:
    """Measure Steinadler, alone or beside something else."""


@main.command("list")
def list_() -> None:
    """The workloads, and who there is to compare with."""
    table = Table("workload", "what is measured")
    for workload in workloads.ALL:
        table.add_row(workload.name, workload.about)
    peers = Table("peer", "what", "how it talks", "installed")
    for peer in sides.PEERS:
        missing = peer.missing()
        peers.add_row(peer.name, peer.title, peer.security, "yes" if missing is None else "no")
    console = Console()
    console.print(table)
    console.print(peers)


@main.command()
@click.argument("names", nargs=-1)
@time_option
@json_option
def run(names: tuple[str, ...], factor: float, json_file: Path | None) -> None:
    """Measure our side of the workloads NAMES (by default all), once each."""
    table = Table("workload", "figures")
    results = {}
    for workload in _choose(names, factor):
        results[workload.name] = run_once(sides.OURS, workload)
        figures = results[workload.name]
        shown = [f"{f.key} {reporting.number(figures[f.key])}" for f in workload.figures]
        table.add_row(workload.name, ", ".join(shown))
    Console().print(table)
    _write(json_file, results)


@main.command()
@click.argument("peer")
@click.option("-w", "--workload", "names", multiple=True, help="Only this one; may be repeated.")
@click.option("--pairs", type=click.IntRange(min=1), default=LEAST_PAIRS, show_default=True)
@time_option
@json_option
@click.option(
    "--markdown",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write the table: into its place in a document such as docs/performance.md, or alone.",
)
@click.option("--plot", type=click.Path(dir_okay=False, path_type=Path), help="Write an SVG.")
def compare(
    peer: str,
    names: tuple[str, ...],
    pairs: int,
    factor: float,
    json_file: Path | None,
    markdown: Path | None,
    plot: Path | None,
) -> None:
    """Measure ours and PEER's side in turn; say how they compare.

    Fewer than five pairs are good for trying it out, not for a result.
    """
    if peer not in sides.BY_NAME:
        known = ", ".join(sides.BY_NAME)
        raise click.ClickException(f"there is no peer {peer!r}; there are: {known}")
    missing = sides.BY_NAME[peer].missing()
    if missing is not None:
        raise click.ClickException(missing)
    chosen = _choose(names, factor)
    progress = Console(stderr=True)
    with progress.status("") as status:
        result = compare_sides(sides.BY_NAME[peer], chosen, pairs, run_once, status.update)
    console = Console()
    console.print(reporting.terminal_table(result))
    for name, why in result.gaps.items():
        console.print(f"{peer} cannot do {name}: {why}")
    _write(json_file, result.as_json())
    if markdown is not None:
        before = markdown.read_text() if markdown.exists() else ""
        _write_text(markdown, reporting.filled(before, peer, reporting.markdown(result)))
    if plot is not None:
        _write_text(plot, reporting.svg(result))


if __name__ == "__main__":
    try:
        main()
    except RunFailed as error:
        sys.exit(f"Error: {error}")
