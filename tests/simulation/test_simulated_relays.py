"""Members that cannot reach each other, and others that reach both: S2, and all that follows."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import permutations
from typing import Any

import pytest
import trio
from simulated import collect, echo, events_of, idle, until
from trio.testing import MockClock

from steinadler import (
    Config,
    DialSettings,
    Down,
    MembershipSettings,
    Node,
    NodeDown,
    Process,
    StreamRefused,
)
from steinadler.testing import SimulatedCluster

# Two probes that only others have an answer to, a dial that is silent, a relay.
FOUND_ANOTHER_WAY_S = 3.0
DIRECT_AGAIN_S = 1.25 * DialSettings().direct_again_s + 1


def way(node: Node, other: Node) -> str | None:
    """The far end of the connection from `node` to `other`, if there is one."""
    for each in node.connections():
        if each.node == other.id and each.connected:
            return str(each.remote)
    return None


def relayed(*pair: Node) -> bool:
    one, other = pair
    return all((way(*ends) or "").startswith("via ") for ends in ((one, other), (other, one)))


async def start(cluster: SimulatedCluster, *names: str, **options: Any) -> tuple[Node, ...]:
    nodes = await cluster.start(*names, **options)
    with trio.fail_after(30):
        await cluster.agreed()
        for node, other in permutations(cluster.running(), 2):
            await node.call(f"$echo@{other.name}", 1)
    return nodes


async def send(node: Node, to: Node, numbers: Iterable[int], each_s: float) -> None:
    for number in numbers:
        await node.send(f"inbox@{to.name}", number)
        await trio.sleep(each_s)


@pytest.mark.parametrize("one_way", [True, False], ids=["one-way", "both-ways"])
@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow)])
async def test_a_cut_between_two_that_others_reach_is_no_death_s2_m3(
    autojump_clock: MockClock, seed: int, one_way: bool
) -> None:
    """What the two tell each other goes through another, and directly again afterwards."""
    async with SimulatedCluster(seed) as cluster:
        alice, bob, *_ = await start(cluster, "alice", "bob", "carol", "dave")
        got: dict[Node, list[Any]] = {alice: [], bob: []}
        for node, into in got.items():
            node.spawn(collect, into, name="inbox")
        async with events_of(*cluster.running()) as told:
            with cluster.partition({"alice"}, {"bob"}, one_way=one_way):
                async with trio.open_nursery() as sending:
                    sending.start_soon(send, alice, bob, range(100), 0.1)
                    sending.start_soon(send, bob, alice, range(100), 0.1)
                await until(lambda: got[alice] == got[bob] == list(range(100)), 1)
                assert relayed(alice, bob)
                for one, other in permutations((alice, bob)):
                    with trio.fail_after(0.1):
                        assert await one.call(f"$echo@{other.name}", "hello") == "hello"
            await until(lambda: not relayed(alice, bob), DIRECT_AGAIN_S)
            await send(alice, bob, range(100, 110), 0.1)
            await until(lambda: got[bob] == list(range(110)), 1)
        assert told == {node.name: [] for node in cluster.running()}


async def test_a_path_that_a_firewall_rejects_is_no_death_s2_m3(autojump_clock: MockClock) -> None:
    """It answers just like the host of a process that has died; but others reach that one."""
    async with SimulatedCluster(1) as cluster:
        alice, bob, *_ = await start(cluster, "alice", "bob", "carol", "dave")
        got: list[Any] = []
        bob.spawn(collect, got, name="inbox")
        async with events_of(*cluster.running()) as told:
            with cluster.refusing({"alice"}, {"bob"}):
                cluster.cut("alice", "bob")
                await send(alice, bob, range(20), 0.01)
                await until(lambda: got == list(range(20)), 1)
                assert relayed(alice, bob)
                relay = str(way(alice, bob)).removeprefix("via ")
                await cluster.stop(relay)
                with trio.fail_after(1):
                    await send(alice, bob, [20], 0)
                await until(lambda: got[20:] == [20], 2)
            await until(lambda: not relayed(alice, bob), DIRECT_AGAIN_S)
        assert [event[1:] for event in told["alice"] + told["bob"]] == [("down", relay)] * 2


async def test_a_killed_one_is_down_at_once_though_a_refusal_alone_is_no_verdict_s1(
    autojump_clock: MockClock,
) -> None:
    """The others, who are asked, have lost their connections too, and say so."""
    async with SimulatedCluster(1, latency_s=(0.001, 0.002)) as cluster:
        *others, _ = await start(cluster, "alice", "bob", "carol", "dave", "erin")
        async with events_of(*others) as told:
            cluster.crash("erin")
            await trio.sleep(0.1)
        for events in told.values():
            assert [event[1:] for event in events] == [("down", "erin")]


@pytest.mark.parametrize("seed", [0, *(pytest.param(n, marks=pytest.mark.slow) for n in (1, 2))])
async def test_under_traffic_the_direct_path_takes_the_session_over_m2_m3(
    autojump_clock: MockClock, seed: int
) -> None:
    """What is on the relayed connection when the other one is made comes neither twice nor never,
    and the session stays."""
    config = Config(dial=DialSettings(direct_again_s=0.5))
    async with SimulatedCluster(seed, config=config, latency_s=(0.005, 0.02)) as cluster:
        alice, bob, _ = await start(cluster, "alice", "bob", "carol")
        got: dict[Node, list[Any]] = {alice: [], bob: []}
        for node, into in got.items():
            node.spawn(collect, into, name="inbox")
        async with events_of(alice, bob) as told, trio.open_nursery() as sending:
            for _ in range(3):
                with cluster.partition({"alice"}, {"bob"}):
                    await until(lambda: relayed(alice, bob), FOUND_ANOTHER_WAY_S)
                numbers = range(len(got[bob]), len(got[bob]) + 500)
                sending.start_soon(send, alice, bob, numbers, 0.002)
                sending.start_soon(send, bob, alice, numbers, 0.002)
                await until(lambda: not relayed(alice, bob), 2)
                await until(lambda: got[alice] == got[bob] == list(range(numbers.stop)), 5)  # noqa: B023
        assert told == {"alice": [], "bob": []}


async def test_another_way_is_found_in_some_seconds_c1(autojump_clock: MockClock) -> None:
    async with SimulatedCluster(3) as cluster:
        alice, bob, _ = await start(cluster, "alice", "bob", "carol")
        bob.spawn(echo, name="echo")
        with cluster.partition({"alice"}, {"bob"}):
            with trio.fail_after(FOUND_ANOTHER_WAY_S):
                assert await alice.call("echo@bob", "hello") == "hello"
            assert way(alice, bob) == way(bob, alice) == "via carol"


@pytest.mark.parametrize("end", ["crash", "pause"])
@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow)])
async def test_when_the_relay_goes_another_takes_the_session_up_m3(
    autojump_clock: MockClock, seed: int, end: str
) -> None:
    async with SimulatedCluster(seed) as cluster:
        alice, bob, *_ = await start(cluster, "alice", "bob", "carol", "dave")
        got: list[Any] = []
        bob.spawn(collect, got, name="inbox")
        with cluster.partition({"alice"}, {"bob"}):
            await until(lambda: relayed(alice, bob), FOUND_ANOTHER_WAY_S)
            relay = (way(alice, bob) or "").removeprefix("via ")
            other = "dave" if relay == "carol" else "carol"
            async with events_of(alice, bob) as told, trio.open_nursery() as sending:
                sending.start_soon(send, alice, bob, range(100), 0.1)
                await trio.sleep(1)
                getattr(cluster, end)(relay)
                await until(lambda: got == list(range(100)), 20)
            assert way(alice, bob) == f"via {other}"
            for node in (alice, bob):
                assert [name for _, what, name in told[node.name] if what == "down"] == [relay]


async def test_members_that_only_dial_out_are_full_members(autojump_clock: MockClock) -> None:
    """Monitors, calls, names and messages between two of them too: D1, C1, N1."""
    async with SimulatedCluster(5) as cluster:
        await cluster.start("alice", "bob")
        carol, dave = await start(cluster, "carol", "dave", listen=False)
        alice = cluster.node("alice")
        assert carol.addresses == ()
        assert relayed(carol, dave)
        assert not relayed(carol, alice)
        got: list[Any] = []
        dave.spawn(collect, got, name="inbox")
        await send(carol, dave, range(10), 0)
        await until(lambda: got == list(range(10)), 1)
        dave.spawn(idle, name="idle")
        worker = dave.spawn(idle, name="worker")
        with trio.fail_after(2):
            await dave.register_global("boss", worker)
            while await carol.whereis("boss@*") != worker:  # noqa: ASYNC110 - nobody says when
                await trio.sleep(0.1)
        async with carol.monitor("idle@dave") as down:
            cluster.crash("dave")
            with trio.fail_after(4):
                assert (await down.wait()).reason == "noconnection"


async def test_who_only_dials_out_is_reached_when_its_relay_goes_m3(
    autojump_clock: MockClock,
) -> None:
    async with SimulatedCluster(6) as cluster:
        await cluster.start("alice", "bob")
        carol, dave = await start(cluster, "carol", "dave", listen=False)
        relay = (way(carol, dave) or "").removeprefix("via ")
        await cluster.stop(relay)
        with trio.fail_after(1):
            assert await carol.call("$echo@dave", 1) == 1
        assert way(carol, dave) == ("via bob" if relay == "alice" else "via alice")


async def test_in_a_large_cluster_a_relay_is_dialled_for_it(autojump_clock: MockClock) -> None:
    """Members that are no neighbours, one of which nobody can dial."""
    ring = Config(
        membership=MembershipSettings(mesh_size=2, rings=1), dial=DialSettings(link_idle_s=1.0)
    )
    async with SimulatedCluster(7, config=ring) as cluster:
        nodes = await cluster.start(*"abcdefgh")
        (hidden,) = await cluster.start("hidden", listen=False)
        with trio.fail_after(60):
            await cluster.agreed()
        await trio.sleep(10)
        strangers = [node for node in nodes if way(node, hidden) is None]
        assert len(strangers) >= 5
        for node in strangers:
            with trio.fail_after(2):
                assert await node.call("$echo@hidden", node.name) == node.name


async def test_those_that_only_dial_out_keep_to_some_that_listen_m3(
    autojump_clock: MockClock,
) -> None:
    """Above `mesh_size` all neighbours of such a one may be of its kind."""
    ring = Config(
        membership=MembershipSettings(mesh_size=4, rings=1), dial=DialSettings(link_idle_s=5.0)
    )
    async with SimulatedCluster(7, config=ring) as cluster:
        listening = await cluster.start("s0", "s1")
        hidden = await cluster.start(*(f"h{n}" for n in range(6)), listen=False)
        with trio.fail_after(60):
            await cluster.agreed()
        await trio.sleep(10)  # connections of no use to anybody are closed
        async with events_of(*listening, *hidden) as told:
            await trio.sleep(10)
            for node in hidden:
                for other in hidden:
                    with trio.fail_after(2):
                        assert await node.call(f"$echo@{other.name}", 1) == 1
        assert not any(told.values())


@pytest.mark.parametrize("count", [8, pytest.param(28, marks=pytest.mark.slow)])
async def test_one_that_hangs_on_a_single_other_is_no_death_s2_m3(
    autojump_clock: MockClock, count: int
) -> None:
    """Whoever has its answer once is asked first from then on."""
    others = [f"n{n:02}" for n in range(count)]
    async with SimulatedCluster(1) as cluster:
        bob, *_ = await start(cluster, "bob", "gateway", *others)
        async with events_of(*cluster.running()) as told:
            with cluster.partition({"bob"}, set(others)):
                with trio.fail_after(15):
                    async with trio.open_nursery() as nursery:
                        for name in others:
                            nursery.start_soon(bob.call, f"$echo@{name}", 1)
                await trio.sleep(5)
        assert not any(told.values())


async def test_a_relay_has_a_limit_and_its_ends_are_told(autojump_clock: MockClock) -> None:
    config = Config(dial=DialSettings(max_relayed=1))
    async with SimulatedCluster(8, config=config) as cluster:
        alice, bob, carol, dave = await start(cluster, "alice", "bob", "carol", "dave")
        with (
            cluster.partition({"alice"}, {"bob", "dave"}),
            trio.move_on_after(FOUND_ANOTHER_WAY_S),
        ):
            await until(lambda: relayed(alice, bob) or relayed(alice, dave), FOUND_ANOTHER_WAY_S)
            assert carol.statistics().relayed == 1
            await trio.sleep_forever()
        assert relayed(alice, bob) != relayed(alice, dave)


async def test_a_burst_goes_no_further_than_the_limit_x4(autojump_clock: MockClock) -> None:
    config = Config(dial=DialSettings(max_relayed=2))
    async with SimulatedCluster(8, config=config) as cluster:
        alice, bob, carol = await start(cluster, "alice", "bob", "carol")
        streams = alice._runtime.streams
        accepted = refused = 0

        async def ask() -> None:
            nonlocal accepted, refused
            try:
                await streams.open(carol.id, "$relay", ("reach", bob.id), "$relay")
                accepted += 1
            except StreamRefused:
                refused += 1

        async with trio.open_nursery() as nursery:
            for _ in range(100):
                nursery.start_soon(ask)
        assert (accepted, refused, carol.statistics().relayed) == (2, 98, 2)


async def test_no_relay_without_direct_connections(autojump_clock: MockClock) -> None:
    """Carol reaches bob through a relay only, so she is none for alice."""
    async with SimulatedCluster(9) as cluster:
        alice, bob, carol, _ = await start(cluster, "alice", "bob", "carol", "dave")
        with cluster.partition({"alice", "carol"}, {"bob"}):
            await until(lambda: relayed(alice, bob) and relayed(carol, bob), FOUND_ANOTHER_WAY_S)
            assert {way(alice, bob), way(carol, bob)} == {"via dave"}
            async with events_of(alice) as told:
                cluster.crash("dave")
                await until(lambda: len(told["alice"]) == 2, 8)
            assert {name for _, _, name in told["alice"]} == {"bob", "dave"}
            with pytest.raises(NodeDown):
                await alice.call("$echo@bob", 1)


async def test_a_relay_of_a_member_that_falls_silent_does_not_hide_it_s1(
    autojump_clock: MockClock,
) -> None:
    async with SimulatedCluster(10) as cluster:
        alice, bob, _, _ = await start(cluster, "alice", "bob", "carol", "dave")
        got: list[Down] = []

        async def watch(me: Process) -> None:
            me.monitor("$echo@bob")
            got.append(await me.receive())

        alice.spawn(watch)
        with cluster.partition({"alice"}, {"bob"}):
            await until(lambda: relayed(alice, bob), FOUND_ANOTHER_WAY_S)
            cluster.pause("bob")
            await until(lambda: bool(got), 3)
        assert [down.reason for down in got] == ["noconnection"]
