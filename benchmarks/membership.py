"""How soon the dead are noticed, and how often the living are taken for dead.

    python -m benchmarks.membership kill|stop|pause [--runs N] [--json FILE]
    python -m benchmarks.membership starve [--seconds S] [--hogs N] [--plain] [--json FILE]

Every member is a process of its own, which prints what `Node.events()` tells it, with the time of
the machine's monotonic clock, which all processes share.  They find each other by the runtime
folder and talk over loopback, with mutual TLS as always, at default settings.

**kill, stop, pause**: three members.  One after the other gets SIGKILL, or SIGSTOP: the time to
`NodeDown` at each of the other two.  Or SIGSTOP and, 1.5 s later, SIGCONT, and then nobody may be
declared down at all (S1, S2).

**starve**: sixteen members; eight share one core, at the lowest priority, with eight processes that
do nothing but use it (`--hogs` for more), and eight have what is left of the other core.  A *false
positive* is a `NodeDown` about one of the second eight, anywhere; those at the second eight are
counted apart, because a node that is starved may find others silent and be right as far as it can
see.  None is what a starved node hears when it comes back from being down for another: that what
was between the two is lost (`sessions_lost`); nobody held that other one for dead.  `--plain` does
the same without Lifeguard (`MembershipSettings.local_health`).  Linux only, on two cores.
"""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import trio

import steinadler
from benchmarks.running import RunFailed, environment
from steinadler.node import NodeDown, NodeUp

THREE = ("alice", "bob", "carol")
STARVED = tuple(f"starved{number}" for number in range(8))
WELL = tuple(f"well{number}" for number in range(8))
JOIN_LIMIT_S = 90.0
DOWN_LIMIT_S = 15.0
PAUSE_S = 1.5
# How long after a pause a wrong verdict could still come.
AFTERMATH_S = 2.5
# Why a node that was down for another, and came back, is told `NodeDown` and `NodeUp` of that one.
LOST = "lost session"


@dataclass(frozen=True, slots=True)
class Told:
    """What one member was told, and when."""

    at: float
    kind: str
    name: str
    reason: str


@dataclass(eq=False, slots=True)
class Process:
    """One member's process."""

    name: str
    process: trio.Process
    told: list[Told] = field(default_factory=list)
    members: set[str] = field(default_factory=set)

    def downs(self, name: str, since: float) -> list[float]:
        return [t.at for t in self.told if (t.kind, t.name) == ("down", name) and t.at >= since]


class Cluster:
    """Processes that are members of one cluster."""

    def __init__(self, folder: Path, nursery: trio.Nursery, *, plain: bool) -> None:
        self.processes: dict[str, Process] = {}
        self._nursery = nursery
        self._environment = environment(folder)
        self._log = (folder / "log").open("ab")
        self._plain = plain
        self._changed = trio.Event()

    async def start(self, *names: str) -> None:
        """Start them, and wait until all members of the cluster see each other."""
        for name in names:
            command = [sys.executable, "-m", "benchmarks.membership", "member", name]
            process = await trio.lowlevel.open_process(
                [*command, *(["--plain"] if self._plain else [])],
                env=self._environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._log,
                process_group=0,
            )
            self.processes[name] = Process(name, process)
            self._nursery.start_soon(self._listen, self.processes[name])
        await self.until(self.complete, JOIN_LIMIT_S, "did not all meet")

    def complete(self) -> bool:
        names = self.processes.keys()
        return all(one.members == names - {one.name} for one in self.processes.values())

    async def until(self, condition: Callable[[], bool], limit_s: float, complaint: str) -> None:
        """Wait for something that members are told.  Raises `RunFailed`."""
        with trio.move_on_after(limit_s):
            while not condition():
                self._changed = trio.Event()
                await self._changed.wait()
            return
        raise RunFailed(f"the members {complaint} within {limit_s:.0f} s")

    def signal(self, name: str, number: signal.Signals) -> float:
        """Send a signal; the time at which it was."""
        at = time.monotonic()
        self.processes[name].process.send_signal(number)
        return at

    async def bury(self, name: str) -> None:
        """Forget one that was killed."""
        one = self.processes.pop(name)
        await one.process.wait()
        assert one.process.stdin is not None
        await one.process.stdin.aclose()

    async def close(self) -> None:
        """Kill them all, also when cancelled: the dead do not keep one waiting."""
        with trio.CancelScope(shield=True):
            for one in self.processes.values():
                one.process.kill()
                await one.process.wait()
                for pipe in (one.process.stdin, one.process.stdout):
                    assert pipe is not None
                    await pipe.aclose()
        self._log.close()

    async def _listen(self, one: Process) -> None:
        stdout = one.process.stdout
        assert stdout is not None
        rest = b""
        async for chunk in stdout:
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                told = Told(**json.loads(line))
                one.told.append(told)
                change = one.members.add if told.kind == "up" else one.members.discard
                change(told.name)
            self._changed.set()


@asynccontextmanager
async def cluster(*names: str, plain: bool = False) -> AsyncIterator[Cluster]:
    """A cluster of processes, which are killed at the end of the block."""
    with tempfile.TemporaryDirectory(prefix="steinadler-bench-") as folder:
        async with trio.open_nursery() as nursery:
            here = Cluster(Path(folder), nursery, plain=plain)
            try:
                # The first one makes the cluster's credentials.
                await here.start(names[0])
                await here.start(*names[1:])
                yield here
            finally:
                nursery.cancel_scope.cancel()
                await here.close()


def spread(times_s: list[float]) -> dict[str, float]:
    """How long it took, in milliseconds."""
    ordered = sorted(times_s)

    def quantile(part: float) -> float:
        return round(ordered[max(0, math.ceil(part * len(ordered)) - 1)] * 1000, 1)

    return {
        "count": len(ordered),
        "min_ms": quantile(0),
        "p50_ms": quantile(0.5),
        "p99_ms": quantile(0.99),
        "max_ms": quantile(1),
    }


async def silence(how: str, runs: int) -> dict[str, float]:
    """Kill or stop one of three, so many times; the times to Down at the other two."""
    times = []
    async with cluster(*THREE) as three:
        for run in range(runs):
            victim = THREE[run % 3]
            others = [three.processes[name] for name in THREE if name != victim]
            await trio.sleep(1 + run % 7 * 0.07)  # somewhere in the probe clock
            at = three.signal(victim, signal.SIGKILL if how == "kill" else signal.SIGSTOP)
            await three.until(
                lambda: all(one.downs(victim, at) for one in others),  # noqa: B023
                DOWN_LIMIT_S,
                f"did not notice the silence of {victim}",
            )
            times += [one.downs(victim, at)[0] - at for one in others]
            if how == "kill":
                await three.bury(victim)
                await three.start(victim)
            else:
                three.signal(victim, signal.SIGCONT)
                await three.until(three.complete, JOIN_LIMIT_S, "did not meet again")
    return spread(times)


async def pause(runs: int) -> dict[str, float]:
    """Stop one of three for 1.5 s, so many times; how many Downs there were."""
    async with cluster(*THREE) as three:
        for run in range(runs):
            three.signal(THREE[run % 3], signal.SIGSTOP)
            await trio.sleep(PAUSE_S)
            three.signal(THREE[run % 3], signal.SIGCONT)
            await trio.sleep(AFTERMATH_S + run % 7 * 0.07)
        downs = [t for one in three.processes.values() for t in one.told if t.kind == "down"]
    return {"runs": runs, "declared_down": len(downs)}


async def starve(seconds: float, hogs: int, *, plain: bool) -> dict[str, Any]:
    """Starve eight of sixteen; how often who was said to be down."""
    async with cluster(*WELL, *STARVED, plain=plain) as sixteen:
        for name, one in sixteen.processes.items():
            os.sched_setaffinity(one.process.pid, {int(name in STARVED)})
            if name in STARVED:
                os.setpriority(os.PRIO_PROCESS, one.process.pid, 19)
        await trio.sleep(2)
        command = [sys.executable, "-c", "while True: pass"]
        busy = [await trio.lowlevel.open_process(command, process_group=0) for _ in range(hogs)]
        try:
            for hog in busy:
                os.sched_setaffinity(hog.pid, {1})
            start = time.monotonic()
            await trio.sleep(seconds)
            end = time.monotonic()
        finally:
            for hog in busy:
                hog.kill()
                await hog.wait()
        await trio.sleep(5)  # what the starved have not yet printed
        downs = [
            (one.name, told.name, told.reason)
            for one in sixteen.processes.values()
            for told in one.told
            if told.kind == "down" and start <= told.at <= end
        ]
    wrong = [(by, reason) for by, about, reason in downs if about in WELL and reason != LOST]
    return {
        "seconds": seconds,
        "hogs": hogs,
        "false_positives": len(wrong),
        "false_positives_at_the_well": sum(by in WELL for by, _ in wrong),
        "false_positives_by_reason": Counter(reason for _, reason in wrong),
        "sessions_lost": sum(about in WELL and reason == LOST for _, about, reason in downs),
        "starved_declared_down": sum(about in STARVED for _, about, _ in downs),
    }


async def member(name: str, *, plain: bool) -> None:
    """One member: prints what it is told until its standard input closes."""
    settings = steinadler.MembershipSettings(local_health=not plain)
    config = steinadler.Config(membership=settings)
    async with (
        steinadler.open_node(name, host="127.0.0.1", mdns=False, config=config) as node,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(_end_with_input, nursery.cancel_scope)
        events = node.events()
        for there in node.members():
            if there.node.name != name:
                _tell("up", there.node.name, "")
        async for event in events:
            match event:
                case NodeUp(peer):
                    _tell("up", peer.node.name, "")
                case NodeDown(peer, reason):
                    _tell("down", peer.node.name, reason)


def _tell(kind: str, name: str, reason: str) -> None:
    line = {"at": time.monotonic(), "kind": kind, "name": name, "reason": reason}
    click.echo(json.dumps(line))


async def _end_with_input(scope: trio.CancelScope) -> None:
    async with trio.lowlevel.FdStream(os.dup(0)) as stdin:
        async for _ in stdin:
            pass
    scope.cancel()


@click.group()
def main() -> None:
    """Measure how members notice that others are silent."""


json_option = click.option(
    "--json", "file", type=click.Path(dir_okay=False, path_type=Path), help="Write figures."
)
plain_option = click.option("--plain", is_flag=True, help="Without Lifeguard.")


def _report(figures: dict[str, Any], file: Path | None) -> None:
    click.echo(json.dumps(figures, indent=1))
    if file is not None:
        file.write_text(json.dumps(figures, indent=1) + "\n")


def _run(measure: Callable[[], Any], file: Path | None) -> None:
    try:
        _report(trio.run(measure), file)
    except* RunFailed as group:
        raise click.ClickException(str(group.exceptions[0])) from None


@main.command("member", hidden=True)
@click.argument("name")
@plain_option
def member_command(name: str, plain: bool) -> None:
    """One member, of which the others are made."""
    trio.run(lambda: member(name, plain=plain))


def _on_three(name: str, measure: Callable[[int], Any], about: str) -> None:
    @main.command(name, help=about)
    @click.option("--runs", type=click.IntRange(min=1), default=50, show_default=True)
    @json_option
    def command(runs: int, file: Path | None) -> None:
        _run(lambda: measure(runs), file)


_on_three("kill", lambda runs: silence("kill", runs), "SIGKILL to Down.")
_on_three("stop", lambda runs: silence("stop", runs), "SIGSTOP to Down.")
_on_three("pause", pause, "SIGSTOP, and SIGCONT 1.5 s later.")


@main.command("starve")
@click.option("--seconds", type=click.FloatRange(min=1), default=60.0, show_default=True)
@click.option("--hogs", type=click.IntRange(min=0), default=8, show_default=True)
@plain_option
@json_option
def starve_command(seconds: float, hogs: int, plain: bool, file: Path | None) -> None:
    """Sixteen members, eight of them without a core."""
    _run(lambda: starve(seconds, hogs, plain=plain), file)


if __name__ == "__main__":
    main()
