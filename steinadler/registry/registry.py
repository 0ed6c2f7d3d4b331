"""Names and groups of the whole cluster, as one node knows them: a replica of every member's.

    a process registers, joins, ends     own replica -------+
                                                            +---> index of names, of groups
    `Exchange`: what others tell         their replicas ----+
    a member is down                     its replica goes, and its names with it (N2)

A cluster-wide lock around registering was refused: it does not help across halves, and within one
an arbiter does it (`Registry.reserve`): of two claims at the same time, the member to which the
hash of the name points lets the first one pass.  While the cluster does not agree on its members
two arbiters may let one claim pass each; the older one wins, as between halves (`index`).
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Collection

from steinadler.errors import NameConflict
from steinadler.identity import NodeId, ProcessId
from steinadler.registry.claims import Claim, Claims
from steinadler.registry.effects import Effect, NameContested, NameLost, NameSettled
from steinadler.registry.exchange import Exchange
from steinadler.registry.index import Index, OlderClaim
from steinadler.registry.messages import (
    Entry,
    GroupEntry,
    Message,
    NameEntry,
    Removal,
)
from steinadler.registry.replica import Replica


def _anything(node: NodeId, text: str) -> bool:
    return True


class Registry:
    """The registry's engine.  Its inputs return what is to be done; its queries are look-ups.

    `neighbours` tells which members this node is to keep talking to, and is connected to now,
    `observers` which observers; None where this node is one.
    `may_register` and `may_join` tell which names and groups a node may have, by its role.
    """

    def __init__(
        self,
        me: NodeId,
        rng: random.Random,
        neighbours: Callable[[], Collection[NodeId]],
        observers: Callable[[], Collection[NodeId]] | None = tuple,
        may_register: Callable[[NodeId, str], bool] = _anything,
        may_join: Callable[[NodeId, str], bool] = _anything,
    ) -> None:
        self._me = me
        self._exchange = Exchange(me, rng, neighbours, observers, self._change, self._replaced)
        self._own = self._exchange.own
        self._replicas = self._exchange.replicas
        self._index = Index(self._replicas, may_register, may_join)
        self._claims = Claims()
        self._numbers = itertools.count(1)
        self._claiming: dict[str, list[Claim]] = {}  # of our processes, by name
        self._names_of: dict[int, set[str]] = {}  # of our processes
        self._groups_of: dict[int, set[str]] = {}
        self.find = self._index.find
        self.names = self._index.names
        self.members_of = self._index.members_of
        self.groups = self._index.groups

    def __len__(self) -> int:
        return sum(map(len, self._replicas.values()))

    # -- what happens on this node ------------------------------------------------------------

    def register(self, name: str, number: int, now_us: int) -> None:
        """Give a process of this node a name; it was let pass (`reserve`), or nobody was there
        to ask.  A process that has it keeps it, and its claim its age.

        Raises `NameConflict` when another process is known by now to have it.  It may be lost
        again, when it turns out that somebody else had it first.
        """
        holder = self.find(name)
        if holder is not None:
            refuse_for(holder, ProcessId(self._me, number), name)
            return
        self._names_of.setdefault(number, set()).add(name)
        self._change(self._own, NameEntry(self._own.version + 1, name, number, now_us), [])

    def unregister(self, name: str) -> int | None:
        """Take a name of this node's away; return whose it was, or None."""
        held = self._own.names.get(name)
        if held is None:
            return None
        self._names_of[held[0]].discard(name)
        self._change(self._own, Removal(self._own.version + 1, name, 0), [])
        return held[0]

    def holds(self, name: str, number: int, claimed_us: int) -> bool:
        """Whether that process of this node has a name, by that claim."""
        return self._own.names.get(name, ())[:2] == (number, claimed_us)

    def older_claims(self, node: NodeId) -> list[OlderClaim]:
        """By which claims that node has names which processes of this one have too, but later."""
        return self._index.older_claims(node, self._me)

    def lose(self, node: NodeId, claim: OlderClaim) -> list[Effect]:
        """That node says that it holds a name by an older claim."""
        name, number, _ = claim
        if self._index.older_claim(name, node, self._me) != claim:
            return []
        winner, loser = ProcessId(node, number), ProcessId(self._me, self._own.names[name][0])
        self.unregister(name)
        return [NameSettled(name, winner, loser), NameLost(name, loser.number, winner)]

    def join(self, group: str, number: int) -> bool:
        """Put a process of this node into a group; False when it is in it."""
        groups = self._groups_of.setdefault(number, set())
        if group in groups:
            return False
        groups.add(group)
        self._change(self._own, GroupEntry(self._own.version + 1, group, number), [])
        return True

    def leave(self, group: str, number: int) -> bool:
        """Take a process of this node out of a group; False when it is not in it."""
        groups = self._groups_of.get(number, set())
        if group not in groups:
            return False
        groups.discard(group)
        self._change(self._own, Removal(self._own.version + 1, group, number), [])
        return True

    def process_ended(self, number: int) -> None:
        """Free the names of a process, and take it out of its groups."""
        for name in sorted(self._names_of.pop(number, ())):
            self._change(self._own, Removal(self._own.version + 1, name, 0), [])
        for group in sorted(self._groups_of.pop(number, ())):
            self._change(self._own, Removal(self._own.version + 1, group, number), [])

    def begin_claim(self, name: str, process: ProcessId) -> Claim:
        """A process of this node wants a name: ask the arbiter (`Naming`), and end the claim."""
        claim = Claim(name, process, next(self._numbers))
        self._claiming.setdefault(name, []).append(claim)
        return claim

    def asks(self, claim: Claim) -> None:
        """Now; what changes here from now on may be taken for what became of the claim."""
        claim.version, claim.is_stale = self._own.version, False

    def end_claim(self, claim: Claim) -> None:
        """The name was registered, or will not be."""
        self._claiming[claim.name].remove(claim)
        if not self._claiming[claim.name]:
            del self._claiming[claim.name]

    def reserve(
        self, name: str, claimer: ProcessId, number: int, version: int, now: float
    ) -> ProcessId | None:
        """As the arbiter of a name: let a claim pass (None), or say who has it already.

        `number` is that claim's among those of its node, `version` the one that the node's entries
        had when it was made.  Nothing is held here for a claim that was refused.
        """
        holder = self.find(name)
        if holder is not None and holder != claimer:
            self._claims.give_up(name, claimer, number)
            return holder
        return self._claims.pass_one(name, claimer, number, version, now)

    def release(self, name: str, claimer: ProcessId, number: int) -> None:
        """As the arbiter: a claim that was let pass is given up."""
        self._claims.give_up(name, claimer, number)

    # -- members ------------------------------------------------------------------------------

    def member_up(self, node: NodeId) -> None:
        """Somebody came.  What he has is told by himself, or by those who know it."""
        self._exchange.add(node)

    def role_changed(self, node: NodeId) -> list[Effect]:
        """It is known now what somebody is: what may it have?"""
        effects: list[Effect] = []
        replica = self._replicas.get(node)
        if replica is not None:
            for name in replica.names:
                self._settle(name, node, effects)
            for group in replica.groups:
                self._index.regroup(group, node)
        return effects

    def member_down(self, node: NodeId) -> list[Effect]:
        """Somebody is gone, and its names with it."""
        effects: list[Effect] = []
        self._claims.node_gone(node)
        replica = self._exchange.remove(node)
        if replica is not None:
            self._replaced(replica, Replica(node), effects)
        return effects

    # -- what the members tell each other (`Exchange`) ----------------------------------------

    def neighbour_connected(self, node: NodeId) -> list[Effect]:
        """There is a connection to a neighbour, the first or another one: compare."""
        return self._exchange.neighbour_connected(node)

    @property
    def has_news(self) -> bool:
        """Whether `news` would return something."""
        return self._exchange.has_news

    def news(self) -> list[Effect]:
        """Tell the neighbours what changed here since the last time."""
        return self._exchange.news()

    def compare(self, now: float) -> list[Effect]:
        """Ask one neighbour at random whether it holds the same."""
        self._claims.expire(now)
        return self._exchange.compare(now)

    def received(self, sender: NodeId, message: Message, now: float) -> list[Effect]:
        """A peer says something; what it says of nodes that are no members means nothing.

        Raises `RemoteProtocolError` when somebody has more than `exchange.MAX_ENTRIES`.
        """
        return self._exchange.received(sender, message, now)

    # -- the indexes --------------------------------------------------------------------------

    def _change(self, replica: Replica, entry: Entry, effects: list[Effect]) -> None:
        if not replica.apply(entry):
            return
        self._exchange.digests.changed(replica.origin)
        match entry:
            case NameEntry(version, name, _, _) | Removal(version, name, 0):
                self._claims.heard_of(name, replica.origin, version)
                if replica is self._own:
                    for claim in self._claiming.get(name, ()):
                        claim.is_stale = True
                self._settle(name, replica.origin, effects)
            case GroupEntry(_, group, _) | Removal(_, group, _):
                self._index.regroup(group, replica.origin)

    def _replaced(self, old: Replica, new: Replica, effects: list[Effect]) -> None:
        for name, (_, _, version) in new.names.items():
            self._claims.heard_of(name, new.origin, version)
        for name in {**old.names, **new.names}:
            self._settle(name, new.origin, effects)
        for group in {**old.groups, **new.groups}:
            self._index.regroup(group, new.origin)

    def _settle(self, name: str, changed: NodeId, effects: list[Effect]) -> None:
        """Something changed about a name at one node: who has it now?"""
        contest = self._index.settle(name, changed)
        if contest is None:
            return
        winner, losers = contest
        for older, loser in enumerate(losers):
            if loser.node == self._me:
                rivals = (winner, *losers[:older])
                effects += [NameContested(rival.node) for rival in rivals]
            else:
                effects.append(NameSettled(name, winner, loser))


def refuse_for(holder: ProcessId, claimer: ProcessId, name: str) -> None:
    """Raise `NameConflict` when a name is another's."""
    if holder != claimer:
        raise NameConflict(
            f"the name {name!r} belongs to {holder} in the whole cluster; "
            "unregister it there first, or choose another"
        )
