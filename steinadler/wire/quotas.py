"""Quotas: how often a peer may ask for what costs much more to answer than to ask.

Most of what a peer asks for it pays for itself, by credit or by reading the answer, and is as much
work for the one as for the other.  A few requests are not: some bytes that ask for a whole table.
Each peer has a token bucket for those, `burst` at once and `per_s` in a second for ever, far above
what nodes ask by themselves.  What is beyond it is not answered; whoever asks in good faith asks
again later.
"""

from __future__ import annotations

from collections.abc import Hashable

# When there are more buckets than this, those that are full are dropped: they say nothing.
_MANY = 1024


class Quota:
    """The buckets of all peers."""

    def __init__(self, burst: int, per_s: float) -> None:
        self._burst = float(burst)
        self._per_s = per_s
        # What is left, and when that was so.
        self._buckets: dict[Hashable, tuple[float, float]] = {}

    def __len__(self) -> int:
        return len(self._buckets)

    def allows(self, peer: Hashable, now: float) -> bool:
        """Whether `peer` may ask once more; if so, it has."""
        left = self._left(peer, now)
        if peer not in self._buckets and len(self._buckets) >= _MANY:
            self._buckets = {p: b for p, b in self._buckets.items() if not self._is_full(p, now)}
        allowed = left >= 1
        self._buckets[peer] = (left - allowed, now)
        return allowed

    def _left(self, peer: Hashable, now: float) -> float:
        left, at = self._buckets.get(peer, (self._burst, now))
        return min(self._burst, left + self._per_s * max(0.0, now - at))

    def _is_full(self, peer: Hashable, now: float) -> bool:
        return self._left(peer, now) >= self._burst
