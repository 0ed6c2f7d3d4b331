"""The transport's interface on the fabric: what a node sees instead of TCP and TLS.

There is no cryptography here, and what it would have decided is decided by comparison: each host
has an identity, as if by certificate, and a connection between two clusters fails on both sides
as a handshake would.  Nobody above can tell the difference: `SecureStream`'s conformance suite
runs over these streams too.

A connection through a relay has no fabric of its own: its bytes travel on the links of others.  Its
ends tell each other who they are in a first line, which stands for both certificates.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress

import trio

from steinadler.identity import Address
from steinadler.security.peer import PeerIdentity
from steinadler.testing.fabric import Fabric
from steinadler.testing.sockets import Host, Socket, SocketState
from steinadler.transport.carrier import Carrier
from steinadler.transport.network import DialError, Network, SecureStream

logger = logging.getLogger("steinadler.transport")

HANDSHAKE_TIMEOUT_S = 5.0


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


class SimulatedRelayedStream(SecureStream):
    """One end of a connection that a third node carries."""

    def __init__(self, carrier: Carrier, peer: PeerIdentity, received: bytes) -> None:
        self.peer = peer
        self.remote = carrier.remote
        self._carrier = carrier
        self._received = received
        self._unsent = memoryview(b"")
        self._closed = False

    def write_nowait(self, data: bytes) -> bool:
        self._require_open()
        self._unsent = memoryview(bytes(self._unsent) + data)
        return self._push()

    async def flush(self) -> None:
        await trio.lowlevel.checkpoint()
        self._require_open()
        while not self._push():
            await self._carrier.wait_writable()
            self._require_open()

    async def receive_some(self) -> bytes:
        await trio.lowlevel.checkpoint()
        self._require_open()
        received, self._received = self._received, b""
        data: bytes | None = received or None
        while data is None:
            try:
                data = self._carrier.receive_nowait()
            except OSError as error:
                raise trio.BrokenResourceError(str(error)) from error
            if data is None:
                await self._carrier.wait_readable()
                self._require_open()
        return data

    def close_nowait(self) -> None:
        self._closed = True
        self._carrier.close()

    def _push(self) -> bool:
        try:
            while self._unsent:
                sent = self._carrier.send_nowait(self._unsent)
                if not sent:
                    return False
                self._unsent = self._unsent[sent:]
        except OSError as error:
            raise trio.BrokenResourceError(str(error)) from error
        return True

    def _require_open(self) -> None:
        if self._closed:
            raise trio.ClosedResourceError("this side closed the connection")


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

    async def dial_over(self, carrier: Carrier) -> SecureStream:
        """See `Network.dial_over`."""
        try:
            return await self._introduced(carrier)
        except trio.BrokenResourceError as error:
            raise DialError(f"{carrier.remote}: {error}", refused=False) from error

    async def welcome(
        self, carrier: Carrier, handler: Callable[[SecureStream], Awaitable[None]]
    ) -> None:
        """See `Network.welcome`."""
        stream: SecureStream | None = None
        with trio.move_on_after(HANDSHAKE_TIMEOUT_S), suppress(trio.BrokenResourceError):
            stream = await self._introduced(carrier)
        if stream is not None:
            await handler(stream)

    async def _introduced(self, carrier: Carrier) -> SecureStream:
        try:
            stream = SimulatedRelayedStream(carrier, self.identity, b"")
            stream.write_nowait(f"{self._host.name}\n".encode())
            await stream.flush()
            heard = b""
            while b"\n" not in heard:
                more = await stream.receive_some()
                if not more:
                    raise trio.BrokenResourceError("closed before its end was told")
                heard += more
            name, _, rest = heard.partition(b"\n")
            peer = self._fabric.hosts[name.decode()].identity
            return SimulatedRelayedStream(carrier, peer, rest)
        except BaseException:
            carrier.close()
            raise
