"""What this node believes of each other node, and which events a change of belief is.

There is one entry per name.  It holds the record that has won so far (`members.join`) and
what has become of our own connection to that life of the node.  What is computed from all records
is kept up with each of them: the overlay of the members, the digest of the table, and where
members are.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum

from steinadler.identity import Address, NodeId
from steinadler.membership.digest import Digest
from steinadler.membership.events import Cleared, Down, Effect, Suspected, Up, Updated
from steinadler.membership.members import Member, MemberState
from steinadler.membership.overlay import Overlay

# Beyond this, names heard of are not taken in: a peer must not make the table grow for ever (X4).
MAX_ENTRIES = 16_384


class Link(Enum):
    """Our own connection to the life that an entry is about."""

    # None, and none that should be there: heard of and never met, or no neighbour.  A refused dial
    # then says more about addresses than about the node.
    APART = "apart"
    CONNECTED = "connected"
    # A neighbour's, and it broke.
    LOST = "lost"


@dataclass(slots=True)
class Entry:
    """One name.  `since` is when `member` was taken in, by the shell's clock.

    `said_goodbye`: that life told this node itself that it leaves, so nobody brings it back.
    """

    member: Member
    link: Link
    since: float
    said_goodbye: bool = False


class Table:
    """Everybody but this node, by name.  The `overlay` is of all members, this node among them."""

    def __init__(self, overlay: Overlay) -> None:
        self.overlay = overlay
        self.digest = Digest()
        self._entries: dict[str, Entry] = {}
        # How many members say that they are reached there.
        self._addresses: Counter[Address] = Counter()

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[Entry]:
        return iter(self._entries.values())

    def find(self, name: str) -> Entry | None:
        """The entry of that name, whichever life it is about."""
        return self._entries.get(name)

    def entry_of(self, node: NodeId) -> Entry | None:
        """The entry of that name, if it is about that very life (promise D3)."""
        entry = self._entries.get(node.name)
        return entry if entry is not None and entry.member.node == node else None

    def hold(self, record: Member, now: float) -> Entry:
        """Hold `record` about its name, in the place of what was held.

        Another life is apart from this node, and so is one that is no member: `Down` has the shell
        end its connection.
        """
        name = record.node.name
        entry = self._entries.get(name)
        if entry is None:
            entry = self._entries[name] = Entry(record, Link.APART, now)
            self._index(None, record)
            return entry
        self._index(entry.member, record)
        ended = entry.member.state.is_member and not record.state.is_member
        if ended or entry.member.node != record.node:
            entry.link = Link.APART
        entry.said_goodbye &= entry.member.node == record.node
        entry.member, entry.since = record, now
        return entry

    def drop(self, name: str) -> None:
        """Forget the name altogether."""
        self._index(self._entries.pop(name).member, None)

    def is_address_of_member(self, address: Address) -> bool:
        """Whether a member says that it is reached there."""
        return address in self._addresses

    def _index(self, old: Member | None, new: Member | None) -> None:
        before = old if old is not None and old.state.is_member else None
        after = new if new is not None and new.state.is_member else None
        for record in (before, after):
            if record is not None:
                self.digest.toggle(record)
        self._addresses.update(() if after is None else after.addresses)
        self._addresses.subtract(() if before is None else before.addresses)
        for address in () if before is None else before.addresses:
            if not self._addresses[address]:
                del self._addresses[address]
        was = None if before is None else bool(before.addresses)
        listens = None if after is None else bool(after.addresses)
        if was is not listens:
            if before is not None:
                self.overlay.remove(before.node.name)
            if after is not None:
                self.overlay.add(after.node.name, listens=bool(after.addresses))

    def connected(self) -> list[NodeId]:
        """The nodes that a message would reach now, except those that have left."""
        return [
            entry.member.node
            for entry in self._entries.values()
            if entry.link is Link.CONNECTED and entry.member.state is not MemberState.LEFT
        ]

    def connected_members(self) -> list[NodeId]:
        """The nodes that a message would reach now and that count as members."""
        return [
            entry.member.node
            for entry in self._entries.values()
            if entry.link is Link.CONNECTED and entry.member.state.is_member
        ]

    def forget(self, before: float) -> list[str]:
        """Drop, and name, who was down or had left before that time and is not connected."""
        names = [
            name
            for name, entry in self._entries.items()
            if not entry.member.state.is_member
            and entry.since < before
            and entry.link is not Link.CONNECTED
        ]
        for name in names:
            self.drop(name)
        return names


def transition(old: Member | None, new: Member, reason: str) -> list[Effect]:
    """The events that follow when `new` takes the place of `old` (None: of nothing).

    `reason` goes into a `Down` of the same life.

    | from \\ to  | ALIVE             | SUSPECT       | DOWN, LEFT |
    |-------------|-------------------|---------------|------------|
    | (unknown)   | Up                | Up, Suspected | -          |
    | ALIVE       | (Updated)         | Suspected     | Down       |
    | SUSPECT     | Cleared (Updated) | -             | Down       |
    | DOWN, LEFT  | Up                | Up, Suspected | -          |

    Another life is a Down of the old one where that was a member, then the row "(unknown)".
    Updated is for addresses or labels that differ.
    """
    events: list[Effect] = []
    was_member = old is not None and old.state.is_member
    if old is not None and old.node != new.node:
        if was_member:
            events.append(Down(old, "replaced by a new incarnation"))
        was_member = False
    if not new.state.is_member:
        return [*events, Down(new, reason)] if was_member else events
    if old is None or not was_member:
        events.append(Up(new))
        return [*events, Suspected(new)] if new.state is MemberState.SUSPECT else events
    if new.state is not old.state:
        events.append(Suspected(new) if new.state is MemberState.SUSPECT else Cleared(new))
    if (new.addresses, new.labels) != (old.addresses, old.labels):
        events.append(Updated(new))
    return events
