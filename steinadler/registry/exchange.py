"""What every member has, told to all: changes at once, and what is missing is found and asked for.

    own replica --- Update ---> the neighbours, and theirs     news, received
    a neighbour connects, now and then                         neighbour_connected, compare
        Summary <-> Versions <-> Want <-> Update               received

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
"""

from __future__ import annotations

import random
from collections.abc import Callable, Collection
from itertools import islice
from typing import assert_never

from steinadler.errors import RemoteProtocolError
from steinadler.identity import NodeId
from steinadler.registry.digests import Digests
from steinadler.registry.effects import Effect, Tell
from steinadler.registry.messages import (
    MAX_VERSION,
    PIECES_TOGETHER,
    VERSIONS_TOGETHER,
    Entry,
    Message,
    Summary,
    Update,
    Versions,
    Want,
)
from steinadler.registry.pulls import Lead, Pulls
from steinadler.registry.replica import ENTRIES_TOGETHER, Replica
from steinadler.wire.quotas import Quota

# Where not everybody is a neighbour, whoever learns something tells so many.
FANOUT = 4
# How often a peer's summary is answered, which may take a thousand times its bytes (X4); it
# compares once in two seconds.
SUMMARIES_AT_ONCE, SUMMARIES_PER_S = 8, 2.0
# What is kept of one node: it is the node's word that makes this one keep it.
MAX_ENTRIES = 1_000_000


class Exchange:
    """One node's replicas: its own, which only it changes, and one of every other member.

    `neighbours` tells which members this node is to keep talking to, and is connected to now,
    `observers` which observers: they are told the same, and tell nothing; None on one of them.
    `change` puts an entry into a replica in force, and `replaced` hears that one took another's
    place; both add to the effects what follows.
    """

    def __init__(
        self,
        me: NodeId,
        rng: random.Random,
        neighbours: Callable[[], Collection[NodeId]],
        observers: Callable[[], Collection[NodeId]] | None,
        change: Callable[[Replica, Entry, list[Effect]], None],
        replaced: Callable[[Replica, Replica, list[Effect]], None],
    ) -> None:
        self._me = me
        self._rng = rng
        self._neighbours = neighbours
        self._observers = observers or tuple
        self._is_observer = observers is None
        self._change = change
        self._replaced = replaced
        self.own = Replica(me)
        self.replicas: dict[NodeId, Replica] = {me: self.own}
        self.digests = Digests(self.replicas)
        self.arriving: dict[NodeId, Replica] = {}  # that start anew, until they are complete
        self._told = 0  # the version of our own that the others were told
        self._learned: set[NodeId] = set()  # of whom we asked for more, and have it now
        self._pulls = Pulls()
        self._quota = Quota(SUMMARIES_AT_ONCE, SUMMARIES_PER_S)

    def add(self, node: NodeId) -> None:
        """Somebody came.  What he has is told by himself, or by those who know it."""
        if node not in self.replicas:
            self.replicas[node] = Replica(node)

    def remove(self, node: NodeId) -> Replica | None:
        """Somebody is gone: what he had."""
        self.arriving.pop(node, None)
        self._pulls.forget(node)
        replica = self.replicas.pop(node, None)
        if replica is not None:
            self.digests.changed(node)
        return replica

    def neighbour_connected(self, node: NodeId) -> list[Effect]:
        """There is a connection to a neighbour, the first or another one: compare."""
        self._pulls.forget(node)  # from now on it is asked itself
        return [Tell(node, Summary(self.digests.summary()))]

    # -- telling ------------------------------------------------------------------------------

    @property
    def has_news(self) -> bool:
        """Whether `news` would return something."""
        return self._told < self.own.version

    def news(self) -> list[Effect]:
        """Tell the neighbours, and observers, what changed here since the last time.

        A long piece of news is told in its beginning, and the rest of it is asked for.
        """
        if not self.has_news:
            return []
        update = self.own.since(self._told, self._told)
        self._told = self.own.version
        return [Tell(node, update) for node in (*self._neighbours(), *self._observers())]

    def compare(self, now: float) -> list[Effect]:
        """Ask one neighbour at random whether it holds the same."""
        self._pulls.expire(now)
        self._give_up_waiting()
        effects: list[Effect] = []
        others = list(self._neighbours())
        if others:
            effects.append(Tell(self._rng.choice(others), Summary(self.digests.summary())))
        return effects + self._tell_what_was_learned() + self._ask(now)

    def _give_up_waiting(self) -> None:
        """Whoever was to send the rest does not: what is here counts, and is compared as it is."""
        for origin, replica in self.replicas.items():
            if not replica.whole and not self._pulls.is_open(origin):
                replica.latest = replica.version
                self.digests.changed(origin)
        for origin in [each for each in self.arriving if not self._pulls.is_open(each)]:
            del self.arriving[origin]

    def _some_others(self, *but: NodeId) -> list[NodeId]:
        """A few neighbours and all observers to tell on to, where there are members beyond them."""
        neighbours = self._neighbours()
        if self._is_observer or len(self.replicas) <= len(neighbours) + 1:
            return []
        others = [node for node in neighbours if node not in but]
        return [*self._rng.sample(others, min(FANOUT, len(others))), *self._observers()]

    def _tell_what_was_learned(self) -> list[Effect]:
        """What was asked for may be news to others."""
        learned = sorted(origin for origin in self._learned if origin in self.replicas)
        self._learned.clear()
        if not learned:
            return []
        return [effect for node in self._some_others() for effect in self._versions(node, learned)]

    # -- hearing ------------------------------------------------------------------------------

    def received(self, sender: NodeId, message: Message, now: float) -> list[Effect]:
        """A peer says something; what it says of nodes that are no members means nothing."""
        match message:
            case Summary(digests):
                differing = self.digests.differing(digests)
                if not differing or not self._quota.allows(sender, now):
                    return []
                return self._versions(sender, differing)
            case Versions(versions):
                effects = self._compared(sender, versions)
            case Want(origin, version, started, pieces):
                replica = self.replicas.get(origin)
                if replica is None or not replica.whole:
                    return []
                together = islice(replica.pieces(version, started), min(pieces, PIECES_TOGETHER))
                return [Tell(sender, update) for update in together]
            case Update():
                effects = self._updated(sender, message, now)
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
            if (replica := self.replicas[origin]).whole
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
            known = self.replicas.get(origin)
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
            self.own.restart(claimed + 1)
            self.digests.changed(self._me)

    def _ask(self, now: float) -> list[Effect]:
        """Ask for what is behind what is here, or is arriving."""
        effects: list[Effect] = []
        while (lead := self._pulls.next()) is not None:
            known = self.arriving.get(lead.origin, self.replicas[lead.origin])
            behind = lead.latest - known.version
            if behind > 0:  # else it came by another way
                pieces = min(1 + behind // ENTRIES_TOGETHER, PIECES_TOGETHER, self._pulls.room)
                want = Want(lead.origin, known.version, known.started, pieces)
                effects.append(Tell(lead.teller, want))
                self._pulls.asked(lead, known.version, pieces, now)
        return effects

    def _updated(self, sender: NodeId, update: Update, now: float) -> list[Effect]:
        origin = update.origin
        known = self.replicas.get(origin)
        if known is None or origin == self._me:
            return []
        asked = self._pulls.answered(sender, update, now)
        arriving = self.arriving.get(origin)
        if update.latest <= known.version and arriving is None:
            return []
        if sender != origin and origin in self._neighbours():
            return [_ask_back(origin, update.latest, update.check)]
        effects: list[Effect] = []
        if update.base == 0 and (known.version or arriving is not None):
            # What is known stays in force until all of the new is there.
            arriving = self.arriving[origin] = Replica(origin)
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
        if self.arriving.pop(origin, None) is taken:
            self.replicas[origin] = taken
            self._replaced(known, taken, effects)
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
        self.digests.changed(replica.origin)
        if len(replica) > MAX_ENTRIES:
            raise RemoteProtocolError(f"{replica.origin} has more than {MAX_ENTRIES} names")

    def _doubt(self, sender: NodeId, taken: Replica) -> None:
        """All that the sender has is here, and it does not add up to what it says."""
        origin = taken.origin
        if self.arriving.pop(origin, None) is None:
            # One of both was told what is not so: all of it, from whoever has it now.
            self.arriving[origin] = Replica(origin)
            self._pulls.heard(Lead(origin, sender, taken.version))


def _ask_back(origin: NodeId, version: int, check: int) -> Tell:
    """Of a neighbour only its own word counts: it is told what others say, and answers."""
    return Tell(origin, Versions(((origin, version, check),)))
