"""The worked examples of docs/wire-protocol.md, made by the code that speaks the protocol."""

from __future__ import annotations

import base64
from collections.abc import Callable
from datetime import UTC, datetime

from steinadler.config import WireSettings
from steinadler.identity import Address, NodeId, ProcessId, SourceRef
from steinadler.membership import Member
from steinadler.membership.messages import Ack, Ping, encode
from steinadler.security import JoinToken
from steinadler.security.enrolment import framed, make_refusal, request_transcript
from steinadler.security.token_store import Refusal
from steinadler.wire import plain
from steinadler.wire.channels import REPLIES, ToName, ToStream
from steinadler.wire.codec import Codec, MessageTypes
from steinadler.wire.frames import FrameType, encode_frame
from steinadler.wire.handshake import (
    Hello,
    Reject,
    RejectReason,
    SessionOffer,
    encode_hello,
    encode_reject,
)
from steinadler.wire.session import PeerLimits, Session
from steinadler.wire.signals import (
    DownNotice,
    MonitorRequest,
    StreamAbort,
    StreamStop,
    encode_signal,
    failure_array,
)

MIB = 1024 * 1024
LIMITS = PeerLimits(1 * MIB, 64 * MIB, 128 * MIB)
ALICE = NodeId("alice", 1_700_000_000_000_000)
BOB = NodeId("bob", 1_700_000_000_000_001)


def _session() -> Session:
    session = Session(WireSettings())
    session.connected(LIMITS, 0)
    return session


def _encoded(message: object) -> bytes:
    return Codec(MessageTypes(), MIB).encode(message)


def hello() -> bytes:
    return encode_hello(
        Hello(
            cluster_id="0123456789abcdef0123456789abcdef",
            role="node",
            node=ALICE,
            refutation=0,
            addresses=(Address("192.0.2.7", 4370),),
            labels=(("role", "gpu"),),
            features=(),
            limits=LIMITS,
            session=SessionOffer(5, 0, 0, 1),
        )
    )


def reject() -> bytes:
    return encode_reject(Reject(RejectReason.SUPERSEDED, "another connection is kept", 3))


def message() -> bytes:
    session = _session()
    session.enqueue(session.channel(ToName("counter")), FrameType.MESSAGES, _encoded("stop"))
    return session.data_to_send()


def call() -> bytes:
    session = _session()
    body = (1).to_bytes(8, "big") + _encoded(("add", 2))
    session.enqueue(session.channel(ToName("counter")), FrameType.CALLS, body)
    return session.data_to_send()


def reply() -> bytes:
    session = _session()
    body = (1).to_bytes(8, "big") + b"\x00" + _encoded(42)
    session.enqueue(session.channel(REPLIES), FrameType.REPLIES, body)
    return session.data_to_send()


def fragments() -> bytes:
    """A message of 20,000 bytes; only the heads of its two fragments are printed."""
    session = _session()
    data = _encoded(bytes(19_997))
    session.enqueue(session.channel(ToName("store")), FrameType.MESSAGES, data)
    sent = session.data_to_send()
    opened = 16 + 6
    second = opened + 16_384
    return sent[:opened] + sent[opened : opened + 16 + 8] + sent[second : second + 16]


def acknowledge() -> bytes:
    return encode_frame(FrameType.ACKNOWLEDGE, sequence=2)


def credit() -> bytes:
    grant = (524_352).to_bytes(8, "big")
    return encode_frame(FrameType.CREDIT, channel=2, sequence=1, payload=grant)


def monitor() -> bytes:
    session = _session()
    session.enqueue_signal(encode_signal(MonitorRequest(1, "counter", 0)))
    return session.data_to_send()


def down() -> bytes:
    session = _session()
    session.enqueue_signal(encode_signal(DownNotice(1, ProcessId(BOB, 5), "normal")))
    return session.data_to_send()


def reference() -> bytes:
    """As the body of an item."""
    return _encoded(SourceRef(BOB, 0x0123456789ABCDEF))


def connecting() -> bytes:
    session = _session()
    body = (1).to_bytes(8, "big") + _encoded(("connect", "web", 9))
    session.enqueue(session.channel(ToName("$streams")), FrameType.CALLS, body)
    return session.data_to_send()


def byte_stream() -> bytes:
    session = _session()
    target = ToStream(9, by_sender=True)
    session.enqueue_bytes(session.channel(target), memoryview(b"GET /"))
    session.end_stream(target, b"")
    return session.data_to_send()


def broken_stream() -> bytes:
    session = _session()
    reason = plain.dumps(failure_array(("OSError", "disk full")))
    session.end_stream(ToStream(9, by_sender=False), reason)
    return session.data_to_send()


def stream_stop() -> bytes:
    session = _session()
    session.enqueue_signal(encode_signal(StreamStop(9, False, None)))
    return session.data_to_send()


def stream_abort() -> bytes:
    session = _session()
    session.enqueue_signal(encode_signal(StreamAbort(9)), ToName("$streams"))
    return session.data_to_send()


TOKEN = JoinToken(
    cluster_name="default",
    cluster_id="0123456789abcdef0123456789abcdef",
    fingerprint="ab" * 32,
    secret=bytes(range(16)),
    role="node",
    name="bob",
    expires=datetime.fromtimestamp(1_700_000_600, UTC),
    addresses=(Address("192.0.2.7", 4370),),
)


def join_token() -> bytes:
    """What is in it, before it is base32."""
    coded = TOKEN.encode().removeprefix("steinadler1_").upper()
    return base64.b32decode(coded + "=" * (-len(coded) % 8))


def join_key() -> bytes:
    return TOKEN.public_key


def join_request() -> bytes:
    """With nothing wanted, for a certificate of which only the digest counts."""
    wanted = plain.dumps([])
    signature = TOKEN.key().sign(request_transcript(b"certificate", bytes(32), wanted))
    return framed(plain.dumps([bytes.fromhex(TOKEN.id), wanted, signature]))


def join_refusal() -> bytes:
    return framed(make_refusal(Refusal.REVOKED, "the token was revoked"))


def ping() -> bytes:
    record = Member(BOB, (Address("192.0.2.8", 4370),), (("role", "gpu"),))
    return encode_frame(FrameType.GOSSIP, payload=encode(Ping(7, (record,))))


def ack() -> bytes:
    return encode_frame(FrameType.GOSSIP, payload=encode(Ack(7)))


EXAMPLES: dict[str, Callable[[], bytes]] = {
    function.__name__: function
    for function in (
        hello,
        reject,
        message,
        call,
        reply,
        fragments,
        acknowledge,
        credit,
        monitor,
        down,
        reference,
        connecting,
        byte_stream,
        broken_stream,
        stream_stop,
        stream_abort,
        join_token,
        join_key,
        join_request,
        join_refusal,
        ping,
        ack,
    )
}
