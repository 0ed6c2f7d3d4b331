"""Monitors: the watcher's end (`MonitorsHeld`) and the watched end (`MonitorsOfUs`).

A monitor hangs on membership, not on a connection: it lives until the process ends, the watcher
lets go, or the watched process's node is declared down.  Both ends are kept separately, also
when they are on one node, so that there is one path and not two.
"""

from __future__ import annotations

from dataclasses import dataclass

from steinadler.delivery.index import Index
from steinadler.identity import NodeId, ProcessId, ProcessName


@dataclass(frozen=True, slots=True)
class Held:
    """One monitor, as its watcher sees it.  `watcher` is a process number; 0 is a bare handle."""

    reference: int
    node: NodeId
    watcher: int
    destination: ProcessId | ProcessName


@dataclass(frozen=True, slots=True)
class Watcher:
    """One monitor, as the watched process's node sees it."""

    node: NodeId
    reference: int
    number: int


class MonitorsHeld:
    """The monitors that this node's processes and handles hold."""

    def __init__(self) -> None:
        self._held: dict[int, Held] = {}
        self._by_node: Index[NodeId, int] = Index()
        self._by_watcher: Index[int, int] = Index()
        self._next_reference = 1

    def __len__(self) -> int:
        return len(self._held)

    def add(self, node: NodeId, watcher: int, destination: ProcessId | ProcessName) -> Held:
        """Begin to watch `destination`, which is on `node`."""
        held = Held(self._next_reference, node, watcher, destination)
        self._next_reference += 1
        self._held[held.reference] = held
        self._by_node.add(node, held.reference)
        self._by_watcher.add(watcher, held.reference)
        return held

    def count(self, number: int) -> int:
        """How many monitors process `number` holds."""
        return self._by_watcher.count(number)

    def remove(self, reference: int, node: NodeId | None = None) -> Held | None:
        """The monitor fired or was let go.

        None when that already happened, or when it is not about `node`: do nothing then.
        """
        held = self._held.get(reference)
        if held is None or node not in (None, held.node):
            return None
        del self._held[reference]
        self._by_node.discard(held.node, reference)
        self._by_watcher.discard(held.watcher, reference)
        return held

    def node_down(self, node: NodeId) -> list[Held]:
        """Remove and return every monitor of something on `node`, oldest first."""
        return self._remove_all(self._by_node.get(node))

    def watcher_ended(self, number: int) -> list[Held]:
        """Remove and return every monitor that process `number` held, oldest first."""
        return self._remove_all(self._by_watcher.get(number))

    def _remove_all(self, references: list[int]) -> list[Held]:
        removed = (self.remove(reference) for reference in references)
        return [held for held in removed if held is not None]


class MonitorsOfUs:
    """The monitors that anyone holds on this node's processes."""

    def __init__(self) -> None:
        self._entries: dict[tuple[NodeId, int], tuple[int, Watcher]] = {}
        self._by_target: Index[int, Watcher] = Index()
        self._by_node: Index[NodeId, Watcher] = Index()

    def __len__(self) -> int:
        return len(self._entries)

    def add(self, target: int, watcher: Watcher) -> bool:
        """`watcher` watches process `target` from now on; False when its reference is in use."""
        key = (watcher.node, watcher.reference)
        if key in self._entries:
            return False
        self._entries[key] = (target, watcher)
        self._by_target.add(target, watcher)
        self._by_node.add(watcher.node, watcher)
        return True

    def count(self, node: NodeId) -> int:
        """How many monitors `node` holds."""
        return self._by_node.count(node)

    def count_of(self, target: int) -> int:
        """How many monitors of process `target` there are."""
        return self._by_target.count(target)

    def remove(self, node: NodeId, reference: int) -> None:
        """`node` let go of its monitor `reference`."""
        entry = self._entries.get((node, reference))
        if entry is not None:
            self._forget(*entry)

    def target_ended(self, target: int) -> list[Watcher]:
        """Remove and return whoever watched process `target`, in the order they began to."""
        watchers = self._by_target.get(target)
        for watcher in watchers:
            self._forget(target, watcher)
        return watchers

    def node_down(self, node: NodeId) -> None:
        """Forget every monitor that `node` holds."""
        for watcher in self._by_node.get(node):
            self._forget(*self._entries[node, watcher.reference])

    def _forget(self, target: int, watcher: Watcher) -> None:
        del self._entries[watcher.node, watcher.reference]
        self._by_target.discard(target, watcher)
        self._by_node.discard(watcher.node, watcher)
