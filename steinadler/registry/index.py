"""Who has a name, and which nodes have members of a group: replicas, read the other way round.

One name, two holders: it can only be when both were registered where the other was not known, as in
two halves of a cluster.  Every node picks the same winner, the oldest claim (`claimed_us`, the
clock of the node that claimed; then by node and number).  The oldest, because it has most of the
callers; asking both sides who should win was refused, because a crash in between would leave none
or two.

What a node may not have, by its role, it does not have: its entries are kept and passed on like all
others, because replicas are compared whole, and count for nothing here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TypeAlias

from steinadler.identity import NodeId, ProcessId
from steinadler.registry.replica import Replica

# A name, the number of its process, and when it was claimed.
OlderClaim: TypeAlias = tuple[str, int, int]


class Index:
    """Names and groups of all replicas.

    `may_register` and `may_join` tell what a node may have, when a name or a group of it changes.
    """

    def __init__(
        self,
        replicas: Mapping[NodeId, Replica],
        may_register: Callable[[NodeId, str], bool],
        may_join: Callable[[NodeId, str], bool],
    ) -> None:
        self._replicas = replicas
        self._may_register = may_register
        self._may_join = may_join
        self._holders: dict[str, NodeId] = {}  # whose the name is, by the rule
        self._contested: dict[str, set[NodeId]] = {}  # names with several holders
        self._groups: dict[str, set[NodeId]] = {}  # which nodes have members of it

    def find(self, name: str) -> ProcessId | None:
        node = self._holders.get(name)
        return None if node is None else ProcessId(node, self._replicas[node].names[name][0])

    def names(self) -> Iterable[str]:
        return self._holders.keys()

    def members_of(self, group: str) -> list[ProcessId]:
        return [
            ProcessId(node, number)
            for node in sorted(self._groups.get(group, ()))
            for number in sorted(self._replicas[node].groups[group])
        ]

    def groups(self) -> Iterable[str]:
        return self._groups.keys()

    def regroup(self, group: str, node: NodeId) -> None:
        """Something changed about a group at one node."""
        replica = self._replicas.get(node)
        if replica is not None and group in replica.groups and self._may_join(node, group):
            self._groups.setdefault(group, set()).add(node)
        elif group in self._groups:
            self._groups[group].discard(node)
            if not self._groups[group]:
                del self._groups[group]

    def settle(self, name: str, changed: NodeId) -> tuple[ProcessId, list[ProcessId]] | None:
        """Something changed about a name at one node.

        Returns the winner and the losers, when that node claims it now beside others.
        """
        holder = self._holders.get(name, changed)
        if holder == changed and name not in self._contested:  # nearly always
            if self._has(changed, name):
                self._holders[name] = changed
            else:
                self._holders.pop(name, None)
            return None
        claims = self._contested.get(name, set()) | {holder}
        claims = {node for node in claims | {changed} if self._has(node, name)}
        if len(claims) > 1:
            self._contested[name] = claims
        else:
            self._contested.pop(name, None)
        if not claims:
            self._holders.pop(name, None)
            return None
        first, *others = sorted(claims, key=lambda node: self._claim(node, name))
        self._holders[name] = first
        if not others or changed not in claims:
            return None
        return self._process(first, name), [self._process(node, name) for node in others]

    def older_claim(self, name: str, node: NodeId, than: NodeId) -> OlderClaim | None:
        """By which claim `node` has a name before `than`, which has it too."""
        if not {node, than} <= self._contested.get(name, set()):
            return None
        number, claimed_us, _ = self._replicas[node].names[name]
        is_older = self._claim(node, name) < self._claim(than, name)
        return (name, number, claimed_us) if is_older else None

    def older_claims(self, node: NodeId, than: NodeId) -> list[OlderClaim]:
        """All of those."""
        found = (self.older_claim(name, node, than) for name in self._contested)
        return [claim for claim in found if claim is not None]

    def _has(self, node: NodeId, name: str) -> bool:
        replica = self._replicas.get(node)
        return replica is not None and name in replica.names and self._may_register(node, name)

    def _claim(self, node: NodeId, name: str) -> tuple[int, NodeId, int]:
        number, claimed_us, _ = self._replicas[node].names[name]
        return (claimed_us, node, number)

    def _process(self, node: NodeId, name: str) -> ProcessId:
        return ProcessId(node, self._replicas[node].names[name][0])
