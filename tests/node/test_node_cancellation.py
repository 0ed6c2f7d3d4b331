"""Cancelled after the n-th turn, for every n: nothing is half done, and nothing is kept.

A turn is one pass of the scheduler, so every checkpoint of what is cancelled is hit by some n.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio
import trio.testing
from programs import collector

from steinadler import Call, Config, MailboxFull, Node, Process, WireSettings

KIB = 1024
TURNS = range(16)


@pytest.fixture(params=["local", "remote"])
async def pair(request: pytest.FixtureRequest, nodes: Any) -> tuple[Node, Node]:
    config = Config(
        wire=WireSettings(window_bytes=16 * KIB, acknowledge_delay_s=0.001),
        mailbox_bytes=16 * KIB,
    )
    bob = await nodes.open("bob", config=config)
    if request.param == "local":
        return bob, bob
    alice = await nodes.open("alice", config=config)
    with trio.fail_after(10):
        await alice.wait_for_member("bob")
        await bob.wait_for_member("alice")
    return alice, bob


async def cancelled_after(turns: int, what: Callable[[], Awaitable[object]]) -> bool:
    """Run `what()`, cancel it after so many turns, and say whether it was cut short."""
    finished = False

    async def run() -> None:
        nonlocal finished
        await what()
        finished = True
        nursery.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run)
        for _ in range(turns):
            await trio.lowlevel.checkpoint()
        nursery.cancel_scope.cancel()
    return not finished


async def settled(here: Node, there: Node) -> None:
    """Both nodes owe each other nothing more of what happened so far."""
    for _ in range(2):
        await here.call("$echo@bob", 0)
        await trio.testing.wait_all_tasks_blocked(0.005)
    for node in (here, there):
        assert len(node._router.calls.pending) == 0
        assert len(node._router.calls.owed) == 0


async def test_a_cancelled_send_has_sent_nothing_and_costs_no_credit(
    pair: tuple[Node, Node],
) -> None:
    here, there = pair
    for turns in TURNS:
        go = trio.Event()
        got: list[Any] = []

        async def slow(me: Process, go: trio.Event = go, got: list[Any] = got) -> None:
            await go.wait()
            await collector(me, got)

        process = there.spawn(slow)
        filled = 0
        with pytest.raises(MailboxFull):
            while True:
                here.send_nowait(process, (filled, bytes(KIB)))
                filled += 1

        async def many(process: Any = process) -> None:
            for number in range(30):
                await here.send(process, ("late", number, bytes(KIB)))

        with trio.fail_after(10):
            if turns % 2:
                go.set()  # credit comes back in the middle of it
            await cancelled_after(turns, many)
            go.set()
            for number in range(60):  # all the credit there is must be back
                await here.send(process, ("after", number, bytes(KIB)))
            while not got or got[-1][:2] != ("after", 59):
                await trio.testing.wait_all_tasks_blocked(0.001)
        late = [m[1] for m in got if m[0] == "late"]
        assert late == list(range(len(late))), "in order, none lost between two that arrived"
        assert [m[0] for m in got if isinstance(m[0], int)] == list(range(filled))
        assert [m[1] for m in got if m[0] == "after"] == list(range(60))
        there.exit(process, "kill")


async def test_a_cancelled_call_leaves_nothing_on_either_side_c2(
    pair: tuple[Node, Node],
) -> None:
    here, there = pair

    async def holds_every_other(me: Process) -> None:
        held: list[Call] = []
        async for call in me:
            assert isinstance(call, Call)
            if call.request == "hold":
                held.append(call)
            else:
                call.reply(call.request)

    process = there.spawn(holds_every_other)
    with trio.fail_after(20):
        for turns in TURNS:
            assert await cancelled_after(turns, lambda: here.call(process, "hold"))
            await cancelled_after(turns, lambda n=turns: here.call(process, n))  # type: ignore[misc]
            assert await here.call(process, "next") == "next"
            await settled(here, there)


async def test_a_cancelled_call_that_waited_for_credit_leaves_nothing_c2(
    pair: tuple[Node, Node],
) -> None:
    here, there = pair
    for turns in TURNS:
        go = trio.Event()

        async def slow(me: Process, go: trio.Event = go) -> None:
            await go.wait()
            async for message in me:
                if isinstance(message, Call):
                    message.reply(message.request)

        process = there.spawn(slow)
        with pytest.raises(MailboxFull):
            while True:
                here.send_nowait(process, bytes(KIB))
        with trio.fail_after(10):
            assert await cancelled_after(
                turns,
                lambda process=process: here.call(process, 1),  # type: ignore[misc]
            )
            go.set()
            assert await here.call(process, "next") == "next"
            await settled(here, there)
        there.exit(process, "kill")


async def test_a_cancelled_receive_takes_nothing(pair: tuple[Node, Node]) -> None:
    here, there = pair
    got: list[int] = []

    async def impatient(me: Process) -> None:
        turns = 0
        while len(got) < 200:
            turns = (turns + 1) % len(TURNS)

            async def take() -> None:
                # Not a checkpoint between the two: what was taken was received.
                got.append(await me.receive())

            await cancelled_after(turns, take)

    with trio.fail_after(10):
        async with here.monitor(there.spawn(impatient, name="impatient")) as down:
            for number in range(200):
                await here.send("impatient@bob", number)
                if number % 7 == 0:
                    await trio.lowlevel.checkpoint()
            await down.wait()
    assert got == list(range(200))


async def test_a_receive_cancelled_while_it_waits_leaves_the_next_message_alone(
    pair: tuple[Node, Node],
) -> None:
    here, there = pair
    got: list[Any] = []

    async def impatient(me: Process) -> None:
        for turns in range(4, 8):
            assert await cancelled_after(turns, me.receive), "nothing to receive yet"
        await here.send("impatient@bob", "now")
        got.append(await me.receive())

    with trio.fail_after(10):
        async with here.monitor(there.spawn(impatient, name="impatient")) as down:
            assert (await down.wait()).reason == "normal"
    assert got == ["now"]


async def test_a_monitor_waited_for_in_vain_still_fires_once_d1(pair: tuple[Node, Node]) -> None:
    here, there = pair
    with trio.fail_after(10):
        for turns in TURNS:

            async def sleeps(me: Process) -> None:
                await trio.sleep_forever()

            process = there.spawn(sleeps)
            async with here.monitor(process) as down:
                assert await cancelled_after(turns, down.wait)
                there.exit(process, "kill")
                assert (await down.wait()).reason in ("killed", "noproc")
        await settled(here, there)
    for node in (here, there):
        assert len(node._watching._held) == len(node._watching._of_us) == 0
