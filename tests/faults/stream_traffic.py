"""Streams of bytes and channels of objects between two nodes, and what became of each of them."""

from __future__ import annotations

import hashlib
import random
from typing import Any

import trio

from steinadler import ByteStream, Node, ReceiveChannel, SendChannel

PIECES = (1, 100, 5_000, 16_368, 60_000)


class StreamTraffic:
    """`streams` byte streams, echoed back by `other`, and as many channels of objects to it.

    `run` returns when each has carried `each_bytes` and was closed.  Every end compares by SHA-256.
    """

    def __init__(self, one: Node, other: Node, *, seed: int, streams: int, each_bytes: int) -> None:
        self._one, self._other = one, other
        self._draws = random.Random(f"streams/{seed}")
        self._streams = streams
        self._each_bytes = each_bytes
        self.whole = 0  # streams and channels that carried all of it

    async def run(self) -> None:
        """Carry everything."""
        with self._other.listen("echo") as listener:
            async with trio.open_nursery() as serving:
                serving.start_soon(trio.serve_listeners, self._echo, [listener])
                async with trio.open_nursery() as nursery:
                    for _ in range(self._streams):
                        nursery.start_soon(self._stream, random.Random(self._draws.random()))
                        nursery.start_soon(self._channel, random.Random(self._draws.random()))
                serving.cancel_scope.cancel()

    async def _echo(self, stream: ByteStream) -> None:
        async with stream:
            async for chunk in stream:
                await stream.send_all(chunk)
            await stream.send_eof()

    async def _stream(self, draw: random.Random) -> None:
        stream = await self._one.connect(f"echo@{self._other.name}")
        sent, got = hashlib.sha256(), hashlib.sha256()

        async def send() -> None:
            left = self._each_bytes
            while left:
                data = draw.randbytes(min(left, draw.choice(PIECES)))
                left -= len(data)
                sent.update(data)
                await stream.send_all(data)
            await stream.send_eof()

        async with stream, trio.open_nursery() as nursery:
            nursery.start_soon(send)
            async for chunk in stream:
                got.update(chunk)
        assert got.digest() == sent.digest()
        self.whole += 1

    async def _channel(self, draw: random.Random) -> None:
        here, there = self._one.open_channel()
        near, far = (here, await self._other.claim(there.ref()))
        sent, got = hashlib.sha256(), hashlib.sha256()

        async def send(end: SendChannel) -> None:
            left, number = self._each_bytes, 0
            async with end:
                while left > 0:
                    data = draw.randbytes(min(left, draw.choice(PIECES)))
                    left -= len(data)
                    sent.update(data)
                    await end.send((number, data))
                    number += 1

        async with trio.open_nursery() as nursery:
            nursery.start_soon(send, near)
            assert isinstance(far, ReceiveChannel)
            expected = 0
            async for number, data in far:
                assert number == expected
                expected += 1
                got.update(data)
        assert got.digest() == sent.digest()
        await far.aclose()
        self.whole += 1


def streams_left(*nodes: Node) -> list[Any]:
    """What nodes still have of streams: ends in their tables, and channels in their sessions."""
    channels = [
        (node.name, each.channels, each.peer_channels)
        for node in nodes
        for each in node.connections()
        if each.channels > 2 or each.peer_channels > 2
    ]
    return [*(end for node in nodes for end in node.stream_statistics()), *channels]
