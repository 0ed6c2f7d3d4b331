"""Streams, each beside what a program would use without them, in the same run.

    python -m benchmarks.streams throughput     bytes, and calls meanwhile: half a minute
    python -m benchmarks.streams all            every part, one after the other
    python -m benchmarks.streams --help         the parts

Two servers run, each with a client in a process of its own (`stream_sides`): two nodes, and two
programs with `trio.SSLStream` on TCP.  They take turns, a slice of time each, in the opposite
order in each next pair; a ratio is taken within a pair, and the median over the pairs is what
counts.  The parts through `steinadler expose` and `steinadler forward` are in `stream_proxy`.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from benchmarks import stream_proxy
from benchmarks.comparing import IDLE_LOAD
from benchmarks.measuring import Figures
from benchmarks.running import RunFailed, environment, started
from benchmarks.stream_sides import BARE, OURS

Job = dict[str, Any]
CURL_BYTES = 1024**3


@dataclass(frozen=True, slots=True)
class Row:
    """One figure over all pairs, ours beside the peer's."""

    name: str
    ours: tuple[float, ...]
    peer: tuple[float, ...] = ()
    # The limit, of the median of the ratios or else of ours, and whether more is better.
    target: float | None = None
    of_ratio: bool = False
    more: bool = True

    @property
    def ratios(self) -> list[float]:
        """Ours / theirs, pair by pair."""
        return [a / b for a, b in zip(self.ours, self.peer, strict=True)] if self.peer else []

    @property
    def reached(self) -> bool | None:
        """Whether the target is reached; None when there is none."""
        if self.target is None:
            return None
        value = median(self.ratios if self.of_ratio else self.ours)
        return value >= self.target if self.more else value <= self.target

    def as_json(self) -> dict[str, Any]:
        return {
            "figure": self.name,
            "ours": self.ours,
            "peer": self.peer,
            "ratio": median(self.ratios) if self.ratios else None,
            "target": self.target,
            "reached": self.reached,
        }


@contextlib.contextmanager
def side(kind: str) -> Iterator[Callable[[Job], Figures]]:
    """A server and its client; a function that has the client do a job."""
    with tempfile.TemporaryDirectory(prefix="steinadler-bench-") as folder:
        variables = environment(Path(folder))
        program = [sys.executable, "-m", "benchmarks.stream_sides"]
        with started([*program, "serve", kind, folder], variables) as server:
            ready = json.dumps(server.ready)
            with started([*program, "drive", kind, ready], variables) as client:
                yield client.ask


@contextlib.contextmanager
def both() -> Iterator[dict[str, Callable[[Job], Figures]]]:
    with side(OURS) as ours, side(BARE) as bare:
        yield {OURS: ours, BARE: bare}


def in_turn(
    sides: dict[str, Callable[[Job], Figures]], job: Job, pairs: int
) -> dict[str, list[Figures]]:
    """The job on each side, so often; which side begins changes."""
    figures: dict[str, list[Figures]] = {name: [] for name in sides}
    order = list(sides)
    for _ in range(pairs):
        for name in order:
            figures[name].append(sides[name](job))
        order.reverse()
    return figures


def column(figures: list[Figures], key: str) -> tuple[float, ...]:
    return tuple(round(each[key], 4) for each in figures)


# -- the parts ------------------------------------------------------------------------------------


def throughput(pairs: int, seconds: float) -> list[Row]:
    rows = []
    with both() as sides:
        warm = {"do": "throughput", "streams": 1, "seconds": 0.3}
        in_turn(sides, warm, 1)
        for streams in (1, 64):
            got = in_turn(sides, {**warm, "streams": streams, "seconds": seconds}, pairs)
            ours, bare = got[OURS], got[BARE]
            name = f"{streams} stream{'s' * (streams > 1)}"
            rate, cpu = "mb_per_s", "cpu_s_per_gb"
            rows.append(
                Row(f"{name}, MB/s", column(ours, rate), column(bare, rate), 0.8, of_ratio=True)
            )
            rows.append(Row(f"{name}, CPU s/GB", column(ours, cpu), column(bare, cpu), more=False))
        slowest = "slowest_of_mean"
        rows.append(
            Row("slowest of 64 / mean", column(ours, slowest), column(bare, slowest), target=0.5)
        )
        for streams, target in ((0, None), (1, 10_000.0), (64, 10_000.0)):
            job = {"do": "calls", "streams": streams, "seconds": seconds}
            calls = [sides[OURS](job) for _ in range(pairs)]
            name = f"call, {streams} streams sending"
            rows.append(Row(f"{name}, p50 µs", column(calls, "p50_us"), more=False))
            rows.append(Row(f"{name}, p99 µs", column(calls, "p99_us"), target=target, more=False))
            if streams:
                rows.append(Row(f"{name}, MB/s meanwhile", column(calls, rate)))
    return rows


def short_lived(pairs: int, seconds: float) -> list[Row]:
    rows = []
    with both() as sides:
        for width, target in ((1, None), (16, 1000.0)):
            job = {"do": "short_lived", "width": width, "seconds": seconds}
            in_turn(sides, {**job, "seconds": 0.3}, 1)
            got = in_turn(sides, job, pairs)
            for key, shown in (("streams_per_s", "/s"), ("cpu_us", "µs of CPU each")):
                rows.append(
                    Row(
                        f"used and closed, {width} at once, {shown}",
                        column(got[OURS], key),
                        column(got[BARE], key),
                        target if key == "streams_per_s" else None,
                        more=key == "streams_per_s",
                    )
                )
    return rows


def idle(pairs: int, seconds: float) -> list[Row]:
    """Once, in fresh programs: what one set of streams leaves to the next would not be growth."""
    del pairs, seconds
    rows = []
    for used, name in ((False, "idle streams"), (True, "the same, once used")):
        with side(OURS) as ours, side(BARE) as bare:
            figures = ours({"do": "idle", "streams": 10_000, "used": used})
            less = bare({"do": "idle", "streams": 500, "used": used})
        rows.append(
            Row(f"10,000 {name}, MiB in both", column([figures], "mib"), (), 100.0, more=False)
        )
        for key, where in (("client_kib", "opener"), ("server_kib", "server, with its task")):
            row = Row(f"{name}, KiB each at the {where}", column([figures], key))
            rows.append(replace(row, peer=column([less], key), more=False))
    return rows


def stalled(pairs: int, seconds: float) -> list[Row]:
    job = {"do": "stalled", "streams": 4, "stalled": 8, "seconds": seconds}
    with side(OURS) as ours:
        ours({"do": "throughput", "streams": 4, "seconds": 0.3})
        got = [ours(job) for _ in range(pairs)]
    return [
        Row("4 streams, MB/s before and after", column(got, "otherwise_mb_per_s")),
        Row("4 streams, MB/s while 8 readers have stopped", column(got, "during_mb_per_s")),
        Row("while / before and after", column(got, "during_of_otherwise"), target=0.9),
        Row("in flight of each that stopped, KiB", column(got, "in_flight_kib"), more=False),
        Row("growth at the writer for each, KiB", column(got, "client_growth_kib"), more=False),
        Row("growth at the reader for each, KiB", column(got, "server_growth_kib"), more=False),
    ]


def objects(pairs: int, seconds: float) -> list[Row]:
    with side(OURS) as ours:
        sides = {"channel": ours, "messages": ours}
        got: dict[str, list[Figures]] = {name: [] for name in sides}
        order = list(sides)
        for number in range(pairs + 1):
            for name in order:
                figures = ours({"do": name, "seconds": seconds if number else 0.3})
                got[name] += [figures] if number else []
            order.reverse()
    return [
        Row(f"100-byte objects, {shown}", column(got["channel"], key), column(got["messages"], key))
        for key, shown in (("objects_per_s", "/s"), ("cpu_us", "µs of CPU each"))
    ]


def echo(pairs: int, seconds: float) -> list[Row]:
    got = stream_proxy.echo(pairs, seconds)
    rows = []
    for key, target in (("p50_us", 600.0), ("p99_us", None)):
        through, direct = column(got["through"], key), column(got["direct"], key)
        name = f"1-byte echo through forward and expose, {key[:3]} µs"
        rows.append(Row(name, through, direct, more=False))
        added = tuple(a - b for a, b in zip(through, direct, strict=True))
        rows.append(Row(f"added, {key[:3]} µs", added, target=target, more=False))
    return rows


def curl(pairs: int, seconds: float) -> list[Row]:
    size = CURL_BYTES if seconds >= 0.5 else CURL_BYTES // 64
    got = stream_proxy.curl(pairs, size)
    rate, cpu = "mb_per_s", "relay_cpu_s_per_gb"
    name = f"curl of {size >> 20} MiB through forward and expose, MB/s"
    through = column(got["through"], rate)
    return [
        Row(name, through, column(got["tls"], rate), 0.7, of_ratio=True),
        Row("the same, beside direct TCP", through, column(got["tcp"], rate)),
        Row("forward and expose, CPU s/GB", column(got["through"], cpu), more=False),
    ]


PARTS: dict[str, tuple[Callable[[int, float], list[Row]], str]] = {
    "throughput": (throughput, "trio.SSLStream"),
    "short-lived": (short_lived, "trio.SSLStream, dialled"),
    "idle": (idle, "trio.SSLStream"),
    "stalled": (stalled, "nobody"),
    "objects": (objects, "node.send"),
    "echo": (echo, "direct TCP"),
    "curl": (curl, "direct, TLS by trio.SSLStream"),
}


# -- the table ------------------------------------------------------------------------------------


def shown(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:,.3g}"


def spread_of(values: list[float] | tuple[float, ...]) -> str:
    if not values:
        return ""
    if len(values) == 1:
        return shown(values[0])
    return f"{shown(median(values))} ({shown(min(values))}-{shown(max(values))})"


def table_of(rows: list[Row], peer: str) -> Table:
    table = Table("figure: median (least-greatest)", "ours", peer, "ours / peer", "target")
    for row in rows:
        target = ""
        if row.target is not None:
            sign = "≥" if row.more else "≤"
            said = "reached" if row.reached else "NOT reached"
            target = f"{sign} {row.target:g}{'x' * row.of_ratio}, {said}"
        table.add_row(
            row.name, spread_of(row.ours), spread_of(row.peer), spread_of(row.ratios), target
        )
    return table


@click.command()
@click.argument("parts", nargs=-1, type=click.Choice(["all", *PARTS]), required=True)
@click.option("--pairs", type=click.IntRange(1), default=5, show_default=True)
@click.option("--seconds", type=click.FloatRange(0.05), default=0.7, show_default=True,
              help="Of one slice.")  # fmt: skip
@click.option("--json", "json_file", type=click.Path(dir_okay=False, path_type=Path))
def main(parts: tuple[str, ...], pairs: int, seconds: float, json_file: Path | None) -> None:
    """Measure PARTS of what streams do, each beside its peer."""
    console = Console(width=130)
    load = os.getloadavg()[0]
    if load > IDLE_LOAD:
        console.print(f"The machine is not idle: load {load:.1f}.")
    results: dict[str, Any] = {"load_before": load}
    for part in PARTS if "all" in parts else parts:
        measure, peer = PARTS[part]
        rows = measure(pairs, seconds)
        console.print(table_of(rows, peer))
        results[part] = [row.as_json() for row in rows]
    if json_file is not None:
        json_file.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    try:
        main()
    except RunFailed as error:
        sys.exit(f"Error: {error}")
