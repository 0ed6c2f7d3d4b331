"""What is to be done when: a heap that does not keep what is over.

Nothing is taken out of the middle of a heap.  What is over meanwhile (a timer that was stopped, an
entity that went) stays in it until it is due; or until the heap has twice as many entries as were
worth keeping the last time: then it is made anew of those that still are.  So no more dead entries
are kept than living ones, and each costs one look on average.

To be told of each entry that dies, and to count, was refused: all who end one would have to know.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Callable
from typing import Generic, TypeVar

_SMALLEST = 8

_T = TypeVar("_T")


class Agenda(Generic[_T]):
    """Things, each with its time, the earliest first; `stands` tells whether one still counts."""

    def __init__(self, stands: Callable[[_T], bool]) -> None:
        self._stands = stands
        # (its time, a number to tell equals apart and keep their order, the thing).
        self._heap: list[tuple[float, int, _T]] = []
        self._numbers = itertools.count()
        self._full_at = _SMALLEST

    def __len__(self) -> int:
        return len(self._heap)

    @property
    def next_at(self) -> float:
        """When the first of them is due; infinity when there is none."""
        return self._heap[0][0] if self._heap else math.inf

    def add(self, at: float, thing: _T) -> None:
        """It may be in here several times."""
        if len(self._heap) >= self._full_at:
            self._heap = [entry for entry in self._heap if self._stands(entry[2])]
            heapq.heapify(self._heap)
            self._full_at = max(_SMALLEST, 2 * len(self._heap))
        heapq.heappush(self._heap, (at, next(self._numbers), thing))

    def take(self, now: float) -> _T | None:
        """Take out the first one that is due and still stands."""
        while self._heap and self._heap[0][0] <= now:
            thing = heapq.heappop(self._heap)[2]
            if self._stands(thing):
                return thing
        return None
