"""Of whose entries there is more, and who is being asked for them.

    heard ---> behind ---(next: so many pieces at once)--> asked --+-- answered ---> behind, or done
                  ^                                                |
                  +------------ the next comparison <-- no answer for PATIENCE_S

With twelve neighbours a node hears of every change up to twelve times.  It asks one of them, and
remembers that it did, so that 100,000 names travel once.  How many pieces are asked for at once is
bounded because the answers are: what a peer does not read in time is dropped.  A long list is asked
for several pieces at a time, or it would take a round trip for every 15 KB.
"""

from __future__ import annotations

from dataclasses import dataclass

from steinadler.identity import NodeId
from steinadler.registry.messages import Update

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


@dataclass(slots=True)
class _Question:
    """What `teller` was asked for: so many pieces are still to come, the next behind `version`."""

    teller: NodeId
    version: int
    pieces: int
    expires_at: float


class Pulls:
    """The questions that are open, and those that come next."""

    def __init__(self) -> None:
        self._behind: dict[NodeId, Lead] = {}
        self._asked: dict[NodeId, _Question] = {}

    def heard(self, lead: Lead) -> None:
        """There is more; of several who have it, whoever has most is asked."""
        known = self._behind.get(lead.origin)
        if known is None or lead.latest > known.latest:
            self._behind[lead.origin] = lead

    def answered(self, sender: NodeId, update: Update, now: float) -> bool:
        """Somebody tells something; returns whether that is what he was asked for.

        News from him, and an answer that came late, are not: a second series of questions would
        begin with each.
        """
        question = self._asked.get(update.origin)
        if question is None or question.teller != sender:
            return False
        if update.base not in (0, question.version):
            return False
        question.version = update.version
        question.pieces -= 1
        question.expires_at = now + PATIENCE_S
        if not question.pieces or update.version == update.latest:
            del self._asked[update.origin]
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

    @property
    def room(self) -> int:
        """How many more pieces may be asked for now."""
        return MAX_ASKED - sum(question.pieces for question in self._asked.values())

    def next(self) -> Lead | None:
        """What to ask for now, if anything."""
        if self.room > 0:
            for origin in self._behind:
                if origin not in self._asked:
                    return self._behind.pop(origin)
        return None

    def asked(self, lead: Lead, version: int, pieces: int, now: float) -> None:
        """He was asked, for so many pieces behind `version`."""
        self._asked[lead.origin] = _Question(lead.teller, version, pieces, now + PATIENCE_S)

    def expire(self, now: float) -> None:
        """Whoever has not answered for too long will not."""
        self._asked = {
            origin: question
            for origin, question in self._asked.items()
            if now < question.expires_at
        }
