"""The pump between two streams: both ways, to the end of each, and how it breaks."""

from __future__ import annotations

import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from socket import SO_LINGER, SOL_SOCKET

import pytest
import trio
from trio.testing import lockstep_stream_pair, memory_stream_pair, wait_all_tasks_blocked

from steinadler.cli.pump import PIECE_BYTES, pump

Stream = trio.abc.HalfCloseableStream


class Pumping:
    """A pump at work, with the far ends of both of its streams."""

    def __init__(self, client: Stream, service: Stream) -> None:
        self.client = client
        self.service = service
        self.sent = self.received = 0
        self.ended = trio.Event()
        self.error: BaseException | None = None

    async def run(self, client: Stream, service: Stream) -> None:
        def sent(size: int) -> None:
            self.sent += size

        def received(size: int) -> None:
            self.received += size

        try:
            await pump(client, service, on_sent=sent, on_received=received)
        except trio.BrokenResourceError as error:
            self.error = error
        finally:
            self.ended.set()


@asynccontextmanager
async def pumping(
    client: tuple[Stream, Stream], service: tuple[Stream, Stream]
) -> AsyncIterator[Pumping]:
    """Pump between the second of each pair, for the length of the block, 5 s at the most."""
    pumping = Pumping(client[0], service[0])
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(pumping.run, client[1], service[1])
            yield pumping
            nursery.cancel_scope.cancel()
    for stream in (*client, *service):
        await stream.aclose()


async def sockets() -> tuple[trio.SocketStream, trio.SocketStream]:
    """Two ends of a TCP connection."""
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with listener:
        host, port = listener.socket.getsockname()
        near = await trio.open_tcp_stream(host, port)
        return near, await listener.accept()


def reset(stream: Stream) -> None:
    """Break a TCP connection off, as a crash does."""
    assert isinstance(stream, trio.SocketStream)
    stream.setsockopt(SOL_SOCKET, SO_LINGER, struct.pack("ii", 1, 0))
    stream.socket.close()


async def everything(stream: Stream) -> bytes:
    return b"".join([piece async for piece in stream])


async def test_it_copies_both_ways_and_closes_them_one_by_one() -> None:
    """An end of one way is passed on, and the other way goes on until its own."""
    async with pumping(memory_stream_pair(), memory_stream_pair()) as it:
        await it.client.send_all(b"question")
        await it.client.send_eof()
        assert await everything(it.service) == b"question"
        assert not it.ended.is_set()
        await it.service.send_all(b"answer")
        assert await it.client.receive_some() == b"answer"
        await it.service.send_eof()
        assert await it.client.receive_some() == b""
        await it.ended.wait()
        assert (it.error, it.sent, it.received) == (None, 8, 6)


async def test_it_holds_one_piece_and_not_more() -> None:
    """A client that does not read holds back its service: the pump is no buffer."""
    async with pumping(lockstep_stream_pair(), lockstep_stream_pair()) as it:
        async with trio.open_nursery() as nursery:

            async def serve() -> None:
                with suppress(trio.ClosedResourceError):
                    while True:
                        await it.service.send_all(bytes(PIECE_BYTES))
                        pieces.append(1)

            pieces: list[int] = []
            nursery.start_soon(serve)
            await wait_all_tasks_blocked()
            assert (len(pieces), it.received) == (1, 0)
            assert len(await it.client.receive_some(PIECE_BYTES)) == PIECE_BYTES
            await wait_all_tasks_blocked()
            assert (len(pieces), it.received) == (2, PIECE_BYTES)
            await it.client.aclose()
            await it.ended.wait()
            assert it.error is None, "the client closed in order"
            await it.service.aclose()


async def test_a_service_that_closes_in_order_is_heard_to_its_end() -> None:
    """It has read enough, answers and closes; the client has not sent all yet."""
    async with pumping(memory_stream_pair(), memory_stream_pair()) as it:
        await it.client.send_all(b"a long questi")
        assert await it.service.receive_some() == b"a long questi"
        await it.service.send_all(b"413 too long")
        await it.service.aclose()
        await it.client.send_all(b"on")
        assert await everything(it.client) == b"413 too long"
        await it.ended.wait()
        assert (it.error, it.received) == (None, 12)


async def test_the_same_with_sockets() -> None:
    """There it is EPIPE that tells a close in order, and only at the second piece."""
    async with pumping(await sockets(), await sockets()) as it:
        await it.service.send_all(b"enough")
        await it.service.aclose()
        assert await everything(it.client) == b"enough"
        with pytest.raises(trio.BrokenResourceError):
            while True:
                await it.client.send_all(b"more")
                if it.ended.is_set():
                    raise trio.BrokenResourceError
                await trio.lowlevel.checkpoint()
        assert it.error is None


@pytest.mark.parametrize("who", ["client", "service"])
async def test_a_reset_is_an_error_and_no_end(who: str) -> None:
    """Nobody may take what was cut off for the whole."""
    async with pumping(await sockets(), await sockets()) as it:
        near, far = (it.client, it.service) if who == "client" else (it.service, it.client)
        await near.send_all(b"half of")
        assert await far.receive_some() == b"half of"
        reset(near)
        await it.ended.wait()
        assert isinstance(it.error, trio.BrokenResourceError)
        assert isinstance(it.error.__cause__, ConnectionResetError)


async def test_a_reset_that_a_send_sees_first_is_one_too() -> None:
    """The system tells a reset once, and what is read after that looks like an end.

    Both ways wait for the same socket, and chance decides which of them hears of it: many times.
    """
    for _ in range(12):
        async with pumping(await sockets(), await sockets()) as it:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(it.client.send_all, bytes(100 << 20))
                await wait_all_tasks_blocked(0.01)
                reset(it.service)
                await it.ended.wait()
                nursery.cancel_scope.cancel()
            assert isinstance(it.error, trio.BrokenResourceError)
