"""What is still to be passed on, and how much of it fits a message.

An update rides on whatever is sent anyway (SWIM section 4.1) until it has been in enough
messages; updates that were sent least go first, so that news overtakes what most have heard.
There is one update per name: a newer record about a member replaces the older one, whose
spreading would be wasted.  Sending the whole table each time was refused: it grows with the
cluster, while news does not.

The second half splits a table into messages that fit a frame.  Merging is a join, so a table
may arrive in any number of parts, in any order.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from steinadler.membership.members import Member

# What a probe may carry: with its own fields, and TLS around it, still one Ethernet packet.
PIGGYBACK_BYTES = 1024
# What other messages aim for: half a frame, so that the last record cannot overflow it.
BATCH_BYTES = 8192


@dataclass(frozen=True, slots=True)
class _Pending:
    record: Member
    size: int


class GossipQueue:
    """Updates to pass on, least-sent first."""

    def __init__(self) -> None:
        # _levels[n] holds what was sent n times, oldest first; _level says where a name is.
        self._levels: list[dict[str, _Pending]] = []
        self._level: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._level)

    def put(self, record: Member, *, sent: int = 0) -> None:
        """Pass `record` on, in the place of any older update about that name.

        `sent` is in how many messages it went out already.
        """
        self.discard(record.node.name)
        self._place(_Pending(record, record.size_bound()), sent)

    def discard(self, name: str) -> None:
        """Pass nothing on about `name` any more."""
        level = self._level.pop(name, None)
        if level is not None:
            del self._levels[level][name]

    def take(self, limit: int, size: int = PIGGYBACK_BYTES) -> tuple[Member, ...]:
        """Up to `size` bytes of updates, which count as sent once more.

        An update that has been in `limit` messages is dropped.  The first one is returned
        however large it is, or it would never leave.
        """
        if not self._level:
            return ()
        taken: list[tuple[int, _Pending]] = []
        for level, pending in self._least_sent_first():
            if taken and pending.size > size:
                break
            size -= pending.size
            taken.append((level, pending))
        for level, pending in taken:
            name = pending.record.node.name
            del self._levels[level][name]
            del self._level[name]
            if level + 1 < limit:
                self._place(pending, level + 1)
        return tuple(pending.record for _, pending in taken)

    def _least_sent_first(self) -> Iterator[tuple[int, _Pending]]:
        for level, pendings in enumerate(self._levels):
            for pending in pendings.values():
                yield level, pending

    def _place(self, pending: _Pending, level: int) -> None:
        while len(self._levels) <= level:
            self._levels.append({})
        name = pending.record.node.name
        self._levels[level][name] = pending
        self._level[name] = level


def batches(records: Iterable[Member], size: int = BATCH_BYTES) -> list[tuple[Member, ...]]:
    """The records in order, in runs of up to `size` bytes (or of one record): at least one run."""
    result: list[tuple[Member, ...]] = []
    run: list[Member] = []
    room = size
    for record in records:
        cost = record.size_bound()
        if run and cost > room:
            result.append(tuple(run))
            run, room = [], size
        run.append(record)
        room -= cost
    result.append(tuple(run))
    return result
