"""Who is told what, and when: this node's side of dissemination.

News goes at once to a few random neighbours, to the accused and to all observers, and rides on
probes afterwards.  The few are drawn from those held alive, as in memberlist: where many fall
silent at once, the news of that would be gone with them.  A node's own refutation goes to everybody
it is connected to: it is rare, it is urgent, and only one node has it.  Leaving all of it to
piggy-backing, as SWIM does, was refused: it would add probe rounds to every detection time.

News of hundreds of members, when two sides of a network meet again, goes as many messages, each to
a few neighbours of its own.  What waits for probes moves at a kilobyte a probe: suspicions would
run out before they are refuted.
"""

from __future__ import annotations

import random

from steinadler.config import MembershipSettings
from steinadler.identity import NodeId
from steinadler.membership import timing
from steinadler.membership.dissemination import GossipQueue, batches
from steinadler.membership.events import Send
from steinadler.membership.members import Member, MemberState
from steinadler.membership.messages import Gossip
from steinadler.membership.neighbours import Neighbours
from steinadler.membership.table import Link, Table


class Rumours:
    """What this node has to pass on.  It reads the table and never changes it."""

    def __init__(
        self,
        table: Table,
        neighbours: Neighbours,
        settings: MembershipSettings,
        rng: random.Random,
    ) -> None:
        self._table = table
        self._neighbours = neighbours
        self._settings = settings
        self._rng = rng
        self._queue = GossipQueue()
        self._news: list[Member] = []
        # Peers that only watch.
        self.observers: set[NodeId] = set()

    def add(self, record: Member) -> None:
        """This is news, to be spread at the end of the call that brought it."""
        self._news.append(record)

    def repeat(self, record: Member) -> None:
        """Somebody has missed this; let it ride on probes once more."""
        self._queue.put(record)

    def forget(self, name: str) -> None:
        """Pass nothing on about `name` any more."""
        self._queue.discard(name)

    def clear_news(self) -> None:
        """Spread nothing of what this call brought."""
        self._news = []

    def piggyback(self, to: NodeId) -> tuple[Member, ...]:
        """What a probe or an answer to `to` carries; first what `to` itself has to refute."""
        updates = self._queue.take(self._transmissions())
        entry = self._table.entry_of(to)
        if entry is None or entry.member.state is MemberState.ALIVE:
            return updates
        return (entry.member, *(one for one in updates if one != entry.member))

    def spread(self, me: NodeId, source: NodeId | None) -> list[Send]:
        """Tell the news, to others than the `source` it came from."""
        news, self._news = self._news, []
        if not news:
            return []
        sends: list[Send] = []
        for batch in batches(news):
            recipients = self._recipients(batch, me, source)
            sends.extend(Send(node, Gossip(batch)) for node in recipients)
            sends.extend(Send(node, Gossip(batch)) for node in sorted(self.observers))
            for record in batch:
                self._queue.discard(record.node.name)
                alive = sum(self._is_alive(node) for node in recipients if node != record.node)
                if alive < self._transmissions():
                    self._queue.put(record, sent=alive)
        return sends

    def _is_alive(self, node: NodeId) -> bool:
        entry = self._table.entry_of(node)
        return entry is not None and entry.member.state is MemberState.ALIVE

    def _transmissions(self) -> int:
        return timing.transmissions(self._settings, len(self._table.overlay))

    def _recipients(
        self, news: tuple[Member, ...], me: NodeId, source: NodeId | None
    ) -> list[NodeId]:
        if any(record.node == me for record in news):
            return self._table.connected()
        others = [
            node for node in self._neighbours.connected() if node != source and self._is_alive(node)
        ]
        recipients = self._rng.sample(others, min(timing.FANOUT, len(others)))
        for record in news:
            if record.state in (MemberState.SUSPECT, MemberState.DOWN):
                entry = self._table.entry_of(record.node)
                connected = entry is not None and entry.link is Link.CONNECTED
                if connected and record.node not in recipients:
                    recipients.append(record.node)
        return recipients
