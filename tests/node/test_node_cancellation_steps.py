"""A `send` or `call` that is cancelled at its n-th checkpoint, for every n until there is none:
all credit is back, nobody waits for anything, and what was said arrived once or not at all.

What happens between two nodes and within one is the same.
"""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import trio
import trio.testing
from cutting import MOST_STEPS, cut
from programs import until

from steinadler import Call, Config, MailboxFull, Node, Process, ProcessId, WireSettings

KIB = 1024
WINDOW = 8 * KIB


@pytest.fixture(params=["local", "remote"])
async def pair(request: pytest.FixtureRequest, nodes: Any) -> tuple[Node, Node]:
    config = Config(
        wire=WireSettings(window_bytes=WINDOW, acknowledge_delay_s=0.001), mailbox_bytes=WINDOW
    )
    bob = await nodes.open("bob", config=config)
    if request.param == "local":
        return bob, bob
    alice = await nodes.open("alice", config=config)
    with trio.fail_after(10):
        await alice.wait_for_member("bob")
        await bob.wait_for_member("alice")
    return alice, bob


class Receiver:
    """A process that takes and answers nothing until its gate opens."""

    def __init__(self, node: Node) -> None:
        self.gate = trio.Event()
        self.got: list[Any] = []
        self.id: ProcessId = node.spawn(self._run)

    async def _run(self, me: Process) -> None:
        await self.gate.wait()
        async for message in me:
            match message:
                case Call(("never", *_)):
                    self.got.append(message.request)
                case Call(request):
                    self.got.append(request)
                    message.reply(request)
                case (_, _, bytes()):
                    self.got.append(message[:2])
                    await trio.lowlevel.checkpoint()  # credit comes back little by little

    def fill(self, here: Node) -> int:
        """Use up all credit; how many messages that takes."""
        for count in itertools.count():
            try:
                here.send_nowait(self.id, ("filled", count, bytes(KIB)))
            except MailboxFull:
                return count
        raise AssertionError


async def check_at_rest(here: Node, there: Node, receiver: Receiver) -> None:
    """Nothing is awaited, owed or withheld; all the credit there ever was is at the sender's."""
    await here.send(receiver.id, ("last", 0, b""))
    await until(lambda: receiver.got and receiver.got[-1] == ("last", 0))
    await here.call("$echo@bob", 0)  # signals that take calls back went before it
    for node in (here, there):
        await until(lambda node=node: not len(node._router.calls.pending))
        await until(lambda node=node: not len(node._router.calls.owed))
    process = there._processes.by_number(receiver.id.number)
    assert process is not None
    assert process.mailbox.local.waiting == 0
    assert process.mailbox.local.credit == WINDOW
    for link in here._peering.connections.links():
        assert not link._credit_waiters
        await until(lambda link=link: all_credit_is_back(link, there))


def all_credit_is_back(link: Any, there: Node) -> bool:
    for back in there._peering.connections.links():
        if back.session.close_idle_channels():  # grants what is owed, however little
            back.flush()
    channels = link.session._sending._channels
    return all(channel.credit == WINDOW for channel in channels)


async def open_the_gate_when_all_wait(receiver: Receiver) -> None:
    await trio.testing.wait_all_tasks_blocked(0.003)
    receiver.gate.set()


@pytest.mark.parametrize("credit", [True, False], ids=["with credit", "without credit"])
async def test_a_send_cancelled_at_any_checkpoint_sent_all_or_nothing(
    pair: tuple[Node, Node], credit: bool
) -> None:
    here, there = pair
    cuts = 0
    for at in range(MOST_STEPS):
        receiver = Receiver(there)
        filled = 0 if credit else receiver.fill(here)
        sent = 0

        async def send_many(receiver: Receiver = receiver) -> None:
            nonlocal sent
            for number in range(70):
                await here.send(receiver.id, ("sent", number, bytes(100)))
                sent += 1

        with trio.fail_after(20):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(open_the_gate_when_all_wait, receiver)
                was_cut = await cut(at, send_many)
            cuts += was_cut
            await check_at_rest(here, there, receiver)
        assert [m[1] for m in receiver.got if m[0] == "filled"] == list(range(filled))
        assert [m[1] for m in receiver.got if m[0] == "sent"] == list(range(sent))
        there.exit(receiver.id, "kill")
        if not was_cut:
            break
    else:
        raise AssertionError("it has more checkpoints than it can have")
    assert sent == 70, "the last one was not cut short"
    assert cuts >= (2 if credit else 4)


@pytest.mark.parametrize("request_name", ["answered", "never"])
@pytest.mark.parametrize("credit", [True, False], ids=["with credit", "without credit"])
async def test_a_call_cancelled_at_any_checkpoint_leaves_nothing_c2(
    pair: tuple[Node, Node], credit: bool, request_name: str
) -> None:
    here, there = pair
    outcomes: list[bool] = []
    for at in range(MOST_STEPS):
        receiver = Receiver(there)
        if not credit:
            receiver.fill(here)

        async def call(receiver: Receiver = receiver) -> None:
            assert await here.call(receiver.id, (request_name, 1)) == (request_name, 1)

        with trio.fail_after(20):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(open_the_gate_when_all_wait, receiver)
                with trio.move_on_after(0.2) as patience:  # for what is never answered
                    outcomes.append(await cut(at, call))
            await check_at_rest(here, there, receiver)
        came = [message for message in receiver.got if message[0] == request_name]
        assert len(came) <= 1
        there.exit(receiver.id, "kill")
        if patience.cancelled_caught or not outcomes[-1]:
            break
    else:
        raise AssertionError("it has more checkpoints than it can have")
    assert sum(outcomes) >= (1 if credit else 2), "one for the credit, and one for the answer"


async def test_any_of_several_that_wait_for_credit_may_go(pair: tuple[Node, Node]) -> None:
    """The one that is cancelled must not take the others' wake-up with it."""
    here, there = pair
    for at, victim in itertools.product(range(1, 6), range(4)):
        receiver = Receiver(there)
        receiver.fill(here)
        sent: list[tuple[str, int]] = []

        async def send(who: int, receiver: Receiver = receiver, sent: Any = sent) -> None:
            for number in range(5):
                await here.send(receiver.id, (f"from {who}", number, bytes(2 * KIB)))
                sent.append((f"from {who}", number))

        async def victims(who: int, at: int = at, send: Any = send) -> None:
            await cut(at, lambda: send(who))

        with trio.fail_after(20):
            async with trio.open_nursery() as nursery:
                for who in range(4):
                    nursery.start_soon(victims if who == victim else send, who)
                nursery.start_soon(open_the_gate_when_all_wait, receiver)
            await check_at_rest(here, there, receiver)
        came = [message for message in receiver.got if message[0].startswith("from")]
        assert sorted(came) == sorted(sent), "what was sent arrived once, and nothing else"
        assert len(sent) >= 15
        there.exit(receiver.id, "kill")


async def test_credit_that_comes_in_the_same_step_as_the_cancellation_is_not_lost(
    pair: tuple[Node, Node],
) -> None:
    """Woken and cancelled before it could run: whoever waits behind it must still get its turn."""
    here, there = pair
    receiver = Receiver(there)
    receiver.fill(here)
    done: list[str] = []
    first = trio.CancelScope()

    async def send(who: str, scope: trio.CancelScope) -> None:
        with scope:
            await here.send(receiver.id, (who, 0, bytes(KIB)))
            done.append(who)

    class WhenWoken(trio.abc.Instrument):
        def task_scheduled(self, task: trio.lowlevel.Task) -> None:
            if task.name == "the first":
                first.cancel()

    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(send, "first", first, name="the first")
            await trio.testing.wait_all_tasks_blocked(0.003)
            nursery.start_soon(send, "second", trio.CancelScope())
            await trio.testing.wait_all_tasks_blocked(0.003)
            instrument = WhenWoken()
            trio.lowlevel.add_instrument(instrument)
            receiver.gate.set()
        trio.lowlevel.remove_instrument(instrument)
        assert first.cancel_called
        await check_at_rest(here, there, receiver)
    came = [who for who, _ in receiver.got if who in ("first", "second")]
    assert came == done
    assert "second" in done
