"""Nodes that are revoked: closed everywhere at once, gone for good, and back when readmitted."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
from joined_homes import all_hold, change_revoked, issue_to, join, state_of
from programs import until
from raw_peer import raw_peer

import steinadler
from steinadler import CertificateRevoked, Node, NodeDown, Process, open_node
from steinadler.identity import NODE
from steinadler.node import trusting
from steinadler.node.events import NodeDown as NodeDownEvent
from steinadler.security import ClusterFolder, Home
from steinadler.security.authority import Authority
from steinadler.security.credentials import utc_now
from steinadler.security.trust import Trust, sign
from steinadler.wire import plain
from steinadler.wire.frames import MAX_PAYLOAD_BYTES, FrameType, encode_frame


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trusting, "LOOK_INTERVAL_S", 0.1)
    monkeypatch.setattr(trusting, "RESIGN_S", 0.2)


class Cluster:
    """alice, whose home has the key, and others that joined, each with a home of its own."""

    def __init__(self, nodes: Any, folder: Path) -> None:
        self.nodes = nodes
        self.issuer = Home(nodes.home)
        self.alice: Node
        self._folder = folder

    @property
    def place(self) -> ClusterFolder:
        return self.issuer.cluster_folder(self.issuer.default_cluster())

    def home(self, name: str) -> Path:
        path = self._folder / name
        return path if path.exists() else join(path, self.issuer, name)

    async def open(self, name: str, **options: Any) -> Node:
        node: Node = await self.nodes.open(
            name, home=self.home(name), seeds=self.alice.addresses, **options
        )
        return node


@pytest.fixture
async def cluster(nodes: Any, tmp_path: Path) -> Cluster:
    made = Cluster(nodes, tmp_path)
    made.alice = await nodes.open("alice")
    return made


@asynccontextmanager
async def until_revoked(cluster: Cluster, name: str) -> AsyncIterator[Node]:
    """A node that has to end, in the middle of the block, because it was revoked."""
    options = {"home": cluster.home(name), "host": "127.0.0.1", "mdns": False}
    with pytest.raises(CertificateRevoked, match=f"node {name} was revoked at .* readmit {name}"):
        async with open_node(name, seeds=cluster.alice.addresses, **options) as node:
            with trio.fail_after(10):
                await node.wait_for_member("alice")
                yield node
            await trio.sleep_forever()


async def downs(node: Node, name: str) -> list[str]:
    """The reasons for which a node went down there, when it has."""
    reasons = []
    async for event in node.events():
        if isinstance(event, NodeDownEvent) and event.member.node.name == name:
            reasons.append(event.reason)
            return reasons
    return reasons


async def tell(node: Node, trust: Trust) -> None:
    await node.call(f"$trust@{node.name}", ("take", trust.document))


async def test_a_revoked_node_is_closed_everywhere_and_every_wait_on_it_ends(
    cluster: Cluster,
) -> None:
    """Within a second, told to a node that is not its issuer's; M4, C1, D1 for what waits."""
    alice, carol = cluster.alice, await cluster.open("carol")
    ended: dict[str, Any] = {}

    async def mute(me: Process) -> None:
        await trio.sleep_forever()

    async def wait_for_answer(node: Node) -> None:
        with pytest.raises(NodeDown) as raised:
            await node.call("mute@bob", "hello")
        ended[f"call of {node.name}"] = raised.value.reason

    async def watch(node: Node) -> None:
        ended[f"down at {node.name}"] = (await downs(node, "bob"))[0]

    async with until_revoked(cluster, "bob") as bob:
        bob.spawn(mute, name="mute")
        for node in (alice, carol):
            await node.wait_for_member("bob")
        async with trio.open_nursery() as nursery:
            for node in (alice, carol):
                nursery.start_soon(wait_for_answer, node)
                nursery.start_soon(watch, node)
            await until(lambda: all(n.statistics().calls_waiting == 1 for n in (alice, carol)))
            before = trio.current_time()
            trust = change_revoked(cluster.place, "bob")
            await tell(carol, trust)
        assert trio.current_time() - before < 1
        assert set(ended.values()) == {"revoked"}
        for node in (alice, carol):
            assert [m.node.name for m in node.members()] == ["alice", "carol"]
            assert all(c.node.name != "bob" for c in node.connections())
    await all_hold([alice, carol], trust)


async def test_it_cannot_come_back_also_when_all_have_started_anew(
    cluster: Cluster, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It is in every home; a copy of the certificate from before is worth nothing."""
    carol = await cluster.open("carol")
    stolen = tmp_path / "stolen"
    async with until_revoked(cluster, "bob"):
        shutil.copytree(cluster.home("bob"), stolen)
        trust = change_revoked(cluster.place, "bob")
        await tell(carol, trust)
    await all_hold([carol, cluster.alice], trust)
    with pytest.raises(CertificateRevoked, match="readmit bob"):
        await cluster.open("bob")  # its own home was told
    for node in (carol, cluster.alice):
        await cluster.nodes.close(node)
    cluster.alice = await cluster.nodes.open("alice")
    carol = await cluster.open("carol")
    seeds = (*carol.addresses, *cluster.alice.addresses)
    thief = await cluster.nodes.open("bob", home=stolen, seeds=seeds)
    with trio.fail_after(10):
        await carol.wait_for_members(2)
        while caplog.text.count("'bob' was revoked at") < 3:  # noqa: ASYNC110
            await trio.sleep(0.01)
    assert [member.node.name for member in thief.members()] == ["bob"]
    for node in (cluster.alice, carol):
        assert [m.node.name for m in node.members()] == ["alice", "carol"]
    await cluster.nodes.close(thief)


async def test_a_readmitted_name_comes_back_with_a_new_certificate_alone(
    cluster: Cluster, tmp_path: Path
) -> None:
    alice = cluster.alice
    async with until_revoked(cluster, "bob"):
        await tell(alice, change_revoked(cluster.place, "bob"))
    stolen = shutil.copytree(cluster.home("bob"), tmp_path / "stolen")
    trust = change_revoked(cluster.place, readmit=("bob",))
    await tell(alice, trust)
    home = Home(cluster.home("bob"))
    folder = home.cluster_folder(home.default_cluster())
    folder.take_trust(trust)
    with pytest.raises(CertificateRevoked):
        await cluster.open("bob")
    issue_to(folder, cluster.issuer, NODE, "bob")
    with trio.fail_after(15):
        # Good from a second after the revocation on: its issuer's clock need not be right.
        while True:
            try:
                bob = await cluster.open("bob")
                break
            except steinadler.SecurityError:
                await trio.sleep(0.05)
        await alice.wait_for_member("bob")
        await bob.wait_for_member("alice")
        assert await bob.call("$echo@alice", 1) == 1
        await cluster.nodes.close(bob)
        thief = Home(stolen)
        thief.cluster_folder(thief.default_cluster()).take_trust(trust)
    with pytest.raises(CertificateRevoked, match="this certificate of 'bob' was revoked"):
        await cluster.nodes.open("bob", home=stolen)


async def test_a_node_of_the_home_with_the_key_is_not_certified_either(cluster: Cluster) -> None:
    """On one machine, where all nodes have one home."""
    change_revoked(cluster.place, "bob")
    with pytest.raises(CertificateRevoked, match=r"gets no certificate.* readmit bob"):
        await cluster.nodes.open("bob")
    change_revoked(cluster.place, readmit=("bob",))
    bob = await cluster.nodes.open("bob")
    with trio.fail_after(10):
        await bob.wait_for_member("alice")


async def test_observers_of_a_revoked_name_are_closed_too(cluster: Cluster) -> None:
    options = {"home": cluster.home("bob"), "mdns": False, "observer": True}
    with trio.fail_after(10), pytest.raises(CertificateRevoked, match="observer bob was revoked"):
        async with open_node("bob.top", seeds=cluster.alice.addresses, **options) as observer:
            await observer.wait_for_member("alice")
            assert len(cluster.alice.connections()) == 1
            await tell(cluster.alice, change_revoked(cluster.place, "bob"))
            await trio.sleep_forever()
    while cluster.alice.connections():  # noqa: ASYNC110
        await trio.sleep(0.01)


async def test_a_list_that_fits_no_frame_is_fetched(cluster: Cluster) -> None:
    """X4 bounds it; and a newcomer has it before it has done anything."""
    names = [f"node-with-a-long-name-{n:040}" for n in range(400)]
    trust = change_revoked(cluster.place, *names)
    assert len(trust.document) > MAX_PAYLOAD_BYTES
    carol, dave = await cluster.open("carol"), await cluster.open("dave")
    with trio.fail_after(10):
        await all_hold([cluster.alice, carol, dave], trust)


async def test_two_who_revoke_at_once_lose_neither(cluster: Cluster, tmp_path: Path) -> None:
    """Two homes with the key, which have not heard of each other: the next version has both."""
    shutil.copytree(cluster.issuer.path / "clusters", tmp_path / "copy" / "clusters")
    (tmp_path / "copy").chmod(0o700)
    other = Home(tmp_path / "copy")
    there = change_revoked(other.cluster_folder(other.default_cluster()), "eve")
    here = change_revoked(cluster.place, "bob")
    assert (there.version, here.version) == (1, 1)
    await tell(cluster.alice, here)
    dave = await cluster.nodes.open("dave", home=other.path, seeds=cluster.alice.addresses)
    carol = await cluster.open("carol")
    with trio.fail_after(10):
        homes = (cluster.issuer.path, other.path, cluster.home("carol"))
        id_ = cluster.issuer.default_cluster()
        folders = [Home(home).cluster_folder(id_) for home in homes]
        await until(lambda: all(f.read_trust().revoked.barred == {"bob", "eve"} for f in folders))
        marks = {
            ((state := await state_of(node, node.name))["version"], state["digest"])
            for node in (cluster.alice, carol, dave)
        }
    assert len(marks) == 1


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        plain.dumps([1]),
        plain.dumps(["1", b""]),
        plain.dumps([1, "digest"]),
        plain.dumps([1, b"", "document"]),
        plain.dumps([9, b"", b"no document"]),
    ],
)
async def test_nonsense_about_trust_closes_its_own_connection(
    cluster: Cluster, caplog: pytest.LogCaptureFixture, payload: bytes
) -> None:
    """X4."""
    async with raw_peer(cluster.alice, cluster.nodes.home) as peer:
        await peer.shake_hands()
        await peer.say(encode_frame(FrameType.TRUST, payload=payload))
        with trio.fail_after(5):
            await peer.wait_closed()
        assert "closed the connection to mallory: protocol error" in caplog.text
        assert await cluster.alice.call("$echo", 1) == 1


async def test_a_peer_that_promises_a_document_and_has_none_is_asked_once_at_a_time(
    cluster: Cluster,
) -> None:
    """X4: and others are heard meanwhile."""
    carol = await cluster.open("carol")
    async with raw_peer(cluster.alice, cluster.nodes.home) as peer:
        await peer.shake_hands()
        promise = plain.dumps([2**61, b"?"])
        for _ in range(100):
            await peer.say(encode_frame(FrameType.TRUST, payload=promise))
        calls = 0
        trust = change_revoked(cluster.place, "bob")
        with trio.fail_after(5):
            await tell(carol, trust)
            await all_hold([cluster.alice, carol], trust)
            with trio.move_on_after(0.3):
                while (frame := await peer.next_frame()) is not None:
                    calls += b"document" in frame.payload
        assert calls == 1


async def test_a_flood_of_what_nobody_signed_is_one_line(
    cluster: Cluster, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """X4: and the peer stays connected."""
    id_ = cluster.issuer.default_cluster().id
    forger = Authority.create(id_, utc_now())
    async with raw_peer(cluster.alice, cluster.nodes.home) as peer:
        await peer.shake_hands()
        for version in range(20):
            forged = sign(Trust(id_, version + 1, (forger.certificate,)), [forger])
            payload = plain.dumps([*forged.mark, forged.document])
            await peer.say(encode_frame(FrameType.TRUST, payload=payload))
        with trio.fail_after(5):
            await until(lambda: "did not take from mallory" in caplog.text)
            await peer.say(encode_frame(FrameType.TRUST, payload=plain.dumps([1])))
            await peer.wait_closed()
    assert caplog.text.count("did not take from mallory") == 1
    assert (await state_of(cluster.alice, "alice"))["version"] == 0


async def test_what_nobody_signed_changes_nothing(cluster: Cluster, tmp_path: Path) -> None:
    """X4: not even from a member; its connection stays: it may have missed something."""
    stranger = Home(tmp_path / "stranger")
    other = stranger.cluster_folder(stranger.default_cluster())
    document = change_revoked(other, "alice").document
    carol = await cluster.open("carol")
    await carol.wait_for_member("alice")
    with pytest.raises(steinadler.RemoteError, match="it is of cluster"):
        await carol.call("$trust@alice", ("take", document))
    assert (await state_of(carol, "alice"))["version"] == 0
