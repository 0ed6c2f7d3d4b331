"""Connections that are made when something is to be sent, and closed when they are of no use.

Whatever the moment at which either end closes: nothing is lost, doubled or reordered (M1-M3), and
whoever waits learns of an end (M4, D1).
"""

from __future__ import annotations

import random

import pytest
import trio
from ends import PORT, End, Ends, ends, until
from trio.testing import MockClock

from steinadler.config import Config, DialSettings, WireSettings
from steinadler.errors import NodeDown
from steinadler.identity import OBSERVER, Address
from steinadler.testing.faults import Hold, Packet
from steinadler.transport.connections import MAX_PROPOSED
from steinadler.transport.link import LinkState
from steinadler.wire.handshake import RejectReason

IDLE_S = 2.0
QUICK = Config(dial=DialSettings(link_idle_s=IDLE_S))
# So short that connections close between two messages, and before their acknowledgement.
HASTY = Config(
    dial=DialSettings(link_idle_s=0.02),
    wire=WireSettings(
        window_bytes=4_096,
        max_message_bytes=100_000,
        reassembly_bytes=100_000,
        max_unacknowledged_bytes=32_768,
    ),
)
MANY_SEEDS = [*range(2), *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(100, 115))]


async def pair(network: Ends, config: Config = QUICK) -> tuple[End, End]:
    return await network.start("alice", config), await network.start("bob", config)


async def meet(alice: End, bob: End) -> None:
    """Send something each way, over one connection."""
    await alice.send(bob, b"hello")
    await bob.send(alice, b"hello")
    await until(lambda: alice.got(bob) == [b"hello"] == bob.got(alice))


async def part(alice: End, bob: End) -> None:
    """Wait until their connection was closed for being idle."""
    await until(lambda: not (alice.connected_to(bob) or bob.connected_to(alice)))


@pytest.mark.parametrize("seed", MANY_SEEDS)
async def test_closing_at_any_moment_loses_doubles_and_reorders_nothing_m1_m2_m3(
    seed: int, autojump_clock: MockClock
) -> None:
    """Messages small and large, with pauses about as long as it takes to close; latency is about
    that long too, so ends close while messages are on the way, and both at once."""
    draw = random.Random(seed)
    count = 60
    async with ends(seed, latency_s=(0.0005, 0.03)).run() as network:
        alice, bob = await pair(network, HASTY)

        async def send(sender: End, receiver: End) -> None:
            for number in range(count):
                size = draw.choice((10, 10, 10, 3_000, 20_000))
                await sender.send(receiver, number.to_bytes(2, "big") + bytes(size))
                await trio.sleep(draw.choice((0, 0.03, 0.06, 0.15, 0.3)))

        with trio.fail_after(600):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(send, alice, bob)
                nursery.start_soon(send, bob, alice)
        await until(lambda: min(len(alice.got(bob)), len(bob.got(alice))) >= count)
        await trio.sleep(10)  # whatever may still come
        for sender, receiver in ((alice, bob), (bob, alice)):
            got = [int.from_bytes(body[:2], "big") for body in receiver.got(sender)]
            assert got == list(range(count))
            assert not receiver.told["session lost"]
        assert alice.told["connected"] > count / 3  # or nothing was tried
        resent = sum(
            link.session.counters.bytes_retransmitted
            for end in (alice, bob)
            for link in end.connections.links()
        )
        assert resent > 0  # nor if nothing was under way when an end closed


@pytest.mark.parametrize("both", [False, True])
async def test_a_message_that_meets_the_closing_arrives_over_the_next_connection_m3(
    both: bool, autojump_clock: MockClock
) -> None:
    async with ends().run() as network:
        alice, bob = await pair(network)
        await meet(alice, bob)
        alice.link_to(bob).close_connection()
        if both:
            bob.link_to(alice).close_connection()
        await bob.send(alice, b"meanwhile")  # bob has not heard of it
        assert bob.link_to(alice).connected
        await until(lambda: alice.got(bob) == [b"hello", b"meanwhile"], IDLE_S / 2)
        assert alice.told["session lost"] == bob.told["session lost"] == 0


async def test_an_idle_connection_closes_and_a_used_one_does_not(
    autojump_clock: MockClock,
) -> None:
    async with ends().run() as network:
        alice, bob = await pair(network)
        for _ in range(10):
            await alice.send(bob, b"used")
            await trio.sleep(IDLE_S * 0.9)
        assert bob.told["connected"] == 1
        assert alice.connected_to(bob)
        last = trio.current_time() - IDLE_S * 0.9
        await part(alice, bob)
        assert IDLE_S <= trio.current_time() - last <= 1.3 * IDLE_S
        assert alice.told["disconnected"] == bob.told["disconnected"] == 1
        await trio.sleep(5 * IDLE_S)
        assert alice.network.dials + bob.network.dials == 1  # nobody wanted another


async def test_a_neighbours_connection_stays_until_it_is_let_go(autojump_clock: MockClock) -> None:
    async with ends().run() as network:
        alice, bob = await pair(network)
        alice.keep(bob)
        bob.keep(alice)
        await until(lambda: alice.connected_to(bob) and bob.connected_to(alice))
        await trio.sleep(10 * IDLE_S)
        assert alice.told["connected"] == bob.told["connected"] == 1
        alice.connections.let_go(bob.node)
        bob.connections.let_go(alice.node)
        await trio.sleep(IDLE_S * 0.9)
        assert alice.connected_to(bob)
        await part(alice, bob)


async def test_a_session_without_a_connection_has_no_task(autojump_clock: MockClock) -> None:
    """A thousand members may have been written to once."""
    async with ends().run() as network:
        alice = await network.start("alice", QUICK)
        others = [await network.start(f"node{number}", QUICK) for number in range(20)]
        tasks = trio.lowlevel.current_statistics().tasks_living
        for other in others:
            await meet(alice, other)
        assert trio.lowlevel.current_statistics().tasks_living > tasks
        for other in others:
            await part(alice, other)
        assert trio.lowlevel.current_statistics().tasks_living == tasks
        assert len(alice.connections.links()) == len(others)


async def test_an_observers_connection_is_its_own_to_close(autojump_clock: MockClock) -> None:
    """It would come back as somebody else, and with nothing of its session."""
    async with ends().run() as network:
        bob = await network.start("bob", QUICK)
        watcher = await network.start("watcher", QUICK, OBSERVER)
        watcher.keep(bob)
        await until(lambda: bob.connected_to(watcher))
        await trio.sleep(10 * IDLE_S)
        assert bob.connected_to(watcher)


@pytest.mark.parametrize("answer_after_s", [0.0, 10 * IDLE_S])
async def test_a_question_over_a_closed_connection_costs_one_dial_and_so_does_a_late_answer(
    answer_after_s: float, autojump_clock: MockClock
) -> None:
    """C1: whoever answers dials when the connection has gone meanwhile."""
    async with ends().run() as network:
        alice, bob = await pair(network)
        await meet(alice, bob)
        await part(alice, bob)
        alice.network.dials = bob.network.dials = 0
        await alice.send(bob, b"question")
        await until(lambda: bob.got(alice)[1:] == [b"question"])
        await trio.sleep(answer_after_s)
        await bob.send(alice, b"answer")
        await until(lambda: alice.got(bob)[1:] == [b"answer"], 1)
        assert alice.network.dials == 1
        assert bob.network.dials == (1 if answer_after_s else 0)


async def test_the_watched_end_dials_for_its_news_once_d1(autojump_clock: MockClock) -> None:
    async with ends().run() as network:
        alice, bob = await pair(network)
        await alice.send(bob, b"watch this")
        await part(alice, bob)
        bob.signal(alice, b"it ended")
        await until(lambda: alice.signals == [b"it ended"], 1)
        await trio.sleep(5 * IDLE_S)
        assert alice.signals == [b"it ended"]
        assert bob.network.dials == 1


async def test_a_sender_without_credit_keeps_one_connection_m6(autojump_clock: MockClock) -> None:
    """Nothing goes either way for long, and closing would only make the sender dial again."""
    async with ends().run() as network:
        alice, bob = await pair(network, Config(dial=QUICK.dial, wire=HASTY.wire))
        bob.consumes = False
        with trio.move_on_after(20 * IDLE_S):
            while True:
                await alice.send(bob, bytes(1_000))
        assert len(bob.got(alice)) < 10  # it did wait
        assert alice.told["connected"] == 1


async def test_what_nobody_takes_ends_with_the_member_and_never_hangs_m4(
    autojump_clock: MockClock,
) -> None:
    """Bob was let go and killed: dials are refused, and tried again until membership decides."""
    async with ends().run() as network:
        alice, bob = await pair(network)
        await meet(alice, bob)
        await part(alice, bob)
        network.kill(bob)
        waiting = []

        async def send_all() -> None:
            with pytest.raises(NodeDown):
                while True:
                    await alice.send(bob, bytes(60_000))
            waiting.append("told")

        link = alice.link_to(bob)
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(send_all)
            await until(lambda: alice.told["refused"] >= 3)
            assert not waiting
            assert alice.link_to(bob) is link
            alice.connections.end(bob.node, "no sign of life")
        assert waiting == ["told"] * 3
        assert link.state is LinkState.ENDED
        dials = alice.network.dials
        await trio.sleep(60)
        assert alice.network.dials == dials


async def test_the_first_message_ever_waits_for_the_connection_only(
    autojump_clock: MockClock,
) -> None:
    async with ends().run() as network:
        alice, bob = await pair(network)
        with trio.move_on_after(0.001):  # gives up before there is a connection
            await alice.send(bob, b"never")
        await alice.send(bob, b"first")
        await until(lambda: bob.got(alice) == [b"first"], 1)
        assert alice.network.dials == 1


@pytest.mark.parametrize("back", [True, False])
async def test_who_was_given_up_at_one_end_alone_is_told_when_it_is_back_d1(
    back: bool, autojump_clock: MockClock
) -> None:
    """Bob watches a process of alice's, who held bob for down meanwhile and forgot the monitor."""
    async with ends().run() as network:
        alice, bob = await pair(network)
        await meet(alice, bob)
        await part(alice, bob)
        alice.connections.end(bob.node, "no sign of life")
        await trio.sleep(5 * IDLE_S)
        assert not bob.told["session lost"]
        if back:
            alice.connections.came_back(bob.node, bob.addresses)
            await until(lambda: bob.told["session lost"] == 1, 1)
        await trio.sleep(20 * IDLE_S)
        alice.connections.came_back(bob.node, bob.addresses)  # nothing is owed any more, or is now
        await trio.sleep(20 * IDLE_S)
        assert bob.told["session lost"] == bob.told["ended: lost session"] == 1
        assert alice.network.dials == 2


async def test_a_stranger_that_comes_back_owes_nothing(autojump_clock: MockClock) -> None:
    async with ends().run() as network:
        alice, bob = await pair(network)
        alice.connections.came_back(bob.node, bob.addresses)
        await trio.sleep(5 * IDLE_S)
        assert alice.network.dials == 0


async def test_a_leaving_node_delivers_what_is_queued_over_a_new_connection_m3(
    autojump_clock: MockClock,
) -> None:
    async with ends().run() as network:
        alice, bob = await pair(network)
        await meet(alice, bob)
        await part(alice, bob)
        await alice.send(bob, b"last words")
        with trio.fail_after(1):
            await alice.connections.drain()
        assert bob.got(alice) == [b"hello", b"last words"]
        await bob.send(alice, b"too late")  # over the connection that stands
        await part(alice, bob)
        await bob.send(alice, b"turned away")
        await until(lambda: bob.told[f"rejected: {RejectReason.CLOSING}"] > 0)


async def test_a_session_that_is_given_up_while_its_hello_is_on_the_way_is_not_half_resumed(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """The peer that resumed it is told, as of any other that was lost."""
    async with ends(latency_s=(0.02, 0.02)).run() as network:
        alice, bob = await pair(network)
        await meet(alice, bob)
        await part(alice, bob)
        alice.signal(bob, b"one more")
        await until(lambda: alice.connections.peers()[0].dial is not None)
        alice.connections.end(bob.node, "given up")
        await until(lambda: bob.connected_to(alice))
        await part(alice, bob)
        bob.signal(alice, b"are you there?")
        await until(lambda: bob.told["session lost"] == 1)
        await alice.send(bob, b"again")
        await bob.send(alice, b"again")
        await until(lambda: (alice.got(bob)[-1], bob.got(alice)[-1]) == (b"again", b"again"))
        assert not alice.told["session lost"]  # it gave up one, and lost none
        assert "protocol error" not in caplog.text


def hold(packet: Packet) -> Hold:
    """Nothing arrives, and nobody is told."""
    return Hold()


async def test_no_more_than_so_many_proposals_are_dialled_at_once(
    autojump_clock: MockClock,
) -> None:
    async with ends().run() as network:
        alice, bob = await pair(network)
        with network.fabric.rule(hold, trio.current_time):
            for port in range(5000, 5000 + 10 * MAX_PROPOSED):
                alice.connections.propose(Address("bob", port))
            await trio.sleep(0.1)
            assert alice.network.dials == MAX_PROPOSED
        alice.connections.propose(Address("bob", PORT))
        assert not alice.connected_to(bob)
        await trio.sleep(QUICK.dial.dial_timeout_s)  # and what was proposed came to nothing
        alice.connections.propose(Address("bob", PORT))
        await until(lambda: alice.connected_to(bob), 1)


async def test_to_write_to_everybody_is_not_to_dial_everybody_at_once(
    autojump_clock: MockClock,
) -> None:
    """Neighbours excepted: what membership makes of them cannot wait."""
    settings = Config(dial=DialSettings(max_handshakes=3, link_idle_s=IDLE_S))
    async with ends().run() as network:
        alice = await network.start("alice", settings)
        others = [await network.start(f"node{number}", QUICK) for number in range(8)]
        async with trio.open_nursery() as nursery:
            with network.fabric.rule(hold, trio.current_time):
                for other in others:
                    nursery.start_soon(alice.send, other, b"all of you")
                await trio.sleep(0.1)
                assert alice.network.dials == 3
                for other in others:
                    alice.keep(other)
                await trio.sleep(0.1)
                assert alice.network.dials == 3 + len(others)
        await until(lambda: all(other.got(alice) == [b"all of you"] for other in others))
