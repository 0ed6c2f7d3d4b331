"""Invariant: `decode` returns a message that `encode` writes, or raises RemoteProtocolError.

Whatever the bytes: no other exception, no other type, nothing built that the message classes do
not name, and no more memory than a small multiple of the input (promise X4).
"""

from __future__ import annotations

import cbor2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from steinadler.errors import RemoteProtocolError
from steinadler.identity import Address, NodeId
from steinadler.membership import Member, MemberState, Message, decode, encode
from steinadler.membership.members import MAX_ACCUSERS
from steinadler.membership.messages import (
    BUCKETS,
    MAX_INTEGER,
    MAX_MESSAGE_BYTES,
    Ack,
    Gossip,
    Nack,
    Ping,
    PingRequest,
    Summary,
    SyncReply,
    SyncRequest,
)

integers = st.integers(0, MAX_INTEGER)
names = st.from_regex(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,6}[A-Za-z0-9])?", fullmatch=True)
nodes = st.builds(NodeId, names, integers)
living = st.builds(
    Member,
    nodes,
    st.lists(st.builds(Address, st.text(max_size=9), st.integers(0, 65535)), max_size=3).map(tuple),
    st.dictionaries(st.text(max_size=5), st.text(max_size=5), max_size=3).map(
        lambda mapping: tuple(sorted(mapping.items()))
    ),
    st.sampled_from(MemberState),
    integers,
)
suspects = st.builds(
    lambda member, accusers: member.in_state(MemberState.SUSPECT, *sorted(accusers)),
    living,
    st.sets(names, max_size=MAX_ACCUSERS),
)
members = living | suspects
records = st.lists(members, max_size=3).map(tuple)
buckets = st.none() | st.lists(st.integers(0, BUCKETS - 1), max_size=BUCKETS).map(tuple)
digests = st.lists(integers, min_size=BUCKETS, max_size=BUCKETS).map(tuple)
messages = st.one_of(
    st.builds(Ping, integers, records),
    st.builds(PingRequest, integers, nodes, records),
    st.builds(Ack, integers, records),
    st.builds(Gossip, records),
    st.builds(SyncRequest, records, buckets),
    st.builds(Summary, digests),
    st.builds(SyncReply, records),
    st.builds(Nack, integers, records),
)

ALICE = Member(
    NodeId("alice", 1_700_000_000_000_000),
    (Address("192.0.2.1", 4370), Address("2001:db8::1", 4370)),
    (("role", "gpu"),),
    MemberState.SUSPECT,
    2,
    ("bob", "carol"),
)
EXAMPLES: list[Message] = [
    Ping(1, (ALICE,)),
    PingRequest(2, NodeId("bob", 5), (ALICE,)),
    Ack(2**40, ()),
    Gossip((ALICE, ALICE)),
    SyncRequest(()),
    SyncRequest((ALICE,), (0, 31)),
    SyncReply((ALICE,)),
    Nack(7, (ALICE,)),
    Summary(tuple(range(BUCKETS))),
]


def decode_or_none(data: bytes) -> Message | None:
    try:
        return decode(data)
    except RemoteProtocolError:
        return None


@given(messages)
def test_a_message_survives_the_wire(message: Message) -> None:
    """M5's sort of promise for the engine: what is sent is what is received."""
    assert decode(encode(message)) == message


@pytest.mark.parametrize("message", EXAMPLES, ids=lambda message: type(message).__name__)
def test_a_message_cut_short_or_followed_by_bytes_is_refused(message: Message) -> None:
    """X4: whole is accepted; each prefix and each extension is not."""
    data = encode(message)
    assert decode(data) == message
    for length in range(len(data)):
        with pytest.raises(RemoteProtocolError):
            decode(data[:length])
    for tail in (b"\x00", b"\xff", data):
        with pytest.raises(RemoteProtocolError, match="after the end"):
            decode(data + tail)


def with_extra_fields(value: object) -> object:
    """Append to message, target, record, address and label alike; not to lists of them."""
    code, *fields = value  # type: ignore[misc]
    if code == 8:
        return [*value, {"later": True}]  # type: ignore[misc]
    tail = [fields.pop()] if code == 5 else []
    *head, updates = fields
    if code == 2:
        head[1] = [*head[1], None]
    grown = [
        [
            name,
            incarnation,
            [[*address, 1] for address in addresses],
            [[*label, "new"] for label in labels],
            *rest,
            ["nested", [1.5]],
        ]
        for name, incarnation, addresses, labels, *rest in updates
    ]
    return [code, *head, grown, *tail, {"later": True}]


@pytest.mark.parametrize("message", EXAMPLES, ids=lambda message: type(message).__name__)
def test_fields_that_a_later_version_adds_are_ignored(message: Message) -> None:
    """Design 5: versions N and N+1 share a cluster."""
    grown = with_extra_fields(cbor2.loads(encode(message)))
    assert decode(cbor2.dumps(grown)) == message


def test_a_record_of_an_earlier_version_has_no_accusers() -> None:
    """Design 5: versions N and N+1 share a cluster."""
    code, (record,) = cbor2.loads(encode(Gossip((ALICE,))))
    assert decode(cbor2.dumps([code, [record[:6]]])) == Gossip((ALICE.in_state(ALICE.state),))


def test_a_request_of_an_earlier_version_asks_for_all() -> None:
    """Design 5: versions N and N+1 share a cluster."""
    assert decode(cbor2.dumps([5, []])) == SyncRequest(())


def altered(**changes: object) -> object:
    fields: dict[str, object] = {
        "name": "alice",
        "incarnation": 1,
        "addresses": [["h", 1]],
        "labels": [["a", "b"]],
        "state": 0,
        "refutation": 0,
        "accusers": [],
    }
    assert changes.keys() <= fields.keys()
    return [4, [[*(fields | changes).values()]]]


@pytest.mark.parametrize(
    "value",
    [
        None,
        4,
        "ping",
        [],
        [0, []],
        [7, []],
        [9, []],
        [8, []],
        [8, [0] * 31],
        [8, [0] * 33],
        [8, [0] * 31 + [-1]],
        [8, [0] * 31 + [1.0]],
        [5, [], {}],
        [5, [], [32]],
        [5, [], [-1]],
        [5, [], [0] * 33],
        [True, 1, []],
        [1.0, 1, []],
        ["4", []],
        {1: 2},
        [1],
        [1, 2],
        [1, -1, []],
        [1, True, []],
        [1, MAX_INTEGER + 1, []],
        [1, 2**70, []],
        [1, 1.0, []],
        [1, "1", []],
        [2, 1, "alice", []],
        [2, 1, ["alice"], []],
        [2, 1, ["no spaces", 1], []],
        [4, {}],
        [4, None],
        [4, [None]],
        [4, [["alice", 1, [], [], 0]]],
        [4, [[]] * 5000],
        altered(name="-"),
        altered(name=b"alice"),
        altered(name="a" * 64),
        altered(incarnation=-1),
        altered(addresses={}),
        altered(addresses=[["h"]]),
        altered(addresses=[["h", 65536]]),
        altered(addresses=[[b"h", 1]]),
        altered(addresses=["h1"]),
        altered(addresses=[["h" * 5000, 1]]),
        altered(labels=[["a"]]),
        altered(labels=[["a", 1]]),
        altered(labels=[["b", ""], ["a", ""]]),
        altered(labels=[["a", ""], ["a", ""]]),
        altered(state=4),
        altered(state=False),
        altered(refutation=None),
        altered(accusers={}),
        altered(state=0, accusers=["bob"]),
        altered(state=1, accusers=["no spaces"]),
        altered(state=1, accusers=[b"bob"]),
        altered(state=1, accusers=["b", "a"]),
        altered(state=1, accusers=["a", "b", "c", "d", "e"]),
    ],
)
def test_what_is_not_a_message_is_refused(value: object) -> None:
    """X4: wrong types, wrong ranges, unknown codes."""
    assert decode(cbor2.dumps(altered())) == Gossip(
        (Member(NodeId("alice", 1), (Address("h", 1),), (("a", "b"),)),)
    )
    with pytest.raises(RemoteProtocolError):
        decode(cbor2.dumps(value))


TAGS = (
    *(0, 1, 2, 3, 4, 5, 25, 28, 29, 30, 35, 36, 37, 52, 54, 100, 256, 258, 260, 261),
    *(1004, 43000, 55799, 6, 22498, 999_999),
)


@pytest.mark.parametrize("tag", TAGS)
def test_tags_are_refused_wherever_they_are(tag: int) -> None:
    """X4: no tag reaches a constructor, neither cbor2's own nor anybody else's."""
    for value in (b"\x04", b"\x80", b"\x41\x01", b"\x60"):
        head = cbor2.dumps(cbor2.CBORTag(tag, 0))[:-1]
        for data in (head + value, b"\x82\x04\x81" + head + value, b"\x83\x04\x80" + head + value):
            with pytest.raises(RemoteProtocolError, match="not plain CBOR"):
                decode(data)


@pytest.mark.parametrize(
    "data",
    [
        b"\x81" * 4000 + b"\x80",
        b"\x9f" * 4000,
        b"\xa1" * 4000,
        b"\x9b" + b"\xff" * 8,
        b"\x7b" + b"\xff" * 8,
        b"\x5b" + b"\x7f" + b"\xff" * 7,
        b"\x82\x04" + b"\x9a\xff\xff\xff\xff",
        encode(Gossip((ALICE,) * 300)),
    ],
)
def test_bombs_are_refused_without_being_built(data: bytes) -> None:
    """X4: depth, claimed lengths and sheer size."""
    with pytest.raises(RemoteProtocolError):
        decode(data)
    assert len(encode(Gossip((ALICE,) * 300))) > MAX_MESSAGE_BYTES


@given(st.binary(max_size=200))
def test_fuzz_any_bytes(data: bytes) -> None:
    """The invariant, on noise."""
    message = decode_or_none(data)
    assert message is None or decode(encode(message)) == message


@settings(max_examples=150)
@given(messages, st.data())
def test_fuzz_one_byte_changed(message: Message, data: st.DataObject) -> None:
    """The invariant, next to real messages."""
    encoded = bytearray(encode(message))
    place = data.draw(st.integers(0, len(encoded) - 1))
    encoded[place] = data.draw(st.integers(0, 255))
    changed = decode_or_none(bytes(encoded))
    assert changed is None or decode(encode(changed)) == changed


plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**66), 2**66) | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=6) | st.dictionaries(st.text(max_size=2), inner),
    max_leaves=20,
)


@given(st.integers(0, 9), st.lists(plain, max_size=4))
def test_fuzz_plausible_structure(code: int, fields: list[object]) -> None:
    """The invariant, behind a known type code."""
    message = decode_or_none(cbor2.dumps([code, *fields]))
    assert message is None or decode(encode(message)) == message
