"""Messages: order, own copies, refusal before anything is queued, and bounded mailboxes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import trio
import trio.testing
from programs import collector, sleeper, until

import steinadler
from steinadler import (
    Config,
    ConfigError,
    MailboxFull,
    MessageTooLarge,
    Node,
    NodeDown,
    NotEncodable,
    ProcessId,
    WireSettings,
)

KIB = 1024


@steinadler.message
@dataclass(frozen=True)
class Order:
    number: int
    of: ProcessId


@pytest.fixture(params=["local", "remote"])
async def pair(request: pytest.FixtureRequest, nodes: Any) -> tuple[Node, Node]:
    """A node that sends and the node of the receiver: the same one, or two."""
    config = Config(
        wire=WireSettings(
            max_message_bytes=256 * KIB, window_bytes=64 * KIB, reassembly_bytes=1024 * KIB
        ),
        mailbox_bytes=64 * KIB,
    )
    if request.param == "local":
        node = await nodes.open("bob", config=config)
        return node, node
    alice = await nodes.open("alice", config=config)
    bob = await nodes.open("bob", config=config)
    with trio.fail_after(10):
        await alice.wait_for_member("bob")
        await bob.wait_for_member("alice")
    return alice, bob


async def test_messages_arrive_in_the_order_sent_m1(pair: tuple[Node, Node]) -> None:
    here, there = pair
    got: list[Any] = []
    there.spawn(collector, got, name="log")
    sent = [(n, "x" * (40 * KIB if n % 10 == 0 else 5)) for n in range(300)]
    with trio.fail_after(10):
        for message in sent:
            await here.send("log@bob", message)
    await until(lambda: len(got) >= len(sent))
    assert got == sent


async def test_the_receiver_gets_its_own_copy_m5(pair: tuple[Node, Node]) -> None:
    here, there = pair
    got: list[Any] = []
    process = there.spawn(collector, got)
    original = {"list": [1, 2], "order": Order(1, process)}
    await here.send(process, original)
    original["list"].append(3)  # type: ignore[union-attr]
    await until(lambda: got)
    assert got == [{"list": [1, 2], "order": Order(1, process)}]


@pytest.mark.parametrize(
    ("message", "error"),
    [(object(), NotEncodable), (lambda: 1, NotEncodable), (b"x" * (257 * KIB), MessageTooLarge)],
    ids=["object", "function", "too large"],
)
async def test_what_cannot_travel_raises_and_leaves_nothing_queued_m5(
    pair: tuple[Node, Node], message: object, error: type[Exception]
) -> None:
    here, there = pair
    got: list[Any] = []
    there.spawn(collector, got, name="log")
    with trio.fail_after(10):
        with pytest.raises(error):
            await here.send("log@bob", message)
        with pytest.raises(error):
            here.send_nowait("log@bob", message)
        with pytest.raises(error):
            await here.call("log@bob", message)
        await here.send("log@bob", "after")
    await until(lambda: got)
    assert got == ["after"]


async def test_a_full_mailbox_makes_send_wait_and_send_nowait_raise(
    pair: tuple[Node, Node],
) -> None:
    here, there = pair
    go = trio.Event()
    got: list[Any] = []

    async def slow(me: steinadler.Process) -> None:
        await go.wait()
        await collector(me, got)

    process = there.spawn(slow)
    with trio.fail_after(10):
        sent = 0
        with pytest.raises(MailboxFull, match="has not consumed"):
            while True:
                here.send_nowait(process, (sent, b"x" * KIB))
                sent += 1
        assert 50 <= sent <= 64, "about a window of 64 KiB"
        with trio.move_on_after(0.1) as scope:
            await here.send(process, "waits")
        assert scope.cancelled_caught
        go.set()
        await here.send(process, "last")
    await until(lambda: got and got[-1] == "last")
    assert [m[0] for m in got[:-1]] == list(range(sent)), "nothing lost, and no cancelled message"


async def test_a_slow_process_delays_nobody_else_m6(pair: tuple[Node, Node]) -> None:
    here, there = pair
    stuck = there.spawn(sleeper)
    with pytest.raises(MailboxFull):
        while True:
            here.send_nowait(stuck, b"x" * KIB)
    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(here.send, stuck, b"x" * 100 * KIB)
        await trio.testing.wait_all_tasks_blocked(0.01)
        with trio.fail_after(5):
            for number in range(50):
                assert await here.call("$echo@bob", number) == number
        nursery.cancel_scope.cancel()


async def test_when_a_process_ends_whoever_waits_to_send_goes_on(pair: tuple[Node, Node]) -> None:
    here, there = pair
    stuck = there.spawn(sleeper)
    with pytest.raises(MailboxFull):
        while True:
            here.send_nowait(stuck, b"x" * KIB)
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(here.send, stuck, b"x" * KIB)
            await trio.testing.wait_all_tasks_blocked(0.01)
            there.exit(stuck, "kill")


async def test_a_message_to_no_process_is_dropped_and_counted(pair: tuple[Node, Node]) -> None:
    here, there = pair
    before = there.statistics().messages_dropped
    await here.send("nobody@bob", "hello?")
    await until(lambda: there.statistics().messages_dropped == before + 1)


async def test_nobody_waits_for_a_name_for_ever_that_moves_to_another_process(nodes: Any) -> None:
    """Woken for credit of the former holder, a sender leaves it to whoever else waits there."""
    node = await nodes.open("bob", config=Config(mailbox_bytes=8 * KIB))
    go = trio.Event()
    got: list[Any] = []

    async def slow(me: steinadler.Process) -> None:
        await go.wait()
        await collector(me, got)

    first, second = node.spawn(slow, name="name"), node.spawn(slow)
    with pytest.raises(MailboxFull):
        while True:
            node.send_nowait(first, b"x" * 9 * KIB)
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(node.send, "name", "by name")
            await trio.testing.wait_all_tasks_blocked(0.01)
            nursery.start_soon(node.send, first, "by id")
            await trio.testing.wait_all_tasks_blocked(0.01)
            node.unregister("name")
            node.register("name", second)
            go.set()
        await until(lambda: len(got) == 3)


@pytest.mark.parametrize("destination", ["", "@bob", "a@b@c", "x@-"])
async def test_what_is_no_destination_raises_config_error(nodes: Any, destination: str) -> None:
    node = await nodes.open("alice")
    with pytest.raises(ConfigError):
        await node.send(destination, 1)
    with pytest.raises(ConfigError):
        node.monitor(destination)


async def test_an_object_is_no_destination(nodes: Any) -> None:
    node = await nodes.open("alice")
    with pytest.raises(ConfigError, match="not a destination"):
        await node.send(5, 1)


async def test_an_unknown_node_is_down_and_says_who_is_there(nodes: Any) -> None:
    node = await nodes.open("alice")
    with pytest.raises(NodeDown, match="the members are: alice"):
        await node.send("x@nowhere", 1)
    with pytest.raises(NodeDown, match="the members are: alice"):
        await node.call("x@nowhere", 1)


async def test_a_message_to_a_former_life_goes_to_nobody_d3(nodes: Any) -> None:
    alice = await nodes.open("alice")
    bob = await nodes.open("bob")
    with trio.fail_after(15):
        await alice.wait_for_member("bob")
        old = bob.spawn(sleeper)
        await nodes.close(bob)
        async with alice.monitor(old) as down:
            assert (await down.wait()).reason == "noconnection"
        again = await nodes.open("bob")
        await until(lambda: again.id in [member.node for member in alice.members()])
        again.spawn(sleeper)
        with pytest.raises(NodeDown, match="over"):
            await alice.send(old, "late")
        async with alice.monitor(old) as down:
            assert (await down.wait()).reason == "noconnection"


async def test_statistics_count_and_do_not_fall_when_a_peer_goes(nodes: Any) -> None:
    alice, bob = await nodes.open_all("alice", "bob")
    with trio.fail_after(10):
        for number in range(10):
            await alice.call("$echo@bob", number)
        before = alice.statistics()
        assert before.members == 2
        assert before.connections == 1
        assert before.messages_sent >= 10
        await nodes.close(bob)
        await until(lambda: alice.statistics().members == 1)
    after = alice.statistics()
    assert after.connections == 0
    assert after.messages_sent >= before.messages_sent
    assert after.bytes_received >= before.bytes_received
