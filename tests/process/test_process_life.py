"""How a process ends, and that whatever it does, only it ends."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from steinadler import ConfigError, Node, ProcessExited, open_node
from steinadler.process import Call, Process
from steinadler.process.process import describe


class Unprintable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text for you")


async def spawned(node: Node, function: Any) -> str:
    """Run a process to its end, and return the exit reason."""
    with trio.fail_after(5):
        async with node.monitor(node.spawn(function)) as down:
            return (await down.wait()).reason


@pytest.fixture
async def node(nodes: Any) -> Node:
    opened: Node = await nodes.open("alice")
    return opened


async def test_returning_is_normal(node: Node) -> None:
    async def returns(me: Process) -> None:
        await trio.lowlevel.checkpoint()

    assert await spawned(node, returns) == "normal"


async def test_an_exception_is_the_exit_reason_and_one_log_entry(
    node: Node, caplog: pytest.LogCaptureFixture
) -> None:
    async def raises(me: Process) -> None:
        raise ValueError("no such thing")

    with caplog.at_level(logging.ERROR, "steinadler"):
        assert await spawned(node, raises) == "ValueError: no such thing"
    assert len([r for r in caplog.records if r.levelno == logging.ERROR]) == 1


async def test_what_cannot_run_as_a_process_is_not_started(node: Node) -> None:
    def returns_none(me: Process) -> None:
        return

    async def takes_one(me: Process, one: int) -> None:
        return

    before = node.statistics().processes
    with pytest.raises(ConfigError, match="async def"):
        node.spawn(returns_none)
    with pytest.raises(ConfigError, match="missing a required argument: 'one'"):
        node.spawn(takes_one, name="one")
    with pytest.raises(ConfigError, match="too many"):
        node.spawn(takes_one, 1, 2)
    assert node.statistics().processes == before
    assert await node.whereis("one") is None


async def test_a_group_of_one_stands_for_the_one(node: Node) -> None:
    async def inner(me: Process) -> None:
        async with trio.open_nursery():
            raise KeyError("x")

    assert await spawned(node, inner) == "KeyError: 'x'"


async def test_a_text_that_is_not_utf_8_is_an_exit_reason_all_the_same(
    node: Node, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL, "steinadler")  # it cannot be told in UTF-8 that it crashed

    async def raises(me: Process) -> None:
        async for message in me:
            assert isinstance(message, Call)
            raise OSError("\udcff.txt")

    process = node.spawn(raises)
    with trio.fail_after(5), pytest.raises(ProcessExited, match=r"OSError: .*udcff\.txt"):
        await node.call(process, "crash")
    assert await node.call("$echo", 1) == 1


async def test_an_exception_without_a_text_is_an_exit_reason_all_the_same(node: Node) -> None:
    async def raises(me: Process) -> None:
        raise Unprintable

    assert (await spawned(node, raises)).startswith("Unprintable")


async def test_a_crash_on_the_way_out_ends_the_process_alone(node: Node) -> None:
    """An inner nursery raises a group of Cancelled and the crash: no plain exception."""

    async def crashes_when_cancelled() -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise ValueError("could not clean up")

    async def parent(me: Process) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(crashes_when_cancelled)
            nursery.start_soon(trio.sleep_forever)
            await trio.sleep_forever()

    process = node.spawn(parent)
    async with node.monitor(process) as down:
        await trio.testing.wait_all_tasks_blocked()
        node.exit(process, "kill")
        with trio.fail_after(5):
            assert (await down.wait()).reason == "ValueError: could not clean up"
    assert await node.call("$echo", "alive") == "alive"


async def test_a_crash_while_the_node_closes_ends_the_process_alone(tmp_path: Path) -> None:
    async def crashes_when_cancelled() -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise ValueError("could not clean up")

    async def parent(me: Process) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(crashes_when_cancelled)
            await trio.sleep_forever()

    with trio.fail_after(10):
        async with open_node("alice", mdns=False, host="127.0.0.1", home=tmp_path) as node:
            node.spawn(parent)
            await trio.testing.wait_all_tasks_blocked()


async def test_told_to_exit_it_exits_with_the_first_reason(node: Node) -> None:
    async def sleeps(me: Process) -> None:
        await trio.sleep_forever()

    process = node.spawn(sleeps)
    async with node.monitor(process) as down:
        node.exit(process, "enough")
        node.exit(process, "more than enough")
        with trio.fail_after(5):
            assert (await down.wait()).reason == "enough"


async def test_exit_signals_by_the_rules_of_otp(node: Node) -> None:
    got: list[object] = []

    async def traps(me: Process) -> None:
        me.trap_exits = True
        while True:
            got.append(await me.receive())

    async def plain(me: Process) -> None:
        await trio.sleep_forever()

    trapping, simple = node.spawn(traps), node.spawn(plain)
    await trio.testing.wait_all_tasks_blocked()
    node.exit(simple, "normal")  # ignored
    node.exit(trapping, "enough")
    await trio.testing.wait_all_tasks_blocked()
    assert [(m.process.number, m.reason) for m in got] == [(0, "enough")]  # type: ignore[attr-defined]
    async with node.monitor(trapping) as down, node.monitor(simple) as other:
        node.exit(trapping, "kill")
        with trio.fail_after(5):
            assert (await down.wait()).reason == "killed"
        assert other.down is None


async def test_exit_signals_do_not_touch_what_every_node_relies_on(node: Node) -> None:
    relied_on = [process.id for process in node._processes.all() if process.of_runtime]
    assert len(relied_on) > 5
    for process in relied_on:
        node.exit(process, "kill")
        node.exit(process, "enough")
    await trio.testing.wait_all_tasks_blocked()
    assert await node.call("$echo", 1) == 1
    assert (await node.call("$info", None))["processes"] == len(relied_on)


async def test_an_on_abandoned_callback_that_raises_harms_nobody(
    node: Node, caplog: pytest.LogCaptureFixture
) -> None:
    def fault() -> None:
        raise RuntimeError("in a callback")

    async def holds(me: Process) -> None:
        async for message in me:
            message.on_abandoned(fault)

    process = node.spawn(holds)
    with trio.move_on_after(0.05) as scope:
        await node.call(process, "never answered")
    assert scope.cancelled_caught
    assert await node.call("$echo", 1) == 1
    assert "on_abandoned" in caplog.text


def test_describe_takes_groups_of_one_apart() -> None:
    group = ExceptionGroup("", [ExceptionGroup("", [ValueError("a")])])
    assert describe(group) == "ValueError: a"
    assert describe(KeyError()) == "KeyError"
    pair = ExceptionGroup("both", [ValueError(), KeyError()])
    assert describe(pair).startswith("ExceptionGroup: both")


async def test_what_waits_can_be_taken_without_waiting(node: Node) -> None:
    taken: list[Any] = []

    async def hoards(me: Process) -> None:
        taken.append(await me.receive())
        with pytest.raises(trio.WouldBlock):
            while True:
                taken.append(me.receive_nowait())

    process = node.spawn(hoards)
    async with node.monitor(process) as down:
        for number in range(3):
            node.send_nowait(process, number)
        with trio.fail_after(5):
            assert (await down.wait()).reason == "normal"
    assert taken == [0, 1, 2]
