"""Names and groups of the whole cluster, as one node knows them: a replica of every member's.

    a process registers, joins, ends        own replica --- Update ---> the others
    Update                                  their replicas --> index of names, of groups
    now and then, to one member at random   Summary <-> Versions <-> Want <-> Update
    a member is down                        its replica goes, and its names with it (N2)
    a member is up                          Want, and its replica comes

A change is told to every neighbour once, without being asked, and lost news is found by comparing:
two nodes that hold the same say so with a hash of 16 bytes.  Whatever is behind is asked for in
pieces, one at a time, so that a node with 100,000 names neither floods nor blocks a new member.

One name, two holders: it can only be when both were registered where the other was not known, as in
two halves of a cluster.  Every node picks the same winner, the oldest claim (`claimed_us`, the
clock of the node that claimed; then by node and number), and the loser's own node takes its entry
away and tells the process.  The oldest, because it has most of the callers; asking both sides who
should win was refused, because a crash in between would leave none or two.

A cluster-wide lock around registering was refused as well: it does not help across halves, and
within one an arbiter does it (`Registry.reserve`): of two claims at the same time, the member to
which the hash of the name points lets the first one pass.
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import blake2b
from typing import TypeAlias, assert_never

from steinadler.errors import RemoteProtocolError
from steinadler.identity import NodeId, ProcessId
from steinadler.registry.messages import (
    VERSIONS_TOGETHER,
    Entry,
    GroupEntry,
    Message,
    NameEntry,
    Removal,
    Summary,
    Update,
    Versions,
    Want,
)
from steinadler.registry.replica import Replica

# News go to so many neighbours, and from those on to as many.
FANOUT = 4
# What is kept of one node: it is the node's word that makes this one keep it.
MAX_ENTRIES = 1_000_000
# How long the arbiter holds a name for a claim that it let pass, until it hears of it.
RESERVED_S = 10.0


@dataclass(frozen=True, slots=True)
class Tell:
    """Send a message to a member.  Whatever becomes of it: comparing finds what is lost."""

    to: NodeId
    message: Message


@dataclass(frozen=True, slots=True)
class NameLost:
    """A process of this node has a name no more: `winner` had it first."""

    name: str
    number: int
    winner: ProcessId


@dataclass(frozen=True, slots=True)
class NameSettled:
    """Two processes had a name, and `winner` keeps it."""

    name: str
    winner: ProcessId
    loser: ProcessId


Effect: TypeAlias = Tell | NameLost | NameSettled


class Registry:
    """The registry's engine.  Its inputs return what is to be done; its queries are look-ups.

    `mesh_size`: with up to so many members everybody hears of a change from its origin; with
    more, news travel from neighbour to neighbour.
    """

    def __init__(self, me: NodeId, rng: random.Random, mesh_size: int = 32) -> None:
        self._me = me
        self._rng = rng
        self._mesh_size = mesh_size
        self._own = Replica(me)
        self._replicas: dict[NodeId, Replica] = {me: self._own}
        self._arriving: dict[NodeId, Replica] = {}  # that start anew, until they are complete
        self._told = 0  # the version of our own that the others were told
        self._holders: dict[str, NodeId] = {}  # whose the name is, by the rule
        self._contested: dict[str, set[NodeId]] = {}  # names with several holders
        self._groups: dict[str, set[NodeId]] = {}  # which nodes have members of it
        self._names_of: dict[int, set[str]] = {}  # of our processes
        self._groups_of: dict[int, set[str]] = {}
        self._reserved: dict[str, tuple[ProcessId, float]] = {}

    # -- queries ------------------------------------------------------------------------------

    def find(self, name: str) -> ProcessId | None:
        """Whose the name is, as far as this node knows."""
        node = self._holders.get(name)
        return None if node is None else ProcessId(node, self._replicas[node].names[name][0])

    def names(self) -> Iterable[str]:
        """Every name of the cluster."""
        return self._holders.keys()

    def members_of(self, group: str) -> list[ProcessId]:
        """The processes in a group, by node and number."""
        return [
            ProcessId(node, number)
            for node in sorted(self._groups.get(group, ()))
            for number in sorted(self._replicas[node].groups[group])
        ]

    def groups(self) -> Iterable[str]:
        """Every group with members."""
        return self._groups.keys()

    def __len__(self) -> int:
        return sum(map(len, self._replicas.values()))

    # -- what happens on this node ------------------------------------------------------------

    def register(self, name: str, number: int, now_us: int) -> list[Effect]:
        """Give a process of this node a name; it was let pass (`reserve`), or nobody was there
        to ask.  It may be lost again at once, when somebody else had it first."""
        effects: list[Effect] = []
        self._names_of.setdefault(number, set()).add(name)
        self._change(self._own, NameEntry(self._own.version + 1, name, number, now_us), effects)
        return effects

    def unregister(self, name: str) -> int | None:
        """Take a name of this node's away; return whose it was, or None."""
        held = self._own.names.get(name)
        if held is None:
            return None
        self._names_of[held[0]].discard(name)
        self._change(self._own, Removal(self._own.version + 1, name, 0), [])
        return held[0]

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

    def reserve(self, name: str, claimer: ProcessId, now: float) -> ProcessId | None:
        """As the arbiter of a name: let a claim pass (None), or say who has it already."""
        holder = self.find(name)
        if holder is not None and holder != claimer:
            return holder
        other, until = self._reserved.get(name, (claimer, 0.0))
        if other != claimer and now < until and other.node in self._replicas:
            return other
        if len(self._reserved) > 1024:
            self._reserved = {n: r for n, r in self._reserved.items() if now < r[1]}
        self._reserved[name] = (claimer, now + RESERVED_S)
        return None

    # -- members ------------------------------------------------------------------------------

    def member_up(self, node: NodeId) -> list[Effect]:
        """Somebody came: get to know its entries."""
        if node == self._me or node in self._replicas:
            return []
        self._replicas[node] = Replica(node)
        return [Tell(node, Want(node, 0, 0))]

    def member_down(self, node: NodeId) -> list[Effect]:
        """Somebody is gone, and its names with it."""
        effects: list[Effect] = []
        self._arriving.pop(node, None)
        replica = self._replicas.pop(node, None)
        if replica is not None:
            for name in replica.names:
                self._settle(name, node, effects)
            for group in replica.groups:
                self._ungroup(group, node)
        return effects

    # -- telling ------------------------------------------------------------------------------

    @property
    def has_news(self) -> bool:
        """Whether `news` would return something."""
        return self._told < self._own.version

    def news(self) -> list[Effect]:
        """Tell the neighbours what changed here since the last time.

        A long piece of news is told in its beginning, and the rest of it is asked for.
        """
        if not self.has_news:
            return []
        update = self._own.since(self._told, self._told)
        self._told = self._own.version
        return [Tell(node, update) for node in self._neighbours()]

    def compare(self) -> list[Effect]:
        """Ask one member at random whether it holds the same."""
        others = [node for node in self._replicas if node != self._me]
        if not others:
            return []
        return [Tell(self._rng.choice(others), Summary(self._digest()))]

    def _neighbours(self, *but: NodeId) -> list[NodeId]:
        others = [node for node in self._replicas if node != self._me and node not in but]
        if len(self._replicas) <= self._mesh_size or len(others) <= FANOUT:
            return others
        return self._rng.sample(others, FANOUT)

    def _versions(self) -> list[tuple[NodeId, int]]:
        return sorted((node, replica.version) for node, replica in self._replicas.items())

    def _digest(self) -> bytes:
        digest = blake2b(digest_size=16)
        for node, version in self._versions():
            digest.update(f"{node.name}\0{node.incarnation}\0{version}\0".encode())
        return digest.digest()

    # -- hearing ------------------------------------------------------------------------------

    def received(self, sender: NodeId, message: Message) -> list[Effect]:
        """A member says something; what it says of nodes that are no members means nothing."""
        match message:
            case Summary(digest):
                if digest == self._digest():
                    return []
                versions = self._versions()
                return [
                    Tell(sender, Versions(tuple(versions[start : start + VERSIONS_TOGETHER])))
                    for start in range(0, len(versions), VERSIONS_TOGETHER)
                ]
            case Versions(versions):
                return self._compared(sender, versions)
            case Want(origin, version, started):
                replica = self._replicas.get(origin)
                if replica is None or replica.version <= version:
                    return []
                return [Tell(sender, replica.since(version, started))]
            case Update():
                return self._updated(sender, message)
            case _:
                assert_never(message)

    def _compared(self, sender: NodeId, versions: tuple[tuple[NodeId, int], ...]) -> list[Effect]:
        """Both ways: what the other has and this one lacks, and the reverse."""
        effects: list[Effect] = []
        for origin, version in versions:
            replica = self._replicas.get(origin)
            if replica is None:
                continue
            if version > replica.version and origin != self._me:
                effects.append(self._ask(sender, origin))
            elif version < replica.version:
                effects.append(Tell(sender, replica.since(version, version)))
        return effects

    def _ask(self, sender: NodeId, origin: NodeId) -> Tell:
        """Ask for what is behind what is here, or is arriving."""
        known = self._arriving.get(origin) or self._replicas[origin]
        return Tell(sender, Want(origin, known.version, known.started))

    def _updated(self, sender: NodeId, update: Update) -> list[Effect]:
        origin = update.origin
        known = self._replicas.get(origin)
        if known is None or origin == self._me or update.latest <= known.version:
            return []
        effects: list[Effect] = []
        if update.base == 0 and known.version:
            # It starts anew: what is known stays in force until all of the new is there.
            arriving = self._arriving.get(origin)
            if arriving is None or arriving.version > update.version:
                arriving = self._arriving[origin] = Replica(origin)
            self._take(arriving, update, None)
        elif origin in self._arriving and update.base <= self._arriving[origin].version:
            arriving = self._arriving[origin]
            self._take(arriving, update, None)
        elif update.base <= known.version:
            arriving = None
            self._take(known, update, effects)
        else:  # something between is missing
            return [self._ask(sender, origin)]
        if arriving is not None and arriving.version >= update.latest:
            del self._arriving[origin]
            effects += self._replace(known, arriving)
        if origin in self._arriving or self._replicas[origin].version < update.latest:
            effects.append(self._ask(sender, origin))
        elif len(self._replicas) > self._mesh_size:
            effects += [Tell(node, update) for node in self._neighbours(sender, origin)]
        return effects

    def _take(self, replica: Replica, update: Update, effects: list[Effect] | None) -> None:
        """Apply a piece; with `effects`, to a replica that is in force."""
        if update.base == 0 and replica.version == 0:
            replica.started = update.latest
        for entry in update.entries:
            if effects is None:
                replica.apply(entry)
            else:
                self._change(replica, entry, effects)
        replica.complete(update.version)
        if len(replica) > MAX_ENTRIES:
            raise RemoteProtocolError(f"{replica.origin} has more than {MAX_ENTRIES} names")

    def _replace(self, known: Replica, new: Replica) -> list[Effect]:
        effects: list[Effect] = []
        origin = known.origin
        self._replicas[origin] = new
        for name in {**known.names, **new.names}:
            self._settle(name, origin, effects)
        for group in {**known.groups, **new.groups}:
            if group in new.groups:
                self._groups.setdefault(group, set()).add(origin)
            else:
                self._ungroup(group, origin)
        return effects

    # -- the indexes --------------------------------------------------------------------------

    def _change(self, replica: Replica, entry: Entry, effects: list[Effect]) -> None:
        if not replica.apply(entry):
            return
        origin = replica.origin
        match entry:
            case NameEntry(_, name, _, _) | Removal(_, name, 0):
                self._settle(name, origin, effects)
            case GroupEntry(_, group, _):
                self._groups.setdefault(group, set()).add(origin)
            case Removal(_, group, _):
                if group not in replica.groups:
                    self._ungroup(group, origin)

    def _ungroup(self, group: str, node: NodeId) -> None:
        nodes = self._groups.get(group)
        if nodes is not None:
            nodes.discard(node)
            if not nodes:
                del self._groups[group]

    def _settle(self, name: str, changed: NodeId, effects: list[Effect]) -> None:
        """Something changed about a name at one node: who has it now?"""
        if name in self._reserved and self._reserved[name][0].node == changed:
            del self._reserved[name]  # the claim that was let pass has arrived, or is over
        claims = self._contested.get(name, set())
        if name in self._holders:
            claims = claims | {self._holders[name]}
        claims = {node for node in claims | {changed} if self._has(node, name)}
        if len(claims) > 1:
            self._contested[name] = claims
        else:
            self._contested.pop(name, None)
        if not claims:
            self._holders.pop(name, None)
            return
        winner = min(claims, key=lambda node: self._claim(node, name))
        self._holders[name] = winner
        if len(claims) > 1 and changed in claims:
            holder = ProcessId(winner, self._replicas[winner].names[name][0])
            for loser in sorted(claims - {winner}):
                number = self._replicas[loser].names[name][0]
                effects.append(NameSettled(name, holder, ProcessId(loser, number)))
                if loser == self._me:
                    self.unregister(name)
                    effects.append(NameLost(name, number, holder))

    def _has(self, node: NodeId, name: str) -> bool:
        replica = self._replicas.get(node)
        return replica is not None and name in replica.names

    def _claim(self, node: NodeId, name: str) -> tuple[int, NodeId, int]:
        number, claimed_us, _ = self._replicas[node].names[name]
        return (claimed_us, node, number)
