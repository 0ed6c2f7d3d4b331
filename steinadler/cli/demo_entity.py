"""An entity of `steinadler demo`: called through two nodes, and found again on a third.

It is a tally, and of all tallies one that the node to be killed owns.  All nodes keep entities in
one file: what one of them acknowledged, the next owner finds.
"""

from __future__ import annotations

import time

import trio

from steinadler.cli.running import failing_at
from steinadler.entity.python import Entity, command
from steinadler.errors import EntityHostFailed, EntityUnavailable
from steinadler.identity import EntityKey
from steinadler.node import Node
from steinadler.process import Call, Process

_FOUND_WITHIN_S = 10.0


class Tally(Entity):
    """Counts."""

    count: int = 0

    @command
    def add(self, number: int) -> int:
        """Add, and return the total."""
        self.count += number
        return self.count


async def caller(me: Process) -> None:
    """Add to a tally when called ("add", id, number): a call that another node makes."""
    node = me.node
    assert isinstance(node, Node)
    async for message in me:
        match message:
            case Call(("add", str() as id_, int() as number)):
                message.reply(await node.entity("Tally", id_).call("add", number))


async def count_on(node: Node, owner: str, through: str) -> EntityKey:
    """Count to two with a tally that `owner` has, through this node and another; return its key."""
    while not all("Tally" in dict(m.labels).get("$entities", "") for m in node.members()):  # noqa: ASYNC110
        await trio.sleep(0.01)  # nobody tells when a label changes
    tallies = (node.entity("Tally", str(number)) for number in range(1, 10_000))
    key = next(tally.key for tally in tallies if tally.owner == owner)
    await node.entity(key.type, key.id).call("add", 1)
    total = await node.call(f"caller@{through}", ("add", key.id, 1))
    if total != 2:
        raise AssertionError(f"{key} stands at {total} after two calls")
    return key


async def find_again(node: Node, key: EntityKey, killed_at: float) -> float:
    """Call the tally until it answers; return the milliseconds since its owner's death.

    The last that it acknowledged was 2 (E2).  A call that failed may have counted (E3).
    """
    why = f"{key} was not found again within {_FOUND_WITHIN_S:g} s"
    failed = 0
    with failing_at(trio.current_time() + _FOUND_WITHIN_S, lambda: why):
        while True:
            try:
                total = await node.entity(key.type, key.id).call("add", 1)
                break
            except (EntityHostFailed, EntityUnavailable):
                failed += 1
                await trio.sleep(0.01)
    took_ms = (time.perf_counter() - killed_at) * 1000
    if not 3 <= total <= 3 + failed:
        raise AssertionError(f"{key} stands at {total}, and not at 3")
    return took_ms
