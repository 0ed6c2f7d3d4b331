"""Byte streams over the cluster's links, as Trio knows them: sockets without sockets.

    stream = await node.connect("postgres@bob")          a trio.abc.HalfCloseableStream
    listener = node.listen("postgres")                   a trio.abc.Listener

So whatever is written for Trio's streams runs over a cluster unchanged: `trio.serve_listeners`,
`trio.SSLStream`, h11, an HTTP client's network backend.  What is sent is cut into frames of 16 KiB
that take turns with those of other streams, behind every message and call that waits (M6).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import trio

from steinadler.errors import SteinadlerError, StreamRefused
from steinadler.identity import NodeId
from steinadler.stream.closing import Closing
from steinadler.stream.inlet import Inlet
from steinadler.stream.outlet import SendingEnd

# What one `receive_some` returns at most, unless told otherwise.
RECEIVE_BYTES = 65_536


class ByteStream(Closing, trio.abc.HalfCloseableStream):
    """One end of a byte stream between two tasks of the cluster.

    `peer` is the node of the other end (the life of it), `service` what was connected to.  The
    methods are those of `trio.abc.HalfCloseableStream`, and raise what those raise: once the other
    end is closed, its node is down (then `NodeDown` is the cause) or its program broke off,
    `trio.BrokenResourceError`.  An `async with` block that raises, or is cancelled, breaks the
    stream off instead of ending it: what is half sent is not to look whole.
    """

    def __init__(self, sending: SendingEnd, inlet: Inlet, service: str) -> None:
        self.service = service
        self._sending = sending
        self._inlet = inlet
        self._sends = False
        self._receives = False

    def __repr__(self) -> str:
        return f"<ByteStream {self.service!r} with {self.peer}>"

    @property
    def peer(self) -> NodeId:
        """The node of the other end."""
        return self._inlet.peer

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Send; waits while the other end has a window's worth that it has not taken.

        Cancelled, it may have sent a part.
        """
        self._require_open()
        if self._sends:
            raise trio.BusyResourceError("another task is sending on this stream")
        self._sends = True
        try:
            await trio.lowlevel.checkpoint_if_cancelled()
            # What waits to be sent is not copied, so nobody may change it.
            view = memoryview(data if isinstance(data, bytes) else bytes(memoryview(data)))
            self._check_sending()
            waited = False
            while view:
                taken = self._offer(view)
                if not taken:
                    await self._sending.wait()
                    waited = True
                    self._require_open()
                view = view[taken:]
            if not waited:
                await trio.lowlevel.cancel_shielded_checkpoint()
        finally:
            self._sends = False

    async def wait_send_all_might_not_block(self) -> None:
        """Wait until the other end has room for more."""
        self._require_open()
        if self._sends:
            raise trio.BusyResourceError("another task is sending on this stream")
        self._sends = True
        try:
            await trio.lowlevel.checkpoint()
            while not self._has_credit():
                await self._sending.wait()
                self._require_open()
        finally:
            self._sends = False

    async def send_eof(self) -> None:
        """Say that nothing more is sent; what the other end sends can still be received."""
        self._require_open()
        if self._sends:
            raise trio.BusyResourceError("another task is sending on this stream")
        if not self._sending.ended:
            self._check_sending()
            self._sending.end()
        await trio.lowlevel.checkpoint()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Wait for bytes and return them, RECEIVE_BYTES at most; none at the end of the stream.

        Cancelled, it has taken none.
        """
        most = RECEIVE_BYTES if max_bytes is None else max_bytes
        if not isinstance(most, int):
            raise TypeError("max_bytes must be an integer")
        if most < 1:
            raise ValueError("max_bytes must be at least 1")
        self._require_open()
        if self._receives:
            raise trio.BusyResourceError("another task is receiving from this stream")
        self._receives = True
        inlet = self._inlet
        try:
            await trio.lowlevel.checkpoint_if_cancelled()
            waited = False
            while not (data := inlet.take_bytes(most)) and not inlet.ended:
                await inlet.wait()
                waited = True
                self._require_open()
            if not waited:
                await trio.lowlevel.cancel_shielded_checkpoint()
        finally:
            self._receives = False
        return data or self._nothing_more()

    def send_some_nowait(self, data: memoryview) -> int:
        """Send as much as the other end has room for, and return how many bytes that is.

        `data` must never change afterwards.  Raises as `send_all` does.
        """
        self._require_open()
        self._check_sending()
        return self._offer(data)

    def receive_some_nowait(self) -> bytes | None:
        """What `receive_some` would return at once; None when it would wait.

        Raises as `receive_some` does.
        """
        self._require_open()
        data = self._inlet.take_bytes(RECEIVE_BYTES)
        if data:
            return data
        if not self._inlet.ended:
            return None
        return self._nothing_more()

    async def wait_receive_some_might_not_block(self) -> None:
        """Wait until something has come, or the stream has ended."""
        self._require_open()
        inlet = self._inlet
        await trio.lowlevel.checkpoint()
        while not inlet.waiting_bytes and not inlet.ended:
            await inlet.wait()
            self._require_open()

    def close(self, error: BaseException | None = None) -> None:
        """Close both directions: what was sent still arrives, what was not received is dropped.

        With an error, the other end is told that instead of an end.
        """
        self._sending.end(error)
        self._inlet.close(error)

    def _require_open(self) -> None:
        if self._inlet.closed:
            raise trio.ClosedResourceError("this stream was closed here")

    def _nothing_more(self) -> bytes:
        error = self._inlet.error
        if error is not None:
            raise trio.BrokenResourceError(str(error)) from error
        return b""

    def _check_sending(self) -> None:
        try:
            self._sending.require_open()
        except SteinadlerError as error:
            raise trio.BrokenResourceError(str(error)) from error

    def _offer(self, view: memoryview) -> int:
        try:
            return self._sending.offer_bytes(view)
        except SteinadlerError as error:
            raise trio.BrokenResourceError(str(error)) from error

    def _has_credit(self) -> bool:
        try:
            return self._sending.has_credit
        except SteinadlerError as error:
            raise trio.BrokenResourceError(str(error)) from error


class StreamListener(trio.abc.Listener[ByteStream]):
    """A service of this node, to be accepted from; made by `Node.listen`.

    `backlog` connections may wait to be accepted; one beyond them is refused.
    """

    def __init__(
        self, service: str, backlog: int, on_closed: Callable[[StreamListener], None]
    ) -> None:
        self.service = service
        self._backlog = backlog
        self._on_closed = on_closed
        self._waiting: deque[ByteStream] = deque()
        self._lot = trio.lowlevel.ParkingLot()
        self._closed = False

    def __repr__(self) -> str:
        return f"<StreamListener {self.service!r}>"

    @property
    def waiting(self) -> int:
        """How many connections wait to be accepted."""
        return len(self._waiting)

    @property
    def full(self) -> bool:
        """Whether a further connection would be refused."""
        return len(self._waiting) >= self._backlog

    def put(self, stream: ByteStream) -> None:
        """The node's: somebody connected."""
        self._waiting.append(stream)
        self._lot.unpark()

    async def accept(self) -> ByteStream:
        """Wait for the next connection.  Cancelled, it has taken none.

        Raises `trio.ClosedResourceError` when the listener was closed, or its node.
        """
        await trio.lowlevel.checkpoint()
        while not self._waiting:
            if self._closed:
                raise trio.ClosedResourceError(f"the service {self.service!r} is closed")
            await self._lot.park()
        return self._waiting.popleft()

    def close(self) -> None:
        """Offer the service no more; connections that nobody accepted are broken off."""
        if not self._closed:
            self._closed = True
            self._on_closed(self)
            while self._waiting:
                refusal = StreamRefused(f"the service {self.service!r} is offered no more")
                self._waiting.popleft().close(refusal)
            self._lot.unpark_all()

    def __enter__(self) -> StreamListener:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    async def aclose(self) -> None:
        """As `close`; a checkpoint."""
        self.close()
        await trio.lowlevel.checkpoint()
