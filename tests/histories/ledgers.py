"""The entity that histories are made of, and the clients that call it and write down what happens.

A ledger keeps the name of every operation that it carried out, and under which epoch: its state is
the order of its turns.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any

import trio
from checking import NOTHING_RAN
from recording import Recorder

import steinadler
from steinadler import Node, SteinadlerError

# A turn takes so long between reading the state and changing it: another one in between would show.
MOST_TURN_S = 0.01
# How long a client waits before it calls again after nothing ran, and how often.
AGAIN_S, MOST_TRIES = 0.1, 20


class Ledger(steinadler.Entity, idle_s=0.1):
    """Each turn adds one line, "operation@epoch".  It is soon passivated: that must be safe too."""

    turns: list[str] = field(default_factory=list)

    @steinadler.command
    async def add(self, op: str, turn_s: float) -> int:
        """Add a line, and tell how many there are."""
        before = self.turns
        await trio.sleep(turn_s)
        # Entities are not told their epoch; the history needs the writer's own word for it.
        self.turns = [*before, f"{op}@{self._here().epoch}"]
        return len(self.turns)

    @steinadler.command
    async def fail(self, op: str, turn_s: float) -> None:
        """Add a line, and fail: nobody may ever see it."""
        await self.add(op, turn_s)
        raise ValueError("as told")


@dataclass(frozen=True, slots=True)
class Plan:
    """What clients do: to which ledgers, and how patient they are, least and most, in seconds."""

    entities: tuple[str, ...]
    pause_s: tuple[float, float]
    timeout_s: tuple[float, float]
    failing: float = 0.05


class Client:
    """Calls, one operation after the other, each under a name of its own."""

    def __init__(self, name: str, node: Node, recorder: Recorder, plan: Plan) -> None:
        self._name = name
        self._node = node
        self._recorder = recorder
        self._plan = plan
        self._draw = random.Random(name)
        self._count = 0

    async def keep_calling(self, stop: trio.Event) -> None:
        """Call until told to stop, and then end what was begun."""
        while not stop.is_set():
            entity = self._draw.choice(self._plan.entities)
            command = "fail" if self._draw.random() < self._plan.failing else "add"
            await self.operate(entity, command, self._draw.uniform(*self._plan.timeout_s))
            with trio.move_on_after(self._draw.uniform(*self._plan.pause_s)):
                await stop.wait()

    async def operate(self, entity: str, command: str = "add", timeout_s: float = 10.0) -> bool:
        """Carry one operation out; whether it was acknowledged.

        It is called again only when nothing ran.  Cancelled, it ends without a word.
        """
        self._count += 1
        op = f"{self._name}.{self._count}"
        facts: dict[str, Any] = {"client": self._name, "op": op}
        for _ in range(MOST_TRIES):
            self._recorder.note("invoke", **facts, entity=entity, command=command)
            try:
                turn_s = self._draw.uniform(0, MOST_TURN_S)
                result = await self._node.entity("Ledger", entity).call(
                    command, op, turn_s, timeout_s=timeout_s
                )
            except SteinadlerError as error:
                name = type(error).__name__
                self._recorder.note("error", **facts, error=name)
                if name not in NOTHING_RAN:
                    return False
            else:
                self._recorder.note("ok", **facts, result=result)
                return True
            await trio.sleep(AGAIN_S)
        return False

    async def recover(self) -> None:
        """Have every ledger take one more turn, however often that fails."""
        left = list(self._plan.entities)
        while left:
            if await self.operate(left[-1]):
                left.pop()
            else:
                await trio.sleep(AGAIN_S)
