"""`steinadler demo`: real processes find each other, talk, and notice a death and a silence.

An entity outlives its owner on the way: that act is in `demo_entity`.

This process is the first node; the others are `python -m steinadler node` with the processes of
`demo_processes`.  Every node gets a home folder of its own with a copy of the cluster's keys, as
if each were another machine of one user: no runtime folder is shared, so mDNS alone can bring
them together.  All listen on the loopback interface only, and nothing leaves the machine.

Where multicast does not bring them together in time, the nodes are started again with one home
for all, so that the runtime folder does.

Times are taken in this process.  That of a death begins just before the signal is sent, and ends
when the last survivor's Down has been told to this node, its message's way included.
"""

from __future__ import annotations

import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import click
import trio

from steinadler.cli import demo_entity, demo_processes
from steinadler.cli.options import as_json, set_up_logging
from steinadler.cli.output import print_json
from steinadler.cli.running import Failed, failing_at, run_once
from steinadler.identity import ProcessId
from steinadler.node import Node, open_node
from steinadler.security import open_home
from steinadler.security.home import HOME_VARIABLE

_MEASURED = (
    *("discovered_s", "discovered_by", "messages"),
    *("call_p50_us", "kill_to_down_ms", "kill_to_entity_call_ms", "silence_to_down_ms"),
)
NAMES = (
    *("alice", "bob", "carol", "dave", "erin", "frank", "grace", "heidi"),
    *("ivan", "judy", "karl", "leo", "mallory", "nina", "oscar", "peggy"),
)
FEWEST = 3
MESSAGES_EACH = 1000
CALLS = 500
_HOST = "127.0.0.1"
# By mDNS the first meet a fraction of a second after their start; starting many takes a while.
_MEET_S, _MEET_EACH_S = 5.0, 0.5
# 30 s for the usual three.
_ALL_IN_ALL_S, _ALL_IN_ALL_EACH_S = 24.0, 2.0
_SURVIVORS_KNOW_WITHIN_S = 10.0


class Stage:
    """Tells the steps as they happen: to people, or with `--json` to nobody."""

    def __init__(self, silent: bool) -> None:
        from rich.console import Console  # here, because importing it takes a while

        self._console = Console(highlight=False, quiet=silent, soft_wrap=True)
        self._began = time.perf_counter()

    def tell(self, text: str, figure: str = "", *, style: str = "") -> None:
        """One step: when, what, and the time that it took."""
        from rich.text import Text

        at = time.perf_counter() - self._began
        line = Text.assemble(
            (f"{at:7.2f} s  ", "dim"), (text, style), (f"  {figure}" if figure else "", "bold cyan")
        )
        self._console.print(line)


class Cast:
    """The nodes: this process's own, and the others' processes."""

    def __init__(self, folder: Path, names: tuple[str, ...], shared_home: bool) -> None:
        self.names = names
        self.shared_home = shared_home
        self._folder = folder
        self._children: dict[str, trio.Process] = {}

    @property
    def store(self) -> str:
        """Where all nodes keep entities."""
        return "sqlite:" + (self._folder / "entities.sqlite3").as_uri().removeprefix("file:")

    def home(self, name: str) -> Path:
        """The home folder of a node, with the cluster's keys in it."""
        first = self._folder / "home"
        open_home(first).default_cluster()
        if self.shared_home:
            return first
        home = self._folder / "homes" / name
        if not home.exists():
            shutil.copytree(first / "clusters", home / "clusters")
            home.chmod(0o700)
        return home

    async def start(self, name: str) -> None:
        """Start a node as a process of its own."""
        command = [sys.executable, "-m", "steinadler", "node", name, "--host", _HOST, "--json"]
        command += ["--store", self.store, "--app", f"{demo_entity.__name__}:Tally"]
        command += ["--app", f"{demo_entity.__name__}:caller"]
        if self.shared_home:
            command.append("--no-mdns")
        for app in ("leash", "counter", "talker", "watcher"):
            command += ["--app", f"{demo_processes.__name__}:{app}"]
        environment = {**os.environ, HOME_VARIABLE: str(self.home(name))}
        log = await trio.open_file(self._log(name), "ab")
        async with log:
            self._children[name] = await trio.lowlevel.open_process(
                command, env=environment, stdin=subprocess.PIPE, stdout=log, stderr=log
            )

    def send_signal(self, name: str, number: int) -> None:
        """Send a signal to a node's process."""
        self._children[name].send_signal(number)

    def check(self) -> None:
        """Raise `Failed` when a node ended that was not told to."""
        for name, child in self._children.items():
            if child.poll() is not None:
                told = self._log(name).read_text(errors="replace").splitlines()
                last = told[-1] if told else "it told nothing"
                raise Failed(f"the node {name} ended by itself, exit code {child.poll()}: {last}")

    async def bury(self, name: str) -> None:
        """Wait for the end of a process that was killed."""
        await self._children.pop(name).wait()

    async def end(self) -> None:
        """Kill whatever lives, stopped ones too, and wait for it."""
        for child in self._children.values():
            child.kill()
        for child in self._children.values():
            await child.wait()

    def _log(self, name: str) -> Path:
        return self._folder / f"{name}.log"


@click.command()
@click.option(
    "--nodes",
    type=click.IntRange(FEWEST, len(NAMES)),
    default=FEWEST,
    show_default=True,
    help="How many, this process's own included.",
)
@as_json
def demo(nodes: int, as_json: bool) -> None:
    """Watch a cluster at work: real processes, real TLS, a death and a silence.

    Starts nodes on the loopback interface, in a temporary folder; leaves nothing behind, however
    it ends.  With --json: one object {nodes, discovered_s, discovered_by, messages, call_p50_us,
    kill_to_down_ms, kill_to_entity_call_ms, silence_to_down_ms, ok}.  discovered_by is "mdns" or
    "runtime folder"; what was not reached is null.
    """
    if not hasattr(signal, "SIGSTOP"):
        raise Failed("the demo stops a process with SIGSTOP, which this system does not have")
    set_up_logging("error")
    figures: dict[str, Any] = {"nodes": nodes, **dict.fromkeys(_MEASURED), "ok": False}

    async def play() -> None:
        with temporary_folder() as folder:
            limit_s = _ALL_IN_ALL_S + _ALL_IN_ALL_EACH_S * nodes
            deadline = trio.current_time() + limit_s
            with failing_at(deadline, lambda: f"the demo was not through within {limit_s:g} s"):
                await _play(folder, NAMES[:nodes], Stage(silent=as_json), figures)

    try:
        run_once(play)
    finally:
        if as_json:
            print_json(figures)


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """A folder that is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="steinadler-demo-", ignore_cleanup_errors=True) as path:
        yield Path(path)


async def _play(
    folder: Path, names: tuple[str, ...], stage: Stage, figures: dict[str, Any]
) -> None:
    """All acts; what was measured is put into `figures` as it is known."""
    for shared_home in (False, True):
        async with _started(folder, names, shared_home) as (node, cast):
            found = await _discover(node, cast, stage)
            if found is not None:
                figures.update(found)
                figures.update(await _talk(node, names, stage))
                figures.update(await _suffer(node, cast, stage))
                stage.tell("That was all; everybody is sent home.", style="dim")
                figures["ok"] = True
                return
        if not shared_home:
            stage.tell(
                "There seems to be no multicast here: starting again, with the runtime folder.",
                style="yellow",
            )
    raise Failed("the nodes did not find each other, neither by mDNS nor by the runtime folder")


@asynccontextmanager
async def _started(
    folder: Path, names: tuple[str, ...], shared_home: bool
) -> AsyncIterator[tuple[Node, Cast]]:
    cast = Cast(folder, names, shared_home)
    home = await trio.to_thread.run_sync(cast.home, names[0])
    async with open_node(
        names[0], host=_HOST, home=home, mdns=not shared_home, store=cast.store
    ) as node:
        try:
            node.host(demo_entity.Tally)
            for name in names[1:]:
                await cast.start(name)
            yield node, cast
        finally:
            with trio.CancelScope(shield=True):
                await cast.end()


async def _discover(node: Node, cast: Cast, stage: Stage) -> dict[str, Any] | None:
    """Wait until everybody sees everybody; None when this node meets nobody in time."""
    count = len(cast.names)
    by = "the runtime folder" if cast.shared_home else "mDNS only"
    stage.tell(f"{count} processes are starting: {', '.join(cast.names)}")
    began = time.perf_counter()
    with trio.move_on_after(_MEET_S + _MEET_EACH_S * count) as patience:
        await node.wait_for_members(2)
    cast.check()
    if patience.cancelled_caught:
        return None
    while len(node.members()) < count:
        with trio.move_on_after(0.25):
            await node.wait_for_members(count)
        cast.check()
    await _all_see(node, cast.names, set(cast.names))
    took_s = time.perf_counter() - began
    stage.tell(f"They found each other by {by}, joined by mutual TLS.", f"{took_s:.2f} s")
    return {
        "discovered_s": round(took_s, 3),
        "discovered_by": "runtime folder" if cast.shared_home else "mdns",
    }


async def _all_see(node: Node, names: tuple[str, ...], whom: set[str]) -> None:
    """Wait until `whom` are members for all other nodes, too."""
    for name in names[1:]:
        while not whom <= set((await node.call(f"$info@{name}", None))["members"]):  # noqa: ASYNC110
            await trio.sleep(0.01)  # what another node sees can only be asked for


async def _talk(node: Node, names: tuple[str, ...], stage: Stage) -> dict[str, Any]:
    """Names, messages, calls."""
    node.spawn(demo_processes.counter, name="counter")
    where = [f"{await node.whereis(f'counter@{name}')}" for name in names[1:]]
    stage.tell(f"Each registered a process as 'counter': {', '.join(where)}.")
    return {"messages": await _listen(node, names, stage), "call_p50_us": await _call(node, stage)}


async def _listen(node: Node, names: tuple[str, ...], stage: Stage) -> int:
    """Everybody sends to this node at once; each one's messages must come whole and in order."""
    listener = demo_processes.Listener()
    process = node.spawn(listener.run)
    began = time.perf_counter()
    async with trio.open_nursery() as nursery:
        for name in names[1:]:
            request = ("talk", process, MESSAGES_EACH)
            nursery.start_soon(node.call, f"talker@{name}", request)
        received = await listener.wait_for(MESSAGES_EACH * (len(names) - 1))
    took_s = time.perf_counter() - began
    for name in names[1:]:
        if [number for sender, number in received if sender == name] != list(range(MESSAGES_EACH)):
            raise AssertionError(f"messages from {name} were lost, doubled or out of order")
    node.exit(process)
    stage.tell(
        f"{len(received)} messages came in, each once and in order.",
        f"{len(received) / took_s:,.0f} messages/s",
    )
    return len(received)


async def _call(node: Node, stage: Stage) -> float:
    name = next(member.node.name for member in node.members() if member.node != node.id)
    took_us = []
    for number in range(1, CALLS + 1):
        began = time.perf_counter()
        total = await node.call(f"counter@{name}", ("add", 1))
        took_us.append((time.perf_counter() - began) * 1e6)
        if total != number:
            raise AssertionError(f"the counter stands at {total} after {number} calls")
    p50 = statistics.median(took_us)
    stage.tell(f"{CALLS} calls to counter@{name}, one after the other.", f"{p50:.0f} µs each (p50)")
    return round(p50, 1)


async def _suffer(node: Node, cast: Cast, stage: Stage) -> dict[str, Any]:
    """A death, a return, a silence; each death is seen by all survivors."""
    victim, silent = cast.names[1:3]
    key = await demo_entity.count_on(node, owner=victim, through=silent)
    stage.tell(f"The entity {key} lives on {victim}; {node.name} and {silent} count with it.")
    killed_at, killed_ms = await _lose(node, cast, victim, signal.SIGKILL)
    found_ms = await demo_entity.find_again(node, key, killed_at)
    await cast.bury(victim)
    stage.tell(f"{victim} was killed: all survivors' monitors fired.", f"{killed_ms:.0f} ms")
    stage.tell(f"{key} goes on counting elsewhere: nothing was lost.", f"{found_ms:.0f} ms")
    await _carry_on(node, stage)

    began = time.perf_counter()
    await cast.start(victim)
    await node.wait_for_member(victim)
    await _all_see(node, cast.names, {victim})
    took_s = time.perf_counter() - began
    stage.tell(f"{victim} was started again, and is back as a new life.", f"{took_s:.2f} s")

    _, silence_ms = await _lose(node, cast, silent, signal.SIGSTOP)
    stage.tell(
        f"{silent} was paused (SIGSTOP) and fell silent: all survivors' monitors fired.",
        f"{silence_ms:.0f} ms",
    )
    await _carry_on(node, stage)
    return {
        "kill_to_down_ms": round(killed_ms, 1),
        "kill_to_entity_call_ms": round(found_ms, 1),
        "silence_to_down_ms": round(silence_ms, 1),
    }


async def _lose(node: Node, cast: Cast, victim: str, number: signal.Signals) -> tuple[float, float]:
    """Let every survivor monitor a process of the victim, send it the signal, and return when
    that was, and the milliseconds until the last survivor's Down."""
    listener = demo_processes.Listener()
    listening = node.spawn(listener.run)
    watching = node.spawn(demo_processes.watcher)
    watched = await node.whereis(f"counter@{victim}")
    survivors = [name for name in cast.names if name != victim]
    request: tuple[str, ProcessId | None, ProcessId] = ("watch", watched, listening)
    await node.call(watching, request)
    for name in survivors[1:]:
        await node.call(f"watcher@{name}", request)
    why = f"not every survivor noticed {victim}'s end within {_SURVIVORS_KNOW_WITHIN_S:g} s"
    began = time.perf_counter()
    cast.send_signal(victim, number)
    with failing_at(trio.current_time() + _SURVIVORS_KNOW_WITHIN_S, lambda: why):
        downs = await listener.wait_for(len(survivors))
    took_ms = (time.perf_counter() - began) * 1000
    if sorted(downs) != sorted((name, "noconnection") for name in survivors):
        raise AssertionError(f"the monitors told something else: {downs}")
    node.exit(listening)
    node.exit(watching)
    return began, took_ms


async def _carry_on(node: Node, stage: Stage) -> None:
    """Call every member that is left."""
    names = [member.node.name for member in node.members()]
    for name in names:
        await node.call(f"counter@{name}", ("add", 1))
    stage.tell(f"The survivors carry on: {', '.join(names)} answer calls.")
