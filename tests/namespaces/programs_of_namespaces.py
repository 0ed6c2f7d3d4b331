"""A node in an operating-system process of its own, which does what it is told.

    python programs_of_namespaces.py NAME OPTIONS          options of `open_node`, as JSON

Every line of standard input is a request, `[number, what, argument ...]`: a method of `Program`.
Every line of standard output is an object with the time of the monotonic clock, which all
processes of a machine share ("at"), and either "answer" or what happened ("event").  The process
ends with its standard input.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections import defaultdict
from typing import Any

import trio

import steinadler
from steinadler import Down, Node, Process, ProcessId
from steinadler.node.events import NameConflict, NodeDown, NodeUp


def say(**facts: Any) -> None:
    """To whoever started this."""
    sys.stdout.write(json.dumps({"at": time.monotonic()} | facts) + "\n")
    sys.stdout.flush()


def life_of(process: ProcessId) -> str:
    """A process, with the life of its node."""
    return f"{process}/{process.node.incarnation}"


async def hold(me: Process) -> None:
    """Has a name, or is in a group."""
    await trio.sleep_forever()


class Program:
    """What it can be told; the results are JSON."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._got: dict[str, list[int]] = defaultdict(list)
        self._came = trio.Event()
        node.spawn(self._inbox, name="inbox")
        self._watcher = node.spawn(self._watch, name="watcher")

    # -- messages -----------------------------------------------------------------------------

    async def send(self, to: str, phase: str, count: int, per_second: float) -> None:
        """Send so many numbered messages to the inbox of a node."""
        begun = trio.current_time()
        for number in range(count):
            await trio.sleep_until(begun + number / per_second)
            await self._node.send(f"inbox@{to}", (self._node.name, phase, number))

    async def call(self, to: str, request: Any) -> Any:
        """What a node echoes."""
        return await self._node.call(f"$echo@{to}", request)

    async def until_received(self, sender: str, phase: str, count: int) -> None:
        """Return when the inbox has so many."""
        while len(self._got[f"{sender} {phase}"]) < count:
            await self._came.wait()

    async def received(self) -> dict[str, str | int]:
        """By sender and phase: how many messages came, or in which disorder."""
        return {
            key: len(got) if got == list(range(len(got))) else f"disorder: {got}"
            for key, got in self._got.items()
            if got
        }

    async def _inbox(self, me: Process) -> None:
        async for sender, phase, number in me:
            self._got[f"{sender} {phase}"].append(number)
            self._came.set()
            self._came = trio.Event()

    # -- names, groups, monitors --------------------------------------------------------------

    async def register(self, name: str) -> str:
        """Have a process with this name in the whole cluster; monitored by it."""
        process = self._node.spawn(hold, name=f"{name}-holder")
        await self._node.register_global(name, process)
        return life_of(process)

    async def whereis(self, name: str) -> str | None:
        """Who has the name in the cluster."""
        found = await self._node.whereis(f"{name}@*")
        return None if found is None else life_of(found)

    async def join(self, group: str) -> str:
        """Put a process in the group."""
        process = self._node.spawn(hold)
        self._node.group(group).join(process)
        return life_of(process)

    async def group(self, name: str) -> list[str]:
        """Who is in the group."""
        return sorted(map(life_of, self._node.group(name).members()))

    async def watch(self, destination: str) -> None:
        """Monitor it: "fired" tells of each Down that comes."""
        await self._node.call(self._watcher, destination)

    async def _watch(self, me: Process) -> None:
        watched: dict[int, str] = {}
        async for message in me:
            match message:
                case steinadler.Call(destination):
                    watched[me.monitor(destination)] = destination
                    message.reply(None)
                case Down(_, reason, reference):
                    say(event="fired", of=watched[reference], reason=reason)

    # -- membership ---------------------------------------------------------------------------

    async def members(self) -> list[str]:
        """All members, by name and life."""
        return [f"{member.node}/{member.node.incarnation}" for member in self._node.members()]

    async def remote(self, peer: str) -> str | None:
        """The far end of the connection to a peer, if there is one now."""
        for each in self._node.connections():
            if each.node.name == peer and each.connected:
                return str(each.remote)
        return None


async def tell_events(node: Node) -> None:
    """What the program of a node is told of the cluster."""
    events = node.events()
    for member in node.members():
        if member.node != node.id:
            say(event="up", name=member.node.name)
    async for event in events:
        match event:
            case NodeUp(member):
                say(event="up", name=member.node.name)
            case NodeDown(member, reason):
                say(event="down", name=member.node.name, reason=reason)
            case NameConflict(name, winner, loser):
                say(event="conflict", name=name, winner=life_of(winner), loser=life_of(loser))


async def carry_out(program: Program, number: int, what: str, *arguments: Any) -> None:
    """Do one thing, and answer with its result, or with why not."""
    try:
        result = await getattr(program, what)(*arguments)
    except steinadler.SteinadlerError as error:
        say(answer=number, error=f"{type(error).__name__}: {error}")
    else:
        say(answer=number, result=result)


async def main(name: str, options: str) -> None:
    async with steinadler.open_node(name, **json.loads(options)) as node:
        program = Program(node)
        async with (
            trio.lowlevel.FdStream(os.dup(0)) as requests,
            trio.open_nursery() as nursery,
        ):
            nursery.start_soon(tell_events, node)
            say(event="ready")
            rest = b""
            async for data in requests:
                *lines, rest = (rest + data).split(b"\n")
                for line in lines:
                    nursery.start_soon(carry_out, program, *json.loads(line))
            nursery.cancel_scope.cancel()


if __name__ == "__main__":
    _, own_name, own_options = sys.argv
    trio.run(main, own_name, own_options)
