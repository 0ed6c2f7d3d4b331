"""What two sidecars add to an HTTP call of a program, and how many calls a second they carry.

    python -m benchmarks.sidecar [--rate R] [--seconds S] [--slices N] [--saturate] [--json FILE]

    load generator --HTTP--> sidecar === mutual TLS === sidecar --HTTP--> app
    load generator ------------------------ HTTP ----------------------> app

Four processes on one machine.  The app and the load generator are bare loops on non-blocking
sockets (`sidecar_load`), so that what is measured is the sidecars; the app answers with the 1 KB
body that it was sent.

**Open loop.**  Calls are due at fixed times whatever became of those before, and a call's latency
counts from when it was due: a server that stands still for a moment is charged for all who came
meanwhile.  Direct calls and calls through the sidecars take turns, a slice of time each, at the
same rate; the differences of their percentiles are taken within a pair of slices, and the median
over the pairs is what the sidecars added.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from benchmarks.measuring import cpu_seconds
from benchmarks.running import RunFailed
from benchmarks.sidecar_load import Load, wait_until

HOT_ENTITIES = 256
START_LIMIT_S = 30.0
# At these rates, one after the other, until the calls do not keep up.
LADDER = tuple(range(200, 4001, 100))
# What "sustained" is: this part of the calls answered within this time of when they were due.
SUSTAINED_PART, SUSTAINED_S = 0.99, 0.1


class Setup:
    """The processes that run, by role, and where the calls go."""

    def __init__(self) -> None:
        self.pids: dict[str, int] = {"load": os.getpid()}
        self.app_port = 0
        self.entry_port = 0

    def cpu(self) -> dict[str, float]:
        """Seconds of CPU of each process so far."""
        return {role: cpu_seconds(pid) for role, pid in self.pids.items()}


@contextlib.contextmanager
def running() -> Iterator[Setup]:
    """An app behind one sidecar, and a sidecar without an app to enter by."""
    with contextlib.ExitStack() as stack:
        home = stack.enter_context(tempfile.TemporaryDirectory(prefix="steinadler-sidecar-"))
        setup = Setup()
        app = _start(stack, home, "-m", "benchmarks.sidecar_load")
        setup.pids["app"], setup.app_port = app["pid"], app["port"]
        sidecar = ["-m", "steinadler", "sidecar", "--http-port", "0", "--host", "127.0.0.1"]
        owner = _start(stack, home, *sidecar, "--name", "owner", "--app-port", str(app["port"]))
        setup.pids["owner"] = owner["pid"]
        entry = _start(stack, home, *sidecar, "--name", "entry")
        setup.pids["entry"] = entry["pid"]
        setup.entry_port = int(entry["http"][0].rpartition(":")[2])
        wait_until(lambda: _knows(setup.entry_port, 2), START_LIMIT_S)
        owner_port = int(owner["http"][0].rpartition(":")[2])
        wait_until(lambda: _hosts(owner_port), START_LIMIT_S)
        yield setup


def _start(stack: contextlib.ExitStack, home: str, *arguments: str) -> dict[str, Any]:
    """Start a program that says in one line of JSON that it is ready."""
    sidecar = "steinadler" in arguments
    process = stack.enter_context(
        subprocess.Popen(
            [sys.executable, *arguments, *(("--no-mdns", "--json") if sidecar else ())],
            env={**os.environ, "STEINADLER_HOME": home},
            stdout=subprocess.PIPE,
        )
    )
    stack.callback(process.kill)
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise RunFailed(f"{arguments[1]} did not start")
    told: dict[str, Any] = json.loads(line)
    return {**told, "pid": process.pid}


def _get(port: int, path: str) -> bytes:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=START_LIMIT_S) as answer:
        body: bytes = answer.read()
        return body


def _knows(port: int, members: int) -> bool:
    return f"steinadler_node_members {float(members)}\n".encode() in _get(port, "/metrics")


def _hosts(port: int) -> bool:
    return b'"Cart"' in _get(port, "/v1.0/metadata")


def slice_of(setup: Setup, *, through: bool, rate: float, seconds: float) -> dict[str, float]:
    """One slice: percentiles in ms from when calls were due, and µs of CPU a call by process."""
    if through:
        port, verb, path = setup.entry_port, b"POST", b"/v1.0/actors/Cart/%d/method/echo"
    else:
        port, verb, path = setup.app_port, b"PUT", b"/actors/Cart/%d/method/echo"
    before = setup.cpu()
    load = Load(port, verb, [path % number for number in range(HOT_ENTITIES)])
    try:
        waits = sorted(load.run(rate, seconds))
    finally:
        load.close()
    after = setup.cpu()
    figures = {f"cpu_{role}_us": (after[role] - before[role]) / len(waits) * 1e6 for role in after}
    figures["p50_ms"] = 1e3 * waits[len(waits) // 2]
    figures["p99_ms"] = 1e3 * waits[int(len(waits) * 0.99)]
    in_time = sum(wait <= SUSTAINED_S for wait in waits)
    return {**figures, "in_time": in_time / len(waits), "failed": float(load.failed)}


def added(setup: Setup, rate: float, seconds: float, slices: int) -> dict[str, float]:
    """Slices in turn, which begins changing too: medians over the pairs."""
    pairs = []
    for number in range(slices):
        kinds = (False, True) if number % 2 else (True, False)
        pair = {
            through: slice_of(setup, through=through, rate=rate, seconds=seconds)
            for through in kinds
        }
        pairs.append((pair[False], pair[True]))
    result = {}
    for key in ("p50_ms", "p99_ms"):
        result[f"direct_{key}"] = median(direct[key] for direct, _ in pairs)
        result[f"through_{key}"] = median(through[key] for _, through in pairs)
        result[f"added_{key}"] = median(through[key] - direct[key] for direct, through in pairs)
        result[f"added_{key}_worst"] = max(through[key] - direct[key] for direct, through in pairs)
    for role in setup.pids:
        key = f"cpu_{role}_us"
        result[f"direct_{key}"] = median(direct[key] for direct, _ in pairs)
        result[key] = median(through[key] for _, through in pairs)
    result["failed"] = sum(direct["failed"] + through["failed"] for direct, through in pairs)
    return result


def sustained(setup: Setup, seconds: float) -> dict[str, float]:
    """The highest rate of the ladder that is kept up; each rate has two attempts."""
    best: dict[str, float] = {"sustained_per_s": 0.0}
    for rate in LADDER:
        for _ in range(2):
            figures = slice_of(setup, through=True, rate=rate, seconds=seconds)
            if figures["in_time"] >= SUSTAINED_PART and not figures["failed"]:
                best = {"sustained_per_s": float(rate), "sustained_p99_ms": figures["p99_ms"]}
                break
        else:
            break
    return best


@click.command()
@click.option("--rate", type=click.FloatRange(1), default=500.0, show_default=True)
@click.option("--seconds", type=click.FloatRange(0.2), default=4.0, help="Of one slice.")
@click.option("--slices", type=click.IntRange(1), default=5, help="Pairs of slices.")
@click.option("--saturate", is_flag=True, help="Find the highest rate that is kept up, too.")
@click.option("--json", "json_file", type=click.Path(dir_okay=False, path_type=Path))
def main(rate: float, seconds: float, slices: int, saturate: bool, json_file: Path | None) -> None:
    """Measure what two sidecars add to a call."""
    with running() as setup:
        slice_of(setup, through=True, rate=min(rate, 200.0), seconds=2.0)  # warm, all activated
        figures = {"rate_per_s": rate} | added(setup, rate, seconds, slices)
        if saturate:
            figures |= sustained(setup, seconds)
    table = Table("figure", "value")
    for key, value in figures.items():
        table.add_row(key, f"{value:,.2f}")
    Console().print(table)
    if json_file is not None:
        json_file.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    try:
        main()
    except RunFailed as error:
        sys.exit(f"Error: {error}")
