"""Supervisors of real nodes: what their children live through (D4, N1), and what can be asked."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import trio

import steinadler
from steinadler import (
    Call,
    ChildSpec,
    ConfigError,
    Exit,
    Node,
    NoSuchProcess,
    Process,
    ProcessId,
    RemoteError,
    SupervisorSpec,
    supervision,
)


@steinadler.export
async def supervised(me: Process) -> None:
    """Ends as it is told, and says who it is."""
    async for message in me:
        match message:
            case "crash":
                raise ValueError("as told")
            case "return":
                return
            case Call():
                message.reply(me.id)


async def lives(
    me: Process, log: list[str], id_: str, *, task_status: trio.TaskStatus[None]
) -> None:
    """Writes down when it begins and ends."""
    log.append(f"+{id_}")
    task_status.started()
    try:
        await supervised(me)
    finally:
        log.append(f"-{id_}")


@pytest.fixture
async def node(nodes: Any) -> Node:
    opened: Node = await nodes.open("alice")
    return opened


def top_of(node: Node, *children: ChildSpec, **options: Any) -> ProcessId:
    return node.spawn(steinadler.supervisor, SupervisorSpec(children, **options), name="top")


async def pid(node: Node, id_: str, *, other_than: ProcessId | None = None) -> ProcessId:
    """The process of a child, once it has one that runs."""
    with trio.fail_after(5):
        while True:
            for child in await supervision.which_children(node, "top"):
                if (child.id, child.state) == (id_, "running") and child.process != other_than:
                    assert child.process is not None
                    return child.process


async def down(node: Node, destination: Any) -> str:
    with trio.fail_after(5):
        async with node.monitor(destination) as monitor:
            return (await monitor.wait()).reason


@pytest.mark.parametrize(
    ("strategy", "then"),
    [
        ("one_for_one", "-b +b"),
        ("one_for_all", "-b -c -a +a +b +c"),
        ("rest_for_one", "-b -c +b +c"),
    ],
)
async def test_a_crash_restarts_whom_the_strategy_says(
    node: Node, strategy: str, then: str
) -> None:
    log: list[str] = []
    children = [ChildSpec(id_, lives, (log, id_), name=id_) for id_ in "abc"]
    top_of(node, *children, strategy=strategy)
    before = await pid(node, "b")
    await pid(node, "c")
    await node.send("b", "crash")
    assert await pid(node, "b", other_than=before) != before
    await pid(node, "c")
    async with node.monitor("top") as monitor:
        node.exit("top")
        assert (await monitor.wait()).reason == "shutdown"
    assert log == ["+a", "+b", "+c", *then.split(), "-c", "-b", "-a"]


async def test_the_name_of_a_child_is_that_of_its_next_life(node: Node) -> None:
    """N1."""
    top_of(node, ChildSpec("a", supervised, name="worker"))
    first = await pid(node, "a")
    assert await node.call("worker", "who") == first
    await node.send("worker", "crash")
    second = await pid(node, "a", other_than=first)
    assert await node.call("worker", "who") == second


async def test_the_next_starts_when_the_one_before_has_said_so(node: Node) -> None:
    go, log = trio.Event(), list[str]()

    async def slow(me: Process, *, task_status: trio.TaskStatus[None]) -> None:
        log.append("slow")
        await go.wait()
        task_status.started()
        with pytest.raises(RuntimeError, match="twice"):
            task_status.started()
        await trio.sleep_forever()

    top_of(node, ChildSpec("slow", slow), ChildSpec("a", lives, (log, "a")))
    with trio.fail_after(5):
        states = {c.id: c.state for c in await supervision.which_children(node, "top")}
        assert states == {"slow": "starting", "a": "down"}
        go.set()
        await pid(node, "a")
    assert log == ["slow", "+a"]


async def test_the_order_to_end_does_not_wait_for_a_start(node: Node) -> None:
    async def never(me: Process, *, task_status: trio.TaskStatus[None]) -> None:
        await trio.sleep_forever()

    top_of(node, ChildSpec("never", never))
    with trio.fail_after(5):
        await supervision.which_children(node, "top")
        async with node.monitor("top") as monitor:
            node.exit("top", "shutdown: enough")
            assert (await monitor.wait()).reason == "shutdown: enough"


async def test_the_restart_limit_ends_all_and_says_why(
    node: Node, caplog: pytest.LogCaptureFixture
) -> None:
    log: list[str] = []
    top_of(
        node,
        ChildSpec("a", lives, (log, "a")),
        ChildSpec("b", lives, (log, "b"), name="b"),
        intensity=1,
    )
    async with node.monitor("top") as monitor:
        first = await pid(node, "b")
        await node.send(first, "crash")
        await node.send(await pid(node, "b", other_than=first), "crash")
        with trio.fail_after(5):
            reason = (await monitor.wait()).reason
    assert (
        reason
        == "shutdown: the restart limit (1 in 5 s) is reached: 'b' ended: ValueError: as told"
    )
    assert log == ["+a", "+b", "-b", "+b", "-b", "-a"]
    errors = [record.message for record in caplog.records if record.levelno >= logging.ERROR]
    assert [message for message in errors if "gives up" not in message] == [
        message for message in errors if "exited: ValueError: as told" in message
    ]
    assert len(errors) == 3, "each crash once, and the end of all once"


async def test_the_supervisor_above_restarts_one_that_gave_up(node: Node) -> None:
    below = SupervisorSpec([ChildSpec("a", supervised, name="a")], intensity=0)
    top_of(node, ChildSpec("below", steinadler.supervisor, (below,), type="supervisor"))
    first = await pid(node, "below")
    grandchild = await node.call("a", "who")
    await node.send("a", "crash")
    await pid(node, "below", other_than=first)
    with trio.fail_after(5):
        while (again := await node.whereis("a")) is None:
            await trio.lowlevel.checkpoint()
    assert again != grandchild


@pytest.mark.parametrize("end", ["kill", "above"])
async def test_whatever_ends_a_supervisor_ends_its_children(node: Node, end: str) -> None:
    """D4: by links, also through a supervisor below that traps exits."""
    below = SupervisorSpec([ChildSpec("a", supervised, name="grandchild")])
    top_of(node, ChildSpec("below", steinadler.supervisor, (below,), type="supervisor"))
    await pid(node, "below")
    with trio.fail_after(5):
        grandchild = await node.call("grandchild", "who")
    async with node.monitor(grandchild) as monitor:
        node.exit("top", "kill" if end == "kill" else "shutdown")
        with trio.fail_after(5):
            assert (await monitor.wait()).reason == "shutdown"


async def test_a_child_that_traps_exits_is_told_and_then_killed(node: Node) -> None:
    told: list[Any] = []

    async def deaf(me: Process) -> None:
        me.trap_exits = True
        while True:
            told.append(await me.receive())

    top_of(node, ChildSpec("deaf", deaf, shutdown=0.05))
    child = await pid(node, "deaf")
    async with node.monitor(child) as monitor:
        with trio.fail_after(5):
            await supervision.terminate_child(node, "top", "deaf")
            assert (await monitor.wait()).reason == "killed"
    assert [message.reason for message in told if isinstance(message, Exit)] == ["shutdown"]


async def test_a_child_may_clean_up_for_as_long_as_it_was_given(node: Node) -> None:
    done = trio.Event()

    async def tidy(me: Process) -> None:
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await trio.lowlevel.checkpoint()
                done.set()

    top_of(node, ChildSpec("tidy", tidy))
    await pid(node, "tidy")
    with trio.fail_after(5):
        await supervision.terminate_child(node, "top", "tidy")
    assert done.is_set()


async def test_a_first_child_that_cannot_start_ends_the_supervisor_with_the_reason(
    node: Node,
) -> None:
    async def fails(me: Process, *, task_status: trio.TaskStatus[None]) -> None:
        raise OSError("no disk")

    log: list[str] = []
    async with node.monitor(
        top_of(node, ChildSpec("a", lives, (log, "a")), ChildSpec("b", fails))
    ) as monitor:
        with trio.fail_after(5):
            assert (await monitor.wait()).reason == "shutdown: 'b' did not start: OSError: no disk"
    assert log == ["+a", "-a"]


async def test_a_name_that_is_taken_is_a_failed_start(node: Node) -> None:
    node.spawn(supervised, name="taken")
    reason = await down(node, top_of(node, ChildSpec("a", supervised, name="taken")))
    assert reason.startswith("shutdown: 'a' did not start: NameConflict")


async def test_what_can_be_asked_from_another_node(nodes: Any) -> None:
    alice, bob = await nodes.open_all("alice", "bob")
    top_of(alice, ChildSpec("a", supervised))
    top = "top@alice"
    extra = ChildSpec("extra", supervised, restart="temporary", name="extra")
    with trio.fail_after(5):
        started = await supervision.start_child(bob, top, extra)
        assert await bob.call("extra@alice", "who") == started
        with pytest.raises(RemoteError, match="already"):
            await supervision.start_child(bob, top, extra)
        await supervision.terminate_child(bob, top, "a")
        assert [(c.id, c.state) for c in await supervision.which_children(bob, top)] == [
            ("a", "down"),
            ("extra", "running"),
        ]
        again = await supervision.restart_child(bob, top, "a")
        assert await bob.call(again, "who") == again
        await supervision.terminate_child(bob, top, "a")
        await supervision.delete_child(bob, top, "a")
        with pytest.raises(RemoteError, match="no child 'a'"):
            await supervision.restart_child(bob, top, "a")
        await supervision.terminate_child(bob, top, "extra")
        assert await supervision.which_children(bob, top) == []
        with pytest.raises(RemoteError, match="no function is exported as 'nowhere'"):
            await supervision.start_child(bob, top, ChildSpec("x", "nowhere"))
        with pytest.raises(RemoteError, match="understands"):
            await bob.call(top, "rebalance")
        with pytest.raises(ConfigError, match="not exported"):
            await supervision.start_child(bob, top, ChildSpec("x", lives))
        with pytest.raises(NoSuchProcess):
            await supervision.which_children(bob, "nobody@alice")


async def test_a_node_that_closes_ends_the_tree_in_order_and_restarts_nobody(nodes: Any) -> None:
    alice = await nodes.open("alice")
    log: list[str] = []
    top_of(alice, *(ChildSpec(id_, lives, (log, id_)) for id_ in "abc"), strategy="one_for_all")
    await pid(alice, "c")
    with trio.fail_after(5):
        await nodes.close(alice)
    assert log == ["+a", "+b", "+c", "-c", "-b", "-a"]


async def test_plain_messages_do_no_harm(node: Node, caplog: pytest.LogCaptureFixture) -> None:
    top_of(node, ChildSpec("a", supervised))
    child = await pid(node, "a")
    await node.send("top", "hello")
    assert await pid(node, "a") == child
    assert "it takes only calls" in caplog.text


async def test_the_order_to_end_may_come_in_the_step_in_which_a_start_fails(node: Node) -> None:
    async def ends_all(me: Process, *, task_status: trio.TaskStatus[None]) -> None:
        me.node.exit("top", "shutdown: that is all")
        task_status.started()
        await trio.sleep_forever()

    node.spawn(supervised, name="taken")
    top = top_of(node, ChildSpec("a", ends_all), ChildSpec("b", supervised, name="taken"))
    assert await down(node, top) == "shutdown: that is all"


async def test_a_former_life_cannot_say_that_the_next_has_started(node: Node) -> None:
    said: list[trio.TaskStatus[None]] = []

    async def once(me: Process, *, task_status: trio.TaskStatus[None]) -> None:
        said.append(task_status)
        if len(said) == 1:
            task_status.started()
        if len(said) < 3:
            raise ValueError("as told")
        await trio.sleep_forever()

    top_of(node, ChildSpec("once", once), intensity=2)
    with trio.fail_after(5):
        while len(said) < 3:
            await trio.lowlevel.checkpoint()
        said[1].started()
        (child,) = await supervision.which_children(node, "top")
        assert child.state == "starting"
        said[2].started()
        await pid(node, "once")
