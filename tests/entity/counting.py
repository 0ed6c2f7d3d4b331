"""A behaviour that the tests of hosts and clusters share: a counter that is stored."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import trio

from steinadler import Node
from steinadler.entity.behaviour import Active, Behaviour, Kind, Timer, Turn
from steinadler.entity.store import Reminder
from steinadler.errors import EntityUnavailable, NoSuchCommand
from steinadler.identity import EntityKey
from steinadler.testing import SimulatedCluster

KEY = EntityKey("Counter", "one")


class Counting(Behaviour):
    """Runs commands, and notes in `log` what happened: (node, what, key's id)."""

    def __init__(self, node: str, log: list[tuple[str, str, str]] | None = None) -> None:
        self.node = node
        self.log = log if log is not None else []
        self.running = 0
        self.may_end = trio.Event()
        self.begun = trio.Event()

    def _note(self, what: str, entity: Active) -> None:
        self.log.append((self.node, what, entity.key.id))

    async def activate(self, entity: Active) -> None:
        self._note("activate", entity)
        entity.memory = int(entity.read("count") or b"0")

    async def deactivate(self, entity: Active) -> None:
        self._note("deactivate", entity)

    async def run(self, entity: Active, turn: Turn) -> Any:
        assert self.running == 0 or entity.key != KEY, "turns overlap (E1)"
        if entity.key == KEY:
            self.running += 1
        try:
            return await self._run(entity, turn)
        finally:
            if entity.key == KEY:
                self.running -= 1

    async def _run(self, entity: Active, turn: Turn) -> Any:
        kind = "" if turn.kind is Kind.CALL else f"{turn.kind.value} "
        self._note(kind + turn.method, entity)
        match turn.method, turn.argument:
            case "add", (int(number),):
                entity.memory += number
                await entity.write({"count": str(entity.memory).encode()})
                return entity.memory
            case "get", ():
                return int(entity.read("count") or b"0")
            case "echo", argument:
                return argument
            case "where", ():
                return self.node
            case "hold", _:
                self.begun.set()
                await self.may_end.wait()
                return "held"
            case "fail", ():
                raise ValueError("as told")
            case "refuse", ():
                raise EntityUnavailable("as told")
            case "read", (str(name),):
                return entity.read(name)
            case "write", (dict(changes), dict(ttl_s)):
                await entity.write(changes, ttl_s)
                return None
            case "unsayable", ():
                return object()
            case "timer", (str(name), float(due_s), period_s, repeats, ttl_s):
                entity.start_timer(Timer(name, due_s, "tick", ("t",), period_s, repeats, ttl_s))
                return None
            case "stop", (str(name),):
                entity.stop_timer(name)
                return None
            case "remind", (str(name), float(after_s), period_s, repeats):
                reminder = Reminder(name, entity.now() + after_s, period_s, repeats, data=b"d")
                await entity.set_reminder(reminder)
                return None
            case ("tick", ("t",)) | (_, b"d"):
                return None
        raise NoSuchCommand(turn.method)


def times(log: list[tuple[str, str, str]], what: str) -> int:
    """How often something was noted."""
    return sum(entry[1] == what for entry in log)


async def meet_hosting(
    cluster: SimulatedCluster, *names: str
) -> tuple[list[Node], dict[str, Counting], list[tuple[str, str, str]]]:
    """Start nodes that host counters, and wait until each knows that all do."""
    log: list[tuple[str, str, str]] = []
    nodes = list(await cluster.start(*names))
    behaviours = {}
    for node in nodes:
        behaviours[node.name] = Counting(node.name, log)
        node.entities.host("Counter", behaviours[node.name])
    with trio.fail_after(10):
        await cluster.agreed()
        for node in nodes:
            await until_hosts(node, *names)
    return nodes, behaviours, log


async def until_hosts(node: Node, *names: str) -> None:
    """Wait until a node knows that these, and no others, host counters."""
    while {
        member.node.name
        for member in node.members()
        if "Counter" in (member.label("$entities") or "").split(",")
    } != set(names):
        await node.wait_for_change()


async def outcome_of(call: Callable[[], Awaitable[Any]]) -> Any:
    """What a call returns, or the exception that it raises."""
    try:
        return await call()
    except Exception as error:
        return error
