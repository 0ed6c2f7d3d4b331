"""Accepting: what happens to a connection until it has proved who it is.

Each is a task, which waits for the first bytes, then for its turn (`handshake_gate`), then shakes
hands; all of that within `handshake_timeout_s`.  Bytes that are no TLS are told apart before the
turn, because that costs nothing.  Everything is accepted at once, since nobody's address is known
before; where the gate has no room left, accepting slows down to PACE_S for each.

Whoever fails is one line in the log, with its address and what it looks like.  A flood of them is
some lines, which say how many there were (`RefusalLog`).
"""

from __future__ import annotations

import errno
import logging
import math
import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TypeAlias

import trio

from steinadler.errors import SecurityError
from steinadler.identity import Address
from steinadler.transport.carrier import Carrier, SocketCarrier, Via, address_of
from steinadler.transport.handshake_gate import HandshakeGate, RefusalLog, Visitor, source_of
from steinadler.transport.network import SecureStream
from steinadler.transport.tls import explain, look_at_first_bytes

_ACCEPT_BACKOFF_S = 0.1
# Errors of accept() that tell of a bug here; all others are the network's or the machine's, and
# pass (accept(2): the errors of the new connection are reported there too).
_ACCEPT_BUGS = {errno.EBADF, errno.EINVAL, errno.ENOTSOCK, errno.EFAULT}
# A connection that is accepted and dropped costs a tenth of that.
PACE_S = 0.001
_AT_ONCE = 10

_log = logging.getLogger("steinadler.transport")

Handler: TypeAlias = Callable[[SecureStream], Awaitable[None]]


@dataclass(eq=False, slots=True)
class _Guest:
    """A connection's task: how it is told that it makes way, and that it has its turn."""

    scope: trio.CancelScope
    turn: trio.Event = field(default_factory=trio.Event)
    makes_way: bool = False


class Welcome:
    """The door of one node.

    `shake_hands` authenticates who came, and closes the way of others; it returns None for whoever
    wanted no more than that.
    """

    def __init__(
        self,
        gate: HandshakeGate,
        timeout_s: float,
        shake_hands: Callable[[Carrier, Address | Via], Awaitable[SecureStream | None]],
    ) -> None:
        self._gate = gate
        self._timeout_s = timeout_s
        self._shake_hands = shake_hands
        self._guests: dict[Visitor, _Guest] = {}
        self._refusals = RefusalLog()
        self._giving = trio.Lock()  # one task gives turns; when it ends another goes on
        self._wakes_at = math.inf
        self._sooner = trio.Event()

    async def serve(self, listeners: list[socket.socket], handler: Handler) -> None:
        """Accept until cancelled.  The listeners are the caller's to close."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._give_turns)
            for listener in listeners:
                nursery.start_soon(self._accept, listener, handler, nursery)

    async def welcome(self, carrier: Carrier, handler: Handler) -> None:
        """Let in who came another way than to the port, and run the handler.

        Whoever came through a relay counts as that, at whatever address it is.
        """
        try:
            remote = carrier.remote
        except OSError:
            carrier.close()
            return
        source = str(remote) if isinstance(remote, Via) else source_of(remote.host)
        visitor = self._arrived(source)
        stream: SecureStream | None = None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._give_turns)  # this node may have no port
            stream = await self._let_in(carrier, remote, visitor)
            nursery.cancel_scope.cancel()
        if stream is not None:
            await handler(stream)

    async def _accept(
        self, listener: socket.socket, handler: Handler, nursery: trio.Nursery
    ) -> None:
        failing, hurried = False, 0
        while True:
            await trio.lowlevel.wait_readable(listener)
            try:
                sock, sockaddr = listener.accept()
            except BlockingIOError:
                continue
            except OSError as error:
                if error.errno in _ACCEPT_BUGS:
                    raise
                if not failing:
                    _log.warning("cannot accept connections for now: %s", explain(error))
                failing = True
                await trio.sleep(_ACCEPT_BACKOFF_S)
                continue
            failing = False
            remote = address_of(sockaddr)
            was_full = self._gate.is_full
            visitor = self._arrived(source_of(remote.host))
            nursery.start_soon(self._receive, SocketCarrier(sock), remote, visitor, handler)
            hurried += was_full
            if hurried == _AT_ONCE:
                hurried = 0
                await trio.sleep(_AT_ONCE * PACE_S)

    def _arrived(self, source: str) -> Visitor:
        visitor, victim = self._gate.arrived(source, trio.current_time())
        self._guests[visitor] = _Guest(trio.CancelScope())
        if victim is not None:
            self._make_way(victim)
        return visitor

    async def _receive(
        self, carrier: Carrier, remote: Address, visitor: Visitor, handler: Handler
    ) -> None:
        stream = await self._let_in(carrier, remote, visitor)
        if stream is not None:
            await handler(stream)

    async def _let_in(
        self, carrier: Carrier, remote: Address | Via, visitor: Visitor
    ) -> SecureStream | None:
        """Wait for its turn, and authenticate it; or close its way, and say why in the log."""
        guest = self._guests[visitor]
        stream: SecureStream | None = None
        is_over = False
        refusal, level = f"no handshake within {self._timeout_s:g} s", logging.WARNING
        try:
            guest.scope.deadline = trio.current_time() + self._timeout_s
            with guest.scope:
                await carrier.wait_readable()
                if isinstance(carrier, SocketCarrier):
                    look_at_first_bytes(carrier.sock)
                self._gate.spoke(visitor, trio.current_time())
                self._next_turns()
                await guest.turn.wait()
                stream = await self._shake_hands(carrier, remote)
                is_over = stream is None
        except SecurityError as error:
            refusal = str(error)
        except trio.BrokenResourceError as error:
            # A peer may change its mind: it leaves, or another connection was faster.
            refusal, level = str(error), logging.INFO
        finally:
            del self._guests[visitor]
            if not guest.makes_way:
                self._gate.left(visitor, proved=stream is not None)
                self._next_turns()
            if stream is None:
                carrier.close()
        if stream is None and not is_over:
            if guest.makes_way:
                refusal = "it made way for others: more want to shake hands than there is room for"
            self._tell(level, remote, refusal)
        return stream

    def _make_way(self, visitor: Visitor) -> None:
        guest = self._guests[visitor]
        guest.makes_way = True
        guest.scope.cancel()

    def _next_turns(self) -> None:
        granted, victims = self._gate.turns(trio.current_time())
        for victim in victims:
            self._make_way(victim)
        for visitor in granted:
            self._guests[visitor].turn.set()
        if self._gate.next_turn_at() < self._wakes_at:
            self._sooner.set()

    async def _give_turns(self) -> None:
        async with self._giving:
            while True:
                self._sooner = trio.Event()
                self._wakes_at = self._gate.next_turn_at()
                with trio.move_on_at(self._wakes_at):
                    await self._sooner.wait()
                self._next_turns()

    def _tell(self, level: int, remote: Address | Via, refusal: str) -> None:
        untold = self._refusals.tell(trio.current_time())
        if untold is None:
            return
        before = f" ({untold} more were refused since the line before)" if untold else ""
        _log.log(level, "refused a connection from %s: %s%s", remote, refusal, before)
