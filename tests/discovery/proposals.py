"""What a source proposed, and waiting for it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import trio

from steinadler.discovery import Candidate, Source
from steinadler.identity import Address


class Proposals:
    """The callback of a source, and what it was called with since `forget`."""

    def __init__(self) -> None:
        self.seen: list[Candidate] = []
        self._more = trio.Event()

    def __call__(self, candidate: Candidate) -> None:
        self.seen.append(candidate)
        self._more.set()
        self._more = trio.Event()

    def forget(self) -> None:
        self.seen.clear()

    def addresses(self) -> set[Address]:
        return {candidate.address for candidate in self.seen}

    async def until(self, *addresses: Address, times: int = 1) -> None:
        """Wait until each of these was proposed so often."""
        wanted = set(addresses)
        with trio.fail_after(10):
            while any(
                sum(candidate.address == address for candidate in self.seen) < times
                for address in wanted
            ):
                await self._more.wait()


async def until(condition: Callable[[], object]) -> None:
    """Wait until it holds: for what has no event of its own, such as a line in a log."""
    with trio.fail_after(10):
        while not condition():  # noqa: ASYNC110
            await trio.sleep(0.002)


@asynccontextmanager
async def proposing(source: Source) -> AsyncIterator[Proposals]:
    """Run a source for the length of the block."""
    proposals = Proposals()
    async with trio.open_nursery() as nursery:
        await nursery.start(source.run, proposals)
        yield proposals
        nursery.cancel_scope.cancel()
