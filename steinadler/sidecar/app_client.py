"""The HTTP/1.1 client towards the program: a pool of connections to one place.

Of a request that fails it must be known whether it can have run, because one that can is never
made again (E3): `AppDown` says that nothing was sent, `AppBroke` that it may have run.  So there
is no retry in here, not even of a request on a connection that turns out closed; those are looked
at before they are used, and not used at all after `IDLE_S`, below the time after which servers
close them.

So one that the program closes earlier, or in the middle of a request, without having said that it
would, tells that the program has ended, even when the next one is there before anybody looked: its
`life` is another.  What an earlier life knew, the present one does not.

General clients (httpx, httpcore) were refused for this: they take several times as long for a
small request, and say less of what became of one that failed.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass

import h11
import trio

from steinadler.sidecar.exchange import joined
from steinadler.sidecar.sockets import Socket

# Servers close what is idle for 2 s (gunicorn) or 5 s (uvicorn, Node).
IDLE_S = 1.5
MAX_HEAD_BYTES = 64 * 1024

# Of one connection, not of what it carries (RFC 9110 section 7.6.1).
HOP_BY_HOP = frozenset(
    {
        "connection",
        "content-length",
        "expect",
        "host",
        "http2-settings",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)


_NOT_PASSED_ON = HOP_BY_HOP | {"date", "server"}


class AppError(Exception):
    """A request to the program failed."""


class AppDown(AppError):
    """Nobody listens there: nothing was sent."""


class AppAnew(AppDown):
    """The life of the program that the request was for is over: nothing was sent."""


class AppBroke(AppError):
    """The connection broke, or what came back is no answer: the request may have run."""


@dataclass(frozen=True, slots=True)
class AppAnswer:
    """An answer of the program in this life: its headers, each once, without the connection's."""

    life: int
    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes


@dataclass(slots=True)
class _Connection:
    sock: Socket
    protocol: h11.Connection
    life: int
    idle_since: float = 0.0

    def is_open(self) -> bool:
        """Whether nothing came since the last answer; all that could is its end."""
        try:
            return self.sock.receive_nowait() is None
        except OSError:
            return False


class AppClient:
    """Makes requests to one program.

    `connect` opens a connection; `host` is the Host header.  `token` goes with every request, as
    `dapr-api-token`.  An answer has `max_body_bytes` at most.  At most `max_connections` requests
    are under way: one beyond them is `AppDown`, because waiting could deadlock turns that call
    each other.
    """

    def __init__(
        self,
        connect: Callable[[], Awaitable[trio.SocketStream]],
        host: str,
        *,
        token: str | None = None,
        max_body_bytes: int,
        max_connections: int = 1024,
    ) -> None:
        self._connect = connect
        self._fixed = [(b"host", host.encode())]
        if token is not None:
            self._fixed.append((b"dapr-api-token", token.encode()))
        self._max_body_bytes = max_body_bytes
        self._max_connections = max_connections
        # Another number after each time that the program was found to have ended.
        self.life = 0
        # The longest idle first; the last one is used next, so that the others grow old.
        self._idle: deque[_Connection] = deque()
        self._busy = 0
        self._closed = False

    async def request(
        self,
        verb: str,
        path: str,
        headers: Iterable[tuple[str, str]] = (),
        body: bytes = b"",
        *,
        life: int | None = None,
    ) -> AppAnswer:
        """Make one request, of the program in this `life` if one is given.  `path` is as it goes
        on the wire.

        Waits without limit: the caller bounds it; cancelled, the connection is closed and the
        request may have run.  Raises `AppDown`, `AppAnew` and `AppBroke`; `ValueError` for a header
        that cannot be sent, and then nothing was.
        """
        if self._busy >= self._max_connections:
            raise AppDown(f"{self._busy} requests to the program are under way")
        sent = [*self._fixed, (b"content-length", b"%d" % len(body))]
        sent += [(name.encode("ascii"), value.encode("latin-1")) for name, value in headers]
        try:
            head = h11.Request(method=verb, target=path, headers=sent)
        except h11.LocalProtocolError as error:
            raise ValueError(str(error)) from error
        self._busy += 1
        try:
            connection = await self._take()
            try:
                if life is not None and life != connection.life:
                    raise AppAnew("the program was started anew")
                return await self._exchange(connection, head, body)
            except BaseException:
                connection.sock.close()
                raise
        finally:
            self._busy -= 1

    def close(self) -> None:
        """Close what is idle, and keep no connection open any more between requests; repeatable."""
        self._closed = True
        self._close_idle()

    def _close_idle(self) -> None:
        while self._idle:
            self._idle.pop().sock.close()

    async def _take(self) -> _Connection:
        oldest = trio.current_time() - IDLE_S
        while self._idle and self._idle[0].idle_since < oldest:
            self._idle.popleft().sock.close()
        while self._idle:
            connection = self._idle.pop()
            if connection.is_open():
                return connection
            self._ended(connection.life)
            connection.sock.close()
        try:
            stream = await self._connect()
        except OSError as error:
            self._ended(self.life)
            raise AppDown(f"the program cannot be reached: {error}") from None
        protocol = h11.Connection(h11.CLIENT, max_incomplete_event_size=MAX_HEAD_BYTES)
        return _Connection(Socket(stream), protocol, self.life)

    def _ended(self, life: int) -> None:
        """This life of the program is over; that of an earlier one is no news."""
        if life == self.life:
            self.life += 1
            self._close_idle()

    async def _exchange(self, connection: _Connection, head: h11.Request, body: bytes) -> AppAnswer:
        protocol = connection.protocol
        data = protocol.send(head)
        assert data is not None
        if body:
            data += protocol.send(h11.Data(data=body)) or b""
        protocol.send(h11.EndOfMessage())
        try:
            await connection.sock.send(data, math.inf)
            answer = await self._receive(connection)
        except OSError as error:
            self._ended(connection.life)
            raise AppBroke("the program closed the connection in the middle") from error
        except h11.RemoteProtocolError as error:
            if protocol.trailing_data[1]:  # it ended in the middle
                self._ended(connection.life)
            raise AppBroke(f"the program's answer is not HTTP: {error}") from error
        reusable = protocol.our_state is h11.DONE and protocol.their_state is h11.DONE
        if reusable and connection.life == self.life and not self._closed:
            protocol.start_next_cycle()
            connection.idle_since = trio.current_time()
            self._idle.append(connection)
        else:
            connection.sock.close()
        return answer

    async def _receive(self, connection: _Connection) -> AppAnswer:
        protocol = connection.protocol
        response: h11.Response | None = None
        body = bytearray()
        while True:
            event = protocol.next_event()
            if event is h11.NEED_DATA:
                data = await connection.sock.receive()
                if not data and response is None:
                    self._ended(connection.life)
                    raise AppBroke("the program closed the connection without an answer")
                protocol.receive_data(data)
            elif type(event) is h11.Response:
                response = event
            elif type(event) is h11.Data:
                body += event.data
                if len(body) > self._max_body_bytes:
                    raise AppBroke(f"the program's answer is over {self._max_body_bytes} bytes")
            elif type(event) is h11.EndOfMessage:
                assert response is not None
                headers = _end_to_end(response)
                return AppAnswer(connection.life, response.status_code, headers, bytes(body))
            elif type(event) is not h11.InformationalResponse:
                raise AppBroke("the program switched to another protocol")


def _end_to_end(response: h11.Response) -> tuple[tuple[str, str], ...]:
    return tuple(
        (text, value.decode("latin-1"))
        for name, value in joined(response.headers).items()
        if (text := name.decode("ascii")) not in _NOT_PASSED_ON
    )


def tcp(host: str, port: int) -> Callable[[], Awaitable[trio.SocketStream]]:
    """Connect by TCP."""

    async def connect() -> trio.SocketStream:
        return await trio.open_tcp_stream(host, port)

    return connect


def unix(path: str) -> Callable[[], Awaitable[trio.SocketStream]]:
    """Connect by a Unix socket."""

    async def connect() -> trio.SocketStream:
        return await trio.open_unix_socket(path)

    return connect
