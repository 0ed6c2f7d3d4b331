"""Opening and closing: what comes out of the block, in which order things end, and how soon."""

from __future__ import annotations

import itertools
import re
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from programs import collector, sleeper, until

import steinadler
from steinadler import (
    Config,
    ConfigError,
    Down,
    EventsLost,
    NameConflict,
    Node,
    NodeClosed,
    NodeDown,
    Process,
    open_node,
)
from steinadler.node import events
from steinadler.node.events import MAX_UNREAD_EVENTS, NodeUp

OPTIONS: dict[str, Any] = {"mdns": False, "host": "127.0.0.1"}


class OddError(BaseException):
    """Not even an Exception."""


@pytest.mark.parametrize(
    "error",
    [
        ValueError("a"),
        OddError("b"),
        KeyboardInterrupt(),
        ExceptionGroup("mine", [ValueError("c")]),
        BaseExceptionGroup("mine", [OddError("d"), ValueError("e")]),
    ],
    ids=lambda error: type(error).__name__,
)
async def test_what_the_block_raises_comes_out_as_it_is(
    tmp_path: Path, error: BaseException
) -> None:
    with trio.fail_after(5), pytest.raises(type(error)) as info:
        async with open_node("alice", home=tmp_path, **OPTIONS):
            raise error
    assert info.value is error


async def test_the_blocks_own_cancellation_stays_a_cancellation(tmp_path: Path) -> None:
    with trio.fail_after(5), trio.CancelScope() as scope:
        async with open_node("alice", home=tmp_path, **OPTIONS):
            scope.cancel()
            await trio.sleep_forever()
    assert scope.cancelled_caught


async def test_a_keyboard_interrupt_in_a_process_comes_out_alone(tmp_path: Path) -> None:
    async def interrupted(me: Process) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        async with open_node("alice", home=tmp_path, **OPTIONS) as node:
            node.spawn(interrupted)
            with trio.fail_after(5):
                await trio.sleep_forever()


async def test_a_port_in_use_is_a_config_error(tmp_path: Path) -> None:
    with trio.fail_after(10):
        async with open_node("alice", home=tmp_path, **OPTIONS) as node:
            with pytest.raises(ConfigError, match="is in use"):
                async with open_node("bob", home=tmp_path, port=node.addresses[0].port, **OPTIONS):
                    pytest.fail("it opened")


@pytest.mark.parametrize(
    "options",
    [
        {"name": ""},
        {"name": "a b"},
        {"name": "x" * 64},
        {"labels": {f"key{n:03}": "v" for n in range(65)}},
        {"labels": {"key": "v" * 2049}},
        {"labels": {"$entities": "Cart"}},
        {"labels": {f"key{n:03}": "v" * 250 for n in range(30)}},
        {"seeds": ["nowhere"]},
        {"seeds": ["host:0"]},
    ],
    ids=str,
)
async def test_an_argument_that_makes_no_sense_is_a_config_error(
    tmp_path: Path, options: dict[str, Any]
) -> None:
    name = options.pop("name", "alice")
    with trio.fail_after(5), pytest.raises(ConfigError):
        async with open_node(name, home=tmp_path, **OPTIONS, **options):
            pytest.fail("it opened")


async def test_opening_can_be_cancelled_at_any_point(tmp_path: Path) -> None:
    async with open_node("alice", home=tmp_path, **OPTIONS) as alice:
        opened = 0
        # In steps of time as well as of turns: credentials come from a thread.
        for step in range(24):
            with trio.fail_after(5):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(cancel_after, step, nursery.cancel_scope)
                    async with open_node("bob", home=tmp_path, **OPTIONS):
                        opened += 1
                        await trio.sleep_forever()
        assert await alice.call("$echo", 1) == 1
    assert opened, "the last ones should get through"


async def cancel_after(step: int, scope: trio.CancelScope) -> None:
    for _ in range(step):
        with trio.move_on_after(0.001 * (step // 8)):
            await trio.sleep(0.002)
    scope.cancel()


async def test_what_processes_send_on_the_way_out_arrives_before_the_end(nodes: Any) -> None:
    """Also when there is much of it: nobody may hear that the node left before its last words."""
    alice, bob, _ = await nodes.open_all("alice", "bob", "carol")
    got: list[Any] = []

    async def hears(me: Process) -> None:
        me.monitor("talker@bob")
        await collector(me, got)

    ear = alice.spawn(hears)

    async def talks(me: Process) -> None:
        try:
            await trio.sleep_forever()
        finally:
            for number in range(15):
                me.send_nowait(ear, (number, bytes(60_000)))

    bob.spawn(talks, name="talker")
    with trio.fail_after(10):
        await alice.call("$echo@bob", "the monitor has begun")
        await nodes.close(bob)
        await until(lambda: got and isinstance(got[-1], Down))
    assert [m[0] for m in got[:-1]] == list(range(15))
    assert got[-1].reason == "shutdown: its node closes"


async def test_a_process_that_will_not_end_holds_up_the_end_for_the_grace_only(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def stubborn(me: Process) -> None:
        with trio.CancelScope(shield=True):
            await release.wait()

    release = trio.Event()
    config = Config(shutdown_grace_s=0.1)

    async with trio.open_nursery() as nursery:

        async def later() -> None:
            await until(lambda: "still running" in caplog.text)
            release.set()

        with trio.fail_after(5):
            async with open_node("alice", home=tmp_path, config=config, **OPTIONS) as node:
                node.spawn(stubborn)
                await trio.testing.wait_all_tasks_blocked()
                nursery.start_soon(later)
    assert "stubborn" in caplog.text


async def test_whoever_still_waits_when_the_node_closes_is_told(tmp_path: Path) -> None:
    outcomes: list[str] = []

    async def tries(what: str, node: Node, do: Any) -> None:
        try:
            await do()
        except (NodeDown, NodeClosed, steinadler.ProcessExited) as error:
            outcomes.append(f"{what}: {type(error).__name__}")

    async def watch(node: Node) -> None:
        async for _ in node.events():
            pass
        outcomes.append("events: end")

    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            async with (
                open_node("bob", home=tmp_path, **OPTIONS) as bob,
                open_node("alice", home=tmp_path, **OPTIONS) as alice,
            ):
                await alice.wait_for_member("bob")
                far, near = bob.spawn(sleeper), alice.spawn(sleeper)
                nursery.start_soon(tries, "far", alice, lambda: alice.call(far, 1))
                nursery.start_soon(tries, "near", alice, lambda: alice.call(near, 1))
                nursery.start_soon(tries, "member", alice, lambda: alice.wait_for_member("carol"))
                nursery.start_soon(watch, alice)
                await trio.testing.wait_all_tasks_blocked(0.01)
    assert sorted(outcomes) == [
        "events: end",
        "far: NodeDown",
        "member: NodeClosed",
        "near: ProcessExited",
    ]
    with pytest.raises(NodeClosed):
        alice.spawn(sleeper)
    with trio.fail_after(1):
        for destination in ("$echo@bob", "$echo"):
            with pytest.raises(NodeClosed):
                await alice.call(destination, 1)
            with pytest.raises(NodeClosed):
                await alice.send(destination, 1)
        for name in ("$echo", "$echo@bob"):
            with pytest.raises(NodeClosed):
                await alice.whereis(name)
        with pytest.raises(NodeClosed):
            await alice.wait_for_member("bob")
        async for _ in alice.events():
            pytest.fail("an event after the end")


@pytest.mark.parametrize(
    ("options", "text"),
    [({"labels": {"zone": 1}}, "labels are texts"), ({"seeds": "127.0.0.1:1"}, "a list")],
)
async def test_odd_arguments_are_named(tmp_path: Path, options: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        async with open_node("alice", home=tmp_path, **OPTIONS, **options):
            pytest.fail("it opened")


async def test_whoever_leaves_while_it_is_dialling_is_no_reason_to_warn(
    nodes: Any, caplog: pytest.LogCaptureFixture
) -> None:
    await nodes.open_all("alice", "bob", "carol")
    for _ in range(3):
        dave = await nodes.open("dave")
        with trio.fail_after(5):
            await dave.wait_for_members(4)
        await nodes.close(dave)
    warnings = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
    # A busy machine may say that its loop was blocked.
    assert [text for text in warnings if "loop was blocked" not in text] == []


async def test_two_nodes_of_one_name_the_second_fails_and_the_first_lives(nodes: Any) -> None:
    first, alice = await nodes.open_all("bob", "alice")
    with trio.fail_after(10), pytest.raises(NameConflict, match="bob"):
        async with open_node("bob", home=nodes.home, **OPTIONS):
            await trio.sleep_forever()
    assert alice.members()[1].node == first.id
    with trio.fail_after(5):
        assert await alice.call("$echo@bob", 1) == 1


async def test_a_block_that_fails_together_with_the_node_is_heard(nodes: Any) -> None:
    await nodes.open("bob")
    with trio.fail_after(10), pytest.raises(BaseException) as info:  # noqa: PT011
        async with open_node("bob", home=nodes.home, **OPTIONS):
            try:
                await trio.sleep_forever()
            finally:
                raise ValueError("of the block")
    leaves: list[BaseException] = []

    def collect(error: BaseException) -> None:
        if isinstance(error, BaseExceptionGroup):
            for inner in error.exceptions:
                collect(inner)
        else:
            leaves.append(error)

    collect(info.value)
    assert {type(leaf) for leaf in leaves} == {ValueError, NameConflict}


async def test_a_node_that_comes_back_at_once_is_a_new_life_d3(nodes: Any) -> None:
    alice, bob = await nodes.open_all("alice", "bob")
    port = bob.addresses[0].port
    stream = alice.events()
    lives = [bob.id]
    with trio.fail_after(20):
        for _ in range(3):
            await nodes.close(bob)
            bob = await nodes.open("bob", port=port)
            lives.append(bob.id)
            await bob.wait_for_member("alice")
            assert await bob.call("$echo@alice", 1) == 1
        seen: list[tuple[str, Any]] = []
        while len(seen) < 6:
            event = await anext(stream)
            assert isinstance(event, (events.NodeUp, events.NodeDown))
            seen.append((type(event).__name__, event.member.node))
    expected = []
    for old, new in itertools.pairwise(lives):
        expected += [("NodeDown", old), ("NodeUp", new)]
    assert seen == expected


async def test_another_cluster_never_joins_s3_x2(
    nodes: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    alice = await nodes.open("alice")
    seeds = [alice.addresses[0]]
    with trio.fail_after(10):
        async with open_node("eve", home=tmp_path / "other", seeds=seeds, **OPTIONS) as eve:
            await until(lambda: "is not signed by its cluster's CA" in caplog.text)
            assert [m.node.name for m in eve.members()] == ["eve"]
    assert [m.node.name for m in alice.members()] == ["alice"]


async def test_observers_see_and_call_but_do_not_count(nodes: Any) -> None:
    alice, bob = await nodes.open_all("alice", "bob")
    for number in range(3):
        with trio.fail_after(5):
            async with open_node(f"eye{number}", home=nodes.home, observer=True, **OPTIONS) as eye:
                await eye.wait_for_members(2)
                assert [m.node.name for m in eye.members()] == ["alice", "bob"]
                assert await eye.call("$echo@bob", number) == number
                assert len(alice.members()) == 2
    for node in (alice, bob):  # nothing is kept of those who came and went
        kept = node._peering.connections._peers
        await until(lambda kept=kept: len(kept) == 1)


async def test_an_observer_needs_a_name_of_its_own(nodes: Any) -> None:
    await nodes.open("alice")
    with trio.fail_after(15), pytest.raises(NameConflict, match="of its own"):
        async with open_node("alice", home=nodes.home, observer=True, **OPTIONS):
            await trio.sleep_forever()


async def test_events_tell_who_comes_and_goes(nodes: Any) -> None:
    alice = await nodes.open("alice")
    stream = alice.events()
    bob = await nodes.open("bob", labels={"role": "gpu"})
    with trio.fail_after(10):
        up = await anext(stream)
        assert isinstance(up, events.NodeUp)
        assert (up.member.node, up.member.label("role")) == (bob.id, "gpu")
        await nodes.close(bob)
        down = await anext(stream)
        assert isinstance(down, events.NodeDown)
        assert (down.member.node, down.reason) == (bob.id, "left")


async def test_a_listener_that_does_not_keep_up_is_told_how_much_it_lost(nodes: Any) -> None:
    alice = await nodes.open("alice")
    stream = alice.events()
    (me,) = alice.members()
    for _ in range(MAX_UNREAD_EVENTS + 3):
        alice._hub.publish(NodeUp(me))
    with trio.fail_after(5):
        assert await anext(stream) == EventsLost(3)
        for _ in range(MAX_UNREAD_EVENTS):
            assert await anext(stream) == NodeUp(me)


async def test_many_nodes_share_one_interpreter(nodes: Any) -> None:
    """No globals: each node has its own members, processes and names."""
    opened = await nodes.open_all(*(f"node{n}" for n in range(8)))
    with trio.fail_after(20):
        for node in opened:
            node.spawn(sleeper, name="same")
            results = await node.run_on(steinadler.ALL, "programs_who")
            assert {result.unwrap().node.name for result in results.values()} == {
                each.name for each in opened
            }


README_EXPORT = "readme_counter"


@steinadler.export(name=README_EXPORT)
async def counter(me: steinadler.Process, start: int = 0) -> None:
    total = start
    async for message in me:  # the mailbox
        match message:
            case steinadler.Call(("add", n)):
                total += n
                message.reply(total)
            case "stop":
                return  # exit reason "normal"


async def test_the_public_surface_as_the_readme_shows_it(nodes: Any) -> None:
    node, bob = await nodes.open_all("alice", "bob")
    stream = node.events()
    with trio.fail_after(10):
        bob.spawn(counter, name="counter")
        node.spawn(counter, name="counter")
        await node.wait_for_member("bob")
        assert await node.call("counter@bob", ("add", 2)) == 2
        await node.send("counter@bob", "stop")
        async with node.monitor("counter@bob") as down:
            gone = await down.wait()
            assert isinstance(gone, Down)
            assert gone.reason in ("normal", "noproc")
        worker = await node.spawn_on("bob", counter, 10)
        assert await node.call(worker, ("add", 1)) == 11
        await nodes.close(bob)
        async for event in stream:
            assert isinstance(event, events.NodeDown)
            break
    assert re.fullmatch(r"<Node alice>", repr(node))
