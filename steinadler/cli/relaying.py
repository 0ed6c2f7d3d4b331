"""Relays: what is accepted at one end is dialled at the other, and pumped, until all is drained.

    expose      accepts from the cluster, dials a place of this machine
    forward     accepts at a place of this machine, dials the cluster

To a relay both are the same, a `Route`: listeners, and how to dial.  One task for each listener
accepts, one for each connection dials and pumps; there are `max_connections` of these for a route,
and one accepted connection more waits for each listener, the rest where they come from (the
kernel's backlog, the listener's).  A nursery owns them all.

A connection that cannot be carried, or breaks off, is broken off at both ends: nobody may take half
of an answer for the whole.  What ended in order is closed in order.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

import trio

from steinadler.cli.output import harmless
from steinadler.cli.places import break_off
from steinadler.cli.pump import pump
from steinadler.errors import RemoteError, SteinadlerError
from steinadler.stream import ByteStream

logger = logging.getLogger("steinadler.relay")

# A fault that goes on is told again after so long, with the count of those that were not told.
QUIET_S = 10.0
# How long to wait when the system has no room for one connection more.
_NO_ROOM_S = 0.1

End = trio.SocketStream | ByteStream
Listener = trio.SocketListener | trio.abc.Listener[ByteStream]


@dataclass(slots=True)
class Figures:
    """What a route has carried.

    `connections` were accepted, of which `open` are so now.  `failed` could not be carried: nobody
    offers the service, or it refuses; `broken` were, and then broke off.  `bytes_to_service` were
    taken by the service's end, `bytes_from_service` by the client's.
    """

    open: int = 0
    connections: int = 0
    failed: int = 0
    broken: int = 0
    bytes_to_service: int = 0
    bytes_from_service: int = 0

    def sent(self, size: int) -> None:
        self.bytes_to_service += size

    def received(self, size: int) -> None:
        self.bytes_from_service += size


@dataclass(slots=True)
class Route:
    """From where to where: `listeners` to accept from, and `dial`, which raises `OSError` or a
    `SteinadlerError` when the other end cannot be reached.

    `service` is the service's name in the cluster, `place` the local end, for people.
    """

    service: str
    place: str
    listeners: Sequence[Listener]
    dial: Callable[[], Awaitable[End]]
    figures: Figures = field(default_factory=Figures)


class Relay:
    """Carries connections over routes."""

    def __init__(self, routes: Sequence[Route], max_connections: int) -> None:
        self.routes = routes
        self._rooms = [trio.Semaphore(max_connections) for _ in routes]
        self._complaints = Complaints()

    @property
    def open(self) -> int:
        """How many connections are open."""
        return sum(route.figures.open for route in self.routes)

    async def run(self, leave: trio.Event, drain_s: float, on_drain: Callable[[], None]) -> None:
        """Carry until `leave`, then accept nothing more and let those that are open end within
        `drain_s`; then break them off.  `on_drain` is called in between.

        Cancelled, it breaks off every connection at once.
        """
        async with trio.open_nursery() as connections:
            async with trio.open_nursery() as accepting:
                for route, room in zip(self.routes, self._rooms, strict=True):
                    for listener in route.listeners:
                        accepting.start_soon(self._accept, route, listener, room, connections)
                await leave.wait()
                accepting.cancel_scope.cancel()
            on_drain()
            connections.cancel_scope.deadline = trio.current_time() + drain_s

    async def _accept(
        self, route: Route, listener: Listener, room: trio.Semaphore, connections: trio.Nursery
    ) -> None:
        async with listener:
            while True:
                try:
                    client = await listener.accept()
                except OSError as error:  # no file descriptor is left, or no memory
                    self._complaints.tell(f"{route.place}: {error.strerror or error}")
                    await trio.sleep(_NO_ROOM_S)
                    continue
                if not room.value:
                    self._complaints.tell(
                        f"as many connections to {route.service} are open as --max-connections "
                        "allows: further ones wait"
                    )
                try:
                    await room.acquire()
                except trio.Cancelled as error:
                    _break_off(client, error)
                    raise
                connections.start_soon(self._carry, route, client, room)

    async def _carry(self, route: Route, client: End, room: trio.Semaphore) -> None:
        """One connection, from its acceptance to its end."""
        figures = route.figures
        figures.connections += 1
        figures.open += 1
        try:
            service = await self._dial(route, client)
            if service is not None:
                await self._pump(route, client, service)
        finally:
            figures.open -= 1
            room.release()

    async def _dial(self, route: Route, client: End) -> End | None:
        try:
            return await route.dial()
        except BaseException as error:
            _break_off(client, error)
            if not isinstance(error, (OSError, SteinadlerError)):
                raise
            route.figures.failed += 1
            text = harmless(f"a connection to {route.service} came to nothing: {error}")
            self._complaints.tell(text)
            return None

    async def _pump(self, route: Route, client: End, service: End) -> None:
        figures = route.figures
        try:
            await pump(client, service, on_sent=figures.sent, on_received=figures.received)
        except BaseException as error:
            _break_off(client, error)
            _break_off(service, error)
            if not isinstance(error, trio.BrokenResourceError):
                raise
            figures.broken += 1
            text = harmless(f"a connection to {route.service} broke off: {error}")  # a peer's words
            if _is_everyday(error):
                logger.info("%s", text)
            else:
                self._complaints.tell(text)
        else:
            _close(client)
            _close(service)


class Complaints:
    """Warnings, each told at once, and while it goes on only every `QUIET_S`.

    Of many different texts the oldest are forgotten, and so may be told again too early.
    """

    _MOST = 100

    def __init__(self) -> None:
        self._told: dict[str, tuple[float, int]] = {}  # when, and how often since

    def tell(self, text: str) -> None:
        now = trio.current_time()
        at, untold = self._told.pop(text, (-QUIET_S, 0))
        if now - at < QUIET_S:
            self._told[text] = at, untold + 1
            return
        self._told[text] = now, 0
        if len(self._told) > self._MOST:
            del self._told[next(iter(self._told))]
        logger.warning("%s%s", text, f" (and {untold} times since last told)" if untold else "")


def _is_everyday(error: trio.BrokenResourceError) -> bool:
    """A program at either end broke off, or its relay left: no fault of the way between them."""
    match error.__cause__:
        case OSError() | RemoteError(type_name="BrokenResourceError"):
            return True
        case _:
            return False


def _close(end: End) -> None:
    if isinstance(end, ByteStream):
        end.close()
    else:
        end.socket.close()


def _break_off(end: End, error: BaseException) -> None:
    if isinstance(end, ByteStream):
        given_up = not isinstance(error, Exception)
        end.close(trio.BrokenResourceError("its relay left") if given_up else error)
    else:
        break_off(end)
