"""One HTTP/1.1 connection on h11 (RFC 9112): requests are answered in order, by the task that reads
them.

    idle -> head -> handler, which may read the body -> answer -> idle, or the end

**One task, no channels.**  While the handler runs nothing is read, so requests that were sent ahead
wait in the kernel's buffer, which holds their sender back.  It also means that a client which hangs
up is not noticed before the answer is sent.  That is deliberate: a client that has closed cannot be
told from one that has only said that it sends no more, and a call that began goes on anyway (E3).

**The end.**  After an answer that comes before the whole body, and while draining, the answer says
`Connection: close`.  What still comes is then read and dropped for `LINGER_S`: to close upon it
would reset the connection, and the reset may overtake the answer (RFC 9112 section 9.6).

**Time limits** keep slow clients from holding connections: see the constants.  Whoever exceeds one
is hung up on.
"""

from __future__ import annotations

import logging
import time
from contextlib import suppress
from email.utils import formatdate
from itertools import count

import h11
import trio

from steinadler.sidecar.exchange import (
    Answer,
    BodyCutShort,
    BodyTooLarge,
    Handler,
    Request,
    declared_length,
    joined,
)
from steinadler.sidecar.problems import malformed
from steinadler.sidecar.sockets import Socket

logger = logging.getLogger("steinadler.sidecar")

# A percent-encoded id of the largest size, several times over: whoever sends more gets a problem.
MAX_HEAD_BYTES = 64 * 1024
# Longer than clients keep connections that they do not use, so that closing them is theirs.
KEEP_ALIVE_S = 300.0
# From the first byte of a head to its last, and from there to the last of the body.
HEAD_LIMIT_S = 30.0
BODY_LIMIT_S = 60.0
# How long a client may take to take an answer.
ANSWER_LIMIT_S = 60.0
# After so many chunks of a body, which may have a byte each, others get to run.
CHUNKS_AT_A_TIME = 200
# What is still taken of a body that nobody wants, so that its sender gets to hear so.
LINGER_S = 2.0

_SERVER_STATES = (h11.IDLE, h11.SEND_RESPONSE)


class Drain:
    """Ends a server's connections in order: those without a request at once, others with their
    answer."""

    def __init__(self) -> None:
        self.begun = False
        self._idle: set[trio.CancelScope] = set()

    def begin(self) -> None:
        """From now on no connection waits for another request."""
        self.begun = True
        for scope in self._idle:
            scope.cancel()

    async def receive(self, sock: Socket, limit_s: float) -> bytes:
        """Wait for the first bytes of a request; `b""` when none come, or none are wanted.

        Raises `OSError`.
        """
        if not self.begun:
            with trio.move_on_after(limit_s) as scope:
                self._idle.add(scope)
                try:
                    return await sock.receive()
                finally:
                    self._idle.discard(scope)
        # A request that came in the same moment is answered still.
        return sock.receive_nowait() or b""


class _HttpDate:
    """The time as headers tell it (RFC 9110 section 5.6.7), written once a second."""

    def __init__(self) -> None:
        self._second = 0
        self._text = b""

    def __call__(self) -> bytes:
        now = int(time.time())
        if now != self._second:
            self._second = now
            self._text = formatdate(now, usegmt=True).encode()
        return self._text


class Http1Connection:
    """Serves one connection, of which `first` was read already.  `run` closes nothing."""

    def __init__(self, sock: Socket, handler: Handler, drain: Drain, first: bytes = b"") -> None:
        self._sock = sock
        self._handler = handler
        self._drain = drain
        self._protocol = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEAD_BYTES)
        self._date = _HttpDate()
        if first:
            self._protocol.receive_data(first)

    async def run(self) -> None:
        """Serve until either side ends it.  What the handler raises comes out."""
        with suppress(OSError):
            try:
                while (head := await self._next_head()) is not None:
                    if not await self._serve(head):
                        return
            except h11.RemoteProtocolError as error:
                await self._refuse(error)

    async def _next_head(self) -> h11.Request | None:
        """The next request; None when there is none."""
        protocol = self._protocol
        event: object = protocol.next_event()
        if event is h11.NEED_DATA and not protocol.trailing_data[0]:
            protocol.receive_data(await self._drain.receive(self._sock, KEEP_ALIVE_S))
            event = protocol.next_event()
        else:
            # Whoever sends many requests ahead must not keep others from running.
            await trio.lowlevel.checkpoint()
        if event is h11.NEED_DATA:
            with trio.move_on_after(HEAD_LIMIT_S):
                event = await self._event()
        if type(event) is not h11.Request:
            return None
        if not event.http_version.startswith(b"1."):
            raise h11.RemoteProtocolError("its version is another")
        return event

    async def _event(self) -> object:
        """What the client sends next, but for `NEED_DATA`."""
        protocol = self._protocol
        while (event := protocol.next_event()) is h11.NEED_DATA:
            if protocol.they_are_waiting_for_100_continue:
                go_on = h11.InformationalResponse(status_code=100, headers=[])
                await self._sock.send(protocol.send(go_on) or b"", ANSWER_LIMIT_S)
            protocol.receive_data(await self._sock.receive())
        return event

    async def _serve(self, head: h11.Request) -> bool:
        """Answer one request; return whether another may follow."""
        headers = joined(head.headers)

        async def read_body(limit: int) -> bytes:
            if declared_length(headers) > limit:
                raise BodyTooLarge
            return await self._read_body(limit)

        path = head.target.partition(b"?")[0]
        request = Request(head.method.decode("ascii"), path, headers, read_body)
        answer = await self._handler(request)
        whole = self._body_is_through()
        told = b"" if head.method == b"HEAD" else answer.body
        await self._send(answer, told, last=answer.closes or self._drain.begun or not whole)
        protocol = self._protocol
        if protocol.our_state is h11.DONE and protocol.their_state is h11.DONE:
            protocol.start_next_cycle()
            return True
        if not whole or self._sock.receive_nowait():
            await self._linger()
        return False

    async def _read_body(self, limit: int) -> bytes:
        protocol = self._protocol
        body = bytearray()
        ends_at = trio.current_time() + BODY_LIMIT_S
        try:
            for number in count(1):
                event: object = protocol.next_event()
                if event is h11.NEED_DATA or number % CHUNKS_AT_A_TIME == 0:
                    with trio.move_on_at(ends_at) as scope:
                        if event is h11.NEED_DATA:
                            event = await self._event()
                        else:
                            await trio.lowlevel.checkpoint()
                    if scope.cancelled_caught:
                        raise BodyCutShort("the body took too long")
                if type(event) is not h11.Data:
                    break
                body += event.data
                if len(body) > limit:
                    raise BodyTooLarge
        except h11.RemoteProtocolError as error:
            raise BodyCutShort(f"the body makes no sense, or ended early: {error}") from error
        return bytes(body)

    def _body_is_through(self) -> bool:
        """Whether the request has come to its end, as far as can be said without waiting."""
        with suppress(h11.RemoteProtocolError):
            while self._protocol.their_state is h11.SEND_BODY:
                if self._protocol.next_event() is h11.NEED_DATA:
                    return False
        return self._protocol.their_state is not h11.ERROR

    async def _send(self, answer: Answer, body: bytes, *, last: bool) -> None:
        protocol = self._protocol
        headers = [*answer.headers, (b"date", self._date())]
        if answer.status == 204:
            body = b""
        else:
            headers.append((b"content-length", b"%d" % len(answer.body)))
        if last:
            headers.append((b"connection", b"close"))
        response = h11.Response(status_code=answer.status, headers=headers)
        data = protocol.send(response) or b""
        if body:
            data += protocol.send(h11.Data(data=body)) or b""
        protocol.send(h11.EndOfMessage())
        await self._sock.send(data, ANSWER_LIMIT_S)

    async def _refuse(self, error: h11.RemoteProtocolError) -> None:
        """Answer what is no request, unless it is in the middle of one that was answered."""
        if self._protocol.our_state in _SERVER_STATES:
            problem = malformed(f"this is no HTTP/1.1 request: {error}")
            kind = (b"content-type", b"application/json")
            answer = Answer(problem.status, (kind,), problem.body)
            await self._send(answer, answer.body, last=True)
            await self._linger()

    async def _linger(self) -> None:
        self._sock.send_end()
        with trio.move_on_after(LINGER_S):
            while await self._sock.receive():
                pass
