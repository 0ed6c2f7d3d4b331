"""Where one direction of a stream begins: the way to its inlet, here or on another node.

    offer, offer_bytes     pay with credit and put on the way, or say that there is none
    wait                   until it is worth offering again
    end                    behind everything offered before, or (drop_queued) instead of it

A `SendingEnd` is what tasks hold; its outlet is there from the beginning, or comes when somebody
claims the other end.  All clones of a channel's end share one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import trio

from steinadler.errors import MessageTooLarge, RemoteError
from steinadler.identity import NodeId
from steinadler.process.mailbox import LocalWindow
from steinadler.process.process import describe
from steinadler.stream.inlet import Inlet
from steinadler.transport.link import Link, LinkState
from steinadler.wire import plain
from steinadler.wire.channels import OutboundChannel, ToStream
from steinadler.wire.frames import MAX_PAYLOAD_BYTES, FrameType
from steinadler.wire.signals import Failure, failure_array, failure_of

# On the way within a node, a piece of a byte stream is at most so large, as on the wire.
_PIECE_BYTES = MAX_PAYLOAD_BYTES


class Outlet(Protocol):
    """The way to an inlet."""

    def offer(self, body: bytes) -> bool: ...
    def offer_bytes(self, data: memoryview) -> int: ...
    @property
    def has_credit(self) -> bool: ...
    async def wait(self) -> None: ...
    def pass_on(self) -> None: ...
    def wake_all(self) -> None: ...
    def end(self, failure: Failure | None, *, drop_queued: bool) -> None: ...


class LocalOutlet:
    """The way to an inlet of this node."""

    __slots__ = ("_inlet", "_window")

    def __init__(self, inlet: Inlet, window_bytes: int) -> None:
        self._inlet = inlet
        self._window = LocalWindow(window_bytes)

    def offer(self, body: bytes) -> bool:
        if not self._window.take_credit(len(body)):
            return False
        self._inlet.put(self._window, [body])
        return True

    def offer_bytes(self, data: memoryview) -> int:
        taken, size = 0, len(data)
        while taken < size and self._window.take_credit(min(size - taken, _PIECE_BYTES)):
            self._inlet.put(self._window, [bytes(data[taken : taken + _PIECE_BYTES])])
            taken += _PIECE_BYTES
        return min(taken, size)

    @property
    def has_credit(self) -> bool:
        return self._window.credit > 0

    async def wait(self) -> None:
        await self._window.wait_for_credit()

    def pass_on(self) -> None:
        self._window.pass_on()

    def wake_all(self) -> None:
        self._window.wake_all()

    def end(self, failure: Failure | None, *, drop_queued: bool) -> None:
        self._inlet.finish(RemoteError(*failure) if failure is not None else None)


class PeerOutlet:
    """The way to an inlet of another node: a channel of the session with it."""

    __slots__ = ("_channel", "_link", "_target")

    def __init__(self, link: Link, target: ToStream) -> None:
        self._link = link
        self._target = target
        self._channel: OutboundChannel | None = None  # until something is sent

    def offer(self, body: bytes) -> bool:
        session = self._link.session
        if len(body) > session.max_message_bytes:
            raise MessageTooLarge(len(body), session.max_message_bytes)
        channel = self._open_channel()
        if not channel.take_credit(len(body)):
            return False
        session.enqueue(channel, FrameType.MESSAGES, body)
        self._flush()
        return True

    def offer_bytes(self, data: memoryview) -> int:
        taken = self._link.session.enqueue_bytes(self._open_channel(), data)
        if taken:
            self._flush()
        return taken

    @property
    def has_credit(self) -> bool:
        return self._open_channel().credit > 0

    async def wait(self) -> None:
        await self._link.wait_for_credit(self._target)

    def pass_on(self) -> None:
        if self._open_channel().credit > 0:
            self._link.wake_for_credit(self._target)

    def wake_all(self) -> None:
        self._link.wake_all_for_credit(self._target)

    def end(self, failure: Failure | None, *, drop_queued: bool) -> None:
        unused = drop_queued and self._channel is None
        if not unused and self._link.state is not LinkState.ENDED:
            reason = b"" if failure is None else plain.dumps(failure_array(failure))
            self._link.session.end_stream(self._target, reason, drop_queued=drop_queued)
            self._flush()

    def _open_channel(self) -> OutboundChannel:
        # The session may close one on which nothing was sent, before its first connection.
        if self._channel is None or self._channel.closed:
            # When the peer allows no more channels this one waits for a place, without credit.
            self._channel = self._link.session.channel_in_turn(self._target)
        return self._channel

    def _flush(self) -> None:
        if self._link.wants_flush:
            self._link.flush()


class SendingEnd:
    """The sending end of one direction of a stream.

    `peer` is the node that receives, `target` what this node calls the end there.  Without an
    outlet everybody waits for one.  `on_gone` is told once, when nothing more can be sent.
    """

    __slots__ = (
        "_failure",
        "_lot",
        "_on_gone",
        "_outlet",
        "ended",
        "error",
        "peer",
        "sent_bytes",
        "service",
        "target",
    )

    def __init__(
        self,
        peer: NodeId,
        target: ToStream,
        on_gone: Callable[[SendingEnd], None],
    ) -> None:
        self.peer = peer
        self.target = target
        self.ended = False  # by this end
        self.error: Exception | None = None  # why nothing more can be sent, unless it was ended
        self.service: str | None = None  # of a byte stream, for its statistics
        self.sent_bytes = 0
        self._outlet: Outlet | None = None
        self._failure: Failure | None = None  # that it was ended with
        self._on_gone = on_gone
        self._lot: trio.lowlevel.ParkingLot | None = None  # those who wait for an outlet

    def bind(self, outlet: Outlet) -> None:
        """This is the way to the other end."""
        self._outlet = outlet
        if self.ended:
            outlet.end(self._failure, drop_queued=False)
        self.wake()

    def unbind(self) -> None:
        """The other end is to be claimed: wait for it."""
        self._outlet = None

    @property
    def open(self) -> bool:
        """Whether something can still be sent."""
        return not self.ended and self.error is None

    def offer(self, body: bytes) -> bool:
        """Send an encoded object, or say that there is no credit for it."""
        self.require_open()
        if self._outlet is None or not self._outlet.offer(body):
            return False
        self.sent_bytes += len(body)
        return True

    def offer_bytes(self, data: memoryview) -> int:
        """Send as much as there is credit for; return how many bytes that is."""
        self.require_open()
        taken = 0 if self._outlet is None else self._outlet.offer_bytes(data)
        self.sent_bytes += taken
        return taken

    @property
    def has_credit(self) -> bool:
        self.require_open()
        return self._outlet is not None and self._outlet.has_credit

    async def wait(self) -> None:
        """Wait until it is worth trying again.  Cancellation sends nothing."""
        if self._outlet is not None:
            await self._outlet.wait()
            return
        if self._lot is None:
            self._lot = trio.lowlevel.ParkingLot()
        await self._lot.park()

    def pass_on(self) -> None:
        """Somebody who waited got credit; when some is left, the next one may have it."""
        if self.open and self._outlet is not None:
            self._outlet.pass_on()

    def end(self, error: BaseException | None = None) -> None:
        """Send no more: that was all, or `error` is why not.  Only the first counts."""
        if self.open:
            self.ended = True
            self._failure = failure_from(error)
            if self._outlet is not None:
                self._outlet.end(self._failure, drop_queued=False)
            self.wake()
            self._on_gone(self)

    def break_off(self, error: Exception) -> None:
        """Nobody receives any more: whoever sends, now or later, is told `error`."""
        if self.open:
            self.error = error
            if self._outlet is not None:
                self._outlet.end(None, drop_queued=True)
            self.wake()
            self._on_gone(self)

    def lose(self, error: Exception) -> None:
        """There is no way to the other end any more: its node is down, or nobody claimed it."""
        if self.open:
            self.error = error
            self.wake()
            self._on_gone(self)
        self._outlet = None

    def require_open(self) -> None:
        """Raise what a task is to see that sends on what is closed or broken."""
        if self.error is not None:
            raise self.error.with_traceback(None)
        if self.ended:
            raise trio.ClosedResourceError("this end was closed here")

    def wake(self) -> None:
        """Let whoever waits look again."""
        if self._outlet is not None:
            self._outlet.wake_all()
        if self._lot is not None:
            self._lot.unpark_all()


def failure_from(error: BaseException | None) -> Failure | None:
    """An error as the other end hears of it."""
    if error is None:
        return None
    name, _, text = describe(error).partition(": ")
    return failure_of(failure_array((name, text)))  # cut, as it travels, within a node too
