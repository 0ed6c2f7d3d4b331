"""Real connections that can be cut: a proxy on loopback for each way from one node to another.

    alice --TLS--> proxy ("alice" to bob's port) --TLS--> bob

The proxy forwards bytes and sees nothing but ciphertext.  A cut takes effect in mid-stream: half
of the next bytes to come through are still forwarded, so that a TLS record is torn, and then

    RESET   both ends are told with a RST
    FIN     both ends see the stream end, without a word of TLS; what comes later is lost
    hold    nothing passes, old connections and new ones, until the path is there again

Nodes reach each other through it because `CutNetwork` dials through it, whatever address it was
given.  A node in another process, which dials by itself, is led through it by the addresses that
the node here advertises (`advertised_to`).
"""

from __future__ import annotations

import random
import socket
import struct
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from enum import Enum
from pathlib import Path

import trio

from steinadler import Address, Config, Node
from steinadler.discovery import Seeds
from steinadler.identity import NODE, NodeId
from steinadler.security.home import open_home
from steinadler.transport.carrier import Carrier
from steinadler.transport.network import Network, SecureStream
from steinadler.transport.tcp import TcpNetwork

_LOOPBACK = "127.0.0.1"
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)  # SO_LINGER: on, for no time
_GONE = (OSError, trio.BrokenResourceError, trio.ClosedResourceError)


class Cut(Enum):
    """How a connection is cut."""

    RESET = "reset"
    FIN = "fin"


class Wire:
    """One connection through the proxy."""

    def __init__(self, way: Way, near: trio.SocketStream, far: trio.SocketStream) -> None:
        self._way = way
        self._ends = (near, far)
        self._cut: Cut | None = None
        self._torn = False  # what still comes goes nowhere

    def cut(self, how: Cut) -> None:
        """Cut in the middle of whatever comes next."""
        self._cut = how

    async def forward(self) -> None:
        """Forward both ways until both ends have closed, or the connection was reset."""
        near, far = self._ends
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._pump, near, far)
            nursery.start_soon(self._pump, far, near)

    def reset(self) -> None:
        """Tell both ends with a RST."""
        for end in self._ends:
            reset(end)

    async def _pump(self, source: trio.SocketStream, sink: trio.SocketStream) -> None:
        try:
            while data := await source.receive_some(65_536):
                await self._way.open()
                if not self._torn:
                    await self._pass(data, sink)
            await self._way.open()
            if not self._torn:
                await sink.send_eof()
        except _GONE:
            await self._way.open()
            self.reset()

    async def _pass(self, data: bytes, sink: trio.SocketStream) -> None:
        how = self._cut
        try:
            await sink.send_all(data if how is None else data[: len(data) // 2])
        except _GONE:
            if not self._torn:  # by the other pump, which has closed this way too
                raise
        if how is Cut.RESET:
            self.reset()
        elif how is Cut.FIN and not self._torn:
            self._torn = True
            for end in self._ends:
                end.socket.shutdown(socket.SHUT_WR)


class Way:
    """The way from one node to another, with all its connections."""

    def __init__(self, ways: Ways, entrance: Address, target: Address) -> None:
        self._ways = ways
        self.entrance = entrance
        self.target = target
        self.wires: set[Wire] = set()
        self._open = trio.Event()
        self._open.set()

    async def open(self) -> None:
        """Wait until bytes may pass."""
        await self._open.wait()

    def hold(self) -> None:
        self._open = trio.Event()

    def release(self) -> None:
        self._open.set()

    async def carry(self, near: trio.SocketStream) -> None:
        """Serve one connection from its beginning to its end."""
        await self.open()
        try:
            far = await trio.open_tcp_stream(self.target.host, self.target.port)
        except OSError:
            reset(near)  # nobody is there: what a dialler without a proxy would be told
            return
        wire = Wire(self, near, far)
        self.wires.add(wire)
        if self._ways.reset_at_birth:
            self._ways.reset_at_birth -= 1
            wire.cut(Cut.RESET)
        try:
            await wire.forward()
        finally:
            self.wires.discard(wire)
            near.socket.close()
            far.socket.close()


class Ways:
    """All ways between the nodes of a test."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self._nursery = nursery
        self._ways: dict[tuple[str, Address], Way] = {}
        self._names: dict[Address, str] = {}  # who listens where
        self._held: set[frozenset[str]] = set()
        self.cuts = 0
        self.reset_at_birth = 0  # of the next connections, in the first bytes

    def listens(self, name: str, addresses: tuple[Address, ...]) -> None:
        """A node is there."""
        self._names.update(dict.fromkeys(addresses, name))

    def way(self, dialler: str, target: Address) -> Way:
        """The way of `dialler` to an address: made now, or found by either of its ends."""
        for (name, _), way in self._ways.items():
            if name == dialler and target in (way.entrance, way.target):
                return way
        listening = socket.create_server((_LOOPBACK, 0))
        listening.setblocking(False)
        way = Way(self, Address(_LOOPBACK, listening.getsockname()[1]), target)
        if frozenset((dialler, self._names.get(target, ""))) in self._held:
            way.hold()
        self._ways[dialler, target] = way
        listener = trio.SocketListener(trio.socket.from_stdlib_socket(listening))
        self._nursery.start_soon(trio.serve_listeners, way.carry, [listener])
        return way

    def cut(self, one: str, other: str, how: Cut) -> None:
        """Cut the connections that stand between two nodes; new ones can be made at once."""
        for wire in self._wires(one, other):
            wire.cut(how)
            self.cuts += 1

    def reset(self, one: str, other: str) -> None:
        """Reset the connections between two nodes, whether bytes come or not."""
        for wire in self._wires(one, other):
            wire.reset()

    @contextmanager
    def held(self, one: str, other: str) -> Iterator[None]:
        """Let nothing pass between two nodes for the length of the block."""
        pair = frozenset((one, other))
        self._held.add(pair)
        for way in self._between(one, other):
            way.hold()
        try:
            yield
        finally:
            self._held.discard(pair)
            for way in self._between(one, other):
                way.release()

    def _between(self, one: str, other: str) -> list[Way]:
        return [
            way
            for (dialler, target), way in self._ways.items()
            if {dialler, self._names.get(target, "")} == {one, other}
        ]

    def _wires(self, one: str, other: str) -> list[Wire]:
        return [wire for way in self._between(one, other) for wire in way.wires]


class CutNetwork(Network):
    """A node's real network, with all that it dials led through `ways`.

    With `advertised_to`, peers are told to dial a way for a node of that name.
    """

    def __init__(self, inside: Network, ways: Ways, advertised_to: str | None = None) -> None:
        self.identity = inside.identity
        self._inside = inside
        self._ways = ways
        self._advertised_to = advertised_to

    async def serve(
        self,
        host: str | None,
        port: int,
        handler: Callable[[SecureStream], Awaitable[None]],
        *,
        task_status: trio.TaskStatus[tuple[Address, ...]] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """See `Network.serve`."""
        async with trio.open_nursery() as nursery:
            addresses = await nursery.start(self._inside.serve, host, port, handler)
            self._ways.listens(self.identity.name, addresses)
            if self._advertised_to is not None:
                ways = [self._ways.way(self._advertised_to, address) for address in addresses]
                addresses = tuple(way.entrance for way in ways)
            task_status.started(addresses)

    async def dial(self, address: Address) -> SecureStream:
        """See `Network.dial`."""
        return await self._inside.dial(self._ways.way(self.identity.name, address).entrance)

    async def dial_over(self, carrier: Carrier) -> SecureStream:
        """See `Network.dial_over`."""
        return await self._inside.dial_over(carrier)

    async def welcome(
        self, carrier: Carrier, handler: Callable[[SecureStream], Awaitable[None]]
    ) -> None:
        """See `Network.welcome`."""
        await self._inside.welcome(carrier, handler)


@asynccontextmanager
async def open_cut_node(
    name: str,
    ways: Ways,
    home: Path,
    *,
    seeds: Iterable[Address] = (),
    config: Config | None = None,
    advertised_to: str | None = None,
) -> AsyncIterator[Node]:
    """Run a node on real sockets behind `ways`, known to others by `seeds` alone."""
    config = config or Config()
    opened = open_home(home)
    credentials = opened.credentials(opened.default_cluster(), NODE, name)
    rng = random.Random()
    node = Node(
        CutNetwork(TcpNetwork(credentials, config.dial, config.wire), ways, advertised_to),
        NodeId(name, time.time_ns() // 1000),
        labels={},
        config=config,
        rng=rng,
    )
    async with node.run(_LOOPBACK, 0, lambda _: [Seeds(seeds, rng=rng)]):
        yield node


def reset(stream: trio.SocketStream) -> None:
    """Close at once, with a RST."""
    with suppress(OSError):
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
    stream.socket.close()
