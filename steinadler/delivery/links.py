"""Links: two processes that end together, unless one traps exits (D4).

Symmetric and idempotent, as in Erlang: linking twice is linking once.
"""

from __future__ import annotations

from steinadler.delivery.index import Index
from steinadler.identity import NodeId, ProcessId


class LinkTable:
    """The links of this node's processes, each seen from the local end.

    A link between two local processes is two entries.
    """

    def __init__(self) -> None:
        self._by_local: Index[int, ProcessId] = Index()
        self._by_node: Index[NodeId, tuple[int, ProcessId]] = Index()

    def add(self, local: int, other: ProcessId) -> None:
        """Tie local process number `local` to `other`."""
        self._by_local.add(local, other)
        self._by_node.add(other.node, (local, other))

    def remove(self, local: int, other: ProcessId) -> bool:
        """Untie them; False when they were not tied (any more)."""
        self._by_node.discard(other.node, (local, other))
        return self._by_local.discard(local, other)

    def count(self, node: NodeId) -> int:
        """How many links there are to processes of `node`."""
        return self._by_node.count(node)

    def count_of(self, local: int) -> int:
        """How many processes process `local` is tied to."""
        return self._by_local.count(local)

    def process_ended(self, local: int) -> list[ProcessId]:
        """Remove and return whom process `local` was tied to, in the order they were tied."""
        others = self._by_local.get(local)
        for other in others:
            self.remove(local, other)
        return others

    def node_down(self, node: NodeId) -> list[tuple[int, ProcessId]]:
        """Remove and return the links to processes of `node`, as (local, other)."""
        entries = self._by_node.get(node)
        for local, other in entries:
            self.remove(local, other)
        return entries
