"""Nodes that are no neighbours: connections come and go, and nothing hangs on them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from simulated import collect, echo, events_of, idle, until
from trio.testing import MockClock

from steinadler import (
    Config,
    DialSettings,
    MembershipSettings,
    Node,
    NodeDown,
    Process,
    WireSettings,
)
from steinadler.testing import SimulatedCluster

IDLE_S = 1.0
RING = Config(
    membership=MembershipSettings(mesh_size=2, rings=1),
    dial=DialSettings(link_idle_s=IDLE_S),
    wire=WireSettings(window_bytes=8_192, max_message_bytes=65_536, reassembly_bytes=65_536),
)


def connection(node: Node, other: Node) -> Any:
    """What `node` tells of its connection to `other`; None without a session."""
    found = node.connections()
    return next((each for each in found if each.node == other.id), None)


def connected(node: Node, other: Node) -> bool:
    told = connection(node, other)
    return told is not None and told.connected


@asynccontextmanager
async def strangers(seed: int = 1) -> AsyncIterator[tuple[SimulatedCluster, Node, Node]]:
    """Six nodes on one ring, and two of them that are no neighbours and not connected."""
    async with SimulatedCluster(seed) as cluster:
        nodes = await cluster.start(*"abcdef", config=RING)
        with trio.fail_after(60):
            await cluster.agreed()
        await trio.sleep(4 * IDLE_S)  # what was made to join is let go
        one, other = next(
            (one, other)
            for one in nodes
            for other in nodes
            if one is not other and not connected(one, other)
        )
        yield cluster, one, other


async def part(one: Node, other: Node) -> None:
    await until(lambda: not (connected(one, other) or connected(other, one)), 4 * IDLE_S)


async def test_neighbours_only_are_connected_while_nobody_sends(autojump_clock: MockClock) -> None:
    async with strangers() as (cluster, _, _):
        for _ in range(8):
            await trio.sleep(IDLE_S)
            assert [node.statistics().connections for node in cluster.running()] == [2] * 6


async def test_a_call_over_a_closed_connection_dials_once_c1(autojump_clock: MockClock) -> None:
    async with strangers() as (_, one, other):
        other.spawn(echo, name="echo")
        destination = f"echo@{other.name}"
        assert await one.call(destination, 1) == 1
        await part(one, other)
        before = connection(one, other).resumptions
        with trio.fail_after(0.1):
            assert await one.call(destination, 2) == 2
        assert connection(one, other).resumptions == before + 1
        await part(one, other)


async def test_a_late_reply_finds_its_own_way_back_c1(autojump_clock: MockClock) -> None:
    async def late(me: Process) -> None:
        call = await me.receive()
        await trio.sleep(10 * IDLE_S)
        call.reply("late")

    async with strangers() as (_, one, other):
        process = other.spawn(late)

        async def ask() -> None:
            assert await one.call(process, "?") == "late"

        with trio.fail_after(10 * IDLE_S + 0.1):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(ask)
                await until(lambda: connected(one, other), 1)
                await part(one, other)
        assert connected(one, other)


async def test_a_monitor_fires_once_although_nobody_was_connected_d1(
    autojump_clock: MockClock,
) -> None:
    async with strangers() as (_, one, other):
        ending = trio.Event()

        async def end(me: Process) -> None:
            await ending.wait()

        got: list[Any] = []

        async def watch(me: Process) -> None:
            me.monitor(process)
            async for message in me:
                got.append(message)  # noqa: PERF401 - it never ends

        process = other.spawn(end)
        one.spawn(watch)
        async with one.monitor(process) as down:
            await until(lambda: connected(one, other), 1)
            await part(one, other)
            ending.set()
            with trio.fail_after(0.1):
                assert (await down.wait()).reason == "normal"
            await trio.sleep(5 * IDLE_S)
        assert [each.reason for each in got] == ["normal"]


async def test_a_node_that_dies_unconnected_is_down_for_whoever_waits_for_it_m4_d1(
    autojump_clock: MockClock,
) -> None:
    """Its neighbours notice; the dials of others are refused, and decide nothing."""
    async with strangers() as (cluster, one, other):
        process = other.spawn(idle)
        outcomes: list[str] = []

        async def send() -> None:
            with pytest.raises(NodeDown):
                while True:
                    await one.send(process, bytes(6_000))
            outcomes.append("sender")

        async def call() -> None:
            with pytest.raises(NodeDown):
                await one.call(process, None)
            outcomes.append("caller")

        with trio.fail_after(10):
            async with one.monitor(process) as down, events_of(one) as told:
                await until(lambda: connected(one, other), 1)
                await part(one, other)
                cluster.crash(other.name)
                async with trio.open_nursery() as nursery:
                    for task in (send, send, call):
                        nursery.start_soon(task)
                assert (await down.wait()).reason == "noconnection"
                assert sorted(outcomes) == ["caller", "sender", "sender"]
                assert [(kind, name) for _, kind, name in told[one.name]] == [("down", other.name)]
        assert connection(one, other) is None


async def test_a_stream_outlives_its_connections(autojump_clock: MockClock) -> None:
    async with strangers() as (_, one, other):
        got: list[bytes] = []

        async with other.listen("bytes") as listener:

            async def serve() -> None:
                async with await listener.accept() as stream:
                    async for data in stream:
                        got.append(data)
                        await stream.send_all(b"+")

            with trio.fail_after(60):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(serve)
                    async with await one.connect(f"bytes@{other.name}") as stream:
                        for number in range(5):
                            await stream.send_all(b"%d" % number)
                            assert await stream.receive_some() == b"+"
                            await part(one, other)
                        assert connection(one, other).resumptions >= 4
        assert b"".join(got) == b"01234"


@pytest.mark.parametrize(
    "seed", [1, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(2, 6))]
)
async def test_everybody_writes_to_everybody_now_and_then_m1_m2_m3(
    seed: int, autojump_clock: MockClock
) -> None:
    count = 8
    async with strangers(seed) as (cluster, _, _):
        nodes = cluster.running()
        got: dict[tuple[str, str], list[Any]] = {}

        async def send(one: Node, other: Node) -> None:
            for number in range(count):
                await one.send(f"from_{one.name}@{other.name}", number)
                await trio.sleep((0, 0.3, 1.1, 1.3, 2.5)[(number + len(got)) % 5])

        with trio.fail_after(120):
            async with trio.open_nursery() as nursery:
                for one in nodes:
                    for other in nodes:
                        if one is not other:
                            into = got[one.name, other.name] = []
                            other.spawn(collect, into, name=f"from_{one.name}")
                            nursery.start_soon(send, one, other)
        await trio.sleep(5 * IDLE_S)
        assert all(items == list(range(count)) for items in got.values())
        assert sum(node.statistics().resumptions for node in nodes) > 0
