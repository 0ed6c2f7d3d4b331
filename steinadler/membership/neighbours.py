"""Whom this node keeps connected to: the neighbours that `overlay` computes, and since when.

Everything that is done regularly is done with neighbours alone: probes, gossip, comparing tables.
So a node's load is the same at any size of the cluster, and whoever answers for a member is one of
few, who all know it.  Other connections come and go as programs need them, and are evidence of
nothing when they break.

The neighbours change once at the end of each call of the engine and not with each record in it:
one table may bring a thousand members, and all but twelve of those that it makes neighbours for a
moment would be dialled for nothing.
"""

from __future__ import annotations

from collections.abc import Iterator

from steinadler.identity import NodeId
from steinadler.membership.table import Entry, Link, Table


class Neighbours:
    """The neighbours of the node called `me`, which may be an observer: then it has its own, and
    is nobody's."""

    def __init__(self, me: str, table: Table) -> None:
        self._me = me
        self._table = table
        self._since: dict[str, float] = {}
        # The version of the overlay that they were taken from.
        self._taken = -1

    def __contains__(self, name: str) -> bool:
        return name in self._since

    def __iter__(self) -> Iterator[Entry]:
        """Those that are members still, in the order in which they became neighbours."""
        for name in self._since:
            entry = self._table.find(name)
            assert entry is not None
            yield entry

    def since(self, name: str) -> float:
        """When a neighbour became one: its record may be much older than any reason to meet it."""
        return self._since[name]

    def drop(self, name: str) -> None:
        """That life of a node is over, or is no member: if it was a neighbour, it is none now."""
        if self._since.pop(name, None) is not None:
            self._taken = -1  # another life of that name may be one

    def connected(self) -> list[NodeId]:
        """The neighbours that a message would reach now.

        In need, while there are none, other members that one would reach: a newcomer knows all
        members before it has met its neighbours among them.
        """
        connected = [entry.member.node for entry in self if entry.link is Link.CONNECTED]
        return connected or self._table.connected_members()

    def update(self, now: float) -> tuple[list[Entry], list[Entry]]:
        """Take those whom the overlay says; who is new, and who is none any longer."""
        if self._taken == self._table.overlay.version:
            return [], []
        self._taken = self._table.overlay.version
        names = self._table.overlay.neighbours_of(self._me)
        added = [name for name in names if name not in self._since]
        removed = sorted(self._since.keys() - set(names))
        for name in removed:
            del self._since[name]
        for name in added:
            self._since[name] = now
        return self._entries(added), self._entries(removed)

    def _entries(self, names: list[str]) -> list[Entry]:
        return [entry for name in names if (entry := self._table.find(name)) is not None]
