"""Rounds: how a source proposes a list of addresses again and again.

All that is listed is proposed at once when the list changes, so that nobody waits for a round, and
again every few seconds, so that a node which starts later, or comes back, is found then.  There is
no "tried enough": giving up on an address is how clusters stay split after a long outage.

A round has a limit, because a list may come from a file or from DNS, and who writes there must not
be able to make a node dial without bound.  Of a longer list each round takes other ones, drawn, so
that all get their turn; always the first ones would leave the rest out for ever.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

import trio

from steinadler.discovery.source import Candidate, Found
from steinadler.errors import ConfigError

# Addresses proposed in one round.
MOST_A_ROUND = 32
# A round comes between these multiples of the interval after the last one.
_JITTER = (0.75, 1.25)


class Rounds:
    """Proposes a list of candidates about every `interval_s` seconds.

    The time between two rounds is `interval_s` times a number that `rng` draws between 0.75 and
    1.25, so that nodes started together do not ask together.  At most 32 are proposed in a round.

    Raises `ConfigError` when `interval_s` is not greater than zero.
    """

    def __init__(self, rng: random.Random, interval_s: float) -> None:
        if not interval_s > 0:
            raise ConfigError(f"interval_s must be greater than zero, not {interval_s!r}")
        self._rng = rng
        self._interval_s = interval_s
        self._candidates: Sequence[Candidate] = ()
        self._changed = trio.Event()

    def put(self, candidates: Sequence[Candidate]) -> None:
        """Propose these from now on; the next round comes at once if they are others."""
        if candidates != self._candidates:
            self._candidates = candidates
            self._changed.set()

    async def run(self, found: Found) -> None:
        """Call `found` for the candidates until cancelled."""
        while True:
            self._changed = trio.Event()
            candidates = self._candidates
            if len(candidates) > MOST_A_ROUND:
                candidates = self._rng.sample(candidates, MOST_A_ROUND)
            for candidate in candidates:
                found(candidate)
            with trio.move_on_after(jittered(self._interval_s, self._rng)):
                await self._changed.wait()


def jittered(interval_s: float, rng: random.Random) -> float:
    """A time near `interval_s`, drawn."""
    return interval_s * rng.uniform(*_JITTER)
