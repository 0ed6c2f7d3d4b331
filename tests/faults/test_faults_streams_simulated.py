"""Sessions that are cut, stalled and paused under many streams (M1-M4), on the simulated network;
`test_faults_streams_real` does some of it on sockets."""

from __future__ import annotations

import random

import pytest
import trio
from simulated import events_of, until
from stream_traffic import StreamTraffic, streams_left
from traffic import BUSY
from trio.testing import MockClock

from steinadler import NodeDown, RemoteError
from steinadler.testing import SimulatedCluster

slow = pytest.mark.slow


async def trouble(cluster: SimulatedCluster, seed: int) -> None:
    """Cut, stall and pause, each for less than a verdict takes."""
    draw = random.Random(f"trouble/{seed}")
    while True:
        await trio.sleep(draw.uniform(0.01, 0.15))
        match draw.randrange(5):
            case 0:
                with cluster.partition({"alice"}, {"bob"}, one_way=draw.random() < 0.5):
                    await trio.sleep(draw.uniform(0.05, 0.8))
            case 1:
                with cluster.paused(draw.choice(("alice", "bob"))):
                    await trio.sleep(draw.uniform(0.05, 0.5))
            case _:
                cluster.cut("alice", "bob")


@pytest.mark.parametrize(
    ("seed", "streams", "each_bytes"),
    [
        (0, 3, 200_000),
        *(pytest.param(seed, 8, 400_000, marks=slow) for seed in range(1, 9)),
        pytest.param(50, 20, 1_500_000, marks=slow),
    ],
)
async def test_trouble_under_streams_loses_doubles_and_reorders_nothing(
    seed: int, streams: int, each_bytes: int, autojump_clock: MockClock
) -> None:
    """M1, M2, M3: a third member reaches both, so neither is down; and nothing leaks."""
    async with SimulatedCluster(seed, latency_s=(0.0005, 0.01), config=BUSY) as cluster:
        alice, bob, _ = await cluster.start("alice", "bob", "carol")
        with trio.fail_after(3600):
            await cluster.agreed()
            traffic = StreamTraffic(alice, bob, seed=seed, streams=streams, each_bytes=each_bytes)
            async with events_of(alice, bob) as told:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(trouble, cluster, seed)
                    await traffic.run()
                    nursery.cancel_scope.cancel()
                await until(lambda: not streams_left(alice, bob), within_s=30)
        assert traffic.whole == 2 * streams
        assert told == {"alice": [], "bob": []}
        assert alice.statistics().resumptions > 0


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=slow) for seed in range(1, 5))])
async def test_a_cut_that_outlasts_the_peer_ends_each_stream_once_m4(
    seed: int, autojump_clock: MockClock
) -> None:
    """With `NodeDown`, behind what had arrived; a new life has none of it (D3)."""
    async with SimulatedCluster(seed, config=BUSY) as cluster:
        alice, bob = await cluster.start("alice", "bob")
        with trio.fail_after(120):
            await cluster.agreed()
            listener = bob.listen("service")
            nears = [await alice.connect("service@bob") for _ in range(5)]
            fars = [await listener.accept() for _ in range(5)]
            channels = []
            for _ in range(5):
                send, receive = alice.open_channel()
                channels.append((send, await bob.claim(receive.ref())))
            ends: list[str] = []

            async def read(index: int) -> None:
                got = b""
                with pytest.raises(trio.BrokenResourceError) as caught:
                    while chunk := await nears[index].receive_some():
                        got += chunk
                assert isinstance(caught.value.__cause__, NodeDown)
                assert got == b"before"
                ends.append("reader")

            async def write(index: int) -> None:
                with pytest.raises(trio.BrokenResourceError) as caught:
                    while True:
                        await nears[index].send_all(bytes(10_000))
                assert isinstance(caught.value.__cause__, NodeDown)
                ends.append("writer")

            async def send(index: int) -> None:
                with pytest.raises(NodeDown):
                    while True:
                        await channels[index][0].send(bytes(10_000))
                ends.append("sender")

            async with trio.open_nursery() as nursery:
                for index, far in enumerate(fars):
                    await far.send_all(b"before")
                    for task in (read, write, send):
                        nursery.start_soon(task, index)
                await trio.sleep(1)
                assert ends == []
                cluster.crash("bob")
            assert sorted(ends) == ["reader"] * 5 + ["sender"] * 5 + ["writer"] * 5
            for near in nears:
                with pytest.raises(trio.BrokenResourceError):
                    await near.receive_some()
                await near.aclose()
            again = await cluster.restart("bob")
            await cluster.agreed()
            await until(lambda: not streams_left(alice, again), within_s=10)
            with again.listen("service") as listener:
                async with await alice.connect("service@bob") as near:
                    await near.send_all(b"a new life")
                    assert await (await listener.accept()).receive_some() == b"a new life"


async def test_an_opening_that_a_cut_interrupts_is_made_once(autojump_clock: MockClock) -> None:
    """M2, M3: the request is not repeated, and its answer is not lost."""
    async with SimulatedCluster(3, latency_s=(0.001, 0.01), config=BUSY) as cluster:
        alice, bob = await cluster.start("alice", "bob")
        with trio.fail_after(120):
            await cluster.agreed()
            with bob.listen("service") as listener:
                for step in range(60):
                    async with trio.open_nursery() as nursery:

                        async def cut(step: int = step) -> None:
                            await trio.sleep(step / 2000)
                            cluster.cut("alice", "bob")

                        nursery.start_soon(cut)
                        near = await alice.connect("service@bob")
                    assert listener.waiting == 1
                    far = await listener.accept()
                    far.close(ValueError("enough"))
                    with pytest.raises(trio.BrokenResourceError, match="enough") as caught:
                        await near.receive_some()
                    assert isinstance(caught.value.__cause__, RemoteError)
                    await near.aclose()
                await until(lambda: not streams_left(alice, bob), within_s=10)
