"""What happened in a simulation, and a digest by which two runs are compared.

The digest covers everything from the start; only the latest entries are kept, because a busy
cluster delivers some hundred packets in each second and a test may run for hours of its own time.
"""

from __future__ import annotations

import hashlib
from collections import deque
from typing import NamedTuple

# About 2 MB.
KEPT_ENTRIES = 10_000


class TraceEntry(NamedTuple):
    """At `time`, `event` happened from host `source` to host `target`.

    `event` is a packet's kind as it arrived ("dial", "accept", "data", "end", "reset") with its
    `size` in bytes, or an intervention ("start", "stop", "crash", "pause", "resume", "cut",
    "fault", "healed").
    """

    time: float
    event: str
    source: str
    target: str
    size: int


class Trace:
    """The events of one simulation, in order."""

    def __init__(self) -> None:
        self.count = 0
        self._latest: deque[TraceEntry] = deque(maxlen=KEPT_ENTRIES)
        self._hash = hashlib.blake2b(digest_size=16)

    def record(self, time: float, event: str, source: str, target: str, size: int = 0) -> None:
        """Add an event."""
        entry = TraceEntry(time, event, source, target, size)
        self.count += 1
        self._latest.append(entry)
        self._hash.update(repr(tuple(entry)).encode())

    @property
    def latest(self) -> tuple[TraceEntry, ...]:
        """The last 10,000 events at most, oldest first."""
        return tuple(self._latest)

    def digest(self) -> str:
        """32 hexadecimal digits; the same for two runs in which the same happened."""
        return self._hash.hexdigest()
