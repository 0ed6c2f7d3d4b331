"""What was given away and waits to be claimed: once, by a token, within a time.

    add(thing, now) -> token      find(token) -> thing      claimed(token)
    expire(now) -> the things that nobody claimed

Tokens are drawn at random and not counted: whoever was not given one cannot guess it.  All offers
have the same time, so the oldest is the next to expire and no heap is needed.
"""

from __future__ import annotations

import random
from typing import Generic, TypeVar

Thing = TypeVar("Thing")

# How many tokens are remembered after they were claimed, to say so to whoever comes second.
REMEMBERED = 4096


class Offers(Generic[Thing]):
    """Things by token, oldest first."""

    def __init__(self, rng: random.Random, timeout_s: float) -> None:
        self._rng = rng
        self._timeout_s = timeout_s
        self._offers: dict[int, tuple[Thing, float]] = {}
        self._claimed: dict[int, None] = {}

    def add(self, thing: Thing, now: float) -> int:
        """Offer a thing; return the token to claim it by, from 1 to 2**63."""
        token = self._rng.getrandbits(63) + 1
        self._offers[token] = (thing, now + self._timeout_s)
        return token

    def find(self, token: int) -> Thing | None:
        """What is on offer by that token."""
        found = self._offers.get(token)
        return None if found is None else found[0]

    def claimed(self, token: int) -> None:
        """What is on offer by that token has its owner, and is on offer no more."""
        del self._offers[token]
        self._claimed[token] = None
        if len(self._claimed) > REMEMBERED:
            del self._claimed[next(iter(self._claimed))]

    def was_claimed(self, token: int) -> bool:
        """Whether somebody claimed it, as far as that is remembered."""
        return token in self._claimed

    def next_deadline(self) -> float:
        """When the next offer expires; infinity without one."""
        return next((deadline for _, deadline in self._offers.values()), float("inf"))

    def expire(self, now: float) -> list[Thing]:
        """Take back, and return, what nobody claimed in time."""
        expired = []
        while self._offers and self.next_deadline() <= now:
            thing, _ = self._offers.pop(next(iter(self._offers)))
            expired.append(thing)
        return expired
