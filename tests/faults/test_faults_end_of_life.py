"""A cut that outlasts the peer's life: everybody is told, once, and lives do not mix (D1, D3, M4).

Bob dies while nothing passes between him and alice, and comes back as a new life: during the cut
or after it, with a third who sees it or with nobody.
"""

from __future__ import annotations

from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import trio
from cut_wires import Ways, open_cut_node
from programs_of_faults import collect_messages, tell
from running_programs import Program
from simulated import collect, until
from trio.testing import MockClock

from steinadler import Down, MailboxFull, Node, Process, ProcessId
from steinadler import NodeDown as NodeDownError
from steinadler.identity import parse_address
from steinadler.node import NodeDown, NodeUp
from steinadler.testing import SimulatedCluster

CASES = [
    pytest.param(
        seed,
        restart,
        third,
        id=f"{seed}-{restart}-{'with a third' if third else 'alone'}",
        marks=() if (seed, restart) == (0, "both") else pytest.mark.slow,
    )
    for seed in (0, 100, 101)
    for restart in ("in the cut", "after it", "both")
    for third in (False, True)
]
WATCHERS = 10


class Witness:
    """All that alice is told of bob: by monitors, calls, messages and events."""

    def __init__(self, alice: Node) -> None:
        self.alice = alice
        self.ends: Counter[str] = Counter()  # of handles, calls and senders
        self.downs: list[Down] = []  # of the monitors of a process
        self.events: list[tuple[int, str]] = []  # of bob's lives
        self.heard: list[int] = []  # from which of bob's lives, in the order received

    async def listen(self, *, task_status: trio.TaskStatus[None]) -> None:
        events = self.alice.events()
        task_status.started()
        async for event in events:
            if isinstance(event, (NodeUp, NodeDown)) and event.member.node.name == "bob":
                self.events.append((event.member.node.incarnation, type(event).__name__))

    async def hear(self, me: Process) -> None:
        await collect(me, self.heard)

    async def watch(self, me: Process, target: ProcessId) -> None:
        for _ in range(WATCHERS):
            me.monitor(target)
        await collect(me, self.downs)

    async def hold(self, target: ProcessId) -> None:
        async with self.alice.monitor(target) as down:
            reason = (await down.wait()).reason
            self.ends[f"handle: {reason}"] += 1
            await trio.sleep(1)
            assert down.down is not None

    async def ask(self, target: ProcessId | str) -> None:
        try:
            await self.alice.call(target, "?")
        except NodeDownError:
            self.ends["call: NodeDown"] += 1

    async def send(self, target: ProcessId) -> None:
        """Messages to a process of one life, until that is down."""
        try:
            while True:
                await self.alice.send(target, target.node.incarnation)
                await trio.sleep(0.01)
        except NodeDownError:
            self.ends["sender: NodeDown"] += 1

    async def send_by_name(self) -> None:
        """Messages to a name, each for the life that is up when it is sent."""
        while True:
            member = self.alice._peering.member("bob")
            if member is not None:
                # Full: known through others, and not connected yet.
                with suppress(MailboxFull):
                    self.alice.send_nowait("target@bob", member.node.incarnation)
            await trio.sleep(0.01)

    def begin(self, nursery: trio.Nursery, target: ProcessId) -> None:
        """Monitors and calls, many of each, on a process of bob's that never answers."""
        self.alice.spawn(self.watch, target)
        for number in range(WATCHERS):
            nursery.start_soon(self.hold, target)
            nursery.start_soon(self.ask, target if number % 2 else "target@bob")
        nursery.start_soon(self.send, target)

    def check(self, target: ProcessId, new_life: int) -> None:
        """Everybody was told of the end of the former life, once; and nothing of it came later."""
        old_life = target.node.incarnation
        assert self.ends == {
            "handle: noconnection": WATCHERS,
            "call: NodeDown": WATCHERS,
            "sender: NodeDown": 1,
        }
        told = [(down.process, down.reason) for down in self.downs]
        assert told == [(target, "noconnection")] * WATCHERS
        assert len({down.reference for down in self.downs}) == WATCHERS
        # A life between the two may have been heard of through others, or never.
        lives = sorted({life for life, _ in self.events})
        assert (lives[0], lives[-1]) == (old_life, new_life)
        expected = [(life, what) for life in lives for what in ("NodeUp", "NodeDown")]
        assert self.events == expected[1:-1]
        assert self.heard == sorted(self.heard)
        assert {old_life, new_life} <= set(self.heard)


@pytest.mark.parametrize(("seed", "restart", "third"), CASES)
async def test_a_life_that_ends_in_a_cut_ends_once(
    seed: int, restart: str, third: bool, autojump_clock: MockClock
) -> None:
    """D1, D3, M4: exactly one Down per monitor, one NodeDown per call, one NodeDown event."""
    async with SimulatedCluster(seed, latency_s=(0.0005, 0.01)) as cluster:
        alice, bob = await cluster.start("alice", "bob")
        if third:
            await cluster.start("carol")
        witness = Witness(alice)
        old: list[Any] = []
        new: dict[int, list[Any]] = {}  # by life
        with trio.fail_after(120):
            await cluster.agreed()
            async with trio.open_nursery() as nursery:
                await nursery.start(witness.listen)
                nursery.start_soon(witness.send_by_name)
                alice.spawn(witness.hear, name="hear")
                async with trio.open_nursery() as ending:
                    bob.spawn(tell)
                    target = bob.spawn(collect_messages, old, name="target")
                    witness.begin(ending, target)
                    await trio.sleep(0.5 + seed % 10 / 100)
                    with cluster.partition({"alice"}, {"bob"}):
                        await trio.sleep(0.2)
                        cluster.crash("bob")
                        if restart != "after it":
                            bob = await begin_again(cluster, new)
                            await trio.sleep(1 + seed % 7 / 2)
                            if restart == "both":
                                cluster.crash("bob")
                    if restart != "in the cut":
                        bob = await begin_again(cluster, new)
                await cluster.agreed()
                await trio.sleep(10)  # whatever may still come
                nursery.cancel_scope.cancel()
        assert old
        witness.check(target, bob.id.incarnation)
        assert new[bob.id.incarnation]
        # One list for each life since: nothing that was sent to another one.
        assert all(set(got) <= {life} for life, got in new.items())


async def begin_again(cluster: SimulatedCluster, into: dict[int, list[Any]]) -> Node:
    """A new life of bob, with processes of the same names and numbers."""
    bob = await cluster.restart("bob")
    bob.spawn(tell)
    got = into[bob.id.incarnation] = []
    bob.spawn(collect_messages, got, name="target")
    return bob


@pytest.mark.slow
async def test_a_process_killed_in_a_cut_ends_once(tmp_path: Path, nursery: trio.Nursery) -> None:
    """D1, D3, M4: as above, with real processes, SIGKILL and sockets."""
    ways = Ways(nursery)

    async def begin_bob(alice: Node) -> tuple[Program, int]:
        program = await nursery.start(Program.run, tmp_path, "live", str(alice.addresses[0]))
        facts = await program.answer()
        ways.listens("bob", (parse_address(facts["address"]),))
        return program, facts["incarnation"]

    async with open_cut_node("alice", ways, tmp_path, advertised_to="bob") as alice:
        witness = Witness(alice)
        alice.spawn(witness.hear, name="hear")
        with trio.fail_after(40):
            async with trio.open_nursery() as listening:
                first, old_life = await begin_bob(alice)
                member = await alice.wait_for_member("bob")
                assert member.node.incarnation == old_life
                target = await alice.whereis("target@bob")
                assert target is not None
                await listening.start(witness.listen)
                listening.start_soon(witness.send_by_name)
                async with trio.open_nursery() as ending:
                    witness.begin(ending, target)
                    await until(lambda: len(witness.heard) > 10, within_s=5)
                    with ways.held("alice", "bob"):
                        held_at = trio.current_time()
                        await trio.sleep(0.2)
                        first.kill()
                        second, new_life = await begin_bob(alice)
                        await trio.sleep(0.3)
                        # A busy machine may take longer to start a program than silence may last.
                        if trio.current_time() - held_at < 2:
                            assert not witness.events
                            assert not witness.ends
                await until(lambda: witness.heard[-1] == new_life, within_s=10)
                assert await alice.whereis("target@bob") == ProcessId(
                    (await alice.wait_for_member("bob")).node, target.number
                )
                got = await alice.call("told@bob", None)
                while not got:
                    got = await alice.call("told@bob", None)
                listening.cancel_scope.cancel()
        witness.check(target, new_life)
        assert set(got) == {new_life}
        second.kill()
