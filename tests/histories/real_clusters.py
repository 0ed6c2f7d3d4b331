"""One real history: nodes as processes on loopback, with a real store, and what a machine can do.

Three nodes host ledgers and call them; a fourth one, which nothing befalls, only calls.  Nodes are
killed, stopped (SIGSTOP) and shut down (SIGTERM), and come back; the store fails and comes back.
When all is over every ledger must take one more turn.
"""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import trio
from databases import Database
from recording import Recorder

NAMES = ("alice", "bob", "carol")
CALLER = "zoe"
CLIENTS = {CALLER: 3}  # one on every other
FAULTS = ("kill", "kill", "pause", "pause", "stop", "outage", "outage")
READY_WITHIN_S, OVER_WITHIN_S = 20.0, 60.0
_PROGRAM = Path(__file__).with_name("programs_of_histories.py")


def run(seed: int, folder: Path, database: Database) -> None:
    """Record a history of about eight seconds, one file for each process and one for the store."""
    trio.run(record, seed, folder, database)


async def record(seed: int, folder: Path, database: Database) -> None:
    """As `run`, within a Trio program."""
    draw = random.Random(f"real {seed}")
    url = await database.prepare(folder)
    entities = [str(number) for number in range(draw.randint(2, 6))]
    with Recorder(folder / "faults.jsonl", time.monotonic) as recorder:
        async with trio.open_nursery() as nursery:
            cluster = _Cluster(nursery, folder, url, entities)
            with trio.fail_after(READY_WITHIN_S + OVER_WITHIN_S):
                async with trio.open_nursery() as starting:
                    for name in (CALLER, *NAMES):
                        starting.start_soon(cluster.start, name)
                await _Misfortunes(draw, cluster, database, recorder).befall()
                await cluster.finish()
    with Recorder(folder / "store.jsonl", time.monotonic) as recorder:
        await trio.to_thread.run_sync(database.write_down, url, recorder)


class _Life:
    """One process; killed when the task that runs it is cancelled."""

    def __init__(self, process: trio.Process, errors: Path) -> None:
        self._process = process
        self._errors = errors
        self._ended = trio.Event()
        self._expected: int | None = None

    async def ask(self, word: str = "") -> None:
        """Tell it a word, and wait until it says that too; or, with none, that it is ready."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        if word:
            await self._process.stdin.send_all(f"{word}\n".encode())
        said = b""
        while not said.endswith(b"\n"):
            data = await self._process.stdout.receive_some()
            assert data, f"it ended without a word:\n{self._errors.read_text()}"
            said += data
        assert said.decode().strip() == (word or "ready")

    def send(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    async def end(self, number: signal.Signals | None, status: int) -> None:
        """Have it end, with that exit status, and wait until it has."""
        self._expected = status
        if number is not None:
            self.send(number)
        else:
            assert self._process.stdin is not None
            await self._process.stdin.aclose()
        await self._ended.wait()

    async def run(self) -> None:
        process = self._process
        try:
            await process.wait()
            told = f"exit status {process.returncode}:\n{self._errors.read_text()}"
            assert process.returncode == self._expected, told
        finally:
            process.kill()
            with trio.CancelScope(shield=True):
                await process.wait()
                for pipe in (process.stdin, process.stdout):
                    assert pipe is not None
                    await pipe.aclose()
            self._ended.set()


class _Cluster:
    """The processes of a history."""

    def __init__(self, nursery: trio.Nursery, folder: Path, url: str, entities: list[str]) -> None:
        self._nursery = nursery
        self._folder = folder
        self.url = url
        self._entities = entities
        self._lives: Counter[str] = Counter()
        self.now: dict[str, _Life] = {}

    async def start(self, name: str) -> None:
        """Start a node, again maybe, and wait until it hosts and calls."""
        self._lives[name] += 1
        path = self._folder / f"{name}-{self._lives[name]}"
        errors, history = path.with_suffix(".err"), path.with_suffix(".jsonl")
        url = "-" if name == CALLER else self.url
        clients = str(CLIENTS.get(name, 1))
        arguments = [str(self._folder / "home"), name, str(history), url, clients]
        with errors.open("wb") as file:
            process = await trio.lowlevel.open_process(
                [sys.executable, str(_PROGRAM), *arguments, *self._entities],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=file,
            )
        life = self.now[name] = _Life(process, errors)
        self._nursery.start_soon(life.run)
        with trio.fail_after(READY_WITHIN_S):
            await life.ask()

    async def finish(self) -> None:
        """Let all calls end, see that the cluster has recovered, and end it."""
        for word, names in (("quiet", [*NAMES, CALLER]), ("last", [CALLER])):
            async with trio.open_nursery() as nursery:
                for name in names:
                    nursery.start_soon(self.now[name].ask, word)
        async with trio.open_nursery() as nursery:
            for life in self.now.values():
                nursery.start_soon(life.end, None, 0)


class _Misfortunes:
    """What befalls a cluster, drawn at once; they overlap."""

    def __init__(
        self, draw: random.Random, cluster: _Cluster, database: Database, recorder: Recorder
    ) -> None:
        self._cluster = cluster
        self._database = database
        self._recorder = recorder
        self._free = {*NAMES, "store"}
        self._script: list[tuple[str, str, float, float]] = []
        for _ in range(draw.randint(3, 5)):
            kind, target = draw.choice(FAULTS), draw.choice(NAMES)
            if kind == "outage":
                kind, target = f"store {draw.choice(database.outages)}", "store"
            self._script.append((kind, target, draw.uniform(0.2, 1.5), draw.uniform(0.1, 3)))

    async def befall(self) -> None:
        """Return when all is over, and the nodes are up."""
        async with trio.open_nursery() as nursery:
            for kind, target, after_s, for_s in self._script:
                await trio.sleep(after_s)
                nursery.start_soon(self._befall, kind, target, for_s)

    async def _befall(self, kind: str, target: str, for_s: float) -> None:
        if target not in self._free:
            return
        self._free.remove(target)
        self._recorder.note("fault", kind=kind, target=target)
        cluster = self._cluster
        match kind:
            case "pause":
                life = cluster.now[target]
                life.send(signal.SIGSTOP)
                await trio.sleep(for_s)
                life.send(signal.SIGCONT)
            case "kill":
                await cluster.now[target].end(signal.SIGKILL, -signal.SIGKILL)
                await trio.sleep(for_s / 3)
                await cluster.start(target)
            case "stop":
                await cluster.now[target].end(signal.SIGTERM, 0)
                await trio.sleep(for_s / 3)
                await cluster.start(target)
            case _:
                how = kind.removeprefix("store ")
                await self._database.outage(cluster.url, how, for_s / 2)
        self._recorder.note("fault", kind="heal", target=f"{kind} {target}")
        self._free.add(target)
