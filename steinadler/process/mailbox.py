"""Mailboxes: what waits for a process, and who has to wait because of it.

A mailbox is bounded by windows, not by a count: each peer node has a window of its own for each
process (the wire's channel), and the processes of this node share one.  Whoever's window is used
up waits; nobody else does (M6).  Credit goes back when the process takes an item, not when it
arrives.

Items are kept encoded and decoded when they are taken: that is the receiver's own copy (M5), the
cost falls on the receiver's task, and what waits takes no more memory than it was charged for.
"""

from __future__ import annotations

from collections import deque

import trio

from steinadler.process.messages import Call, Down, Exit, Source
from steinadler.wire.channels import ITEM_OVERHEAD_BYTES

# `receive` is a Trio checkpoint at least this often; each time would cost more than the message.
CHECKPOINT_EVERY = 64


# What a call costs beside its request: its id.
CALL_HEAD_BYTES = 8


class Run:
    """Encoded messages from one source that follow each other: as they came, in one frame.

    There is one at least.  Whoever puts a run into a mailbox has given its list away.
    """

    __slots__ = ("bodies", "source")

    def __init__(self, source: Source, bodies: list[bytes]) -> None:
        self.source = source
        self.bodies = bodies


# What `take` returns; bytes are an encoded message.
Item = bytes | Call | Down | Exit


class Mailbox:
    """The items of one process, in the order they arrived.

    One task at a time receives.  The queue is made when there is something to queue: most
    mailboxes of most programs are empty most of the time.
    """

    __slots__ = (
        "_items",
        "_receiver",
        "_rest",
        "_run_bytes",
        "_run_items",
        "_source",
        "_taken",
        "_until_checkpoint",
        "closed",
        "exit_bytes",
        "local",
    )

    def __init__(self, window_bytes: int) -> None:
        self.closed = False
        self.exit_bytes = 0  # of the items: nobody pays for exits, so somebody has to count them
        self.local = LocalWindow(window_bytes)
        self._items: deque[Run | Call | Down | Exit] | None = None
        self._rest: list[bytes] | None = None  # of the run that is being taken, the next one last
        self._source: Source = self.local  # that run's
        self._run_items = self._run_bytes = 0
        self._receiver: trio.lowlevel.Task | None = None
        self._until_checkpoint = CHECKPOINT_EVERY
        self._taken = 0  # before `_until_checkpoint`, which counts them down, was last set

    def put(self, item: Run | Call | Down | Exit) -> None:
        """Add an item; whoever calls has seen to its credit and that the mailbox is open."""
        if self._items is None:
            self._items = deque()
        self._items.append(item)
        if self._receiver is not None:
            trio.lowlevel.reschedule(self._receiver)
            self._receiver = None

    def put_exit(self, item: Exit) -> None:
        """As `put`, and count its bytes."""
        self.exit_bytes += len(item.reason) + ITEM_OVERHEAD_BYTES
        self.put(item)

    async def wait(self) -> None:
        """Wait until there is something, or let others run when that is due: after it, `take` has
        an item.  Always a checkpoint.

        Raises `trio.BusyResourceError` when another task waits already.
        """
        self._taken = self.taken
        self._until_checkpoint = CHECKPOINT_EVERY
        if self._items or self._rest:
            await trio.lowlevel.checkpoint()
        while not (self._items or self._rest):
            if self._receiver is not None:
                raise trio.BusyResourceError("another task of this process is receiving already")
            self._receiver = trio.lowlevel.current_task()
            await trio.lowlevel.wait_task_rescheduled(self._abort)

    def _abort(self, _: object) -> trio.lowlevel.Abort:
        self._receiver = None
        return trio.lowlevel.Abort.SUCCEEDED

    def take(self) -> Item | None:
        """Take the oldest item, and give its credit back; None when `wait` must come first."""
        if self._until_checkpoint <= 0:
            return None
        rest = self._rest
        if not rest:
            if not self._items:
                return None
            item = self._items.popleft()
            if not isinstance(item, Run):
                self._until_checkpoint -= 1
                if type(item) is Call:
                    item.source.consumed(len(item.body) + CALL_HEAD_BYTES, 1)
                elif type(item) is Exit:
                    self.exit_bytes -= len(item.reason) + ITEM_OVERHEAD_BYTES
                return item
            rest = self._rest = item.bodies
            rest.reverse()
            self._source = item.source
            self._run_items, self._run_bytes = len(rest), sum(map(len, rest))
        self._until_checkpoint -= 1
        body = rest.pop()
        if not rest:
            # For all of the run at once: a frame's worth of credit is not worth more steps.
            self._source.consumed(self._run_bytes, self._run_items)
        return body

    @property
    def taken(self) -> int:
        """How many items were taken so far."""
        return self._taken + CHECKPOINT_EVERY - self._until_checkpoint

    def waiting(self) -> tuple[int, int]:
        """How many items wait, and how many bytes they hold.  Counted at each call."""
        rest = self._rest or ()
        items, body_bytes = len(rest), sum(map(len, rest))
        for item in self._items or ():
            if isinstance(item, Run):
                items += len(item.bodies)
                body_bytes += sum(map(len, item.bodies))
            else:
                items += 1
                body_bytes += len(item.body) if isinstance(item, Call) else 0
        return items, body_bytes

    def close(self) -> int:
        """The process ended: give all credit back, and return how many items nobody took."""
        self.closed = True
        dropped = 0
        while self._items or self._rest:
            self._until_checkpoint += 1  # it does not count as taken
            self.take()
            dropped += 1
        self.local.wake_all()
        return dropped


class LocalWindow:
    """The window that this node's own senders to one process share."""

    __slots__ = ("_credit", "_waiting")

    def __init__(self, window_bytes: int) -> None:
        self._credit = window_bytes
        self._waiting: trio.lowlevel.ParkingLot | None = None

    def take_credit(self, body_bytes: int) -> bool:
        """Pay for an item, or say that there is no credit left to start it with."""
        if self._credit <= 0:
            return False
        self._credit -= body_bytes + ITEM_OVERHEAD_BYTES
        return True

    @property
    def credit(self) -> int:
        """The bytes that may still be sent; senders wait when it is not above zero."""
        return self._credit

    @property
    def waiting(self) -> int:
        """How many senders wait."""
        return len(self._waiting) if self._waiting is not None else 0

    async def wait_for_credit(self) -> None:
        """Wait until there may be credit, or the mailbox has closed.

        Waiters are woken one at a time, in order; one that finds credit to spare wakes the next.
        """
        if self._waiting is None:
            self._waiting = trio.lowlevel.ParkingLot()
        await self._waiting.park()

    def consumed(self, body_bytes: int, items: int) -> None:
        self._credit += body_bytes + items * ITEM_OVERHEAD_BYTES
        self.pass_on()

    def pass_on(self) -> None:
        """When credit is left, let whoever waits longest try."""
        if self._waiting is not None and self._credit > 0:
            self._waiting.unpark()

    def wake_all(self) -> None:
        """The mailbox closed: nobody needs to wait any longer."""
        if self._waiting is not None:
            self._waiting.unpark_all()
