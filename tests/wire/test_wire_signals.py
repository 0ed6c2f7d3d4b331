"""Signals come out as they went in; a later version's are passed over, anything else is refused."""

from __future__ import annotations

import cbor2
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from steinadler.errors import RemoteProtocolError
from steinadler.identity import NodeId, ProcessId
from steinadler.wire.frames import MAX_ITEM_BYTES
from steinadler.wire.signals import (
    MAX_REASON_LENGTH,
    CancelCall,
    DemonitorRequest,
    DownNotice,
    ExitNotice,
    LinkRequest,
    MonitorRequest,
    Signal,
    UnlinkRequest,
    decode_signal,
    encode_signal,
)

NATURAL = st.integers(0, 2**64 - 1)
TEXT = st.text(st.characters(codec="utf-8"), max_size=60)
PROCESS = st.builds(ProcessId, st.builds(NodeId, TEXT, NATURAL), NATURAL)
SIGNALS: st.SearchStrategy[Signal] = st.one_of(
    st.builds(MonitorRequest, NATURAL, NATURAL | TEXT, NATURAL),
    st.builds(DemonitorRequest, NATURAL),
    st.builds(DownNotice, NATURAL, st.none() | PROCESS, TEXT),
    st.builds(LinkRequest, NATURAL, NATURAL),
    st.builds(UnlinkRequest, NATURAL, NATURAL),
    st.builds(ExitNotice, PROCESS, TEXT, st.booleans()),
    st.builds(CancelCall, NATURAL),
)
A_PROCESS = ProcessId(NodeId("alice", 7), 3)
ONE_OF_EACH: list[Signal] = [
    MonitorRequest(1, 2, 0),
    MonitorRequest(1, "counter", 5),
    DemonitorRequest(1),
    DownNotice(1, A_PROCESS, "normal"),
    DownNotice(1, None, "noproc"),
    LinkRequest(1, 2),
    UnlinkRequest(1, 2),
    ExitNotice(A_PROCESS, "killed", linked=True),
    CancelCall(1),
]


@given(SIGNALS)
def test_every_signal_comes_out_as_it_went_in(signal: Signal) -> None:
    assert decode_signal(encode_signal(signal)) == signal


@pytest.mark.parametrize("signal", ONE_OF_EACH, ids=str)
def test_more_elements_at_the_end_are_for_a_later_version(signal: Signal) -> None:
    longer = cbor2.dumps([*cbor2.loads(encode_signal(signal)), "later", [1]])
    assert decode_signal(longer) == signal


@pytest.mark.parametrize("signal", ONE_OF_EACH, ids=str)
def test_a_signal_cut_followed_by_bytes_or_short_of_a_field_is_refused(signal: Signal) -> None:
    data = encode_signal(signal)
    for end in range(len(data)):
        with pytest.raises(RemoteProtocolError):
            decode_signal(data[:end])
    for tail in (b"\x00", b"\xff", data):
        with pytest.raises(RemoteProtocolError, match="after the end"):
            decode_signal(data + tail)
    fields = cbor2.loads(data)
    for count in range(len(fields)):
        with pytest.raises(RemoteProtocolError):
            decode_signal(cbor2.dumps(fields[:count]))


@pytest.mark.parametrize(
    "fields",
    [
        [1, -1, 2, 0],
        [1, 1, "x" * 256, 0],
        [1, 1, 2**64, 0],
        [2, True],
        [3, 1, ["alice", 7], "why"],
        [3, 1, None, "x" * (MAX_REASON_LENGTH + 1)],
        [4, 1.0, 2],
        [6, None, 2, "why", True],
        [6, ["alice", 7, 3], 2, "why", 1],
        [0],
        [8],
        [63],
        ["1", 2],
        [],
        {},
        None,
    ],
    ids=repr,
)
def test_wrong_fields_and_codes_up_to_63_are_refused(fields: object) -> None:
    with pytest.raises(RemoteProtocolError):
        decode_signal(cbor2.dumps(fields))


@pytest.mark.parametrize("fields", [[64], [64, "anything", {}], [2**40, []]], ids=repr)
def test_a_signal_of_a_later_version_is_none_of_ours(fields: object) -> None:
    assert decode_signal(cbor2.dumps(fields)) is None


@given(st.text(st.characters(), min_size=1, max_size=20), st.integers(1, 2 * MAX_REASON_LENGTH))
@example("\udcff", MAX_REASON_LENGTH)
@example("😀", MAX_REASON_LENGTH)
def test_any_exit_reason_can_be_sent(text: str, length: int) -> None:
    """D1: an exception's text may be long, or hold the surrogates of an odd file name."""
    reason = (text * length)[:length]
    for signal in (DownNotice(1, None, reason), ExitNotice(A_PROCESS, reason, linked=False)):
        decoded = decode_signal(encode_signal(signal))
        assert isinstance(decoded, (DownNotice, ExitNotice))
        assert len(decoded.reason) <= MAX_REASON_LENGTH
        try:
            reason.encode()
        except UnicodeEncodeError:
            assert decoded.reason
        else:
            assert decoded.reason == reason[:MAX_REASON_LENGTH]


def test_a_reason_of_wide_characters_may_need_more_than_a_frame() -> None:
    """Which is why a signal may be fragmented like any other item."""
    data = encode_signal(DownNotice(1, A_PROCESS, "😀" * MAX_REASON_LENGTH))
    assert len(data) > MAX_ITEM_BYTES


@given(
    st.binary(max_size=80) | st.builds(lambda s, i, b: _mutated(s, i, b), SIGNALS, NATURAL, NATURAL)
)
def test_hostile_bytes_are_a_signal_or_refused(data: bytes) -> None:
    """X4: nothing but RemoteProtocolError comes out."""
    try:
        signal = decode_signal(data)
    except RemoteProtocolError:
        return
    if signal is not None:
        assert decode_signal(encode_signal(signal)) == signal


def _mutated(signal: Signal, index: int, byte: int) -> bytes:
    data = bytearray(encode_signal(signal))
    data[index % len(data)] = byte % 256
    return bytes(data)
