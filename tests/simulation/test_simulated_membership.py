"""Who is a member, as real nodes on a simulated network find out (S1-S3)."""

from __future__ import annotations

import itertools
import random
from contextlib import suppress

import pytest
import trio
from simulated import collect, events_of, meet
from trio.testing import MockClock

from steinadler import DeliveryError, NameConflict, Node, Process
from steinadler.node.events import NodeDown
from steinadler.testing import Packet, PacketKind, Reset, SimulatedCluster

SEEDS = [
    0,
    *(pytest.param(seed, marks=pytest.mark.slow) for seed in (1, *range(100, 106))),
]
THREE = ("alice", "bob", "carol")


@pytest.mark.parametrize("seed", SEEDS)
async def test_a_killed_node_is_down_at_once(seed: int, autojump_clock: MockClock) -> None:
    """S1: everywhere within 0.1 s."""
    async with SimulatedCluster(seed) as cluster:
        alice, _, carol = await meet(cluster, *THREE)
        await trio.sleep(random.Random(seed).uniform(0, 2))
        async with events_of(alice, carol) as told:
            start = trio.current_time()
            cluster.crash("bob")
            with trio.fail_after(0.1):
                await cluster.agreed()
            await trio.sleep(10)
        for events in told.values():
            assert [(kind, name) for _, kind, name in events] == [("down", "bob")]
            assert events[0][0] - start <= 0.1


@pytest.mark.parametrize("how", ["pause", "cable"])
@pytest.mark.parametrize("seed", SEEDS)
async def test_silence_is_noticed(seed: int, how: str, autojump_clock: MockClock) -> None:
    """S1: within 3 s, and not before 2; and the silent one comes back."""
    async with SimulatedCluster(seed) as cluster:
        alice, _, carol = await meet(cluster, *THREE)
        await trio.sleep(random.Random(seed).uniform(0, 2))
        async with events_of(alice, carol) as told:
            start = trio.current_time()
            silence = (
                cluster.paused("bob")
                if how == "pause"
                else cluster.partition({"bob"}, {"alice", "carol"})
            )
            with silence:
                await trio.sleep(6)
                for events in told.values():
                    assert [(kind, name) for _, kind, name in events] == [("down", "bob")]
                    assert 2 <= events[0][0] - start <= 3
            with trio.fail_after(15):
                await cluster.agreed()
        for events in told.values():
            assert [(kind, name) for _, kind, name in events] == [("down", "bob"), ("up", "bob")]


@pytest.mark.parametrize("seed", SEEDS)
async def test_a_short_pause_is_forgiven(seed: int, autojump_clock: MockClock) -> None:
    """S2: a node that does not run for 1.9 s declares nobody down, and is not declared so."""
    async with SimulatedCluster(seed) as cluster:
        nodes = await meet(cluster, *THREE)
        async with events_of(*nodes) as told:
            for name in THREE:
                await trio.sleep(random.Random(seed).uniform(0, 2))
                with cluster.paused(name):
                    await trio.sleep(1.9)
            await trio.sleep(5)
        assert not any(told.values())


@pytest.mark.parametrize("seed", SEEDS)
async def test_a_cut_path_is_no_death(seed: int, autojump_clock: MockClock) -> None:
    """S2: alice and bob cannot reach each other for 20 s; carol reaches both."""
    got: list[object] = []
    async with SimulatedCluster(seed) as cluster:
        nodes = await meet(cluster, *THREE)
        alice, bob, _ = nodes
        bob.spawn(collect, got, name="collect")
        async with events_of(*nodes) as told:
            with cluster.partition({"alice"}, {"bob"}):
                await alice.send("collect@bob", "before the reset")
                await trio.sleep(10)
                cluster.cut("alice", "bob")
                await alice.send("collect@bob", "after the reset")
                await trio.sleep(10)
            await trio.sleep(25)
            assert not any(told.values())
        assert got == ["before the reset", "after the reset"]


@pytest.mark.parametrize("seed", SEEDS)
async def test_a_cut_connection_is_no_death(seed: int, autojump_clock: MockClock) -> None:
    """S2: every connection breaks again and again."""
    draw = random.Random(seed)
    async with SimulatedCluster(seed) as cluster:
        nodes = await meet(cluster, *THREE)
        async with events_of(*nodes) as told:
            for _ in range(100):
                await trio.sleep(draw.uniform(0, 0.3))
                cluster.cut(*draw.sample(THREE, 2))
            await trio.sleep(5)
        assert not any(told.values())
        assert all(node.statistics().connections == 2 for node in nodes)


@pytest.mark.parametrize("seed", SEEDS)
async def test_two_clusters_never_merge(seed: int, autojump_clock: MockClock) -> None:
    """S3: on one network, told of each other all the time."""
    async with SimulatedCluster(seed) as cluster:
        ours = await cluster.start("alice", "bob")
        theirs = await cluster.start("carol", "dave", cluster="other")
        await cluster.agreed()
        await trio.sleep(30)
        for nodes in (ours, theirs):
            for node in nodes:
                assert [member.node for member in node.members()] == [each.id for each in nodes]


@pytest.mark.parametrize("seed", SEEDS)
async def test_a_split_cluster_comes_together(seed: int, autojump_clock: MockClock) -> None:
    """Both sides go on by themselves, and are one again when the network is."""
    async with SimulatedCluster(seed) as cluster:
        nodes = await cluster.start("alice", "bob", "carol", "dave", "erin")
        await cluster.agreed()
        with cluster.partition({"alice", "bob"}, {"carol", "dave", "erin"}):
            await trio.sleep(8)
            assert [len(node.members()) for node in nodes] == [2, 2, 3, 3, 3]
        with trio.fail_after(20):
            await cluster.agreed()


@pytest.mark.parametrize("seed", SEEDS)
async def test_a_goodbye_is_heard_at_once(seed: int, autojump_clock: MockClock) -> None:
    """Section 3: peers fire NodeDown at once, with the reason, and nobody suspects anything."""
    async with SimulatedCluster(seed) as cluster:
        alice, _, carol = await meet(cluster, *THREE)
        async with events_of(alice, carol) as told:
            start = trio.current_time()
            await cluster.stop("bob")
            await trio.sleep(10)
        for events in told.values():
            assert [(kind, name) for _, kind, name in events] == [("down", "bob")]
            assert events[0][0] - start < 0.2


@pytest.mark.parametrize("seed", SEEDS)
async def test_the_second_of_a_name_is_told(seed: int, autojump_clock: MockClock) -> None:
    """The newcomer's block raises NameConflict; the first one stays, and nobody sees it go."""
    async with SimulatedCluster(seed) as cluster:
        alice, bob = await meet(cluster, "alice", "bob")
        async with events_of(alice, bob) as told:
            with trio.fail_after(10), pytest.raises(NameConflict, match="alice"):
                async with cluster.open("alice", host="elsewhere"):
                    await trio.sleep_forever()
            await trio.sleep(10)
        assert not any(told.values())
        assert [member.node for member in bob.members()] == [alice.id, bob.id]


@pytest.mark.parametrize("seed", SEEDS)
async def test_dialling_each_other_makes_one_connection(
    seed: int, autojump_clock: MockClock
) -> None:
    """Section 5: whoever dials whom and when, one connection is left, the same for both."""
    async with SimulatedCluster(seed, latency_s=(0.001, 0.05)) as cluster:
        nodes = await cluster.start(*THREE, "dave", "erin", "frank")
        await cluster.agreed()
        await trio.sleep(5)
        assert all(node.statistics().connections == 5 for node in nodes)
        names = [node.name for node in nodes]
        for one in names:
            for other in names:
                standing = [
                    socket
                    for socket in cluster.fabric.hosts[one].sockets.values()
                    if socket.target == other
                ]
                assert len(standing) == (one != other)


async def test_an_observer_looks_on(autojump_clock: MockClock) -> None:
    async with SimulatedCluster() as cluster:
        nodes = await cluster.start("alice", "bob")
        (watcher,) = await cluster.start("watcher", observer=True)
        with trio.fail_after(5):
            await cluster.agreed()
        for node in (*nodes, watcher):
            assert [member.node.name for member in node.members()] == ["alice", "bob"]
        assert await watcher.call("$echo@bob", 5) == 5


@pytest.mark.slow
async def test_fifty_nodes(autojump_clock: MockClock) -> None:
    """All see all; all 49 notice one crash; one message reaches all."""
    got: dict[str, list[object]] = {}
    async with SimulatedCluster(seed=50) as cluster:
        with trio.fail_after(10):
            nodes = await cluster.start(*(f"n{number:02}" for number in range(50)))
            await cluster.agreed()
        assert {len(node.members()) for node in nodes} == {50}
        first, *others = nodes
        for node in nodes:
            got[node.name] = []
            node.spawn(collect, got[node.name], name="collect")
        for member in first.members():
            await first.send(f"collect@{member.node.name}", "to all")
        await trio.sleep(0.5)
        assert all(items == ["to all"] for items in got.values())
        async with events_of(*others[1:], first) as told:
            start = trio.current_time()
            cluster.crash(others[0].name)
            await trio.sleep(5)
        assert len(told) == 49
        for events in told.values():
            assert [(kind, name) for _, kind, name in events] == [("down", others[0].name)]
            assert events[0][0] - start < 0.5


@pytest.mark.parametrize("number", range(12))
async def test_a_cut_in_a_first_handshake_is_no_death(
    number: int, autojump_clock: MockClock
) -> None:
    """M3: wherever the first connection breaks, neither end takes the other for having died."""
    seen: list[object] = []
    cut: list[Packet] = []

    def break_once(packet: Packet) -> Reset | None:
        sender = ("alice", "bob")[number % 2]
        late_enough = packet.kind is PacketKind.DATA and packet.number >= number // 2
        if cut or packet.source != sender or not late_enough:
            return None
        cut.append(packet)
        return Reset()

    async def follow(node: Node) -> None:
        async for event in node.events():
            seen.append(event)  # noqa: PERF401

    with trio.fail_after(60):
        async with SimulatedCluster(number) as cluster, trio.open_nursery() as nursery:
            with cluster.rule(break_once):
                for name in ("alice", "bob"):
                    (node,) = await cluster.start(name)
                    nursery.start_soon(follow, node)
                await cluster.agreed()
                assert await node.call("$echo@alice", number) == number
            nursery.cancel_scope.cancel()
    assert cut
    assert not [event for event in seen if isinstance(event, NodeDown)]


@pytest.mark.parametrize("seed", [1, *(pytest.param(n, marks=pytest.mark.slow) for n in (2, 3, 4))])
async def test_nothing_comes_from_a_node_before_it_is_up_again(
    seed: int, autojump_clock: MockClock
) -> None:
    """D3, as in Erlang: the one that hears first that the other lives may have sent something."""
    strangers: list[object] = []
    heard = 0

    async def listen(me: Process) -> None:
        nonlocal heard
        async for message in me:
            heard += 1
            if "bob" not in [member.node.name for member in me.node.members()]:
                strangers.append(message)

    async def talk(me: Process) -> None:
        for number in itertools.count():
            with suppress(DeliveryError):
                await me.send("listen@alice", number)
            await trio.sleep(0.002)

    async with SimulatedCluster(seed, latency_s=(0.001, 0.1)) as cluster:
        alice, bob, _ = await cluster.start("alice", "bob", "carol")
        with trio.fail_after(10):
            await cluster.agreed()
        alice.spawn(listen, name="listen")
        bob.spawn(talk)
        for _ in range(3):
            with cluster.partition({"alice"}, {"bob", "carol"}):
                await trio.sleep(6)
            before = heard
            with trio.fail_after(10):
                await cluster.agreed()
            await trio.sleep(2)
            assert heard > before
    assert strangers == []
