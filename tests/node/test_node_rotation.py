"""Certificates and authorities that change under nodes at work: M3, and who is let in (X2)."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import trio
from joined_homes import all_certified_by, all_hold, join, state_of

import steinadler
from steinadler import Node, Process, RemoteError, open_node
from steinadler.identity import NODE, OBSERVER
from steinadler.node import renewing, trusting
from steinadler.node.events import NodeDown as NodeDownEvent
from steinadler.security import Home, JoinedCredentials
from steinadler.security.authority import fingerprint
from steinadler.security.credentials import utc_now
from steinadler.security.rotation import Rotation
from steinadler.security.trust import is_issued_by

DAY = timedelta(days=1)


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nodes look at their certificates often: these tests are not to take long."""
    monkeypatch.setattr(trusting, "LOOK_INTERVAL_S", 0.1)
    monkeypatch.setattr(renewing, "LOOK_INTERVAL_S", 0.025)
    monkeypatch.setattr(renewing, "RETRY_S", 1.0)


@dataclass
class Traffic:
    """Numbered messages from each node to each other, and what came of them."""

    nodes: list[Node]
    rate: float  # messages a second, of all pairs together
    sent: dict[tuple[str, str], int] = field(default_factory=dict)
    received: dict[tuple[str, str], int] = field(default_factory=dict)
    ended: list[str] = field(default_factory=list)
    stop: bool = False
    seconds: float = 0.0

    async def run(self, *, task_status: trio.TaskStatus[None]) -> None:
        async def sink(me: Process) -> None:
            async for source, number in me:
                pair = (source, me.id.node.name)
                # One more than the last: none lost, none twice, in order (M1-M3).
                assert number == self.received.get(pair, 0) + 1, pair
                self.received[pair] = number

        async def send(node: Node, to: Node) -> None:
            pair, interval = (node.name, to.name), count / self.rate
            due = trio.current_time()
            while not self.stop:
                number = self.sent.get(pair, 0) + 1
                await node.send(f"sink@{to.name}", (node.name, number))
                self.sent[pair] = number
                due += interval
                await trio.sleep_until(due)

        async def watch(node: Node) -> None:
            async for event in events[node]:
                if isinstance(event, NodeDownEvent):
                    self.ended.append(f"{node.name}: {event}")

        count = len(self.nodes) * (len(self.nodes) - 1)
        events = {node: node.events() for node in self.nodes}
        for node in self.nodes:
            node.spawn(sink, name="sink")
        async with trio.open_nursery() as nursery:
            for node in self.nodes:
                nursery.start_soon(watch, node)
            async with trio.open_nursery() as senders:
                for node in self.nodes:
                    for to in self.nodes:
                        if to is not node:
                            senders.start_soon(send, node, to)
                task_status.started()
            with trio.fail_after(10):
                while self.sent != self.received:  # noqa: ASYNC110
                    await trio.sleep(0.01)
            nursery.cancel_scope.cancel()


async def rotate(issuer: Home, nodes: list[Node], *, told: Node) -> str:
    """As `cluster rotate-ca --drop-old` does it; the new authority's fingerprint."""
    rotation = Rotation(issuer.cluster_folder(issuer.default_cluster()))
    for step in (rotation.begin, rotation.switch, rotation.drop):
        trust = await trio.to_thread.run_sync(step)
        await told.call(f"$trust@{told.name}", ("take", trust.document))
        await all_hold(nodes, trust)
        if step == rotation.switch:
            await all_certified_by(nodes, fingerprint(trust.signs))
    rotation.finish()
    return fingerprint(trust.signs)


async def three_homes(nodes: Any, tmp_path: Path) -> tuple[Home, list[Node]]:
    """alice has the authority's key; bob and carol joined, each with a home of its own."""
    issuer = Home(nodes.home)
    alice = await nodes.open("alice")
    opened = [alice]
    for name in ("bob", "carol"):
        home = join(tmp_path / name, issuer, name)
        opened.append(await nodes.open(name, home=home, seeds=alice.addresses))
    with trio.fail_after(10):
        for node in opened:
            await node.wait_for_members(3)
    return issuer, opened


async def under_traffic(
    nodes: Any, tmp_path: Path, rate: float, rounds: int, between: Callable[[Node], None]
) -> Traffic:
    issuer, opened = await three_homes(nodes, tmp_path)
    alice, bob, _ = opened
    traffic = Traffic(opened, rate)
    before = {node.name: (await state_of(alice, node.name))["certified_by"] for node in opened}
    with trio.fail_after(60 * rounds):
        began = trio.current_time()
        async with trio.open_nursery() as nursery:
            await nursery.start(traffic.run)
            for _ in range(rounds):
                for node in opened:
                    between(node)
                new = await rotate(issuer, opened, told=bob)
                assert new not in before.values()
                goal = sum(traffic.sent.values()) + rate  # a second of it, when all goes well
                while sum(traffic.sent.values()) < goal:  # noqa: ASYNC110
                    await trio.sleep(0.05)
            traffic.stop = True
        traffic.seconds = trio.current_time() - began
    for node in opened:
        state = await state_of(node, node.name)
        assert (state["authorities"], state["certified_by"]) == ([new], new)
        assert node.statistics().messages_dropped == 0
        for connection in node.connections():
            # Each connection was made anew when the old authority was dropped: none outlives what
            # it began with.  The session went on.
            assert connection.resumptions >= rounds, connection
    assert traffic.ended == []
    return traffic


async def test_a_rotation_under_load_loses_nothing(nodes: Any, tmp_path: Path) -> None:
    """M1-M3: every certificate and the authority change, and no session ends."""
    traffic = await under_traffic(nodes, tmp_path, 500, 1, lambda _: None)
    assert len(traffic.received) == 6
    assert min(traffic.received.values()) > 20


@pytest.mark.slow
async def test_rotations_under_load_and_broken_connections_lose_nothing(
    nodes: Any, tmp_path: Path
) -> None:
    """M1-M3: the same again and again at 1,000 messages a second, while connections break."""
    rng = random.Random(1)

    def cut(node: Node) -> None:
        for link in node._runtime.peering.connections.links():
            if rng.random() < 0.5:
                link.close_connection()

    traffic = await under_traffic(nodes, tmp_path, 1000, 8, cut)
    assert sum(traffic.received.values()) >= 8000
    print(sum(traffic.received.values()), "messages in", traffic.seconds, "s")  # noqa: T201


def made_long_ago(path: Path) -> Home:
    """A home whose authority was there before certificates that are old now."""
    Home(path, clock=lambda: utc_now() - 10 * DAY).default_cluster()
    return Home(path)


async def valid_for(asker: Node, name: str) -> timedelta:
    until = (await state_of(asker, name))["valid_until"]
    return until - utc_now()  # type: ignore[no-any-return]


async def test_a_certificate_is_renewed_at_two_thirds_of_its_life(
    nodes: Any, tmp_path: Path
) -> None:
    """By whoever has the key; over the connection that is there, which stays (M3)."""
    issuer = made_long_ago(nodes.home)
    alice = await nodes.open("alice")
    young = join(tmp_path / "bob", issuer, "bob", ago=4 * DAY)
    old = join(tmp_path / "carol", issuer, "carol", ago=5 * DAY)
    bob = await nodes.open("bob", home=young, seeds=alice.addresses)
    carol = await nodes.open("carol", home=old, seeds=alice.addresses)
    file = Home(old).cluster_folder(Home(old).default_cluster()).credentials_path(NODE, "carol")
    before = file.read_bytes()
    with trio.fail_after(10):
        while await valid_for(carol, "carol") < 6 * DAY:  # noqa: ASYNC110
            await trio.sleep(0.01)
        assert await valid_for(bob, "bob") < 4 * DAY
    assert file.read_bytes() != before
    assert file.stat().st_mode & 0o777 == 0o600
    assert [c.resumptions for c in carol.connections()] == [0, 0]


async def test_observers_renew_theirs_too(nodes: Any, tmp_path: Path) -> None:
    """`steinadler forward` from a home that joined may run for weeks."""
    issuer = made_long_ago(nodes.home)
    alice = await nodes.open("alice")
    home = join(tmp_path / "bob", issuer, "bob", ago=5 * DAY)
    options = {"home": home, "mdns": False, "observer": True, "seeds": alice.addresses}
    async with open_node("bob.forward", **options) as observer:
        with trio.fail_after(10):
            await observer.wait_for_member("alice")
            while await valid_for(observer, observer.name) < 6 * DAY:  # noqa: ASYNC110
                await trio.sleep(0.01)
    credentials = Home(home).credentials(Home(home).default_cluster(), OBSERVER, "bob.x")
    assert credentials.certificate.not_valid_after_utc > utc_now() + 6 * DAY


async def test_that_nobody_can_renew_is_told_with_the_time_that_is_left(
    nodes: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    issuer = made_long_ago(nodes.home)
    bob = await nodes.open("bob", home=join(tmp_path / "bob", issuer, "bob", ago=5 * DAY))
    with trio.fail_after(10):
        while "could not be renewed" not in caplog.text:  # noqa: ASYNC110
            await trio.sleep(0.01)
    assert "bob could not be renewed, and is good for 1 day, 23:5" in caplog.text
    assert "no member that has the authority's key" in caplog.text
    assert (await state_of(bob, "bob"))["problem"] == (
        "no member that has the authority's key is connected"
    )


async def test_a_member_is_certified_as_itself_and_nobody_else(nodes: Any, tmp_path: Path) -> None:
    """X3: what a request asks for is compared with whom the caller's certificate names."""
    issuer, (alice, bob, _) = await three_homes(nodes, tmp_path)
    other = join(tmp_path / "other", issuer, "mallory")
    mallory = Home(other).credentials(Home(other).default_cluster(), NODE, "mallory")
    for node, to in ((bob, "alice"), (alice, "bob")):
        with pytest.raises(steinadler.RemoteError, match=r"does not ask for|does not have the key"):
            await node.call(f"$trust@{to}", ("certify", mallory.make_request().der))  # type: ignore[attr-defined]
    with pytest.raises(steinadler.RemoteError, match=r"\$trust understands"):
        await bob.call("$trust@alice", "nonsense")


async def test_a_node_that_was_away_while_both_are_trusted_goes_on_with_the_new_one(
    nodes: Any, tmp_path: Path
) -> None:
    issuer, (alice, bob, carol) = await three_homes(nodes, tmp_path)
    rotation = Rotation(issuer.cluster_folder(issuer.default_cluster()))
    with trio.fail_after(20):
        await nodes.close(carol)
        await all_hold([alice, bob], rotation.begin())
        carol = await nodes.open("carol", home=tmp_path / "carol", seeds=alice.addresses)
        await all_hold([carol], rotation.begin())
        trust = rotation.switch()
        await all_certified_by([alice, bob, carol], fingerprint(trust.signs))


async def test_a_node_that_was_away_until_the_new_one_signs_is_shut_out(
    nodes: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """X2: nobody that it trusts vouches for what it is shown.  It says so, and joins anew."""
    issuer, (alice, bob, carol) = await three_homes(nodes, tmp_path)
    rotation = Rotation(issuer.cluster_folder(issuer.default_cluster()))
    with trio.fail_after(20):
        await nodes.close(carol)
        for step in (rotation.begin, rotation.switch):
            trust = step()
            await all_hold([alice, bob], trust)
        await all_certified_by([bob], fingerprint(trust.signs))
        carol = await nodes.open("carol", home=tmp_path / "carol", seeds=alice.addresses)
        while "certificate not signed by this cluster's CA" not in caplog.text:  # noqa: ASYNC110
            await trio.sleep(0.01)
    assert [member.node.name for member in carol.members()] == ["carol"]


async def test_what_a_home_observes_by_is_renewed_by_its_node(nodes: Any, tmp_path: Path) -> None:
    """Commands are over too soon for that, and would be shut out one day."""
    issuer, opened = await three_homes(nodes, tmp_path)
    signs = await rotate(issuer, opened, told=opened[0])
    for name in ("bob", "carol"):
        home = Home(tmp_path / name)
        cluster = home.default_cluster()
        shown = home.credentials(cluster, OBSERVER, home.observer_name(cluster)).certificate
        (authority,) = home.cluster_folder(cluster).trust()
        assert fingerprint(authority) == signs
        assert is_issued_by(shown, authority)
    options = {"home": tmp_path / "bob", "seeds": opened[0].addresses}
    async with open_node("bob.looks", observer=True, mdns=False, **options) as observer:
        with trio.fail_after(5):
            await observer.wait_for_members(3)
            request = home.credentials(cluster, NODE, "carol")
            assert isinstance(request, JoinedCredentials)
            with pytest.raises(RemoteError, match=r"does not ask for .*observer"):
                await observer.call("$trust@alice", ("certify", request.make_request().der))
