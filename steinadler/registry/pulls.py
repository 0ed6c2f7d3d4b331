"""Of whose entries there is more, and who is being asked for them.

    heard ---> behind ---(start: to so many at once)---> asked --+-- answered ---> behind, or done
                  ^                                              |
                  +------------ the next comparison <-- no answer for PATIENCE_S

With twelve neighbours a node hears of every change up to twelve times.  It asks one of them, and
remembers that it did, so that 100,000 names travel once.  How many are asked for at once is bounded
because the answers are: what a peer does not read in time is dropped.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice

from steinadler.identity import NodeId

# An answer takes one round trip; if none has come in so long, none will.
PATIENCE_S = 2.0
# Pieces of 15 KB on their way at the same time, all peers together.
MAX_ASKED = 64


@dataclass(frozen=True, slots=True)
class Lead:
    """Somebody has the entries of `origin` up to `latest`, in pieces that are to be asked for."""

    origin: NodeId
    teller: NodeId
    latest: int


class Pulls:
    """The questions that are open, and those that come next."""

    def __init__(self) -> None:
        self._behind: dict[NodeId, Lead] = {}
        self._asked: dict[NodeId, tuple[Lead, int, float]] = {}  # from which version, until when

    def heard(self, lead: Lead) -> None:
        """There is more; of several who have it, whoever has most is asked."""
        known = self._behind.get(lead.origin)
        if known is None or lead.latest > known.latest:
            self._behind[lead.origin] = lead

    def answered(self, origin: NodeId, sender: NodeId, base: int) -> bool:
        """Somebody told something of `origin`; returns whether that is what he was asked for.

        News from him, and an answer that came late, are not: a second series of questions would
        begin with each.
        """
        if origin not in self._asked:
            return False
        lead, version, _ = self._asked[origin]
        if lead.teller != sender or base not in (0, version):
            return False
        del self._asked[origin]
        return True

    @property
    def idle(self) -> bool:
        """Whether nothing is asked for, nor to be."""
        return not self._behind and not self._asked

    def is_open(self, origin: NodeId) -> bool:
        """Whether more of `origin` is still to come."""
        return origin in self._behind or origin in self._asked

    def forget(self, origin: NodeId) -> None:
        """Nothing more is wanted of `origin`, or not from those who were asked so far."""
        self._behind.pop(origin, None)
        self._asked.pop(origin, None)

    def start(self) -> list[Lead]:
        """Whom to ask for what, now."""
        room = MAX_ASKED - len(self._asked)
        if not self._behind or room <= 0:
            return []
        free = (lead for lead in self._behind.values() if lead.origin not in self._asked)
        leads = list(islice(free, room))
        for lead in leads:
            del self._behind[lead.origin]
        return leads

    def asked(self, lead: Lead, version: int, now: float) -> None:
        """He was asked, for what is behind `version`."""
        self._asked[lead.origin] = (lead, version, now + PATIENCE_S)

    def expire(self, now: float) -> None:
        """Whoever has not answered for too long will not."""
        self._asked = {origin: asked for origin, asked in self._asked.items() if now < asked[2]}
