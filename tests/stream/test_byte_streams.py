"""Byte streams: Trio's own conformance suites, and what is particular to a cluster."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing

from steinadler import (
    ByteStream,
    ConfigError,
    NameConflict,
    Node,
    NodeDown,
    NoSuchService,
    StreamRefused,
)

Pair = tuple[Node, Node]

# Four frames: with them the window of 64 KiB (each frame costs 64 bytes more) is used up.
WINDOWFUL = bytes(4 * 16_368)


async def both_ends(pair: Pair) -> tuple[ByteStream, ByteStream]:
    """A connection from the first node to the second."""
    here, there = pair
    listener = there.listen("test")
    try:
        near = await here.connect(f"test@{there.name}")
        return near, await listener.accept()
    finally:
        listener.close()


async def test_it_is_a_half_closeable_stream_of_trios(pair: Pair) -> None:
    """M1, M2: `trio.testing.check_half_closeable_stream`, which checks one-way and two-way too."""

    async def make() -> tuple[ByteStream, ByteStream]:
        return await both_ends(pair)

    async def make_clogged() -> tuple[ByteStream, ByteStream]:
        near, far = await both_ends(pair)
        await near.send_all(WINDOWFUL)
        await far.send_all(WINDOWFUL)
        return near, far

    with trio.fail_after(60):
        await trio.testing.check_half_closeable_stream(make, make_clogged)
