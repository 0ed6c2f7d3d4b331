"""What was sent and the peer is not known to have: kept whole, in case the connection breaks.

Kept are batches as they were written, not items: sending again is then a matter of writing the
same bytes, and forgetting costs one step per write instead of one per message.  The price is
that a resumption has to cut the oldest batch where the peer stopped reading it, so that no frame
is sent twice (M2), and that whoever wants to know how many items are in there has to count.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from steinadler.errors import RemoteProtocolError
from steinadler.wire.frames import (
    FLAG_FIRST,
    HEADER,
    HEADER_BYTES,
    ITEM_TYPES,
    FrameType,
    unpack_items,
)


@dataclass(frozen=True, slots=True)
class _Batch:
    """Numbered frames, as they were written; `last_sequence` is the last one's number, and
    `bulk_bytes` of them are fragments."""

    last_sequence: int
    data: bytes
    bulk_bytes: int


class Unacknowledged:
    """The batches that the peer does not have whole, oldest first.

    `size_bytes` is how large they are together, and `bulk_bytes` how much of it is fragments;
    `replay` holds what of them has yet to be written to the present connection.  All are read for
    every write, so they are no properties.
    """

    __slots__ = ("_batches", "bulk_bytes", "replay", "size_bytes")

    def __init__(self) -> None:
        self._batches: deque[_Batch] = deque()
        self.replay: deque[bytes] = deque()
        self.size_bytes = 0
        self.bulk_bytes = 0

    def keep(self, last_sequence: int, data: bytes, bulk_bytes: int) -> None:
        """Remember a batch that is being written."""
        self._batches.append(_Batch(last_sequence, data, bulk_bytes))
        self.size_bytes += len(data)
        self.bulk_bytes += bulk_bytes

    def acknowledged(self, sequence: int) -> None:
        """The peer has everything up to that number: forget the batches that it has whole."""
        batches = self._batches
        while batches and batches[0].last_sequence <= sequence:
            batch = batches.popleft()
            self.size_bytes -= len(batch.data)
            self.bulk_bytes -= batch.bulk_bytes

    def resume(self, peer_last_received: int, last_sent: int) -> None:
        """Put into `replay` what the peer does not have.

        Raises `RemoteProtocolError` when the peer cannot have that: it claims frames that were
        never sent, or has forgotten some that it acknowledged.
        """
        oldest = (self._first_kept() if self._batches else last_sent + 1) - 1
        if not oldest <= peer_last_received <= last_sent:
            raise RemoteProtocolError(
                f"the peer has frame {peer_last_received} of this session, "
                f"which can only be {oldest} to {last_sent}"
            )
        self.acknowledged(peer_last_received)
        if self._batches and self._first_kept() <= peer_last_received:
            batch = self._batches.popleft()
            data = _frames_after(batch.data, peer_last_received)
            self.size_bytes -= len(batch.data) - len(data)
            self._batches.appendleft(_Batch(batch.last_sequence, data, batch.bulk_bytes))
        self.replay = deque(batch.data for batch in self._batches)

    def count_items(self) -> int:
        """How many items are in there, a fragmented one counted with its first fragment."""
        return sum(_count_items(batch.data) for batch in self._batches)

    def _first_kept(self) -> int:
        return int(HEADER.unpack_from(self._batches[0].data)[4])


def _count_items(data: bytes) -> int:
    count = position = 0
    while position < len(data):
        length, type_, flags, _, _ = HEADER.unpack_from(data, position)
        position += HEADER_BYTES
        if type_ in ITEM_TYPES:
            count += len(unpack_items(data[position : position + length]))
        elif type_ == FrameType.FRAGMENT and flags & FLAG_FIRST:
            count += 1
        position += length
    return count


def _frames_after(data: bytes, sequence: int) -> bytes:
    position = 0
    while position < len(data):
        length, _, _, _, number = HEADER.unpack_from(data, position)
        if number > sequence:
            break
        position += HEADER_BYTES + length
    return data[position:]
