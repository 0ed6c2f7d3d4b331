"""A batch in the making: the numbered frames of one write.

Parts are joined once, when the batch is whole; until then a large item is only looked at, through
memoryviews.  Joining frame by frame would copy every byte of it twice.
"""

from __future__ import annotations

from steinadler.wire.frames import HEADER, HEADER_BYTES, FrameType


class Batch:
    """Frames, numbered on from `last_sequence`."""

    __slots__ = ("_parts", "bulk_bytes", "last_sequence", "size")

    def __init__(self, last_sequence: int) -> None:
        self._parts: list[bytes | memoryview] = []
        self.last_sequence = last_sequence
        self.size = 0
        self.bulk_bytes = 0  # of the size: fragments, and pieces of byte streams

    def add(
        self, type_: FrameType, channel: int, payload: bytes | memoryview = b"", flags: int = 0
    ) -> None:
        """Add the next frame.  `payload` must be within MAX_PAYLOAD_BYTES."""
        self.last_sequence += 1
        size = len(payload)
        self._parts.append(HEADER.pack(size, type_, flags, channel, self.last_sequence))
        self._parts.append(payload)
        self.size += HEADER_BYTES + size

    def add_bulk(
        self, type_: FrameType, channel: int, payload: bytes | memoryview, flags: int = 0
    ) -> None:
        """As `add`, for what small items must not wait for."""
        self.add(type_, channel, payload, flags)
        self.bulk_bytes += HEADER_BYTES + len(payload)

    def data(self) -> bytes:
        """All of it, to be written; empty when nothing was added."""
        return b"".join(self._parts)
