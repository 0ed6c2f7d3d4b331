"""What a host of the simulation has: sockets, ports, and what it did while it was paused.

Plain records.  `Fabric` moves what is in them, and alone knows how; in classes that act by
themselves the order of what happens at one moment would be theirs, and not the seed's.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from enum import Enum

from steinadler.security.peer import PeerIdentity
from steinadler.testing.faults import Packet, PacketKind


class SocketState(Enum):
    """Where one end of a connection stands."""

    DIALLING = "dialling"
    OPEN = "open"
    BROKEN = "broken"
    CLOSED = "closed"


class Socket:
    """One end of a connection, with what is on the way from it to the other."""

    __slots__ = (
        "buffer",
        "ended",
        "failure",
        "flight",
        "flight_bytes",
        "host",
        "number",
        "peer",
        "port",
        "refused",
        "scheduled",
        "stalled_since",
        "state",
        "target",
        "unsent",
        "wake",
    )

    def __init__(self, number: int, host: Host, target: str, port: int) -> None:
        self.number = number
        self.host = host
        self.target = target  # the name of the other end's host
        self.port = port  # where the connection was dialled
        self.peer: Socket | None = None
        self.state = SocketState.DIALLING
        self.failure = ""
        self.refused = False
        self.unsent = bytearray()
        self.flight: deque[tuple[float, Packet]] = deque()
        self.flight_bytes = 0
        self.buffer = bytearray()
        self.ended = False
        self.scheduled = False
        self.stalled_since: float | None = None
        self.wake: Callable[[], object] = nobody


def nobody() -> None:
    """Nobody waits yet."""


class Listener:
    """A port that is open, and the dials that wait there."""

    def __init__(self, wake: Callable[[], object]) -> None:
        self.queue: deque[Socket] = deque()
        self.wake = wake


class Host:
    """One life of a machine with one node on it."""

    def __init__(self, name: str, identity: PeerIdentity) -> None:
        self.name = name
        self.identity = identity
        self.up = True
        self.paused = False
        self.listeners: dict[int, Listener] = {}
        self.sockets: dict[int, Socket] = {}
        self.outbox: list[tuple[Socket, PacketKind]] = []  # what it did while it was paused
