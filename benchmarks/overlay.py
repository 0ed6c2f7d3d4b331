"""Membership at scale: who is told when, who is connected to whom, and what it costs.

    python -m benchmarks.overlay nodes   [--sizes 100,300,1000] [--seed N]
    python -m benchmarks.overlay engines [--sizes 100,1000,10000] [--json FILE] [--plot FILE]

Everything is simulated: time, latencies (0.2 to 1 ms each way) and every choice come from the seed,
so a busy machine makes it slower and changes no figure but that of CPU.  **nodes** are whole nodes
(`overlay_nodes`); **engines** are membership's engines alone (`overlay_engines`).

A cluster of each size is brought up, left alone for a while, and looked at; and then members join,
are killed and fall silent, one after the other, three times over.  An exit code of 1 says that a
target was missed.  `together FILE... --json FILE --plot FILE` makes one of several runs.
"""

from __future__ import annotations

import contextlib
import gc
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import click
from rich.console import Console
from rich.table import Table

from benchmarks import overlay_engines, overlay_nodes
from benchmarks.overlay_figures import HEADINGS, Figures, as_json, plot, rows, verdicts
from benchmarks.running import RunFailed
from steinadler.config import Config

Measure = Callable[[int, int, Config, Callable[[str], None]], Figures]


class Sizes(click.ParamType):
    """Numbers of members, smallest first."""

    name = "sizes"

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[int, ...]:
        if isinstance(value, tuple):
            return value
        try:
            sizes = tuple(sorted({int(part) for part in value.split(",")}))
        except ValueError:
            self.fail(f"{value!r} is not numbers with commas between them", param, ctx)
        if sizes[0] < 3:
            self.fail("a cluster to be measured has three members or more", param, ctx)
        return sizes


def report(
    what: str, seed: int, figures: Sequence[Figures], json_: Path | None, plot_: Path | None
) -> bool:
    """Print, and write, what was found; whether all targets are reached."""
    settings = Config().membership
    console = Console()
    table = Table(*HEADINGS, title=f"{what}, seed {seed}")
    for row in rows(figures, settings):
        table.add_row(*row)
    console.print(table)
    found = verdicts(figures, settings)
    for target, reached in found.items():
        console.print(f"{'reached' if reached else 'NOT REACHED'}: {target}")
    if json_ is not None:
        told = as_json(what, seed, figures, settings)
        json_.write_text(json.dumps(told, indent=1) + "\n")
    if plot_ is not None:
        plot_.write_text(plot(f"Membership at scale: {what}", figures, settings))
    return all(found.values())


@contextlib.contextmanager
def few_collections() -> Iterator[None]:
    """A full collection of so many objects takes seconds, and finds little."""
    thresholds = gc.get_threshold()
    gc.set_threshold(200_000, 50, 1_000)
    try:
        yield
    finally:
        gc.set_threshold(*thresholds)


def measured(measure: Measure, sizes: Sequence[int], seed: int) -> list[Figures]:
    """The figures of all sizes; how far it is goes to the standard error."""
    figures = []
    for size in sizes:

        def told(text: str, size: int = size) -> None:
            click.echo(f"{size} members: {text}", err=True)

        try:
            with few_collections():
                figures.append(measure(size, seed, Config(), told))
        except RunFailed as error:
            raise click.ClickException(f"{size} members: {error}") from None
    return figures


@click.group()
def main() -> None:
    """Measure clusters of many members, in simulated time."""


output = click.Path(dir_okay=False, path_type=Path)
json_option = click.option("--json", "json_", type=output, help="Write the figures.")
plot_option = click.option("--plot", "plot_", type=output, help="Draw them, as SVG.")


def _command(name: str, what: str, sizes: str, measure: Measure, about: str) -> None:
    @main.command(name, help=about)
    @click.option("--sizes", type=Sizes(), default=sizes, show_default=True)
    @click.option("--seed", type=int, default=1, show_default=True)
    @json_option
    @plot_option
    def command(sizes: tuple[int, ...], seed: int, json_: Path | None, plot_: Path | None) -> None:
        if not report(what, seed, measured(measure, sizes, seed), json_, plot_):
            raise SystemExit(1)


_command(
    "nodes",
    "whole nodes on a simulated network",
    "100,300,1000",
    overlay_nodes.run,
    "Whole nodes.  A thousand take three quarters of an hour of CPU, and 4 GB.",
)
_command(
    "engines",
    "membership's engines alone",
    "100,300,1000,3000,10000",
    overlay_engines.measure,
    "Engines alone.  Ten thousand take a quarter of an hour of CPU.",
)


@main.command("together")
@click.argument("files", nargs=-1, required=True, type=click.File())
@json_option
@plot_option
def together_command(files: Sequence[IO[str]], json_: Path | None, plot_: Path | None) -> None:
    """Make one of several runs: large sizes may take their time, each in a process of its own."""
    runs = [json.load(file) for file in files]
    if len({(run["what"], run["seed"], json.dumps(run["settings"])) for run in runs}) > 1:
        raise click.ClickException("the files are of different kinds, seeds or settings")
    figures = [Figures.from_json(size) for run in runs for size in run["sizes"]]
    figures.sort(key=lambda each: each.members)
    if not report(runs[0]["what"], runs[0]["seed"], figures, json_, plot_):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
