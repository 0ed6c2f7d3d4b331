"""Names and groups of the whole cluster, as one node knows them: a replica of every member's.

    a process registers, joins, ends        own replica --- Update ---> the neighbours, and theirs
    Update                                  their replicas --> index of names, of groups
    a neighbour connects, now and then      Summary <-> Versions <-> Want <-> Update
    a member is down                        its replica goes, and its names with it (N2)

Neighbours are whom membership keeps this node connected to: in a small cluster everybody, in a
large one a dozen.  Each is told every change once, without being asked; where there are members
beyond them, whoever learns something tells a few of his own.  Lost news is found by comparing: two
nodes that hold the same say so with hashes of 256 bytes.  Whatever is behind is asked for, from one
node at a time and in pieces, so that a node with 100,000 names neither floods nor blocks a new
member.  What has not wholly arrived is not told on.

What is believed: about a neighbour only its own word, because it is at hand.  About the others
anybody's, because members repair each other's lists, until it does not add up: whoever holds
entries of a neighbour that differ from what somebody else says of it tells that neighbour, and
whoever is told more of himself than he said starts anew above it, as a suspect in SWIM refutes.  So
a lie lasts for as long as somebody tells it.  Signatures under every entry were refused: they cost
more than all of the rest, against members who may spawn processes here anyway.

A cluster-wide lock around registering was refused as well: it does not help across halves, and
within one an arbiter does it (`Registry.reserve`): of two claims at the same time, the member to
which the hash of the name points lets the first one pass.  While the cluster does not agree on its
members two arbiters may let one claim pass each; the older one wins, as between halves (`index`).
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Collection
from typing import assert_never

from steinadler.errors import NameConflict, RemoteProtocolError
from steinadler.identity import NodeId, ProcessId
from steinadler.registry.claims import Claim, Claims
from steinadler.registry.digests import Digests
from steinadler.registry.effects import Effect, NameContested, NameLost, NameSettled, Tell
from steinadler.registry.index import Index, OlderClaim
from steinadler.registry.messages import (
    MAX_VERSION,
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
from steinadler.registry.pulls import Lead, Pulls
from steinadler.registry.replica import Replica
from steinadler.wire.quotas import Quota

# Where not everybody is a neighbour, whoever learns something tells so many.
FANOUT = 4
# How often a peer's summary is answered, which may take a thousand times its bytes (X4); it
# compares once in two seconds.
SUMMARIES_AT_ONCE, SUMMARIES_PER_S = 8, 2.0
# What is kept of one node: it is the node's word that makes this one keep it.
MAX_ENTRIES = 1_000_000


def _anything(node: NodeId, text: str) -> bool:
    return True


class Registry:
    """The registry's engine.  Its inputs return what is to be done; its queries are look-ups.

    `neighbours` tells which members this node is to keep talking to, and is connected to now.
    `may_register` and `may_join` tell which names and groups a node may have, by its role.
    """

    def __init__(
        self,
        me: NodeId,
        rng: random.Random,
        neighbours: Callable[[], Collection[NodeId]],
        may_register: Callable[[NodeId, str], bool] = _anything,
        may_join: Callable[[NodeId, str], bool] = _anything,
    ) -> None:
        self._me = me
        self._rng = rng
        self._neighbours = neighbours
        self._own = Replica(me)
        self._replicas: dict[NodeId, Replica] = {me: self._own}
        self._arriving: dict[NodeId, Replica] = {}  # that start anew, until they are complete
        self._told = 0  # the version of our own that the others were told
        self._learned: set[NodeId] = set()  # of whom we asked for more, and have it now
        self._index = Index(self._replicas, may_register, may_join)
        self._digests = Digests(self._replicas)
        self._pulls = Pulls()
        self._claims = Claims()
        self._numbers = itertools.count(1)
        self._claiming: dict[str, list[Claim]] = {}  # of our processes, by name
        self._quota = Quota(SUMMARIES_AT_ONCE, SUMMARIES_PER_S)
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
        if node not in self._replicas:
            self._replicas[node] = Replica(node)

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
        self._arriving.pop(node, None)
        self._pulls.forget(node)
        self._claims.node_gone(node)
        replica = self._replicas.pop(node, None)
        if replica is not None:
            self._digests.changed(node)
            for name in replica.names:
                self._settle(name, node, effects)
            for group in replica.groups:
                self._index.regroup(group, node)
        return effects

    def neighbour_connected(self, node: NodeId) -> list[Effect]:
        """There is a connection to a neighbour, the first or another one: compare."""
        self._pulls.forget(node)  # from now on it is asked itself
        return [Tell(node, Summary(self._digests.summary()))]

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

    def compare(self, now: float) -> list[Effect]:
        """Ask one neighbour at random whether it holds the same."""
        self._pulls.expire(now)
        self._claims.expire(now)
        self._give_up_waiting()
        effects: list[Effect] = []
        others = list(self._neighbours())
        if others:
            effects.append(Tell(self._rng.choice(others), Summary(self._digests.summary())))
        return effects + self._tell_what_was_learned() + self._ask(now)

    def _give_up_waiting(self) -> None:
        """Whoever was to send the rest does not: what is here counts, and is compared as it is."""
        for origin, replica in self._replicas.items():
            if not replica.whole and not self._pulls.is_open(origin):
                replica.latest = replica.version
                self._digests.changed(origin)
        for origin in [each for each in self._arriving if not self._pulls.is_open(each)]:
            del self._arriving[origin]

    def _some_others(self, *but: NodeId) -> list[NodeId]:
        """A few neighbours to tell on to, where there are members beyond them."""
        neighbours = self._neighbours()
        if len(self._replicas) <= len(neighbours) + 1:
            return []
        others = [node for node in neighbours if node not in but]
        return self._rng.sample(others, min(FANOUT, len(others)))

    def _tell_what_was_learned(self) -> list[Effect]:
        """What was asked for may be news to others."""
        learned = sorted(origin for origin in self._learned if origin in self._replicas)
        self._learned.clear()
        if not learned:
            return []
        return [effect for node in self._some_others() for effect in self._versions(node, learned)]

    # -- hearing ------------------------------------------------------------------------------

    def received(self, sender: NodeId, message: Message, now: float) -> list[Effect]:
        """A peer says something; what it says of nodes that are no members means nothing."""
        match message:
            case Summary(digests):
                differing = self._digests.differing(digests)
                if not differing or not self._quota.allows(sender, now):
                    return []
                return self._versions(sender, differing)
            case Versions(versions):
                effects = self._compared(sender, versions)
            case Want(origin, version, started):
                replica = self._replicas.get(origin)
                if replica is None or replica.version <= version or not replica.whole:
                    return []
                return [Tell(sender, replica.since(version, started))]
            case Update():
                effects = self._updated(sender, message)
            case _:
                assert_never(message)
        effects += self._ask(now)
        if self._learned and self._pulls.idle:
            effects += self._tell_what_was_learned()
        return effects

    def _versions(self, to: NodeId, origins: list[NodeId]) -> list[Effect]:
        versions = [
            (origin, replica.version, replica.check)
            for origin in origins
            if (replica := self._replicas[origin]).whole
        ]
        return [
            Tell(to, Versions(tuple(versions[start : start + VERSIONS_TOGETHER])))
            for start in range(0, len(versions), VERSIONS_TOGETHER)
        ]

    def _compared(
        self, sender: NodeId, versions: tuple[tuple[NodeId, int, int], ...]
    ) -> list[Effect]:
        """Both ways: what the other has and this one lacks, and the reverse."""
        effects: list[Effect] = []
        more: list[NodeId] = []  # is here
        neighbours = self._neighbours()
        for origin, version, check in versions:
            known = self._replicas.get(origin)
            if known is None or (known.version, known.check) == (version, check):
                continue
            if version <= known.version and not known.whole:
                continue  # what is here is no state to compare
            if version < known.version and origin != sender:
                more.append(origin)
            elif origin == self._me:
                self._refute(version)
            elif origin == sender and version <= known.version:  # it never said what is held here
                effects.append(_ask_back(origin, known.version, known.check))
            elif origin != sender and origin in neighbours:
                effects.append(_ask_back(origin, version, check))
                if version > known.version:  # then it is at hand, too, for what is missing here
                    self._pulls.heard(Lead(origin, origin, version))
            elif version > known.version:
                self._pulls.heard(Lead(origin, sender, version))
        return effects + self._versions(sender, more)

    def _refute(self, claimed: int) -> None:
        """Others hold of this node what it never said: it says all of it anew, above that."""
        if claimed <= MAX_VERSION // 2:
            self._own.restart(claimed + 1)
            self._digests.changed(self._me)

    def _ask(self, now: float) -> list[Effect]:
        """Ask for what is behind what is here, or is arriving."""
        effects: list[Effect] = []
        for lead in self._pulls.start():
            known = self._arriving.get(lead.origin, self._replicas[lead.origin])
            if lead.latest > known.version:  # else it came by another way
                effects.append(Tell(lead.teller, Want(lead.origin, known.version, known.started)))
                self._pulls.asked(lead, known.version, now)
        return effects

    def _updated(self, sender: NodeId, update: Update) -> list[Effect]:
        origin = update.origin
        known = self._replicas.get(origin)
        if known is None or origin == self._me:
            return []
        asked = self._pulls.answered(origin, sender, update.base)
        arriving = self._arriving.get(origin)
        if update.latest <= known.version and arriving is None:
            return []
        if sender != origin and origin in self._neighbours():
            return [_ask_back(origin, update.latest, update.check)]
        effects: list[Effect] = []
        if update.base == 0 and (known.version or arriving is not None):
            # What is known stays in force until all of the new is there.
            arriving = self._arriving[origin] = Replica(origin)
            self._take(arriving, update, None)
        elif arriving is not None and update.base <= arriving.version:
            self._take(arriving, update, None)
        elif update.base <= known.version:
            arriving = None
            self._take(known, update, effects)
        else:  # something between is missing
            self._pulls.heard(Lead(origin, sender, update.latest))
            return []
        taken = known if arriving is None else arriving  # `or` would pass over an empty one
        if not taken.whole:
            self._pulls.heard(Lead(origin, sender, update.latest))
            return effects
        if taken.version == update.latest and taken.check != update.check:
            self._doubt(sender, taken)
            return effects
        if self._arriving.pop(origin, None) is taken:
            effects += self._replace(taken)
        if asked:
            self._learned.add(origin)
        else:
            effects += [Tell(node, update) for node in self._some_others(sender, origin)]
        return effects

    def _take(self, replica: Replica, update: Update, effects: list[Effect] | None) -> None:
        """Apply a piece; with `effects`, to a replica that is in force."""
        if update.base == 0 and replica.version == 0:
            replica.started = update.latest
        replica.latest = max(replica.latest, update.latest)
        for entry in update.entries:
            if effects is None:
                replica.apply(entry)
            else:
                self._change(replica, entry, effects)
        replica.complete(update.version)
        self._digests.changed(replica.origin)
        if len(replica) > MAX_ENTRIES:
            raise RemoteProtocolError(f"{replica.origin} has more than {MAX_ENTRIES} names")

    def _doubt(self, sender: NodeId, taken: Replica) -> None:
        """All that the sender has is here, and it does not add up to what it says."""
        origin = taken.origin
        if self._arriving.pop(origin, None) is None:
            # One of both was told what is not so: all of it, from whoever has it now.
            self._arriving[origin] = Replica(origin)
            self._pulls.heard(Lead(origin, sender, taken.version))

    def _replace(self, new: Replica) -> list[Effect]:
        effects: list[Effect] = []
        origin = new.origin
        known = self._replicas[origin]
        self._replicas[origin] = new
        for name, (_, _, version) in new.names.items():
            self._claims.heard_of(name, origin, version)
        for name in {**known.names, **new.names}:
            self._settle(name, origin, effects)
        for group in {**known.groups, **new.groups}:
            self._index.regroup(group, origin)
        return effects

    # -- the indexes --------------------------------------------------------------------------

    def _change(self, replica: Replica, entry: Entry, effects: list[Effect]) -> None:
        if not replica.apply(entry):
            return
        self._digests.changed(replica.origin)
        match entry:
            case NameEntry(version, name, _, _) | Removal(version, name, 0):
                self._claims.heard_of(name, replica.origin, version)
                if replica is self._own:
                    for claim in self._claiming.get(name, ()):
                        claim.is_stale = True
                self._settle(name, replica.origin, effects)
            case GroupEntry(_, group, _) | Removal(_, group, _):
                self._index.regroup(group, replica.origin)

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


def _ask_back(origin: NodeId, version: int, check: int) -> Tell:
    """Of a neighbour only its own word counts: it is told what others say, and answers."""
    return Tell(origin, Versions(((origin, version, check),)))
