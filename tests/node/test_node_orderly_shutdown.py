"""What a node that closes leaves its processes time for: those that trap exits end by themselves.

`Config.orderly_shutdown_s` bounds it; on simulated nodes, whose time costs nothing.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio
from trio.testing import MockClock

import steinadler
from steinadler import ChildSpec, Config, Exit, Process, ProcessId, RemoteError
from steinadler.supervision import which_children
from steinadler.testing import SimulatedCluster

CLOSES = "shutdown: its node closes"
BRIEF = Config(orderly_shutdown_s=3.0)
# How long it takes beyond that until everybody was told goodbye.
GOODBYE_S = 2.5


@steinadler.export
async def sleeps(me: Process) -> None:
    await trio.sleep_forever()


async def ends_when_told(me: Process, log: list[Any], after_s: float = 0.0) -> None:
    me.trap_exits = True
    log.append(await me.receive())
    await trio.sleep(after_s)
    log.append("ended")


async def deaf(me: Process) -> None:
    me.trap_exits = True
    async for _ in me:
        pass


@pytest.fixture
async def cluster(autojump_clock: MockClock, nursery: trio.Nursery) -> Any:
    async with SimulatedCluster(1) as opened:
        yield opened


async def closing_takes(cluster: SimulatedCluster, name: str) -> float:
    began = trio.current_time()
    with trio.fail_after(60):
        await cluster.stop(name)
    return trio.current_time() - began


async def test_a_process_that_traps_exits_is_told_and_waited_for(
    cluster: Any, autojump_clock: MockClock
) -> None:
    (alice,) = await cluster.start("alice")
    log: list[Any] = []
    alice.spawn(ends_when_told, log, 5.0)
    await trio.sleep(1)
    assert 5 <= await closing_takes(cluster, "alice") < 5 + GOODBYE_S
    assert log == [Exit(ProcessId(alice.id, 0), CLOSES), "ended"]


async def test_what_it_needs_for_that_is_still_there(
    cluster: Any, autojump_clock: MockClock
) -> None:
    """Processes here that do not trap exits, other nodes, and new processes of its own."""
    alice, _ = await cluster.start("alice", "bob")
    await cluster.agreed()
    log: list[Any] = []

    async def helps(me: Process) -> None:
        log.append(await me.call("$echo@bob", "saved"))

    async def tidies(me: Process) -> None:
        me.trap_exits = True
        await me.receive()
        log.append(await me.call("answers", None))
        async with me.node.monitor(me.spawn_link(helps)) as down:
            log.append((await down.wait()).reason)

    async def answers(me: Process) -> None:
        async for message in me:
            message.reply("here")

    alice.spawn(answers, name="answers")
    alice.spawn(tidies)
    await trio.sleep(1)
    assert await closing_takes(cluster, "alice") < GOODBYE_S
    assert log == ["here", "saved", "normal"]


@pytest.mark.parametrize("who", ["alone", "with others"])
async def test_whoever_does_not_heed_it_is_cancelled_and_named(
    cluster: Any, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture, who: str
) -> None:
    (alice,) = await cluster.start("alice", config=BRIEF)
    log: list[Any] = []
    alice.spawn(deaf)
    if who == "with others":
        alice.spawn(ends_when_told, log)
    await trio.sleep(1)
    assert 3 <= await closing_takes(cluster, "alice") < 3 + GOODBYE_S
    assert log[1:] == ["ended"] * (who == "with others")
    (told,) = (m for m in caplog.messages if "cancelled because they have not" in m)
    assert "deaf" in told
    assert "ends_when_told" not in told


async def test_nobody_is_waited_for_who_traps_no_exits(
    cluster: Any, autojump_clock: MockClock
) -> None:
    alice, bob = await cluster.start("alice", "bob")
    await cluster.agreed()
    async with bob.monitor(alice.spawn(sleeps)) as down:
        await trio.sleep(1)
        assert await closing_takes(cluster, "alice") < GOODBYE_S
        assert (await down.wait()).reason == CLOSES


async def test_whom_a_process_started_it_ends_itself(
    cluster: Any, autojump_clock: MockClock
) -> None:
    """The node tells the topmost only, also where one in between traps nothing."""
    (alice,) = await cluster.start("alice")
    log: list[str] = []

    async def leaf(me: Process) -> None:
        me.trap_exits = True
        log.append((await me.receive()).reason)

    async def between(me: Process) -> None:
        me.spawn_link(leaf)
        await trio.sleep_forever()

    async def top(me: Process) -> None:
        me.trap_exits = True
        child = me.spawn_link(between)
        log.append((await me.receive()).reason)
        await trio.sleep(1)  # the children go on
        log.append("children next")
        async with me.node.monitor(child) as down:
            me.node.exit(child, "as told")
            await down.wait()

    alice.spawn(top)
    await trio.sleep(1)
    assert await closing_takes(cluster, "alice") < 1 + GOODBYE_S
    assert log == [CLOSES, "children next", "as told"]


async def test_trees_end_the_last_started_first(cluster: Any, autojump_clock: MockClock) -> None:
    """As with Erlang/OTP: a supervisor below ends before whoever stands before it."""
    (alice,) = await cluster.start("alice")
    log: list[str] = []

    async def lives(me: Process, id_: str) -> None:
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await trio.sleep(0.5)
            log.append(id_)

    def children(ids: str) -> list[ChildSpec]:
        return [ChildSpec(id_, lives, (id_,)) for id_ in ids]

    below = steinadler.SupervisorSpec(children("bc"))
    tree = ChildSpec("below", steinadler.supervisor, (below,), type="supervisor")
    spec = steinadler.SupervisorSpec([*children("a"), tree, *children("d")])
    top = alice.spawn(steinadler.supervisor, spec)
    await trio.sleep(1)
    assert len(await which_children(alice, top)) == 3
    assert await closing_takes(cluster, "alice") < 2 + GOODBYE_S
    assert log == ["d", "c", "b", "a"]


async def refused(ask: Callable[[], Awaitable[Any]]) -> bool:
    try:
        await ask()
    except RemoteError as error:
        return error.type_name == "NodeClosed"
    return False


async def test_a_node_that_closes_starts_nothing_for_others(
    cluster: Any, autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    alice, bob = await cluster.start("alice", "bob", config=BRIEF)
    await cluster.agreed()
    alice.spawn(deaf)
    await trio.sleep(1)
    nursery.start_soon(cluster.stop, "alice")
    await trio.sleep(1)
    assert await refused(lambda: bob.spawn_on("alice", sleeps))
    assert await refused(lambda: bob.run_on("alice", sleeps))
    await trio.sleep(10)
