"""The membership engine: SWIM over connections that are authenticated, ordered and redialled.

**Detection.**  Each `probe_interval_s` the engine pings the next few members.  One that does not
answer within `direct_timeout_s` is pinged through others; when that brings no answer within
`indirect_timeout_s` either, it is SUSPECT, everybody is told, and it has a while to say
otherwise (`timing` has the sums).  A connection that broke is a direct ping that failed: the
others are asked at once.  A refused re-dial after a connection ends the matter: DOWN.  A goodbye
is LEFT.  Deciding on a broken connection alone was refused: it would make a network hiccup a
death (promise S2).

**Refutation.**  Only the accused overrules an accusation, by a record with a higher refutation.
Any message from a suspect restarts the clock of its suspicion here, because the refutation must
be behind it, but changes no record: the others would not learn of it.  What concerns the
receiver rides first on every probe and answer, and a node that is connected while DOWN is sent
the table, so that it can refute and be a member again.

**Dissemination.**  A change goes at once to a few, and rides on probes afterwards (`rumours`).
Tables are exchanged on meeting, and with one random member each
`sync_interval_s`.  A DOWN in gossip is believed.  A DOWN in a table is only a suspicion of one
who is a member here, as in memberlist: the table may be older than the member's return, and a
healed partition would otherwise bury both sides before it revives them.

**Starvation.**  Verdicts need a clock that this process was there to watch.  Whenever the engine
is called more than `timing.STALL_S` after `next_deadline()`, it did not run, and all its pending
probes and suspicions are postponed by that delay and some time to read what has arrived.

**Memory.**  A record DOWN or LEFT is forgotten `forget_s` later.  An engine older than that
takes no such record about a name it does not know, because it may be one that it has forgotten:
nodes would remind each other for ever.

The file is long because every paragraph above is about one state: which timers run depends on
what is believed, and what is believed on which connections stand.  What can be told apart is:
comparing (`members`), events (`table`), probe order (`probes`), spreading (`rumours`).
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterable
from dataclasses import replace
from enum import Enum
from typing import assert_never

from steinadler.config import MembershipSettings
from steinadler.identity import NodeId
from steinadler.membership import timing
from steinadler.membership.dissemination import batches
from steinadler.membership.events import (
    Admission,
    Connected,
    Disconnected,
    Effect,
    Input,
    Leave,
    ObserverConnected,
    ObserverDisconnected,
    Received,
    Refused,
    Send,
    Usurped,
)
from steinadler.membership.members import Member, MemberState, supersedes
from steinadler.membership.messages import (
    MAX_INTEGER,
    Ack,
    Gossip,
    Message,
    Ping,
    PingRequest,
    SyncReply,
    SyncRequest,
)
from steinadler.membership.probes import Probe, ProbeRing, Probes, Relay, Relays, Stage
from steinadler.membership.rumours import Rumours
from steinadler.membership.table import MAX_ENTRIES, Entry, Link, Table, transition


class _Phase(Enum):
    NEW = "new"  # not called yet, so it does not know the time
    RUNNING = "running"
    STOPPED = "stopped"  # left, or usurped


class Swim:
    """One node's view of the cluster.

    Call `handle` with everything that happens and `tick` at `next_deadline()`, with a monotonic
    clock in seconds; carry out the effects in order.  Nothing is raised for what peers send.

    An observer (`observer=True`) asks the members it is connected to for their tables, listens,
    and says nothing else; nobody counts it.  For a connection that it lost it has no others to
    ask, so a member is down for it after `suspicion_s` without a new connection.
    """

    def __init__(
        self,
        me: Member,
        settings: MembershipSettings,
        rng: random.Random,
        *,
        observer: bool = False,
    ) -> None:
        self._me = me
        self._settings = settings
        self._rng = rng
        self._observer = observer
        self._phase = _Phase.NEW
        self._table = Table()
        self._ring = ProbeRing(rng)
        self._probes = Probes()
        self._relays = Relays()
        self._rumours = Rumours(self._table, settings, rng)
        self._sequence = 0
        # When a member is declared down, by name: suspects, and what an observer lost.
        self._verdicts: dict[str, float] = {}
        self._round_at = self._sync_at = -math.inf
        self._forgetful_at = math.inf
        self._effects: list[Effect] = []

    # What the shell asks.

    def members(self) -> tuple[Member, ...]:
        """All members, suspects and (unless it is an observer) this node included, by name."""
        members = [entry.member for entry in self._table if entry.member.state.is_member]
        if not self._observer and self._me.state.is_member:
            members.append(self._me)
        return tuple(sorted(members, key=lambda member: member.node.name))

    @property
    def refutation(self) -> int:
        """This node's own refutation number, for its Hellos."""
        return self._me.refutation

    def find(self, name: str) -> Member | None:
        """The record held about `name`, in whatever state, or None."""
        if name == self._me.node.name and not self._observer:
            return self._me
        entry = self._table.find(name)
        return None if entry is None else entry.member

    def reconnectable(self) -> tuple[Member, ...]:
        """Who is down, not connected and not yet forgotten, and has an address to dial."""
        return tuple(
            entry.member
            for entry in self._table
            if entry.member.state is MemberState.DOWN
            and entry.link is not Link.CONNECTED
            and entry.member.addresses
        )

    def admit(self, node: NodeId, now: float) -> Admission:
        """Whether a handshake may end in a connection with `node`.

        A life that was declared down is admitted: it will refute.  A later life is admitted as
        soon as the former one is suspected, down or just not connected.
        """
        self._begin(now)
        if node.name == self._me.node.name and not self._observer:
            return Admission.NAME_IN_USE
        entry = self._table.find(node.name)
        if entry is None:
            return Admission.ADMITTED
        held = entry.member
        if node == held.node:
            left = held.state is MemberState.LEFT
            return Admission.STALE if left else Admission.ADMITTED
        if held.state is MemberState.ALIVE and entry.link is Link.CONNECTED:
            return Admission.NAME_IN_USE
        return Admission.STALE if node < held.node else Admission.ADMITTED

    def next_deadline(self) -> float:
        """When to call `tick`: `-math.inf` before the first call, `math.inf` once stopped."""
        if self._phase is _Phase.STOPPED:
            return math.inf
        return min(
            self._round_at,
            self._sync_at,
            *self._probes.deadlines(),
            *self._verdicts.values(),
        )

    # What the shell tells.

    def handle(self, event: Input, now: float) -> list[Effect]:
        """Take in what happened.  Once stopped, nothing follows from anything."""
        self._begin(now)
        if self._phase is _Phase.STOPPED:
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
            case Leave():
                self._on_leave()
            case _:
                assert_never(event)
        return self._finish(source)

    def tick(self, now: float) -> list[Effect]:
        """Do what is due.  Calling early does no harm."""
        self._begin(now)
        if self._phase is _Phase.STOPPED:
            return []
        for probe in self._probes.due(now):
            self._on_probe_timeout(probe, now)
        for name in sorted(self._verdicts, key=self._verdicts.__getitem__):
            if self._verdicts[name] > now:
                break
            self._on_verdict(name, now)
        if self._round_at <= now:
            self._round_at = max(self._round_at + self._settings.probe_interval_s, now)
            self._relays.expire(now)
            self._probe_next(now)
        if self._sync_at <= now:
            self._sync_at = max(self._sync_at + self._settings.sync_interval_s, now)
            for name in self._table.forget(now - self._settings.forget_s):
                self._rumours.forget(name)
            members = self._table.connected_members()
            if members and not self._observer:
                self._ask_for_sync(self._rng.choice(members))
        return self._finish(None)

    # Time.

    def _begin(self, now: float) -> None:
        if self._phase is _Phase.NEW:
            self._phase = _Phase.RUNNING
            # A random phase, so that nodes started together do not probe in step.
            self._round_at = now + self._rng.uniform(0, self._settings.probe_interval_s)
            self._sync_at = now + self._rng.uniform(0, self._settings.sync_interval_s)
            self._forgetful_at = now + self._settings.forget_s
            return
        late = now - self.next_deadline()
        allowance = timing.stall_allowance_s(self._settings, late)
        if allowance > 0:
            self._probes.postpone(allowance)
            for name in self._verdicts:
                self._verdicts[name] += allowance
            # Shifted too, or the same delay would be counted again by the next call.
            self._round_at += late
            self._sync_at += late

    def _suspicion_ends(self, now: float) -> float:
        return now + timing.suspicion_timeout_s(self._settings, len(self._ring) + 1)

    # Connections.

    def _on_connected(self, member: Member, now: float) -> None:
        node = member.node
        if node.name == self._me.node.name and not self._observer:
            if node > self._me.node:
                self._usurped(node)
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
        self._believe(member, "", now)
        entry = self._table.entry_of(node)
        if entry is None:
            return
        entry.link = Link.CONNECTED
        self._heard_from(entry, now)
        if state is not MemberState.ALIVE:
            self._ask_for_sync(node)

    def _on_disconnected(self, node: NodeId, goodbye: bool, now: float) -> None:
        entry = self._table.entry_of(node)
        if entry is None or entry.link is not Link.CONNECTED:
            return
        entry.link = Link.LOST
        if goodbye:
            self._believe(replace(entry.member, state=MemberState.LEFT), "left", now)
        elif entry.member.state.is_member:
            if self._observer:
                ends = now + self._settings.suspicion_s
                self._verdicts[node.name] = min(self._verdicts.get(node.name, math.inf), ends)
                return
            probe = self._probes.find(node)
            if probe is None or probe.stage is Stage.DIRECT:
                self._ask_others(node, self._next_sequence(), now)

    def _on_refused(self, node: NodeId, now: float) -> None:
        entry = self._table.entry_of(node)
        if entry is not None and entry.link is Link.LOST and entry.member.state.is_member:
            down = replace(entry.member, state=MemberState.DOWN)
            self._believe(down, "connection refused", now)

    def _on_leave(self) -> None:
        self._me = replace(self._me, state=MemberState.LEFT)
        if not self._observer:
            for node in (*self._table.connected(), *sorted(self._rumours.observers)):
                self._send(node, Gossip((self._me,)))
        self._phase = _Phase.STOPPED

    # Messages.

    def _on_received(self, sender: NodeId, message: Message, now: float) -> None:
        if sender in self._rumours.observers:
            if isinstance(message, SyncRequest):
                self._send_table(sender)
            return
        entry = self._table.entry_of(sender)
        if (
            entry is None
            or entry.link is not Link.CONNECTED
            or entry.member.state is MemberState.LEFT
        ):
            return
        self._heard_from(entry, now)
        match message:
            case Ping(sequence, updates):
                self._merge(updates, sender, now)
                if not self._observer:
                    self._send(sender, Ack(sequence, self._piggyback(sender)))
            case PingRequest(sequence, target, updates):
                self._merge(updates, sender, now)
                self._relay(Relay(sender, sequence, target, now + self._settings.direct_timeout_s))
            case Ack(sequence, updates):
                self._on_ack(sequence, sender, now)
                self._merge(updates, sender, now)
            case Gossip(updates):
                self._merge(updates, sender, now)
            case SyncRequest(members):
                self._merge_table(members, sender, now)
                if not self._observer:
                    self._send_table(sender)
            case SyncReply(members):
                self._merge_table(members, sender, now)
            case _:
                assert_never(message)

    def _heard_from(self, entry: Entry, now: float) -> None:
        node = entry.member.node
        self._probes.end(node)
        if entry.member.state is MemberState.SUSPECT:
            self._verdicts[node.name] = self._suspicion_ends(now)
        elif entry.link is Link.CONNECTED:
            self._verdicts.pop(node.name, None)

    def _relay(self, relay: Relay) -> None:
        if self._observer:
            return
        entry = self._table.entry_of(relay.target)
        if relay.target == self._me.node:
            self._send(relay.origin, Ack(relay.sequence, self._piggyback(relay.origin)))
        elif entry is not None and entry.link is Link.CONNECTED:
            sequence = self._next_sequence()
            self._relays.start(sequence, relay)
            self._send(relay.target, Ping(sequence, self._piggyback(relay.target)))

    def _on_ack(self, sequence: int, sender: NodeId, now: float) -> None:
        relay = self._relays.answered(sequence, sender)
        if relay is not None:
            origin = self._table.entry_of(relay.origin)
            if origin is not None and origin.link is Link.CONNECTED:
                self._send(relay.origin, Ack(relay.sequence, self._piggyback(relay.origin)))
            return
        target = self._probes.answered_by_relay(sequence, sender)
        entry = None if target is None else self._table.entry_of(target)
        if entry is not None:
            self._heard_from(entry, now)

    # Probing.

    def _probe_next(self, now: float) -> None:
        if self._observer:
            return
        for name in self._ring.take(timing.probes_per_round(len(self._ring))):
            entry = self._table.find(name)
            if entry is None or self._probes.find(entry.member.node) is not None:
                continue
            node = entry.member.node
            if entry.link is Link.CONNECTED:
                sequence = self._next_sequence()
                deadline = now + self._settings.direct_timeout_s
                self._probes.start(Probe(sequence, node, Stage.DIRECT, deadline))
                self._send(node, Ping(sequence, self._piggyback(node)))
            elif entry.link is Link.LOST or now >= entry.since + self._settings.suspicion_s:
                # One that is only heard of gets that long to be met, by us and by the others.
                self._ask_others(node, self._next_sequence(), now)

    def _ask_others(self, node: NodeId, sequence: int, now: float) -> None:
        others = [other for other in self._table.connected_members() if other != node]
        asked = self._rng.sample(others, min(self._settings.indirect_probes, len(others)))
        deadline = now + self._settings.indirect_timeout_s
        self._probes.start(Probe(sequence, node, Stage.INDIRECT, deadline, frozenset(asked)))
        for other in asked:
            self._send(other, PingRequest(sequence, node, self._piggyback(other)))

    def _on_probe_timeout(self, probe: Probe, now: float) -> None:
        match probe.stage:
            case Stage.DIRECT:
                self._ask_others(probe.target, probe.sequence, now)
            case Stage.INDIRECT:
                self._probes.end(probe.target)
                entry = self._table.entry_of(probe.target)
                if entry is not None and entry.member.state is MemberState.ALIVE:
                    self._believe(replace(entry.member, state=MemberState.SUSPECT), "", now)
            case _:
                assert_never(probe.stage)

    def _on_verdict(self, name: str, now: float) -> None:
        del self._verdicts[name]
        entry = self._table.find(name)
        if entry is not None and entry.member.state.is_member:
            suspect = entry.member.state is MemberState.SUSPECT
            reason = "no sign of life" if suspect else "connection lost"
            self._believe(replace(entry.member, state=MemberState.DOWN), reason, now)

    def _next_sequence(self) -> int:
        self._sequence += 1
        return self._sequence

    # Belief.

    def _merge(self, records: Iterable[Member], source: NodeId, now: float) -> None:
        for record in records:
            name = record.node.name
            if name == self._me.node.name and not self._observer:
                self._hear_of_myself(record)
                if self._phase is _Phase.STOPPED:
                    return
                continue
            if self._table.find(name) is None:
                forgotten = not record.state.is_member and now >= self._forgetful_at
                if forgotten or len(self._table) >= MAX_ENTRIES:
                    continue
            left = record.state is MemberState.LEFT
            self._believe(record, "left" if left else f"declared down by {source.name}", now)

    def _merge_table(self, records: Iterable[Member], source: NodeId, now: float) -> None:
        softened = []
        for record in records:
            if record.state is MemberState.DOWN:
                entry = self._table.entry_of(record.node)
                if entry is not None and entry.member.state.is_member:
                    record = replace(record, state=MemberState.SUSPECT)
            softened.append(record)
        self._merge(softened, source, now)

    def _hear_of_myself(self, record: Member) -> None:
        if record.node.incarnation < self._me.node.incarnation:
            return
        if (
            record.node != self._me.node
            or record.state is MemberState.LEFT
            or record.refutation >= MAX_INTEGER
        ):
            self._usurped(record.node)
        elif (record.refutation, record.state) <= (self._me.refutation, self._me.state):
            if record.state is not MemberState.ALIVE:
                self._rumours.repeat(self._me)  # somebody has missed the refutation
        else:
            self._me = replace(self._me, refutation=record.refutation + 1)
            self._rumours.add(self._me)

    def _usurped(self, by: NodeId) -> None:
        self._phase = _Phase.STOPPED
        self._rumours.clear_news()
        self._effects.append(Usurped(by))

    def _believe(self, record: Member, reason: str, now: float) -> None:
        """Hold `record` if it supersedes what is held, with all that follows from it."""
        name = record.node.name
        entry = self._table.find(name)
        old = None if entry is None else entry.member
        if old is not None and not supersedes(record, old):
            return
        self._effects.extend(transition(old, record, reason))
        if entry is None:
            entry = Entry(record, Link.NEVER, now)
            self._table.add(entry)
        elif entry.member.node != record.node:
            self._probes.end(entry.member.node)
            entry.link = Link.NEVER
        entry.member, entry.since = record, now
        was_member = old is not None and old.state.is_member
        if record.state.is_member and not was_member:
            self._ring.add(name)
        elif was_member and not record.state.is_member:
            self._ring.remove(name)
            self._probes.end(record.node)
        if record.state is MemberState.SUSPECT:
            self._verdicts[name] = self._suspicion_ends(now)
        elif not (self._observer and record.state.is_member and entry.link is Link.LOST):
            self._verdicts.pop(name, None)
        if not self._observer:
            self._rumours.add(record)

    # Sending.

    def _send(self, to: NodeId, message: Message) -> None:
        if self._phase is _Phase.RUNNING:  # one that was usurped in mid-message is silent
            self._effects.append(Send(to, message))

    def _piggyback(self, to: NodeId) -> tuple[Member, ...]:
        return self._rumours.piggyback(to, len(self._ring) + 1)

    def _finish(self, source: NodeId | None) -> list[Effect]:
        effects, self._effects = self._effects, []
        effects.extend(self._rumours.spread(self._me.node, source, len(self._ring) + 1))
        return effects

    def _whole_table(self) -> list[tuple[Member, ...]]:
        if self._observer:
            return [()]
        return batches([self._me, *(entry.member for entry in self._table)])

    def _ask_for_sync(self, node: NodeId) -> None:
        *parts, last = self._whole_table()
        for part in parts:
            self._send(node, SyncReply(part))
        self._send(node, SyncRequest(last))

    def _send_table(self, node: NodeId) -> None:
        for part in self._whole_table():
            self._send(node, SyncReply(part))
