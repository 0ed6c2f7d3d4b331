"""What a policy lets nodes of several roles do, seen from both ends (X4, D1)."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager, suppress
from dataclasses import fields
from typing import Any

import pytest
import trio
from simulated import collect, echo, idle, until
from trio.testing import MockClock

import steinadler
from steinadler import (
    Call,
    ChildSpec,
    Config,
    DialSettings,
    Down,
    Exit,
    Grants,
    MembershipSettings,
    Node,
    NoSuchEntityType,
    NoSuchProcess,
    NoSuchService,
    NotAuthorized,
    Policy,
    Process,
    RemoteError,
    SupervisorSpec,
    supervision,
)
from steinadler.membership.overlay import Overlay
from steinadler.testing import SimulatedCluster, faults
from steinadler.testing.faults import Refuse

ALL = Grants(**{field.name: ("*",) for field in fields(Grants)})
# What bob, who is a node, lets gateways do; the gateway's own policy, where it needs one.
NARROW = Policy(
    {
        "gateway": Grants(
            look=("info",),
            send=("orders",),
            call=("orders", "tickets.*"),
            monitor=("orders",),
            spawn=("simulated_policy_*",),
            connect=("web",),
        )
    }
)
WIDE = Policy({"gateway": ALL})


@steinadler.export
async def simulated_policy_answer(me: Process) -> int:
    return 42


@steinadler.export
async def another_simulated_answer(me: Process) -> int:
    return 43


class Cart(steinadler.Entity):
    items: int = 0

    @steinadler.command
    async def add(self, n: int) -> int:
        self.items += n
        return self.items


async def both(cluster: SimulatedCluster, policy: Policy = NARROW) -> tuple[Node, Node]:
    """A gateway that holds itself to nothing, and bob, who does it for it."""
    (bob,) = await cluster.start("bob", policy=policy)
    (gate,) = await cluster.start("gate", role="gateway", policy=WIDE)
    with trio.fail_after(10):
        await cluster.agreed()
    return gate, bob


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.name == "steinadler.audit"]


async def refused(what: Awaitable[Any]) -> str:
    with pytest.raises(NotAuthorized) as caught:
        await what
    return str(caught.value)


async def test_a_call_that_is_refused_says_what_and_by_whom(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with SimulatedCluster(1) as cluster:
        gate, bob = await both(cluster)
        ledger = bob.spawn(echo, name="ledger")
        orders = bob.spawn(echo, name="orders")
        with trio.fail_after(10):
            assert await gate.call("orders@bob", 1) == 1
            assert await gate.call(orders, 2) == 2
            by_name = await refused(gate.call("ledger@bob", 3))
            by_number = await refused(gate.call(ledger, 4))
            # Whether there is such a process is not told to who may not call it.
            await refused(gate.call("nobody@bob", 5))
            assert await bob.call("ledger", 6) == 6
        assert by_name == by_number == "bob does not let gateway 'gate' call 'ledger'"
        assert lines(caplog)[0].startswith("refused: node 'gate' (gateway, ")
        assert lines(caplog)[0].endswith(
            " may not call 'ledger' on bob: roles.gateway has call = " + '["orders", "tickets.*"]'
        )
        assert len(lines(caplog)) == bob.statistics().refusals == 3
        assert gate.statistics().refusals == 0


async def test_a_message_that_is_refused_reaches_nobody_and_is_counted(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with SimulatedCluster(1) as cluster:
        gate, bob = await both(cluster)
        got: list[Any] = []
        ledger = bob.spawn(collect, got, name="ledger")
        bob.spawn(collect, got, name="orders")
        window = Config().wire.window_bytes
        with trio.fail_after(60):
            for n in range(100):  # more than the window: credit comes back
                await gate.send("ledger@bob", b"x" * (window // 20))
                await gate.send(ledger, n)
            await gate.send("orders@bob", "mine")
            await until(lambda: bob.statistics().refusals == 200, 10)
            await until(lambda: got == ["mine"], 10)
        assert bob.statistics().messages_dropped == 0
        assert "may not send to 'ledger' on bob" in lines(caplog)[0]


async def test_what_a_name_allows_goes_with_the_name(autojump_clock: MockClock) -> None:
    """A process is what it is called: now, and not when it was first written to."""
    async with SimulatedCluster(1) as cluster:
        gate, bob = await both(cluster)
        process = bob.spawn(echo)
        with trio.fail_after(10):
            await refused(gate.call(process, 1))  # it has no name
            bob.register("ledger", process)
            await refused(gate.call(process, 2))
            bob.register("tickets.7", process)
            assert await gate.call(process, 3) == 3
            await refused(gate.call("ledger@bob", 4))
            bob.unregister("tickets.7")
            await refused(gate.call(process, 5))
            bob.exit(process)
            await until(lambda: process not in [each.id for each in bob.processes()], 5)
            with pytest.raises(NoSuchProcess):  # it may be anybody's to know that it ended
                await gate.call(process, 6)


async def test_an_error_of_a_process_that_is_called_so_too_is_that_process_s(
    autojump_clock: MockClock,
) -> None:
    class NotAuthorized(Exception):
        pass

    async def strict(me: Process) -> None:
        async for message in me:
            if isinstance(message, Call):
                message.fail(NotAuthorized("go away"))

    async with SimulatedCluster(1) as cluster:
        gate, bob = await both(cluster)
        bob.spawn(strict, name="orders")
        with trio.fail_after(10), pytest.raises(RemoteError, match="NotAuthorized: go away"):
            await gate.call("orders@bob", 1)


async def test_a_monitor_that_is_refused_fires_once_and_says_so(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """D1: for handles and processes, and not again when the process ends or its node goes."""
    got: list[Any] = []

    async def watch(me: Process, *targets: Any) -> None:
        for target in targets:
            me.monitor(target)
        await collect(me, got)

    async with SimulatedCluster(1) as cluster:
        gate, bob = await both(cluster)
        orders, ledger = bob.spawn(idle, name="orders"), bob.spawn(idle, name="ledger")
        gate.spawn(watch, ledger, "ledger@bob", orders)
        with trio.fail_after(10):
            async with gate.monitor(ledger) as down, gate.monitor(orders) as fine:
                assert (await down.wait()).reason == "notauthorized"
                await until(lambda: len(got) == 2, 5)
                assert [down.reason for down in got] == ["notauthorized"] * 2
                bob.exit(ledger)
                bob.exit(orders)
                assert (await fine.wait()).reason == "shutdown"
                await until(lambda: len(got) == 3, 5)
            async with gate.monitor(ledger) as late:  # which ended: it is not there
                assert (await late.wait()).reason == "noproc"
        await cluster.stop("bob")
        await trio.sleep(5)
        assert len(got) == 3
        assert isinstance(got[2], Down)
        assert got[2].process == orders
        assert sum("may not monitor 'ledger'" in line for line in lines(caplog)) == 3


async def test_a_link_that_is_refused_ends_whoever_asked(autojump_clock: MockClock) -> None:
    """D4: as it would with a process that is not there; and nothing is tied to the other."""
    got: list[Any] = []

    async def tie(me: Process, other: Any, traps: bool) -> None:
        me.trap_exits = traps
        me.link(other)
        await collect(me, got)

    async with SimulatedCluster(1) as cluster:
        gate, bob = await both(cluster)
        ledger = bob.spawn(idle, name="ledger")
        with trio.fail_after(10):
            one = gate.spawn(tie, ledger, False)
            async with gate.monitor(one) as down:
                assert (await down.wait()).reason == "notauthorized"
            other = gate.spawn(tie, ledger, True)
            await until(lambda: got == [Exit(ledger, "notauthorized")], 5)
            gate.exit(other, "kill")
            # What bob asks for himself is his to have: a link to a gateway's process carries.
            mine = bob.spawn(tie, third := gate.spawn(idle), False)
            async with bob.monitor(mine) as down:
                await trio.sleep(1)
                gate.exit(third, "kill")
                assert (await down.wait()).reason == "killed"
        assert await bob.whereis("ledger") == ledger


async def test_asking_a_process_to_exit_is_refused(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with SimulatedCluster(1) as cluster:
        gate, bob = await both(cluster)
        orders = bob.spawn(echo, name="orders")
        with trio.fail_after(10):
            gate.exit(orders, "kill")
            gate.exit("orders@bob")
            await until(lambda: bob.statistics().refusals == 2, 5)
            assert await gate.call(orders, "still here") == "still here"
        assert "may not ask to exit 'orders'" in lines(caplog)[0]


async def test_exports_by_name(autojump_clock: MockClock) -> None:
    async with SimulatedCluster(1) as cluster:
        gate, _ = await both(cluster)
        with trio.fail_after(10):
            assert await gate.run_on("bob", simulated_policy_answer) == 42
            text = await refused(gate.run_on("bob", another_simulated_answer))
            assert text == "bob does not let gateway 'gate' spawn 'another_simulated_answer'"
            await refused(gate.spawn_on("bob", another_simulated_answer))
            outcomes = await gate.run_on(steinadler.ALL, another_simulated_answer)
            assert outcomes["gate"].unwrap() == 43  # its own
            assert isinstance(outcomes["bob"].error, NotAuthorized)
            # Nor by way of what starts the children of supervisors, which run by name.
            child = (gate.spawn(idle), 1, "another_simulated_answer", ())
            text = await refused(gate.spawn_on("bob", "$child", *child))
            assert text == "bob does not let gateway 'gate' spawn 'another_simulated_answer'"
            child = (gate.spawn(idle), 1, "simulated_policy_answer", ())
            assert await gate.spawn_on("bob", "$child", *child)
            # Nor is told what there is.
            await refused(gate.run_on("bob", "no_such_export"))


async def test_looking_is_by_what_is_looked_at(autojump_clock: MockClock) -> None:
    async with SimulatedCluster(1) as cluster:
        gate, bob = await both(cluster)
        with trio.fail_after(10):
            assert (await gate.call("$info@bob", None))["name"] == "bob"
            for name, request in (
                ("echo", 1),
                ("names", ("whereis", "x")),
                ("statistics", ("statistics", 1)),
            ):
                text = await refused(gate.call(f"${name}@bob", request))
                assert text == f"bob does not let gateway 'gate' look at '{name}'"
            text = await refused(gate.call("$relay@bob", ("reach", bob.id, 1)))
            assert text == "bob does not let gateway 'gate' be relayed to 'bob'"


async def test_names_of_the_cluster(autojump_clock: MockClock) -> None:
    """N2: who may not have a name is not let pass, and does not have it for those who mind."""
    async with SimulatedCluster(1) as cluster:
        gate, bob = await both(cluster)
        mine = gate.spawn(echo)
        with trio.fail_after(60):
            # The arbiter of some is bob, who refuses; of others, as it thinks, the gateway itself.
            passed = []
            for n in range(20):
                with suppress(NotAuthorized):
                    await gate.register_global(f"name-{n}", mine)
                    passed.append(n)
            assert 0 < len(passed) < 20
            gate.group("workers").join(mine)
            await trio.sleep(5)
            for n in range(20):
                assert await bob.whereis(f"name-{n}@*") is None
            assert bob.group("workers").members() == []
            # An older claim of that kind takes nothing from anybody.
            n = passed[0]
            theirs = bob.spawn(echo)
            await bob.register_global(f"name-{n}", theirs)
            await trio.sleep(5)
            assert await bob.whereis(f"name-{n}@*") == theirs
            assert await bob.call(theirs, "alive") == "alive"


@pytest.mark.parametrize("kind", [steinadler.supervisor, steinadler.cluster_supervisor])
async def test_who_may_call_a_supervisor_may_have_it_start_what_he_may_spawn(
    kind: Any, autojump_clock: MockClock
) -> None:
    policy = Policy({"gateway": Grants(call=("top",), spawn=("simulated_policy_*",))})
    async with SimulatedCluster(1) as cluster:
        gate, bob = await both(cluster, policy)
        bob.spawn(kind, SupervisorSpec(), name="top")
        with trio.fail_after(10):
            for child in (another_simulated_answer, "another_simulated_answer", "$supervisor"):
                text = await refused(
                    supervision.start_child(gate, "top@bob", ChildSpec("x", child))
                )
                assert "let gateway 'gate' spawn" in text
            assert await supervision.which_children(gate, "top@bob") == []
            mine = ChildSpec("x", simulated_policy_answer, restart="transient")
            await supervision.start_child(gate, "top@bob", mine)
            theirs = ChildSpec("y", another_simulated_answer, restart="transient")
            await supervision.start_child(bob, "top", theirs)


async def test_a_supervisor_gives_up_where_its_children_may_not_call_it(
    autojump_clock: MockClock,
) -> None:
    """Each process there asks, is refused and ends: that is no node which closes."""
    async with SimulatedCluster(1) as cluster:
        _, bob = await both(cluster, Policy({"gateway": Grants()}))
        spec = SupervisorSpec([ChildSpec("x", simulated_policy_answer)])
        top = bob.spawn(steinadler.cluster_supervisor, spec, {"$role": "gateway"})
        async with bob.monitor(top) as down:
            with trio.fail_after(10):
                assert "'x' did not start" in (await down.wait()).reason


async def test_a_node_holds_what_it_says_of_itself_against_its_own_policy(
    autojump_clock: MockClock,
) -> None:
    async with SimulatedCluster(1) as cluster:
        (gate,) = await cluster.start("gate", role="gateway")  # the default for such a role
        process = gate.spawn(echo, name="orders")
        with trio.fail_after(10):
            text = await refused(gate.register_global("orders", process))
            assert "its own policy does not let those register 'orders'" in text
            with pytest.raises(NotAuthorized, match="join the group 'workers'"):
                gate.group("workers").join(process)
            with pytest.raises(NotAuthorized, match="host entities of 'Cart'"):
                gate.host(Cart)
            with pytest.raises(NotAuthorized, match="offer 'web'"):
                gate.listen("web")
            # But nothing that its processes do among themselves.
            assert await gate.call("orders", 1) == 1
            assert await gate.run_on("gate", simulated_policy_answer) == 42
        assert gate.labels == {"$role": "gateway"}


async def test_entities_are_not_placed_on_who_may_not_host_them(
    autojump_clock: MockClock,
) -> None:
    async with SimulatedCluster(1) as cluster:
        gate, bob = await both(cluster)
        gate.host(Cart)  # its own policy lets it
        with trio.fail_after(60):
            await until(lambda: member_of(bob, "gate").label("$entities") == "Cart", 5)
            with pytest.raises(NoSuchEntityType):
                await bob.entity("Cart", "1").call("add", 1, timeout_s=1)
            bob.host(Cart)
            assert {bob.entity("Cart", str(n)).owner for n in range(20)} == {"bob"}
            assert await bob.entity("Cart", "1").call("add", 1) == 1
            # And whoever thinks otherwise, and asks, hears that it may not.
            refs = [gate.entity("Cart", str(n)) for n in range(20)]
            await until(lambda: {ref.owner for ref in refs} == {"bob", "gate"}, 5)
            text = await refused(next(r for r in refs if r.owner == "bob").call("add", 1))
            assert text == "bob does not let gateway 'gate' call entities of 'Cart'"


def member_of(node: Node, name: str) -> steinadler.Member:
    return next(member for member in node.members() if member.node.name == name)


async def test_a_sidecar_hosts_and_calls_entities_and_spawns_nothing(
    autojump_clock: MockClock,
) -> None:
    async with SimulatedCluster(1) as cluster:
        (bob,) = await cluster.start("bob")
        (cars,) = await cluster.start("cars", role="sidecar")
        with trio.fail_after(60):
            await cluster.agreed()
            bob.host(Cart)
            cars.host(Cart)
            bob.spawn(echo, name="orders")
            refs = [cars.entity("Cart", str(n)) for n in range(20)]
            await until(lambda: {ref.owner for ref in refs} == {"bob", "cars"}, 5)
            assert [await ref.call("add", 1) for ref in refs] == [1] * 20
            again = [await bob.entity("Cart", str(n)).call("add", 1) for n in range(20)]
            assert again == [2] * 20
            await refused(cars.run_on("bob", simulated_policy_answer))
            await refused(cars.call("orders@bob", 1))


async def test_services(autojump_clock: MockClock) -> None:
    async with SimulatedCluster(1) as cluster:
        gate, bob = await both(cluster)
        with bob.listen("web"), bob.listen("admin"), gate.listen("web"), gate.listen("db"):
            with trio.fail_after(10):
                await until(lambda: "db" in gate.services() and "admin" in gate.services(), 5)
                await until(lambda: member_of(bob, "gate").label("$services") is not None, 5)
                assert (await gate.connect("web@bob")).peer == bob.id
                text = await refused(gate.connect("admin@bob"))
                assert text == "bob does not let gateway 'gate' connect to 'admin'"
                # What it offers, nobody is sent to.
                assert {
                    name: [m.node.name for m in who] for name, who in bob.services().items()
                } == {
                    "admin": ["bob"],
                    "web": ["bob"],
                }
                for _ in range(4):
                    assert (await bob.connect("web@*")).peer == bob.id
                with pytest.raises(NoSuchService):
                    await bob.connect("db@*")
                # But who names the node has chosen.
                assert (await bob.connect("db@gate")).peer == gate.id


async def test_observers_may_look_and_call_and_no_more(autojump_clock: MockClock) -> None:
    async with SimulatedCluster(1) as cluster:
        (bob,) = await cluster.start("bob")
        (eye,) = await cluster.start("eye", observer=True)
        process = bob.spawn(echo, name="orders")
        with trio.fail_after(10):
            await eye.wait_for_member("bob")
            assert await eye.whereis("orders@bob") == process
            assert await eye.call("orders@bob", 1) == 1
            assert await eye.call("$statistics@bob", ("statistics", 1))
            await eye.send("orders@bob", "noted")
            await refused(eye.run_on("bob", simulated_policy_answer))
            eye.exit("orders@bob", "kill")
            await until(lambda: bob.statistics().refusals == 2, 5)
            assert await eye.call("orders@bob", 2) == 2


async def test_a_flood_of_refusals_is_few_lines_and_all_are_told_in_the_end(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with SimulatedCluster(1) as cluster:
        gate, bob = await both(cluster)
        bob.spawn(echo, name="ledger")
        with trio.fail_after(60):
            for n in range(2000):
                await gate.send("ledger@bob", n)
            await until(lambda: bob.statistics().refusals == 2000, 10)
            await trio.sleep(15)
    assert len(lines(caplog)) < 25
    told = [int(line.split("(and ")[1].split()[0]) for line in lines(caplog) if "(and" in line]
    ones = sum(line.startswith("refused: ") for line in lines(caplog))
    summaries = [line for line in lines(caplog) if line.startswith("refused, and not told")]
    rest = [int(line.split(": ")[1].split()[0]) for line in summaries]
    assert summaries
    assert summaries[0].endswith(" of gate on bob")
    assert ones + sum(told) + sum(rest) == 2000


# -- where a node has seen no certificate ------------------------------------------------------

RING = Config(
    membership=MembershipSettings(mesh_size=2, rings=1, probe_interval_s=1),
    dial=DialSettings(max_relayed=0),
)
NAMES = [f"n{n}" for n in range(4)]


@asynccontextmanager
async def ring() -> AsyncIterator[tuple[SimulatedCluster, Node, list[Node]]]:
    """Five nodes on a ring, and two of them that have never met the gateway, as it goes in a large
    cluster: they know it from others."""
    overlay = Overlay(2, 1)
    for name in ("gate", *NAMES):
        overlay.add(name)
    strangers = [name for name in NAMES if name not in overlay.neighbours_of("gate")]
    async with SimulatedCluster(1) as cluster:
        apart = [
            faults.between(one, other, Refuse())
            for one, other in ((["gate"], strangers), (strangers, ["gate"]))
        ]
        with cluster.rule(faults.both_ways(*apart)):
            nodes = await cluster.start(*NAMES, config=RING, policy=NARROW)
            (gate,) = await cluster.start("gate", role="gateway", policy=WIDE, config=RING)
            with trio.fail_after(60):
                for node in (*nodes, gate):
                    await node.wait_for_members(5)
            yield cluster, gate, [node for node in nodes if node.name in strangers]
        for node in nodes:
            assert member_of(node, "gate").role == "gateway"


async def test_the_role_of_who_was_never_met_travels_in_its_record(
    autojump_clock: MockClock,
) -> None:
    async with ring() as (cluster, gate, strangers):
        process = gate.spawn(echo)
        gate.group("workers").join(process)
        gate.host(Cart)
        strangers[0].group("others").join(strangers[0].spawn(echo))
        with trio.fail_after(60):
            for node in cluster.running():
                while member_of(node, "gate").label("$entities") is None:
                    await node.wait_for_change()
            await until(lambda: len(strangers[1].group("others").members()) == 1, 20)
        await trio.sleep(5)  # and what the gateway said has got around as well
        for stranger in strangers:
            links = {each.node.name: each for each in stranger.connections()}
            assert "gate" not in links or links["gate"].bytes_received == 0
            assert stranger.group("workers").members() == []
            assert stranger.entity("Cart", "1").owner is None


async def test_a_member_that_says_it_is_another_is_not_believed(
    autojump_clock: MockClock,
) -> None:
    """X3: its neighbours have its certificate; they pass on nothing else, and let it in no more."""
    async with ring() as (cluster, gate, _):
        gate._runtime.peering.relabel(())  # as a malicious one would: a plain node's record
        await trio.sleep(10)
        for node in cluster.running():
            if node is not gate:
                assert member_of(node, "gate").role == "gateway"


async def test_nor_is_one_that_says_so_in_its_hello(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with SimulatedCluster(1) as cluster:
        gate, bob = await both(cluster)
        gate._runtime.peering.relabel(())
        cluster.cut("gate", "bob")
        with trio.fail_after(60):
            await until(lambda: "label $role says that it is 'node'" in caplog.text, 20)
        assert bob._runtime.peering.role_of(gate.id) == "gateway"
