"""Byte streams: Trio's own conformance suites, and what is particular to a cluster."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import trio
import trio.testing

from steinadler import (
    ByteStream,
    Config,
    ConfigError,
    NameConflict,
    Node,
    NodeDown,
    NoSuchService,
    StreamRefused,
    StreamSettings,
    WireSettings,
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


async def test_a_listener_serves_as_trios_do(pair: Pair) -> None:
    """`trio.serve_listeners` and `trio.SSLStream`'s kind of use: an echo for many at once."""
    here, there = pair

    async def echo(stream: trio.abc.Stream) -> None:
        async for chunk in stream:
            await stream.send_all(chunk)
        await stream.aclose()

    async def ask(number: int) -> None:
        async with await here.connect(f"echo@{there.name}") as stream:
            data = bytes([number]) * 100_000
            async with trio.open_nursery() as nursery:
                nursery.start_soon(send_and_end, stream, data)
                got = b"".join([chunk async for chunk in stream])
        assert got == data
        answered.append(number)

    async def send_and_end(stream: ByteStream, data: bytes) -> None:
        await stream.send_all(data)
        await stream.send_eof()

    answered: list[int] = []
    with trio.fail_after(20):
        async with trio.open_nursery() as serving:
            await serving.start(trio.serve_listeners, echo, [there.listen("echo")])
            async with trio.open_nursery() as asking:
                for number in range(20):
                    asking.start_soon(ask, number)
            serving.cancel_scope.cancel()
    assert sorted(answered) == list(range(20))


async def test_pieces_of_any_size_arrive_whole(pair: Pair) -> None:
    """M1, M2: however a program cuts its bytes, and however many it takes at once."""
    near, far = await both_ends(pair)
    sizes = [1, 1, 1, 4000, 97, 16_368, 1, 16_369, 65_536, 100_000, 3, 0, 5]
    data = b"".join(bytes([n]) * size for n, size in enumerate(sizes))

    async def send() -> None:
        position = 0
        for size in sizes:
            await near.send_all(memoryview(data)[position : position + size])
            position += size
        await near.send_eof()

    got = b""
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(send)
            for most in (1, 2, 5000, 16_367, None):
                got += await far.receive_some(most)
            async for chunk in far:
                got += chunk
    assert got == data


async def test_a_buffer_may_be_changed_once_send_all_returned(pair: Pair) -> None:
    near, far = await both_ends(pair)
    buffer = bytearray(b"before")
    await near.send_all(buffer)
    buffer[:] = b"after!"
    with trio.fail_after(5):
        assert await far.receive_some() == b"before"


async def test_what_is_no_bytes_is_refused(pair: Pair) -> None:
    near, far = await both_ends(pair)
    with trio.fail_after(5):
        for wrong in (5, "text", [1, 2], None):
            with pytest.raises(TypeError):
                await near.send_all(wrong)  # type: ignore[arg-type]
        await near.send_all(b"")
        await near.send_eof()
        assert await far.receive_some() == b""


async def test_what_nobody_has_taken_counts_for_whoever_sent_it(nodes: Any) -> None:
    """X4: a peer that sends and closes has `max_streams` all the same, until it was read."""
    config = Config(streams=StreamSettings(max_streams=3))
    alice = await nodes.open("alice")
    bob = await nodes.open("bob", config=config)
    with trio.fail_after(10), bob.listen("slow") as listener:
        await alice.wait_for_member("bob")
        accepted = []
        for _ in range(3):
            async with await alice.connect("slow@bob") as stream:
                await stream.send_all(b"unread")
            accepted.append(await listener.accept())
        await until(lambda: all(s.bytes_waiting == 6 for s in bob.stream_statistics()))
        assert len(bob.stream_statistics()) == 3
        with pytest.raises(StreamRefused, match="max_streams"):
            await alice.connect("slow@bob")
        assert await accepted[0].receive_some() == b"unread"
        assert await accepted[0].receive_some() == b""
        accepted[1].close()
        assert len(bob.stream_statistics()) == 1
        for _ in range(2):
            await alice.connect("slow@bob")


async def test_a_stream_waits_for_a_place_among_the_peers_channels(nodes: Any) -> None:
    """Where the peer allows no more channels, sending waits, and nothing is broken."""
    alice = await nodes.open("alice")
    bob = await nodes.open("bob", config=Config(wire=WireSettings(max_channels=12)))
    with trio.fail_after(10), bob.listen("few") as listener:
        await alice.wait_for_member("bob")
        streams = [await alice.connect("few@bob") for _ in range(16)]
        far = [await listener.accept() for _ in range(16)]
        sent: list[int] = []

        async def send(number: int) -> None:
            await streams[number].send_all(bytes([number]))
            sent.append(number)

        async with trio.open_nursery() as nursery:
            for number in range(16):
                nursery.start_soon(send, number)
            await trio.testing.wait_all_tasks_blocked(0.05)
            assert 0 < 16 - len(sent) <= 8
            for number in tuple(sent):
                await streams[number].aclose()
        for number in range(16):
            assert await far[number].receive_some() == bytes([number])


async def test_a_reader_that_stops_holds_back_its_own_writer_only(pair: Pair) -> None:
    """M6: the writer stops within its window, and others go on."""
    here, there = pair
    near, _ = await both_ends(pair)
    other, other_far = await both_ends(pair)
    with trio.move_on_after(0.2) as scope:
        while True:
            await near.send_all(bytes(10_000))
    assert scope.cancelled_caught
    (stopped,) = [s for s in here.stream_statistics() if s.bytes_sent > 1000]
    assert stopped.bytes_sent < 64 * 1024 + 16 * 1024
    with trio.fail_after(5):
        await other.send_all(b"still here")
        assert await other_far.receive_some() == b"still here"
        assert await here.call(f"$echo@{there.name}", 1) == 1


async def test_who_closes_is_seen_by_who_sends(pair: Pair) -> None:
    """A reader that closes breaks the stream for its writer; one that ends sees an end."""
    near, far = await both_ends(pair)
    with trio.fail_after(5):
        await far.aclose()
        assert await near.receive_some() == b""
        with pytest.raises(trio.BrokenResourceError, match="the receiving end was closed"):
            while True:
                await near.send_all(b"x")
    await near.aclose()
    assert not any(node.stream_statistics() for node in pair)


async def test_a_block_that_raises_breaks_its_stream_off(pair: Pair) -> None:
    """Behind what was sent: half a file does not look like a whole one, also when cancelled."""
    with trio.fail_after(5):
        near, far = await both_ends(pair)
        with pytest.raises(OSError, match="disk"):
            async with near:
                await near.send_all(b"half")
                raise OSError("the disk is gone")
        assert await far.receive_some() == b"half"
        with pytest.raises(trio.BrokenResourceError, match="OSError: the disk is gone"):
            await far.receive_some()

        near, far = await both_ends(pair)
        with trio.CancelScope() as scope:
            async with near:
                scope.cancel()
                await trio.lowlevel.checkpoint()
        with pytest.raises(trio.BrokenResourceError, match="Cancelled"):
            await far.receive_some()


async def test_a_service_that_nobody_offers(pair: Pair) -> None:
    """Each way to name one that is not there says what is, or that nothing is."""
    here, there = pair
    with trio.fail_after(5), there.listen("other"):
        with pytest.raises(NoSuchService, match=r"no service 'nobody'; its services are: other"):
            await here.connect(f"nobody@{there.name}")
        with pytest.raises(NoSuchService, match="no member offers the service 'nobody'"):
            await here.connect("nobody@*")
        with pytest.raises(NodeDown, match="not a member"):
            await here.connect("other@nowhere")
    for wrong in ("", "a,b", "a b", "a/b", "ä", "x" * 256, "@bob", 7):
        with pytest.raises(ConfigError):
            await here.connect(wrong)  # type: ignore[arg-type]
        with pytest.raises(ConfigError):
            there.listen(wrong)  # type: ignore[arg-type]
    assert not any(node.stream_statistics() for node in pair)


async def test_a_service_is_offered_once_and_until_it_is_closed(pair: Pair) -> None:
    here, there = pair
    listener = there.listen("once")
    with pytest.raises(NameConflict, match="offers the service 'once' already"):
        there.listen("once")
    with pytest.raises(ConfigError, match="backlog"):
        there.listen("other", backlog=0)
    with trio.fail_after(5):
        waiting = await here.connect(f"once@{there.name}")
        await listener.aclose()
        with pytest.raises(trio.BrokenResourceError, match="'once' is offered no more"):
            await waiting.receive_some()
        with pytest.raises(NoSuchService):
            await here.connect(f"once@{there.name}")
        with pytest.raises(trio.ClosedResourceError):
            await listener.accept()
    with there.listen("once"):
        pass


async def test_more_connections_than_the_backlog_are_refused(pair: Pair) -> None:
    here, there = pair
    with trio.fail_after(5), there.listen("busy", backlog=2) as listener:
        waiting = [await here.connect(f"busy@{there.name}") for _ in range(2)]
        with pytest.raises(StreamRefused, match="backlog"):
            await here.connect(f"busy@{there.name}")
        async with await listener.accept():
            waiting.append(await here.connect(f"busy@{there.name}"))
        for stream in waiting:
            await stream.aclose()


async def test_any_member_that_offers_it_gets_its_turn(nodes: Any) -> None:
    """Connections to "name@*" are spread, and one that is down is passed over."""
    alice, bob, carol = await nodes.open_all("alice", "bob", "carol")
    with bob.listen("spread"), carol.listen("spread"), trio.fail_after(10):
        await until(lambda: len(alice.streams.offering("spread")) == 2)
        reached = [(await alice.connect("spread@*")).peer.name for _ in range(4)]
        assert sorted(reached) == ["bob", "bob", "carol", "carol"]
        await nodes.close(bob)
        assert {(await alice.connect("spread@*")).peer.name for _ in range(3)} == {"carol"}


async def test_a_node_that_goes_down_breaks_its_streams(nodes: Any) -> None:
    """M4: what had arrived can be taken, and then both directions say whose end it was."""
    alice, bob = await nodes.open_all("alice", "bob")
    near, far = await both_ends((alice, bob))
    with trio.fail_after(10):
        await far.send_all(b"last words")
        await until(lambda: alice.stream_statistics()[0].bytes_waiting)
        await nodes.close(bob)
        assert await near.receive_some() == b"last words"
        with pytest.raises(trio.BrokenResourceError, match="'bob' is down") as caught:
            await near.receive_some()
        assert isinstance(caught.value.__cause__, NodeDown)
        with pytest.raises(trio.BrokenResourceError, match="'bob' is down"):
            await near.send_all(b"anybody?")


async def test_giving_up_while_connecting_leaves_nothing(pair: Pair) -> None:
    """Cancelled at each step, a connection is either there, or on neither side."""
    here, there = pair
    with trio.fail_after(20), there.listen("slow") as listener:
        for steps in range(12):
            with trio.CancelScope() as scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(cancel_after, scope, steps)
                    stream = await here.connect(f"slow@{there.name}")
                    nursery.cancel_scope.cancel()
            if not scope.cancelled_caught:
                await stream.aclose()
        while listener.waiting:
            async with await listener.accept() as accepted:
                with pytest.raises(trio.BrokenResourceError):
                    while True:
                        assert await accepted.receive_some() == b""
                        await accepted.send_all(b"x")
        await until(lambda: not any(node.stream_statistics() for node in pair))


async def until(condition: Callable[[], object]) -> None:
    """Wait for what no event tells of."""
    while not condition():  # noqa: ASYNC110
        await trio.sleep(0.002)


async def cancel_after(scope: trio.CancelScope, steps: int) -> None:
    for _ in range(steps):
        await trio.lowlevel.checkpoint()
    scope.cancel()
