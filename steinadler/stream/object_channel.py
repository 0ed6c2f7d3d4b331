"""Channels of objects: Trio's memory channels, whose ends may be on two nodes.

    send, receive = node.open_channel()
    await node.send("printer@bob", receive.ref())      here
    receive = await me.node.claim(ref)                 there, in the process that got the message
    await send.send(page)

What may be sent is what a message may hold, and the receiver gets its own copy, also within a node
(M5).  `send` waits while the receiver has a window's worth that it has not taken; before anybody
claimed the other end it waits for that.  An end given away with `ref` is of no more use here.  It
is given away from the node where the channel was opened, while the other end is there: a chain of
nodes, each forwarding to the next, would lose M4 (the two ends would not hear of each other's
nodes), and a program that wants a relay can write one in three lines.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar

import trio

from steinadler.errors import LocalProtocolError
from steinadler.identity import SinkRef, SourceRef
from steinadler.stream.closing import Closing
from steinadler.stream.inlet import Inlet
from steinadler.stream.outlet import SendingEnd
from steinadler.wire.codec import Codec

# `send` and `receive` are Trio checkpoints at least this often; each time would cost more than
# what they do.
CHECKPOINT_EVERY = 64

End = TypeVar("End", SendingEnd, Inlet)


class SharedEnd(Generic[End]):
    """What the clones of one end have in common."""

    __slots__ = ("clones", "codec", "end", "offer", "until_checkpoint")

    def __init__(self, end: End, codec: Codec, offer: Callable[[], int] | None) -> None:
        self.end: End = end
        self.codec = codec
        # Gives the end away, and returns the token to claim it by; None where that cannot be.
        self.offer = offer
        self.clones = 1
        self.until_checkpoint = CHECKPOINT_EVERY

    def give_away(self) -> int:
        if self.offer is None:
            raise LocalProtocolError(
                "this end was claimed: an end is given away where the channel was opened"
            )
        if self.clones != 1:
            raise LocalProtocolError("this end was cloned: close the clones to give it away")
        return self.offer()


class SendChannel(Closing, trio.abc.SendChannel[Any]):
    """The sending end of a channel of objects.

    As an asynchronous context manager it is closed at the end of the block; when the block raises,
    the receiver is told so with a `RemoteError`, of the exception's type name and text.
    """

    def __init__(self, shared: SharedEnd[SendingEnd]) -> None:
        self._shared = shared
        self._closed = False

    async def send(self, value: Any) -> None:
        """Send an object, when the receiver has room for it.  Objects arrive in order and once.

        Cancelled, it has sent nothing.  Raises `NotEncodable`, `MessageTooLarge`,
        `trio.BrokenResourceError` when the receiver closed its end, `ClaimError` when nobody
        claimed it in time, `NodeDown` when its node is down, `trio.ClosedResourceError` when this
        end was closed.  A checkpoint at least at every 64th object.
        """
        self._require_open()
        shared = self._shared
        body = shared.codec.encode(value)
        shared.until_checkpoint -= 1
        if shared.until_checkpoint <= 0:
            shared.until_checkpoint = CHECKPOINT_EVERY
            await trio.lowlevel.checkpoint()
            self._require_open()
        end = shared.end
        sent = end.offer(body)
        while not sent:
            await end.wait()
            try:
                self._require_open()
                sent = end.offer(body)
            finally:  # also when it raises: the wake-up was for the credit, which is still there
                end.pass_on()

    def send_nowait(self, value: Any) -> None:
        """As `send`; raises `trio.WouldBlock` where that would wait."""
        self._require_open()
        if not self._shared.end.offer(self._shared.codec.encode(value)):
            raise trio.WouldBlock

    def clone(self) -> SendChannel:
        """Another sending end; the channel ends when all of them are closed."""
        self._require_open()
        self._shared.clones += 1
        return SendChannel(self._shared)

    def ref(self) -> SinkRef:
        """Give this end away: put the reference into a message, and whoever gets it claims it
        (`Node.claim`), once and within `claim_timeout_s`.  Here it is closed.

        Raises `LocalProtocolError` when it was cloned, or is not this node's to give.
        """
        self._require_open()
        reference = SinkRef(self._shared.end.peer, self._shared.give_away())
        self._closed = True
        return reference

    def close(self, error: BaseException | None = None) -> None:
        """Close this end.  Without an error the channel ends when its last clone is closed; with
        one it ends now, and the receiver sees a `RemoteError`.  What was sent still arrives.
        """
        if self._closed:
            return
        self._closed = True
        shared = self._shared
        shared.clones -= 1
        if error is not None or not shared.clones:
            shared.end.end(error)
        else:
            shared.end.wake()

    def _require_open(self) -> None:
        if self._closed:
            raise trio.ClosedResourceError("this end of the channel was closed here")


class ReceiveChannel(Closing, trio.abc.ReceiveChannel[Any]):
    """The receiving end of a channel of objects; iterate with `async for`.

    As an asynchronous context manager it is closed at the end of the block; when the block raises,
    the sender's `trio.BrokenResourceError` says what.
    """

    def __init__(self, shared: SharedEnd[Inlet]) -> None:
        self._shared = shared
        self._closed = False

    async def receive(self) -> Any:
        """Wait for the next object.  Cancelled, it has taken none.

        Raises `trio.EndOfChannel` when the sender closed its end and everything was taken;
        `RemoteError` when it ended with an error, `NodeDown` when its node is down, and
        `ClaimError` when nobody claimed it in time, each behind what had arrived before;
        `trio.ClosedResourceError` when this end was closed; `RemoteProtocolError` for an object
        that does not decode (a class that is not registered here), which is then lost.  A
        checkpoint at least at every 64th object.
        """
        self._require_open()
        shared = self._shared
        inlet = shared.end
        shared.until_checkpoint -= 1
        if shared.until_checkpoint <= 0:
            shared.until_checkpoint = CHECKPOINT_EVERY
            await trio.lowlevel.checkpoint()
            self._require_open()
        while (body := inlet.take()) is None:
            if inlet.ended:
                await trio.lowlevel.checkpoint()
                raise _end_of(inlet)
            await inlet.wait()
            shared.until_checkpoint = CHECKPOINT_EVERY
            self._require_open()
        return shared.codec.decode(bytes(body))

    def receive_nowait(self) -> Any:
        """As `receive`; raises `trio.WouldBlock` where that would wait."""
        self._require_open()
        inlet = self._shared.end
        body = inlet.take()
        if body is None:
            raise _end_of(inlet) if inlet.ended else trio.WouldBlock
        return self._shared.codec.decode(bytes(body))

    def clone(self) -> ReceiveChannel:
        """Another receiving end; each object goes to one of them."""
        self._require_open()
        self._shared.clones += 1
        return ReceiveChannel(self._shared)

    def ref(self) -> SourceRef:
        """Give this end away: put the reference into a message, and whoever gets it claims it
        (`Node.claim`), once and within `claim_timeout_s`.  Here it is closed.

        Raises `LocalProtocolError` when something was sent already, when it was cloned, or is not
        this node's to give.
        """
        self._require_open()
        reference = SourceRef(self._shared.end.peer, self._shared.give_away())
        self._closed = True
        return reference

    def close(self, error: BaseException | None = None) -> None:
        """Close this end.  When its last clone is closed, or with an error at once, nobody
        receives any more: what was not taken is dropped, and the sender is told.
        """
        if self._closed:
            return
        self._closed = True
        shared = self._shared
        shared.clones -= 1
        if error is not None or not shared.clones:
            shared.end.close(error)
        else:
            shared.end.wake()

    def _require_open(self) -> None:
        if self._closed or self._shared.end.closed:
            raise trio.ClosedResourceError("this end of the channel was closed here")


def _end_of(inlet: Inlet) -> Exception:
    return trio.EndOfChannel() if inlet.error is None else inlet.error.with_traceback(None)
