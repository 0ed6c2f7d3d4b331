"""X4: what a peer says of streams closes its own connection at the worst.

It takes up no more than its limits allow, and what others have open with the node goes on.
"""

from __future__ import annotations

import struct
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import Any

import pytest
import trio
from raw_peer import RawPeer, raw_peer

from steinadler import ByteStream, Config, Node, StreamListener, StreamSettings, WireSettings
from steinadler.identity import NodeId
from steinadler.node import runtime
from steinadler.node.calls import Status, decode_error
from steinadler.wire import plain
from steinadler.wire.channels import CONTROL, ToName, ToProcess, ToStream
from steinadler.wire.codec import Codec, MessageTypes
from steinadler.wire.frames import MAX_PAYLOAD_BYTES, FrameType, encode_frame, unpack_items
from steinadler.wire.session import Arrived
from steinadler.wire.signals import StreamAbort, StreamStop, decode_signal, encode_signal

CODEC = Codec(MessageTypes(), 1 << 20)
WINDOW = 16_384
CONFIG = Config(
    wire=WireSettings(
        window_bytes=WINDOW,
        max_message_bytes=16_384,
        max_queued_reply_bytes=16_384,
        max_unacknowledged_bytes=65_536,
        max_unacknowledged_bulk_bytes=65_536,
    ),
    streams=StreamSettings(max_streams=20),
)
BACKLOG = 10
WINDOW_OF_PEER = WireSettings().window_bytes


@pytest.fixture
async def node(nodes: Any, monkeypatch: pytest.MonkeyPatch) -> Node:
    # Mallory does not come back for what it is owed.
    monkeypatch.setattr(runtime, "GOODBYE_PATIENCE_S", 0.1)
    opened: Node = await nodes.open("alice", config=CONFIG)
    return opened


@pytest.fixture
def listener(node: Node) -> StreamListener:
    return node.listen("service", backlog=BACKLOG)


class StreamPeer:
    """Mallory, who knows how to open a stream and to say anything on it."""

    def __init__(self, raw: RawPeer) -> None:
        self.raw = raw
        self.session = raw.session
        self._last_call = 0
        self._last_channel = 100

    async def say(self) -> None:
        await self.raw.send_session()

    async def ask(self, *request: object) -> tuple[int, Any]:
        """Call `$streams`, and wait for the answer: (status, value or error's type name)."""
        self._last_call += 1
        call = struct.pack(">Q", self._last_call) + CODEC.encode(request)
        self.session.enqueue(self.session.channel(ToName("$streams")), FrameType.CALLS, call)
        await self.say()
        while (frame := await self.raw.next_frame()) is not None:
            if frame.type == FrameType.REPLIES:
                for body in unpack_items(frame.payload):
                    id_, status = struct.unpack_from(">QB", body)
                    if id_ == self._last_call:
                        answer = body[9:]
                        value = (
                            CODEC.decode(answer)
                            if status == Status.REPLIED
                            else decode_error(answer)
                        )
                        return status, getattr(value, "type_name", value)
        raise AssertionError("it closed the connection")

    async def connect(self, number: int) -> tuple[int, Any]:
        return await self.ask("connect", "service", number)

    async def signal(self, signal: StreamStop | StreamAbort) -> None:
        self.session.enqueue_signal(encode_signal(signal), CONTROL)
        await self.say()

    async def frame(self, type_: FrameType, channel: int, payload: bytes) -> None:
        """A frame of any kind, with the number that is next."""
        await self.raw.say(self._next_frame(type_, channel, payload))

    def _next_frame(self, type_: FrameType, channel: int, payload: bytes) -> bytes:
        self.session._sending.last_sent += 1
        sequence = self.session._sending.last_sent
        return encode_frame(type_, channel=channel, sequence=sequence, payload=payload)

    def never_opened(self) -> list[bytes]:
        """Frames that open, use and close a channel to a stream that is not there."""
        self._last_channel += 1
        target = b"\x03\x01" + self._last_channel.to_bytes(8, "big")
        said = ((FrameType.OPEN, target), (FrameType.BYTES, b"x"), (FrameType.CLOSE, b""))
        return [self._next_frame(type_, self._last_channel, payload) for type_, payload in said]

    def channel(self, target: Any) -> int:
        """A channel of ours; its OPEN goes before whatever is said next by the session."""
        return self.session.channel(target).id

    async def send_bytes(self, data: bytes, target: ToStream) -> int:
        self.session.enqueue(self.session.channel(target), FrameType.BYTES, data)
        await self.say()
        return self.channel(target)

    async def send_object(self, body: bytes, target: ToStream) -> None:
        self.session.enqueue(self.session.channel(target), FrameType.MESSAGES, body)
        await self.say()


@pytest.fixture
async def peer(node: Node, nodes: Any) -> AsyncIterator[StreamPeer]:
    async with raw_peer(node, nodes.home) as raw:
        with trio.fail_after(5):
            await raw.shake_hands()
            await node.wait_for_member("mallory")
        yield StreamPeer(raw)


TO_NODE = ToStream(1, by_sender=True)  # what a stream's opener sends


async def accepted(peer: StreamPeer, listener: StreamListener, number: int = 1) -> ByteStream:
    with trio.fail_after(5):
        assert await peer.connect(number) == (Status.REPLIED, None)
        return await listener.accept()


# -- what closes the connection -------------------------------------------------------------------


async def bytes_to_a_process(peer: StreamPeer) -> None:
    peer.session.enqueue(peer.session.channel(ToProcess(1)), FrameType.BYTES, b"x")
    await peer.say()


async def an_empty_piece(peer: StreamPeer) -> None:
    channel = await peer.send_bytes(b"x", TO_NODE)
    await peer.frame(FrameType.BYTES, channel, b"")


async def bytes_after_the_end(peer: StreamPeer) -> None:
    channel = await peer.send_bytes(b"x", TO_NODE)
    await peer.frame(FrameType.CLOSE, channel, b"")
    await peer.frame(FrameType.BYTES, channel, b"y")


async def a_second_end(peer: StreamPeer) -> None:
    channel = await peer.send_bytes(b"x", TO_NODE)
    await peer.frame(FrameType.CLOSE, channel, b"")
    await peer.frame(FrameType.CLOSE, channel, b"")


async def a_second_channel(peer: StreamPeer) -> None:
    await peer.send_bytes(b"x", TO_NODE)
    await peer.frame(FrameType.OPEN, 99, b"\x03\x01" + (1).to_bytes(8, "big"))


async def more_than_its_credit(peer: StreamPeer) -> None:
    for _ in range(3):
        await peer.send_bytes(bytes(8_192), TO_NODE)


async def objects_on_a_byte_stream(peer: StreamPeer) -> None:
    await peer.send_object(CODEC.encode("object"), TO_NODE)


async def objects_among_bytes(peer: StreamPeer) -> None:
    await peer.send_bytes(b"x", TO_NODE)
    await peer.send_object(CODEC.encode("object"), TO_NODE)


async def calls_on_a_stream(peer: StreamPeer) -> None:
    peer.session.enqueue(peer.session.channel(TO_NODE), FrameType.CALLS, bytes(9))
    await peer.say()


async def an_end_that_says_no_reason(peer: StreamPeer) -> None:
    channel = await peer.send_bytes(b"x", TO_NODE)
    await peer.frame(FrameType.CLOSE, channel, b"\xff\xff")


async def an_end_of_a_wrong_kind(peer: StreamPeer) -> None:
    channel = await peer.send_bytes(b"x", TO_NODE)
    await peer.frame(FrameType.CLOSE, channel, plain.dumps({"type": 1}))


async def an_end_with_a_huge_reason(peer: StreamPeer) -> None:
    channel = await peer.send_bytes(b"x", TO_NODE)
    await peer.frame(FrameType.CLOSE, channel, plain.dumps(["E", "x" * 16_000]))


async def an_unknown_streams_end_says_no_reason(peer: StreamPeer) -> None:
    channel = await peer.send_bytes(b"x", ToStream(9, by_sender=True))
    await peer.frame(FrameType.CLOSE, channel, b"\xff\xff")


async def a_stop_that_is_none(peer: StreamPeer) -> None:
    peer.session.enqueue_signal(plain.dumps([8, -1, True, None]), CONTROL)
    await peer.say()


@pytest.mark.parametrize(
    "crime",
    [
        bytes_to_a_process,
        an_empty_piece,
        bytes_after_the_end,
        a_second_end,
        a_second_channel,
        more_than_its_credit,
        objects_on_a_byte_stream,
        objects_among_bytes,
        calls_on_a_stream,
        an_end_that_says_no_reason,
        an_end_of_a_wrong_kind,
        an_end_with_a_huge_reason,
        an_unknown_streams_end_says_no_reason,
        a_stop_that_is_none,
    ],
    ids=lambda crime: crime.__name__,
)
async def test_a_broken_rule_closes_that_peer_alone_x4(
    node: Node,
    peer: StreamPeer,
    listener: StreamListener,
    nodes: Any,
    crime: Callable[[StreamPeer], Any],
    caplog: pytest.LogCaptureFixture,
) -> None:
    bob = await nodes.open("bob", config=CONFIG)
    with trio.fail_after(10):
        await bob.wait_for_member("alice")
        near = await bob.connect("service@alice")
        far = await listener.accept()
        stream = await accepted(peer, listener)
        await crime(peer)
        await peer.raw.wait_closed()
        assert "closed the connection to mallory: protocol error" in caplog.text
        with suppress(trio.BrokenResourceError):  # what had arrived is there, and then an end
            while data := await stream.receive_some():
                assert set(data) <= set(b"x\x00")
        with pytest.raises(trio.BrokenResourceError):
            await stream.send_all(b"to nobody")
        await near.send_all(b"still here")
        assert await far.receive_some() == b"still here"
        # Bob may also have been asked to relay to whoever is gone.
        assert {each.peer for each in node.stream_statistics()} == {bob.id}


# -- what is refused, or means nothing ------------------------------------------------------------


REQUESTS_WITHOUT_SENSE: tuple[tuple[object, ...], ...] = (
    ("connect",),
    ("connect", "service"),
    ("connect", "service", 0),
    ("connect", "service", -1),
    ("connect", "service", 2**64),
    ("connect", "service", "1"),
    ("connect", b"service", 1),
    ("connect", None, 1),
    ("connect", "service", 1, "more"),
    ("source", "token", 1),
    ("sink", 1.5, 1),
    ("steal", 1, 1),
    (),
)


async def test_a_question_that_makes_no_sense_is_answered_so(
    node: Node, peer: StreamPeer, listener: StreamListener
) -> None:
    with trio.fail_after(5):
        for request in REQUESTS_WITHOUT_SENSE:
            assert await peer.ask(*request) == (Status.FAILED, "ConfigError"), request
        assert await peer.ask("connect", "no such", 1) == (Status.FAILED, "NoSuchService")
        assert await peer.ask("source", 12345, 1) == (Status.FAILED, "ClaimError")
        assert await peer.ask("sink", 2**70, 1) == (Status.FAILED, "ClaimError")
    assert node.stream_statistics() == ()
    assert not listener.waiting


async def test_a_number_in_use_is_refused_and_nothing_is_made_of_it(
    node: Node, peer: StreamPeer, listener: StreamListener
) -> None:
    """Also when one direction of the stream has ended: what was made of the other would leak."""
    stream = await accepted(peer, listener)
    with trio.fail_after(5):
        assert await peer.connect(1) == (Status.FAILED, "RemoteProtocolError")
        peer.session.end_stream(TO_NODE, b"")
        await peer.say()
        assert await stream.receive_some() == b""
        assert await peer.connect(1) == (Status.FAILED, "RemoteProtocolError")
        await stream.aclose()
        assert node.stream_statistics() == ()
        assert not listener.waiting


@pytest.mark.parametrize("away", ["source", "sink"])
async def test_a_claim_under_a_number_in_use_leaves_the_offer_to_others(
    node: Node, peer: StreamPeer, listener: StreamListener, away: str
) -> None:
    await accepted(peer, listener)
    send, receive = node.open_channel()
    reference = receive.ref() if away == "source" else send.ref()
    with trio.fail_after(5):
        assert await peer.ask(away, reference.token, 1) == (Status.FAILED, "RemoteProtocolError")
        claimed: Any = await node.claim(reference)
        near, far = (send, claimed) if away == "source" else (claimed, receive)
        await near.send("mine")
        assert await far.receive() == "mine"


async def test_stops_and_aborts_for_what_is_not_theirs_do_nothing(
    node: Node, peer: StreamPeer, listener: StreamListener, nodes: Any
) -> None:
    """Streams of another peer, of the node itself, and numbers that nobody has."""
    bob = await nodes.open("bob", config=CONFIG)
    with trio.fail_after(10):
        await bob.wait_for_member("alice")
        pairs = [
            (await opener.connect("service@alice"), await listener.accept())
            for opener in (bob, node)
        ]
        send, receive = node.open_channel()
        for number in range(8):
            for by_sender in (True, False):
                await peer.signal(StreamStop(number, by_sender, ("E", "mine")))
            await peer.signal(StreamAbort(number))
        await peer.signal(StreamAbort(2**64 - 1))
        assert (await peer.ask())[0] == Status.FAILED  # they have arrived
        for near, far in pairs:
            await near.send_all(b"there")
            await far.send_all(b"and back")
            assert await far.receive_some() == b"there"
            assert await near.receive_some() == b"and back"
        await send.send(1)
        assert await receive.receive() == 1


async def test_a_peer_that_stops_what_it_opened_breaks_that_alone(
    node: Node, peer: StreamPeer, listener: StreamListener
) -> None:
    one = await accepted(peer, listener, 1)
    other = await accepted(peer, listener, 2)
    with trio.fail_after(5):
        await peer.signal(StreamStop(1, False, ("ValueError", "enough")))
        await peer.signal(StreamAbort(2))
        with pytest.raises(trio.BrokenResourceError, match="ValueError: enough"):
            while True:
                await one.send_all(b"x")
        with pytest.raises(trio.BrokenResourceError, match="gave up"):
            await other.receive_some()


async def test_connections_beyond_backlog_and_max_streams_are_refused_x4(
    node: Node, peer: StreamPeer, listener: StreamListener
) -> None:
    with trio.fail_after(20):
        answers = [await peer.connect(number) for number in range(1, 200)]
        assert answers.count((Status.REPLIED, None)) == BACKLOG
        assert answers.count((Status.FAILED, "StreamRefused")) == 199 - BACKLOG
        held = [await listener.accept() for _ in range(BACKLOG)]
        held += [
            await listener.accept()
            for number in range(200, 300)
            if (await peer.connect(number))[0] == Status.REPLIED
        ]
        assert len(held) == CONFIG.streams.max_streams
        assert len(node.stream_statistics()) == len(held)
        for stream in held:
            await stream.aclose()
        assert await peer.connect(300) == (Status.REPLIED, None)


async def test_what_is_given_up_does_not_add_up_x4(
    node: Node, peer: StreamPeer, listener: StreamListener
) -> None:
    """Connections that are taken back at once wait to be accepted, and are no more than that."""
    with trio.fail_after(20):
        for number in range(1, 100):
            await peer.connect(number)
            await peer.signal(StreamAbort(number))
        assert (await peer.ask())[0] == Status.FAILED
        assert node.stream_statistics() == ()
        assert listener.waiting == BACKLOG
        while listener.waiting:
            stream = await listener.accept()
            with pytest.raises(trio.BrokenResourceError, match="gave up"):
                await stream.receive_some()


# -- floods ---------------------------------------------------------------------------------------


def stops_in(events: list[Any]) -> list[StreamStop]:
    signals = [
        decode_signal(body)
        for event in events
        if isinstance(event, Arrived) and event.type is FrameType.SIGNALS
        for body in event.bodies
    ]
    return [signal for signal in signals if isinstance(signal, StreamStop)]


async def test_data_for_a_stream_that_is_not_there_is_answered_once_and_costs_nothing(
    node: Node, peer: StreamPeer
) -> None:
    """Its credit comes back: the peer may not have heard yet that nobody takes it."""
    target = ToStream(7, by_sender=True)
    stops: list[StreamStop] = []
    sent = 0
    with trio.fail_after(10):
        while sent < 5 * WINDOW:
            taken = peer.session.enqueue_bytes(
                peer.session.channel(target), memoryview(bytes(4000))
            )
            sent += taken
            await peer.say()
            if not taken:
                events = peer.session.receive(await peer.raw.stream.receive_some())
                stops += stops_in(events)
                peer.session.acknowledge()
    assert stops == [StreamStop(7, True, None)]
    assert node.stream_statistics() == ()


async def test_a_flood_of_streams_that_were_never_opened_is_not_hoarded_x4(
    node: Node, peer: StreamPeer, caplog: pytest.LogCaptureFixture
) -> None:
    """Opened, used and closed, again and again: each is answered, and a peer that does not read
    the answers is cut off when its limit of them waits, beside what the kernels hold."""
    said = 0
    with trio.fail_after(20), suppress(trio.BrokenResourceError):
        while said < 100_000:
            data = [frame for _ in range(500) for frame in peer.never_opened()]
            said += 500
            await peer.raw.say(b"".join(data))
    assert said < 100_000
    assert "it asks and does not read" in caplog.text
    assert node.stream_statistics() == ()
    with trio.fail_after(5):
        assert await node.call("$echo", 1) == 1


async def test_a_peer_that_never_reads_holds_back_one_writer_and_no_memory_x4(
    node: Node, peer: StreamPeer, listener: StreamListener
) -> None:
    stream = await accepted(peer, listener)
    with trio.move_on_after(0.2) as patience:
        await stream.send_all(bytes(100 * WINDOW))
    assert patience.cancelled_caught
    (figures,) = node.stream_statistics()
    assert figures.bytes_sent <= WINDOW_OF_PEER + MAX_PAYLOAD_BYTES
    with trio.fail_after(5):
        assert await node.call("$echo", 1) == 1


async def test_a_lost_peer_ends_what_waits_to_be_accepted(
    node: Node, peer: StreamPeer, listener: StreamListener
) -> None:
    """M4."""
    with trio.fail_after(5):
        await peer.connect(1)
        await peer.raw.say(encode_frame(FrameType.GOODBYE))
        await peer.raw.wait_closed()
        stream = await listener.accept()
        assert isinstance(stream.peer, NodeId)
        with pytest.raises(trio.BrokenResourceError, match="'mallory' is down"):
            await stream.receive_some()
        assert node.stream_statistics() == ()
