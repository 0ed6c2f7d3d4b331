"""Belief: which records are taken in, and what follows from holding one.

One record per name is held, the greatest by the total order of `members`.  What comes in by
gossip is believed as it is, but for what is said below, and for one that gives a node another role
than the certificate that this node has seen of it (`vouched`).  A DOWN in a table is only a
suspicion of one who is a member here, as in memberlist: the table may be older than the member's
return, and a healed partition would otherwise bury both sides before it revives them.

**About one who is at hand** nobody else's word ends it.  Whoever is connected to this node, and was
heard from lately, can speak for itself: of a DOWN, or of a later life, it becomes a suspect, who
is told and refutes; a LEFT is passed on to it and not believed.  So one member that lies about
another (X4) ends no session and fires no monitor of those that are connected to it.  Where the
silence is known here too, the verdict of others is taken as before (S1), and a later life is let in
when it connects, because a suspect does not stand in its way (`Swim.admit`).

**About this node** nobody else's word counts.  It overrules an accusation by a record with a
higher refutation, which only it can make.  That a later life has its name it cannot overrule.  It
dials that life, and whoever shows this node's own name in a certificate settles it; and if more
than half of the members that it is connected to say so, it takes it for the cluster's last word: it
is usurped.  Believing the first who says so was refused: any member could stop any other.

**Refutation numbers** grow by one with each word of a node about itself.  Somebody else's word that
is far above what is held is a lie, and passed over: whoever refuted it would have no number for
its next word, and nobody would listen to that (X4).

**News** is what changes a belief here, and is passed on; but not what the first peer of a newcomer
holds: all others have long heard of it, and would be told of each member once more.

**Memory.**  A record DOWN or LEFT is forgotten in time.  An engine older than that takes no such
record about a name it does not know, because it may be one that it has forgotten: nodes would
remind each other for ever.  Nor does a table grow for ever (X4).

**Barred names** have no records.  Nobody says who was barred by membership's own means: each node
learns it for itself, by what cannot be forged, and what one that has not learned it yet says of
such a name is passed over.  To declare them LEFT for all was refused: any member could then put out
any other, and for good.

An observer's name is nobody's, so records about it are about somebody else; and it passes
nothing on.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import replace

from steinadler.identity import NodeId
from steinadler.membership.detection import Detector
from steinadler.membership.events import Reach, Usurped
from steinadler.membership.members import Member, MemberState, join
from steinadler.membership.messages import Gossip
from steinadler.membership.neighbours import Neighbours
from steinadler.membership.outbox import Outbox, Phase
from steinadler.membership.rumours import Rumours
from steinadler.membership.table import MAX_ENTRIES, Entry, Link, Table, transition

# How far somebody else's word of a member may be ahead of what is held here: no node refutes, and
# is given labels, so often while two others do not hear of it.
MAX_REFUTATIONS_AHEAD = 2**24


class Beliefs:
    """What one node's engine holds to be so, of itself (`me`) and of the others (the table)."""

    def __init__(
        self,
        me: Member,
        table: Table,
        neighbours: Neighbours,
        rumours: Rumours,
        detector: Detector,
        outbox: Outbox,
        vouched: Callable[[Member], bool],
        *,
        observer: bool,
    ) -> None:
        self.me = me
        # From when on a name that is not in the table may be one that was forgotten.
        self.forgetful_at = math.inf
        # Who was the only one known when it was met; until tables are next compared.
        self.introducer: NodeId | None = None
        self._barred: frozenset[str] = frozenset()
        # Members, connected, that hold the name of this node for a later life.
        self._namesake_told_by: set[str] = set()
        self._table = table
        self._neighbours = neighbours
        self._rumours = rumours
        self._detector = detector
        self._outbox = outbox
        self._vouched = vouched
        self._observer = observer

    def is_me(self, name: str) -> bool:
        """Whether that is this node's name in the cluster."""
        return name == self.me.node.name and not self._observer

    def merge(
        self, records: Iterable[Member], source: NodeId, now: float, *, news: bool = True
    ) -> None:
        """Take in what `source` passed on, as news or as what it holds."""
        for record in records:
            name = record.node.name
            if self.is_me(name):
                self._hear_of_myself(record, source)
                if self._outbox.phase is Phase.STOPPED:
                    return
                continue
            if not self._vouched(record):
                continue
            entry = self._table.find(name)
            held = None if entry is None else entry.member
            if source.name != name and _is_far_ahead(record, held):
                continue
            if entry is None:
                forgotten = not record.state.is_member and now >= self.forgetful_at
                if forgotten or len(self._table) >= MAX_ENTRIES:
                    continue
            elif entry.said_goodbye and record.node == entry.member.node:
                continue
            elif source.name != name and self._speaks_for_itself(entry, now):
                softened = self._soften(record, entry)
                if softened is None:
                    continue
                record = softened
            left = record.state is MemberState.LEFT
            reason = "left" if left else f"declared down by {source.name}"
            self.believe(record, reason, now, news=news)
            if held is not None and source.name != name:
                self._hear_of_a_refutation(held, now)

    def _hear_of_a_refutation(self, held: Member, now: float) -> None:
        """From another than the suspect: if this node accused it, it hears less of it than they."""
        entry = self._table.entry_of(held.node)
        accused = held.state is MemberState.SUSPECT and self.me.node.name in held.accusers
        if accused and entry is not None and entry.member.state is MemberState.ALIVE:
            self._detector.went_around(entry, now)

    def _speaks_for_itself(self, entry: Entry, now: float) -> bool:
        """Whether that member is at hand, and its silence not known here."""
        return (
            entry.link is Link.CONNECTED
            and entry.member.state.is_member
            and not self._detector.is_silent(entry.member.node.name, now)
        )

    def _soften(self, record: Member, entry: Entry) -> Member | None:
        """What is believed of somebody else's word about one who is at hand; None: nothing."""
        held = entry.member
        if record.node.incarnation > held.node.incarnation:
            return held.in_state(MemberState.SUSPECT, *held.accusers)
        if record.node != held.node or record.state.is_member or join(held, record) == held:
            return record
        if record.state is MemberState.LEFT:
            self._outbox.send(held.node, Gossip((record,)))
            return None
        return record.in_state(MemberState.SUSPECT)

    def merge_table(self, records: Iterable[Member], source: NodeId, now: float) -> None:
        """Take in what `source` holds, some of which may be old."""
        softened = []
        for record in records:
            if record.state is MemberState.DOWN:
                entry = self._table.entry_of(record.node)
                if entry is not None and entry.member.state.is_member:
                    record = record.in_state(MemberState.SUSPECT)
            softened.append(record)
        self.merge(softened, source, now, news=source != self.introducer)

    def believe_state(self, entry: Entry, state: MemberState, reason: str, now: float) -> None:
        """Hold that a node is now in `state`, unless what is held wins over that."""
        self.believe(entry.member.in_state(state), reason, now)

    def accuse(self, entry: Entry, now: float) -> None:
        """Hold that a member is suspect, because this node itself had no sign of life of it."""
        accused = entry.member.in_state(MemberState.SUSPECT, self.me.node.name)
        self.believe(accused, "", now)
        if entry.member.state is MemberState.SUSPECT and not self._observer:
            self._rumours.repeat(entry.member)  # nobody may have heard it said before

    def believe(self, record: Member, reason: str, now: float, *, news: bool = True) -> None:
        """Join `record` with what is held, with all that follows if that changes."""
        name = record.node.name
        if name in self._barred:
            return
        entry = self._table.find(name)
        old = None if entry is None else entry.member
        if old is not None:
            record = join(old, record)
            if record == old:
                return
        self._outbox.add(transition(old, record, reason))
        self._table.hold(record, now)
        if old is not None and (old.node != record.node or not record.state.is_member):
            self._neighbours.drop(name)
            self._detector.former_life(old.node)
        if record.state is not MemberState.SUSPECT:
            self._detector.suspicions.clear(name)
        elif old is None or replace(record, accusers=old.accusers) != old:
            self._detector.suspicions.start(name, now)
        else:
            self._detector.suspicions.reckon(name)  # one more accuser shortens it
        if news and not self._observer:
            self._rumours.add(record)

    def is_barred(self, name: str) -> bool:
        """Whether nobody of that name may be a member."""
        return name in self._barred

    def bar(self, names: frozenset[str], now: float) -> None:
        """Hold nothing about these names from now on: whoever has one of them is down."""
        for name in sorted(names - self._barred):
            entry = self._table.find(name)
            if entry is not None:
                down = entry.member.in_state(MemberState.DOWN)
                self.believe(down, "revoked", now, news=False)
                self._table.drop(name)
                self._rumours.forget(name)
        self._barred = names

    def relabel(self, labels: tuple[tuple[str, str], ...]) -> None:
        """This node has these labels from now on; an observer's are told to nobody.

        Its own later word needs a higher refutation, or the older record might win.
        """
        if labels == self.me.labels:
            return
        self.me = replace(self.me, labels=labels, refutation=self.me.refutation + 1)
        if not self._observer:
            self._rumours.add(self.me)

    def leave(self) -> None:
        """This node is no longer a member."""
        self.me = replace(self.me, state=MemberState.LEFT)

    def usurped(self, by: NodeId) -> None:
        """The name belongs to another life: stop, and say only that."""
        self._outbox.phase = Phase.STOPPED
        self._rumours.clear_news()
        self._outbox.add([Usurped(by)])

    def _hear_of_myself(self, record: Member, source: NodeId) -> None:
        if record.node.incarnation < self.me.node.incarnation:
            return
        if record.node != self.me.node:
            self._hear_of_a_namesake(record, source)
        elif (record.refutation, record.state) <= (self.me.refutation, self.me.state):
            if record.state is not MemberState.ALIVE:
                self._rumours.repeat(self.me)  # somebody has missed the refutation
        elif not _is_far_ahead(record, self.me):
            self._detector.health.accused()
            self.me = replace(self.me, refutation=record.refutation + 1)
            self._rumours.add(self.me)

    def _hear_of_a_namesake(self, record: Member, source: NodeId) -> None:
        connected = {node.name for node in self._table.connected_members()}
        self._namesake_told_by = {*self._namesake_told_by, source.name} & connected
        if 2 * len(self._namesake_told_by) > len(connected):
            self.usurped(record.node)
        elif record.state.is_member:
            self._outbox.add([Reach(record)])


def _is_far_ahead(record: Member, held: Member | None) -> bool:
    """Whether that cannot have been said by the node itself, going by what is held of that life."""
    known = held.refutation if held is not None and held.node == record.node else 0
    return record.refutation > known + MAX_REFUTATIONS_AHEAD
