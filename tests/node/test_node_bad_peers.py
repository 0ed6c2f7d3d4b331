"""X2-X4: what a peer says, whoever it is, closes its own connection at the worst.

Invariant of everything here: whatever bytes follow the TLS handshake, the node answers its other
callers afterwards.
"""

from __future__ import annotations

import random
import struct
from collections.abc import AsyncIterator
from typing import Any

import pytest
import trio
import trio.testing
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from raw_peer import INCARNATION, RawPeer, raw_peer

from steinadler import (
    Address,
    Config,
    Node,
    NodeId,
    Process,
    ProcessId,
    WireSettings,
    open_node,
)
from steinadler.identity import NODE, OBSERVER
from steinadler.wire import plain
from steinadler.wire.channels import CONTROL, ToName, ToProcess
from steinadler.wire.frames import HEADER, FrameType, encode_frame, pack_items
from steinadler.wire.handshake import RejectReason, decode_reject, encode_hello
from steinadler.wire.signals import ExitNotice, LinkRequest, MonitorRequest, encode_signal


@pytest.fixture
async def node(nodes: Any) -> Node:
    opened: Node = await nodes.open("alice")
    return opened


@pytest.fixture
async def peer(node: Node, nodes: Any) -> AsyncIterator[RawPeer]:
    async with raw_peer(node, nodes.home) as connected:
        yield connected


async def closed_for_breaking_a_rule(peer: RawPeer, caplog: pytest.LogCaptureFixture) -> None:
    """Not for being silent, which a raw peer is too."""
    await peer.wait_closed()
    assert "closed the connection to mallory: protocol error" in caplog.text


async def reason_for_turning_away(peer: RawPeer, **changes: object) -> tuple[str, str]:
    with trio.fail_after(5):
        frame = await peer.shake_hands(**changes)
    assert frame is not None
    assert frame.type == FrameType.REJECT
    reject = decode_reject(frame.payload)
    return reject.reason, reject.detail


async def test_a_peer_that_speaks_a_newer_protocol_is_told_both_ranges(
    node: Node, peer: RawPeer
) -> None:
    payload = plain.dumps({"versions": [2, 3], "whatever": "version 2 says"})
    with trio.fail_after(5):
        await peer.say(encode_frame(FrameType.HELLO, payload=payload))
        frame = await peer.next_frame()
    assert frame is not None
    reject = decode_reject(frame.payload)
    assert reject.reason is RejectReason.VERSION
    assert "2 to 3" in reject.detail
    assert "1 to 1" in reject.detail


async def test_a_name_that_is_not_the_certificates_is_refused_x3(node: Node, peer: RawPeer) -> None:
    reason, detail = await reason_for_turning_away(peer, node=NodeId("bob", 1))
    assert reason == RejectReason.IDENTITY
    assert "'bob'" in detail
    assert "'mallory'" in detail
    assert [m.node.name for m in node.members()] == ["alice"]


async def test_an_observers_certificate_makes_no_node_x3(node: Node, nodes: Any) -> None:
    async with raw_peer(node, nodes.home, role=OBSERVER) as peer:
        reason, _ = await reason_for_turning_away(peer, role="node")
    assert reason == RejectReason.IDENTITY


async def test_a_cluster_that_is_not_the_certificates_is_refused_s3(
    node: Node, peer: RawPeer
) -> None:
    reason, _ = await reason_for_turning_away(peer, cluster_id="0" * 32)
    assert reason == RejectReason.CLUSTER


async def test_an_observer_cannot_pass_for_a_node_of_its_name_x3(nodes: Any) -> None:
    """It could answer that node's calls, or have its connection ended."""
    alice, bob = await nodes.open_all("alice", "bob")
    for incarnation in (bob.id.incarnation, bob.id.incarnation + 1):
        async with raw_peer(alice, nodes.home, "bob", OBSERVER) as peer:
            reason, _ = await reason_for_turning_away(peer, node=NodeId("bob", incarnation))
        assert reason == RejectReason.NAME_IN_USE
    with trio.fail_after(5):
        assert await alice.call("$echo@bob", 1) == 1


@pytest.mark.parametrize(
    "changes",
    [
        {"labels": tuple((f"key{n:02}", "x" * 200) for n in range(40))},
        {"addresses": tuple(Address("h" * 250, n + 1) for n in range(30))},
        {"refutation": 2**63},
        {"node": NodeId("mallory", 2**63)},
    ],
    ids=["labels", "addresses", "refutation", "incarnation"],
)
async def test_a_hello_that_describes_no_member_closes_the_connection_x4(
    node: Node, peer: RawPeer, changes: dict[str, object]
) -> None:
    with trio.fail_after(5):
        assert await peer.shake_hands(**changes) is None
        assert await node.call("$echo", 1) == 1
    assert len(node.members()) == 1


@pytest.mark.parametrize(
    "host", ["\x00", "a" * 200, "a..b", "", "::::", "xn--\udfff".encode(errors="replace").decode()]
)
async def test_an_address_that_is_none_harms_nobody_x4(
    node: Node, peer: RawPeer, host: str
) -> None:
    with trio.fail_after(5):
        frame = await peer.shake_hands(addresses=(Address(host, 1),))
        assert frame is not None
        await node.wait_for_member("mallory")
    peer.stream.close_nowait()  # now it is re-dialled there
    await trio.testing.wait_all_tasks_blocked(0.05)
    assert await node.call("$echo", 1) == 1


async def test_garbage_after_the_handshake_closes_that_connection_alone_x4(nodes: Any) -> None:
    alice, bob = await nodes.open_all("alice", "bob")
    async with raw_peer(alice, nodes.home) as peer:
        with trio.fail_after(5):
            await peer.shake_hands()
            await alice.wait_for_member("mallory")
            await peer.say(b"GET / HTTP/1.1\r\n\r\n" * 10)
            await peer.wait_closed()
            assert await alice.call("$echo@bob", 1) == 1
            assert await bob.call("$echo@alice", 2) == 2


async def test_a_peer_that_says_nothing_is_cut_off_in_time(nodes: Any) -> None:
    alice = await nodes.open("alice", config=Config(wire=WireSettings(handshake_timeout_s=0.2)))
    async with raw_peer(alice, nodes.home) as peer:
        with trio.fail_after(5):
            await peer.wait_closed()


async def test_frames_of_no_items_are_nothing_x4(node: Node, peer: RawPeer) -> None:
    async def process(me: Any) -> None:
        async for message in me:
            if message == "stop":
                return

    target = node.spawn(process, name="victim")
    async with node.monitor(target) as down:
        with trio.fail_after(5):
            await peer.shake_hands()
            session = peer.session
            channel = session.channel(ToName("victim"))
            session.enqueue(channel, FrameType.MESSAGES, b"\x01")
            await peer.send_session()
            for type_ in (FrameType.MESSAGES, FrameType.CALLS, FrameType.SIGNALS):
                session._sending.last_sent += 1
                await peer.say(
                    encode_frame(
                        type_,
                        channel=channel.id,
                        sequence=session._sending.last_sent,
                        payload=pack_items([]),
                    )
                )
            session.enqueue(channel, FrameType.MESSAGES, plain.dumps("stop"))
            await peer.send_session()
            assert (await down.wait()).reason == "normal"
            assert await node.call("$echo", 1) == 1


QUESTIONS_WITHOUT_SENSE = (
    plain.dumps(["whereis", ""]),
    plain.dumps(["whereis", "a@b"]),
    plain.dumps(["spawn", "nobody", [], None]),
    plain.dumps(["spawn", 1, 2, 3]),
    plain.dumps(None),
    b"\xf7",  # undefined
    b"\xe0",  # a simple value
    b"\xd9\x57\xe1\x83\x67whereis",  # a tuple cut short
    b"",
)


@pytest.mark.parametrize("name", ["$echo", "$info", "$names", "$spawn", "$statistics", "$entities"])
async def test_no_question_ends_a_built_in_process_x4(nodes: Any, name: str) -> None:
    node = await nodes.open("alice")
    before = node.statistics().processes
    async with raw_peer(node, nodes.home) as peer:
        with trio.fail_after(5):
            await peer.shake_hands()
            session = peer.session
            for number, question in enumerate(QUESTIONS_WITHOUT_SENSE, 1):
                call = struct.pack(">Q", number) + question
                session.enqueue(session.channel(ToName(name)), FrameType.CALLS, call)
                await peer.send_session()
                while (frame := await peer.next_frame()) is not None:
                    if frame.type == FrameType.REPLIES:
                        break
                assert frame is not None, question
                assert await node.call("$echo", 1) == 1
                assert node.statistics().processes == before


async def test_what_follows_a_goodbye_is_of_nobody_m4(node: Node, peer: RawPeer) -> None:
    """A Down has told that the peer is gone: nothing of it may come, or be owed, after that."""
    got: list[object] = []

    async def listens(me: Process) -> None:
        while True:
            got.append(await me.receive())

    node.spawn(listens, name="ear")
    with trio.fail_after(5):
        await peer.shake_hands()
        await node.wait_for_member("mallory")
        channel = peer.session.channel(ToName("ear"))
        peer.session.enqueue(channel, FrameType.MESSAGES, plain.dumps("late"))
        peer.session.enqueue(channel, FrameType.CALLS, struct.pack(">Q", 1) + plain.dumps("late"))
        # In one write, so that one read brings both.
        await peer.say(encode_frame(FrameType.GOODBYE) + peer.session.data_to_send())
        await peer.wait_closed()
        await node.call("$echo", 1)
    await trio.testing.wait_all_tasks_blocked()
    assert got == []
    assert len(node._router.calls.owed) == 0


async def test_a_call_that_comes_twice_closes_the_connection_x4(
    node: Node, peer: RawPeer, caplog: pytest.LogCaptureFixture
) -> None:
    async def holds(me: Any) -> None:
        await trio.sleep_forever()

    node.spawn(holds, name="holds")
    with trio.fail_after(5):
        await peer.shake_hands()
        channel = peer.session.channel(ToName("holds"))
        for _ in range(2):
            peer.session.enqueue(channel, FrameType.CALLS, struct.pack(">Q", 1) + b"\x01")
        await peer.send_session()
        await closed_for_breaking_a_rule(peer, caplog)
        assert await node.call("$echo", 1) == 1


async def test_an_exit_signal_in_another_nodes_name_closes_the_connection_x4(
    node: Node, peer: RawPeer, caplog: pytest.LogCaptureFixture
) -> None:
    async def sleeps(me: Any) -> None:
        await trio.sleep_forever()

    victim = node.spawn(sleeps)
    with trio.fail_after(5):
        await peer.shake_hands()
        notice = ExitNotice(victim, "forged", linked=False)
        peer.session.enqueue_signal(encode_signal(notice), ToProcess(victim.number))
        await peer.send_session()
        await closed_for_breaking_a_rule(peer, caplog)
    async with node.monitor(victim) as down:
        assert await node.call("$echo", 1) == 1
        assert down.down is None


async def test_a_flood_of_exit_signals_is_not_hoarded_x4(
    node: Node, peer: RawPeer, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def traps(me: Any) -> None:
        me.trap_exits = True
        await trio.sleep_forever()

    victim = node.spawn(traps)  # killed in the end, or its node would wait for it to end by itself
    me = NodeId("mallory", INCARNATION)
    notice = encode_signal(ExitNotice(ProcessId(me, 1), "", linked=False))
    monkeypatch.setattr("steinadler.node.watching.MAX_UNREAD_EXIT_BYTES", 6_400)
    with trio.fail_after(5):
        await peer.shake_hands()
        for _ in range(200):
            peer.session.enqueue_signal(notice, ToProcess(victim.number))
        await peer.send_session()
        await closed_for_breaking_a_rule(peer, caplog)
        assert await node.call("$echo", 1) == 1
        node.exit(victim, "kill")


@pytest.mark.parametrize(
    "signal",
    [lambda n: MonitorRequest(n, "$echo", 0), lambda n: LinkRequest(n, 1)],
    ids=["monitors", "links"],
)
async def test_a_flood_of_monitors_or_links_is_not_hoarded_x4(
    node: Node,
    peer: RawPeer,
    signal: Any,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("steinadler.node.watching.MAX_WATCHED_BY_PEER", 100)
    with trio.fail_after(10):
        await peer.shake_hands()
        for number in range(1, 200):
            peer.session.enqueue_signal(encode_signal(signal(number)), CONTROL)
        await peer.send_session()
        await closed_for_breaking_a_rule(peer, caplog)
        assert await node.call("$echo", 1) == 1


# -- fuzz: anything but a RemoteProtocolError from the reader would end the node -----------------

_TARGETS = st.sampled_from(
    [ToName("$echo"), ToName("$names"), ToName("nobody"), ToProcess(1), ToProcess(99)]
)
_ODD_BODIES = st.one_of(
    st.binary(max_size=40),
    st.lists(st.integers() | st.text() | st.none() | st.binary() | st.booleans(), max_size=6).map(
        plain.dumps
    ),
    st.tuples(st.integers(0, 70), st.integers(0, 3), st.integers(0, 3), st.text(max_size=3)).map(
        lambda fields: plain.dumps(list(fields))
    ),
    st.builds(
        lambda call, body: struct.pack(">Q", call) + body,
        st.integers(0, 3),
        st.binary(max_size=20),
    ),
    st.builds(
        lambda call, status, body: struct.pack(">QB", call, status) + body,
        st.integers(0, 3),
        st.integers(0, 5),
        st.binary(max_size=20),
    ),
)
_ITEMS = st.tuples(
    st.just("item"),
    st.sampled_from([FrameType.MESSAGES, FrameType.CALLS, FrameType.SIGNALS, FrameType.REPLIES]),
    _TARGETS | st.just(CONTROL),
    _ODD_BODIES,
)
_FRAMES = st.tuples(
    st.just("frame"), st.integers(0, 255), st.integers(0, 5), st.binary(max_size=60)
)


@given(
    script=st.lists(st.one_of(_ITEMS, _FRAMES), min_size=1, max_size=12),
    role=st.sampled_from([NODE, OBSERVER]),
)
@settings(
    max_examples=20,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
def test_whatever_a_peer_says_the_node_lives_on_x4(
    tmp_path_factory: pytest.TempPathFactory, script: list[Any], role: str
) -> None:
    home = tmp_path_factory.getbasetemp() / "fuzz-home"

    async def main() -> None:
        async with open_node("alice", mdns=False, host="127.0.0.1", home=home) as node:
            before = node.statistics().processes
            async with raw_peer(node, home, "mallory", role) as peer:
                await peer.shake_hands()
                try:
                    for step in script:
                        await play(peer, step)
                    # What breaks no rule is answered; what does, closes the connection.
                    await peer.say(encode_frame(FrameType.GOODBYE))
                    await peer.wait_closed()
                except trio.BrokenResourceError:
                    pass
            assert await node.call("$echo", "alive") == "alive"
            assert node.statistics().processes == before

    async def bounded() -> None:
        with trio.fail_after(10):
            await main()

    trio.run(bounded)


async def play(peer: RawPeer, step: Any) -> None:
    session = peer.session
    match step:
        case ("item", type_, target, body):
            session.enqueue(session.channel(target), type_, body)
            await peer.send_session()
        case ("frame", type_, channel, payload):
            numbered = bool(type_ & 0x80)
            if numbered:
                session._sending.last_sent += 1
            sequence = session._sending.last_sent if numbered else 0
            await peer.say(HEADER.pack(len(payload), type_, 0, channel, sequence) + payload)


def test_any_first_frame_is_survived_x4(tmp_path_factory: pytest.TempPathFactory) -> None:
    """One node, many connections, each with a damaged Hello."""
    home = tmp_path_factory.mktemp("hellos")

    async def main() -> None:
        rng = random.Random(1)
        async with open_node("alice", mdns=False, host="127.0.0.1", home=home) as node:
            for _ in range(40):
                async with raw_peer(node, home) as peer:
                    data = bytearray(encode_hello(peer.hello))
                    for _ in range(rng.randint(1, 3)):
                        data[rng.randrange(HEADER.size, len(data))] = rng.randrange(256)
                    await peer.say(bytes(data))
                    with trio.fail_after(5):
                        await peer.next_frame()  # Hello, Reject, or the end
                assert await node.call("$echo", 1) == 1

    trio.run(main)
