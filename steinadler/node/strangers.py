"""Strangers: addresses that discovery found, and that are of no member known here.

    discovery --> heard ... (a time that is drawn) ... due --> dialled, unless it is a member's now

In a large cluster everybody is told of a newcomer in the same moment, as mDNS does.  If all dialled
it, it would have a thousand handshakes to do and a thousand connections, of which a dozen are to
stay.  So they take turns by chance, about a hundred of them in a second: whoever is first meets the
newcomer, gossip tells the others who is there, and they have nobody to dial any more.

Leaving it to the newcomer, which dials too, was refused: it may be told of nobody, and of two
clusters that do not know each other one member alone may have an address in the other.
"""

from __future__ import annotations

import math
import random

from steinadler.identity import Address

# Between two who dial one stranger, on the average; news is everywhere after a few tenths of a
# second.
TURN_S = 0.01
# Nobody waits longer for a turn: also in the largest cluster discovery is to find in seconds.
LONGEST_WAIT_S = 10.0
# What is heard beyond so many is proposed again by discovery.
MAX_STRANGERS = 1_024


class Strangers:
    """The addresses that wait for their turn at one node, by its clock."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._due: dict[Address, float] = {}

    def heard(self, address: Address, members: int, now: float) -> None:
        """Discovery proposes it, to each of so many members."""
        if address not in self._due and len(self._due) < MAX_STRANGERS:
            longest = min(members * TURN_S, LONGEST_WAIT_S)
            self._due[address] = now + self._rng.uniform(0, longest)

    def next_deadline(self) -> float:
        """When the next one has its turn; `math.inf` when there is none."""
        return min(self._due.values(), default=math.inf)

    def due(self, now: float) -> list[Address]:
        """Take out those whose turn it is."""
        found = [address for address, at in self._due.items() if at <= now]
        for address in found:
            del self._due[address]
        return found
