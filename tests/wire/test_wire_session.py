"""Sessions by example: who goes first, what a resumption sends again, when channels close."""

from __future__ import annotations

from dataclasses import replace

import pytest
from wire_pair import SETTINGS, Pair, bodies_in, frames_in, limits_of, send

from steinadler.config import WireSettings
from steinadler.errors import LocalProtocolError, RemoteProtocolError
from steinadler.wire.channels import (
    CONTROL,
    ITEM_OVERHEAD_BYTES,
    InboundChannel,
    ToName,
    ToNode,
    ToProcess,
)
from steinadler.wire.frames import (
    HEADER_BYTES,
    MAX_FRAME_BYTES,
    MAX_ITEM_BYTES,
    MAX_PAYLOAD_BYTES,
    FrameType,
)
from steinadler.wire.session import (
    ACKNOWLEDGE_AFTER_BYTES,
    BATCH_BYTES,
    Arrived,
    Event,
    GoodbyeReceived,
    Gossiped,
    Granted,
    PeerLimits,
    Session,
)

ALICE, BOB, CAROL = ToProcess(1), ToProcess(2), ToName("carol")
LARGE = b"L" * 90_000
ROOMY = WireSettings()


def channels_of(events: list[Event]) -> list[InboundChannel]:
    return [event.channel for event in events if isinstance(event, Arrived)]


def whole_stream(pair: Pair) -> bytes:
    data = b""
    while batch := pair.write(0):
        data += batch
    return data


# -- before and between connections -----------------------------------------------------------


def test_nothing_is_sent_and_nothing_has_credit_before_the_first_connection() -> None:
    pair = Pair(connected=False)
    session = pair.sessions[0]
    assert not session.channel(ALICE).take_credit(1)
    session.enqueue_signal(b"early")
    assert session.data_to_send() == b""
    assert not session.wants_to_send
    pair.resume()
    assert bodies_in(pair.exchange(0)) == [b"early"]
    assert session.channel(ALICE).credit == SETTINGS.window_bytes


def test_a_resumption_sends_again_exactly_what_did_not_arrive() -> None:
    """M2, M3: cut in the middle of a batch, the rest comes again from the next whole frame."""
    pair = Pair(ROOMY)
    items = [bytes([n]) * 10_000 for n in range(20)]
    for item in items:
        send(pair.sessions[0], ALICE, item)
    data = whole_stream(pair)
    frames = frames_in(data)
    for cut in (0, 1, HEADER_BYTES, len(data) // 2, len(data) // 2 + 9, len(data) - 1, len(data)):
        pair = Pair(ROOMY)
        for item in items:
            send(pair.sessions[0], ALICE, item)
        assert whole_stream(pair) == data
        got = bodies_in(pair.deliver(0, cut))
        arrived = pair.sessions[1].last_received
        assert arrived == len(frames_in(data[:cut]))
        pair.resume()
        resent = frames_in(whole_stream(pair))
        assert [frame.sequence for frame in resent] == [f.sequence for f in frames[arrived:]]
        assert got + bodies_in(pair.deliver(0)) == items
        pair.acknowledge(1)
        assert pair.sessions[0].unacknowledged_bytes == 0
        assert pair.sessions[0].counters.resumptions == 1
        assert pair.sessions[0].counters.bytes_retransmitted == sum(
            HEADER_BYTES + len(frame.payload) for frame in resent
        )


def test_a_connection_that_breaks_in_the_middle_of_a_replay_loses_nothing() -> None:
    """M1-M3: and what is queued meanwhile comes behind what is sent again."""
    pair = Pair(ROOMY)
    items = [bytes([n]) * 9_000 for n in range(40)]
    for item in items[:30]:
        send(pair.sessions[0], ALICE, item)
    whole_stream(pair)
    got = bodies_in(pair.deliver(0, 20_000))
    for step, cut in enumerate((70_000, 0, 3, 65_000, 30_000)):
        pair.resume()
        send(pair.sessions[0], ALICE, items[30 + step])
        pair.write(0)
        pair.write(0)
        got += bodies_in(pair.deliver(0, cut))
    pair.resume()
    for item in items[35:]:
        send(pair.sessions[0], ALICE, item)
    assert got + bodies_in(pair.exchange(0)) == items
    assert pair.sessions[0].unacknowledged_bytes == 0


def test_an_acknowledgement_of_part_of_a_batch_keeps_the_batch_until_a_resumption_trims_it() -> (
    None
):
    pair = Pair(ROOMY)
    for n in range(10):
        send(pair.sessions[0], ALICE, bytes([n]) * 10_000)
    data = pair.write(0)
    pair.deliver(0, len(data) // 2)
    before = pair.sessions[0].unacknowledged_bytes
    assert before == len(data)
    pair.acknowledge(1)
    assert pair.sessions[0].unacknowledged_bytes == before
    pair.resume()
    assert 0 < pair.sessions[0].unacknowledged_bytes < before


@pytest.mark.parametrize("claimed", [1, 5, 2**64 - 1])
def test_a_peer_that_claims_frames_never_sent_cannot_resume(claimed: int) -> None:
    session = Session(SETTINGS)
    session.connected(limits_of(SETTINGS), 0)
    with pytest.raises(RemoteProtocolError, match="can only be"):
        session.connected(limits_of(SETTINGS), claimed)


def test_a_peer_that_forgot_frames_it_acknowledged_cannot_resume() -> None:
    """D3: it is not the life that we knew."""
    pair = Pair()
    send(pair.sessions[0], ALICE, b"one")
    pair.exchange(0)
    with pytest.raises(RemoteProtocolError, match="can only be 2 to 2"):
        pair.sessions[0].connected(limits_of(SETTINGS), 0)


def test_gossip_and_goodbye_belong_to_one_connection() -> None:
    pair = Pair()
    pair.sessions[0].gossip(b"news")
    pair.resume()
    assert pair.write(0) == b""
    pair.sessions[0].gossip(b"newer")
    pair.sessions[0].goodbye("closing \udcff" + "x" * 5000)
    gossip, goodbye = pair.exchange(0)
    assert gossip == Gossiped(b"newer")
    assert isinstance(goodbye, GoodbyeReceived)
    assert goodbye.reason.startswith("closing \\udcff")
    assert len(goodbye.reason) == 1024
    with pytest.raises(LocalProtocolError):
        pair.sessions[0].gossip(bytes(MAX_PAYLOAD_BYTES + 1))


# -- acknowledgements -------------------------------------------------------------------------


def test_acknowledgements_ride_along_and_go_alone_only_when_asked() -> None:
    pair = Pair()
    send(pair.sessions[0], ALICE, b"one")
    pair.write(0)
    pair.deliver(0)
    receiver = pair.sessions[1]
    assert receiver.acknowledgement_owed
    assert receiver.data_to_send() == b""
    send(receiver, BOB, b"two")
    types = [frame.type for frame in frames_in(pair.write(1))]
    assert types == [FrameType.ACKNOWLEDGE, FrameType.OPEN, FrameType.MESSAGES]
    assert not receiver.acknowledgement_owed
    pair.deliver(1)
    assert pair.sessions[0].unacknowledged_bytes == 0


def test_much_without_an_acknowledgement_makes_one_urgent_until_it_is_sent_or_resumed() -> None:
    pair = Pair(ROOMY)
    body = bytes(ACKNOWLEDGE_AFTER_BYTES // 2)
    receiver = pair.sessions[1]
    for resumed in (False, True):
        send(pair.sessions[0], ALICE, body)
        while pair.write(0):
            pair.deliver(0)
        assert not receiver.acknowledgement_urgent
        send(pair.sessions[0], ALICE, body)
        while pair.write(0):
            pair.deliver(0)
        assert receiver.acknowledgement_urgent
        pair.resume() if resumed else pair.acknowledge(1)
        assert not receiver.acknowledgement_urgent


def test_a_full_retransmission_buffer_blocks_all_but_control_until_acknowledged() -> None:
    pair = Pair(replace(ROOMY, max_unacknowledged_bytes=50_000))
    sender = pair.sessions[0]
    for target in (ALICE, BOB):
        send(sender, target, bytes(70_000))
    send(sender, CAROL, b"small")
    while pair.write(0):
        pass
    stuck = sender.unacknowledged_bytes
    assert 50_000 <= stuck <= 50_000 + BATCH_BYTES + MAX_FRAME_BYTES
    assert not sender.wants_to_send
    sender.enqueue_signal(b"urgent")
    assert [frame.type for frame in frames_in(pair.write(0))] == [FrameType.SIGNALS]
    events = pair.deliver(0)
    pair.acknowledge(1)
    assert sender.wants_to_send
    events += pair.exchange(0)
    assert sorted(map(len, bodies_in(events))) == [5, 6, 70_000, 70_000]
    assert sender.drained


def test_large_items_on_the_way_leave_the_rest_to_messages() -> None:
    """M6: what is sent behind them waits for no more than that."""
    pair = Pair(replace(ROOMY, max_unacknowledged_bulk_bytes=50_000))
    sender = pair.sessions[0]
    send(sender, ALICE, bytes(500_000))
    while pair.write(0):
        pass
    assert 50_000 <= sender.unacknowledged_bytes <= 50_000 + 2 * MAX_FRAME_BYTES
    send(sender, BOB, b"small")
    assert [frame.type for frame in frames_in(pair.write(0))] == [
        FrameType.OPEN,
        FrameType.MESSAGES,
    ]
    got: list[bytes] = []
    while not sender.drained:
        got += bodies_in(pair.deliver(0))
        pair.acknowledge(1)
        pair.write(0)
    assert list(map(len, got)) == [5, 500_000]


def test_messages_on_the_way_do_not_keep_large_items_back() -> None:
    pair = Pair(replace(ROOMY, max_unacknowledged_bulk_bytes=50_000))
    sender = pair.sessions[0]
    for _ in range(10):
        send(sender, BOB, bytes(10_000))
    while pair.write(0):
        pass
    send(sender, ALICE, bytes(40_000))
    assert len(pair.write(0)) > 40_000


def test_a_blocked_session_still_acknowledges() -> None:
    """Else two that flood each other would stop for ever."""
    pair = Pair(replace(ROOMY, max_unacknowledged_bytes=20_000))
    for side in (0, 1):
        send(pair.sessions[side], ALICE, bytes(200_000))
        while pair.write(side):
            pass
    got: list[bytes] = []
    for _ in range(100):
        for side in (0, 1):
            got += bodies_in(pair.deliver(side))
            pair.sessions[1 - side].acknowledge()
            pair.write(1 - side)
    assert list(map(len, got)) == [200_000, 200_000]


# -- who goes first ---------------------------------------------------------------------------


def test_control_goes_before_messages_and_messages_before_bulk() -> None:
    """M6."""
    pair = Pair(ROOMY)
    session = pair.sessions[0]
    send(session, ALICE, LARGE)
    send(session, BOB, b"small")
    session.enqueue_reply(b"reply")
    session.enqueue_signal(b"signal")
    types = [frame.type for frame in frames_in(pair.write(0)) if frame.type != FrameType.OPEN]
    assert types[:4] == [
        FrameType.SIGNALS,
        FrameType.MESSAGES,
        FrameType.REPLIES,
        FrameType.FRAGMENT,
    ]


@pytest.mark.parametrize("floods", [1, 5])
def test_a_small_message_waits_for_at_most_one_batch_and_one_bulk_frame_per_round(
    floods: int,
) -> None:
    """M6: however many large messages are on their way."""
    pair = Pair(replace(ROOMY, window_bytes=1 << 30))
    session = pair.sessions[0]
    for number in range(floods):
        for _ in range(3):
            send(session, ToProcess(100 + number), bytes(2_000_000))
    pair.write(0)
    for target in (ALICE, BOB):
        for n in range(3):
            send(session, target, bytes([n]) * MAX_ITEM_BYTES)
    data = pair.write(0) + pair.write(0) + pair.write(0)
    assert len(data) <= 3 * (BATCH_BYTES + 2 * MAX_FRAME_BYTES)
    order = [
        "bulk" if frame.type == FrameType.FRAGMENT else "small"
        for frame in frames_in(data)
        if frame.type != FrameType.OPEN
    ]
    assert order.count("small") == 6
    until_last_small = "".join(kind[0] for kind in order).rstrip("b")
    assert "bb" not in until_last_small
    assert "b" in until_last_small


def test_bulk_is_not_starved_by_messages() -> None:
    pair = Pair(replace(ROOMY, window_bytes=1 << 30))
    session = pair.sessions[0]
    send(session, ToName("bulk"), bytes(40_000))
    for number in range(30):
        send(session, ToProcess(number), bytes(MAX_ITEM_BYTES))
    data = pair.write(0)
    assert len(data) <= BATCH_BYTES + 2 * MAX_FRAME_BYTES
    assert [frame.type for frame in frames_in(data)].count(FrameType.FRAGMENT) == 1


def test_after_each_round_of_messages_comes_one_bulk_frame() -> None:
    pair = Pair(ROOMY)
    session = pair.sessions[0]
    send(session, BOB, LARGE)
    for _ in range(2):
        send(session, ALICE, bytes(MAX_ITEM_BYTES))
    types = [frame.type for frame in frames_in(pair.write(0)) if frame.type != FrameType.OPEN]
    message, bulk = FrameType.MESSAGES, FrameType.FRAGMENT
    assert types[:4] == [message, bulk, message, bulk]


def test_a_large_reply_has_a_lane_of_its_own_and_holds_no_small_one_back() -> None:
    """M6: and the lane closes behind it."""
    pair = Pair(ROOMY)
    session = pair.sessions[0]
    session.enqueue_reply(LARGE)
    session.enqueue_reply(LARGE[:-1])
    session.enqueue_reply(b"small")
    events = pair.exchange(0)
    assert sorted(map(len, bodies_in(events))) == [5, len(LARGE) - 1, len(LARGE)]
    assert bodies_in(events)[0] == b"small"
    lanes = [channel.target for channel in channels_of(events)]
    assert lanes[0] == ToNode(1)
    assert len(set(lanes)) == 3
    assert session.drained
    # More of them than there may be channels: none was left open.
    pair = Pair(replace(ROOMY, max_channels=4))
    for _ in range(20):
        pair.sessions[0].enqueue_reply(LARGE)
        assert bodies_in(pair.exchange(0)) == [LARGE]


def test_a_channel_keeps_its_order_through_small_large_and_signals() -> None:
    """M1, with Down behind what the ended process had sent."""
    pair = Pair(ROOMY)
    session = pair.sessions[0]
    bodies = [b"a", LARGE, b"b", bytes(MAX_ITEM_BYTES), bytes(MAX_ITEM_BYTES + 1), b"", b"c"]
    for body in bodies:
        send(session, ALICE, body)
    session.enqueue_signal(b"down", ALICE)
    send(session, ALICE, b"call", FrameType.CALLS)
    events = pair.exchange(0)
    assert bodies_in(events) == [*bodies, b"down", b"call"]
    assert {channel.target for channel in channels_of(events)} == {ALICE}


def test_a_signal_too_long_for_a_frame_is_fragmented() -> None:
    pair = Pair(ROOMY)
    long = bytes(MAX_ITEM_BYTES + 100)
    pair.sessions[0].enqueue_signal(long)
    pair.sessions[0].enqueue_signal(b"next")
    assert bodies_in(pair.exchange(0)) == [long, b"next"]


def test_small_items_of_a_channel_share_frames() -> None:
    pair = Pair(ROOMY)
    for n in range(1000):
        send(pair.sessions[0], ALICE, b"%03d" % n)
    data = pair.write(0)
    assert len(frames_in(data)) == 2
    assert bodies_in(pair.deliver(0)) == [b"%03d" % n for n in range(1000)]


# -- large items and the room to put them together --------------------------------------------


def test_large_items_are_begun_only_as_far_as_the_peer_has_room() -> None:
    """X4 at the receiver, which would otherwise close the connection."""
    pair = Pair()
    for number in range(6):
        send(pair.sessions[0], ToProcess(number), LARGE)
    assert bodies_in(pair.exchange(0)) == [LARGE] * 6


def test_an_item_that_waits_for_room_is_not_overtaken_for_ever() -> None:
    """The largest begins in its turn, though smaller ones would fit all the time."""
    pair = Pair(replace(SETTINGS, window_bytes=1 << 30, max_unacknowledged_bytes=1 << 30))
    session = pair.sessions[0]
    # Of different lengths, so that there is never a moment at which all of them are between two.
    for number, size in enumerate((41_000, 47_000, 53_000)):
        for _ in range(20):
            send(session, ToProcess(number), bytes(size))
    session.enqueue_reply(bytes(SETTINGS.max_message_bytes))
    sizes = list(map(len, bodies_in(pair.exchange(0))))
    assert len(sizes) == 61
    assert sizes.index(SETTINGS.max_message_bytes) < 10


def test_the_smaller_end_sets_the_largest_message() -> None:
    session = Session(SETTINGS)
    assert session.max_message_bytes == SETTINGS.max_message_bytes
    session.connected(PeerLimits(1, 50, 50), 0)
    assert session.max_message_bytes == 50


# -- credit -----------------------------------------------------------------------------------


def test_a_channel_without_credit_holds_back_nobody_else() -> None:
    """M6."""
    pair = Pair()
    session = pair.sessions[0]
    send(session, ALICE, bytes(SETTINGS.window_bytes))
    assert not session.channel(ALICE).take_credit(0)
    send(session, BOB, b"free")
    assert bodies_in(pair.exchange(0)) == [b"free", bytes(SETTINGS.window_bytes)]


def test_an_item_larger_than_the_window_needs_only_some_credit() -> None:
    pair = Pair()
    session = pair.sessions[0]
    send(session, ALICE, b"x" * 19_000)
    send(session, ALICE, LARGE)
    channel = session.channel(ALICE)
    assert channel.credit == SETTINGS.window_bytes - 19_000 - 90_000 - 2 * ITEM_OVERHEAD_BYTES
    assert not channel.take_credit(0)
    assert len(bodies_in(pair.exchange(0))) == 2


def test_credit_comes_back_in_half_windows_and_wakes_the_sender() -> None:
    pair = Pair()
    channel = send(pair.sessions[0], ALICE, bytes(20_000))
    (inbound,) = channels_of(pair.exchange(0))
    receiver = pair.sessions[1]
    assert receiver.consumed(inbound, 20_000)
    pair.write(1)
    assert pair.deliver(1) == [Granted(ALICE)]
    assert channel.credit == SETTINGS.window_bytes
    for n in range(3):
        send(pair.sessions[0], ALICE, bytes(3_000))
        assert channels_of(pair.exchange(0)) == [inbound]
        assert not receiver.consumed(inbound, 3_000), n
    assert pair.write(1) == b""


def test_a_grant_that_leaves_the_channel_overdrawn_wakes_nobody() -> None:
    pair = Pair()
    send(pair.sessions[0], ALICE, b"x" * 12_000)
    send(pair.sessions[0], ALICE, LARGE)
    (first, inbound) = channels_of(pair.exchange(0))
    assert first is inbound
    assert pair.sessions[1].consumed(inbound, 12_000)
    pair.write(1)
    assert pair.deliver(1) == []
    assert pair.sessions[1].consumed(inbound, len(LARGE))
    pair.write(1)
    assert pair.deliver(1) == [Granted(ALICE)]


# -- closing idle channels --------------------------------------------------------------------


def sweep(pair: Pair) -> None:
    for side in (0, 1):
        pair.sessions[side].close_idle_channels()
    for side in (0, 1):
        pair.exchange(side)


def test_an_idle_channel_closes_once_its_items_are_consumed_and_opens_again() -> None:
    pair = Pair()
    session = pair.sessions[0]
    first = send(session, ALICE, b"one")
    (inbound,) = channels_of(pair.exchange(0))
    for _ in range(4):
        sweep(pair)
    assert session.channel(ALICE) is first  # its item still waits at the receiver
    pair.consume(1, inbound, b"one")
    for _ in range(3):
        sweep(pair)
    second = send(session, ALICE, b"two")
    assert second.id != first.id
    (reopened,) = channels_of(pair.exchange(0))
    assert reopened is not inbound
    assert reopened.target == ALICE
    assert not pair.sessions[1].consumed(inbound, 20_000)  # nothing is granted on a closed one


def test_a_channel_in_use_or_with_something_queued_stays_open() -> None:
    pair = Pair()
    session = pair.sessions[0]
    used = session.channel(ALICE)
    for _ in range(3):
        assert not session.close_idle_channels()
        assert session.channel(ALICE) is used
    queued = session.channel(BOB)
    session.enqueue_signal(b"waits", BOB)
    for _ in range(3):
        session.close_idle_channels()
    assert session.channel(BOB) is queued
    session.close_idle_channels()
    session.close_idle_channels()
    # Never announced: it goes without a word, and nothing refers to it afterwards.
    assert session.channel(ALICE) is not used
    assert bodies_in(pair.exchange(0)) == [b"waits"]


def test_a_sender_that_was_just_granted_credit_finds_its_channel_open() -> None:
    """The grant arrives, the sweep runs, and only then the waiting task."""
    pair = Pair()
    session = pair.sessions[0]
    channel = send(session, ALICE, bytes(20_000))
    (inbound,) = channels_of(pair.exchange(0))
    session.close_idle_channels()
    session.close_idle_channels()
    pair.consume(1, inbound, bytes(20_000))
    pair.exchange(1)
    session.close_idle_channels()
    assert channel.take_credit(1)
    session.enqueue(channel, FrameType.MESSAGES, b"x")
    assert bodies_in(pair.exchange(0)) == [b"x"]


def test_credit_in_flight_to_a_channel_that_closes_is_ignored() -> None:
    pair = Pair()
    session = pair.sessions[0]
    send(session, ALICE, b"one")
    (inbound,) = channels_of(pair.exchange(0))
    pair.consume(1, inbound, b"one")
    for _ in range(3):
        sweep(pair)
    assert session.channel(ALICE).id != inbound.id
    late = Pair().sessions[0]
    late.connected(limits_of(SETTINGS), 0)
    grant = bytes.fromhex("0008 83 00 00000002 0000000000000001") + (5).to_bytes(8, "big")
    assert late.receive(grant) == []


def test_control_and_replies_never_close() -> None:
    pair = Pair()
    control = pair.sessions[0].channel(CONTROL)
    for _ in range(5):
        sweep(pair)
    assert pair.sessions[0].channel(CONTROL) is control
    pair.sessions[0].enqueue_reply(b"reply")
    pair.sessions[0].enqueue_signal(b"signal")
    assert bodies_in(pair.exchange(0)) == [b"signal", b"reply"]


def test_counters_add_up() -> None:
    pair = Pair()
    send(pair.sessions[0], ALICE, b"one")
    send(pair.sessions[0], ALICE, LARGE)
    written = pair.write(0)
    while data := pair.write(0):
        written += data
    pair.deliver(0)
    sent, received = pair.sessions[0].counters, pair.sessions[1].counters
    assert sent.items_sent == received.items_received == 2
    assert sent.bytes_sent == received.bytes_received == len(written)
