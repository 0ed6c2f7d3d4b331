"""Dapr's own SDKs, unmodified, as programs behind sidecars and as callers.

Each program is a process behind a sidecar of its own; callers are processes of both languages, at
a third sidecar, which has no program.
"""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
import trio
from sdk_stage import Caller, Stage
from sidecar_processes import knows

pytestmark = pytest.mark.slow  # several processes and two languages each


async def grows(caller: Caller, type_: str, id_: str, get: str, key: str, step: int) -> None:
    """Wait until a counter has grown twice, each time by the step."""
    with trio.fail_after(20):
        while (value := await caller.call(type_, id_, get, key) or 0) < 2 * step:  # noqa: ASYNC110
            await trio.sleep(0.05)
    assert value % step == 0


async def rests(caller: Caller, type_: str, id_: str, get: str, key: str) -> None:
    """Check that a counter does not grow any more, for longer than it took before."""
    value = await caller.call(type_, id_, get, key)
    await trio.sleep(0.8)
    assert await caller.call(type_, id_, get, key) == value


async def test_the_python_sdk(stage: Stage) -> None:
    """Hosting on two nodes, calls across them, state, timers, reminders, errors, handover."""
    alice, _ = await stage.python_host("alice")
    bob, _ = await stage.python_host("bob")
    carol = await stage.sidecar("carol", "--http-port", "0")
    await knows(carol, 3)
    caller = await stage.python_caller(carol)
    ids = [str(number) for number in range(8)]
    for id_ in ids:
        assert await caller.call("PyCounter", id_, "Add", 2) == 2
        assert await caller.call("PyCounter", id_, "Add", 3) == 5
        assert await caller.call("PyCounter", id_, "Get", "count") == 5
    active = b'steinadler_entities_active{type="PyCounter"} '
    counts = [
        float(line.removeprefix(active))
        for sidecar in (alice, bob)
        for line in await sidecar.metrics()
        if line.startswith(active)
    ]
    assert sum(counts) == len(ids)
    assert all(counts), "both nodes own some"
    assert await caller.call("PyCounter", ids[0], "AddAt", ids[1]) == 6
    assert await caller.call("PyCounter", ids[1], "Get", "count") == 6
    assert "out of ink" in await caller.fails("PyCounter", "0", "Fail")
    assert await caller.call("PyCounter", "0", "Get", "count") == 5
    assert "no method Fly" in await caller.fails("PyCounter", "0", "Fly")
    await caller.call("PyCounter", "spare", "Add", 7)
    assert await caller.call("PyCounter", "spare", "Forget", "count") is True
    assert await caller.call("PyCounter", "spare", "Get", "count") is None

    await caller.call("PyCounter", "0", "Timer", True)
    await grows(caller, "PyCounter", "0", "Get", "ticks", 2)
    await caller.call("PyCounter", "0", "Timer", False)
    await rests(caller, "PyCounter", "0", "Get", "ticks")
    for id_ in ids:
        await caller.call("PyCounter", id_, "Remind", True)
    for id_ in ids:
        await grows(caller, "PyCounter", id_, "Get", "reminded", 3)

    bob.process.send_signal(signal.SIGTERM)
    for id_ in ids:
        before = await caller.call("PyCounter", id_, "Get", "reminded")
        assert await caller.call("PyCounter", id_, "Add", 1) == 6 + (id_ == ids[1])
        with trio.fail_after(20):
            while await caller.call("PyCounter", id_, "Get", "reminded") == before:  # noqa: ASYNC110
                await trio.sleep(0.05)
    with trio.fail_after(15):
        assert await bob.process.wait() == 0
    for id_ in ids:
        await caller.call("PyCounter", id_, "Remind", False)
    await rests(caller, "PyCounter", "0", "Get", "reminded")


async def test_the_python_sdk_is_told_of_deactivation(stage: Stage) -> None:
    sidecar, _ = await stage.python_host("alice", idle_s=1)
    caller = await stage.python_caller(sidecar)
    assert await caller.call("PyCounter", "ü b", "Add", 1) == 1
    await stage.noted("ü b")
    assert await caller.call("PyCounter", "ü b", "Add", 1) == 2


async def test_the_javascript_sdk(stage: Stage, node_path: Path) -> None:
    """Hosting on two nodes, calls across them, state, timers, reminders, errors, handover."""
    alice, app = await stage.javascript_host("alice", node_path)
    bob, _ = await stage.javascript_host("bob", node_path)
    carol = await stage.sidecar("carol", "--http-port", "0")
    await knows(carol, 3)
    caller = await stage.javascript_caller(carol, node_path)
    ids = ["a/b", "ü", *(str(number) for number in range(6))]
    for id_ in ids:
        assert await caller.call("JsCounter", id_, "add", 2) == 2
        assert await caller.call("JsCounter", id_, "add", 3) == 5
        assert await caller.call("JsCounter", id_, "get", "count") == 5
    assert await caller.call("JsCounter", "0", "addAt", "other") == 1
    # An Error is {} when this SDK sends it.
    assert '"status":500' in await caller.fails("JsCounter", "0", "fail")
    assert '"status":500' in await caller.fails("JsCounter", "0", "fly")
    assert await caller.call("JsCounter", "0", "get", "count") == 5
    await caller.call("JsCounter", "spare", "add", 7)
    assert await caller.call("JsCounter", "spare", "forget", "count") is True
    assert await caller.call("JsCounter", "spare", "get", "count") is None

    await caller.call("JsCounter", "0", "timer", True)
    await grows(caller, "JsCounter", "0", "get", "ticks", 2)
    await caller.call("JsCounter", "0", "timer", False)
    await rests(caller, "JsCounter", "0", "get", "ticks")
    for id_ in ids:
        await caller.call("JsCounter", id_, "remind", True)
    for id_ in ids:
        await grows(caller, "JsCounter", id_, "get", "reminded", 3)
    bob.process.send_signal(signal.SIGTERM)
    for id_ in ids:
        assert await caller.call("JsCounter", id_, "add", 1) == 6
        await caller.call("JsCounter", id_, "remind", False)
    with trio.fail_after(15):
        assert await bob.process.wait() == 0
    await rests(caller, "JsCounter", "0", "get", "reminded")
    assert app.returncode is None
    assert await alice.healthy()


async def test_the_javascript_sdk_is_told_of_deactivation(stage: Stage, node_path: Path) -> None:
    """And of nothing that it does not know: it would die of that."""
    sidecar, app = await stage.javascript_host("alice", node_path, idle="1s")
    caller = await stage.javascript_caller(sidecar, node_path)
    assert await caller.call("JsCounter", "1", "add", 1) == 1
    await stage.noted("1")
    assert await caller.call("JsCounter", "1", "add", 1) == 2
    assert app.returncode is None


async def test_a_python_program_that_restarts(stage: Stage) -> None:
    sidecar, first = await stage.python_host("alice", idle_s=1)
    caller = await stage.python_caller(sidecar)
    await restarts(stage, caller, first, "PyCounter", "Add", "Timer")


async def test_a_javascript_program_that_restarts(stage: Stage, node_path: Path) -> None:
    """It would die of being told to forget what an earlier life of it knew."""
    sidecar, first = await stage.javascript_host("alice", node_path, idle="1s")
    caller = await stage.javascript_caller(sidecar, node_path)
    await restarts(stage, caller, first, "JsCounter", "add", "timer")


async def restarts(
    stage: Stage, caller: Caller, first: trio.Process, type_: str, add: str, timer: str
) -> None:
    """State outlives the program, what it did not touch again is not deactivated, timers end."""
    for id_ in ("touched", "untouched"):
        assert await caller.call(type_, id_, add, 1) == 1
    await caller.call(type_, "untouched", timer, True)
    first.kill()
    await first.wait()
    stage.notes.write_text("")  # a slow machine may have had either idle before
    second = await stage.start_again("alice")
    assert await caller.call(type_, "touched", add, 1) == 2, "it waited for the program"
    await stage.noted("touched")
    assert "untouched" not in stage.notes.read_text().splitlines()
    assert await caller.call(type_, "untouched", add, 1) == 2
    await stage.noted("untouched")
    assert second.returncode is None


async def test_the_languages_call_each_other(stage: Stage, node_path: Path) -> None:
    python, _ = await stage.python_host("alice")
    javascript, _ = await stage.javascript_host("bob", node_path)
    await knows(python, 2)
    await knows(javascript, 2)
    from_python = await stage.python_caller(python)
    from_javascript = await stage.javascript_caller(javascript, node_path)
    assert await from_python.call("JsCounter", "x", "add", [4]) == 4
    assert await from_javascript.call("JsCounter", "x", "add", 1) == 5
    # The JavaScript SDK sends the list of a method's arguments.
    assert await from_javascript.call("PyCounter", "x", "Get", "count") is None
    assert await from_python.call("PyCounter", "x", "Add", 1) == 1
