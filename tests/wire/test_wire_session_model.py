"""Two sessions against a model: whatever is queued, cut, resumed, consumed and swept, every item
arrives exactly once and in order on its channel (M1, M2, M3), and credit is neither made nor lost.
Streams end behind what was sent on them, or instead of what waits, which then never comes.
"""

from __future__ import annotations

from collections import Counter, defaultdict, deque

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from wire_pair import SETTINGS, Pair

from steinadler.wire.channels import (
    CONTROL,
    ITEM_OVERHEAD_BYTES,
    InboundChannel,
    OutboundChannel,
    Target,
    ToName,
    ToNode,
    ToProcess,
    ToStream,
)
from steinadler.wire.frames import MAX_FRAME_BYTES, MAX_ITEM_BYTES, FrameType
from steinadler.wire.session import BATCH_BYTES, Arrived, Event, Gossiped

SIDES = st.integers(0, 1)
DESTINATIONS: list[Target] = [ToProcess(1), ToProcess(2), ToName("counter"), ToName("log")]
SIZES = st.sampled_from(
    [0, 1, 100, 100, 6_000, MAX_ITEM_BYTES, MAX_ITEM_BYTES + 1, 40_000, SETTINGS.max_message_bytes]
)
CONTROL_ITEM_BYTES = 200
MOST_CONTROL_BYTES = 100 * (CONTROL_ITEM_BYTES + 20)


def cost(body: bytes) -> int:
    return len(body) + ITEM_OVERHEAD_BYTES


class Stream:
    """One direction of a stream of objects, or of bytes: what was sent on it, and what came."""

    def __init__(self, target: ToStream, *, objects: bool) -> None:
        self.target = target
        self.sent: list[bytes] | bytearray = [] if objects else bytearray()
        self.got: list[bytes] | bytearray = [] if objects else bytearray()
        self.dropped = False  # what waited when it ended


class Sessions(RuleBasedStateMachine):
    """What was sent and not yet seen is in `expected`; what was seen and not consumed in `held`."""

    def __init__(self) -> None:
        super().__init__()
        self.pair = Pair()
        self.number = 0
        self.expected: dict[tuple[int, Target], deque[tuple[FrameType, bytes]]] = defaultdict(deque)
        self.replies: tuple[Counter[bytes], Counter[bytes]] = (Counter(), Counter())
        self.held: tuple[deque[tuple[InboundChannel, bytes]], ...] = (deque(), deque())
        self.channels: dict[tuple[int, Target], OutboundChannel] = {}
        self.outstanding: Counter[tuple[int, Target]] = Counter()
        self.streams: dict[tuple[int, Target], Stream] = {}  # until their end has come
        self.open_streams: dict[tuple[int, int], Stream] = {}  # until it was said
        self.last_stream = 0

    # -- the users above the sessions ---------------------------------------------------------

    def body(self, size: int) -> bytes:
        """Every body is another, as far as its size allows."""
        self.number += 1
        return self.number.to_bytes(4, "big").ljust(size, b".")[:size]

    def channel(self, side: int, target: Target) -> OutboundChannel:
        channel = self.pair.sessions[side].channel(target)
        known = self.channels.get((side, target))
        if known is not channel:
            assert self.outstanding[side, target] == 0  # else the peer has two windows to fill
            self.channels[side, target] = channel
        return channel

    @rule(
        side=SIDES,
        to=st.sampled_from(DESTINATIONS),
        type_=st.sampled_from([FrameType.MESSAGES, FrameType.CALLS]),
        size=SIZES,
        count=st.integers(1, 4),
    )
    def send(self, side: int, to: Target, type_: FrameType, size: int, count: int) -> None:
        for _ in range(count):
            channel, body = self.channel(side, to), self.body(size)
            had_credit = channel.credit > 0
            assert channel.take_credit(len(body)) == had_credit
            if had_credit:
                self.pair.sessions[side].enqueue(channel, type_, body)
                self.expected[side, to].append((type_, body))
                self.outstanding[side, to] += cost(body)

    @rule(side=SIDES, to=st.sampled_from([CONTROL, CONTROL, *DESTINATIONS]))
    def signal(self, side: int, to: Target) -> None:
        self.channel(side, to)
        body = self.body(CONTROL_ITEM_BYTES)
        self.pair.sessions[side].enqueue_signal(body, to)
        self.expected[side, to].append((FrameType.SIGNALS, body))

    @rule(side=SIDES, size=SIZES)
    def reply(self, side: int, size: int) -> None:
        body = self.body(size)
        self.pair.sessions[side].enqueue_reply(body)
        self.replies[side][body] += 1

    def stream(self, side: int, index: int, *, objects: bool) -> Stream:
        """The stream of that index, or a new one in the place of one that was ended."""
        stream = self.open_streams.get((side, index))
        if stream is None:
            self.last_stream += 1
            target = ToStream(self.last_stream, by_sender=self.last_stream % 2 == 0)
            stream = self.open_streams[side, index] = Stream(target, objects=objects)
            self.streams[side, target] = stream
        return stream

    @rule(side=SIDES, index=st.integers(0, 1), size=SIZES.filter(bool))
    def send_bytes(self, side: int, index: int, size: int) -> None:
        stream, session = self.stream(side, index, objects=False), self.pair.sessions[side]
        channel, data = session.channel(stream.target), self.body(size)
        had_credit = channel.credit > 0
        taken = session.enqueue_bytes(channel, memoryview(data))
        assert (taken > 0) == had_credit
        assert taken == size or channel.credit <= 0
        stream.sent += data[:taken]

    @rule(side=SIDES, size=SIZES)
    def send_object(self, side: int, size: int) -> None:
        stream, session = self.stream(side, 2, objects=True), self.pair.sessions[side]
        channel, body = session.channel(stream.target), self.body(size)
        if channel.take_credit(len(body)):
            session.enqueue(channel, FrameType.MESSAGES, body)
            assert isinstance(stream.sent, list)
            stream.sent.append(body)

    @rule(side=SIDES, index=st.integers(0, 2), drop=st.booleans())
    def end_stream(self, side: int, index: int, drop: bool) -> None:
        stream = self.stream(side, index, objects=index == 2)
        stream.dropped = drop
        self.pair.sessions[side].end_stream(stream.target, b"", drop_queued=drop)
        del self.open_streams[side, index]

    @rule(side=SIDES)
    def gossip(self, side: int) -> None:
        self.pair.sessions[side].gossip(b"gossip")

    @rule(side=SIDES, count=st.integers(1, 5))
    def consume(self, side: int, count: int) -> None:
        held = self.held[side]
        for _ in range(min(count, len(held))):
            channel, body = held.popleft()
            self.pair.consume(side, channel, body)
            if not isinstance(channel.target, ToStream):
                self.outstanding[1 - side, channel.target] -= cost(body)

    # -- the connection and the clock ---------------------------------------------------------

    @rule(side=SIDES)
    def write(self, side: int) -> None:
        self.pair.write(side)

    @rule(side=SIDES, limit=st.none() | st.integers(1, 200) | st.integers(1, 70_000))
    def deliver(self, side: int, limit: int | None) -> None:
        self.arrived(side, self.pair.deliver(side, limit))

    @rule(side=SIDES)
    def acknowledge(self, side: int) -> None:
        self.pair.sessions[side].acknowledge()

    @rule(side=SIDES)
    def sweep(self, side: int) -> None:
        self.pair.sessions[side].close_idle_channels()

    @rule(limits=st.tuples(st.integers(0, 80_000), st.integers(0, 80_000)))
    def break_and_resume(self, limits: tuple[int, int]) -> None:
        for side in (0, 1):
            self.arrived(side, self.pair.deliver(side, limits[side]))
        self.pair.resume()

    def arrived(self, side: int, events: list[Event]) -> None:
        """What session `side` wrote came out at the other."""
        for event in events:
            if not isinstance(event, Arrived):
                assert not isinstance(event, Gossiped) or event.data == b"gossip"
                continue
            target = event.channel.target
            if isinstance(target, ToStream):
                self.stream_arrived(side, event)
                continue
            for body in event.bodies:
                if isinstance(target, ToNode) and target != CONTROL:
                    assert event.type is FrameType.REPLIES
                    assert self.replies[side][body] > 0
                    self.replies[side][body] -= 1
                else:
                    assert self.expected[side, target].popleft() == (event.type, body)
                if event.type in (FrameType.MESSAGES, FrameType.CALLS):
                    self.held[1 - side].append((event.channel, body))

    def stream_arrived(self, side: int, event: Arrived) -> None:
        stream = self.streams[side, event.channel.target]
        if event.type is FrameType.CLOSE:
            assert stream.got == stream.sent or stream.dropped
            del self.streams[side, event.channel.target]
            return
        objects = isinstance(stream.got, list)
        assert event.type is (FrameType.MESSAGES if objects else FrameType.BYTES)
        for body in event.bodies:
            stream.got += [body] if objects else body
            self.held[1 - side].append((event.channel, body))
        assert stream.got == stream.sent[: len(stream.got)]

    # -- what always holds --------------------------------------------------------------------

    @invariant()
    def credit_is_conserved(self) -> None:
        window = SETTINGS.window_bytes
        for key, channel in self.channels.items():
            owed = window - channel.credit - self.outstanding[key]
            assert owed >= 0  # consumed there, and not yet granted here
            assert self.outstanding[key] < window + SETTINGS.max_message_bytes + ITEM_OVERHEAD_BYTES

    @invariant()
    def a_stream_has_no_more_than_its_window_and_one_item_under_way(self) -> None:
        most = SETTINGS.max_message_bytes + ITEM_OVERHEAD_BYTES
        for session in self.pair.sessions:
            for channel in (*session._sending.channels(), *session._receiving.channels()):
                assert -most < channel.credit <= SETTINGS.window_bytes

    @invariant()
    def what_is_kept_for_a_resumption_is_bounded(self) -> None:
        most = SETTINGS.max_unacknowledged_bytes + BATCH_BYTES + 2 * MAX_FRAME_BYTES
        for session in self.pair.sessions:
            assert session.unacknowledged_bytes <= most + MOST_CONTROL_BYTES

    def teardown(self) -> None:
        """In the end everything arrives, is acknowledged and consumed, and every channel closes."""
        for _ in range(1000):
            if not self.settle():
                break
        assert not any(self.expected.values())
        assert not any(self.replies[0].values())
        assert not any(self.replies[1].values())
        assert not any(self.outstanding.values())
        assert len(self.streams) == len(self.open_streams)
        assert all(stream.got == stream.sent for stream in self.streams.values())
        for session in self.pair.sessions:
            assert session._sending._open_reassembly_bytes == 0
            assert session._receiving._reassembly_bytes == 0
            assert session.queued_items == session.unacknowledged_bytes == 0
            assert not session.acknowledgement_owed
            assert session.drained
        for _ in range(3):
            for session in self.pair.sessions:
                session.close_idle_channels()
            while self.settle():
                pass
        for (side, target), channel in self.channels.items():
            assert channel.credit == SETTINGS.window_bytes
            reopened = self.pair.sessions[side].channel(target)
            assert (reopened is channel) == (target == CONTROL)
        for side, target in self.streams:
            assert self.pair.sessions[side].channel(target).credit == SETTINGS.window_bytes

    def settle(self) -> bool:
        """Let everything move one step; False when nothing did."""
        moved = False
        for side in (0, 1):
            self.pair.sessions[side].acknowledge()
            self.pair.write(side)
            moved = bool(self.pair.wires[side]) or moved
            self.arrived(side, self.pair.deliver(side))
            moved = bool(self.held[1 - side]) or moved
            self.consume(1 - side, len(self.held[1 - side]))
        return moved


TestSessions = Sessions.TestCase
TestSessions.settings = settings(
    max_examples=60,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
