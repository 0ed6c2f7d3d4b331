"""Two sessions and the bytes between them, to be delivered, cut and resumed at will."""

from __future__ import annotations

from collections.abc import Iterable

from steinadler.config import WireSettings
from steinadler.wire.channels import InboundChannel, OutboundChannel, Target
from steinadler.wire.frames import Frame, FrameReader, FrameType, pack_items
from steinadler.wire.session import Arrived, Event, PeerLimits, Session

SETTINGS = WireSettings(
    max_message_bytes=100_000,
    window_bytes=20_000,
    reassembly_bytes=150_000,
    max_unacknowledged_bytes=100_000,
    max_unacknowledged_bulk_bytes=100_000,
    max_channels=64,
)


def limits_of(settings: WireSettings) -> PeerLimits:
    return PeerLimits(
        settings.window_bytes,
        settings.max_message_bytes,
        settings.reassembly_bytes,
        settings.max_channels,
    )


def frames_in(data: bytes) -> list[Frame]:
    return list(FrameReader().feed(data))


def send(
    session: Session, target: Target, body: bytes, type_: FrameType = FrameType.MESSAGES
) -> OutboundChannel:
    """Send with credit, which must be there."""
    channel = session.channel(target)
    assert channel.take_credit(len(body))
    session.enqueue(channel, type_, body)
    return channel


def bodies_in(events: Iterable[Event]) -> list[bytes]:
    return [body for event in events if isinstance(event, Arrived) for body in event.bodies]


class Pair:
    """Sessions 0 and 1.  `wires[n]` holds what session n wrote and the other has not yet read."""

    def __init__(self, settings: WireSettings = SETTINGS, *, connected: bool = True) -> None:
        self.settings = settings
        self.sessions = (Session(settings), Session(settings))
        self.wires = [b"", b""]
        if connected:
            self.resume()

    def resume(self) -> None:
        """The connection breaks, with whatever is on it, and another takes its place."""
        self.wires = [b"", b""]
        received = [session.last_received for session in self.sessions]
        for side in (0, 1):
            self.sessions[side].connected(limits_of(self.settings), received[1 - side])

    def write(self, side: int) -> bytes:
        """Let a session write one batch."""
        wanted = self.sessions[side].wants_to_send
        data = self.sessions[side].data_to_send()
        assert wanted == bool(data)
        self.wires[side] += data
        return data

    def deliver(self, side: int, limit: int | None = None) -> list[Event]:
        """Let the other session read up to `limit` bytes of what session `side` wrote."""
        data = self.wires[side]
        cut = len(data) if limit is None else limit
        self.wires[side] = data[cut:]
        return self.sessions[1 - side].receive(data[:cut])

    def exchange(self, side: int) -> list[Event]:
        """Everything that a session has to say now arrives, and is acknowledged."""
        events: list[Event] = []
        while self.write(side):
            while self.write(side):
                pass
            events += self.deliver(side)
            self.acknowledge(1 - side)
        return events

    def acknowledge(self, side: int) -> None:
        self.sessions[side].acknowledge()
        while self.write(side):
            self.deliver(side)

    def consume(self, side: int, channel: InboundChannel, body: bytes) -> None:
        self.sessions[side].consumed(channel, len(body))


class Peer:
    """One session, and a peer of which every byte is written by hand."""

    def __init__(self, settings: WireSettings = SETTINGS) -> None:
        self.session = Session(settings)
        self.session.connected(limits_of(settings), 0)
        self.sequence = 0

    def frame(
        self, type_: int, channel: int = 0, payload: bytes = b"", *, flags: int = 0, skip: int = 0
    ) -> bytes:
        """The next frame; numbered when its type says so."""
        sequence = 0
        if type_ & 0x80:
            self.sequence += 1 + skip
            sequence = self.sequence
        head = (len(payload), type_, flags, channel, sequence)
        return b"".join(
            n.to_bytes(s, "big") for n, s in zip(head, (2, 1, 1, 4, 8), strict=True)
        ) + (payload)

    def says(
        self, type_: int, channel: int = 0, payload: bytes = b"", *, flags: int = 0, skip: int = 0
    ) -> list[Event]:
        return self.session.receive(self.frame(type_, channel, payload, flags=flags, skip=skip))

    def opens(self, channel: int, number: int) -> None:
        """A channel to a process."""
        self.says(FrameType.OPEN, channel, b"\0" + number.to_bytes(8, "big"))

    def items(self, type_: FrameType, channel: int, *bodies: bytes) -> list[Event]:
        return self.says(type_, channel, pack_items(bodies))
