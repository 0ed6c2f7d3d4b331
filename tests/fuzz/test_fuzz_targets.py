"""The invariant of `fuzz_targets`, on every input that was ever kept and on structured new ones."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import fuzz_targets as targets
import pytest
from fuzz_targets import SEEDS, TARGETS, corpus
from hypothesis import given, settings
from hypothesis import strategies as st

from steinadler.wire.channels import ToName, ToNode, ToProcess, ToStream, encode_target
from steinadler.wire.frames import (
    FLAG_FIRST,
    MAX_ITEM_BYTES,
    MAX_PAYLOAD_BYTES,
    FrameType,
    pack_first_fragment,
    pack_items,
)

KEPT = [(name, path) for name in TARGETS for path in corpus(name)]


@pytest.mark.parametrize(("name", "path"), KEPT, ids=[f"{n}-{p.stem}" for n, p in KEPT])
def test_every_input_that_was_kept_holds_the_invariant_x4(name: str, path: Path) -> None:
    data = path.read_bytes()
    tracemalloc.start()
    try:
        TARGETS[name](data)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 1_000_000 + 200 * len(data)


@pytest.mark.parametrize("name", TARGETS)
def test_the_corpus_of_every_target_is_kept(name: str) -> None:
    assert corpus(name)


# -- structured inputs ------------------------------------------------------------------------

channels = st.integers(0, 6)
destinations = st.one_of(
    st.builds(ToProcess, st.integers(0, 3)),
    st.builds(ToName, st.sampled_from(["a", "b"])),
    st.builds(ToNode, st.integers(0, 3)),
    st.builds(ToStream, st.integers(0, 7), st.booleans()),
)
bodies = st.lists(
    st.binary(max_size=8) | st.sampled_from([bytes(4000), bytes(9000)]), max_size=3
).map(pack_items)
item_types = st.sampled_from(
    [FrameType.MESSAGES, FrameType.CALLS, FrameType.REPLIES, FrameType.SIGNALS]
)
well_formed = st.one_of(
    st.builds(
        targets.frame, st.just(FrameType.OPEN), channels, st.builds(encode_target, destinations)
    ),
    st.builds(
        targets.frame,
        st.just(FrameType.CLOSE),
        channels,
        st.sampled_from([b"", b"\x82\x61E\x61t", b"\x00", bytes(9000)]),
    ),
    st.builds(
        targets.frame,
        st.just(FrameType.BYTES),
        channels,
        st.sampled_from([b"", b"x", bytes(4000), bytes(9000)]),
    ),
    st.builds(
        targets.frame,
        st.just(FrameType.CREDIT),
        channels,
        st.sampled_from([1, 72, 73, 8_000, 2**64 - 1]).map(lambda n: n.to_bytes(8, "big")),
    ),
    st.builds(targets.frame, item_types, channels, bodies),
    st.builds(
        targets.frame,
        st.just(FrameType.FRAGMENT),
        channels,
        st.builds(
            pack_first_fragment,
            item_types,
            st.integers(MAX_ITEM_BYTES, 41_000) | st.just(2**32 - 1),
            st.sampled_from([b"x", bytes(MAX_PAYLOAD_BYTES - 5)]),
        ),
        st.just(FLAG_FIRST),
    ),
    st.builds(
        targets.frame,
        st.just(FrameType.FRAGMENT),
        channels,
        st.sampled_from([b"x", bytes(MAX_PAYLOAD_BYTES), b""]),
    ),
    st.builds(
        targets.frame,
        st.sampled_from([FrameType.ACKNOWLEDGE, FrameType.GOSSIP, FrameType.GOODBYE, 0x7F, 0xFF]),
        channels,
        st.binary(max_size=9),
    ),
)
damaged = st.builds(
    targets.frame,
    st.integers(0, 255),
    st.integers(0, 2**32 - 1),
    st.binary(max_size=20),
    st.integers(0, 255),
)


@given(st.lists(well_formed | well_formed | well_formed | damaged, max_size=15))
@settings(max_examples=150)
def test_frames_in_any_order_on_any_channel_with_any_credit_x4(frames: list[bytes]) -> None:
    targets.conversation(b"".join(frames))
    targets.streams(b"".join(frames))


@given(
    st.lists(
        well_formed | st.sampled_from(SEEDS[targets.streams]),
        max_size=15,
    )
)
@settings(max_examples=150)
def test_streams_in_any_order_of_what_a_peer_may_say_x4(frames: list[bytes]) -> None:
    targets.streams(b"".join(frames))


@given(st.lists(well_formed, min_size=1, max_size=8), st.data())
@settings(max_examples=150)
def test_frames_replayed_skipped_and_cut_short_x4(frames: list[bytes], data: st.DataObject) -> None:
    stream = targets.in_sequence(b"".join(frames))
    at = data.draw(st.integers(0, len(stream)))
    again = data.draw(st.integers(0, len(stream)))
    targets.session(stream[:at] + stream[again:])


@pytest.mark.parametrize("target", SEEDS, ids=lambda target: target.__name__)
@given(st.data())
@settings(max_examples=60)
def test_damaged_valid_input_x4(target: object, data: st.DataObject) -> None:
    damaged = data.draw(st.sampled_from(SEEDS[target]))  # type: ignore[index]
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(damaged)))
        skip = data.draw(st.integers(0, 4))
        damaged = damaged[:at] + data.draw(st.binary(max_size=4)) + damaged[at + skip :]
    target(damaged)  # type: ignore[operator]
