"""Where a call goes next when it was sent on: no I/O.

    asked a node -> "not here: ask that one"      -> that one, at once
                 -> "not here", once more          -> whom we take for the owner, after a pause
                 -> ... for `patience_s` in all    -> nobody: nothing ran, and the caller is told

Two nodes may see different members for a moment.  So a name that came with the answer is believed
once, and then we look for ourselves: two nodes that name each other must not keep a call going
round between them.
"""

from __future__ import annotations

import random
from collections.abc import Callable

# After the n-th answer "not here": min(first * 2**n, longest), times a random 0.5 to 1.
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.005, 0.25


class Search:
    """One call's search for its owner.  `hint` is whom to ask next, None for a look of our own."""

    __slots__ = ("_ends_at", "_patience_s", "_pause_s", "_rng", "hint")

    def __init__(self, patience_s: float, rng: random.Random) -> None:
        self.hint: str | None = None
        self._patience_s = patience_s
        self._rng = rng
        self._ends_at: float | None = None
        self._pause_s = FIRST_PAUSE_S

    def sent_on(
        self, asked: str, named: str, is_member: Callable[[str], bool], now: float
    ) -> float | None:
        """`asked` did not run the call, and named another, or nobody ("").

        Returns the seconds to wait before the next attempt; None when there is to be none.
        """
        if self._ends_at is None:
            self._ends_at = now + self._patience_s
        elif now >= self._ends_at:
            return None
        believed = self.hint is None and named not in ("", asked) and is_member(named)
        self.hint = named if believed else None
        if believed:
            return 0.0
        pause_s = self._pause_s * self._rng.uniform(0.5, 1.0)
        self._pause_s = min(2 * self._pause_s, LONGEST_PAUSE_S)
        return pause_s
