"""Calls: the caller's end (`PendingCalls`) and the end that owes the answer (`OwedCalls`).

Call ids are drawn per node life and never used twice, so a late answer finds nothing (C2).  The
node of the called process answers for it when it ends without having answered; so a call needs
no monitor, and its end cannot overtake its reply (C1).
"""

from __future__ import annotations

from typing import Generic, TypeVar

from steinadler.identity import NodeId

Waiter = TypeVar("Waiter")
Debt = TypeVar("Debt")


class PendingCalls(Generic[Waiter]):
    """Calls that this node's programs wait for; `Waiter` is how to wake them."""

    def __init__(self) -> None:
        self._waiting: dict[int, tuple[NodeId, Waiter]] = {}
        self._next_id = 1

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, node: NodeId, waiter: Waiter) -> int:
        """Expect an answer from `node`; return the id to send with the call."""
        id_ = self._next_id
        self._next_id += 1
        self._waiting[id_] = (node, waiter)
        return id_

    def remove(self, id_: int, node: NodeId | None = None) -> Waiter | None:
        """The call is answered or given up.  None when nobody waits for it (from `node`)."""
        entry = self._waiting.get(id_)
        if entry is None:
            return None
        # Mostly the very same object, and to compare two costs more than all else here.
        if node is not None and entry[0] is not node and entry[0] != node:
            return None
        del self._waiting[id_]
        return entry[1]

    def node_down(self, node: NodeId) -> list[Waiter]:
        """Remove and return whoever waits for `node`, oldest first."""
        # Nodes go down rarely and calls are made all the time: no index by node is kept.
        ids = [id_ for id_, (called, _) in self._waiting.items() if called == node]
        return [self._waiting.pop(id_)[1] for id_ in ids]


class OwedCalls(Generic[Debt]):
    """Answers that this node's processes owe, by caller and by process."""

    def __init__(self) -> None:
        # By caller and id: the process, a number of the entry's own, and the debt.
        self._by_caller: dict[NodeId, dict[int, tuple[int, int, Debt]]] = {}
        # By process and that number, which costs less to hash than a caller does.
        self._by_process: dict[int, dict[int, tuple[NodeId, int]]] = {}
        self._next_entry = 0

    def __len__(self) -> int:
        return sum(map(len, self._by_caller.values()))

    def count_for(self, caller: NodeId) -> int:
        """How many answers `caller` waits for."""
        return len(self._by_caller.get(caller, ()))

    def add(self, caller: NodeId, id_: int, process: int, debt: Debt) -> bool:
        """Process number `process` owes `caller` an answer; False when the id is in use."""
        owed = self._by_caller.get(caller)
        if owed is None:
            owed = self._by_caller[caller] = {}
        elif id_ in owed:
            return False
        entry = self._next_entry
        self._next_entry += 1
        owed[id_] = (process, entry, debt)
        of_process = self._by_process.get(process)
        if of_process is None:
            of_process = self._by_process[process] = {}
        of_process[entry] = (caller, id_)
        return True

    def count(self, process: int) -> int:
        """How many answers process `process` owes."""
        return len(self._by_process.get(process, ()))

    def settle(self, caller: NodeId, id_: int) -> Debt | None:
        """The answer goes out, or is no longer wanted.  None when it is owed no more."""
        owed = self._by_caller.get(caller)
        found = owed.pop(id_, None) if owed is not None else None
        if found is None:
            return None
        process, entry, debt = found
        of_process = self._by_process[process]
        del of_process[entry]
        if not of_process:
            del self._by_process[process]
        return debt

    def process_ended(self, process: int) -> list[Debt]:
        """Remove and return what process `process` still owed."""
        return self._settle_all(list(self._by_process.get(process, {}).values()))

    def node_down(self, caller: NodeId) -> list[Debt]:
        """Remove and return what was owed to `caller`."""
        settled = self._settle_all([(caller, id_) for id_ in self._by_caller.get(caller, ())])
        self._by_caller.pop(caller, None)
        return settled

    def _settle_all(self, keys: list[tuple[NodeId, int]]) -> list[Debt]:
        debts = [self.settle(caller, id_) for caller, id_ in keys]
        return [debt for debt in debts if debt is not None]
