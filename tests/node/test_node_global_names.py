"""Names and groups of the whole cluster, on real nodes (N2, N3)."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest
import trio

import steinadler
import steinadler.testing
from steinadler import (
    Call,
    Config,
    ConfigError,
    Down,
    Exit,
    MembershipSettings,
    NameConflict,
    Node,
    NoSuchProcess,
    Process,
    ProcessId,
    ProcessName,
    RemoteError,
)


async def echo(me: Process) -> None:
    async for message in me:
        match message:
            case Call(request):
                message.reply((me.id, request))


async def until(condition: Callable[[], object]) -> None:
    """Wait for what no event tells of."""
    with trio.fail_after(10):
        while not condition():  # noqa: ASYNC110
            await trio.sleep(0.002)


@pytest.fixture
async def three(nodes: Any) -> list[Node]:
    opened: list[Node] = await nodes.open_all("alice", "bob", "carol")
    return opened


async def known(nodes: list[Node], name: str) -> None:
    await until(lambda: all(node._runtime.naming.find(name) for node in nodes))


async def test_a_name_of_the_cluster_leads_to_its_process_from_anywhere(three: list[Node]) -> None:
    """Calls, messages, monitors and `whereis` take "name@*" as they take any destination."""
    alice, bob, carol = three
    boss = bob.spawn(echo)
    with trio.fail_after(10):
        await bob.register_global("boss", boss)
        await known(three, "boss")
        for node in three:
            assert await node.call("boss@*", 1) == (boss, 1)
            assert await node.whereis("boss@*") == boss
        await alice.send("boss@*", "hello")
        async with carol.monitor("boss@*") as down:
            assert await carol.call("boss@*", 2) == (boss, 2)
            bob.exit(boss)
            assert (await down.wait()).reason == "shutdown"
        await until(lambda: not any(node._runtime.naming.find("boss") for node in three))
        with pytest.raises(NoSuchProcess):
            await alice.call("boss@*", 1)
        with pytest.raises(NoSuchProcess):
            await alice.send("boss@*", 1)
        assert await alice.whereis("boss@*") is None
        async with carol.monitor("boss@*") as down:
            assert await down.wait() == Down(ProcessName("boss", "*"), "noproc", down.reference)


async def test_one_process_has_a_name_of_the_cluster(three: list[Node]) -> None:
    """N2: of many claims at the same time one is let pass, and the others are told whose it is."""
    refused: list[str] = []
    held: list[Node] = []

    async def claim(node: Node) -> None:
        try:
            await node.register_global("boss", node.spawn(echo))
        except NameConflict as error:
            refused.append(str(error))
        else:
            held.append(node)

    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            for node in three * 3:
                nursery.start_soon(claim, node)
    assert len(held) == 1
    assert len(refused) == 8
    assert all(f"@{held[0].name} in the whole cluster" in text for text in refused)


async def test_a_name_is_freed_when_its_holder_ends_or_gives_it_up(three: list[Node]) -> None:
    alice, bob, carol = three
    with trio.fail_after(10):
        first = alice.spawn(echo)
        await alice.register_global("boss", first)
        await alice.register_global("boss", first)
        alice.unregister_global("boss")
        with pytest.raises(NoSuchProcess):
            alice.unregister_global("boss")
        await until(lambda: not any(node._runtime.naming.find("boss") for node in three))
        second = bob.spawn(echo)
        await bob.register_global("boss", second)
        await known(three, "boss")
        assert await carol.whereis("boss@*") == second


async def test_what_cannot_be_registered(three: list[Node]) -> None:
    alice, bob, _ = three
    process = alice.spawn(echo)
    with trio.fail_after(10):
        for wrong in ("", "a@b", "\n", "$boss", "x" * 256):
            with pytest.raises(ConfigError):
                await alice.register_global(wrong, process)
        with pytest.raises(NoSuchProcess):
            await bob.register_global("boss", process)
        with pytest.raises(ConfigError):
            alice.group("").join(process)


async def test_claims_that_no_node_would_make_are_refused(three: list[Node]) -> None:
    """X4: what an arbiter holds for others is bounded, and only whoever claims is heard."""
    alice, bob, carol = three
    ours, theirs = alice.spawn(echo), carol.spawn(echo)
    with trio.fail_after(10):
        for request, complaint in (
            (("reserve", "boss", ours, 2**70, 0), "from 0 to"),
            (("reserve", "boss", ours, 1, -1), "from 0 to"),
            (("reserve", "b" * 300, ours, 1, 0), "name"),
            (("reserve", "boss", theirs, 1, 0), "caller's node"),
            (("release", "boss", theirs, 1), "caller's node"),
            (("release", "boss", ours, "1"), "understands"),
            (("holds", [("boss", 1)]), "a claim is"),
            (("holds", [("boss", 1, 1)] * 101), "understands"),
        ):
            with pytest.raises(RemoteError, match=complaint):
                await alice.call("$names@bob", request)
        assert await alice.call("$names@bob", ("holds", [("boss", 1, 1)])) == [False]
    assert not bob._runtime.naming.registry._claims


async def test_a_group_is_all_that_joined_it(three: list[Node]) -> None:
    """N3: everybody, the local ones, one of them; and whoever ends or leaves is out."""
    alice, bob, carol = three
    got: list[tuple[str, Any]] = []

    async def worker(me: Process) -> None:
        async for message in me:
            if isinstance(message, Call):
                message.reply(me.id)
            else:
                got.append((me.id.node.name, message))

    workers = [node.spawn(worker) for node in three for _ in range(2)]
    by_node = {node.id: node for node in three}
    for process in workers:
        by_node[process.node].group("workers").join(process)
    with trio.fail_after(10):
        group = carol.group("workers")
        await until(lambda: len(group.members()) == 6)
        assert group.members() == sorted(workers)
        assert await group.send("all") == 6
        assert await group.send("local", local=True) == 2
        assert await group.send_one("one") in group.local_members()
        await until(lambda: len(got) == 9)
        assert sorted(got) == sorted(
            [(node.name, "all") for node in three for _ in range(2)]
            + [("carol", "local")] * 2
            + [("carol", "one")]
        )
        assert await group.call_one("who") in group.local_members()
        # Another node's of the same number, and one of a former life of this node, are not in it.
        alice.group("workers").leave(workers[4])
        former = replace(carol.id, incarnation=carol.id.incarnation - 1)
        group.leave(ProcessId(former, workers[4].number))
        assert group.members() == sorted(workers)
        for process in workers[4:]:
            group.leave(process)
        alice.exit(workers[0])
        for node in (bob, carol):
            await until(lambda node=node: node.group("workers").members() == workers[1:4])
        assert await group.call_one("who") in workers[1:4]
        with pytest.raises(NoSuchProcess):
            carol.group("nobody").pick()
        assert await carol.group("nobody").send("hello") == 0


async def test_a_node_that_leaves_takes_its_names_along(nodes: Any, three: list[Node]) -> None:
    alice, bob, _ = three
    with trio.fail_after(10):
        boss = bob.spawn(echo)
        await bob.register_global("boss", boss)
        bob.group("workers").join(boss)
        await known(three, "boss")
        await until(lambda: alice.group("workers").members() == [boss])
        await nodes.close(bob)
        await until(lambda: alice.group("workers").members() == [])
        assert await alice.whereis("boss@*") is None
        again = await nodes.open("bob")
        await again.wait_for_members(3)
        other = again.spawn(echo)
        await again.register_global("boss", other)
        await until(lambda: alice._runtime.naming.find("boss") == other)


async def test_an_observer_finds_names_of_the_cluster(nodes: Any, three: list[Node]) -> None:
    bob = three[1]
    with trio.fail_after(10):
        boss = bob.spawn(echo)
        await bob.register_global("boss", boss)
        await known(three, "boss")
        watcher = await nodes.open("watcher", observer=True)
        await watcher.wait_for_members(3)
        assert await watcher.whereis("boss@*") == boss
        with pytest.raises(ConfigError, match="observer"):
            await watcher.register_global("mine", watcher.spawn(echo))


@pytest.mark.parametrize("members", [3, 8])
async def test_an_observer_hears_of_names_as_soon_as_members_do(
    members: int, autojump_clock: Any
) -> None:
    """It need not wait until it compares, every two seconds; in a mesh, and beyond one."""
    config = Config(membership=MembershipSettings(mesh_size=4, rings=2))
    async with steinadler.testing.SimulatedCluster(seed=1, config=config) as cluster:
        nodes = await cluster.start(*(f"n{number:02}" for number in range(members)))
        (watcher,) = await cluster.start("watcher", observer=True)
        with trio.fail_after(30):
            await cluster.agreed()
        for number in range(5):
            await trio.sleep(1 + number / 5)  # wherever its clock is
            boss = nodes[-1].spawn(echo)
            await nodes[-1].register_global("boss", boss)
            nodes[-1].group("bosses").join(boss)
            await trio.sleep(0.1)
            assert await watcher.call("boss@*", 1) == (boss, 1)
            assert watcher.group("bosses").members() == [boss]
            nodes[-1].exit(boss)
            await trio.sleep(0.1)
            assert watcher.group("bosses").members() == []
            with pytest.raises(NoSuchProcess):
                await watcher.call("boss@*", 2)


async def test_halves_that_merge_leave_one_holder_and_tell_the_other(autojump_clock: Any) -> None:
    """N2: the same winner everywhere; the loser, and its node's programs, are told."""
    told: list[Any] = []

    async def trapping(me: Process) -> None:
        me.trap_exits = True
        told.append(await me.receive())

    async with steinadler.testing.SimulatedCluster(seed=5) as cluster:
        alice, bob, carol = await cluster.start("alice", "bob", "carol")
        await cluster.agreed()
        with cluster.partition({"alice", "bob"}, {"carol"}):
            await trio.sleep(10)
            first = alice.spawn(echo)
            await alice.register_global("boss", first)
            await trio.sleep(1)
            second = carol.spawn(trapping)
            await carol.register_global("boss", second)
            assert await bob.whereis("boss@*") == first
            assert await carol.whereis("boss@*") == second
            events = carol.events()
        await cluster.agreed()
        with trio.fail_after(10):
            async for event in events:
                if type(event).__name__ == "NameConflict":
                    assert (event.name, event.winner, event.loser) == ("boss", first, second)
                    break
        await trio.sleep(5)  # of virtual time
        assert {await node.whereis("boss@*") for node in (alice, bob, carol)} == {first}
        (exit_,) = told
        assert isinstance(exit_, Exit)
        assert exit_.reason == f"NameConflict: the name 'boss' belongs to {first}"


async def test_news_of_a_name_that_was_given_back_since_cost_nobody_that_name(
    three: list[Node], monkeypatch: pytest.MonkeyPatch
) -> None:
    """N2: whoever has a name keeps it, however late it hears that somebody had it before."""
    alice, bob, carol = three
    naming, late = bob._runtime.naming, []
    received = naming.received

    def receive_late(link: Any, data: bytes) -> None:
        if link.node == alice.id:
            late.append((link, data))
        else:
            received(link, data)

    answers: list[bool] = []
    registry = alice._runtime.naming.registry
    holds = registry.holds

    def hold(*claim: Any) -> bool:
        answers.append(holds(*claim))
        return answers[-1]

    former, holder = alice.spawn(echo), bob.spawn(echo)
    with trio.fail_after(20), monkeypatch.context() as patch:
        patch.setattr(naming, "received", receive_late)
        patch.setattr(registry, "holds", hold)
        await alice.register_global("boss", former)
        await known([alice, carol], "boss")
        heard = len(late)
        alice.unregister_global("boss")
        await until(lambda: not carol._runtime.naming.find("boss"))
        await bob.register_global("boss", holder)
        for link, data in late[:heard]:
            received(link, data)
        assert naming.find("boss") == former  # as far as bob knows, and so it asks
        await until(lambda: answers)
        assert not any(answers)
        for link, data in late[heard:]:
            received(link, data)
    await until(lambda: all(node._runtime.naming.find("boss") == holder for node in three))
    assert await alice.call("boss@*", 1) == (holder, 1)


async def test_what_one_member_of_a_group_cannot_take_the_others_get(nodes: Any) -> None:
    """One error, and no group of them: by a node's limits some do not get it, and all others do."""
    got: list[str] = []

    async def worker(me: Process) -> None:
        async for message in me:
            text = f"{me.id.node.name} {len(message)}"
            got.append(text)

    async def stuck(me: Process) -> None:
        await trio.sleep_forever()

    small = steinadler.Config(wire=steinadler.WireSettings(max_message_bytes=1000, max_channels=16))
    alice = await nodes.open("alice")
    bob = await nodes.open("bob", config=small)
    await alice.wait_for_members(2)
    group = alice.group("workers")
    for node in (alice, bob):
        node.group("workers").join(node.spawn(worker))
    await until(lambda: len(group.members()) == 2)
    with trio.fail_after(10):
        with pytest.raises(steinadler.MessageTooLarge) as caught:
            await group.send("x" * 2000)
        assert caught.value.__notes__ == ["1 of 2 members did not get it"]
        assert await group.send("x" * 10) == 2
        await until(lambda: len(got) == 3)
        assert sorted(got) == ["alice 10", "alice 2000", "bob 10"]
        with pytest.raises(steinadler.NotEncodable):
            await group.send(object())
        for _ in range(20):  # more than have a place at once, and none of them takes anything
            bob.group("workers").join(bob.spawn(stuck))
        await until(lambda: len(group.members()) == 22)
        with pytest.raises(steinadler.DeliveryError, match="max_channels") as refused:
            await group.send("y" * 20)
        assert len(refused.value.__notes__) == 1
        await until(lambda: "alice 20" in got)


async def test_a_claim_that_comes_to_nothing_is_given_up(
    three: list[Node], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The arbiter holds the name for a process that ends, or does not wait for the answer, no
    longer than it takes to tell."""
    alice, bob, carol = three
    name = next(f"n{n}" for n in range(99) if bob._runtime.naming._arbiter(f"n{n}") == "carol")
    with trio.fail_after(5):
        process = alice.spawn(echo)
        with trio.CancelScope() as scope:
            scope.cancel()
            await alice.register_global(name, process)
        assert scope.cancelled_caught
        ends = alice.spawn(echo)
        reserve = carol._runtime.naming.reserve

        def reserve_and_kill(*claim: Any) -> ProcessId | None:
            alice.exit(ends, "kill")
            return reserve(*claim)

        monkeypatch.setattr(carol._runtime.naming, "reserve", reserve_and_kill)
        with pytest.raises(NoSuchProcess):
            while True:  # carol may not have been told yet that the first claim is given up
                with suppress(NameConflict):
                    await alice.register_global(name, ends)
                    break
                ends = alice.spawn(echo)
        while True:  # at the latest after RESERVED_S, which is more than there is time for
            try:
                await bob.register_global(name, bob.spawn(echo))
                break
            except NameConflict:
                await trio.lowlevel.checkpoint()


async def test_a_name_is_registered_while_its_arbiter_closes(nodes: Any, three: list[Node]) -> None:
    """What it no longer answers, the next one does."""
    _, bob, carol = three
    names = [f"n{n}" for n in range(99) if bob._runtime.naming._arbiter(f"n{n}") == "carol"]
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(nodes.close, carol)
            while len(bob.members()) == 3:
                await bob.register_global(names.pop(), bob.spawn(echo))
        assert names
