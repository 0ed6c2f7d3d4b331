"""Knocking at whatever may listen somewhere: what is there is told, and nothing is left behind."""

from __future__ import annotations

import dataclasses
import logging
import socket
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import pytest
import trio

from steinadler.config import DialSettings, WireSettings
from steinadler.diagnosis.credentials import look_at_home
from steinadler.diagnosis.knocking import knock
from steinadler.diagnosis.outcomes import Obstacle, Obstructed, Outcome, Reached, TurnedAway
from steinadler.identity import Address, NodeId
from steinadler.security import Authority, Home, IssuedCredentials, PeerIdentity
from steinadler.transport.network import SecureStream
from steinadler.transport.tcp import TcpNetwork
from steinadler.wire.frames import FrameType, encode_frame
from steinadler.wire.handshake import (
    Hello,
    PeerLimits,
    Reject,
    RejectReason,
    SessionOffer,
    encode_hello,
    encode_reject,
)

CLUSTER, OTHER = "ab" * 16, "cd" * 16
ALICE = PeerIdentity(CLUSTER, "node", "alice")
NOW, DAY = datetime.now(UTC), timedelta(days=1)
AUTHORITY = Authority.create(CLUSTER, NOW - 20 * DAY)
DOCTOR = IssuedCredentials(AUTHORITY, PeerIdentity(CLUSTER, "observer", "doctor"))
HELLO = Hello(
    CLUSTER,
    *("node", NodeId("alice", 5), 0, (Address("10.0.0.1", 4000),)),
    *((), (), PeerLimits(1, 1, 1), SessionOffer(1, 0, 0, 1)),
)


async def knocked(address: Address, *, observer: str | None = "doctor.1") -> Outcome:
    with trio.fail_after(5):
        return await knock(address, DOCTOR, observer, within_s=2)


async def obstructed(address: Address, *, observer: str | None = "doctor.1") -> Obstructed:
    outcome = await knocked(address, observer=observer)
    assert isinstance(outcome, Obstructed)
    return outcome


async def serve(
    nursery: trio.Nursery,
    credentials: IssuedCredentials,
    handler: Callable[[SecureStream], Awaitable[None]],
) -> Address:
    """Somebody who gets past TLS is the handler's."""
    network = TcpNetwork(credentials, DialSettings(), WireSettings())
    (address,) = await nursery.start(network.serve, "127.0.0.1", 0, handler)
    return Address(address.host, address.port)


def certified(clock: datetime = NOW, *, trust: Authority = AUTHORITY) -> IssuedCredentials:
    return IssuedCredentials(AUTHORITY, ALICE, trust=[trust.certificate], clock=lambda: clock)


async def say(what: bytes, stream: SecureStream) -> None:
    """Answer whatever comes first, and wait until the other side has gone."""
    try:
        await stream.receive_some()
        stream.write_nowait(what)
        while await stream.receive_some():
            pass
    except trio.BrokenResourceError:
        pass
    finally:
        stream.close_nowait()


async def hang_up(stream: SecureStream) -> None:
    stream.close_nowait()


# -- nodes ---------------------------------------------------------------------------------------


async def test_a_node_answers_and_forgets_who_came(
    nodes: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "steinadler")
    alice = await nodes.open("alice")
    _, introduction = look_at_home(Home(nodes.home), None, None)
    assert introduction is not None
    assert introduction.observer is not None
    caplog.clear()
    for observer in (f"{introduction.observer}.1", None):
        with trio.fail_after(5):
            outcome = await knock(alice.addresses[0], introduction.credentials, observer)
        assert isinstance(outcome, Reached)
        assert (outcome.identity.role, outcome.identity.name) == ("node", "alice")
        assert outcome.certificate.ends > NOW
        assert outcome.node == (None if observer is None else alice.id)
        assert outcome.addresses == (() if observer is None else alice.addresses)
    with trio.fail_after(5):
        while alice.connections():  # noqa: ASYNC110
            await trio.sleep(0.01)
    assert len(alice.members()) == 1
    assert [each.getMessage() for each in caplog.records if "observer" in each.getMessage()] == []


async def test_another_cluster_is_named(nodes: Any, caplog: pytest.LogCaptureFixture) -> None:
    alice = await nodes.open("alice")
    theirs = Home(nodes.home).cluster("default").id
    outcome = await obstructed(alice.addresses[0])
    assert outcome.obstacle is Obstacle.OTHER_AUTHORITY
    assert outcome.shown is not None
    assert outcome.shown.cluster_id == theirs
    assert outcome.shown.named == f"spiffe://{theirs}/node/alice"


# -- certificates --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("clock", "obstacle"),
    [(NOW - 9 * DAY, Obstacle.EXPIRED), (NOW + DAY, Obstacle.NOT_YET_VALID)],
)
async def test_dates_of_a_certificate_that_is_refused(
    nursery: trio.Nursery, clock: datetime, obstacle: Obstacle
) -> None:
    credentials = certified(clock)
    outcome = await obstructed(await serve(nursery, credentials, hang_up))
    assert outcome.obstacle is obstacle
    assert outcome.shown is not None
    assert outcome.shown.validity.ends == credentials.certificate.not_valid_after_utc
    assert outcome.shown.cluster_id == CLUSTER


@pytest.mark.parametrize("observer", ["doctor.1", None])
async def test_whoever_refuses_us_is_not_taken_for_one_who_answers(
    nursery: trio.Nursery, observer: str | None
) -> None:
    """In TLS 1.3 that comes after our side of the handshake is through."""
    strict = certified(trust=Authority.create(OTHER, NOW))
    outcome = await obstructed(await serve(nursery, strict, hang_up), observer=observer)
    assert outcome.obstacle is Obstacle.REFUSES_US
    assert "our certificate is not signed by its cluster's CA" in outcome.text


async def test_without_a_certificate_of_our_own_nothing_is_dialled(
    nursery: trio.Nursery,
) -> None:
    now = [NOW]
    ours = IssuedCredentials(
        AUTHORITY, PeerIdentity(CLUSTER, "observer", "doctor"), clock=lambda: now[0]
    )
    address = await serve(nursery, certified(), hang_up)
    now[0] = NOW + 4000 * DAY
    outcome = await knock(address, ours, "doctor.1")
    assert isinstance(outcome, Obstructed)
    assert outcome.obstacle is Obstacle.NO_CREDENTIALS
    assert "has expired" in outcome.text


# -- what is said after TLS ----------------------------------------------------------------------


async def test_a_refusal_is_told_with_its_reason(nursery: trio.Nursery) -> None:
    reject = Reject(RejectReason.VERSION, "too old")
    address = await serve(nursery, certified(), partial(say, encode_reject(reject)))
    assert await knocked(address) == TurnedAway(ALICE, reject)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (encode_frame(FrameType.GOODBYE), "a frame of type 0x05 before the Hello"),
        (encode_frame(FrameType.HELLO, payload=b"\xff"), ""),
        (encode_frame(FrameType.REJECT, payload=b"\xff"), ""),
        (
            encode_hello(dataclasses.replace(HELLO, role="x")),
            "its certificate says node 'alice'",
        ),
    ],
)
async def test_answers_against_the_rules(nursery: trio.Nursery, answer: bytes, words: str) -> None:
    outcome = await obstructed(await serve(nursery, certified(), partial(say, answer)))
    assert outcome.obstacle is Obstacle.BREAKS_RULES
    assert words in outcome.text


async def test_a_hello_in_order(nursery: trio.Nursery) -> None:
    outcome = await knocked(await serve(nursery, certified(), partial(say, encode_hello(HELLO))))
    assert isinstance(outcome, Reached)
    assert (outcome.node, outcome.addresses) == (HELLO.node, HELLO.addresses)


@pytest.mark.parametrize("observer", ["doctor.1", None])
async def test_a_connection_that_ends_after_tls(
    nursery: trio.Nursery, observer: str | None
) -> None:
    address = await serve(nursery, certified(), hang_up)
    assert (await obstructed(address, observer=observer)).obstacle is Obstacle.CLOSED


# -- other things that listen, or do not ---------------------------------------------------------


@pytest.mark.parametrize(
    ("says", "obstacle", "words"),
    [
        (b"", Obstacle.CLOSED, "closed during the TLS handshake"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", Obstacle.OTHER_PROTOCOL, "not TLS"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", Obstacle.OTHER_PROTOCOL, "plain HTTP"),
        (b"\x15\x03\x03\x00\x02\x02\x28", Obstacle.REFUSES_US, "handshake failure"),
        (b"\x15\x03\x03\x00\x02\x02\x78", Obstacle.OTHER_PROTOCOL, "no application protocol"),
    ],
)
async def test_other_programs(
    nursery: trio.Nursery, says: bytes, obstacle: Obstacle, words: str
) -> None:
    async def answer(stream: trio.SocketStream) -> None:
        await stream.receive_some()
        await stream.send_all(says)

    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    nursery.start_soon(trio.serve_listeners, answer, [listener])
    outcome = await obstructed(Address("127.0.0.1", listener.socket.getsockname()[1]))
    assert outcome.obstacle is obstacle
    assert words in outcome.text


async def test_a_port_where_nobody_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    outcome = await obstructed(Address("127.0.0.1", port))
    assert (outcome.obstacle, outcome.text) == (Obstacle.REFUSED, "Connection refused")


async def test_a_port_that_says_nothing_and_one_that_does_not_even_accept() -> None:
    """The second is full, and what is sent to it is dropped, as a packet filter does."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as server, ExitStack() as waiting:
        address = Address(*server.getsockname())
        silent = await knock(address, DOCTOR, "doctor.1", within_s=0.2)
        assert isinstance(silent, Obstructed)
        assert silent.obstacle is Obstacle.SILENT
        with trio.move_on_after(0.5):
            while True:
                sock = trio.socket.socket()
                waiting.enter_context(sock)
                await sock.connect(server.getsockname())
        full = await knock(address, DOCTOR, "doctor.1", within_s=0.2)
        assert isinstance(full, Obstructed)
        assert full.obstacle is Obstacle.NO_ANSWER


async def test_an_address_to_which_there_is_no_way() -> None:
    """One for broadcasts."""
    outcome = await obstructed(Address("255.255.255.255", 4000))
    assert outcome.obstacle is Obstacle.UNREACHABLE
