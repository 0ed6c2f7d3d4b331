"""Seeds: addresses that somebody wrote down.

They are proposed at once, so that a node with seeds never waits for a network protocol, and then
in rounds, see `steinadler.discovery.rounds`.
"""

from __future__ import annotations

import random
from collections.abc import Iterable

import trio

from steinadler.discovery.rounds import Rounds
from steinadler.discovery.source import Candidate, Found, Source
from steinadler.identity import Address


class Seeds(Source):
    """Proposes each of `addresses` at once and then about every `interval_s` seconds.

    `rng` draws the time between two rounds, 0.75 to 1.25 times `interval_s`, and the 32 of a round
    where there are more.  Host names are proposed as they are: they are looked up at every dial,
    so a name that moves is followed, and all addresses behind a name are dialled.

    Raises `ConfigError` when `interval_s` is not greater than zero.
    """

    def __init__(
        self, addresses: Iterable[Address], *, rng: random.Random, interval_s: float = 3.0
    ) -> None:
        self._candidates = tuple(Candidate(address, "seed") for address in addresses)
        self._rounds = Rounds(rng, interval_s)

    async def run(
        self,
        found: Found,
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Run until cancelled; returns at once when there are no seeds.  See `Source.run`."""
        task_status.started()
        if self._candidates:
            self._rounds.put(self._candidates)
            await self._rounds.run(found)
