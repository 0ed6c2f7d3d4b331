"""Partitions as programs of real nodes see them: events, minorities, policies (N2)."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager

import pytest
import trio
from simulated import idle, until
from trio.testing import MockClock

from steinadler import Config, InMinority, Minority, Node
from steinadler.node import MembersLost, SidesMerged
from steinadler.testing import SimulatedCluster

FIVE = ("alice", "bob", "carol", "dave", "erin")
Told = dict[str, list[tuple[str, str, bool]]]


async def five(cluster: SimulatedCluster, config: Config | None = None) -> tuple[Node, ...]:
    nodes = await cluster.start(*FIVE, config=config)
    with trio.fail_after(10):
        await cluster.agreed()
    return nodes


@asynccontextmanager
async def sides_of(*nodes: Node) -> AsyncIterator[Told]:
    """("lost" or "merged", who, minority) as each node tells it, for the length of the block."""
    told: Told = {node.name: [] for node in nodes}

    async def listen(node: Node, *, task_status: trio.TaskStatus[None]) -> None:
        events = node.events()
        task_status.started()
        async for event in events:
            if isinstance(event, (MembersLost, SidesMerged)):
                kind = "lost" if isinstance(event, MembersLost) else "merged"
                who = " ".join(member.node.name for member in event.members)
                told[node.name].append((kind, who, event.minority))

    async with trio.open_nursery() as nursery:
        for node in nodes:
            await nursery.start(listen, node)
        yield told
        nursery.cancel_scope.cancel()


@contextmanager
def apart(cluster: SimulatedCluster, *sides: str) -> Iterator[None]:
    """Cut a cluster into sides, each given by its names."""
    with ExitStack() as cuts:
        for number, one in enumerate(sides):
            for other in sides[number + 1 :]:
                cuts.enter_context(cluster.partition(one.split(), other.split()))
        yield


@pytest.mark.parametrize(
    ("sides", "large"),
    [
        (("alice bob carol", "dave erin"), 0),
        (("alice bob", "carol dave erin"), 1),
        (("alice bob", "carol dave", "erin"), None),
        (("alice", "bob carol dave erin"), 1),
    ],
)
@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow)])
async def test_each_side_is_told_once_whom_it_lost_and_when_all_are_back(
    sides: tuple[str, ...], large: int | None, seed: int, autojump_clock: MockClock
) -> None:
    async with SimulatedCluster(seed) as cluster:
        nodes = await five(cluster)
        async with sides_of(*nodes) as told:
            with apart(cluster, *sides):
                await until(lambda: all(told.values()), within_s=8)
                for number, side in enumerate(sides):
                    lost = " ".join(name for name in FIVE if name not in side.split())
                    for name in side.split():
                        assert told[name] == [("lost", lost, number != large)]
                        assert cluster.node(name).in_minority is (number != large)
            await until(lambda: not any(node.in_minority for node in nodes), within_s=20)
            with trio.fail_after(20):
                await cluster.agreed()
            await trio.sleep(5)
        for side in sides:
            lost = " ".join(name for name in FIVE if name not in side.split())
            for name in side.split():
                kinds = [event[0] for event in told[name]]
                back = " ".join(who for kind, who, _ in told[name] if kind == "merged")
                assert kinds[0] == "lost"
                assert set(kinds[1:]) == {"merged"}
                assert sorted(back.split()) == lost.split(), "each is back once"
                assert told[name][-1][2] is False
                assert cluster.node(name).statistics().members_lost == 0


async def test_a_one_way_cut_that_others_bridge_is_no_partition(autojump_clock: MockClock) -> None:
    """S2: alice does not reach bob, the others reach both."""
    async with SimulatedCluster(3) as cluster:
        nodes = await five(cluster)
        async with sides_of(*nodes) as told:
            with cluster.partition({"alice"}, {"bob"}, one_way=True):
                await trio.sleep(30)
            await trio.sleep(10)
        assert not any(told.values())


async def test_a_one_way_cut_between_sides_is_a_partition(autojump_clock: MockClock) -> None:
    """Nothing from dave and erin arrives at the others: both sides end up alone."""
    async with SimulatedCluster(4) as cluster:
        nodes = await five(cluster)
        async with sides_of(*nodes) as told:
            with cluster.partition({"dave", "erin"}, {"alice", "bob", "carol"}, one_way=True):
                await until(lambda: all(told.values()), within_s=20)
                await trio.sleep(20)
            with trio.fail_after(20):
                await cluster.agreed()
            await trio.sleep(2)
        for side, other, minority in (
            ("alice bob carol", "dave erin", False),
            ("dave erin", "alice bob carol", True),
        ):
            for name in side.split():
                assert told[name] == [("lost", other, minority), ("merged", other, False)]


async def test_processes_that_die_one_after_another_are_no_partition(
    autojump_clock: MockClock,
) -> None:
    """Their hosts refuse: the last of five is in no minority, and gives names."""
    async with SimulatedCluster(5) as cluster:
        config = Config(in_minority=Minority.REFUSE_NAMES)
        nodes = await five(cluster, config)
        erin = nodes[-1]
        async with sides_of(erin) as told:
            for name in FIVE[:-1]:
                cluster.crash(name)
                await trio.sleep(2)
            await until(lambda: len(erin.members()) == 1, within_s=5)
            await trio.sleep(5)
            await erin.register_global("boss", erin.spawn(idle))
        assert told == {"erin": []}


async def test_nodes_that_leave_are_not_lost(autojump_clock: MockClock) -> None:
    async with SimulatedCluster(6) as cluster:
        nodes = await five(cluster)
        async with sides_of(nodes[-1]) as told:
            for name in FIVE[:-1]:
                await cluster.stop(name)
            await trio.sleep(10)
        assert told == {"erin": []}
        assert not nodes[-1].in_minority


async def test_names_are_refused_in_a_minority_and_given_again_after_it(
    autojump_clock: MockClock,
) -> None:
    async with SimulatedCluster(7) as cluster:
        nodes = await five(cluster, Config(in_minority=Minority.REFUSE_NAMES))
        alice, dave, erin = nodes[0], nodes[3], nodes[4]
        old = dave.spawn(idle)
        await dave.register_global("old", old)
        with apart(cluster, "alice bob carol", "dave erin"):
            await until(lambda: dave.in_minority and erin.in_minority, within_s=8)
            with trio.fail_after(5):
                for node in (dave, erin):
                    with pytest.raises(InMinority, match="2 of 5 members are here"):
                        await node.register_global("boss", node.spawn(idle))
                assert await erin.whereis("old@*") == old, "what is registered stays"
                assert await erin.whereis("boss@*") is None
                boss = alice.spawn(idle)
                await alice.register_global("boss", boss)
        await until(lambda: not dave.in_minority, within_s=20)
        with trio.fail_after(5):
            await dave.register_global("other", dave.spawn(idle))
            await cluster.agreed()
        await until(lambda: dave._runtime.naming.find("boss") == boss, within_s=5)


async def test_the_arbiter_refuses_for_others(autojump_clock: MockClock) -> None:
    """Erin carries on, and whichever name dave is the arbiter of it refuses."""
    async with SimulatedCluster(8) as cluster:
        await cluster.start(*FIVE[:4], config=Config(in_minority=Minority.REFUSE_NAMES))
        (erin,) = await cluster.start("erin")
        with trio.fail_after(10):
            await cluster.agreed()
        with apart(cluster, "alice bob carol", "dave erin"):
            await until(lambda: cluster.node("dave").in_minority and erin.in_minority, within_s=8)
            refused = []
            for number in range(20):
                try:
                    with trio.fail_after(5):
                        await erin.register_global(f"name {number}", erin.spawn(idle))
                except InMinority as error:
                    refused.append(str(error))
        assert 0 < len(refused) < 20
        assert all(text.startswith("dave is in a minority") for text in refused)


async def test_a_node_that_is_to_stop_in_a_minority_stops(autojump_clock: MockClock) -> None:
    async with SimulatedCluster(9) as cluster:
        await cluster.start(*FIVE[:4], config=Config(in_minority=Minority.STOP))
        with pytest.raises(InMinority, match=r"^erin is in a minority: 1 of 5 members are here"):
            async with cluster.open("erin", config=Config(in_minority=Minority.STOP)):
                with trio.fail_after(10):
                    await cluster.agreed()
                with apart(cluster, "alice bob carol dave", "erin"), trio.fail_after(10):
                    await trio.sleep_forever()
        assert [node.name for node in cluster.running()] == list(FIVE[:4])


async def test_a_node_stops_also_where_a_certain_death_leaves_it_in_a_minority(
    autojump_clock: MockClock,
) -> None:
    stop = Config(in_minority=Minority.STOP)
    async with SimulatedCluster(3) as cluster:
        await cluster.start("alice", "bob")
        with pytest.raises(InMinority, match=r"^carol is in a minority: 1 of 2 members are here"):
            async with cluster.open("carol", config=stop) as carol:
                with trio.fail_after(10):
                    await cluster.agreed()
                with cluster.paused("alice"), trio.fail_after(20):
                    await trio.sleep(6)
                    assert (carol.in_minority, len(carol.members())) == (False, 2)
                    cluster.crash("bob")
                    await trio.sleep_forever()


@pytest.mark.parametrize("seed", range(2))
async def test_one_that_is_killed_is_lost_for_nobody(seed: int, autojump_clock: MockClock) -> None:
    """Its host refuses dials, which is known for certain; whoever was told of it first suspects."""
    async with SimulatedCluster(seed) as cluster:
        _, *others = await five(cluster)
        async with sides_of(*others) as told:
            cluster.crash("alice")
            await trio.sleep(5)
            assert told == {node.name: [] for node in others}
        assert [node.statistics().members_lost for node in others] == [0] * 4
