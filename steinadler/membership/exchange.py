"""Tables, compared and exchanged: what repairs whatever gossip missed.

    A  Summary        the digests of A's table, one for each of 32 buckets of names
    B  SyncReply ...  what B holds in the buckets that differ, in as many parts as it takes,
       SyncRequest    the last of which asks for what A holds in them
    A  SyncReply ...  what A holds in them

A summary that is equal is not answered: where nothing has changed, comparing takes 300 bytes at any
size of the cluster.  Sending whole tables, as memberlist does, was refused: among ten thousand
members a node would be told a megabyte every ten seconds.

A table is much to tell for the few bytes that ask for it, so each peer is told ASKS_AT_ONCE times,
and then once in a second (X4); nodes compare once in `sync_interval_s`.

On a new connection the end with the smaller name sends its summary, so that what differs does not
travel twice.  An observer has nothing to compare: it asks for the whole table.
"""

from __future__ import annotations

from steinadler.identity import NodeId
from steinadler.membership.beliefs import Beliefs
from steinadler.membership.digest import bucket_of
from steinadler.membership.dissemination import batches
from steinadler.membership.members import Member
from steinadler.membership.messages import Summary, SyncReply, SyncRequest
from steinadler.membership.outbox import Outbox
from steinadler.membership.table import Table
from steinadler.wire.quotas import Quota

ASKS_AT_ONCE, ASKS_PER_S = 8, 1.0


class Exchange:
    """One node's side of comparing tables.  It reads the table and changes nothing."""

    def __init__(self, table: Table, beliefs: Beliefs, outbox: Outbox, *, observer: bool) -> None:
        self._table = table
        self._beliefs = beliefs
        self._outbox = outbox
        self._observer = observer
        self._quota = Quota(ASKS_AT_ONCE, ASKS_PER_S)

    def met(self, node: NodeId, *, known: bool) -> None:
        """A connection to `node` was made; `known` when it was held to be alive already."""
        if self._observer:
            if not known:
                self._outbox.send(node, SyncRequest(()))
        elif self._beliefs.me.node.name < node.name:
            self.compare_with(node)

    def compare_with(self, node: NodeId) -> None:
        """Have `node` tell, and ask for, what differs."""
        self._outbox.send(node, Summary(self._digests()))

    def answer(self, sender: NodeId, digests: tuple[int, ...], now: float) -> None:
        """Tell `sender` what differs from its summary, and ask for the same."""
        ours = self._digests()
        differing = tuple(i for i, digest in enumerate(digests) if digest != ours[i])
        if not differing or not self._quota.allows(sender, now):
            return
        *parts, last = self._parts(differing)
        for part in parts:
            self._outbox.send(sender, SyncReply(part))
        self._outbox.send(sender, SyncRequest(last, differing))

    def give(self, sender: NodeId, buckets: tuple[int, ...] | None, now: float) -> None:
        """Tell `sender` all that is held in those buckets, or in all."""
        if not self._quota.allows(sender, now):
            return
        for part in self._parts(buckets):
            self._outbox.send(sender, SyncReply(part))

    def _digests(self) -> tuple[int, ...]:
        return self._table.digest.buckets(self._beliefs.me)

    def _parts(self, buckets: tuple[int, ...] | None) -> list[tuple[Member, ...]]:
        records = [self._beliefs.me, *(entry.member for entry in self._table)]
        if buckets is not None:
            wanted = frozenset(buckets)
            records = [one for one in records if bucket_of(one.node.name) in wanted]
        return batches(records)
