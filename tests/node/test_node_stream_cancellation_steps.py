"""What streams do, cancelled at its n-th checkpoint, for every n until there is none: what was sent
arrives once and in order or not at all, what was not taken can still be taken, and neither node
keeps anything of a stream that has ended."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from typing import Any

import pytest
import trio
import trio.testing
from cutting import MOST_STEPS, cut
from programs import until

from steinadler import (
    ByteStream,
    ClaimError,
    Config,
    Node,
    ReceiveChannel,
    SendChannel,
    StreamListener,
    WireSettings,
)
from steinadler.wire.channels import ToStream

KIB = 1024
WINDOW = 8 * KIB
DATA = bytes(n % 251 for n in range(5 * WINDOW))
Pair = tuple[Node, Node]


@pytest.fixture(params=["local", "remote"])
async def pair(request: pytest.FixtureRequest, nodes: Any) -> Pair:
    config = Config(
        wire=WireSettings(window_bytes=WINDOW, acknowledge_delay_s=0.001), mailbox_bytes=WINDOW
    )
    bob = await nodes.open("bob", config=config)
    if request.param == "local":
        return bob, bob
    alice = await nodes.open("alice", config=config)
    with trio.fail_after(10):
        await alice.wait_for_member("bob")
        await bob.wait_for_member("alice")
    return alice, bob


@pytest.fixture
async def listener(pair: Pair) -> AsyncIterator[StreamListener]:
    with pair[1].listen("service") as listening:
        yield listening


async def both_ends(pair: Pair, listener: StreamListener) -> tuple[ByteStream, ByteStream]:
    return await pair[0].connect(f"service@{pair[1].name}"), await listener.accept()


async def channel_ends(pair: Pair) -> tuple[SendChannel, ReceiveChannel]:
    send, receive = pair[0].open_channel()
    claimed = await pair[1].claim(receive.ref())
    assert isinstance(claimed, ReceiveChannel)
    return send, claimed


def links_of(pair: Pair) -> list[Any]:
    return [link for node in set(pair) for link in node._peering.connections.links()]


async def check_nothing_is_left(pair: Pair) -> None:
    """Of streams that have ended: in no table, no session and no queue of those who wait."""

    def channels() -> list[Any]:
        return [
            channel
            for link in links_of(pair)
            for half in (link.session._sending, link.session._receiving)
            for channel in half.channels()
            if isinstance(channel.target, ToStream)
        ]

    await until(lambda: not any(node.stream_statistics() for node in pair))
    await until(lambda: not channels())
    for node in pair:
        await until(lambda node=node: not len(node._router.calls.pending))
        await until(lambda node=node: not len(node._router.calls.owed))
    for link in links_of(pair):
        assert not link._credit_waiters
        assert link.session._sending._open_reassembly_bytes == 0
        assert link.session._receiving._reassembly_bytes == 0


async def check_credit_is_whole(pair: Pair, end: Any) -> None:
    """The sending end has its whole window again, to the byte; all was taken at the other."""
    outlet = end._outlet
    if pair[0] is pair[1]:
        assert outlet._window.credit == WINDOW
        return

    def whole() -> bool:
        for link in links_of(pair):
            if link.session.close_idle_channels():  # grants what is owed, however little
                link.flush()
        return bool(outlet._channel.credit == WINDOW)

    await until(whole)


async def at_every_step(what: Callable[[int], Awaitable[bool]], *, least: int) -> None:
    """Call `what` with 0, 1, 2, ... until it says that it was not cut short any more."""
    for at in range(MOST_STEPS):
        with trio.fail_after(20):
            if not await what(at):
                break
    else:
        raise AssertionError("it has more checkpoints than it can have")
    assert at >= least


async def test_send_all_sends_a_part_and_says_how_much(
    pair: Pair, listener: StreamListener
) -> None:
    async def step(at: int) -> bool:
        near, far = await both_ends(pair, listener)
        got = bytearray()

        async def read() -> None:
            await trio.testing.wait_all_tasks_blocked(0.001)
            async for chunk in far:
                got.extend(chunk)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            was_cut = await cut(at, lambda: near.send_all(DATA))
            sent = near._sending.sent_bytes
            assert (sent == len(DATA)) or was_cut
            await until(lambda: len(got) == sent)
            if sent:
                await check_credit_is_whole(pair, near._sending)
            await near.send_all(b"more")
            await near.send_eof()
        assert got == DATA[:sent] + b"more"
        await far.aclose()
        await near.aclose()
        await check_nothing_is_left(pair)
        return was_cut

    await at_every_step(step, least=3)


async def test_receive_some_takes_all_or_nothing(pair: Pair, listener: StreamListener) -> None:
    async def step(at: int) -> bool:
        near, far = await both_ends(pair, listener)
        got = bytearray()

        async def read() -> None:
            while chunk := await far.receive_some(1000):
                got.extend(chunk)

        async def send() -> None:
            await trio.testing.wait_all_tasks_blocked(0.001)
            await near.send_all(DATA)
            await near.send_eof()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(send)
            was_cut = await cut(at, read)
            await read()
        assert got == DATA
        await far.aclose()
        await near.aclose()
        await check_nothing_is_left(pair)
        return was_cut

    await at_every_step(step, least=10)


async def test_send_sends_an_object_or_nothing(pair: Pair) -> None:
    async def step(at: int) -> bool:
        send, receive = await channel_ends(pair)
        sent = 0
        got: list[int] = []

        async def send_many() -> None:
            nonlocal sent
            for number in range(70):
                await send.send((number, bytes(KIB)))
                sent += 1

        async def read() -> None:
            await trio.testing.wait_all_tasks_blocked(0.001)
            async for number, _ in receive:
                got.append(number)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            was_cut = await cut(at, send_many)
            await until(lambda: len(got) == sent)
            if sent:
                await check_credit_is_whole(pair, send._shared.end)
            await send.send((70, b""))
            await send.aclose()
        assert got == [*range(sent), 70]
        await receive.aclose()
        await check_nothing_is_left(pair)
        return was_cut

    await at_every_step(step, least=5)


async def test_receive_takes_an_object_or_nothing(pair: Pair) -> None:
    async def step(at: int) -> bool:
        send, receive = await channel_ends(pair)
        got: list[int] = []

        async def read() -> None:
            async for number, _ in receive:
                got.append(number)

        async def send_many() -> None:
            await trio.testing.wait_all_tasks_blocked(0.001)
            async with send:
                for number in range(70):
                    await send.send((number, bytes(KIB)))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(send_many)
            was_cut = await cut(at, read)
            await read()
        assert got == list(range(70))
        await receive.aclose()
        await check_nothing_is_left(pair)
        return was_cut

    await at_every_step(step, least=3)


async def test_any_clone_that_waits_may_go(pair: Pair) -> None:
    """The one that is cancelled must not take the others' wake-up with it, at either end."""
    for at, victim in itertools.product(range(1, 4), range(3)):
        send, receive = await channel_ends(pair)
        sent: list[tuple[int, int]] = []
        got: list[tuple[int, int]] = []

        async def produce(who: int, end: SendChannel, sent: Any = sent) -> None:
            for number in range(8):
                await end.send((who, number, bytes(2 * KIB)))
                sent.append((who, number))

        async def consume(end: ReceiveChannel, got: Any = got) -> None:
            async for who, number, _ in end:
                got.append((who, number))
                await trio.lowlevel.checkpoint()

        async def cut_or_not(who: int, what: Callable[[], Awaitable[None]], end: Any) -> None:
            if who == victim:  # noqa: B023 - it ends before the next one
                await cut(at, what)  # noqa: B023
            else:
                await what()
            await end.aclose()

        with trio.fail_after(20):
            async with trio.open_nursery() as nursery:
                for who in range(3):
                    near, far = send.clone(), receive.clone()
                    nursery.start_soon(cut_or_not, who, lambda w=who, e=near: produce(w, e), near)
                    nursery.start_soon(cut_or_not, who, lambda e=far: consume(e), far)
                send.close()
                receive.close()
            assert sorted(got) == sorted(sent)
            assert len(sent) >= 16
            await check_nothing_is_left(pair)


async def test_connect_makes_both_ends_or_none(pair: Pair, listener: StreamListener) -> None:
    async def step(at: int) -> bool:
        made: list[ByteStream] = []

        async def connect() -> None:
            made.append(await pair[0].connect(f"service@{pair[1].name}"))

        was_cut = await cut(at, connect)
        assert was_cut != bool(made)
        await pair[0].call(f"$echo@{pair[1].name}", 1)  # behind what takes it back
        for stream in made:
            await stream.aclose()
        while listener.waiting:
            await (await listener.accept()).aclose()
        await check_nothing_is_left(pair)
        return was_cut

    await at_every_step(step, least=1)


async def test_accept_takes_a_connection_or_none(pair: Pair, listener: StreamListener) -> None:
    async def step(at: int) -> bool:
        taken: list[ByteStream] = []

        async def accept() -> None:
            taken.append(await listener.accept())

        async with trio.open_nursery() as nursery:

            async def connect() -> None:
                await trio.testing.wait_all_tasks_blocked(0.001)
                async with await pair[0].connect(f"service@{pair[1].name}") as near:
                    await near.send_all(b"hello")

            nursery.start_soon(connect)
            was_cut = await cut(at, accept)
            if not taken:
                await accept()
        assert len(taken) == 1
        assert await taken[0].receive_some() == b"hello"
        await taken[0].aclose()
        assert not listener.waiting
        await check_nothing_is_left(pair)
        return was_cut

    await at_every_step(step, least=2)


@pytest.mark.parametrize("away", ["source", "sink"])
async def test_claim_gets_the_end_or_leaves_it_or_breaks_it_off(pair: Pair, away: str) -> None:
    """Whoever gave it away hears of an end that was claimed and given up."""

    async def step(at: int) -> bool:
        send, receive = pair[0].open_channel()
        reference = (receive if away == "source" else send).ref()
        staying = send if away == "source" else receive
        claimed: list[Any] = []

        async def claim() -> None:
            claimed.append(await pair[1].claim(reference))

        was_cut = await cut(at, claim)
        assert was_cut != bool(claimed)
        if was_cut:
            with suppress(ClaimError):
                await claim()
        if claimed:
            near, far = (send, claimed[0]) if away == "source" else (claimed[0], receive)
            await near.send("one")
            assert await far.receive() == "one"
            await claimed[0].aclose()
        elif away == "source":
            with pytest.raises(trio.BrokenResourceError):
                while True:
                    await send.send("to nobody")
        else:
            with pytest.raises(Exception, match="gave up"):
                await receive.receive()
        await staying.aclose()
        await check_nothing_is_left(pair)
        return was_cut

    await at_every_step(step, least=1)


@pytest.mark.parametrize("what", ["aclose", "send_eof"])
async def test_an_end_is_said_however_it_is_cut_short(
    pair: Pair, listener: StreamListener, what: str
) -> None:
    async def step(at: int) -> bool:
        near, far = await both_ends(pair, listener)
        await near.send_all(b"last words")
        was_cut = await cut(at, getattr(near, what))
        assert b"".join([chunk async for chunk in far]) == b"last words"
        await far.aclose()
        await near.aclose()
        await check_nothing_is_left(pair)
        return was_cut

    await at_every_step(step, least=1)
