"""The transport's interface on the fabric: what a node sees instead of TCP and TLS.

There is no cryptography here, and what it would have decided is decided by comparison: each host
has an identity, as if by certificate, and a connection between two clusters fails on both sides
as a handshake would.  Nobody above can tell the difference: `SecureStream`'s conformance suite
runs over these streams too.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable

import trio

from steinadler.identity import Address
from steinadler.testing.fabric import Fabric
from steinadler.testing.sockets import Host, Socket, SocketState
from steinadler.transport.network import DialError, Network, SecureStream

logger = logging.getLogger("steinadler.transport")


class SimulatedStream(SecureStream):
    """One end of a simulated connection."""

    def __init__(self, fabric: Fabric, socket: Socket) -> None:
        assert socket.peer is not None
        self.peer = socket.peer.host.identity
        self.remote = Address(socket.target, socket.port)
        self._fabric = fabric
        self._socket = socket
        self._waiting = trio.lowlevel.ParkingLot()
        socket.wake = self._waiting.unpark_all

    def write_nowait(self, data: bytes) -> bool:
        self._check()
        return self._fabric.write(self._socket, data, trio.current_time())

    async def flush(self) -> None:
        await trio.lowlevel.checkpoint()
        self._check()
        while self._socket.unsent:
            await self._waiting.park()
            self._check()

    async def receive_some(self) -> bytes:
        await trio.lowlevel.checkpoint()
        socket = self._socket
        while True:
            if socket.state is SocketState.CLOSED:
                raise trio.ClosedResourceError("this side closed the connection")
            data = self._fabric.receive(socket, trio.current_time())
            if data:
                return data
            self._check()
            if socket.ended:
                return b""
            await self._waiting.park()

    def close_nowait(self) -> None:
        self._fabric.close(self._socket, trio.current_time())

    def _check(self) -> None:
        if self._socket.state is SocketState.CLOSED:
            raise trio.ClosedResourceError("this side closed the connection")
        if self._socket.state is SocketState.BROKEN:
            raise trio.BrokenResourceError(self._socket.failure)


class SimulatedNetwork(Network):
    """What one life of a host sees of the fabric."""

    def __init__(self, fabric: Fabric, host: Host) -> None:
        self.identity = host.identity
        self._fabric = fabric
        self._host = host

    async def serve(
        self,
        host: str | None,
        port: int,
        handler: Callable[[SecureStream], Awaitable[None]],
        *,
        task_status: trio.TaskStatus[tuple[Address, ...]] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """See `Network.serve`.  `host` makes no difference."""
        lot = trio.lowlevel.ParkingLot()
        port = self._fabric.listen(self._host, port, lot.unpark_all)
        listener = self._host.listeners[port]
        try:
            async with trio.open_nursery() as nursery:
                task_status.started((Address(self._host.name, port),))
                while True:
                    while not listener.queue:
                        await lot.park()
                    await self._welcome(listener.queue.popleft(), handler, nursery)
        finally:
            self._fabric.close_port(self._host, port, trio.current_time())

    async def _welcome(
        self,
        socket: Socket,
        handler: Callable[[SecureStream], Awaitable[None]],
        nursery: trio.Nursery,
    ) -> None:
        assert socket.peer is not None
        stranger = socket.peer.host.identity.cluster_id != self.identity.cluster_id
        # Accepted all the same: the one who dialled sees our certificate first.
        self._fabric.accept(socket, trio.current_time())
        stream = SimulatedStream(self._fabric, socket)
        if stranger:
            logger.warning("refused a connection from %s: of another cluster", stream.remote)
            stream.close_nowait()
        else:
            nursery.start_soon(handler, stream)

    async def dial(self, address: Address) -> SecureStream:
        """See `Network.dial`.  Takes one round trip."""
        if not self._host.up:
            raise DialError(f"{address}: this host is down", refused=False)
        if address.host not in self._fabric.hosts:
            raise DialError(f"{address}: no such host", refused=False)
        socket = self._fabric.dial(self._host, address, trio.current_time())
        try:
            answered = trio.lowlevel.ParkingLot()
            socket.wake = answered.unpark_all
            await trio.lowlevel.checkpoint()
            while socket.state is SocketState.DIALLING:
                await answered.park()
            if socket.state is not SocketState.OPEN:
                raise DialError(f"{address}: {socket.failure}", refused=socket.refused)
            stream = SimulatedStream(self._fabric, socket)
            if stream.peer.cluster_id != self.identity.cluster_id:
                raise DialError(f"{address}: a node of another cluster", refused=False)
        except BaseException:
            self._fabric.close(socket, trio.current_time())
            raise
        return stream
