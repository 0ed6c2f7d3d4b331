"""What comes from a node that is down waits until it is up, and is bounded (D3, X4)."""

from __future__ import annotations

from typing import Any

import pytest

from steinadler.errors import RemoteProtocolError
from steinadler.node.early import MAX_EARLY_BYTES, Early
from steinadler.wire.frames import FrameType
from steinadler.wire.session import Arrived


def items(type_: FrameType, *bodies: bytes) -> Arrived:
    channel: Any = None
    return Arrived(channel, type_, list(bodies))


def link() -> Any:
    return object()


def test_what_waits_is_given_out_once_and_in_its_order() -> None:
    early, one, other = Early(), link(), link()
    early.expect(one)
    early.expect(one)  # another connection of the same link
    assert one in early
    assert other not in early
    came = [items(FrameType.MESSAGES, b"1"), items(FrameType.SIGNALS, b"2")]
    for each in came:
        early.keep(one, each)
    early.expect(one)
    assert early.take(one) == came
    assert one not in early
    assert early.take(one) == []


@pytest.mark.parametrize("type_", [FrameType.SIGNALS, FrameType.REPLIES])
def test_what_costs_no_credit_is_bounded(type_: FrameType) -> None:
    early, one = Early(), link()
    early.expect(one)
    early.keep(one, items(type_, bytes(MAX_EARLY_BYTES // 2)))
    early.keep(one, items(FrameType.MESSAGES, bytes(MAX_EARLY_BYTES)))  # credit bounds it
    with pytest.raises(RemoteProtocolError, match="before it says that it lives"):
        early.keep(one, items(type_, bytes(MAX_EARLY_BYTES // 2)))
    early.take(one)
    early.expect(one)
    early.keep(one, items(type_, bytes(MAX_EARLY_BYTES // 2)))
    with pytest.raises(RemoteProtocolError):
        early.keep(one, items(type_, *[b""] * (MAX_EARLY_BYTES // 100)))
