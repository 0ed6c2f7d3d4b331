"""What callers see while entities move: rolling restarts, and owners that are killed.

    python -m benchmarks.handover [--rounds N] [--kills N] [--rate R] [--ids N] [--json FILE]

Three sidecars, each with a program of its own, on one SQLite store: six processes beside this one,
which calls counters at a steady rate through all sidecars that are up (`handover_load` tells how a
client does that, and what it counts as failed).

**Rolling restart.**  One after the other, each sidecar gets SIGTERM; when it has left, its program
is ended and both start again; the next one's turn comes once this one is well and hosts.  The
*pause* of an entity that moved is the time of the first call that its new owner answered, from when
that call was due: what a caller waits who calls in the worst moment, or after it.

**Kill.**  A sidecar and its program get SIGKILL.  From that moment each entity that it owned is
called through a surviving sidecar, again and again until a call succeeds: the time to that call.
Calls that were running there fail, and may have run (E3): those through a survivor with 502, those
through the killed sidecar with its connection.  They are counted apart.
"""

from __future__ import annotations

import json
import math
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import click
import trio
from rich.console import Console
from rich.table import Table

from benchmarks.handover_load import Done, Failure, Load, Sidecars
from benchmarks.running import RunFailed

NAMES = ("alice", "bob", "carol")
START_LIMIT_S = 60.0
# Between two steps: callers go on for so long with nobody coming or going.
SETTLE_S = 1.0
# Of each owner that is killed, so many entities are called until they answer.
PROBES = 8
_PROBE_INTERVAL_S = 0.005


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Pair:
    """One sidecar and its program: the ports stay, the processes come and go."""

    def __init__(self, name: str, home: Path) -> None:
        self.name = name
        self.http_port, self.app_port, self.node_port = free_port(), free_port(), free_port()
        self._home = home
        self._sidecar: subprocess.Popen[bytes] | None = None
        self._app: subprocess.Popen[bytes] | None = None

    def start(self, seeds: list[int]) -> None:
        """Start both, in no order."""
        environment = os.environ | {"STEINADLER_HOME": str(self._home)}
        ports = [str(self.app_port), str(self.http_port)]
        run = [sys.executable, "-m"]
        self._app = subprocess.Popen(
            [*run, "benchmarks.handover_app", self.name, *ports], env=environment
        )
        options = [
            *("--name", self.name, "--app-port", ports[0], "--http-port", ports[1]),
            *("--host", "127.0.0.1", "--port", str(self.node_port), "--no-mdns", "--json"),
        ]
        for port in seeds:
            options += ["--seed", f"127.0.0.1:{port}"]
        with (self._home / f"{self.name}.log").open("ab") as log:
            self._sidecar = subprocess.Popen(
                [*run, "steinadler", "sidecar", *options], env=environment, stdout=log, stderr=log
            )

    async def leave(self) -> None:
        """SIGTERM the sidecar, and end the program when it has left."""
        assert self._sidecar is not None
        self._sidecar.terminate()
        with trio.fail_after(START_LIMIT_S):
            while self._sidecar.poll() is None:  # noqa: ASYNC110
                await trio.sleep(0.01)
        if self._sidecar.returncode != 0:
            raise RunFailed(f"{self.name} left with exit code {self._sidecar.returncode}")
        self.kill()

    def kill(self) -> None:
        """SIGKILL both."""
        for process in (self._sidecar, self._app):
            if process is not None:
                process.send_signal(signal.SIGKILL)
        for process in (self._sidecar, self._app):
            if process is not None:
                process.wait()


class Trial:
    """A cluster of pairs under load."""

    def __init__(self, pairs: dict[str, Pair], load: Load) -> None:
        self.pairs = pairs
        self.load = load

    async def start(self, name: str) -> None:
        """Start a pair (again), and wait until it is well, hosts, and all know each other."""
        self.pairs[name].start([p.node_port for p in self.pairs.values() if p.name != name])
        with trio.fail_after(START_LIMIT_S):
            while not await self._in_place(name):  # noqa: ASYNC110
                await trio.sleep(0.05)

    async def _in_place(self, name: str) -> bool:
        client = self.load.sidecars.clients[name]
        try:
            metadata = await client.request("GET", "/v1.0/metadata")
            health = await client.request("GET", "/v1.0/healthz")
        except Exception:
            return False
        return health.status == 204 and b'"Counter"' in metadata.body

    async def roll(self) -> dict[str, Any]:
        """Restart each in turn: figures of what callers saw meanwhile."""
        load = self.load
        load.done.clear()
        load.failures.clear()
        load.turned_away = 0
        for name in self.pairs:
            await self.pairs[name].leave()
            await self.start(name)
            await trio.sleep(SETTLE_S)
        times = [done.ended_at - done.due_at for done in load.done]
        return {
            "calls": len(load.done) + len(load.failures),
            "failed": len(load.failures),
            "why": _why(load.failures),
            "turned_away": load.turned_away,
            "moved": len(pauses(load.done)),
            "pauses_s": pauses(load.done),
            "calls_s": times,
        }

    async def kill(self, name: str) -> dict[str, Any]:
        """Kill one: the time to the next successful call for entities that it owned."""
        load = self.load
        owner = {done.id: done.at for done in sorted(load.done, key=lambda each: each.ended_at)}
        owned = [id_ for id_ in load.ids if owner.get(id_) == name][:PROBES]
        if not owned:
            raise RunFailed(f"{name} owns nothing")
        load.failures.clear()
        survivors = [other for other in self.pairs if other != name]
        times: list[float] = []

        async def until_answered(number: int, id_: str) -> None:
            while await load.call(id_, began, lambda: survivors[number % 2]) is None:  # noqa: ASYNC110
                await trio.sleep(_PROBE_INTERVAL_S)
            times.append(trio.current_time() - began)

        began = trio.current_time()
        self.pairs[name].kill()
        async with trio.open_nursery() as nursery:
            for number, id_ in enumerate(owned):
                nursery.start_soon(until_answered, number, id_)
        await trio.sleep(SETTLE_S)
        through = sum(failure.through == name for failure in load.failures)
        figures = {
            "times_s": times,
            "failed_through_it": through,
            "failed_through_others": len(load.failures) - through,
        }
        load.failures.clear()
        await self.start(name)
        await trio.sleep(SETTLE_S)
        return figures | {"failed_at_return": len(load.failures), "why": _why(load.failures)}


def _why(failures: list[Failure]) -> list[str]:
    return [f"{failure.through}: {failure.why}" for failure in failures[:5]]


def pauses(done: list[Done]) -> list[float]:
    """Of each change of owner that callers saw: the time of the new owner's first call."""
    owners: dict[str, str] = {}
    found = []
    for each in sorted(done, key=lambda each: each.ended_at):
        if owners.setdefault(each.id, each.at) != each.at:
            owners[each.id] = each.at
            found.append(each.ended_at - each.due_at)
    return found


@asynccontextmanager
async def trial(rate: float, ids: int) -> AsyncIterator[Trial]:
    """Start everything, and call for the length of the block."""
    with tempfile.TemporaryDirectory(prefix="steinadler-handover-") as folder:
        pairs = {name: Pair(name, Path(folder)) for name in NAMES}
        sidecars = Sidecars({name: pair.http_port for name, pair in pairs.items()})
        load = Load(sidecars, [str(number) for number in range(ids)])
        one = Trial(pairs, load)
        try:
            for name in NAMES:
                await one.start(name)
            await trio.sleep(SETTLE_S)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(sidecars.watch)
                async with trio.open_nursery() as calling:
                    calling.start_soon(load.run, rate)
                    await trio.sleep(max(SETTLE_S, 2 * ids / rate))  # all are active
                    yield one
                    load.stop()
                nursery.cancel_scope.cancel()
        finally:
            for pair in pairs.values():
                pair.kill()
            sidecars.close()


def spread(samples: list[float]) -> dict[str, float]:
    """Median, 99th percentile and maximum of times in seconds, as milliseconds."""
    ordered = sorted(samples) or [math.nan]

    def at(part: float) -> float:
        return round(ordered[min(len(ordered) - 1, int(len(ordered) * part))] * 1e3, 1)

    return {"p50_ms": at(0.5), "p99_ms": at(0.99), "max_ms": at(1.0)}


async def measure(rounds: int, kills: int, rate: float, ids: int, say: Any) -> dict[str, Any]:
    """All figures."""
    async with trial(rate, ids) as one:
        rolled = []
        for number in range(rounds):
            rolled.append(await one.roll())
            say(f"round {number + 1}: {_without_samples(rolled[-1])}")
        killed = []
        for number in range(kills):
            killed.append(await one.kill(NAMES[number % len(NAMES)]))
            say(f"kill {number + 1}: {_without_samples(killed[-1])}")
        await trio.sleep(SETTLE_S)
        one.load.stop()
        await one.load.ended.wait()
        miscounted = await one.load.miscounted()
    figures: dict[str, Any] = {"rate_per_s": rate, "ids": ids, "miscounted": miscounted}
    if rolled:
        figures["rolling"] = {
            key: sum(each[key] for each in rolled)
            for key in ("calls", "failed", "turned_away", "moved")
        }
        figures["rolling"]["pause"] = spread([s for each in rolled for s in each["pauses_s"]])
        figures["rolling"]["call"] = spread([s for each in rolled for s in each["calls_s"]])
    if killed:
        figures["kill"] = {
            "kills": len(killed),
            **{
                key: sum(each[key] for each in killed)
                for key in ("failed_through_it", "failed_through_others", "failed_at_return")
            },
            "to_next_call": spread([s for each in killed for s in each["times_s"]]),
        }
    return figures


def _without_samples(figures: dict[str, Any]) -> dict[str, Any]:
    told = {key: value for key, value in figures.items() if not key.endswith("_s")}
    return told | {key: spread(value) for key, value in figures.items() if key.endswith("_s")}


@click.command()
@click.option("--rounds", type=click.IntRange(0), default=3, help="Rolling restarts.")
@click.option("--kills", type=click.IntRange(0), default=20)
@click.option("--rate", type=click.FloatRange(1), default=200.0, help="Calls a second.")
@click.option("--ids", type=click.IntRange(3), default=120, help="Entities that are called.")
@click.option("--json", "json_file", type=click.Path(dir_okay=False, path_type=Path))
def main(rounds: int, kills: int, rate: float, ids: int, json_file: Path | None) -> None:
    """Measure what callers see while entities move."""
    console = Console()
    figures = trio.run(measure, rounds, kills, rate, ids, Console(stderr=True).print)
    table = Table("figure", "value")
    for part, value in figures.items():
        table.add_row(part, json.dumps(value))
    console.print(table)
    if json_file is not None:
        json_file.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    try:
        main()
    except RunFailed as error:
        sys.exit(f"Error: {error}")
