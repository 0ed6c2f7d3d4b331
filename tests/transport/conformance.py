"""What every `SecureStream` does, whatever it is made of.

Each function here is one promise of `steinadler.transport.network.SecureStream`, and takes a
factory of connected pairs.  A test module runs them all over its own kind of stream:

    @pytest.mark.parametrize("promise", PROMISES)
    async def test_conformance(promise): await promise(make_pair)

Nothing here reads a clock: waits end by conditions, and cancellations come after a number of
turns of the scheduler.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import TypeAlias

import pytest
import trio
import trio.testing

from steinadler.transport.network import SecureStream

Pair: TypeAlias = tuple[SecureStream, SecureStream]
PairFactory: TypeAlias = Callable[[], AbstractAsyncContextManager[Pair]]
Promise: TypeAlias = Callable[[PairFactory], Awaitable[None]]

_BLOCK = bytes(64 * 1024)
# More than any network holds on its own account.
_TOO_MUCH = 64 * 1024 * 1024


async def receive_exactly(stream: SecureStream, size: int) -> bytes:
    data = bytearray()
    while len(data) < size:
        some = await stream.receive_some()
        assert some, f"the stream ended after {len(data)} of {size} bytes"
        data += some
    assert len(data) == size
    return bytes(data)


def fill(stream: SecureStream) -> int:
    """Write until the stream has to keep some for later; return how much was written."""
    for blocks in range(1, _TOO_MUCH // len(_BLOCK)):
        if not stream.write_nowait(_BLOCK):
            return blocks * len(_BLOCK)
    raise AssertionError("the network takes bytes without end")


async def cancel_after(turns: int, scope: trio.CancelScope) -> None:
    for _ in range(turns):
        await trio.lowlevel.checkpoint()
    scope.cancel()


async def bytes_arrive_both_ways_in_order(make_pair: PairFactory) -> None:
    async with make_pair() as (a, b):
        for sender, receiver in ((a, b), (b, a)):
            for part in (b"one ", b"", b"two ", b"three"):
                assert sender.write_nowait(part)
            assert await receive_exactly(receiver, 13) == b"one two three"


async def the_peers_know_each_other(make_pair: PairFactory) -> None:
    async with make_pair() as (a, b):
        assert a.peer.cluster_id == b.peer.cluster_id
        assert a.peer != b.peer


async def a_full_network_is_told_and_flush_waits(make_pair: PairFactory) -> None:
    async with make_pair() as (a, b):
        size = fill(a)
        flushed = trio.Event()

        async def flush() -> None:
            await a.flush()
            flushed.set()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(flush)
            await trio.testing.wait_all_tasks_blocked()
            assert not flushed.is_set()
            await receive_exactly(b, size)
        assert a.write_nowait(b"x")
        assert await b.receive_some() == b"x"


async def a_cancelled_flush_loses_and_doubles_nothing(make_pair: PairFactory) -> None:
    """M2, M3: 20 MB through a slow reader, with the flushes cancelled again and again."""
    draw = random.Random(20)
    total = 20_000_000
    sent, received = hashlib.sha256(), hashlib.sha256()
    cancelled = 0

    async def flush(stream: SecureStream) -> None:
        nonlocal cancelled
        while True:
            with trio.CancelScope() as scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(cancel_after, draw.randrange(4), scope)
                    await stream.flush()
                    return nursery.cancel_scope.cancel()
            cancelled += 1

    async def send(stream: SecureStream) -> None:
        left = total
        while left:
            data = draw.randbytes(min(left, draw.randrange(1, 200_000)))
            sent.update(data)
            left -= len(data)
            if not stream.write_nowait(data):
                await flush(stream)

    async def receive(stream: SecureStream) -> None:
        left = total
        while left:
            data = await stream.receive_some()
            assert data
            received.update(data)
            left -= len(data)
            for _ in range(draw.randrange(8)):
                await trio.lowlevel.checkpoint()

    async with make_pair() as (a, b), trio.open_nursery() as nursery:
        nursery.start_soon(send, a)
        nursery.start_soon(receive, b)
    assert cancelled
    assert received.digest() == sent.digest()


async def a_cancelled_receive_loses_nothing(make_pair: PairFactory) -> None:
    draw = random.Random(3)
    data = draw.randbytes(500_000)
    arrived = bytearray()
    async with make_pair() as (a, b), trio.open_nursery() as sending:

        async def send() -> None:
            for at in range(0, len(data), 1000):
                if not a.write_nowait(data[at : at + 1000]):
                    await a.flush()
                await trio.lowlevel.checkpoint()

        sending.start_soon(send)
        while len(arrived) < len(data):
            with trio.CancelScope() as scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(cancel_after, draw.randrange(3), scope)
                    arrived += await b.receive_some()
                    nursery.cancel_scope.cancel()
    assert arrived == data


async def a_cancellation_is_never_missed(make_pair: PairFactory) -> None:
    """Every method that may wait is a checkpoint, even when it need not wait."""
    async with make_pair() as (a, b):
        assert a.write_nowait(b"here")
        assert await receive_exactly(b, 4) == b"here"
        assert a.write_nowait(b"kept")
        for operation in (a.flush, b.receive_some):
            with trio.CancelScope() as scope:
                scope.cancel()
                await operation()
            assert scope.cancelled_caught
        assert await receive_exactly(b, 4) == b"kept"


async def a_flood_starves_nobody(make_pair: PairFactory) -> None:
    """M6: reading what is always at hand lets other tasks run in between."""
    async with make_pair() as (a, b):
        turns = 0

        async def count() -> None:
            nonlocal turns
            while True:
                await trio.lowlevel.checkpoint()
                turns += 1

        async with trio.open_nursery() as nursery:
            nursery.start_soon(count)
            for _ in range(200):
                assert a.write_nowait(b"flood")
                assert await b.receive_some()
            nursery.cancel_scope.cancel()
        assert turns > 190


async def the_end_comes_after_the_bytes(make_pair: PairFactory) -> None:
    """A closed stream ends for the peer, after what was sent, and stays ended."""
    async with make_pair() as (a, b):
        assert a.write_nowait(b"last words")
        a.close_nowait()
        assert await receive_exactly(b, 10) == b"last words"
        assert await b.receive_some() == b""
        assert await b.receive_some() == b""


async def closing_wakes_a_waiting_receiver(make_pair: PairFactory) -> None:
    async with make_pair() as (a, b):
        await _closed_under(a, a.receive_some)
        assert await b.receive_some() == b""


async def closing_wakes_a_waiting_flush(make_pair: PairFactory) -> None:
    async with make_pair() as (a, _):
        fill(a)
        await _closed_under(a, a.flush)


async def _closed_under(stream: SecureStream, wait: Callable[[], Awaitable[object]]) -> None:
    async def expect_closed() -> None:
        with pytest.raises(trio.ClosedResourceError):
            await wait()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(expect_closed)
        await trio.testing.wait_all_tasks_blocked()
        stream.close_nowait()


async def a_closed_stream_says_so(make_pair: PairFactory) -> None:
    async with make_pair() as (a, _):
        a.close_nowait()
        a.close_nowait()
        with pytest.raises(trio.ClosedResourceError):
            a.write_nowait(b"x")
        with pytest.raises(trio.ClosedResourceError):
            await a.flush()
        with pytest.raises(trio.ClosedResourceError):
            await a.receive_some()


async def writing_to_nobody_breaks(make_pair: PairFactory) -> None:
    """The peer's end is gone: sooner or later a write says so, and then every one does."""
    async with make_pair() as (a, b):
        b.close_nowait()
        with pytest.raises(trio.BrokenResourceError):
            await _write_for_ever(a)
        with pytest.raises(trio.BrokenResourceError):
            a.write_nowait(b"x")
        with pytest.raises(trio.BrokenResourceError):
            await a.flush()


async def _write_for_ever(stream: SecureStream) -> None:
    while True:
        if not stream.write_nowait(_BLOCK):
            await stream.flush()
        await trio.lowlevel.checkpoint()


PROMISES = (
    bytes_arrive_both_ways_in_order,
    the_peers_know_each_other,
    a_full_network_is_told_and_flush_waits,
    a_cancelled_flush_loses_and_doubles_nothing,
    a_cancelled_receive_loses_nothing,
    a_cancellation_is_never_missed,
    a_flood_starves_nobody,
    the_end_comes_after_the_bytes,
    closing_wakes_a_waiting_receiver,
    closing_wakes_a_waiting_flush,
    a_closed_stream_says_so,
    writing_to_nobody_breaks,
)
