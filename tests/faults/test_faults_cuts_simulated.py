"""Connections that break all the time, and a path that is gone for two seconds (M1-M3, S2).

At full traffic, on the simulated network, for many seeds; `test_faults_cuts_real` does the same
once on sockets.
"""

from __future__ import annotations

import random

import pytest
import trio
from simulated import events_of, until
from traffic import BUSY, Traffic
from trio.testing import MockClock

from steinadler import Config
from steinadler.testing import SimulatedCluster

slow = pytest.mark.slow


async def cut_often(cluster: SimulatedCluster, seed: int) -> None:
    draw = random.Random(f"cuts/{seed}")
    while True:
        await trio.sleep(draw.uniform(0.05, 0.5))
        cluster.cut("alice", "bob")


@pytest.mark.parametrize(
    ("seed", "seconds"),
    [
        (0, 1),
        *(pytest.param(seed, 0.6, marks=slow) for seed in range(100, 112)),
        pytest.param(60, 10, marks=slow),
    ],
)
async def test_cuts_under_load_lose_double_and_reorder_nothing(
    seed: int, seconds: float, autojump_clock: MockClock
) -> None:
    """M1, M2, M3: 5,000 messages a second each way, a cut every 50 to 500 ms; nobody is down."""
    async with SimulatedCluster(seed, latency_s=(0.0005, 0.01), config=BUSY) as cluster:
        alice, bob = await cluster.start("alice", "bob")
        with trio.fail_after(600):
            await cluster.agreed()
            traffic = Traffic(alice, bob, seed=seed)
            async with events_of(alice, bob) as told:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(cut_often, cluster, seed)
                    await traffic.run(seconds)
                    await until(traffic.arrived, within_s=30)
                    nursery.cancel_scope.cancel()
                await trio.sleep(10)  # whatever may still come
            await traffic.assert_nothing_is_left()
        account = traffic.account()
        assert account.faultless, account
        assert account.sent >= 9_500 * seconds
        assert told == {"alice": [], "bob": []}
        counters = [node.statistics() for node in (alice, bob)]
        assert all(each.resumptions >= seconds for each in counters)
        assert sum(each.bytes_retransmitted for each in counters) > 0


@pytest.mark.parametrize(
    "breaks", [False, pytest.param(True, marks=slow)], ids=["stalls", "breaks"]
)
@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=slow) for seed in range(100, 103))])
async def test_two_seconds_without_a_path_lose_nothing(
    seed: int, breaks: bool, autojump_clock: MockClock
) -> None:
    """M3, S2: a third reaches both, so neither is declared down, whether the connection only
    stalls or is reset as well; and it carries what the two say, until the path is back."""
    async with SimulatedCluster(seed) as cluster:
        alice, bob, carol = await cluster.start("alice", "bob", "carol", config=Config())
        with trio.fail_after(120):
            await cluster.agreed()
            traffic = Traffic(alice, bob, seed=seed, per_second=200)
            async with events_of(alice, bob, carol) as told:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(traffic.run, 4)
                    await trio.sleep(1)
                    with cluster.partition({"alice"}, {"bob"}):
                        if breaks:
                            cluster.cut("alice", "bob")
                        await trio.sleep(0.1)
                        before = sum(map(len, traffic.got.values()))
                        await trio.sleep(0.35)
                        assert sum(map(len, traffic.got.values())) == before  # it is a cut
                        await trio.sleep(1.55)
                await until(traffic.arrived, within_s=30)
                await trio.sleep(10)
        assert traffic.account().faultless, traffic.account()
        assert told == {"alice": [], "bob": [], "carol": []}
