"""Reentrancy: a turn whose call comes back to its own entity would wait for itself.

    first turn     of Cart/1, which calls Stock/7, which calls Cart/1 again: a call of one chain
    nested turn    runs within the first one, if there is a place left, and may call on likewise

**A place is taken when the call is let in**, before its task has begun, and given back when its
turn ends.  The first turn has the first place; once all are given back the chain is over, and what
comes then waits for a turn of its own.  So an entity never has more turns than places, and none
runs beside one of another chain (E1).  To count turns when they begin was refused: those that were
let in and have not begun would not be seen.

Nested turns are in a nursery of the first one, which does not end before them, and cuts them short
when it is cut short.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import trio


class Chain:
    """A chain of calls, and its turns in one entity: `depth` of them, of `max_depth` at most."""

    __slots__ = ("_depth", "_max_depth", "_nursery", "name")

    def __init__(self, name: str, max_depth: int, nursery: trio.Nursery) -> None:
        self.name = name
        self._depth = 1
        self._max_depth = max_depth
        self._nursery = nursery

    def let_in(self, name: str | None, turn: Callable[[], Awaitable[None]]) -> bool:
        """Run a turn of the chain of that name within this one; False when it has no place."""
        if name != self.name or not 0 < self._depth < self._max_depth:
            return False
        self._depth += 1
        self._nursery.start_soon(self._run, turn)
        return True

    async def _run(self, turn: Callable[[], Awaitable[None]]) -> None:
        try:
            await turn()
        finally:
            self.leave()

    def leave(self) -> None:
        """Give a place back."""
        self._depth -= 1


@asynccontextmanager
async def open_chain(name: str, max_depth: int) -> AsyncIterator[Chain]:
    """A chain whose first turn is the block.  Leaving it waits for the nested ones."""
    async with trio.open_nursery() as nursery:
        chain = Chain(name, max_depth, nursery)
        try:
            yield chain
        finally:
            chain.leave()
