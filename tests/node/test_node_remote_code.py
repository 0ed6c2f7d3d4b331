"""`spawn_on` and `run_on`: exported functions on other nodes, and nothing else (X4)."""

from __future__ import annotations

from typing import Any

import outcome
import pytest
import trio
from programs import (
    programs_counter,
    programs_raises,
    programs_sleeper,
    programs_unsendable,
    programs_who,
    sleeper,
)

import steinadler
from steinadler import (
    ALL,
    ConfigError,
    NameConflict,
    Node,
    NodeDown,
    NotEncodable,
    ProcessId,
    RemoteError,
)


@pytest.fixture(params=["local", "remote"])
async def pair(request: pytest.FixtureRequest, nodes: Any) -> tuple[Node, Node]:
    if request.param == "local":
        node = await nodes.open("bob")
        return node, node
    alice, bob = await nodes.open_all("alice", "bob")
    return alice, bob


async def test_spawn_on_one_node_returns_the_process(pair: tuple[Node, Node]) -> None:
    here, there = pair
    with trio.fail_after(5):
        process = await here.spawn_on("bob", programs_counter, 10, name="counter")
        assert isinstance(process, ProcessId)
        assert process.node == there.id
        assert await here.call(process, ("add", 2)) == 12
        assert await here.call("counter@bob", ("add", 1)) == 13
        by_name = await here.spawn_on("bob", "programs_counter", 1)
        assert await here.call(by_name, ("add", 1)) == 2


async def test_run_on_returns_what_the_function_returns(pair: tuple[Node, Node]) -> None:
    here, there = pair
    with trio.fail_after(5):
        assert (await here.run_on("bob", programs_who)).node == there.id


async def test_an_exported_function_that_raises_is_a_remote_error(
    pair: tuple[Node, Node],
) -> None:
    here, _ = pair
    with trio.fail_after(5), pytest.raises(RemoteError) as info:
        await here.run_on("bob", programs_raises, "not today")
    assert (info.value.type_name, info.value.text) == ("ValueError", "not today")


async def test_a_result_that_cannot_travel_is_a_remote_error(pair: tuple[Node, Node]) -> None:
    here, _ = pair
    with trio.fail_after(5), pytest.raises(RemoteError, match="NotEncodable"):
        await here.run_on("bob", programs_unsendable)


async def test_arguments_that_cannot_travel_raise_here_m5(pair: tuple[Node, Node]) -> None:
    here, _ = pair
    with trio.fail_after(5), pytest.raises(NotEncodable):
        await here.run_on("bob", programs_who, object())


async def test_what_is_not_exported_cannot_be_run_x4(pair: tuple[Node, Node]) -> None:
    here, _ = pair
    with pytest.raises(ConfigError, match=r"put @steinadler.export above it"):
        await here.spawn_on("bob", sleeper)
    with trio.fail_after(5):
        for name in ("sleeper", "os.system", "__import__", "$"):
            with pytest.raises(RemoteError, match="no function is exported"):
                await here.spawn_on("bob", name)


async def test_a_taken_or_reserved_name_is_a_remote_error(pair: tuple[Node, Node]) -> None:
    here, there = pair
    there.spawn(sleeper, name="taken")
    with trio.fail_after(5):
        with pytest.raises(RemoteError, match="NameConflict"):
            await here.spawn_on("bob", programs_counter, name="taken")
        with pytest.raises(RemoteError, match="ConfigError"):
            await here.spawn_on("bob", programs_counter, name="$mine")
    with pytest.raises(NameConflict):
        there.spawn(sleeper, name="taken")


async def test_several_nodes_all_of_them_and_labels(nodes: Any) -> None:
    alice = await nodes.open("alice")
    await nodes.open("bob", labels={"role": "gpu", "zone": "a"})
    await nodes.open("carol", labels={"role": "gpu", "zone": "b"})
    with trio.fail_after(10):
        await alice.wait_for_members(3)

        async def names(*args: Any, **options: Any) -> list[str]:
            results = await alice.run_on(*args, **options)
            for name, result in results.items():
                assert result.unwrap().node.name == name
            return list(results)

        assert await names(["carol", "alice"], programs_who) == ["carol", "alice"]
        assert await names(ALL, programs_who) == ["alice", "bob", "carol"]
        assert await names(None, programs_who, labels={"role": "gpu"}) == ["bob", "carol"]
        assert await names(function=programs_who, labels={"role": "gpu", "zone": "a"}) == ["bob"]
        assert await names(function=programs_who, labels={"role": "cpu"}) == []
        mixed = await alice.spawn_on(["bob", "nowhere"], programs_counter)
    assert isinstance(mixed["bob"], outcome.Value)
    assert isinstance(mixed["nowhere"].error, NodeDown)
    assert [m.node.name for m in alice.members(role="gpu")] == ["bob", "carol"]


async def test_which_function_must_be_said(nodes: Any) -> None:
    alice = await nodes.open("alice")
    for ask in (alice.run_on, alice.spawn_on):
        with pytest.raises(ConfigError, match="say which function"):
            await ask("alice")


@pytest.mark.parametrize(
    ("where", "labels"), [(None, None), ("bob", {"a": "b"}), (ALL, {"a": "b"})]
)
async def test_where_is_said_in_one_way(nodes: Any, where: Any, labels: Any) -> None:
    alice = await nodes.open("alice")
    with pytest.raises(ConfigError, match="say where"):
        await alice.run_on(where, programs_who, labels=labels)


async def test_cancelling_run_on_ends_the_process_there(pair: tuple[Node, Node]) -> None:
    here, _there = pair
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(here.run_on, "bob", programs_sleeper, "running")
            while await here.whereis("running@bob") is None:
                await trio.lowlevel.checkpoint()
            async with here.monitor("running@bob") as down:
                await here.call("$echo@bob", "it has begun")
                nursery.cancel_scope.cancel()
                with trio.CancelScope(shield=True):
                    assert (await down.wait()).reason == "cancelled"


async def test_the_death_of_the_caller_ends_what_it_runs_elsewhere(nodes: Any) -> None:
    alice, bob = await nodes.open_all("alice", "bob")

    async def runs(me: steinadler.Process) -> None:
        await alice.run_on("bob", programs_sleeper, "running")

    with trio.fail_after(10):
        alice.spawn(runs)
        while (await bob.whereis("running")) is None:
            await trio.lowlevel.checkpoint()
        async with bob.monitor("running") as down:
            await nodes.close(alice)
            assert (await down.wait()).reason == "cancelled"
