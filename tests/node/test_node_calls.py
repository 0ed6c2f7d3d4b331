"""Calls: one outcome each (C1), late replies go nowhere (C2), nothing is retried (C3)."""

from __future__ import annotations

from typing import Any

import pytest
import trio
import trio.testing
from programs import sleeper, until

from steinadler import (
    Call,
    LocalProtocolError,
    MessageTooLarge,
    Node,
    NodeDown,
    NoSuchProcess,
    NotEncodable,
    Process,
    ProcessExited,
    RemoteError,
)


class Desk:
    """A process that does with each call what the call says, and remembers them."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.abandoned = 0

    async def run(self, me: Process) -> None:
        async for call in me:
            assert isinstance(call, Call)
            self.calls.append(call)
            match call.request:
                case "reply":
                    call.reply("answer")
                case "fail":
                    call.fail(KeyError("nothing"))
                case "fail with text":
                    call.fail("no")
                case "fail oddly":
                    call.fail(OSError("\udcff"))
                case "exit":
                    return
                case "crash":
                    raise ValueError("oh")
                case "hold":
                    call.on_abandoned(self._note)

    def _note(self) -> None:
        self.abandoned += 1


@pytest.fixture(params=["local", "remote"])
async def pair(request: pytest.FixtureRequest, nodes: Any) -> tuple[Node, Node]:
    if request.param == "local":
        node = await nodes.open("bob")
        return node, node
    alice, bob = await nodes.open_all("alice", "bob")
    return alice, bob


@pytest.mark.parametrize("by", ["name", "id"])
@pytest.mark.parametrize(
    ("request_", "error", "text"),
    [
        ("fail", RemoteError, "KeyError: 'nothing'"),
        ("fail with text", RemoteError, "RuntimeError: no"),
        ("fail oddly", RemoteError, "OSError"),
        ("exit", ProcessExited, "exited before it answered: normal"),
        ("crash", ProcessExited, "ValueError: oh"),
    ],
)
async def test_each_outcome_c1(
    pair: tuple[Node, Node], by: str, request_: str, error: type[Exception], text: str
) -> None:
    here, there = pair
    process = there.spawn(Desk().run, name="desk")
    destination = process if by == "id" else "desk@bob"
    with trio.fail_after(5):
        assert await here.call(destination, "reply") == "answer"
        with pytest.raises(error, match=text):
            await here.call(destination, request_)


async def test_no_such_process_c1(pair: tuple[Node, Node]) -> None:
    here, there = pair
    gone = there.spawn(sleeper)
    there.exit(gone, "kill")
    await trio.testing.wait_all_tasks_blocked()
    with trio.fail_after(5):
        for destination in ("nobody@bob", gone):
            with pytest.raises(NoSuchProcess):
                await here.call(destination, 1)


async def test_calls_that_wait_for_a_process_that_is_killed_all_end_c1(
    pair: tuple[Node, Node],
) -> None:
    here, there = pair
    process = there.spawn(Desk().run)
    outcomes: list[str] = []

    async def ask(request: object) -> None:
        with pytest.raises(ProcessExited) as info:
            await here.call(process, request)
        outcomes.append(info.value.reason)

    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(ask, "hold")
            await trio.testing.wait_all_tasks_blocked(0.02)
            there.exit(process, "kill")
    assert outcomes == ["killed"] * 20


async def test_a_call_to_a_node_that_goes_down_ends_with_node_down_c1(nodes: Any) -> None:
    alice, bob = await nodes.open_all("alice", "bob")
    process = bob.spawn(sleeper)
    reasons: list[str] = []

    async def ask() -> None:
        # What ends first there is the process; both are true of a node that leaves.
        with pytest.raises((NodeDown, ProcessExited)) as info:
            await alice.call(process, 1)
        reasons.append(str(info.value))

    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            await trio.testing.wait_all_tasks_blocked(0.01)
            await nodes.close(bob)
    assert len(reasons) == 1


async def test_a_late_reply_goes_nowhere_c2(pair: tuple[Node, Node]) -> None:
    here, there = pair
    desk = Desk()
    process = there.spawn(desk.run)
    with trio.move_on_after(0.05) as scope:
        await here.call(process, "hold")
    assert scope.cancelled_caught
    await until(lambda: desk.abandoned == 1)
    desk.calls[0].reply("late")
    with trio.fail_after(5):
        assert await here.call(process, "reply") == "answer"


async def test_a_call_given_up_before_it_is_received_is_never_seen_c2(
    pair: tuple[Node, Node],
) -> None:
    here, there = pair
    go = trio.Event()
    desk = Desk()

    async def slow(me: Process) -> None:
        await go.wait()
        await desk.run(me)

    process = there.spawn(slow)
    with trio.move_on_after(0.05):
        await here.call(process, "hold")
    await trio.testing.wait_all_tasks_blocked(0.02)
    go.set()
    with trio.fail_after(5):
        assert await here.call(process, "reply") == "answer"
    assert [call.request for call in desk.calls] == ["reply"]


async def test_one_call_is_one_request_c3(pair: tuple[Node, Node]) -> None:
    here, there = pair
    desk = Desk()
    process = there.spawn(desk.run)
    with trio.fail_after(5), pytest.raises(RemoteError):
        await here.call(process, "fail")
    assert len(desk.calls) == 1


async def test_an_answer_is_given_once(pair: tuple[Node, Node]) -> None:
    here, there = pair
    desk = Desk()
    process = there.spawn(desk.run)
    await here.call(process, "reply")
    with pytest.raises(LocalProtocolError, match="answered already"):
        desk.calls[0].reply("again")


async def test_an_answer_that_cannot_travel_leaves_the_call_open_m5(
    pair: tuple[Node, Node],
) -> None:
    here, there = pair

    async def process(me: Process) -> None:
        async for call in me:
            with pytest.raises(NotEncodable):
                call.reply(object())
            with pytest.raises(MessageTooLarge):
                call.reply(b"x" * (65 * 1024 * 1024))
            call.reply("then this")

    with trio.fail_after(10):
        assert await here.call(there.spawn(process), 1) == "then this"


async def test_replies_come_from_other_tasks_and_out_of_order(pair: tuple[Node, Node]) -> None:
    here, there = pair

    async def process(me: Process) -> None:
        held = [await me.receive() for _ in range(3)]
        for call in reversed(held):
            call.reply(call.request * 10)

    target = there.spawn(process)
    answers: dict[int, int] = {}

    async def ask(number: int) -> None:
        answers[number] = await here.call(target, number)

    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            for number in (1, 2, 3):
                nursery.start_soon(ask, number)
    assert answers == {1: 10, 2: 20, 3: 30}


async def test_a_large_request_and_a_large_reply(pair: tuple[Node, Node]) -> None:
    here, _ = pair
    blob = bytes(range(256)) * 20_000
    with trio.fail_after(10):
        assert await here.call("$echo@bob", blob) == blob
