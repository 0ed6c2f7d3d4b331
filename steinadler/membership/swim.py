"""The membership engine: SWIM over connections that are authenticated, ordered and redialled.

    inputs -> Swim -> Detector   who gives no sign of life        (`detection`, `probes`, `timing`)
                      Health     and whether that is our own fault (`health`)
                   -> Beliefs    what is therefore held to be so  (`beliefs`, `members`, `table`)
                   -> Rumours    who is told of it, and when      (`rumours`, `dissemination`)
                   -> effects                                     (`outbox`, `events`)

Members are probed by their neighbours (`overlay`); one that answers nobody is SUSPECT, everybody
is told, others confirm it by probes of their own, and it has a while to say otherwise, which only
it can.  This module says what each input means to the three: what a connection that came, broke or
was refused is evidence of, and with whom tables are compared.

**Connections.**  A neighbour's that broke is a direct ping that failed.  A refused re-dial after
it ends the matter: DOWN, because the host says that nobody is there.  A goodbye is LEFT.  A node
that is connected while it is held to be silent or DOWN is told so at once, so that it can refute
and be a member again.  Waiting for the next probe round instead was refused: connections tell
sooner (S1).  The connection to a member that is no neighbour says nothing when it ends: either end
closes it when it is idle.

**Tables** are compared on meeting, and with one random neighbour each `sync_interval_s`, to repair
whatever gossip missed (`exchange`).

**Starvation.**  Verdicts need a clock that this process was there to watch.  The engine asks to be
called every `probe_interval_s`, also when it has nothing to probe.  Whenever it is called later
than it asked for, it did not run: `health` takes note, and says by how much all that is pending is
postponed.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import replace
from typing import assert_never

from steinadler.config import MembershipSettings
from steinadler.identity import Address, NodeId
from steinadler.membership.beliefs import Beliefs
from steinadler.membership.detection import Detector
from steinadler.membership.events import (
    REFUSED,
    SILENT,
    Admission,
    Bar,
    Blocked,
    Connected,
    Disconnected,
    Effect,
    Input,
    Leave,
    NeighbourAdded,
    NeighbourRemoved,
    ObserverConnected,
    ObserverDisconnected,
    Received,
    Refused,
    Relabel,
)
from steinadler.membership.exchange import Exchange
from steinadler.membership.health import Health
from steinadler.membership.members import Member, MemberState
from steinadler.membership.messages import (
    Ack,
    Gossip,
    Message,
    Nack,
    Ping,
    PingRequest,
    Summary,
    SyncReply,
    SyncRequest,
)
from steinadler.membership.neighbours import Neighbours
from steinadler.membership.outbox import Outbox, Phase
from steinadler.membership.overlay import Overlay
from steinadler.membership.round_trips import RoundTrip
from steinadler.membership.rumours import Rumours
from steinadler.membership.table import Link, Table

# How many of those who are down are dialled in one go: one that answers makes two sides meet.
MOST_RECONNECTS = 8


class Swim:
    """One node's view of the cluster.

    Call `handle` with everything that happens and `tick` at `next_deadline()`, with a monotonic
    clock in seconds; carry out the effects in order.  Nothing is raised for what peers send.
    `Relabel` raises `ConfigError` for labels that do not fit a record; nothing has changed then.

    An observer (`observer=True`) asks the members it is connected to for their tables, listens,
    and says nothing else; nobody counts it.  For a connection that it lost it has no others to
    ask, so a neighbour is down for it after `suspicion_s` without a new connection.

    `vouched` tells whether what somebody says of another node's role can be so.
    `table`: what is held of others at first, which is nothing unless it is given.
    """

    def __init__(
        self,
        me: Member,
        settings: MembershipSettings,
        rng: random.Random,
        *,
        observer: bool = False,
        vouched: Callable[[Member], bool] = lambda _: True,
        table: Table | None = None,
    ) -> None:
        self._settings = settings
        self._rng = rng
        self._observer = observer
        if table is None:
            table = Table(Overlay(settings.mesh_size, settings.rings))
        self._table = table
        if not observer:
            table.overlay.add(me.node.name, listens=bool(me.addresses))
        self._outbox = outbox = Outbox()
        self._neighbours = neighbours = Neighbours(me.node.name, table)
        self._rumours = rumours = Rumours(table, neighbours, settings, rng)
        self._detector = Detector(me.node, table, neighbours, rumours, outbox, settings, rng)
        self._beliefs = Beliefs(
            me, table, neighbours, rumours, self._detector, outbox, vouched, observer=observer
        )
        self._exchange = Exchange(table, self._beliefs, outbox, observer=observer)
        self._round_at = self._sync_at = -math.inf

    # What the shell asks.

    def members(self) -> tuple[Member, ...]:
        """All members, suspects and (unless it is an observer) this node included, by name."""
        members = [entry.member for entry in self._table if entry.member.state.is_member]
        if not self._observer and self._beliefs.me.state.is_member:
            members.append(self._beliefs.me)
        return tuple(sorted(members, key=lambda member: member.node.name))

    def listen_at(self, addresses: tuple[Address, ...]) -> None:
        """This node is reached at `addresses`: known once it listens, when peers may have come.

        Raises `ConfigError` when its record is too large with them.
        """
        self._beliefs.me = replace(self._beliefs.me, addresses=addresses)
        if not self._observer:
            self._table.overlay.remove(self._beliefs.me.node.name)
            self._table.overlay.add(self._beliefs.me.node.name, listens=bool(addresses))

    @property
    def me(self) -> Member:
        """This node's own record, for its Hellos."""
        return self._beliefs.me

    def find(self, name: str) -> Member | None:
        """The record held about `name`, in whatever state, or None."""
        if self._beliefs.is_me(name):
            return self._beliefs.me
        entry = self._table.find(name)
        return None if entry is None else entry.member

    def round_trip(self, node: NodeId) -> RoundTrip | None:
        """The time to that life of a member and back; None until it answered a direct ping."""
        return self._detector.round_trips.find(node)

    @property
    def health(self) -> Health:
        """How well this node itself runs."""
        return self._detector.health.report()

    def neighbours(self) -> tuple[NodeId, ...]:
        """The members that this node keeps connected to, connected or not."""
        return tuple(entry.member.node for entry in self._neighbours)

    def observers(self) -> tuple[NodeId, ...]:
        """The observers that are connected to this node."""
        return tuple(sorted(self._rumours.observers))

    def is_neighbour(self, node: NodeId) -> bool:
        """Whether this node keeps connected to that very life of a member."""
        return node.name in self._neighbours and self._table.entry_of(node) is not None

    def neighbours_of(self, name: str) -> tuple[NodeId, ...]:
        """The members that keep connected to the member called `name`, as far as is known here.

        Of a name that no member has, those that it would have.
        """
        found = (self.find(other) for other in self._table.overlay.neighbours_of(name))
        return tuple(record.node for record in found if record is not None)

    def is_address_of_member(self, address: Address) -> bool:
        """Whether another member says that it is reached there."""
        return self._table.is_address_of_member(address)

    @property
    def is_mesh(self) -> bool:
        """Whether the cluster is so small that every member keeps connected to every other."""
        return self._table.overlay.is_mesh

    def reconnectable(self) -> tuple[Member, ...]:
        """Who is down, not connected and not yet forgotten, and has an address to dial.

        Up to eight of them, drawn anew each time: after a partition there are hundreds, and one
        that answers tells of all the others.
        """
        found = [
            entry.member
            for entry in self._table
            if entry.member.state is MemberState.DOWN
            and entry.link is not Link.CONNECTED
            and entry.member.addresses
        ]
        if len(found) > MOST_RECONNECTS:
            found = self._rng.sample(found, MOST_RECONNECTS)
        return tuple(found)

    def admit(self, node: NodeId, now: float) -> Admission:
        """Whether a handshake may end in a connection with `node`.

        A life that was declared down is admitted: it will refute.  A later life is admitted as
        soon as the former one is suspected or down, or this node, which as its neighbour should be
        connected to it, is no longer.  Any other node knows nothing of the former one that could
        speak for the later; its neighbours will have noticed in a moment.
        """
        self._begin(now)
        if self._beliefs.is_me(node.name):
            return Admission.NAME_IN_USE
        if self._beliefs.is_barred(node.name):
            return Admission.BARRED
        entry = self._table.find(node.name)
        if entry is None:
            return Admission.ADMITTED
        held = entry.member
        if node == held.node:
            left = held.state is MemberState.LEFT
            return Admission.STALE if left else Admission.ADMITTED
        if held.state is MemberState.ALIVE and entry.link is not Link.LOST:
            return Admission.NAME_IN_USE
        return Admission.STALE if node < held.node else Admission.ADMITTED

    def next_deadline(self) -> float:
        """When to call `tick`: `-math.inf` before the first call, `math.inf` once stopped."""
        if self._outbox.phase is Phase.STOPPED:
            return math.inf
        return min(self._round_at, self._sync_at, *self._detector.deadlines())

    # What the shell tells.

    def handle(self, event: Input, now: float) -> list[Effect]:
        """Take in what happened.  Once stopped, nothing follows from anything."""
        self._begin(now)
        if self._outbox.phase is Phase.STOPPED:
            return []
        source: NodeId | None = None
        match event:
            case Connected(member):
                source = member.node
                self._on_connected(member, now)
            case Disconnected(node, goodbye):
                self._on_disconnected(node, goodbye, now)
            case Refused(node):
                self._on_refused(node, now)
            case Received(sender, message):
                source = sender
                self._on_received(sender, message, now)
            case ObserverConnected(node):
                self._rumours.observers.add(node)
            case ObserverDisconnected(node):
                self._rumours.observers.discard(node)
            case Relabel(labels):
                self._beliefs.relabel(labels)
            case Bar(names):
                self._beliefs.bar(names, now)
            case Leave():
                self._on_leave()
            case _:
                assert_never(event)
        return self._finish(source, now)

    def tick(self, now: float) -> list[Effect]:
        """Do what is due.  Calling early does no harm."""
        self._begin(now)
        if self._outbox.phase is Phase.STOPPED:
            return []
        for entry in self._detector.accused(now):
            self._beliefs.accuse(entry, now)
        for entry in self._detector.condemned(now):
            suspect = entry.member.state is MemberState.SUSPECT
            reason = SILENT if suspect else "connection lost"
            self._beliefs.believe_state(entry, MemberState.DOWN, reason, now)
        if self._round_at <= now:
            self._round_at = max(self._round_at + self._settings.probe_interval_s, now)
            self._detector.suspicions.reckon_all()
            if not self._observer:
                self._detector.begin_round(now)
        if self._sync_at <= now:
            self._sync_at = max(self._sync_at + self._settings.sync_interval_s, now)
            for name in self._table.forget(now - self._settings.forget_s):
                self._rumours.forget(name)
            self._beliefs.introducer = None
            connected = self._neighbours.connected()
            if connected and not self._observer:
                self._exchange.compare_with(self._rng.choice(connected))
        return self._finish(None, now)

    # Time.

    def _begin(self, now: float) -> None:
        if self._outbox.phase is Phase.NEW:
            self._outbox.phase = Phase.RUNNING
            # A random phase, so that nodes started together do not probe in step.
            self._round_at = now + self._rng.uniform(0, self._settings.probe_interval_s)
            self._sync_at = now + self._rng.uniform(0, self._settings.sync_interval_s)
            self._beliefs.forgetful_at = now + self._settings.forget_s
            return
        late = now - self.next_deadline()
        health = self._detector.health
        allowance = health.ran_late(late)
        if allowance > 0:
            if health.is_blocked(late):
                self._outbox.add([Blocked(late)])
            self._detector.postpone(allowance)
            # Shifted too, or the same delay would be counted again by the next call.
            self._round_at += late
            self._sync_at += late

    # Connections.

    def _on_connected(self, member: Member, now: float) -> None:
        node = member.node
        if self._beliefs.is_me(node.name):
            if node > self._beliefs.me.node:
                self._beliefs.usurped(node)
            return
        entry = self._table.find(node.name)
        state = None
        if entry is not None:
            held = entry.member
            if node < held.node or (node == held.node and held.state is MemberState.LEFT):
                return  # a life that is over
            if node == held.node:
                state = held.state
            if self._observer and state is MemberState.DOWN:
                # It was this observer's own verdict, which nobody else heard and can refute.
                self._table.drop(node.name)
        if not len(self._table):
            self._beliefs.introducer = node
        self._beliefs.believe(member, "", now)
        entry = self._table.entry_of(node)
        if entry is None:
            return
        entry.link = Link.CONNECTED
        self._detector.connected(entry, now)
        if entry.member.state is not MemberState.ALIVE and not self._observer:
            self._outbox.send(node, Gossip((entry.member,)))
        self._exchange.met(node, known=state is MemberState.ALIVE)

    def _on_disconnected(self, node: NodeId, goodbye: bool, now: float) -> None:
        entry = self._table.entry_of(node)
        if entry is None or entry.link is not Link.CONNECTED:
            return
        entry.link = Link.LOST if node.name in self._neighbours else Link.APART
        self._detector.apart(node)
        if goodbye:
            self._beliefs.believe_state(entry, MemberState.LEFT, "left", now)
            entry.said_goodbye = True
        elif entry.link is Link.LOST:
            if self._observer:
                self._detector.disconnected_from_observer(node.name, now)
            else:
                self._detector.disconnected(node, now)

    def _on_refused(self, node: NodeId, now: float) -> None:
        entry = self._table.entry_of(node)
        if entry is None or entry.link is not Link.LOST or not entry.member.state.is_member:
            return
        if self._observer:  # it has nobody to ask
            self._beliefs.believe_state(entry, MemberState.DOWN, REFUSED, now)
        else:
            self._detector.refused(node, now)

    def _on_leave(self) -> None:
        self._beliefs.leave()
        if not self._observer:
            for node in (*self._table.connected(), *sorted(self._rumours.observers)):
                self._outbox.send(node, Gossip((self._beliefs.me,)))
        self._outbox.phase = Phase.STOPPED

    # Messages.

    def _on_received(self, sender: NodeId, message: Message, now: float) -> None:
        if sender in self._rumours.observers:
            if isinstance(message, SyncRequest):
                self._exchange.give(sender, None, now)
            return
        entry = self._table.entry_of(sender)
        if (
            entry is None
            or entry.link is not Link.CONNECTED
            or entry.member.state is MemberState.LEFT
        ):
            return
        self._detector.heard_from(entry, now)
        match message:
            case Ping(sequence, updates):
                self._beliefs.merge(updates, sender, now)
                if not self._observer:
                    self._detector.answer(sender, sequence)
            case PingRequest(sequence, target, updates):
                self._beliefs.merge(updates, sender, now)
                if not self._observer:
                    self._detector.ping_for(sender, sequence, target, now)
            case Ack(sequence, updates):
                self._detector.answered(sender, sequence, now)
                self._beliefs.merge(updates, sender, now)
            case Nack(sequence, updates):
                self._detector.not_answered(sender, sequence)
                self._beliefs.merge(updates, sender, now)
            case Gossip(updates):
                self._beliefs.merge(updates, sender, now)
            case SyncRequest(members, buckets):
                self._beliefs.merge_table(members, sender, now)
                if not self._observer:
                    self._exchange.give(sender, buckets, now)
            case SyncReply(members):
                self._beliefs.merge_table(members, sender, now)
            case Summary(digests):
                if not self._observer:
                    self._exchange.answer(sender, digests, now)
            case _:
                assert_never(message)

    # Neighbours.

    def _finish(self, source: NodeId | None, now: float) -> list[Effect]:
        if self._outbox.phase is Phase.RUNNING:
            for entry in self._detector.gone(now):
                self._beliefs.believe_state(entry, MemberState.DOWN, REFUSED, now)
                source = None  # that is this node's own news
            self._update_neighbours(now)
        effects = self._outbox.take()
        effects.extend(self._rumours.spread(self._beliefs.me.node, source))
        return effects

    def _update_neighbours(self, now: float) -> None:
        added, removed = self._neighbours.update(now)
        for entry in removed:
            node = entry.member.node
            if entry.link is Link.LOST:
                entry.link = Link.APART
            self._detector.no_neighbour(node)
            self._outbox.add([NeighbourRemoved(node)])
        for entry in added:
            self._detector.neighbour(entry.member.node.name)
            self._outbox.add([NeighbourAdded(entry.member)])
