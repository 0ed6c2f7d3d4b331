"""A link: one session with one life of a peer, and the connection that carries it now.

    flush() --> inline write, when nothing is under way (no task wakes up for it)
            \\-> writer task, when the socket is full, or for what a burst leaves over
            \\-> on_wanted(link), when there is no connection: somebody is to make one
    reader task --> Session.receive --> handler(link, events)

The reader never waits for anybody: the handler is a plain function, and what it produces is
queued.  Only one of inline write and writer writes at a time; both go on where the stream stands.

Connections come and go while the session lasts: they break, and they are closed when they were of
no use for long.  Whoever sends need not know which of these is the case: what is queued makes the
link `needed`, and one flag (`wants_flush`) says that somebody sleeps until there is something to
send, be it the writer or whoever dials.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from enum import Enum

import trio

from steinadler.config import WireSettings
from steinadler.errors import RemoteProtocolError
from steinadler.identity import OBSERVER, NodeId
from steinadler.transport.network import SecureStream
from steinadler.wire.channels import Target
from steinadler.wire.handshake import SessionOffer
from steinadler.wire.session import Arrived, Event, Granted, PeerLimits, Session

# In a burst, the items that the first write waits for, and the most that any does.
FIRST_HELD, MOST_HELD = 8, 64

logger = logging.getLogger("steinadler.transport")


class LinkState(Enum):
    """Where a link stands."""

    WAITING = "waiting for a connection"
    CONNECTED = "connected"
    ENDED = "ended"


class Link:
    """A session and its connection.  Made by `Connections`; ended once, for good.

    `token` and `peer_token` name the session in handshakes; `peer_token` 0 means that no
    connection has carried it yet.
    """

    def __init__(
        self,
        node: NodeId,
        role: str,
        token: int,
        settings: WireSettings,
        handler: Callable[[Link, list[Event]], None],
        on_wanted: Callable[[Link], None],
    ) -> None:
        self.node = node
        self.role = role
        self.token = token
        self.peer_token = 0
        self.state = LinkState.WAITING
        self.end_reason = ""
        self.session = Session(settings)
        self.changed = trio.Event()  # set and replaced at each change of state
        self._settings = settings
        self._handler = handler
        self._on_wanted = on_wanted
        self._stream: SecureStream | None = None
        self._scope: trio.CancelScope | None = None
        # The writer waits for something to write, or there is no connection: `flush` tells.
        self.wants_flush = True
        self._asked_for = False
        self._unsent = False  # of what the handshake or an inline write has written to the stream
        self._writer = trio.lowlevel.ParkingLot()
        self._acknowledger = trio.lowlevel.ParkingLot()
        self._drained = trio.lowlevel.ParkingLot()
        self._held = 0  # flushes since the last write, in a burst
        self._hold = FIRST_HELD
        self._burst = False  # several items came in the last read, so several may go out
        self._credit_waiters: dict[Target, trio.lowlevel.ParkingLot] = {}

    @property
    def connected(self) -> bool:
        return self.state is LinkState.CONNECTED

    @property
    def stream(self) -> SecureStream | None:
        """What carries it now."""
        return self._stream

    @property
    def has_met(self) -> bool:
        """Whether a connection carried the session: until then `role` is nobody's word."""
        return self.peer_token != 0

    @property
    def to_observer(self) -> bool:
        return self.role == OBSERVER

    def offer(self, connection_number: int) -> SessionOffer:
        """What this end remembers, for a Hello."""
        return SessionOffer(
            self.token, self.peer_token, self.session.last_received, connection_number
        )

    def can_resume(self, offer: SessionOffer) -> bool:
        """Whether both ends remember the same session."""
        # The peer may have missed our first Hello; then it knows no token of ours yet.
        return offer.token == self.peer_token and offer.peer_token in (0, self.token)

    # -- the need for a connection ------------------------------------------------------------

    @property
    def needed(self) -> bool:
        """Whether a connection would be of use: something is to be sent, or was sent and the peer
        is not known to have it, or somebody waits for credit, or asked for a connection."""
        return self._asked_for or bool(self._credit_waiters) or not self.session.drained

    def ask_for_connection(self) -> None:
        """Have a connection made, unless there is one."""
        if self._stream is None and self.state is not LinkState.ENDED:
            self._asked_for = True
            self._on_wanted(self)

    # -- life ---------------------------------------------------------------------------------

    def _become(self, state: LinkState) -> None:
        self.state = state
        self._drained.unpark_all()
        self.changed.set()
        self.changed = trio.Event()

    def end(self, reason: str) -> None:
        """End the session: close the connection and wake everybody who waits to send."""
        if self.state is not LinkState.ENDED:
            self.end_reason = reason
            self._become(LinkState.ENDED)
            self.drop_connection()
            for lot in self._credit_waiters.values():
                lot.unpark_all()
            self._credit_waiters.clear()

    def drop_connection(self) -> None:
        """Close the present connection, if any; the session stays."""
        if self._scope is not None:
            self._scope.cancel()
        if self._stream is not None:
            self._stream.close_nowait()
            self._stream = None
            self.wants_flush = True

    def close_connection(self) -> None:
        """Let the present connection, if any, end as if it had broken: `run` returns, and the
        session stays.  What is sent meanwhile may be lost on it, and is sent again on the next."""
        if self._scope is not None:
            self._scope.cancel()

    def attach(self, stream: SecureStream, limits: PeerLimits, last_received: int) -> None:
        """Carry the session on over `stream`, from what the peer last received; an older
        connection is dropped.

        Raises `RemoteProtocolError` when the peer cannot have received that.  `run` must follow.
        """
        self.drop_connection()
        self.session.connected(limits, last_received)
        self._stream = stream
        self.wants_flush = self._asked_for = False
        self._unsent = True
        self._scope = trio.CancelScope()
        self._become(LinkState.CONNECTED)
        for target in list(self._credit_waiters):
            self.wake_for_credit(target)

    async def run(self, stream: SecureStream, received: bytes) -> None:
        """Read and write until this connection breaks or is dropped.

        `received` is what came in behind the peer's Hello.  Returns on a broken connection;
        raises `RemoteProtocolError` when the peer broke a rule.
        """
        scope = self._scope
        if scope is None or self._stream is not stream:
            return
        failure: RemoteProtocolError | None = None
        try:
            with scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._write, stream, scope)
                    nursery.start_soon(self._acknowledge_late)
                    try:
                        await self._read(stream, received)
                    except RemoteProtocolError as error:
                        failure = error
                    scope.cancel()
        finally:
            stream.close_nowait()
            if self._stream is stream:
                self._stream = self._scope = None
                self.wants_flush = True
                if self.state is LinkState.CONNECTED:
                    self._become(LinkState.WAITING)
        if failure is not None:
            raise failure

    async def drain(self) -> None:
        """Wait until everything queued has arrived, over the next connection if need be, or the
        link has ended.  The caller bounds it."""
        while self.state is not LinkState.ENDED and not self.session.drained:
            await self._drained.park()

    async def say_goodbye(self, reason: str) -> None:
        """Tell the peer that this node leaves for good.

        Returns when the peer has heard it, or the connection is gone.  The caller bounds it.
        """
        if self.connected:
            self.session.goodbye(reason)
            changed = self.changed
            self.flush()
            await changed.wait()

    # -- sending ------------------------------------------------------------------------------

    def flush(self) -> None:
        """Send what is queued: now, or in the writer's next turn.

        Writing here saves waking a task, which costs more than the write.  So the first item of a
        quiet connection goes at once.  Where several came in the last read, several are likely to
        go out before the writer's turn, and are better off in few writes: then each write holds
        twice as many as the one before, and the peer has something to do after the first.
        """
        if not self.wants_flush:
            return  # the writer is at it
        stream = self._stream
        if stream is None:
            self._on_wanted(self)
            return
        if self._burst:
            self._held += 1
            if self._held < self._hold:
                if self._held == 1:  # it has a turn soon, should there be no more to come
                    self._wake_writer()
                return
            self._held = 0
            self._hold = min(2 * self._hold, MOST_HELD)
        elif not self.session.quiet:
            self.wants_flush = False
            self._wake_writer()
            return
        try:
            if not stream.write_nowait(self.session.data_to_send()):
                self.wants_flush = False
                self._unsent = True
            elif not self.session.wants_to_send:
                return
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return  # the reader finds out, and says so
        self._wake_writer()

    def flush_at_once(self) -> None:
        """Send what is queued now, if the connection takes anything now: it may be about to end."""
        if self._stream is not None and self.wants_flush:
            try:
                if not self._stream.write_nowait(self.session.data_to_send()):
                    self.wants_flush = False
                    self._unsent = True
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                return  # the reader finds out, and says so
            self._wake_writer()

    def _wake_writer(self) -> None:
        if self._writer:
            self._writer.unpark()

    async def _write(self, stream: SecureStream, scope: trio.CancelScope) -> None:
        try:
            while True:
                if self._unsent:
                    await stream.flush()
                    self._unsent = False
                while data := self.session.data_to_send():
                    if not stream.write_nowait(data):
                        self.wants_flush = False
                        await stream.flush()
                    if not self.session.wants_to_send:
                        break
                    await trio.lowlevel.checkpoint()
                self._held, self._hold = 0, FIRST_HELD
                self.wants_flush = True
                await self._writer.park()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            scope.cancel()

    async def _acknowledge_late(self) -> None:
        """Acknowledge by itself what no frame carried an acknowledgement for in time."""
        while True:
            await self._acknowledger.park()
            await trio.sleep(self._settings.acknowledge_delay_s)
            if self.session.acknowledgement_owed:
                self.session.acknowledge()
                self.flush()

    async def wait_for_credit(self, target: Target) -> None:
        """Wait until the channel to `target` may have credit, or the link has ended.

        Waiters are woken one at a time, in order; one that finds credit to spare wakes the next.
        """
        self.ask_for_connection()  # the first one brings the first credit
        lot = self._credit_waiters.setdefault(target, trio.lowlevel.ParkingLot())
        try:
            await lot.park()
        finally:
            if not lot and self._credit_waiters.get(target) is lot:
                del self._credit_waiters[target]

    def wake_for_credit(self, target: Target) -> None:
        """There is credit for `target`: let whoever waits longest try."""
        lot = self._credit_waiters.get(target)
        if lot is not None:
            lot.unpark()

    def wake_all_for_credit(self, target: Target) -> None:
        """There will be no credit for `target`: let everybody who waits find that out."""
        lot = self._credit_waiters.get(target)
        if lot is not None:
            lot.unpark_all()

    # -- receiving ----------------------------------------------------------------------------

    async def _read(self, stream: SecureStream, data: bytes) -> None:
        session = self.session
        # What an older connection still brings after another took its place, the peer sends again
        # on that one.
        while self._stream is stream:
            if data:
                events = session.receive(data)
                self._burst = len(events) > 1
                for event in events:
                    if type(event) is Granted:
                        self.wake_for_credit(event.target)
                    elif type(event) is Arrived and len(event.bodies) > 1:
                        self._burst = True
                if events:
                    self._handler(self, events)
                if session.acknowledgement_urgent:
                    session.acknowledge()
                if self._drained and session.drained:
                    self._drained.unpark_all()
                if session.wants_to_send:
                    self.flush()
                elif session.acknowledgement_owed and self._acknowledger:
                    self._acknowledger.unpark()
            try:
                data = await stream.receive_some()
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                return
            if not data:
                return
