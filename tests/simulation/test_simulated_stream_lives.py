"""Thousands of streams of every kind of life between members that come and go: nothing leaks."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from contextlib import suppress

import pytest
import trio
from simulated import until
from trio.testing import MockClock

from steinadler import (
    ByteStream,
    ClaimError,
    Config,
    Node,
    NodeClosed,
    NodeDown,
    NoSuchService,
    Process,
    RemoteError,
    StreamRefused,
    StreamSettings,
    WireSettings,
)
from steinadler.testing import SimulatedCluster

CONFIG = Config(
    wire=WireSettings(window_bytes=8_192, channel_idle_s=0.5),
    mailbox_bytes=8_192,
    streams=StreamSettings(claim_timeout_s=2),
)
ENDS = (
    *(trio.BrokenResourceError, trio.ClosedResourceError, trio.EndOfChannel, RemoteError),
    *(NodeDown, NodeClosed, NoSuchService, StreamRefused, ClaimError),
)
NAMES = ("alice", "bob", "carol")


class Lives:
    """One node's side of it: a service, and tasks that open streams to anybody and end them."""

    def __init__(self, cluster: SimulatedCluster, seed: int) -> None:
        self._cluster = cluster
        self._draw = random.Random(f"lives/{seed}")
        self.begun = self.whole = 0

    async def serve(self, node: Node) -> None:
        """Echo for a while, or break off, or read nothing at all."""
        try:
            with node.listen("echo", backlog=30) as listener:
                async with trio.open_nursery() as nursery:
                    while True:
                        nursery.start_soon(self._echo, await listener.accept())
        except* ENDS:
            pass

    async def _echo(self, stream: ByteStream) -> None:
        fate = self._draw.randrange(4)
        with suppress(*ENDS):
            async with stream:
                if fate == 0:
                    await trio.sleep(self._draw.uniform(0, 1))
                elif fate == 1:
                    stream.close(ValueError("no more"))
                else:
                    async for chunk in stream:
                        await stream.send_all(chunk)
                    await stream.send_eof()

    async def live(self) -> None:
        """One stream, from somebody to somebody."""
        self.begun += 1
        node = self._draw.choice(self._cluster.running())
        life: Callable[[Node, str], Awaitable[None]] = self._draw.choice(
            (self._bytes, self._bytes, self._channel, self._unclaimed)
        )
        patience = self._draw.choice((0.001, 0.05, 0.5, 5))
        try:
            with trio.move_on_after(self._draw.uniform(0, patience)):
                await life(node, self._draw.choice(NAMES))
        except* ENDS:
            pass

    async def _bytes(self, node: Node, peer: str) -> None:
        async with await node.connect(f"echo@{peer}") as stream, trio.open_nursery() as nursery:
            data = bytes(self._draw.choice((1, 1_000, 30_000)))
            nursery.start_soon(self._say, stream, data)
            got = b"".join([chunk async for chunk in stream])
            self.whole += got == data

    async def _say(self, stream: ByteStream, data: bytes) -> None:
        with suppress(*ENDS):
            await stream.send_all(data)
            await stream.send_eof()

    async def _channel(self, node: Node, peer: str) -> None:
        other = self._draw.choice(self._cluster.running())
        send, receive = node.open_channel()
        if self._draw.random() < 0.5:
            near, far = send, await other.claim(receive.ref())
        else:
            near, far = await other.claim(send.ref()), receive
        async with near, far, trio.open_nursery() as nursery:

            async def produce() -> None:
                with suppress(*ENDS):
                    async with near:
                        for number in range(20):
                            await near.send((number, bytes(1_000)))

            nursery.start_soon(produce)
            count = 0
            async for number, _ in far:
                assert number == count
                count += 1
            self.whole += count == 20

    async def _unclaimed(self, node: Node, peer: str) -> None:
        send, receive = node.open_channel()
        receive.ref()
        async with send:
            await send.send("to nobody")


def left(cluster: SimulatedCluster) -> list[object]:
    """What the nodes still have of streams."""
    found: list[object] = []
    for node in cluster.running():
        found += node.stream_statistics()
        found += node.streams._offers._offers
        found += [
            each for each in node.connections() if each.channels > 2 or each.peer_channels > 2
        ]
        for link in node._peering.connections.links():
            found += link._credit_waiters
            assert link.session._sending._open_reassembly_bytes == 0
            assert link.session._receiving._reassembly_bytes == 0
    return found


@pytest.mark.parametrize(
    ("seed", "streams"),
    [(0, 300), *(pytest.param(seed, 4_000, marks=pytest.mark.slow) for seed in range(1, 3))],
)
async def test_streams_of_mixed_life_leak_nothing(
    seed: int, streams: int, autojump_clock: MockClock
) -> None:
    """M4, D3: carol crashes, leaves and comes back meanwhile, and connections are cut."""
    draw = random.Random(f"members/{seed}")
    async with SimulatedCluster(seed, latency_s=(0.0005, 0.01), config=CONFIG) as cluster:
        await cluster.start(*NAMES)
        lives = Lives(cluster, seed)
        with trio.fail_after(3600):
            await cluster.agreed()
            async with trio.open_nursery() as serving:
                for node in cluster.running():
                    serving.start_soon(lives.serve, node)

                async def come_and_go() -> None:
                    while lives.begun < streams:
                        await trio.sleep(draw.uniform(0.2, 1))
                        cluster.cut("alice", "bob")
                        if draw.random() < 0.5:
                            cluster.crash("carol")
                        else:
                            await cluster.stop("carol")
                        await trio.sleep(draw.uniform(0.1, 1))
                        serving.start_soon(lives.serve, await cluster.restart("carol"))

                async with trio.open_nursery() as nursery:
                    nursery.start_soon(come_and_go)
                    for _ in range(streams):
                        nursery.start_soon(lives.live)
                        await trio.sleep(draw.uniform(0, 0.01))
                serving.cancel_scope.cancel()
            await until(lambda: not left(cluster), within_s=30)
        assert lives.begun == streams
        assert lives.whole > streams / 20


async def test_a_node_that_is_closing_is_as_one_that_is_down(autojump_clock: MockClock) -> None:
    """While its last process has its grace: to connect says so, and "@*" goes to another."""

    async def lingers(me: Process) -> None:
        with trio.CancelScope(shield=True):
            await trio.sleep(1)

    async with SimulatedCluster(1, config=CONFIG) as cluster:
        alice, bob, carol = await cluster.start(*NAMES)
        with trio.fail_after(60):
            await cluster.agreed()
            bob.listen("service")
            carol.listen("service")
            await until(lambda: len(alice.streams.offering("service")) == 2, within_s=5)
            carol.spawn(lingers)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(cluster.stop, "carol")
                await trio.sleep(0.5)
                assert len(alice.members()) == 3
                with pytest.raises(NodeDown, match="it is closing"):
                    await alice.connect("service@carol")
                for _ in range(3):
                    assert (await alice.connect("service@*")).peer == bob.id
