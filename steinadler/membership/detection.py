"""Detection: whom to ask for a sign of life, and when its absence is a verdict.

Each probe round pings the next few neighbours.  One that does not answer within `direct_timeout_s`
is pinged through others; when that brings no answer within `indirect_timeout_s` either, it is
accused, and has a while to say otherwise: the less, the more others have accused it by probes of
their own (`timing` has the sums, `suspicions` the clocks).  A neighbour's connection that broke is
a direct ping that failed: the others are asked at once.  Deciding on a broken connection alone was
refused: it would make a network hiccup a death (promise S2).

A dial that is refused where the member was seen is strong evidence: nobody listens there any more,
or a packet filter says so.  The others, who were asked when the connection broke, can tell.  It is
dead when none of them can reach it either: they say so at once where they have no connection, or
nothing within `direct_timeout_s`.  Taking the refusal for the verdict was refused: a filter that
rejects would make a cut path a death (S2).

Others may have its answer again and again while nothing of it comes here: then it is the connection
that is ill, in one direction perhaps, and TCP may take minutes to say so.  It is given up
(`PathLost`) for another way.  That it refuted this node's accusation, and only others have heard it
do so, says the same as an answer through them.

Those asked are neighbours of the silent one that are connected here, first one that had its answer
before, or that of another: a node may hang on one other alone.  Where these are too few, neighbours
of this node, which dial it for the question.  That it can be dialled is a sign of life too.

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
from steinadler.membership.events import PathLost, Reach
from steinadler.membership.health import LocalHealth
from steinadler.membership.members import Member, MemberState
from steinadler.membership.messages import Ack, Nack, Ping, PingRequest
from steinadler.membership.neighbours import Neighbours
from steinadler.membership.outbox import Outbox
from steinadler.membership.probes import Probe, ProbeRing, Probes, Relay, Relays, Stage
from steinadler.membership.round_trips import RoundTrips
from steinadler.membership.rumours import Rumours
from steinadler.membership.suspicions import Suspicions
from steinadler.membership.table import Entry, Link, Table

# One answer by way of others may only have been the faster one: it takes a second probe, at once.
DETOURS = 2


class Detector:
    """The probes and the clocks of one node's engine.  It reads the table and changes nothing."""

    def __init__(
        self,
        me: NodeId,
        table: Table,
        neighbours: Neighbours,
        rumours: Rumours,
        outbox: Outbox,
        settings: MembershipSettings,
        rng: random.Random,
    ) -> None:
        self._me = me
        self._table = table
        self._neighbours = neighbours
        self._rumours = rumours
        self._outbox = outbox
        self._settings = settings
        self._rng = rng
        self._ring = ProbeRing(rng)
        self._probes = Probes()
        self._relays = Relays()
        self.suspicions = Suspicions(table, settings)
        self.health = LocalHealth(settings)
        self.round_trips = RoundTrips()
        self._sequence = 0
        # Rounds left out since the last one, because this node was not well.
        self._rested = 0
        # How many probes in a row were answered by way of others alone.
        self._detours: dict[NodeId, int] = {}
        # Who had an answer of one that is silent here.
        self._ways: dict[NodeId, NodeId] = {}
        # By name: when an observer gives up whom it lost.
        self._lost: dict[str, float] = {}

    # What becomes of members and neighbours.

    def former_life(self, node: NodeId) -> None:
        """It is no member, or a later life is: whether this one answers no longer matters."""
        self.no_neighbour(node)
        self.round_trips.forget(node)

    def neighbour(self, name: str) -> None:
        """There is a new neighbour to probe."""
        self._ring.add(name)

    def no_neighbour(self, node: NodeId) -> None:
        """Others probe that one."""
        self._ring.discard(node.name)
        self._probes.end(node)
        self._heard_directly(node)
        self._lost.pop(node.name, None)

    # What becomes of connections, and messages that are signs of life.

    def heard_from(self, entry: Entry, now: float) -> None:
        """Something came from that very life of a node."""
        self._heard_directly(entry.member.node)
        self._heard_of(entry, now)

    def _heard_directly(self, node: NodeId) -> None:
        self._detours.pop(node, None)
        self._ways.pop(node, None)

    def _heard_of(self, entry: Entry, now: float) -> None:
        node = entry.member.node
        self._probes.end(node)
        if entry.member.state is MemberState.SUSPECT:
            self.suspicions.start(node.name, now)
        if entry.link is Link.CONNECTED:
            self._lost.pop(node.name, None)

    def is_silent(self, name: str, now: float) -> bool:
        """Whether that member was suspected here, without a word from it, for so long that it
        could have refuted: half of what others give it, which is many round trips."""
        return self.suspicions.lasts_for(name, now) >= self._settings.suspicion_s / 2

    def connected(self, entry: Entry, now: float) -> None:
        """A connection to that life of a node was made: whoever had it pinged has the answer."""
        self.heard_from(entry, now)
        for relay in self._relays.reached(entry.member.node):
            self._pass_on(relay)

    def disconnected(self, node: NodeId, now: float) -> None:
        """The connection to a neighbour broke: ask the others, unless they were asked already.

        It has the time of a direct probe besides, to be dialled again.
        """
        probe = self._probes.find(node)
        if probe is None or probe.stage is Stage.DIRECT:
            probe = self._ask_others(node, self._next_sequence(), now)
            probe.deadline += self._settings.direct_timeout_s

    def apart(self, node: NodeId) -> None:
        """There is no connection to that one any more: who waits for its answer has none."""
        for relay in self._relays.lost(node):
            self._pass_on_nack(relay)

    def refused(self, node: NodeId, now: float) -> None:
        """A dial to where that lost neighbour listened was refused: see `gone`."""
        probe = self._probes.find(node) or self._ask_others(node, self._next_sequence(), now)
        if probe.stage is not Stage.REFUSED:
            probe.stage = Stage.REFUSED
            probe.deadline = now + self._settings.direct_timeout_s

    def gone(self, now: float) -> Iterator[Entry]:
        """Yield the members whose host refused a dial, and that nobody who was asked can reach."""
        for probe in self._probes.refused():
            if probe.deadline <= now or not any(map(self._is_awaited, probe.asked - probe.nacked)):
                self._probes.end(probe.target)
                entry = self._table.entry_of(probe.target)
                if entry is not None and entry.member.state.is_member:
                    yield entry

    def _is_awaited(self, helper: NodeId) -> bool:
        entry = self._table.entry_of(helper)
        return entry is not None and entry.link is Link.CONNECTED

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
        elif entry is not None and self._can_try(entry):
            nack_at = now + self._settings.indirect_timeout_s / 2
            expires = now + self._settings.direct_timeout_s + self._settings.indirect_timeout_s
            ours = self._next_sequence()
            self._relays.start(ours, Relay(origin, sequence, target, nack_at, expires))
            if entry.link is Link.CONNECTED:
                self._outbox.send(target, Ping(ours, self._piggyback(target)))
            else:
                self._outbox.add([Reach(entry.member)])
        else:
            self._outbox.send(origin, Nack(sequence, self._piggyback(origin)))

    def _can_try(self, entry: Entry) -> bool:
        # A neighbour is dialled all the time: that there is no connection is all there is to say.
        member = entry.member
        return entry.link is Link.CONNECTED or (
            member.state.is_member
            and bool(member.addresses)
            and member.node.name not in self._neighbours
        )

    def answered(self, sender: NodeId, sequence: int, now: float) -> None:
        """A ping was answered: pass that on to whom it was for, or count it as a sign of life."""
        self.round_trips.answered(sender, sequence, now)
        relay = self._relays.answered(sequence, sender)
        if relay is not None:
            self._pass_on(relay)
            return
        target = self._probes.answered_by_relay(sequence, sender)
        entry = None if target is None else self._table.entry_of(target)
        if entry is not None:
            self._ways[entry.member.node] = sender
            self._heard_of(entry, now)
            self.went_around(entry, now)

    def went_around(self, entry: Entry, now: float) -> None:
        """Others hear a neighbour that was silent here for the time of a probe."""
        node = entry.member.node
        if entry.link is not Link.CONNECTED:
            return  # it is being dialled
        detours = self._detours.pop(node, 0) + 1
        if detours < DETOURS:
            self._detours[node] = detours
            self._ping(entry, now)
        else:
            self._outbox.add([PathLost(node)])

    def _pass_on(self, relay: Relay) -> None:
        origin = self._table.entry_of(relay.origin)
        if origin is not None and origin.link is Link.CONNECTED:
            self.answer(relay.origin, relay.sequence)

    def _pass_on_nack(self, relay: Relay) -> None:
        origin = self._table.entry_of(relay.origin)
        if origin is not None and origin.link is Link.CONNECTED:
            self._outbox.send(relay.origin, Nack(relay.sequence, self._piggyback(relay.origin)))

    def not_answered(self, sender: NodeId, sequence: int) -> None:
        """One that was asked to ping another has no answer so far."""
        self._probes.nacked_by_relay(sequence, sender)

    # Time.

    def deadlines(self) -> Iterator[float]:
        """When a probe or a suspicion runs out, or somebody waits for a nack."""
        yield from self._probes.deadlines()
        yield from self._relays.deadlines()
        yield from self.suspicions.deadlines()
        yield from self._lost.values()

    def postpone(self, seconds: float) -> None:
        """Give everybody more time."""
        self._probes.postpone(seconds)
        self._relays.postpone(seconds)
        self.suspicions.postpone(seconds)
        for name in self._lost:
            self._lost[name] += seconds

    def accused(self, now: float) -> Iterator[Entry]:
        """Take the probes that have timed out a step further; yield who answered nobody.

        Each is to be accused before the next is asked for: pings carry what the pinged one has to
        refute.  One that is suspect already is accused once more, by this node too.
        """
        for relay in self._relays.unanswered(now):
            self._pass_on_nack(relay)
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
                case Stage.REFUSED:
                    raise AssertionError("`gone` has these")
                case _:
                    assert_never(probe.stage)

    def condemned(self, now: float) -> Iterator[Entry]:
        """Yield the members whose time has run out, in the order it did."""
        verdicts = self.suspicions.due(now)
        verdicts |= {name: at for name, at in self._lost.items() if at <= now}
        for name in sorted(verdicts, key=verdicts.__getitem__):
            self.suspicions.clear(name)
            self._lost.pop(name, None)
            entry = self._table.find(name)
            if entry is not None and entry.member.state.is_member:
                yield entry

    def begin_round(self, now: float) -> None:
        """Ping the next few neighbours, unless this node is to rest: one that is ill pings less."""
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
            if entry.link is Link.CONNECTED:
                self._ping(entry, now)
            elif (
                entry.link is Link.LOST
                or now >= self._neighbours.since(name) + self._settings.suspicion_s
            ):
                # One that was not met yet gets that long, to be met by us and by the others.
                self._ask_others(entry.member.node, self._next_sequence(), now)

    def _ping(self, entry: Entry, now: float) -> None:
        node, sequence = entry.member.node, self._next_sequence()
        deadline = now + self.health.scaled(self._settings.direct_timeout_s)
        self._probes.start(Probe(sequence, node, Stage.DIRECT, deadline))
        self.round_trips.asked(node, sequence, now)
        self._outbox.send(node, Ping(sequence, self._piggyback(node)))

    def _ask_others(self, node: NodeId, sequence: int, now: float) -> Probe:
        deadline = now + self._settings.indirect_timeout_s
        asked = self._helpers(node)
        probe = Probe(sequence, node, Stage.INDIRECT, deadline, frozenset(asked))
        self._probes.start(probe)
        for other in asked:
            self._outbox.send(other, PingRequest(sequence, node, self._piggyback(other)))
        return probe

    def _helpers(self, node: NodeId) -> list[NodeId]:
        entries = map(self._table.find, self._table.overlay.neighbours_of(node.name))
        near = [
            entry.member.node
            for entry in entries
            if entry is not None and entry.link is Link.CONNECTED
        ]
        ours = [one for one in self._neighbours.connected() if one != node and one not in near]
        known = [way for way in self._known_ways(node) if way in near + ours]
        helpers = known[:1]
        for candidates in (near, ours):
            # A suspect may know a way, but its silence would say nothing about this node's ears.
            unsuspected = [
                one for one in candidates if one.name not in self.suspicions and one not in helpers
            ]
            count = min(self._settings.indirect_probes - len(helpers), len(unsuspected))
            helpers += self._rng.sample(unsuspected, count)
        if not helpers:
            suspects = near + ours
            count = min(self._settings.indirect_probes, len(suspects))
            helpers = self._rng.sample(suspects, count)
        return helpers

    def _known_ways(self, node: NodeId) -> list[NodeId]:
        """Who had an answer of that node, or else of others that are silent here."""
        way = self._ways.get(node)
        others = sorted({*self._ways.values()} - {node})
        return [way] if way is not None else self._rng.sample(others, len(others))

    def _next_sequence(self) -> int:
        self._sequence += 1
        return self._sequence

    def _piggyback(self, to: NodeId) -> tuple[Member, ...]:
        return self._rumours.piggyback(to)
