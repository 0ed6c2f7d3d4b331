"""Where one direction of a stream arrives: what waits to be taken, and how it ends.

What arrives is kept as it came, in the order it came, and its credit goes back when it is taken:
the sender is held back by its reader and by nothing else.  What came before the end is still
there to be taken after it, whatever the end was.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import trio

from steinadler.identity import NodeId
from steinadler.process.messages import Source
from steinadler.wire.channels import ToStream
from steinadler.wire.frames import FrameType

# Credit goes back when so much was taken, or nothing is left: each piece by itself costs more.
_GIVE_BACK_BYTES = 65_536


class Inlet:
    """The receiving end of one direction of a stream.

    `peer` is the node that sends, `target` what it calls this end, `carries` what arrives (BYTES,
    or MESSAGES for objects).  `on_gone` is told once, when nothing more can be taken: it was closed
    (with that error, if one is given), or it has ended and everything was taken.
    """

    __slots__ = (
        "_arrived",
        "_gone",
        "_lot",
        "_on_gone",
        "_owed_bytes",
        "_owed_items",
        "carries",
        "closed",
        "ended",
        "error",
        "peer",
        "received_bytes",
        "service",
        "source",
        "target",
        "waiting_bytes",
    )

    def __init__(
        self,
        peer: NodeId,
        target: ToStream,
        carries: FrameType,
        on_gone: Callable[[Inlet, BaseException | None], None],
    ) -> None:
        self.peer = peer
        self.target = target
        self.carries = carries
        self.source: Source | None = None  # where credit goes back to
        self.ended = False  # nothing more arrives
        self.closed = False  # nothing more is taken
        self.error: Exception | None = None  # why it ended, unless it was the end of the stream
        self.service: str | None = None  # of a byte stream, for its statistics
        self.received_bytes = 0
        self.waiting_bytes = 0
        self._gone = False
        self._on_gone = on_gone
        self._arrived: deque[bytes | memoryview] | None = None
        self._owed_bytes = self._owed_items = 0
        self._lot: trio.lowlevel.ParkingLot | None = None

    # -- arriving -----------------------------------------------------------------------------

    def put(self, source: Source, bodies: list[bytes]) -> None:
        """What arrived; whoever calls has seen to its credit."""
        size = sum(map(len, bodies))
        self.source = source
        if self.closed:
            source.consumed(size, len(bodies))
            return
        if self._arrived is None:
            self._arrived = deque()
        self._arrived.extend(bodies)
        self.received_bytes += size
        self.waiting_bytes += size
        if self._lot is not None:
            self._lot.unpark(count=len(bodies))

    def finish(self, error: Exception | None) -> None:
        """Nothing more arrives: it was all, or `error` is why not.  Only the first counts."""
        if not self.ended:
            self.ended = True
            self.error = error
            self.wake()
            self._go(None)

    # -- taking -------------------------------------------------------------------------------

    def take(self) -> bytes | memoryview | None:
        """Take the oldest object, encoded; None when none waits."""
        if not self._arrived:
            return None
        body = self._arrived.popleft()
        self._taken(len(body), 1)
        return body

    def take_bytes(self, most: int) -> bytes:
        """Take up to `most` bytes of a byte stream; nothing when none wait."""
        arrived = self._arrived
        if not arrived:
            return b""
        first = arrived.popleft()
        if len(first) > most:
            view = memoryview(first)
            arrived.appendleft(view[most:])
            self._taken(most, 0)
            return bytes(view[:most])
        pieces, size = [first], len(first)
        while arrived and size + len(arrived[0]) <= most:
            piece = arrived.popleft()
            pieces.append(piece)
            size += len(piece)
        self._taken(size, len(pieces))
        return first if len(pieces) == 1 and type(first) is bytes else b"".join(pieces)

    async def wait(self) -> None:
        """Wait until it is worth looking again.  Cancellation takes nothing."""
        if self._lot is None:
            self._lot = trio.lowlevel.ParkingLot()
        await self._lot.park()

    def close(self, error: BaseException | None = None) -> None:
        """Nobody takes anything more: drop what waits, and give its credit back."""
        if self.closed:
            return
        self.closed = True
        self._go(error)
        if self._arrived:
            items, self._arrived = len(self._arrived), None
            self._taken(self.waiting_bytes, items)
        self.wake()

    def _taken(self, size: int, items: int) -> None:
        self.waiting_bytes -= size
        self._owed_bytes += size
        self._owed_items += items
        if not self._arrived:
            self._arrived = None  # of what an idle stream holds, an empty queue is the largest
        if self._arrived is None or self._owed_bytes >= _GIVE_BACK_BYTES:
            assert self.source is not None
            self.source.consumed(self._owed_bytes, self._owed_items)
            self._owed_bytes = self._owed_items = 0
        self._go(None)

    def _go(self, error: BaseException | None) -> None:
        """Tell that nothing more can be taken, once that is so."""
        if not self._gone and (self.closed or (self.ended and not self._arrived)):
            self._gone = True
            self._on_gone(self, error)

    def wake(self) -> None:
        """Let whoever waits look again."""
        if self._lot is not None:
            self._lot.unpark_all()
