"""The simulated cluster itself: one seed is one run, and its accidents are what they say."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import trio
import trio.testing
from simulated import collect, echo, idle, until

from steinadler import Config, MembershipSettings, Node, Process
from steinadler.errors import ConfigError
from steinadler.node import NodeDown
from steinadler.testing import Packet, PacketKind, SimulatedCluster, TraceEntry
from steinadler.wire.signals import CLOSING


async def busy(seed: int) -> str:
    """Everything at once: joining, talking, losing, cutting, pausing, dying, coming back."""
    async with SimulatedCluster(seed, latency_s=(0.0005, 0.005)) as cluster:
        alice, bob, _ = await cluster.start("alice", "bob", "carol")
        with trio.fail_after(60):
            await cluster.agreed()
            for node in cluster.running():
                node.spawn(echo, name="echo")
            with cluster.lossy(0.02), cluster.resetting(0.01):
                for number in range(100):
                    await alice.call("echo@bob", number)
                    await bob.call("echo@carol", "x" * number * 100)
                    if number % 20 == 0:
                        cluster.cut("alice", "bob")
            with cluster.paused("carol"):
                await trio.sleep(4)
            with cluster.partition({"alice"}, {"bob", "carol"}):
                await trio.sleep(4)
            cluster.crash("bob")
            await cluster.restart("bob")
            await cluster.agreed()
    return cluster.trace.digest()


def play(seed: int) -> str:
    return trio.run(busy, seed, clock=trio.testing.MockClock(autojump_threshold=0))


def test_one_seed_is_one_run() -> None:
    assert play(1) == play(1)


def test_another_seed_is_another_run() -> None:
    assert len({play(seed) for seed in (1, 2, 3)}) == 3


@pytest.mark.slow
def test_one_seed_is_one_run_in_any_process() -> None:
    """Whatever the hashes of texts are."""
    code = "import test_simulated_cluster as here; print(here.play(1))"
    digests = {play(1)}
    for hash_seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", code],
            cwd=Path(__file__).parent,
            env=environment,
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        )
        digests.add(done.stdout.strip())
    assert len(digests) == 1


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(100, 110))
def test_any_seed_is_one_run(seed: int) -> None:
    assert play(seed) == play(seed)


async def test_trio_is_left_as_it_was(autojump_clock: trio.testing.MockClock) -> None:
    scheduler = trio._core._run._r  # type: ignore[attr-defined]
    async with SimulatedCluster(seed=5) as cluster:
        await cluster.start("alice")
        inside = scheduler.getstate()
        scheduler.seed(0)
    before = scheduler.getstate()
    async with SimulatedCluster(seed=5) as cluster:
        await cluster.start("alice")
        assert scheduler.getstate() == inside
    assert scheduler.getstate() == before


async def test_a_real_clock_is_refused() -> None:
    with pytest.raises(ConfigError, match="autojump_clock"):
        async with SimulatedCluster():
            raise AssertionError("not reached")


async def test_mistakes_are_told(autojump_clock: trio.testing.MockClock) -> None:
    with pytest.raises(ConfigError, match="inside of its block"):
        await SimulatedCluster().start("alice")
    async with SimulatedCluster() as cluster:
        await cluster.start("alice")
        misspelt = cluster.partition({"alice"}, {"bbo"})
        with pytest.raises(ConfigError, match="no host is called 'bbo'; there are: alice"):
            misspelt.__enter__()
        with pytest.raises(ConfigError, match="up already"):
            await cluster.start("alice")
        with pytest.raises(ConfigError, match="crash or stop it first"):
            await cluster.restart("alice")
        with pytest.raises(ConfigError, match="one host runs one node"):
            await cluster.start("bob", "carol", host="here")
        with pytest.raises(TypeError, match=r"no option 'label'; there are: host, labels,"):
            await cluster.start("bob", label={})  # type: ignore[call-arg]


async def test_what_the_block_raises_comes_out_as_it_is(
    autojump_clock: trio.testing.MockClock,
) -> None:
    with pytest.raises(ZeroDivisionError):
        async with SimulatedCluster() as cluster:
            await cluster.start("alice", "bob")
            await cluster.agreed()
            cluster.pause("bob")
            raise ZeroDivisionError
    assert not cluster.running()


async def test_a_paused_node_runs_no_line(autojump_clock: trio.testing.MockClock) -> None:
    """Its processes and timers stand still, whoever started them; its kernel takes bytes in."""
    ticks: list[float] = []
    got: list[object] = []

    async def tick(me: Process) -> None:
        while True:
            ticks.append(trio.current_time())
            await trio.sleep(0.1)

    async with SimulatedCluster() as cluster, trio.open_nursery() as nursery:
        alice, bob = await cluster.start("alice", "bob")
        await cluster.agreed()
        bob.spawn(tick)
        bob.spawn(collect, got, name="collect")
        await trio.sleep(1)
        start = trio.current_time()
        with cluster.paused("bob"):
            await alice.send("collect@bob", "meanwhile")
            bob.spawn(tick)  # by the test's own task
            await trio.sleep(1.5)
            assert max(ticks) <= start
            assert not got
        await trio.sleep(0.5)
        assert got == ["meanwhile"]
        late = [at for at in ticks if at > start]
        assert min(late) == start + 1.5
        assert len(late) >= 2 * 5
        nursery.cancel_scope.cancel()


async def test_a_paused_node_can_be_crashed_and_stopped(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with SimulatedCluster() as cluster:
        alice, *_ = await cluster.start("alice", "bob", "carol")
        await cluster.agreed()
        cluster.pause("bob")
        cluster.crash("bob")
        with trio.fail_after(5):
            await cluster.agreed()
        cluster.pause("carol")
        with trio.fail_after(5):
            await cluster.stop("carol")
            await cluster.agreed()
        assert [member.node.name for member in alice.members()] == ["alice"]
        assert cluster.running() == (alice,)


async def test_the_dead_reach_nobody(autojump_clock: trio.testing.MockClock) -> None:
    """What a crashed node's processes do while they are cancelled is never seen."""
    got: list[object] = []
    attempts: list[object] = []

    async def last_will(me: Process, node: Node) -> None:
        try:
            await trio.sleep_forever()
        finally:
            try:
                me.send_nowait("collect@alice", "from beyond")
            finally:
                attempts.append("made")

    async with SimulatedCluster() as cluster:
        alice, bob = await cluster.start("alice", "bob")
        await cluster.agreed()
        alice.spawn(collect, got, name="collect")
        bob.spawn(last_will, bob)
        await trio.sleep(0.1)
        cluster.crash("bob")
        await trio.sleep(5)
        await cluster.restart("bob")
        await cluster.agreed()
        await trio.sleep(1)
    assert attempts == ["made"]
    assert not got


async def test_stopping_waits_for_the_goodbye(autojump_clock: trio.testing.MockClock) -> None:
    async with SimulatedCluster() as cluster:
        alice, bob = await cluster.start("alice", "bob")
        await cluster.agreed()
        down = alice.monitor(bob.spawn(idle))
        events = alice.events()
        start = trio.current_time()
        await cluster.stop("bob")
        assert len(alice.members()) == 1
        assert isinstance(await anext(events), NodeDown)
        assert (await down.wait()).reason in (CLOSING, "noconnection")
        assert trio.current_time() - start < 0.1


async def test_a_node_can_be_open_for_a_block(autojump_clock: trio.testing.MockClock) -> None:
    async with SimulatedCluster() as cluster:
        (alice,) = await cluster.start("alice")
        async with cluster.open("bob", labels={"role": "gpu"}) as bob:
            await cluster.agreed()
            assert [member.node for member in alice.members(role="gpu")] == [bob.id]
        assert len(alice.members()) == 1
        with pytest.raises(ZeroDivisionError):
            async with cluster.open("bob"):
                raise ZeroDivisionError
        assert cluster.node("bob").id > bob.id


async def test_the_trace_says_what_happened(autojump_clock: trio.testing.MockClock) -> None:
    async with SimulatedCluster() as cluster:
        await cluster.start("alice", "bob")
        await cluster.agreed()
        now = trio.current_time()
        assert cluster.cut("alice", "bob") == 1
        cluster.crash("bob")
    latest = cluster.trace.latest
    assert TraceEntry(now, "cut", "alice", "bob", 0) in latest
    assert TraceEntry(now, "crash", "bob", "", 0) in latest
    assert {"start", "dial", "accept", "data"} <= {entry.event for entry in latest}
    assert cluster.trace.count == len(latest)
    assert [entry.time for entry in latest] == sorted(entry.time for entry in latest)


async def test_one_way_is_one_way(autojump_clock: trio.testing.MockClock) -> None:
    got: dict[str, list[object]] = {"alice": [], "bob": []}
    async with SimulatedCluster() as cluster:
        alice, bob = await cluster.start("alice", "bob")
        await cluster.agreed()
        alice.spawn(collect, got["alice"], name="collect")
        bob.spawn(collect, got["bob"], name="collect")
        with cluster.partition({"alice"}, {"bob"}, one_way=True):
            await alice.send("collect@bob", 1)
            await bob.send("collect@alice", 1)
            await trio.sleep(1)
            assert got == {"alice": [1], "bob": []}
        await until(lambda: bool(got["bob"]), within_s=5)
        assert got == {"alice": [1], "bob": [1]}


async def test_seeds_are_all_that_a_node_is_told_of(autojump_clock: trio.testing.MockClock) -> None:
    """And nobody is told of it: it is met by whoever it dials."""
    async with SimulatedCluster() as cluster:
        alice, bob = await cluster.start("alice", "bob", seeds=())
        (carol,) = await cluster.start("carol")
        await trio.sleep(10)
        assert [len(node.members()) for node in (alice, bob, carol)] == [1, 1, 1]
        await cluster.start("dave", seeds=("alice", "bob"))
        with trio.fail_after(1):
            while len(bob.members()) < 3:
                await anext(bob.events())
        assert {member.node.name for member in alice.members()} == {"alice", "bob", "dave"}
        assert len(carol.members()) == 1


async def test_a_newcomer_of_whom_all_are_told_is_dialled_by_few(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """In a large cluster: gossip tells the others who it is before it is their turn."""
    config = Config(membership=MembershipSettings(mesh_size=4, rings=2))
    dials: list[str] = []

    def look(packet: Packet) -> None:
        if packet.kind is PacketKind.DIAL and packet.target == "late":
            dials.append(packet.source)

    async with SimulatedCluster(3, config=config) as cluster:
        await cluster.start(*(f"n{number:02}" for number in range(14)))
        with trio.fail_after(10):
            await cluster.agreed()
            with cluster.rule(look):
                await cluster.start("late")
                await cluster.agreed()
                await trio.sleep(1)
    assert len(dials) <= 5
