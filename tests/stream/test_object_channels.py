"""Channels of objects: as Trio's memory channels, with an end given to another process."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import trio
import trio.testing

import steinadler
from steinadler import (
    ClaimError,
    Config,
    ConfigError,
    LocalProtocolError,
    MessageTooLarge,
    Node,
    NodeDown,
    NodeId,
    NotEncodable,
    ReceiveChannel,
    RemoteError,
    SendChannel,
    SinkRef,
    SourceRef,
    StreamSettings,
)

Pair = tuple[Node, Node]


@steinadler.message
@dataclass(frozen=True)
class Page:
    number: int
    text: str


async def source_away(pair: Pair) -> tuple[SendChannel, ReceiveChannel]:
    """A channel from the first node to the second, by a `SourceRef`."""
    here, there = pair
    send, receive = here.open_channel()
    return send, await there.claim(receive.ref())


async def sink_away(pair: Pair) -> tuple[SendChannel, ReceiveChannel]:
    """A channel from the second node to the first, by a `SinkRef`."""
    here, there = pair
    send, receive = here.open_channel()
    return await there.claim(send.ref()), receive


async def never_away(pair: Pair) -> tuple[SendChannel, ReceiveChannel]:
    """A channel whose ends stay."""
    return pair[0].open_channel()


@pytest.fixture(params=[source_away, sink_away, never_away])
async def ends(request: pytest.FixtureRequest, pair: Pair) -> tuple[SendChannel, ReceiveChannel]:
    with trio.fail_after(5):
        ends: tuple[SendChannel, ReceiveChannel] = await request.param(pair)
    return ends


Ends = tuple[SendChannel, ReceiveChannel]


async def test_objects_arrive_in_order_as_copies_of_their_own(ends: Ends) -> None:
    """M1, M2, M5: whatever a message may hold, small and large."""
    send, receive = ends
    sent = [Page(n, "x" * (40_000 if n % 10 == 0 else n)) for n in range(200)]

    async def produce() -> None:
        async with send:
            for page in sent:
                await send.send(page)

    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(produce)
            got = [page async for page in receive]
    assert got == sent
    assert not any(a is b for a, b in zip(got, sent, strict=True))


async def test_what_cannot_travel_raises_at_the_sender_and_harms_nothing(ends: Ends) -> None:
    """M5: before anything is queued."""
    send, receive = ends
    with pytest.raises(NotEncodable):
        await send.send(object())
    with pytest.raises(MessageTooLarge):
        await send.send(bytes(300 * 1024))
    with trio.fail_after(5):
        await send.send("fine")
        assert await receive.receive() == "fine"


async def test_a_receiver_that_does_not_take_holds_the_sender_back(ends: Ends) -> None:
    """M6: by a window's worth, and no object is lost when the sender gives up waiting."""
    send, receive = ends
    sent = 0
    with pytest.raises(trio.WouldBlock):
        while True:
            send.send_nowait(bytes(10_000))
            sent += 1
    assert sent == 7
    with trio.move_on_after(0.05) as scope:
        await send.send("never")
    assert scope.cancelled_caught
    with trio.fail_after(5):
        for _ in range(sent):
            assert len(await receive.receive()) == 10_000
        await send.send("then")
        assert await receive.receive() == "then"
    with pytest.raises(trio.WouldBlock):
        receive.receive_nowait()


async def test_the_end_comes_behind_what_was_sent(ends: Ends) -> None:
    send, receive = ends
    with trio.fail_after(5):
        await send.send(1)
        await send.aclose()
        await send.aclose()
        assert await receive.receive() == 1
        with pytest.raises(trio.EndOfChannel):
            await receive.receive()
    with pytest.raises(trio.ClosedResourceError):
        await send.send(2)


async def test_an_error_of_the_sender_reaches_the_receiver(ends: Ends) -> None:
    """Behind what was sent, with its type name and text, as a `RemoteError` everywhere."""
    send, receive = ends
    with trio.fail_after(5):
        with pytest.raises(ValueError, match="out of paper"):
            async with send:
                await send.send("a page")
                raise ValueError("out of paper")
        assert await receive.receive() == "a page"
        for _ in range(2):
            with pytest.raises(RemoteError) as caught:
                await receive.receive()
            assert (caught.value.type_name, caught.value.text) == ("ValueError", "out of paper")


async def test_cancelling_the_sender_reaches_the_receiver(ends: Ends) -> None:
    send, receive = ends
    with trio.fail_after(5):
        with trio.CancelScope() as scope:
            async with send:
                scope.cancel()
                await trio.lowlevel.checkpoint()
        with pytest.raises(RemoteError, match="Cancelled"):
            await receive.receive()


async def test_an_error_of_the_receiver_reaches_the_sender(ends: Ends) -> None:
    """Also when the sender waits for room."""
    send, receive = ends

    async def fail() -> None:
        with pytest.raises(ZeroDivisionError):
            async with receive:
                await receive.receive()
                raise ZeroDivisionError("by zero")

    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            with pytest.raises(trio.BrokenResourceError, match="ZeroDivisionError: by zero"):
                while True:
                    await send.send(bytes(20_000))
                    if not nursery.child_tasks:
                        nursery.start_soon(fail)
        with pytest.raises(trio.ClosedResourceError):
            await receive.receive()


async def test_clones_share_an_end_until_the_last_is_closed(ends: Ends) -> None:
    send, receive = ends
    got: list[int] = []

    async def produce(channel: SendChannel, numbers: range) -> None:
        async with channel:
            for number in numbers:
                await channel.send(number)

    async def consume(channel: ReceiveChannel) -> None:
        async with channel:
            got.extend([number async for number in channel])

    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            for n in range(3):
                nursery.start_soon(produce, send.clone(), range(n * 100, n * 100 + 100))
                nursery.start_soon(consume, receive.clone())
            await send.aclose()
            await receive.aclose()
    assert sorted(got) == list(range(300))


async def test_a_task_that_waits_on_a_closed_end_is_told(ends: Ends) -> None:
    receive = ends[1]
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:

            async def wait() -> None:
                with pytest.raises(trio.ClosedResourceError):
                    await receive.receive()

            nursery.start_soon(wait)
            await trio.testing.wait_all_tasks_blocked()
            receive.close()


# -- references -------------------------------------------------------------------------------


async def test_a_reference_travels_in_a_message(pair: Pair) -> None:
    """An end is put into a message, and the process that gets it claims it."""
    here, there = pair

    async def summing(me: steinadler.Process) -> None:
        async for message in me:
            match message:
                case (SourceRef() as source, SinkRef() as sink):
                    async with await there.claim(source) as numbers, await there.claim(sink) as out:
                        async for number in numbers:
                            await out.send(number * 2)

    there.spawn(summing, name="doubling")
    send, source = here.open_channel()
    sink, receive = here.open_channel()
    with trio.fail_after(5):
        await here.send(f"doubling@{there.name}", (source.ref(), sink.ref()))
        async with send:
            for number in range(5):
                await send.send(number)
        assert [number async for number in receive] == [0, 2, 4, 6, 8]


async def test_a_reference_is_claimed_once(pair: Pair) -> None:
    here, there = pair
    with trio.fail_after(5):
        for give in (0, 1):
            ends = here.open_channel()
            reference = ends[give].ref()
            await there.claim(reference)
            with pytest.raises(ClaimError, match="claimed already"):
                await there.claim(reference)


async def test_a_reference_that_means_nothing(pair: Pair) -> None:
    here, there = pair
    with trio.fail_after(5):
        with pytest.raises(ClaimError, match="nothing on offer"):
            await there.claim(SourceRef(here.id, 12345))
        _, receive = here.open_channel()
        made = receive.ref()
        with pytest.raises(ClaimError, match="of a source"):
            await there.claim(SinkRef(made.node, made.token))
        with pytest.raises(ConfigError, match="no reference"):
            await there.claim("page")  # type: ignore[call-overload]
        with pytest.raises(NodeDown):
            await there.claim(SourceRef(NodeId("nowhere", 1), 1))
        send, receive = here.open_channel()
        sink = send.ref()
        receive.close()
        with pytest.raises(ClaimError, match="receiving end was closed"):
            await there.claim(sink)


async def test_an_end_that_nobody_claims_closes_with_an_error(nodes: Any) -> None:
    """Whoever waits at the other end is told in time; whoever claims late is told too."""
    config = Config(streams=StreamSettings(claim_timeout_s=0.05))
    node = await nodes.open("alice", config=config)
    send, source = node.open_channel()
    sink, receive = node.open_channel()
    references = [source.ref(), sink.ref()]
    with trio.fail_after(5):
        with pytest.raises(ClaimError, match=r"within 0\.05 s"):
            await send.send(1)
        with pytest.raises(ClaimError, match=r"within 0\.05 s"):
            await receive.receive()
        for reference in references:
            with pytest.raises(ClaimError, match="nothing on offer"):
                await node.claim(reference)
    assert not node.stream_statistics()


async def test_what_was_closed_before_it_was_claimed_ends_for_the_claimer(pair: Pair) -> None:
    """An empty channel, and one that failed, arrive as what they are."""
    here, there = pair
    with trio.fail_after(5):
        send, receive = here.open_channel()
        reference = receive.ref()
        await send.aclose()
        assert [item async for item in await there.claim(reference)] == []
        send, receive = here.open_channel()
        reference = receive.ref()
        send.close(OSError("no such file"))
        with pytest.raises(RemoteError, match="OSError: no such file"):
            await (await there.claim(reference)).receive()


async def test_ends_that_cannot_be_given_away(pair: Pair) -> None:
    here, there = pair
    with trio.fail_after(5):
        send, receive = here.open_channel()
        clone = receive.clone()
        with pytest.raises(LocalProtocolError, match="cloned"):
            receive.ref()
        clone.close()
        await send.send(1)
        with pytest.raises(LocalProtocolError, match="sent already"):
            receive.ref()
        assert await receive.receive() == 1

        send, receive = here.open_channel()
        claimed = await there.claim(receive.ref())
        with pytest.raises(LocalProtocolError, match="given away"):
            send.ref()
        with pytest.raises(LocalProtocolError, match="was claimed"):
            claimed.ref()
        with pytest.raises(trio.ClosedResourceError):
            receive.ref()
        await send.send("still works")
        assert await claimed.receive() == "still works"


async def test_a_node_that_goes_down_closes_its_channels(nodes: Any) -> None:
    """M4: with `NodeDown`, for whoever sends and whoever receives."""
    alice, bob = await nodes.open_all("alice", "bob")
    send, _ = await source_away((alice, bob))
    given, receive = await sink_away((alice, bob))
    with trio.fail_after(10):
        await send.send(1)
        await given.send("last words")
        while not any(s.bytes_waiting for s in alice.stream_statistics()):  # noqa: ASYNC110
            await trio.sleep(0.002)
        await nodes.close(bob)
        assert await receive.receive() == "last words"
        with pytest.raises(NodeDown, match="'bob' is down"):
            await receive.receive()
        with pytest.raises(NodeDown, match="'bob' is down"):
            await send.send(2)
    assert not alice.stream_statistics()
