"""Two ends of a stream: within one node, and on two."""

from __future__ import annotations

from typing import Any

import pytest
import trio

from steinadler import Config, Node, WireSettings

KIB = 1024
CONFIG = Config(
    wire=WireSettings(
        max_message_bytes=256 * KIB, window_bytes=64 * KIB, reassembly_bytes=1024 * KIB
    ),
    mailbox_bytes=64 * KIB,
)


@pytest.fixture(params=["local", "remote"])
async def pair(request: pytest.FixtureRequest, nodes: Any) -> tuple[Node, Node]:
    """Two nodes that are the same one, or two; with windows of 64 KiB."""
    if request.param == "local":
        node = await nodes.open("bob", config=CONFIG)
        return node, node
    alice = await nodes.open("alice", config=CONFIG)
    bob = await nodes.open("bob", config=CONFIG)
    with trio.fail_after(10):
        await alice.wait_for_member("bob")
        await bob.wait_for_member("alice")
    return alice, bob
