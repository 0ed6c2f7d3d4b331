"""X4 with real sockets: frames of an authenticated peer that are none close its connection, with
one reason in the log, and the calls of another node go on meanwhile.
"""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Any

import pytest
import trio
from fuzz_targets import TARGETS, corpus, frame, in_sequence

from steinadler.errors import RemoteProtocolError
from steinadler.wire.frames import HEADER_BYTES, MAX_FRAME_BYTES, FrameType, split_frame

sys.path.append(str(Path(__file__).parents[1] / "node"))
from raw_peer import raw_peer

# What breaks a rule wherever it comes: the last word of an input that broke none.  As many as an
# unfinished frame before them can swallow, and one more.
NO_FRAMES = frame(FrameType.HELLO) * (MAX_FRAME_BYTES // HEADER_BYTES + 1)
# What else a node may say: those who were closed before may be found to be down all at once.
OF_A_BUSY_MACHINE = ("this node's loop was blocked", "lost together: ")


def inputs() -> dict[str, bytes]:
    """What was kept for the targets that are about frames; numbered right where that matters."""
    kept = {f"session-{path.stem}": path.read_bytes() for path in corpus("session")}
    for name in ("conversation", "signal", "membership"):
        assert name in TARGETS
        for path in corpus(name):
            data = path.read_bytes()
            match name:
                case "signal":
                    size = len(data).to_bytes(2, "big")
                    data = frame(FrameType.SIGNALS, 0, b"\0\1" + size + data)
                case "membership":
                    data = frame(FrameType.GOSSIP, 0, data[2:16_000])
            kept[f"{name}-{path.stem}"] = in_sequence(data)
    return kept


def says_goodbye(data: bytes) -> bool:
    """Whether there is a GOODBYE among these frames: nothing that comes after it counts."""
    try:
        while (split := split_frame(data)) is not None:
            first, data = split
            if first.type == FrameType.GOODBYE:
                return True
    except RemoteProtocolError:
        pass
    return False


async def test_whatever_a_peer_sends_only_its_own_connection_closes_x4(
    nodes: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    alice, bob = await nodes.open_all("alice", "bob")
    answered = 0

    async def keep_calling() -> None:
        nonlocal answered
        while True:
            assert await bob.call("$echo@alice", answered) == answered
            answered += 1

    async with trio.open_nursery() as nursery:
        nursery.start_soon(keep_calling)
        for number, (title, data) in enumerate(inputs().items()):
            before = answered
            caplog.clear()
            name = f"mallory{number}"
            with trio.fail_after(10):
                async with raw_peer(alice, nodes.home, name) as peer:
                    await peer.shake_hands()
                    await peer.say_if_open(data + NO_FRAMES)
                    await peer.wait_closed()
                while answered < before + 3:
                    await trio.lowlevel.checkpoint()
            reasons = [
                text
                for record in caplog.records
                if not (text := record.getMessage()).startswith(OF_A_BUSY_MACHINE)
            ]
            told = [text for text in reasons if text.startswith("closed the connection to ")]
            assert len(told) == 1 or (not told and says_goodbye(data)), title
            assert all(name in text and "protocol error: " in text for text in told)
            assert reasons == told, "and nothing else happens"
        nursery.cancel_scope.cancel()
    assert {member.node.name for member in bob.members()} >= {"alice", "bob"}
