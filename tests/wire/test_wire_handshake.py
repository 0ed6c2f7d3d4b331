"""Hello, Reject, and the one rule for two connections between the same nodes."""

from __future__ import annotations

import itertools
from dataclasses import replace

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from steinadler.config import WireSettings
from steinadler.errors import ConfigError, RemoteProtocolError
from steinadler.identity import Address, NodeId
from steinadler.wire.frames import FrameType, split_frame
from steinadler.wire.handshake import (
    MAX_ADDRESSES,
    MAX_DETAIL_LENGTH,
    MAX_LABEL_LENGTH,
    MAX_LABEL_VALUE_LENGTH,
    MAX_LABELS,
    PROTOCOL_VERSIONS,
    ConnectionRank,
    Hello,
    Reject,
    RejectReason,
    SessionOffer,
    choose_version,
    decode_hello,
    decode_reject,
    encode_hello,
    encode_reject,
    judge_hello,
)
from steinadler.wire.session import PeerLimits

NATURAL = st.integers(0, 2**64 - 1)


def text(longest: int) -> st.SearchStrategy[str]:
    return st.text(st.characters(codec="utf-8"), max_size=longest)


HELLOS = st.builds(
    Hello,
    cluster_id=text(64),
    role=text(32),
    node=st.builds(NodeId, text(63), NATURAL),
    refutation=NATURAL,
    addresses=st.lists(
        st.builds(Address, text(30), st.integers(1, 65535)), max_size=MAX_ADDRESSES
    ).map(tuple),
    labels=st.dictionaries(text(20), text(20), max_size=9).map(lambda d: tuple(sorted(d.items()))),
    features=st.lists(text(64), max_size=5).map(tuple),
    limits=st.builds(
        lambda window, message, more, channels: PeerLimits(
            window, message, message + more, channels
        ),
        st.integers(1, 2**30),
        st.integers(1, 2**32),
        st.integers(0, 2**32),
        st.integers(3, 2**32),
    ),
    session=st.builds(SessionOffer, NATURAL, NATURAL, NATURAL, NATURAL),
)
HELLO = Hello(
    cluster_id="c1",
    role="node",
    node=NodeId("alice", 7),
    refutation=0,
    addresses=(Address("192.0.2.7", 4370), Address("::1", 4370)),
    labels=(("role", "gpu"),),
    features=("lanes",),
    limits=PeerLimits(1 << 20, 1 << 26, 1 << 27),
    session=SessionOffer(0, 0, 0, 0),
)


def payload_of(frame: bytes, type_: FrameType) -> bytes:
    split = split_frame(frame)
    assert split is not None
    assert split[0].type == type_
    assert split[1] == b""
    return split[0].payload


def fields_of(hello: Hello) -> dict[str, object]:
    return dict(cbor2.loads(payload_of(encode_hello(hello), FrameType.HELLO)))


@given(HELLOS)
def test_a_hello_comes_out_as_it_went_in(hello: Hello) -> None:
    assert decode_hello(payload_of(encode_hello(hello), FrameType.HELLO)) == hello


def test_a_hello_cut_anywhere_is_refused() -> None:
    payload = payload_of(encode_hello(HELLO), FrameType.HELLO)
    for end in range(len(payload)):
        with pytest.raises(RemoteProtocolError):
            decode_hello(payload[:end])
    assert decode_hello(payload) == HELLO


def test_a_hello_with_bytes_behind_it_is_refused() -> None:
    payload = payload_of(encode_hello(HELLO), FrameType.HELLO)
    for tail in (b"\x00", b"\xff", b"trailing", payload):
        with pytest.raises(RemoteProtocolError, match="after the end"):
            decode_hello(payload + tail)


def test_what_a_later_version_adds_is_passed_over() -> None:
    fields = fields_of(HELLO) | {"colour": "red", "nested": {"a": [1]}}
    for name in ("limits", "session", "node", "versions"):
        value = fields[name]
        assert isinstance(value, list)
        fields[name] = [*value, 99]
    assert decode_hello(cbor2.dumps(fields)) == HELLO


@pytest.mark.parametrize("name", sorted(fields_of(HELLO)))
@pytest.mark.parametrize("value", [None, -1, "x" * 70, [1], {}, {"a": 1}, [[]], True])
def test_a_field_that_is_missing_or_of_the_wrong_kind_is_refused(name: str, value: object) -> None:
    if (name, value) in [("labels", {})]:
        value = [("a", "b")]
    fields = fields_of(HELLO)
    del fields[name]
    with pytest.raises(RemoteProtocolError):
        decode_hello(cbor2.dumps(fields))
    with pytest.raises(RemoteProtocolError):
        decode_hello(cbor2.dumps({**fields, name: value}))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("limits", [0, 10, 10]),
        ("limits", [10, 0, 10]),
        ("limits", [10, 11, 10]),
        ("limits", [2**30 + 1, 10, 10]),
        ("limits", [10, 10, 10, 2]),
        ("limits", [10, 10, 10, -1]),
        ("addresses", [["h", 0]]),
        ("addresses", [["h", 65536]]),
        ("addresses", [["h", 1]] * (MAX_ADDRESSES + 1)),
        ("labels", {str(i): "" for i in range(MAX_LABELS + 1)}),
        ("labels", {"k": "v" * (MAX_LABEL_VALUE_LENGTH + 1)}),
        ("session", [0, 0, 0, 2**64]),
        ("node", ["x" * 64, 1]),
    ],
)
def test_values_out_of_their_limits_are_refused(name: str, value: object) -> None:
    """X4."""
    with pytest.raises(RemoteProtocolError):
        decode_hello(cbor2.dumps(fields_of(HELLO) | {name: value}))


@pytest.mark.parametrize(
    "wrong",
    [
        replace(HELLO, labels=tuple((f"{i:099}", "x" * 200) for i in range(64))),
        replace(HELLO, labels=tuple((str(i), "") for i in range(MAX_LABELS + 1))),
        replace(HELLO, labels=(("k" * (MAX_LABEL_LENGTH + 1), ""),)),
        replace(HELLO, addresses=(Address("h", 1),) * (MAX_ADDRESSES + 1)),
        replace(HELLO, limits=PeerLimits(1, 2, 1)),
        replace(HELLO, limits=PeerLimits(2**30 + 1, 1, 1)),
        replace(HELLO, limits=PeerLimits(1, 1, 1, 2)),
    ],
    ids=["frame", "labels", "label", "addresses", "limits", "window", "channels"],
)
def test_a_hello_that_no_peer_would_accept_fails_at_home(wrong: Hello) -> None:
    with pytest.raises(ConfigError):
        encode_hello(wrong)


def test_a_peer_that_does_not_say_how_many_channels_it_allows_allows_65536() -> None:
    fields = fields_of(replace(HELLO, limits=PeerLimits(1, 2, 3, 4)))
    assert fields["limits"] == [1, 2, 3, 4]
    fields["limits"] = [1, 2, 3]
    assert decode_hello(cbor2.dumps(fields)).limits == PeerLimits(1, 2, 3, 65_536)


def test_settings_that_peers_would_refuse_are_no_settings() -> None:
    WireSettings(window_bytes=2**30, max_channels=3)
    with pytest.raises(ConfigError, match="window_bytes"):
        WireSettings(window_bytes=2**30 + 1)
    with pytest.raises(ConfigError, match="max_channels"):
        WireSettings(max_channels=2)


@given(st.binary(max_size=60))
def test_hostile_bytes_are_refused_as_a_hello_and_as_a_reject(data: bytes) -> None:
    """X4: nothing but RemoteProtocolError comes out."""
    for decode in (decode_hello, decode_reject):
        with pytest.raises(RemoteProtocolError):
            decode(data)


@given(HELLOS, NATURAL, st.integers(0, 255))
def test_a_mutated_hello_is_a_hello_or_refused(hello: Hello, index: int, byte: int) -> None:
    """X4.  Whatever passes could have been sent by somebody."""
    payload = bytearray(payload_of(encode_hello(hello), FrameType.HELLO))
    payload[index % len(payload)] = byte
    try:
        decoded = decode_hello(bytes(payload))
    except RemoteProtocolError:
        return
    if choose_version(decoded.versions) is not None:
        assert decode_hello(payload_of(encode_hello(decoded), FrameType.HELLO)) == decoded


@pytest.mark.parametrize(
    ("theirs", "chosen"),
    [((1, 1), 1), ((1, 9), 1), ((0, 1), 1), ((0, 0), None), ((2, 3), None), ((3, 0), None)],
)
def test_the_highest_common_version_is_chosen(theirs: tuple[int, int], chosen: int | None) -> None:
    assert PROTOCOL_VERSIONS == (1, 1)
    assert choose_version(theirs) == chosen


@pytest.mark.parametrize("versions", [(2, 3), (0, 0)])
def test_another_version_is_told_both_ranges(versions: tuple[int, int]) -> None:
    """A peer that speaks another protocol fails with a text that says what to do, whatever the
    rest of its Hello looks like."""
    hello = decode_hello(cbor2.dumps({"versions": list(versions), "node": {"shape": "other"}}))
    reject = judge_hello(hello, cluster_id="c1", role="node", name="alice", ourselves=HELLO.node)
    assert reject is not None
    assert reject.reason is RejectReason.VERSION
    assert f"{versions[0]} to {versions[1]}" in reject.detail
    assert f"{PROTOCOL_VERSIONS[0]} to {PROTOCOL_VERSIONS[1]}" in reject.detail


@pytest.mark.parametrize(
    ("changes", "ourselves", "reason"),
    [
        ({}, NodeId("bob", 1), None),
        ({"versions": (1, 7)}, NodeId("bob", 1), None),
        ({}, NodeId("alice", 6), None),
        ({"cluster_id": "c2"}, NodeId("bob", 1), RejectReason.CLUSTER),
        ({"node": NodeId("mallory", 7)}, NodeId("bob", 1), RejectReason.IDENTITY),
        ({"role": "observer"}, NodeId("bob", 1), RejectReason.IDENTITY),
        ({}, NodeId("alice", 7), RejectReason.SELF),
        ({"versions": (2, 2), "cluster_id": "c2"}, NodeId("bob", 1), RejectReason.VERSION),
        ({"cluster_id": "c2", "role": "x"}, NodeId("bob", 1), RejectReason.CLUSTER),
        ({"role": "x"}, NodeId("alice", 7), RejectReason.IDENTITY),
    ],
)
def test_a_hello_is_judged_by_the_certificate(
    changes: dict[str, object], ourselves: NodeId, reason: RejectReason | None
) -> None:
    """X3: the certificate's name, role and cluster are the ones that count."""
    hello = replace(HELLO, **changes)  # type: ignore[arg-type]
    reject = judge_hello(hello, cluster_id="c1", role="node", name="alice", ourselves=ourselves)
    assert (reject.reason if reject else None) is reason


@given(
    st.builds(Reject, st.sampled_from(RejectReason), text(MAX_DETAIL_LENGTH), NATURAL),
)
def test_a_reject_comes_out_as_it_went_in(reject: Reject) -> None:
    assert decode_reject(payload_of(encode_reject(reject), FrameType.REJECT)) == reject


def test_a_long_or_odd_detail_does_not_hide_the_reason() -> None:
    for detail in ("x" * 100_000, "\udcff" * MAX_DETAIL_LENGTH):
        frame = encode_reject(Reject(RejectReason.STALE, detail, 5))
        decoded = decode_reject(payload_of(frame, FrameType.REJECT))
        assert (decoded.reason, decoded.connection_number) == (RejectReason.STALE, 5)
        assert len(decoded.detail) == MAX_DETAIL_LENGTH


@pytest.mark.parametrize(
    "fields", [["moon", "", 0], ["self", ""], ["self", "x" * 1025, 0], ["self", "", -1], [1, "", 0]]
)
def test_a_reject_that_is_none_is_refused(fields: list[object]) -> None:
    with pytest.raises(RemoteProtocolError):
        decode_reject(cbor2.dumps(fields))


RANKS = [ConnectionRank(n, name) for n in range(4) for name in ("alice", "bob")]


def kept(first: ConnectionRank, *others: ConnectionRank) -> ConnectionRank:
    """What an end holds after the connections came to it in this order."""
    held = first
    for other in others:
        held = other if other.beats(held) else held
    return held


def test_both_ends_keep_the_same_of_two_connections() -> None:
    """Each end sees the two in its own order of arrival, and both end up with the same one."""
    for one, other in itertools.combinations(RANKS, 2):
        assert kept(one, other) == kept(other, one)
        if one.number != other.number:
            assert kept(one, other).number == max(one.number, other.number)
        else:
            assert kept(one, other).dialler == "alice"


def test_any_number_of_connections_in_any_order_leaves_the_same_one() -> None:
    for arrivals in itertools.permutations(RANKS[:5]):
        assert kept(*arrivals) == ConnectionRank(2, "alice")


def test_a_dial_wins_against_those_before_it_and_never_against_itself() -> None:
    """A dial that follows a break wins even when the other end has not noticed the break; a Hello
    that comes late does not."""
    rank = ConnectionRank(3, "bob")
    assert ConnectionRank(4, "bob").beats(rank)
    assert not rank.beats(rank)
