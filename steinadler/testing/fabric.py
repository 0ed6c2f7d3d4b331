"""The fabric: hosts, connections, and what is in flight, without a clock.

    write -> unsent -> flight (bounded, in order, each with its time) -> buffer -> receive
                ^ room                                                     |
                +----------------------------------------------------------+

Every call takes the present time; `advance` delivers what is due, in the order (time, from, to,
connection), so that what happens at one moment happens in an order that the seed decides and not
the scheduler.  Whoever waits for a socket is woken through its `wake`.

What a connection does is modelled on TCP as Linux does it:
- Bytes arrive in order.  A packet that is late holds up those behind it.
- In flight and unread together are at most `capacity_bytes` for each direction: a reader that does
  not read stops its writer.
- A closed socket sends an end, or a reset when it leaves bytes unread, and answers what still
  comes with a reset.  What arrived before a reset can be read.
- What a fault holds is sent again by a timer that doubles, so after a fault of T seconds a
  connection wakes up between nothing and T later.
- A killed process's sockets are reset by its kernel, behind what it had handed over already.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from steinadler.errors import ConfigError
from steinadler.identity import Address
from steinadler.security.peer import PeerIdentity
from steinadler.testing.faults import Delay, Draws, Hold, Packet, PacketKind, Refuse, Reset, Rule
from steinadler.testing.sockets import Host, Listener, Socket, SocketState, nobody
from steinadler.testing.trace import Trace

SEGMENT_BYTES = 65_536
FIRST_PORT = 4370


class Fabric:
    """A network of hosts.  `latency_s` is the range of one packet's time on the way."""

    def __init__(
        self,
        seed: int = 0,
        *,
        latency_s: tuple[float, float] = (0.0002, 0.001),
        capacity_bytes: int = 262_144,
    ) -> None:
        low, high = latency_s
        if not 0 <= low <= high:
            raise ConfigError(f"latency_s is (least, most), not {latency_s!r}")
        if not capacity_bytes > 0:
            raise ConfigError(f"capacity_bytes must be greater than zero, not {capacity_bytes!r}")
        self.draws = Draws(seed)
        self.trace = Trace()
        self.hosts: dict[str, Host] = {}
        self._latency_s = latency_s
        self._capacity = capacity_bytes
        self._rules: list[Rule] = []
        self._sent: dict[tuple[str, str], int] = {}
        self._due: list[tuple[float, str, str, int, Socket]] = []
        self._stalled: dict[int, Socket] = {}
        self._next_number = 1
        # Called when something became due earlier than all before.
        self.on_due: Callable[[], None] = nobody

    # -- hosts --------------------------------------------------------------------------------

    def add_host(self, name: str, identity: PeerIdentity) -> Host:
        """Bring a machine up, for the first time or again."""
        former = self.hosts.get(name)
        if former is not None and former.up:
            raise ConfigError(f"the host {name!r} is up already")
        host = self.hosts[name] = Host(name, identity)
        return host

    def kill(self, host: Host, now: float) -> None:
        """End the life of a host's process: its kernel resets its connections and refuses more."""
        host.up = host.paused = False
        host.outbox.clear()
        host.listeners.clear()
        for socket in list(host.sockets.values()):
            self._break(socket, "the process was killed")
            self._transmit(socket, PacketKind.RESET, now)

    def pause(self, host: Host) -> None:
        """From now on the host's process hands nothing over to its kernel."""
        host.paused = True

    def resume(self, host: Host, now: float) -> None:
        """Undo `pause`, and do what it would have done meanwhile."""
        host.paused = False
        outbox, host.outbox = host.outbox, []
        for socket, kind in outbox:
            self._send(socket, kind, now)
        for socket in list(host.sockets.values()):
            self._push(socket, now)

    # -- faults -------------------------------------------------------------------------------

    @contextmanager
    def rule(self, rule: Rule, now: Callable[[], float]) -> Iterator[None]:
        """Let `rule` hold for the length of the block."""
        self._rules.append(rule)
        try:
            yield
        finally:
            self._rules.remove(rule)
            self._release(now())

    def cut(self, one: str, other: str) -> int:
        """Break every present connection between two hosts; return how many there were."""
        broken = [
            socket
            for host in self.hosts.values()
            if host.name == one
            for socket in list(host.sockets.values())
            if socket.target == other
        ]
        for socket in broken:
            self._break_both(socket, "the connection was cut")
        return len(broken)

    def _release(self, now: float) -> None:
        """A rule ended: what no other one holds is sent again, when TCP's timer says so."""
        for number, socket in list(self._stalled.items()):
            since = socket.stalled_since
            if not socket.flight or since is None:
                del self._stalled[number]
                continue
            _, packet = socket.flight[0]
            if not any(isinstance(fault, Hold) for fault in self._faults(packet)):
                del self._stalled[number]
                socket.stalled_since = None
                key = (packet.source, packet.target, "again", packet.number)
                wait = self.draws.uniform(0, now - since, *key)
                socket.flight[0] = (now + wait, packet)
                self._schedule(socket)

    def _faults(self, packet: Packet) -> list[object]:
        return [fault for rule in self._rules if (fault := rule(packet)) is not None]

    # -- what processes do --------------------------------------------------------------------

    def listen(self, host: Host, port: int, wake: Callable[[], object]) -> int:
        """Open a port (0: any); return it.  Raises `ConfigError` when it is taken."""
        if port == 0:
            port = next(p for p in range(FIRST_PORT, 65_536) if p not in host.listeners)
        if port in host.listeners:
            raise ConfigError(f"port {port} of {host.name} is in use; choose another")
        host.listeners[port] = Listener(wake)
        return port

    def close_port(self, host: Host, port: int, now: float) -> None:
        """Close a port, and whatever waits there."""
        listener = host.listeners.pop(port, None)
        if listener is not None:
            for socket in listener.queue:
                self.close(socket, now)

    def dial(self, host: Host, address: Address, now: float) -> Socket:
        """Begin to connect: the socket leaves DIALLING when there is an answer."""
        socket = self._socket(host, address.host, address.port)
        self._send(socket, PacketKind.DIAL, now)
        return socket

    def accept(self, socket: Socket, now: float) -> None:
        """Take a dial that waited at a port."""
        if socket.state is SocketState.DIALLING:
            socket.state = SocketState.OPEN
            self._send(socket, PacketKind.ACCEPT, now)

    def write(self, socket: Socket, data: bytes, now: float) -> bool:
        """Send bytes; False when some have to wait."""
        socket.unsent += data
        self._push(socket, now)
        return not socket.unsent

    def receive(self, socket: Socket, now: float) -> bytes:
        """Take what arrived, which gives the other end room."""
        data = bytes(socket.buffer)
        if data:
            socket.buffer.clear()
            if socket.peer is not None:
                self._push(socket.peer, now)
        return data

    def close(self, socket: Socket, now: float) -> None:
        """Close one end; what it could not hand over yet is gone."""
        if socket.state is SocketState.CLOSED:
            return
        answered = socket.state is not SocketState.BROKEN
        unread = bool(socket.buffer)
        socket.state = SocketState.CLOSED
        self._drop(socket)
        if answered:
            self._send(socket, PacketKind.RESET if unread else PacketKind.END, now)
        socket.wake()

    def _socket(self, host: Host, target: str, port: int) -> Socket:
        socket = Socket(self._next_number, host, target, port)
        self._next_number += 1
        host.sockets[socket.number] = socket
        return socket

    def _drop(self, socket: Socket) -> None:
        socket.unsent.clear()
        socket.buffer.clear()
        socket.host.sockets.pop(socket.number, None)

    def _break(self, socket: Socket, failure: str) -> None:
        if socket.state in (SocketState.DIALLING, SocketState.OPEN):
            socket.state = SocketState.BROKEN
            socket.failure = failure
            socket.unsent.clear()  # what has arrived can still be read
            socket.host.sockets.pop(socket.number, None)
            socket.wake()

    def _break_both(self, socket: Socket, failure: str) -> None:
        for end in (socket, socket.peer):
            if end is not None:
                self._break(end, failure)
                end.flight.clear()
                end.flight_bytes = 0

    # -- what is on the way -------------------------------------------------------------------

    def _push(self, socket: Socket, now: float) -> None:
        """Hand over what there is room for."""
        while (
            socket.unsent
            and socket.state is SocketState.OPEN
            and socket.peer is not None
            and not socket.host.paused
        ):
            room = self._capacity - socket.flight_bytes - len(socket.peer.buffer)
            if room <= 0:
                return
            size = min(room, SEGMENT_BYTES)
            data = bytes(socket.unsent[:size])
            del socket.unsent[:size]
            self._transmit(socket, PacketKind.DATA, now, data)
            if not socket.unsent:
                socket.wake()

    def _send(self, socket: Socket, kind: PacketKind, now: float) -> None:
        """What a process does to its socket, which takes that it is running."""
        if socket.host.paused:
            socket.host.outbox.append((socket, kind))
        else:
            self._transmit(socket, kind, now)

    def _transmit(self, socket: Socket, kind: PacketKind, now: float, data: bytes = b"") -> None:
        way = (socket.host.name, socket.target)
        number = self._sent[way] = self._sent.get(way, 0) + 1
        packet = Packet(kind, *way, number, data)
        due = now + self.draws.uniform(*self._latency_s, *way, "latency", number)
        due += sum(fault.seconds for fault in self._faults(packet) if isinstance(fault, Delay))
        if socket.flight:
            due = max(due, socket.flight[-1][0])
        socket.flight.append((due, packet))
        socket.flight_bytes += len(data)
        self._schedule(socket)

    def _schedule(self, socket: Socket) -> None:
        if socket.flight and not socket.scheduled and socket.stalled_since is None:
            socket.scheduled = True
            due = socket.flight[0][0]
            earliest = self.next_due()
            entry = (due, socket.host.name, socket.target, socket.number, socket)
            heapq.heappush(self._due, entry)
            if due < earliest:
                self.on_due()

    def next_due(self) -> float:
        """When to call `advance`; `math.inf` when nothing is on the way."""
        return self._due[0][0] if self._due else math.inf

    def advance(self, now: float) -> None:
        """Deliver what is due."""
        while self._due and self._due[0][0] <= now:
            socket = heapq.heappop(self._due)[-1]
            socket.scheduled = False
            if socket.flight:
                self._arrive(socket, now)
                self._schedule(socket)

    def _arrive(self, socket: Socket, now: float) -> None:
        _, packet = socket.flight[0]
        refused = False
        for fault in self._faults(packet):
            match fault:
                case Hold():
                    socket.stalled_since = now
                    self._stalled[socket.number] = socket
                    return
                case Reset():
                    self._break_both(socket, "the connection was reset on the way")
                    return
                case Refuse():
                    refused = True
        socket.flight.popleft()
        socket.flight_bytes -= len(packet.data)
        size = len(packet.data)
        self.trace.record(now, packet.kind.value, packet.source, packet.target, size)
        if packet.kind is PacketKind.DIAL:
            self._dialled(socket, refused, now)
        elif socket.peer is not None:
            self._received(socket.peer, packet, now)

    def _dialled(self, socket: Socket, refused: bool, now: float) -> None:
        host = self.hosts[socket.target]
        answering = self._socket(host, socket.host.name, socket.port)
        answering.peer, socket.peer = socket, answering
        listener = host.listeners.get(socket.port)
        if listener is None or refused:
            answering.state = SocketState.CLOSED
            self._drop(answering)
            self._transmit(answering, PacketKind.RESET, now)
        else:
            listener.queue.append(answering)
            listener.wake()

    def _received(self, socket: Socket, packet: Packet, now: float) -> None:
        match packet.kind:
            case PacketKind.ACCEPT:
                if socket.state is SocketState.DIALLING:
                    socket.state = SocketState.OPEN
            case PacketKind.DATA:
                if socket.state is SocketState.CLOSED:
                    self._transmit(socket, PacketKind.RESET, now)
                elif socket.state is not SocketState.BROKEN:
                    socket.buffer += packet.data
            case PacketKind.END:
                socket.ended = True
            case PacketKind.RESET:
                socket.refused = socket.state is SocketState.DIALLING
                self._break(socket, "the peer reset the connection")
        socket.wake()
