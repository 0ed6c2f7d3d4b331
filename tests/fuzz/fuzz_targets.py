"""Invariant: bytes from an authenticated peer close that peer's connection with a reason, at the
worst; nothing else happens.  No exception but `RemoteProtocolError` comes out of what reads them,
what they make this end hold stays within its settings, and other peers' sessions go on (X4).

Each target below is a function of bytes that raises `AssertionError`, or lets another exception
out, when the invariant is broken, and returns when it holds, whatever became of the bytes.
`test_fuzz_targets` replays the corpus and tries structured inputs in every run of the tests;
`run.py` searches for longer and adds what it finds to the corpus.
"""

from __future__ import annotations

import dataclasses
import enum
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fuzz_joining
import fuzz_registry
import fuzz_security
import fuzz_sidecar
from fuzz_streams import SINK_TOKEN, SOURCE_TOKEN, StreamsOfANode

from steinadler.config import MembershipSettings, WireSettings
from steinadler.discovery.records import MAX_ADDRESSES, all_loopback, read_txt, usable_ips
from steinadler.errors import RemoteError, RemoteProtocolError
from steinadler.identity import Address, NodeId, ProcessId
from steinadler.membership import (
    Connected,
    Member,
    Received,
    Send,
    Swim,
    decode,
    encode,
)
from steinadler.membership.messages import Ack, Gossip, Ping, PingRequest, SyncReply, SyncRequest
from steinadler.membership.table import MAX_ENTRIES
from steinadler.node.calls import decode_error, encode_error
from steinadler.wire.channels import (
    CONTROL,
    ITEM_OVERHEAD_BYTES,
    Target,
    ToName,
    ToProcess,
    ToStream,
    encode_target,
)
from steinadler.wire.codec import Codec, MessageTypes
from steinadler.wire.frames import (
    HEADER,
    HEADER_BYTES,
    MAX_ITEM_BYTES,
    MAX_PAYLOAD_BYTES,
    NUMBERED,
    FrameType,
    pack_items,
    split_frame,
)
from steinadler.wire.handshake import (
    Hello,
    Reject,
    RejectReason,
    SessionOffer,
    decode_hello,
    decode_reject,
    encode_hello,
    encode_reject,
    judge_hello,
)
from steinadler.wire.session import Arrived, Event, Gossiped, PeerLimits, Session
from steinadler.wire.signals import (
    CancelCall,
    DemonitorRequest,
    DownNotice,
    ExitNotice,
    LinkRequest,
    MonitorRequest,
    Signal,
    StreamAbort,
    StreamStop,
    UnlinkRequest,
    decode_signal,
    encode_signal,
)

CORPUS = Path(__file__).parent / "corpus"
# What a reason may quote is the peer's, and goes to the log.
MAX_REASON = 1_000

WIRE = WireSettings(
    max_message_bytes=40_000,
    window_bytes=8_000,
    reassembly_bytes=60_000,
    max_unacknowledged_bytes=30_000,
    max_queued_reply_bytes=40_000,
    max_channels=8,
)
LIMITS = PeerLimits(
    WIRE.window_bytes, WIRE.max_message_bytes, WIRE.reassembly_bytes, WIRE.max_channels
)
ALICE, BOB = NodeId("alice", 1_700_000_000_000_000), NodeId("bob", 1_700_000_000_000_001)


def check_told(error: RemoteProtocolError) -> str:
    """The connection closes with a reason that fits a log; return it."""
    assert 0 < len(str(error)) <= MAX_REASON
    return str(error)


# -- sessions ---------------------------------------------------------------------------------


def connected() -> Session:
    """A session with something out that a peer may acknowledge, grant credit for, and close."""
    session = Session(WIRE)
    session.connected(LIMITS, 0)
    session.enqueue_signal(b"a signal")
    channel = session.channel(ToProcess(1))
    channel.take_credit(9)
    session.enqueue(channel, FrameType.MESSAGES, b"a message")
    session.enqueue_bytes(session.channel(ToStream(1, by_sender=True)), memoryview(b"bytes"))
    session.data_to_send()
    return session


def check_within_limits(session: Session) -> None:
    """What the peer has made this end hold."""
    receiving, sending = session._receiving, session._sending
    channels = list(receiving._channels.values())
    assert len(channels) <= WIRE.max_channels
    assert len(receiving._targets) == len(channels)
    most = WIRE.max_message_bytes + ITEM_OVERHEAD_BYTES
    unfinished = [channel.partial for channel in channels if channel.partial is not None]
    assert sum(partial.total for partial in unfinished) == receiving._reassembly_bytes
    assert receiving._reassembly_bytes <= WIRE.reassembly_bytes + ITEM_OVERHEAD_BYTES
    assert all(0 < partial.missing_bytes <= partial.total <= most for partial in unfinished)
    for channel in channels:
        assert -most - ITEM_OVERHEAD_BYTES <= channel.credit + channel.owed <= channel.window
    assert len(session._reader._rest) < HEADER_BYTES + MAX_PAYLOAD_BYTES
    assert set(sending._grants) <= set(receiving._channels)
    most_waiting = 2 * WIRE.max_queued_reply_bytes + most + ITEM_OVERHEAD_BYTES
    assert 0 <= sending._uncredited_bytes <= most_waiting
    control = 2 * WIRE.max_unacknowledged_bytes + 65_536 + 2 * MAX_PAYLOAD_BYTES
    assert sending.unacknowledged.size_bytes <= control
    for out in sending._channels:
        assert out.credit <= WIRE.window_bytes


def react(session: Session, event: Event) -> None:
    """As a node would, whose processes take what comes and answer calls."""
    match event:
        case Arrived(
            channel, FrameType.MESSAGES | FrameType.CALLS | FrameType.BYTES as type_, bodies
        ):
            session.consumed(channel, sum(map(len, bodies)), len(bodies))
            for body in bodies:
                if type_ is FrameType.CALLS and session.has_room_for_reply(len(body)):
                    session.enqueue_reply(body)
        case Arrived(channel, FrameType.SIGNALS, bodies):
            for body in bodies:
                session.enqueue_signal(body, channel.target)
        case Gossiped(data):
            session.gossip(data)


def tell(event: Event, events: list[object]) -> None:
    """Add what came to `events`; pieces of a byte stream to what came of it just before."""
    if not isinstance(event, Arrived):
        events.append(event)
        return
    told = (event.channel.id, event.type, list(event.bodies))
    match events[-1:]:
        case [(id_, FrameType.BYTES, bodies)] if told[:2] == (id_, FrameType.BYTES):
            bodies.extend(event.bodies)
        case _:
            events.append(told)


def converse(
    data: bytes, pieces: Iterator[int], *, silent: bool = False
) -> tuple[list[object], str | None]:
    """Let a session read `data`, cut into pieces of these sizes; say what came of it, and why it
    was given up, if it was."""
    session = connected()
    events: list[object] = []
    position, reason = 0, None
    try:
        while position < len(data):
            size = next(pieces)
            for event in session.receive(data[position : position + size]):
                tell(event, events)
                if not silent:
                    react(session, event)
            position += size
            check_within_limits(session)
    except RemoteProtocolError as error:
        reason = check_told(error)
    for _ in range(3):
        session.acknowledge()
        session.data_to_send()
    check_within_limits(session)
    return events, reason


def sizes(seed: int, most: int) -> Iterator[int]:
    rng = random.Random(seed)
    while True:
        yield rng.randint(1, most)


def session(data: bytes) -> None:
    """Any bytes after the handshake."""
    converse(data, sizes(len(data), 40))
    events, whole = converse(data, iter([len(data)]), silent=True)
    events_of_pieces, cut = converse(data, sizes(len(data), 40), silent=True)
    assert whole == cut, "where the network cuts makes no difference"
    assert whole is not None or events == events_of_pieces


def conversation(data: bytes) -> None:
    """Frames whose numbers are set right, so that what is behind the first check is reached; and
    a header cut short is one of an empty frame."""
    session(in_sequence(data))


def in_sequence(data: bytes) -> bytes:
    """The frames in `data`, with the numbers that their order asks for."""
    frames, sequence, position = [], 0, 0
    while position + HEADER_BYTES <= len(data):
        length, type_, flags, channel, _ = HEADER.unpack_from(data, position)
        position += HEADER_BYTES
        payload = data[position : position + length % (MAX_PAYLOAD_BYTES + 1)]
        position += len(payload)
        sequence += bool(type_ & NUMBERED)
        number = sequence if type_ & NUMBERED else min(sequence, 2)
        frames.append(HEADER.pack(len(payload), type_, flags, channel, number) + payload)
    return b"".join(frames)


def streams(data: bytes) -> None:
    """Frames whose numbers are set right, to a node that has streams with the peer."""
    session = Session(WIRE)
    session.connected(LIMITS, 0)
    node = StreamsOfANode(ALICE, BOB, session, WIRE)
    data = in_sequence(data)
    try:
        for size in sizes(len(data), 2_000):
            if not data:
                break
            for event in session.receive(data[:size]):
                if isinstance(event, Arrived):
                    node.react(event)
                node.check()
            data = data[size:]
            if size % 2:
                node.use()
                node.check()
            session.data_to_send()
            check_within_limits(session)
    except RemoteProtocolError as error:
        check_told(error)
    node.lose_the_peer()


# -- what frames hold -------------------------------------------------------------------------


def handshake(data: bytes) -> None:
    """A peer's first frame: a Hello, or a rejection."""
    try:
        split = split_frame(data)
        payload = data if split is None else split[0].payload
    except RemoteProtocolError:
        return
    hello: Hello | None = None
    try:
        hello = decode_hello(payload)
    except RemoteProtocolError as error:
        check_told(error)
    if hello is not None:
        judged = judge_hello(
            hello, cluster_id=HELLO.cluster_id, role="node", name="bob", ourselves=ALICE
        )
        if judged is None:
            assert hello.node.name == "bob", "X3: the name is the certificate's"
            assert decode_hello(split_payload(encode_hello(hello))) == hello
            Session(WIRE).connected(hello.limits, 0)
    try:
        reject = decode_reject(payload)
    except RemoteProtocolError:
        return
    assert decode_reject(split_payload(encode_reject(reject))) == reject


def split_payload(frame: bytes) -> bytes:
    split = split_frame(frame)
    assert split is not None
    return split[0].payload


def signal(data: bytes) -> None:
    """The body of a SIGNALS item, and that of a FAILED reply."""
    error = decode_error(data)
    if isinstance(error, RemoteError):
        assert len(error.type_name) <= 256
        assert len(error.text) <= 8192
    else:
        assert len(str(error)) <= 8192
    encode_error(error)
    try:
        decoded = decode_signal(data)
    except RemoteProtocolError as refused:
        check_told(refused)
        return
    if decoded is not None:
        assert decode_signal(encode_signal(decoded)) == decoded


TYPES = MessageTypes()


@TYPES.register
@dataclasses.dataclass(frozen=True)
class Known:
    a: Any
    b: Any = None


@TYPES.register
class Choice(enum.Enum):
    YES = 1


@TYPES.register
class Bits(enum.Flag):
    ONE = 1
    TWO = 2


CODEC = Codec(TYPES, 1 << 20)


def codec(data: bytes) -> None:
    """The body of a message, a request or a reply."""
    try:
        value = CODEC.decode(data)
    except RemoteProtocolError as error:
        check_told(error)
        return
    assert type(value).__module__.split(".")[0] in {
        *("builtins", "datetime", "decimal", "uuid", "ipaddress", "cbor2"),
        *("steinadler", __name__),
    }


# -- membership and discovery -----------------------------------------------------------------


def membership(data: bytes) -> None:
    """GOSSIP frames, each after two bytes that say how long it is: they reach a node that knows
    two others."""
    engine = Swim(Member(ALICE), MembershipSettings(), random.Random(1))
    now = 100.0
    effects = engine.handle(Connected(Member(BOB)), now)
    effects += engine.handle(Connected(Member(NodeId("carol", 7))), now)
    while data:
        size = int.from_bytes(data[:2], "big")
        payload, data = data[2 : 2 + size], data[2 + size :]
        try:
            message = decode(payload)
        except RemoteProtocolError as error:
            check_told(error)
            continue
        assert decode(encode(message)) == message
        now += 0.1
        effects += engine.handle(Received(BOB, message), now)
        effects += engine.tick(now + 0.05)
    for effect in effects:
        if isinstance(effect, Send):
            decode(encode(effect.message))
    assert len(engine.members()) <= MAX_ENTRIES + 1


def txt(data: bytes) -> None:
    """A TXT record from anybody on the network: never an exception."""
    read_txt(data)
    ips = usable_ips(data.decode(errors="replace").split())
    assert len(ips) <= MAX_ADDRESSES
    all_loopback(ips)


# -- where to begin ---------------------------------------------------------------------------

HELLO = Hello(
    cluster_id="c" * 32,
    role="node",
    node=BOB,
    refutation=1,
    addresses=(Address("192.0.2.1", 4370),),
    labels=(("role", "gpu"),),
    features=("later",),
    limits=LIMITS,
    session=SessionOffer(5, 0, 0, 1),
)
RECORD = Member(BOB, (Address("192.0.2.1", 4370),), (("role", "gpu"),))


def frame(type_: int, channel: int = 0, payload: bytes = b"", flags: int = 0) -> bytes:
    return HEADER.pack(len(payload), type_, flags, channel, 0) + payload


def _valid_streams() -> list[bytes]:
    """One of everything that a session says, in batches and whole."""
    peer = Session(WIRE)
    peer.connected(LIMITS, 0)
    streams = []
    for size in (0, 5, MAX_ITEM_BYTES + 100):
        channel = peer.channel(ToProcess(1))
        channel.take_credit(size)
        peer.enqueue(channel, FrameType.MESSAGES, bytes(size))
        streams.append(peer.data_to_send())
    peer.enqueue(peer.channel(ToName("counter")), FrameType.CALLS, bytes(8) + b"call")
    peer.enqueue_signal(encode_signal(CancelCall(1)))
    peer.enqueue_signal(encode_signal(CancelCall(2)), ToProcess(1))
    peer.enqueue_reply(b"reply")
    peer.enqueue_bytes(peer.channel(ToStream(1, by_sender=True)), memoryview(b"bytes"))
    peer.end_stream(ToStream(1, by_sender=True), b"")
    peer.gossip(encode(Gossip((RECORD,))))
    peer.goodbye("done")
    streams.append(peer.data_to_send())
    credit = (73).to_bytes(8, "big")
    streams.append(frame(FrameType.CREDIT, 2, credit) + frame(FrameType.ACKNOWLEDGE))
    streams.append(frame(FrameType.CLOSE, 2) + frame(0x7F) + frame(0xFF))
    return [*streams, b"".join(streams)]


def _opened(channel: int, target: Target) -> bytes:
    return frame(FrameType.OPEN, channel, encode_target(target))


def _signalled(signal: Signal) -> bytes:
    return frame(FrameType.SIGNALS, CONTROL.lane, pack_items([encode_signal(signal)]))


def _asked(*requests: object) -> bytes:
    bodies = [bytes(8) + CODEC.encode(request) for request in requests]
    return frame(FrameType.CALLS, 9, pack_items(bodies))


def _of_streams() -> list[bytes]:
    """What a peer says of streams, in and out of turn."""
    far, near = ToStream(5, by_sender=True), ToStream(1, by_sender=False)
    objects = ToStream(2, by_sender=False)
    reason = encode_error(ValueError("why"))
    calls = _opened(9, ToName("$streams"))
    connect = _asked(("connect", "service", 5))
    parts = [
        calls + connect,
        calls + _asked(*(("connect", "service", number) for number in range(5, 15))),
        calls + _asked(("source", SOURCE_TOKEN, 6), ("sink", SINK_TOKEN, 7)),
        calls + _asked(("source", SINK_TOKEN, 6), ("sink", SOURCE_TOKEN, 7)),
        # Numbers that are in use, or half in use.
        calls + _asked(("source", SOURCE_TOKEN, 5), ("connect", "service", 5)),
        calls + connect + _asked(("sink", SINK_TOKEN, 5)) + connect,
        _opened(3, far) + frame(FrameType.BYTES, 3, b"bytes") * 2 + frame(FrameType.CLOSE, 3),
        _opened(4, near) + frame(FrameType.BYTES, 4, b"b") + frame(FrameType.CLOSE, 4, reason),
        _opened(5, objects) + frame(FrameType.MESSAGES, 5, pack_items([CODEC.encode(1)])),
        frame(FrameType.CLOSE, 5, b"\x00") + _opened(6, objects),
        _signalled(StreamStop(1, True, None)) + _signalled(StreamStop(5, False, ("E", "t"))),
        _signalled(StreamAbort(5)) + _signalled(StreamAbort(99)),
        frame(FrameType.CREDIT, 2, (73).to_bytes(8, "big")),
    ]
    return [*parts, b"".join(parts), parts[0] + b"".join(parts[6:8])]


def _sized(*messages: bytes) -> bytes:
    return b"".join(len(message).to_bytes(2, "big") + message for message in messages)


_PROCESS = ProcessId(BOB, 3)
_MESSAGES = [
    encode(message)
    for message in (
        Ping(1, (RECORD,)),
        PingRequest(2, NodeId("carol", 7), ()),
        Ack(3, (dataclasses.replace(RECORD, refutation=3),)),
        Gossip((Member(NodeId("dave", 9)), Member(ALICE))),
        SyncRequest((RECORD,)),
        SyncReply((Member(NodeId("carol", 8)),)),
    )
]

SEEDS: dict[Callable[[bytes], None], list[bytes]] = {
    session: _valid_streams(),
    conversation: [*_valid_streams(), *_of_streams()],
    streams: _of_streams(),
    handshake: [
        encode_hello(HELLO),
        encode_reject(Reject(RejectReason.SUPERSEDED, "another", 3)),
    ],
    signal: [
        *(
            encode_signal(each)
            for each in (
                MonitorRequest(1, 2, 3),
                MonitorRequest(1, "name", 0),
                DemonitorRequest(1),
                DownNotice(1, _PROCESS, "normal"),
                DownNotice(1, None, "noproc"),
                LinkRequest(1, 2),
                UnlinkRequest(1, 2),
                ExitNotice(_PROCESS, "kill", False),
                CancelCall(7),
                StreamStop(1, True, None),
                StreamStop(2, False, ("ValueError", "no")),
                StreamAbort(3),
            )
        ),
        encode_error(ValueError("no")),
    ],
    codec: [
        CODEC.encode(value)
        for value in (
            ("call", 7, [1, 2.5, None, True], {"k": (b"v", {"x"})}),
            [Known(1, {"x": Known((2,))}), Choice.YES, Bits.ONE | Bits.TWO, frozenset({1, (2,)})],
            [BOB, _PROCESS, 2**70, -(2**70), "text"],
        )
    ],
    membership: [*map(_sized, _MESSAGES), _sized(*_MESSAGES)],
    txt: [
        b"\x03v=1\x28cluster=" + b"a" * 32 + b"\x08node=bob\x06inc=12",
        b"192.0.2.1 ::1 127.0.0.1 fe80::1%eth0 2001:db8::1",
    ],
    **fuzz_joining.SEEDS,
    fuzz_registry.registry: fuzz_registry.SEEDS,
    fuzz_security.certificate: fuzz_security.CERTIFICATES,
    fuzz_security.spiffe: fuzz_security.SPIFFE_IDS,
    **fuzz_sidecar.SEEDS,
}
TARGETS = {target.__name__: target for target in SEEDS}


def corpus(name: str) -> list[Path]:
    """The inputs that are kept for a target."""
    return sorted((CORPUS / name).glob("*.bin"))
