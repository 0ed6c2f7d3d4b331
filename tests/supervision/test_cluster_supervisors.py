"""Cluster supervisors on simulated nodes: crashes, pauses, partitions, over seeds (D1-D3)."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any

import pytest
import trio
from trio.testing import MockClock

import steinadler
from steinadler import (
    Call,
    ChildInfo,
    ChildSpec,
    Exit,
    Node,
    Process,
    ProcessId,
    RemoteError,
    SupervisorSpec,
    supervision,
)
from steinadler.supervision.placing import moves, place
from steinadler.testing import SimulatedCluster

SEEDS = [
    0,
    *(pytest.param(seed, marks=pytest.mark.slow) for seed in (1, *range(100, 108))),
]


@steinadler.export
async def placed(me: Process) -> None:
    async for message in me:
        match message:
            case "crash":
                raise ValueError("as told")
            case Call():
                message.reply(me.id)


@steinadler.export
async def placed_once(me: Process) -> None:
    """Ends at once, in order."""


@steinadler.export
async def placed_slowly(me: Process, *, task_status: trio.TaskStatus[None]) -> None:
    if await me.receive() == "go":
        task_status.started()
    await trio.sleep_forever()


def six(function: Any = placed, **options: Any) -> SupervisorSpec:
    return SupervisorSpec([ChildSpec(f"child {n}", function) for n in range(6)], **options)


async def running(node: Node, count: int) -> list[ChildInfo]:
    """The children, once so many of them run."""
    with trio.fail_after(30):
        while True:
            children = await supervision.which_children(node, "top")
            if sum(child.state == "running" for child in children) == count:
                return children
            await trio.sleep(0.01)


def spread(children: list[ChildInfo]) -> dict[str, int]:
    return dict(Counter(child.process.node.name for child in children if child.process))


def here(cluster: SimulatedCluster) -> list[ProcessId]:
    """Every process of a child that lives on any node, paused ones included."""
    return [
        process.id
        for node in cluster.running()
        for process in node.processes()
        if process.function.startswith("placed")
    ]


async def begin(
    cluster: SimulatedCluster, *names: str, spec: SupervisorSpec | None = None, **labels: str
) -> Node:
    """A supervisor named "top" on the first node."""
    nodes = await cluster.start(*names)
    with trio.fail_after(10):
        await cluster.agreed()
    nodes[0].spawn(steinadler.cluster_supervisor, spec or six(), labels, name="top")
    return nodes[0]


@pytest.mark.parametrize("seed", SEEDS)
async def test_children_of_a_node_that_crashed_run_on_the_others(
    seed: int, autojump_clock: MockClock
) -> None:
    """However many at once: it does not count as a restart; and none moves when it comes back."""
    async with SimulatedCluster(seed) as cluster:
        alice = await begin(cluster, "alice", "bob", "carol", spec=six(intensity=0))
        before = await running(alice, 6)
        assert spread(before) == {"alice": 2, "bob": 2, "carol": 2}
        cluster.crash("bob")
        await trio.sleep(4)
        after = await running(alice, 6)
        assert spread(after) == {"alice": 3, "carol": 3}
        stayed = {c.id: c.process for c in before if c.process and c.process.node.name != "bob"}
        assert stayed.items() <= {c.id: c.process for c in after}.items()
        await cluster.restart("bob")
        await cluster.agreed()
        await trio.sleep(5)
        assert await running(alice, 6) == after
        moved = await supervision.rebalance(alice, "top")
        assert len(moved) == 2
        await trio.sleep(1)
        assert spread(await running(alice, 6)) == {"alice": 2, "bob": 2, "carol": 2}
        assert len(here(cluster)) == 6


@steinadler.export
async def placed_tidily(me: Process) -> None:
    me.trap_exits = True
    async for message in me:
        if isinstance(message, Exit):
            return


async def lingers(me: Process) -> None:
    """Holds up the end of its node for a while."""
    me.trap_exits = True
    await me.receive()
    await trio.sleep(5)


@pytest.mark.parametrize("kind", [placed, placed_tidily])
async def test_children_of_a_node_that_closes_run_on_the_others(
    kind: Any, autojump_clock: MockClock
) -> None:
    """However many at once, while that node is a member still, and it counts as no restart."""
    async with SimulatedCluster(1) as cluster:
        alice = await begin(cluster, "alice", "bob", "carol", spec=six(kind, intensity=0))
        assert spread(await running(alice, 6)) == {"alice": 2, "bob": 2, "carol": 2}
        cluster.node("bob").spawn(lingers)
        await trio.sleep(1)
        began = trio.current_time()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(cluster.stop, "bob")
            if kind is placed_tidily:  # told at once; the others work on for as long as bob does
                await trio.sleep(2)
                assert spread(await running(alice, 6)) == {"alice": 3, "carol": 3}
                assert len(alice.members()) == 3
        assert trio.current_time() - began >= 5
        await trio.sleep(1)
        assert spread(await running(alice, 6)) == {"alice": 3, "carol": 3}


async def test_a_child_that_crashes_while_its_node_closes_has_crashed(
    autojump_clock: MockClock,
) -> None:
    async with SimulatedCluster(1) as cluster:
        alice = await begin(cluster, "alice", "bob", spec=six(intensity=0))
        children = await running(alice, 6)
        cluster.node("bob").spawn(lingers)
        await trio.sleep(1)
        async with trio.open_nursery() as nursery, alice.monitor("top") as down:
            nursery.start_soon(cluster.stop, "bob")
            await trio.sleep(1)
            (process, *_) = (
                c.process for c in children if c.process and c.process.node != alice.id
            )
            await alice.send(process, "crash")
            with trio.fail_after(2):
                assert "restart limit" in (await down.wait()).reason


@pytest.mark.parametrize("seed", SEEDS)
async def test_a_partition_may_double_a_child_but_not_for_long(
    seed: int, autojump_clock: MockClock
) -> None:
    """The far side's children end by themselves when their node sees the supervisor's as down."""
    async with SimulatedCluster(seed) as cluster:
        alice = await begin(cluster, "alice", "bob", "carol")
        await running(alice, 6)
        with cluster.partition({"alice"}, {"bob", "carol"}):
            await trio.sleep(10)
            children = await running(alice, 6)
            assert spread(children) == {"alice": 6}
            assert sorted(here(cluster)) == sorted(c.process for c in children if c.process)
        await cluster.agreed()
        assert await running(alice, 6) == children


@pytest.mark.parametrize("seed", SEEDS)
async def test_a_start_that_comes_too_late_runs_nothing(
    seed: int, autojump_clock: MockClock
) -> None:
    """D3: the node was stopped with the order to start in its buffers, and went on much later."""
    async with SimulatedCluster(seed) as cluster:
        nodes = await cluster.start("alice", "bob")
        with trio.fail_after(10):
            await cluster.agreed()
            for node in nodes:
                await node.call("$echo@bob", 1)
        with cluster.paused("bob"):
            nodes[0].spawn(steinadler.cluster_supervisor, six(), name="top")
            children = await running(nodes[0], 6)
            assert spread(children) == {"alice": 6}
        await trio.sleep(10)
        await cluster.agreed()
        assert await running(nodes[0], 6) == children
        assert len(here(cluster)) == 6


@pytest.mark.parametrize("seed", SEEDS)
async def test_one_of_each_once_all_has_healed(seed: int, autojump_clock: MockClock) -> None:
    """Whatever befalls the nodes and the children: afterwards each child lives once."""
    draw = random.Random(seed)
    names = ["bob", "carol", "dave"]
    async with SimulatedCluster(seed, latency_s=(0.001, 0.02)) as cluster:
        alice = await begin(cluster, "alice", *names, spec=six(intensity=1000))
        await running(alice, 6)

        async def crash() -> None:
            name = draw.choice(names)
            cluster.crash(name)
            await trio.sleep(draw.uniform(0, 5))
            await cluster.restart(name)

        async def pause() -> None:
            with cluster.paused(draw.choice(names)):
                await trio.sleep(draw.uniform(0, 6))

        async def part() -> None:
            with cluster.partition({"alice", "bob"}, {"carol", "dave"}):
                await trio.sleep(draw.uniform(0, 8))

        async def cut() -> None:
            cluster.cut("alice", draw.choice(names))

        async def fail() -> None:
            for child in await supervision.which_children(alice, "top"):
                if child.process is not None and draw.random() < 0.5:
                    alice.exit(child.process, "kill")

        faults: list[Callable[[], Coroutine[Any, Any, None]]] = [crash, pause, part, cut, fail]
        for _ in range(6):
            with suppress(steinadler.NodeDown):
                await draw.choice(faults)()
            await trio.sleep(draw.uniform(0, 2))
        with trio.fail_after(60):
            await cluster.agreed()
        await trio.sleep(10)
        children = await running(alice, 6)
        assert sorted(here(cluster)) == sorted(c.process for c in children if c.process)
        with trio.fail_after(30):
            async with alice.monitor("top") as down:
                alice.exit("top")
                assert (await down.wait()).reason == "shutdown"
        await trio.sleep(5)
        assert here(cluster) == []


async def test_all_end_with_the_supervisor_and_its_node(autojump_clock: MockClock) -> None:
    async with SimulatedCluster(1) as cluster:
        alice = await begin(cluster, "alice", "bob")
        await running(alice, 6)
        cluster.crash("alice")
        await trio.sleep(5)
        assert here(cluster) == []


async def test_children_wait_for_a_member_with_the_labels(autojump_clock: MockClock) -> None:
    async with SimulatedCluster(1) as cluster:
        alice = await begin(cluster, "alice", "bob", role="worker")
        await trio.sleep(5)
        assert here(cluster) == []
        await cluster.start("dave", labels={"role": "worker"})
        assert spread(await running(alice, 6)) == {"dave": 6}
        with trio.fail_after(5):
            await supervision.terminate_child(alice, "top", "child 1")
        cluster.crash("dave")
        await trio.sleep(5)
        assert {c.state for c in await supervision.which_children(alice, "top")} == {
            "starting",
            "down",
        }
        with trio.fail_after(5):
            async with alice.monitor("top") as down:
                alice.exit("top")
                assert (await down.wait()).reason == "shutdown"


async def test_children_wait_through_whatever_else_changes(autojump_clock: MockClock) -> None:
    """Others that come, go or change their labels meanwhile are no reason to end anything."""
    async with SimulatedCluster(1) as cluster:
        alice = await begin(cluster, "alice", "bob", role="worker")
        await cluster.start("dave", labels={"role": "worker"})
        await running(alice, 6)
        async with alice.monitor("top") as down:
            cluster.crash("dave")
            await trio.sleep(5)
            for value in ("1", "2", "3"):
                cluster.node("bob").set_label("x", value)
                await trio.sleep(1)
            await cluster.restart("dave")
            assert spread(await running(alice, 6)) == {"dave": 6}
            assert down.down is None


@pytest.mark.parametrize("seed", SEEDS)
async def test_a_supervisor_whose_own_node_stood_still_goes_on(
    seed: int, autojump_clock: MockClock
) -> None:
    """All its sessions are lost, though every member is there: its children's ends do not count."""
    async with SimulatedCluster(seed) as cluster:
        alice = await begin(cluster, "alice", "bob", "carol", spec=six(intensity=0))
        await running(alice, 6)
        async with alice.monitor("top") as down:
            with cluster.paused("alice"):
                await trio.sleep(5)
            await trio.sleep(10)
            assert down.down is None
        assert sorted(c.process for c in await running(alice, 6) if c.process) == sorted(
            here(cluster)
        )


@steinadler.export
async def placed_and_slow_to_end(me: Process, seconds: float) -> None:
    try:
        await trio.sleep_forever()
    finally:
        with trio.CancelScope(shield=True):
            await trio.sleep(seconds)


@pytest.mark.parametrize("seconds", [0, 0.05, 1])
async def test_a_named_child_waits_for_the_end_of_its_former_life(
    seconds: float, autojump_clock: MockClock
) -> None:
    """Its node went on after it was given up, and the former life has the name for a while yet."""
    child = ChildSpec("c", placed_and_slow_to_end, (seconds,), name="c")
    spec = SupervisorSpec([child], intensity=0)
    async with SimulatedCluster(1) as cluster:
        alice = await begin(cluster, "alice", spec=spec, role="worker")
        bob = (await cluster.start("bob", labels={"role": "worker"}))[0]
        (before,) = await running(alice, 1)
        with cluster.paused("bob"):
            await trio.sleep(5)
        await trio.sleep(5)
        (after,) = await running(alice, 1)
        assert after.process == await bob.whereis("c") != before.process


async def test_a_named_child_waits_also_where_its_node_stands_still_again(
    autojump_clock: MockClock,
) -> None:
    child = ChildSpec("c", placed_and_slow_to_end, (8,), name="c")
    spec = SupervisorSpec([child], intensity=0)
    async with SimulatedCluster(1) as cluster:
        alice = await begin(cluster, "alice", spec=spec, role="worker")
        bob = (await cluster.start("bob", labels={"role": "worker"}))[0]
        await running(alice, 1)
        for _ in range(2):
            with cluster.paused("bob"):
                await trio.sleep(5)
            await trio.sleep(1)
        await trio.sleep(10)
        (after,) = await running(alice, 1)
        assert after.process == await bob.whereis("c")


async def test_a_child_that_waits_for_its_name_is_ended_at_once(autojump_clock: MockClock) -> None:
    child = ChildSpec("c", placed_and_slow_to_end, (60,), name="c", shutdown="kill")
    async with SimulatedCluster(1, latency_s=(0.05, 0.1)) as cluster:
        alice = await begin(cluster, "alice", spec=SupervisorSpec([child]), role="worker")
        await cluster.start("bob", labels={"role": "worker"})
        await running(alice, 1)
        with cluster.paused("bob"):
            await trio.sleep(5)
        with trio.fail_after(10):
            while len(alice.members()) < 2:
                await alice.wait_for_change()
        await trio.sleep(0.01)  # it is being asked for, and its name is taken
        with trio.fail_after(2):
            await supervision.terminate_child(alice, "top", "c")


async def test_a_name_that_is_somebody_elses_is_a_start_that_failed(
    autojump_clock: MockClock,
) -> None:
    spec = SupervisorSpec([ChildSpec("c", placed, name="c")])
    async with SimulatedCluster(1) as cluster:
        (bob,) = await cluster.start("bob", labels={"role": "worker"})
        bob.spawn(lingers, name="c")
        alice = await begin(cluster, "alice", spec=spec, role="worker")
        async with alice.monitor("top") as down:
            with trio.fail_after(5):
                assert "'c' did not start: RemoteError: NameConflict" in (await down.wait()).reason


@pytest.mark.parametrize("moment_us", [800, 1400, 2000])
async def test_a_node_that_closes_as_it_starts_a_child_is_no_fault_of_it(
    moment_us: int, autojump_clock: MockClock
) -> None:
    """The process may end before it was monitored, and before it ran anything ("noproc")."""
    async with SimulatedCluster(moment_us // 100) as cluster:
        alice = await begin(cluster, "alice", "bob", spec=six(intensity=0))
        await trio.sleep(moment_us / 1e6)
        await cluster.stop("bob")
        await trio.sleep(3)
        assert spread(await running(alice, 6)) == {"alice": 6}


async def test_a_crash_counts_wherever_it_was(autojump_clock: MockClock) -> None:
    async with SimulatedCluster(1) as cluster:
        alice = await begin(cluster, "alice", "bob")
        async with alice.monitor("top") as down:
            for _ in range(2):
                child = next(c for c in await running(alice, 6) if c.process)
                assert child.process is not None
                await alice.send(child.process, "crash")
                await trio.sleep(0.1)
            with trio.fail_after(5):
                reason = (await down.wait()).reason
        assert reason.startswith("shutdown: the restart limit (1 in 5 s) is reached")
        assert here(cluster) == []


@pytest.mark.parametrize("reason", ["noconnection", "noproc"])
async def test_an_end_by_a_link_counts_whatever_was_linked(
    reason: str, autojump_clock: MockClock
) -> None:
    """It looks like the loss of the child's own node, or a process that was never there; but the
    child was there, and it could go on without end."""
    async with SimulatedCluster(1) as cluster:
        alice = await begin(cluster, "alice", "bob", spec=six(intensity=0))
        async with alice.monitor("top") as down:
            child = (await running(alice, 6))[0]
            assert child.process is not None
            alice.exit(child.process, reason)
            with trio.fail_after(5):
                assert "restart limit" in (await down.wait()).reason


async def test_the_true_reason_of_an_end_is_known_however_soon_it_came(
    autojump_clock: MockClock,
) -> None:
    """D2: a transient child that has done its work is not started again."""
    spec = SupervisorSpec([ChildSpec("once", placed_once, restart="transient")], intensity=0)
    async with SimulatedCluster(1) as cluster:
        alice = await begin(cluster, "alice", "bob", spec=spec)
        await trio.sleep(5)
        (child,) = await supervision.which_children(alice, "top")
        assert child.state == "down"


async def test_a_child_far_away_says_when_it_has_started(autojump_clock: MockClock) -> None:
    async with SimulatedCluster(1) as cluster:
        alice = await begin(cluster, "alice", "bob", spec=six(placed_slowly))
        await trio.sleep(1)
        children = await supervision.which_children(alice, "top")
        assert {child.state for child in children} == {"starting"}
        for child in children:
            assert child.process is not None
            await alice.send(child.process, "go")
        await running(alice, 6)


@steinadler.export
async def placed_and_done(me: Process, *, task_status: trio.TaskStatus[None]) -> None:
    task_status.started()


async def test_a_child_far_away_has_started_also_if_it_ends_at_once(
    autojump_clock: MockClock,
) -> None:
    child = ChildSpec("c", placed_and_done, restart="transient")
    async with SimulatedCluster(1) as cluster:
        alice = await begin(cluster, "alice", spec=SupervisorSpec([child]), role="worker")
        await cluster.start("bob", labels={"role": "worker"})
        await trio.sleep(2)
        (info,) = await supervision.which_children(alice, "top")
        assert info.state == "down"
        with trio.fail_after(5):
            process = await supervision.restart_child(alice, "top", "c")
        assert process is None or process.node.name == "bob"


async def test_a_whole_tree_may_be_a_child(autojump_clock: MockClock) -> None:
    below = SupervisorSpec([ChildSpec("a", "placed", name="a")])
    tree = ChildSpec("tree", steinadler.supervisor, (below,), type="supervisor")
    async with SimulatedCluster(1) as cluster:
        alice = await begin(cluster, "alice", "bob", spec=SupervisorSpec([tree]))
        (child,) = await running(alice, 1)
        assert child.process is not None
        name = child.process.node.name
        with trio.fail_after(5):
            first = await alice.call(f"a@{name}", "who")
            async with alice.monitor(first) as down:
                alice.exit("top")
                assert (await down.wait()).reason == "shutdown"


async def test_what_a_child_far_away_failed_with_is_told(autojump_clock: MockClock) -> None:
    async with SimulatedCluster(1) as cluster:
        alice = await begin(cluster, "alice", spec=SupervisorSpec(), role="worker")
        await cluster.start("bob", labels={"role": "worker"})
        await trio.sleep(1)
        with trio.fail_after(5), pytest.raises(RemoteError, match="exported as 'nowhere' on bob"):
            await supervision.start_child(alice, "top", ChildSpec("x", "nowhere"))


async def test_labels_that_no_member_can_have_are_refused(autojump_clock: MockClock) -> None:
    async with SimulatedCluster(1) as cluster:
        (alice,) = await cluster.start("alice")
        labels: Any = {"cores": 4}
        top = alice.spawn(steinadler.cluster_supervisor, six(), labels)
        async with alice.monitor(top) as down:
            with trio.fail_after(5):
                assert "labels are texts; 'cores': 4 is not" in (await down.wait()).reason


async def test_a_start_that_nobody_ordered_is_refused(autojump_clock: MockClock) -> None:
    async with SimulatedCluster(1) as cluster:
        alice = await begin(cluster, "alice", "bob")
        await running(alice, 6)
        with trio.fail_after(5), pytest.raises(RemoteError, match="given up"):
            await alice.call("top", ("$child", 999, alice.spawn(placed), False))
        with trio.fail_after(5), pytest.raises(RemoteError, match="understands"):
            await alice.call("top", "nonsense")


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        (six(strategy="one_for_all"), "one_for_one, and not one_for_all"),
        (six(len), "not exported"),
        (six("nowhere"), "no function is exported as 'nowhere'"),
        (SupervisorSpec([ChildSpec("a", placed, (object(),))]), "cannot be in a message"),
    ],
)
async def test_what_cannot_be_placed_ends_it_with_the_reason(
    autojump_clock: MockClock, spec: SupervisorSpec, reason: str
) -> None:
    async with SimulatedCluster(1) as cluster:
        (alice,) = await cluster.start("alice")
        async with alice.monitor(alice.spawn(steinadler.cluster_supervisor, spec)) as down:
            with trio.fail_after(5):
                assert reason in (await down.wait()).reason


# -- where -----------------------------------------------------------------------------------


def test_the_least_loaded_node_is_chosen_and_ties_by_a_hash_of_the_names() -> None:
    nodes = ["a", "b", "c"]
    assert place("x", nodes, {"a": 1, "b": 0, "c": 2}) == "b"
    assert place("x", [], {}) is None
    ties = [place(str(n), nodes, {}) for n in range(300)]
    assert ties == [place(str(n), nodes[::-1], {}) for n in range(300)]
    assert all(70 < count < 130 for count in Counter(ties).values())


@pytest.mark.parametrize("nodes", [1, 2, 3, 5])
@pytest.mark.parametrize("seed", range(10))
def test_as_few_move_as_it_takes_to_be_even(nodes: int, seed: int) -> None:
    draw = random.Random(seed)
    names = [f"n{n}" for n in range(nodes)]
    where = {str(n): draw.choice([*names, "gone"]) for n in range(draw.randrange(30))}
    moving = moves(names, where)
    counts = Counter(dict.fromkeys(names, 0))
    counts.update(where.values())
    few, many = len(where) // nodes, -(-len(where) // nodes)
    too_many = counts["gone"] + sum(max(0, counts[name] - many) for name in names)
    too_few = sum(max(0, few - counts[name]) for name in names)
    assert len(moving) == max(too_many, too_few)
    kept = Counter(dict.fromkeys(names, 0))
    kept.update(node for id_, node in where.items() if id_ not in moving)
    for id_ in moving:
        name = place(id_, names, kept)
        assert name is not None
        kept[name] += 1
    assert max(kept.values()) - min(kept.values()) <= 1
