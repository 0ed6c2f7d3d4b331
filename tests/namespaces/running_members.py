"""Starts `programs_of_namespaces` on machines, tells them what to do and hears what happens."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable
from itertools import count
from pathlib import Path
from typing import Any

import trio
from switched_machines import Machine

from steinadler.security.home import open_home

PORT = 4000
MEET_WITHIN_S = 30.0
LETTERS = 10
_PROGRAM = Path(__file__).with_name("programs_of_namespaces.py")
_ROOT = Path(__file__).parents[2]


class Refused(Exception):
    """What a node was told to do raised: its type and text."""


class Member:
    """One node's process, on a machine; killed when the task that runs it is cancelled."""

    def __init__(self, name: str, process: trio.Process, errors: Path) -> None:
        self.name = name
        self.events: list[dict[str, Any]] = []
        self.members: set[str] = set()  # the others, by what it was told
        self._process = process
        self._errors = errors
        self._numbers = count()
        self._answers: dict[int, dict[str, Any]] = {}
        self._changed = trio.Event()
        self._turn = trio.Lock()  # of whoever writes to it
        self._killed = False
        self._ended = trio.Event()

    async def ask(self, what: str, *arguments: Any) -> Any:
        """Tell it to do something, and return the result; raises `Refused`."""
        number = next(self._numbers)
        assert self._process.stdin is not None
        line = json.dumps([number, what, *arguments]) + "\n"
        async with self._turn:
            await self._process.stdin.send_all(line.encode())
        await self.until(lambda: number in self._answers)
        answer = self._answers.pop(number)
        if "error" in answer:
            raise Refused(answer["error"])
        return answer["result"]

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait for something that it says."""
        while not condition():
            await self._changed.wait()

    def complaints(self) -> str:
        """What it has logged: warnings and errors."""
        return self._errors.read_text()

    async def until_answer(self, wanted: Callable[[Any], bool], what: str, *arguments: Any) -> Any:
        """Ask again and again until the answer is as wanted; return it."""
        while True:
            if wanted(answer := await self.ask(what, *arguments)):
                return answer
            await trio.sleep(0.05)

    def told(self, event: str, since: float = 0.0, **facts: Any) -> list[dict[str, Any]]:
        """Which such events it has told of, from some time on."""
        return [
            each
            for each in self.events
            if each["event"] == event and each["at"] >= since and facts.items() <= each.items()
        ]

    def downs(self, since: float, *, verdicts: bool = False) -> dict[str, list[float]]:
        """How long after that time each member was declared down.

        `verdicts` alone: not that a session was lost.  Who was away may hear only after it has met
        others again that they had given it up.
        """
        found: dict[str, list[float]] = {}
        for each in self.told("down", since):
            if verdicts and each["reason"] == "lost session":
                continue
            found.setdefault(each["name"], []).append(round(each["at"] - since, 2))
        return found

    async def kill(self) -> None:
        """SIGKILL; returns when it has ended."""
        self._killed = True
        self._process.kill()
        await self._ended.wait()

    async def run(self, *, task_status: trio.TaskStatus[Member]) -> None:
        """Hear what it says until it was killed, or until cancelled; fails when it ends by
        itself."""
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            rest = b""
            async for data in process.stdout:
                *lines, rest = (rest + data).split(b"\n")
                for line in lines:
                    self._heard(json.loads(line), task_status)
            await process.wait()
            assert self._killed, f"{self.name} ended:\n{self.complaints()}"
        finally:
            process.kill()
            with trio.CancelScope(shield=True):
                await process.wait()
                for pipe in (process.stdin, process.stdout):
                    await pipe.aclose()
            self._ended.set()

    def _heard(self, said: dict[str, Any], task_status: trio.TaskStatus[Member]) -> None:
        if "answer" in said:
            self._answers[said["answer"]] = said
        else:
            self.events.append(said)
        match said.get("event"):
            case "ready":
                task_status.started(self)
            case "up":
                self.members.add(said["name"])
            case "down":
                self.members.discard(said["name"])
        self._changed.set()
        self._changed = trio.Event()


class Members:
    """The nodes of one cluster, each with a home of its own that holds the cluster's key."""

    def __init__(self, nursery: trio.Nursery, folder: Path, cluster: str = "cluster") -> None:
        self._nursery = nursery
        self._folder = folder / cluster
        self._home = self._folder / "home"
        self._lives = count()
        open_home(self._home).default_cluster()

    async def start(
        self, machine: Machine, *, seeds: Iterable[Machine] = (), **options: Any
    ) -> Member:
        """Start a node called as its machine, and wait until it is open.  By default it does
        not use mDNS."""
        life = f"{machine.name}-{next(self._lives)}"
        home, errors = self._folder / life, self._folder / f"{life}.err"
        shutil.copytree(self._home, home)
        given = {
            "port": PORT,
            "mdns": False,
            "seeds": [f"{seed.address}:{PORT}" for seed in seeds],
            **options,
        }
        with errors.open("wb") as file:
            process = await trio.lowlevel.open_process(
                machine.inside(sys.executable, str(_PROGRAM), machine.name, json.dumps(given)),
                env=os.environ | {"STEINADLER_HOME": str(home), "PYTHONPATH": str(_ROOT)},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=file,
            )
        member: Member = await self._nursery.start(Member(machine.name, process, errors).run)
        return member

    async def start_all(self, machines: Iterable[Machine], **options: Any) -> list[Member]:
        """Start nodes, at the same time, and return them when all are open."""
        started: dict[Machine, Member] = {}

        async def start(machine: Machine) -> None:
            started[machine] = await self.start(machine, **options)

        machines = list(machines)
        async with trio.open_nursery() as nursery:
            for machine in machines:
                nursery.start_soon(start, machine)
        return [started[machine] for machine in machines]


async def meet(*members: Member) -> None:
    """Wait until each of them counts all others, and nobody else, all at once."""
    names = {member.name for member in members}
    with trio.fail_after(MEET_WITHIN_S):
        # Who was cut off may give the others up after they have met it again in its place here.
        while any(member.members != names - {member.name} for member in members):
            for member in members:
                await member.until(lambda: member.members == names - {member.name})  # noqa: B023


async def all_say(
    members: list[Member], within_s: float, wanted: Callable[[Any], bool], *question: Any
) -> None:
    """Ask until the answers of all are as wanted."""
    with trio.fail_after(within_s):
        for member in members:
            await member.until_answer(wanted, *question)


async def all_write(members: list[Member], phase: str) -> None:
    """Each sends to each, and all of it arrives in order."""
    for member in members:
        for other in members:
            if other is not member:
                await member.ask("send", other.name, phase, LETTERS, 1000)
    for member in members:
        others = [other.name for other in members if other is not member]
        await all_say(
            [member],
            5,
            lambda got: all(got.get(f"{name} {phase}") == LETTERS for name in others),  # noqa: B023
            "received",
        )
