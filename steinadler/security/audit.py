"""One line for each refusal, and few lines for many.

    refused: node 'cart-1' (sidecar, 192.0.2.7:40312) may not spawn 'wipe' on alice:
        roles.sidecar has spawn = []                                       (in one line)

They go to the logger `steinadler.audit`, at the level WARNING.  About one peer up to `BURST` at
once and one every `REFILL_S` after that; about all together `ALL_BURST` and one a second.  The
others are counted, and told by number: in the next line about that peer, or in a summary, every
`SUMMARY_S` at the most.  By peer, so that one that asks without end does not hide what another one
tries; and together, because a peer may come back under other names.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

BURST = 20
REFILL_S = 10.0
ALL_BURST = 200
ALL_REFILL_S = 1.0
SUMMARY_S = 10.0
# How many peers are told apart; the lines about those beyond them are of all together.
MAX_PEERS = 1024
# What is told of a name that a peer chose, and of how many peers a summary does.
_MAX_SHOWN, _MAX_NAMED = 200, 5

log = logging.getLogger("steinadler.audit")


@dataclass(slots=True)
class _Allowance:
    """How many lines may be written now, and how many refusals none was written about."""

    burst: int
    refill_s: float
    as_of: float
    used: float = 0.0
    untold: int = 0

    def has_line(self, now: float) -> bool:
        self.used = max(0.0, self.used - (now - self.as_of) / self.refill_s)
        self.as_of = now
        return self.used <= self.burst - 1


class Audit:
    """Which refusals are told.  `count` is of all, told or not."""

    def __init__(self) -> None:
        self.count = 0
        self._all = _Allowance(ALL_BURST, ALL_REFILL_S, 0.0)
        self._peers: dict[str, _Allowance] = {}

    def refused(self, peer: str, now: float, times: int = 1) -> str | None:
        """So many refusals of one peer, for one reason: what to put behind the line about it, or
        None when there is to be none."""
        self.count += times
        one = self._allowance(peer, now)
        if not (one.has_line(now) and self._all.has_line(now)):
            one.untold += times
            return None
        one.used += 1
        self._all.used += 1
        more, one.untold = one.untold + times - 1, 0
        return f" (and {more} more refusals)" if more else ""

    @property
    def owes(self) -> bool:
        """Whether there are refusals that no line tells of yet."""
        return any(one.untold for one in self._peers.values())

    def summary(self) -> str:
        """The line about those; then they are told."""
        untold = {peer: one.untold for peer, one in self._peers.items() if one.untold}
        for peer in untold:
            self._peers[peer].untold = 0
        named = sorted(untold, key=lambda peer: -untold[peer])[:_MAX_NAMED]
        who = ", ".join(f"{untold[peer]} of {peer or 'others'}" for peer in named)
        rest = len(untold) - len(named)
        return f"refused, and not told one by one: {who}" + (f", and of {rest} more" * bool(rest))

    def _allowance(self, peer: str, now: float) -> _Allowance:
        if peer not in self._peers and len(self._peers) >= MAX_PEERS:
            self._peers = {  # without those about whom there is nothing to remember
                name: one
                for name, one in self._peers.items()
                if one.untold or not one.has_line(now) or one.used
            }
            if len(self._peers) >= MAX_PEERS:
                peer = ""
        return self._peers.setdefault(peer, _Allowance(BURST, REFILL_S, now))


def shown(text: str) -> str:
    """A text of a peer's choice, quoted: no line may look like two."""
    return repr(text if len(text) <= _MAX_SHOWN else f"{text[: _MAX_SHOWN - 3]}...")
