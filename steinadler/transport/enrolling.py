"""Joiners on the network: the port at which they are let in, and the way to it.

The protocol is told in `steinadler.security.enrolment`; this carries it.  A connection becomes a
joiner's when its ClientHello offers `steinadler-join/1` and nothing else, and this node has the
cluster's key and a token that has not expired.  At all other times such a connection gets what
every connection without a certificate gets (X2).

It costs little: one of `MAX_JOINERS` places, messages of a few KiB, and all of it must be over
within the time for a handshake.  An address from which `MAX_FAILURES` came that had no token is not
received for a while: not against guessing, which is hopeless, but for the log's sake.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Collection
from datetime import datetime

import trio

from steinadler.errors import RemoteProtocolError, SecurityError
from steinadler.identity import Address
from steinadler.security.contexts import JOIN_ALPN, make_join_client
from steinadler.security.enrolment import (
    MAX_ANSWER_BYTES,
    MAX_JOIN_REQUEST_BYTES,
    MAX_OFFER_BYTES,
    Inbox,
    framed,
)
from steinadler.security.joiner import Admission, Joiner, Meeting
from steinadler.security.registrar import Answered, Registrar, Visit
from steinadler.transport.carrier import Carrier, SocketCarrier
from steinadler.transport.client_hello import missing_bytes, offered_protocols
from steinadler.transport.tls import TlsPipe, explain, open_pipe

MAX_JOINERS = 8
MAX_FAILURES = 5
FORGIVEN_AFTER_S = 60.0
_MAX_REMEMBERED = 1024

_log = logging.getLogger("steinadler.transport")


class Failures:
    """Who failed how often; for a while, and for so many addresses."""

    def __init__(self) -> None:
        self._until: OrderedDict[str, tuple[int, float]] = OrderedDict()

    def count(self, host: str, now: float) -> None:
        """One more failure from there."""
        before, until = self._until.pop(host, (0, now))
        self._until[host] = (1 if now >= until else before + 1, now + FORGIVEN_AFTER_S)
        if len(self._until) > _MAX_REMEMBERED:
            self._until.popitem(last=False)

    def __len__(self) -> int:
        return len(self._until)

    def too_many(self, host: str, now: float) -> bool:
        """Whether nothing more is to be had from there."""
        failures, until = self._until.get(host, (0, now))
        return failures >= MAX_FAILURES and now < until


class Reception:
    """Receives joiners on connections that came to this node's port.

    `living` returns the names of the members.
    """

    def __init__(self, registrar: Registrar, living: Callable[[], Collection[str]]) -> None:
        self._registrar = registrar
        self._living = living
        self._places = trio.CapacityLimiter(MAX_JOINERS)
        self._failures = Failures()

    async def is_joiner(self, carrier: SocketCarrier, remote: Address) -> bool:
        """Whether a connection that came from there is for `serve`; nothing of it is lost.

        Waits for its first bytes only while joiners are received, and without limit: the caller
        bounds it.  Raises `trio.BrokenResourceError` when it broke.
        """
        if not self._registrar.is_open() or self._failures.too_many(
            remote.host, trio.current_time()
        ):
            return False
        return offered_protocols(await _first_record(carrier)) == (JOIN_ALPN,)

    async def serve(self, carrier: SocketCarrier, remote: Address) -> str:
        """Carry on a joiner's connection, to its end, and close it; return what to log.

        Waits without limit: the caller bounds it.  Raises `SecurityError` and
        `trio.BrokenResourceError` when it came to nothing.
        """
        try:
            self._places.acquire_nowait()
        except trio.WouldBlock:
            carrier.close()
            raise SecurityError(f"more than {MAX_JOINERS} want to join at once") from None
        try:
            answered = await self._converse(carrier)
        except RemoteProtocolError as error:
            self._failures.count(remote.host, trio.current_time())
            raise SecurityError(f"not let in: {error}") from error
        finally:
            self._places.release()
            carrier.close()
        if not answered.proved:
            self._failures.count(remote.host, trio.current_time())
        if not answered.admitted:
            raise SecurityError(f"not let in: {answered.text}")
        return answered.text

    async def _converse(self, carrier: Carrier) -> Answered:
        # Credentials are this thread's; what else it takes is on the disk.
        certificate, context = self._registrar.show()
        visit: Visit = await trio.to_thread.run_sync(self._registrar.receive, certificate)
        pipe, _ = await open_pipe(carrier, context, server_side=True, alpn=JOIN_ALPN)
        try:
            await _send(pipe, visit.offer)
            request = await _receive(pipe, MAX_JOIN_REQUEST_BYTES)
            living = frozenset(self._living())
            answered = await trio.to_thread.run_sync(self._registrar.answer, request, visit, living)
            await _send(pipe, answered.message)
            return answered
        finally:
            pipe.close_nowait()


async def _first_record(carrier: SocketCarrier) -> bytes:
    """What a client sends first, up to the end of its first TLS record, or of the stream."""
    begin = b""
    try:
        while missing_bytes(begin):
            while (more := carrier.receive_nowait()) is None:
                await carrier.wait_readable()
            if not more:
                break
            begin += more
    except OSError as error:
        raise trio.BrokenResourceError(explain(error)) from error
    carrier.put_back(begin)
    return begin


class Met:
    """An issuer that proved to be one, and waits for the request; to be closed."""

    def __init__(self, pipe: TlsPipe, meeting: Meeting, clock: Callable[[], datetime]) -> None:
        self._pipe = pipe
        self._meeting = meeting
        self._clock = clock

    async def ask(self) -> Admission:
        """Ask to be let in.

        Waits without limit: the caller bounds it.  Raises `JoinFailed` when the answer is no, and
        `trio.BrokenResourceError` when none came; whether a use of the token was spent is then not
        known.
        """
        await _send(self._pipe, self._meeting.request())
        answer = await _receive(self._pipe, MAX_ANSWER_BYTES)
        return self._meeting.read_answer(answer, self._clock())

    def close(self) -> None:
        """Close the connection."""
        self._pipe.close_nowait()


async def meet(joiner: Joiner, carrier: Carrier, clock: Callable[[], datetime]) -> Met:
    """Hear whether a node that was dialled may let the joiner in, and say nothing yet.

    Takes ownership of `carrier`.  Waits without limit: the caller bounds it.  Raises
    `trio.BrokenResourceError` when the connection broke, `SecurityError` when nobody is let in
    there now, and `JoinFailed` when somebody else answers.
    """
    pipe, shown = await open_pipe(carrier, make_join_client(), server_side=False, alpn=JOIN_ALPN)
    try:
        offer = await _receive(pipe, MAX_OFFER_BYTES)
        return Met(pipe, joiner.meet(offer, shown, clock()), clock)
    except RemoteProtocolError as error:
        pipe.close_nowait()
        raise SecurityError(str(error)) from error
    except BaseException:
        pipe.close_nowait()
        raise


async def _send(pipe: TlsPipe, message: bytes) -> None:
    if not pipe.write_nowait(framed(message)):
        await pipe.flush()


async def _receive(pipe: TlsPipe, longest: int) -> bytes:
    inbox = Inbox(longest)
    while True:
        data = await pipe.receive_some()
        if not data:
            raise trio.BrokenResourceError("the connection was closed before the end")
        if (message := inbox.feed(data)) is not None:
            return message
