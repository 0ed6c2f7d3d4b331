"""Two sessions against a model: whatever is queued, cut, resumed, consumed and swept, every item
arrives exactly once and in order on its channel (M1, M2, M3), and credit is neither made nor lost.
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

    @rule(side=SIDES)
    def gossip(self, side: int) -> None:
        self.pair.sessions[side].gossip(b"gossip")

    @rule(side=SIDES, count=st.integers(1, 5))
    def consume(self, side: int, count: int) -> None:
        held = self.held[side]
        for _ in range(min(count, len(held))):
            channel, body = held.popleft()
            self.pair.consume(side, channel, body)
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
            for body in event.bodies:
                if isinstance(target, ToNode) and target != CONTROL:
                    assert event.type is FrameType.REPLIES
                    assert self.replies[side][body] > 0
                    self.replies[side][body] -= 1
                else:
                    assert self.expected[side, target].popleft() == (event.type, body)
                if event.type in (FrameType.MESSAGES, FrameType.CALLS):
                    self.held[1 - side].append((event.channel, body))

    # -- what always holds --------------------------------------------------------------------

    @invariant()
    def credit_is_conserved(self) -> None:
        window = SETTINGS.window_bytes
        for key, channel in self.channels.items():
            owed = window - channel.credit - self.outstanding[key]
            assert owed >= 0  # consumed there, and not yet granted here
            assert self.outstanding[key] < window + SETTINGS.max_message_bytes + ITEM_OVERHEAD_BYTES

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
        for session in self.pair.sessions:
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
    max_examples=150,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
