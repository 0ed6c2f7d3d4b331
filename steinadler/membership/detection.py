"""Detection: whom to ask for a sign of life, and when its absence is a verdict.

Each probe round pings the next few members.  One that does not answer within `direct_timeout_s`
is pinged through others; when that brings no answer within `indirect_timeout_s` either, it is
accused, and has a while to say otherwise: the less, the more others have accused it by probes of
their own (`timing` has the sums).  A connection that broke is a
direct ping that failed: the others are asked at once.  Deciding on a broken connection alone was
refused: it would make a network hiccup a death (promise S2).

The suspect is the first to be told: whatever is sent to it begins with what it has to refute
(Lifeguard's buddy).  Any message from it restarts the clock of its suspicion here, because its
refutation must be behind it.  It changes no record: the others would not learn of it.

Verdicts need a clock that this process was there to watch, and ears that hear: `health` says how
far to trust both, by how much verdicts are postponed and how patient probes are.

Nothing here changes what is believed.  Whoever is accused or condemned is named to the caller,
who believes it or not, and `beliefs` says in return which clocks that starts and stops.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import assert_never

from steinadler.config import MembershipSettings
from steinadler.identity import NodeId
from steinadler.membership import timing
from steinadler.membership.health import LocalHealth
from steinadler.membership.members import Member, MemberState
from steinadler.membership.messages import Ack, Nack, Ping, PingRequest
from steinadler.membership.outbox import Outbox
from steinadler.membership.probes import Probe, ProbeRing, Probes, Relay, Relays, Stage
from steinadler.membership.round_trips import RoundTrips
from steinadler.membership.rumours import Rumours
from steinadler.membership.table import Entry, Link, Table


class Detector:
    """The probes and the clocks of one node's engine.  It reads the table and changes nothing."""

    def __init__(
        self,
        me: NodeId,
        table: Table,
        rumours: Rumours,
        outbox: Outbox,
        settings: MembershipSettings,
        rng: random.Random,
    ) -> None:
        self._me = me
        self._table = table
        self._rumours = rumours
        self._outbox = outbox
        self._settings = settings
        self._rng = rng
        self._ring = ProbeRing(rng)
        self._probes = Probes()
        self._relays = Relays()
        self.health = LocalHealth(settings)
        self.round_trips = RoundTrips()
        self._sequence = 0
        # Rounds left out since the last one, because this node was not well.
        self._rested = 0
        # By name: since when a suspect may refute, and when an observer gives up what it lost.
        self._suspected_at: dict[str, float] = {}
        self._lost: dict[str, float] = {}

    @property
    def cluster_size(self) -> int:
        """How many members there are, this node included."""
        return len(self._ring) + 1

    # What becomes of members, from `beliefs`.

    def add(self, name: str) -> None:
        """There is a new member to probe."""
        self._ring.add(name)

    def remove(self, node: NodeId) -> None:
        """It is a member no more."""
        self._ring.remove(node.name)
        self.former_life(node)

    def former_life(self, node: NodeId) -> None:
        """A later life of that name is known: whether this one answers no longer matters."""
        self._probes.end(node)
        self.round_trips.forget(node)
        self._lost.pop(node.name, None)

    def suspect(self, name: str, now: float) -> None:
        """Start, or start again, the time that a suspect has to say that it lives."""
        self._suspected_at[name] = now

    def clear(self, name: str) -> None:
        """It is no suspect."""
        self._suspected_at.pop(name, None)

    # What becomes of connections, and messages that are signs of life.

    def heard_from(self, entry: Entry, now: float) -> None:
        """Something came from that very life of a node."""
        node = entry.member.node
        self._probes.end(node)
        if entry.member.state is MemberState.SUSPECT:
            self.suspect(node.name, now)
        if entry.link is Link.CONNECTED:
            self._lost.pop(node.name, None)

    def disconnected(self, node: NodeId, now: float) -> None:
        """The connection to a member broke: ask the others, unless they were asked already."""
        probe = self._probes.find(node)
        if probe is None or probe.stage is Stage.DIRECT:
            self._ask_others(node, self._next_sequence(), now)

    def disconnected_from_observer(self, name: str, now: float) -> None:
        """An observer has no others to ask: give the member that long to be connected again."""
        self._lost[name] = now + self._settings.suspicion_s

    def answer(self, sender: NodeId, sequence: int) -> None:
        """Answer a ping."""
        self._outbox.send(sender, Ack(sequence, self._piggyback(sender)))

    def ping_for(self, origin: NodeId, sequence: int, target: NodeId, now: float) -> None:
        """Ping `target` because `origin` has no answer of it."""
        entry = self._table.entry_of(target)
        if target == self._me:
            self.answer(origin, sequence)
        elif entry is not None and entry.link is Link.CONNECTED:
            nack_at = now + self._settings.indirect_timeout_s / 2
            expires = now + self._settings.direct_timeout_s + self._settings.indirect_timeout_s
            ours = self._next_sequence()
            self._relays.start(ours, Relay(origin, sequence, target, nack_at, expires))
            self._outbox.send(target, Ping(ours, self._piggyback(target)))
        else:
            self._outbox.send(origin, Nack(sequence, self._piggyback(origin)))

    def answered(self, sender: NodeId, sequence: int, now: float) -> None:
        """A ping was answered: pass that on to whom it was for, or count it as a sign of life."""
        self.round_trips.answered(sender, sequence, now)
        relay = self._relays.answered(sequence, sender)
        if relay is not None:
            origin = self._table.entry_of(relay.origin)
            if origin is not None and origin.link is Link.CONNECTED:
                self.answer(relay.origin, relay.sequence)
            return
        target = self._probes.answered_by_relay(sequence, sender)
        entry = None if target is None else self._table.entry_of(target)
        if entry is not None:
            self.heard_from(entry, now)

    def not_answered(self, sender: NodeId, sequence: int) -> None:
        """One that was asked to ping another has no answer so far."""
        self._probes.nacked_by_relay(sequence, sender)

    # Time.

    def deadlines(self) -> Iterator[float]:
        """When a probe or a suspicion runs out, or somebody waits for a nack."""
        yield from self._probes.deadlines()
        yield from self._relays.deadlines()
        yield from map(self._verdict_at, self._suspected_at)
        yield from self._lost.values()

    def postpone(self, seconds: float) -> None:
        """Give everybody more time."""
        self._probes.postpone(seconds)
        self._relays.postpone(seconds)
        for clocks in (self._suspected_at, self._lost):
            for name in clocks:
                clocks[name] += seconds

    def accused(self, now: float) -> Iterator[Entry]:
        """Take the probes that have timed out a step further; yield who answered nobody.

        Each is to be accused before the next is asked for: pings carry what the pinged one has to
        refute.  One that is suspect already is accused once more, by this node too.
        """
        for relay in self._relays.unanswered(now):
            origin = self._table.entry_of(relay.origin)
            if origin is not None and origin.link is Link.CONNECTED:
                nack = Nack(relay.sequence, self._piggyback(relay.origin))
                self._outbox.send(relay.origin, nack)
        for probe in self._probes.due(now):
            match probe.stage:
                case Stage.DIRECT:
                    self._ask_others(probe.target, probe.sequence, now)
                case Stage.INDIRECT:
                    self._probes.end(probe.target)
                    self.health.probe_failed(len(probe.asked), len(probe.nacked))
                    entry = self._table.entry_of(probe.target)
                    if entry is not None and entry.member.state.is_member:
                        yield entry
                case _:
                    assert_never(probe.stage)

    def condemned(self, now: float) -> Iterator[Entry]:
        """Yield the members whose time has run out, in the order it did."""
        verdicts = {name: self._verdict_at(name) for name in self._suspected_at} | self._lost
        for name in sorted(verdicts, key=verdicts.__getitem__):
            if verdicts[name] > now:
                break
            self._suspected_at.pop(name, None)
            self._lost.pop(name, None)
            entry = self._table.find(name)
            if entry is not None and entry.member.state.is_member:
                yield entry

    def begin_round(self, now: float) -> None:
        """Ping the next few members, unless this node is to rest: one that is ill pings less."""
        self._relays.expire(now)
        self.health.interval_passed()
        if self._rested < self.health.score:
            self._rested += 1
            return
        self._rested = 0
        for name in self._ring.take(timing.probes_per_round(len(self._ring))):
            entry = self._table.find(name)
            if entry is None or self._probes.find(entry.member.node) is not None:
                continue
            node = entry.member.node
            if entry.link is Link.CONNECTED:
                sequence = self._next_sequence()
                deadline = now + self.health.scaled(self._settings.direct_timeout_s)
                self._probes.start(Probe(sequence, node, Stage.DIRECT, deadline))
                self.round_trips.asked(node, sequence, now)
                self._outbox.send(node, Ping(sequence, self._piggyback(node)))
            elif entry.link is Link.LOST or now >= entry.since + self._settings.suspicion_s:
                # One that is only heard of gets that long to be met, by us and by the others.
                self._ask_others(node, self._next_sequence(), now)

    def _ask_others(self, node: NodeId, sequence: int, now: float) -> None:
        members = [other for other in self._table.connected_members() if other != node]
        # A suspect may know a way, but its silence would say nothing about this node's ears.
        unsuspected = [other for other in members if other.name not in self._suspected_at]
        others = unsuspected or members
        asked = self._rng.sample(others, min(self._settings.indirect_probes, len(others)))
        deadline = now + self._settings.indirect_timeout_s
        self._probes.start(Probe(sequence, node, Stage.INDIRECT, deadline, frozenset(asked)))
        for other in asked:
            self._outbox.send(other, PingRequest(sequence, node, self._piggyback(other)))

    def _verdict_at(self, name: str) -> float:
        entry = self._table.find(name)
        accusers = 0 if entry is None else len(entry.member.accusers)
        others = len(self._ring) - len(self._suspected_at)
        timeout = timing.suspicion_timeout_s(self._settings, max(0, accusers - 1), others)
        return self._suspected_at[name] + timeout

    def _next_sequence(self) -> int:
        self._sequence += 1
        return self._sequence

    def _piggyback(self, to: NodeId) -> tuple[Member, ...]:
        return self._rumours.piggyback(to, self.cluster_size)
