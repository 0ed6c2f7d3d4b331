"""Monitors fire once (D1, D2), links carry exits both ways (D4), names are free first (N1)."""

from __future__ import annotations

from typing import Any

import pytest
import trio
import trio.testing
from programs import collector, sleeper, until

from steinadler import Down, Exit, NameConflict, Node, NoSuchProcess, Process, ProcessName
from steinadler.wire.signals import CLOSING


@pytest.fixture(params=["local", "remote"])
async def pair(request: pytest.FixtureRequest, nodes: Any) -> tuple[Node, Node]:
    if request.param == "local":
        node = await nodes.open("bob")
        return node, node
    alice, bob = await nodes.open_all("alice", "bob")
    return alice, bob


async def test_a_monitor_fires_once_with_the_reason_d1(pair: tuple[Node, Node]) -> None:
    here, there = pair
    process = there.spawn(sleeper, name="worker")
    with trio.fail_after(5):
        async with here.monitor("worker@bob") as by_name, here.monitor(process) as by_id:
            await here.call("$echo@bob", "both have begun")
            there.exit(process, "enough")
            assert await by_id.wait() == Down(process, "enough", by_id.reference)
            assert await by_name.wait() == Down(process, "enough", by_name.reference)
            assert await by_name.wait() is await by_name.wait()


async def test_a_monitor_of_nobody_fires_noproc_d1(pair: tuple[Node, Node]) -> None:
    here, _ = pair
    with trio.fail_after(5):
        async with here.monitor("nobody@bob") as down:
            assert await down.wait() == Down(ProcessName("nobody", "bob"), "noproc", down.reference)


async def test_a_monitor_on_an_unknown_node_fires_noconnection_d1(nodes: Any) -> None:
    alice = await nodes.open("alice")
    async with alice.monitor("x@nowhere") as down:
        assert down.down is not None
        assert down.down.reason == "noconnection"


async def test_every_monitor_on_a_node_that_leaves_fires_once_d1(nodes: Any) -> None:
    alice, bob = await nodes.open_all("alice", "bob")
    got: list[Any] = []

    async def watches(me: Process) -> None:
        me.monitor("$echo@bob")
        await collector(me, got)

    alice.spawn(watches)
    with trio.fail_after(10):
        async with alice.monitor("$echo@bob") as down:
            await trio.testing.wait_all_tasks_blocked(0.01)
            await nodes.close(bob)
            assert (await down.wait()).reason in (CLOSING, "noconnection")
    await until(lambda: got)
    await alice.call("$echo", "all is quiet")
    assert len(got) == 1


async def test_monitoring_first_gives_the_answer_or_the_down_d2(pair: tuple[Node, Node]) -> None:
    here, there = pair
    for number in range(20):
        process = there.spawn(sleeper)
        if number % 2:
            there.exit(process, "kill")
        with trio.fail_after(5):
            async with here.monitor(process) as down:
                await here.send(process, "anything")
                there.exit(process, "kill")
                assert (await down.wait()).reason in ("killed", "noproc")


async def test_a_down_comes_after_the_last_message_m1(pair: tuple[Node, Node]) -> None:
    here, there = pair
    got: list[Any] = []

    async def says_much(me: Process) -> None:
        destination = await me.receive()
        for number in range(200):
            await me.send(destination, (number, "x" * (50_000 if number % 50 == 49 else 3)))

    process = there.spawn(says_much)

    async def watches(me: Process) -> None:
        me.monitor(process)
        await me.send(process, me.id)
        await collector(me, got)

    here.spawn(watches)
    await until(lambda: got and isinstance(got[-1], Down))
    assert [m[0] for m in got[:-1]] == list(range(200))
    assert got[-1].reason == "normal"


async def test_a_demonitored_process_is_not_heard_of(pair: tuple[Node, Node]) -> None:
    here, there = pair
    process = there.spawn(sleeper)
    got: list[Any] = []

    async def watches(me: Process) -> None:
        me.demonitor(me.monitor(process))
        me.monitor(process)
        await collector(me, got)

    here.spawn(watches)
    await trio.testing.wait_all_tasks_blocked(0.02)
    there.exit(process, "kill")
    await until(lambda: got)
    await here.call("$echo@bob", "later")
    assert len(got) == 1


async def test_leaving_the_block_lets_go_of_a_monitor(pair: tuple[Node, Node]) -> None:
    here, there = pair
    process = there.spawn(sleeper)
    async with here.monitor(process) as down:
        pass
    with trio.fail_after(5):
        await here.call("$echo@bob", "the request has come")
        there.exit(process, "kill")
        await here.call("$echo@bob", "later")
    assert down.down is None
    for node in (here, there):  # nothing is kept of it on either side
        assert len(node._watching._held) == len(node._watching._of_us) == 0


@pytest.mark.parametrize("who", ["linker", "linked"])
async def test_links_carry_exits_both_ways_d4(pair: tuple[Node, Node], who: str) -> None:
    here, there = pair
    linked = there.spawn(sleeper)

    async def linker(me: Process) -> None:
        me.link(linked)
        await trio.sleep_forever()

    process = here.spawn(linker)
    with trio.fail_after(5):
        async with here.monitor(process) as one, here.monitor(linked) as other:
            await trio.testing.wait_all_tasks_blocked(0.02)
            if who == "linker":
                here.exit(process, "boom")
            else:
                there.exit(linked, "boom")
            assert (await one.wait()).reason == "boom"
            assert (await other.wait()).reason == "boom"


async def test_who_traps_exits_gets_a_message_d4(pair: tuple[Node, Node]) -> None:
    here, there = pair
    got: list[Any] = []

    async def returns(me: Process) -> None:
        await me.receive()

    linked = there.spawn(returns)

    async def supervisor(me: Process) -> None:
        me.trap_exits = True
        me.link(linked)
        await collector(me, got)

    process = here.spawn(supervisor)
    await trio.testing.wait_all_tasks_blocked(0.02)
    await here.send(linked, "go")
    await until(lambda: got)
    assert got == [Exit(linked, "normal")]
    here.exit(process, "kill")


async def test_a_normal_exit_does_not_end_the_linked_d4(pair: tuple[Node, Node]) -> None:
    here, there = pair

    async def returns(me: Process) -> None:
        await me.receive()

    linked = there.spawn(returns)

    async def linker(me: Process) -> None:
        me.link(linked)
        await me.receive()
        raise ValueError("still here")

    process = here.spawn(linker)
    await trio.testing.wait_all_tasks_blocked(0.02)
    with trio.fail_after(5):
        async with here.monitor(linked) as gone, here.monitor(process) as down:
            await here.send(linked, "go")
            await gone.wait()
            await here.send(process, "and you?")
            assert (await down.wait()).reason == "ValueError: still here"


async def test_linking_to_nobody_is_an_exit_noproc_d4(pair: tuple[Node, Node]) -> None:
    here, there = pair
    gone = there.spawn(sleeper)
    there.exit(gone, "kill")
    await trio.testing.wait_all_tasks_blocked(0.01)

    async def linker(me: Process) -> None:
        me.link(gone)
        await trio.sleep_forever()

    with trio.fail_after(5):
        async with here.monitor(here.spawn(linker)) as down:
            assert (await down.wait()).reason == "noproc"


async def test_unlinked_processes_end_alone_d4(pair: tuple[Node, Node]) -> None:
    here, there = pair
    linked = there.spawn(sleeper)

    async def linker(me: Process) -> None:
        me.link(linked)
        me.unlink(linked)
        await me.receive()

    process = here.spawn(linker)
    await trio.testing.wait_all_tasks_blocked(0.02)
    with trio.fail_after(5):
        async with here.monitor(linked) as gone, here.monitor(process) as down:
            there.exit(linked, "boom")
            await gone.wait()
            assert down.down is None
            await here.send(process, "bye")
            assert (await down.wait()).reason == "normal"
    for node in (here, there):
        assert not node._watching._links._by_local._values


async def test_a_link_to_a_node_that_leaves_is_an_exit_d4(nodes: Any) -> None:
    alice, bob = await nodes.open_all("alice", "bob")
    linked = bob.spawn(sleeper)

    async def linker(me: Process) -> None:
        me.link(linked)
        await trio.sleep_forever()

    with trio.fail_after(10):
        async with alice.monitor(alice.spawn(linker)) as down:
            await trio.testing.wait_all_tasks_blocked(0.02)
            await nodes.close(bob)
            assert (await down.wait()).reason in (CLOSING, "noconnection")


async def test_spawn_link_ties_at_birth_d4(nodes: Any) -> None:
    node = await nodes.open("alice")
    children: list[Any] = []

    async def parent(me: Process) -> None:
        children.append(me.spawn_link(sleeper, name="child"))
        await trio.sleep_forever()

    process = node.spawn(parent)
    await until(lambda: children)
    with trio.fail_after(5):
        async with node.monitor(children[0]) as down:
            node.exit(process, "boom")
            assert (await down.wait()).reason == "boom"


async def test_a_name_is_free_before_the_down_arrives_n1(pair: tuple[Node, Node]) -> None:
    here, there = pair
    for _ in range(10):
        process = there.spawn(sleeper, name="only")
        with trio.fail_after(5):
            async with here.monitor(process) as down:
                await here.call("$echo@bob", "it has begun")
                there.exit(process, "kill")
                await down.wait()
                assert await here.whereis("only@bob") is None


async def test_a_name_belongs_to_one_process_n1(nodes: Any) -> None:
    node = await nodes.open("alice")
    process = node.spawn(sleeper, name="taken")
    count = node.statistics().processes
    with pytest.raises(NameConflict, match="taken"):
        node.spawn(sleeper, name="taken")
    assert node.statistics().processes == count, "nothing was started"
    node.register("second", process)
    assert await node.whereis("second") == await node.whereis("taken@alice") == process
    node.unregister("second")
    with pytest.raises(NoSuchProcess):
        node.unregister("second")
    node.exit(process, "kill")
    await trio.testing.wait_all_tasks_blocked()
    with pytest.raises(NoSuchProcess):
        node.register("dead", process)
    node.spawn(sleeper, name="taken")
