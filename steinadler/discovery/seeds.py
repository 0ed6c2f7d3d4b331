"""Seeds: addresses that somebody wrote down.

They are proposed at once, so that a node with seeds never waits for a network protocol, and
again every few seconds, so that a seed which starts later, or comes back, is found then.  There
is no "tried enough": giving up on a seed is how clusters stay split after a long outage.
"""

from __future__ import annotations

import random
from collections.abc import Iterable

import trio

from steinadler.discovery.source import Candidate, Found, Source
from steinadler.errors import ConfigError
from steinadler.identity import Address

# A round comes between these multiples of the interval after the last one.
_JITTER = (0.75, 1.25)


class Seeds(Source):
    """Proposes each of `addresses` at once and then about every `interval_s` seconds.

    The time between two rounds is `interval_s` times a number that `rng` draws between 0.75 and
    1.25, so that nodes started together do not ask together.  Host names are proposed as they
    are: they are looked up at every dial, so a name that moves is followed.

    Raises `ConfigError` when `interval_s` is not greater than zero.
    """

    def __init__(
        self, addresses: Iterable[Address], *, rng: random.Random, interval_s: float = 3.0
    ) -> None:
        if not interval_s > 0:
            raise ConfigError(f"interval_s must be greater than zero, not {interval_s!r}")
        self._candidates = tuple(Candidate(address, "seed") for address in addresses)
        self._rng = rng
        self._interval_s = interval_s

    async def run(
        self,
        found: Found,
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Run until cancelled; returns at once when there are no seeds.  See `Source.run`."""
        task_status.started()
        while self._candidates:
            for candidate in self._candidates:
                found(candidate)
            await trio.sleep(self._interval_s * self._rng.uniform(*_JITTER))
