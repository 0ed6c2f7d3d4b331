"""Joiners at the port that serves everything: who is received, and what others make of it (X2)."""

from __future__ import annotations

import logging
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import trio
from machines import Machine

from steinadler.config import DialSettings, WireSettings
from steinadler.errors import JoinFailed, SecurityError
from steinadler.identity import NODE, OBSERVER, Address
from steinadler.security import Admission, Home, Joiner, JoinToken, PeerIdentity
from steinadler.security.contexts import JOIN_ALPN, make_join_client
from steinadler.security.credentials import utc_now
from steinadler.security.enrolment import MAX_JOIN_REQUEST_BYTES, framed
from steinadler.transport.enrolling import MAX_FAILURES, MAX_JOINERS, Failures, meet
from steinadler.transport.network import SecureStream
from steinadler.transport.tcp import TcpNetwork, connect
from steinadler.transport.tls import TlsPipe, open_pipe

TIMEOUT_S = 5.0


class Log(logging.Handler):
    """What the transport logs."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []
        self._more = trio.Event()

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())
        self._more.set()
        self._more = trio.Event()

    async def until(self, *words: str, count: int = 1) -> None:
        while sum(all(word in line for word in words) for line in self.lines) < count:
            await self._more.wait()


@pytest.fixture
def log() -> Iterator[Log]:
    handler = Log()
    logger = logging.getLogger("steinadler.transport")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    yield handler
    logger.setLevel(logging.NOTSET)
    logger.removeHandler(handler)


class Issuer:
    """A home with the cluster's key, and its tokens."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.home = machine.home
        self.cluster = self.home.default_cluster()

    def token(self, **options: object) -> JoinToken:
        tokens = self.home.tokens(self.cluster)
        return tokens.make(self.cluster, now=datetime.now(UTC), **options)  # type: ignore[arg-type]

    @asynccontextmanager
    async def node(
        self, name: str = "alice", timeout_s: float = TIMEOUT_S
    ) -> AsyncIterator[Address]:
        """A node's port, where members are echoed; for at most 20 s."""
        network = self.machine.network(name, handshake_timeout_s=timeout_s)
        with trio.fail_after(20):
            async with trio.open_nursery() as nursery:
                (address,) = await nursery.start(network.serve, "127.0.0.1", 0, echo)
                yield address
                nursery.cancel_scope.cancel()


@pytest.fixture
def issuer(machine: Machine) -> Issuer:
    return Issuer(machine)


async def echo(stream: SecureStream) -> None:
    try:
        while data := await stream.receive_some():
            stream.write_nowait(data)
    except trio.BrokenResourceError:
        pass
    finally:
        stream.close_nowait()


async def get_through(network: TcpNetwork, address: Address) -> PeerIdentity:
    stream = await network.dial(address)
    try:
        stream.write_nowait(b"hello")
        assert await stream.receive_some() == b"hello"
        return stream.peer
    finally:
        stream.close_nowait()


async def join(address: Address, token: JoinToken, name: str) -> Admission:
    met = await meet(Joiner(token, name), await connect(address), utc_now)
    try:
        return await met.ask()
    finally:
        met.close()


async def knock(address: Address) -> TlsPipe:
    """A joiner's connection, up to where it would speak."""
    carrier = await connect(address)
    pipe, _ = await open_pipe(carrier, make_join_client(), server_side=False, alpn=JOIN_ALPN)
    return pipe


async def test_a_joiner_and_members_meet_at_one_port(
    issuer: Issuer, tmp_path: Path, log: Log
) -> None:
    alice, other = PeerIdentity(issuer.cluster.id, NODE, "alice"), Home(tmp_path / "other")
    token = issuer.token()
    async with issuer.node() as address:
        assert await get_through(issuer.machine.network("carol"), address) == alice
        admission = await join(address, token, "bob")
        assert admission.issuer == alice
        await log.until("node bob joined by the token", token.id, "from 127.0.0.1:")
        cluster = other.keep("default", admission, [address])
        for role, name in ((None, "bob"), (OBSERVER, "bob.7")):
            credentials = other.credentials(cluster, role, name)
            network = TcpNetwork(credentials, DialSettings(), WireSettings())
            assert await get_through(network, address) == alice


async def test_without_a_good_token_a_joiner_is_a_stranger_x2(issuer: Issuer, log: Log) -> None:
    """It gets what every client without a certificate gets: no further than the TLS handshake."""
    tokens = issuer.home.tokens(issuer.cluster)
    token = tokens.make(issuer.cluster, now=datetime.now(UTC) - timedelta(hours=1))
    async with issuer.node() as address:
        for count, change in enumerate((lambda: None, tokens.path.unlink), 1):
            change()
            with pytest.raises((SecurityError, trio.BrokenResourceError)) as raised:
                await join(address, token, "bob")
            assert not isinstance(raised.value, JoinFailed)
            await log.until("refused a connection", "no certificate shown", count=count)


async def test_who_has_no_key_lets_nobody_in(issuer: Issuer, tmp_path: Path, log: Log) -> None:
    """Neither a home that joined, nor one from which the key was taken away."""
    token = issuer.token(uses=5)
    joined = Home(tmp_path / "joined")
    async with issuer.node() as address:
        cluster = joined.keep("default", await join(address, token, "bob"), [])
        issuer.home.cluster_folder(issuer.cluster).key_path.unlink()
        with pytest.raises((SecurityError, trio.BrokenResourceError)):
            await join(address, token, "carol")
        await log.until("refused a connection", "ca.key")
    bob = TcpNetwork(joined.credentials(cluster, None, "bob"), DialSettings(), WireSettings())
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            (address,) = await nursery.start(bob.serve, "127.0.0.1", 0, echo)
            with pytest.raises((SecurityError, trio.BrokenResourceError)):
                await join(address, token, "carol")
            await log.until("refused a connection", "no certificate shown")
            nursery.cancel_scope.cancel()


async def test_the_two_protocols_do_not_mix(issuer: Issuer, log: Log) -> None:
    """X2: a joiner's connection becomes no node's, nor does one that offers both."""
    issuer.token()
    async with issuer.node() as address:
        for offered in ([JOIN_ALPN, "steinadler/1"], ["steinadler/1"], ["h2"]):
            context = make_join_client()
            context.set_alpn_protocols(offered)
            with pytest.raises((SecurityError, trio.BrokenResourceError)):
                carrier = await connect(address)
                pipe, _ = await open_pipe(carrier, context, server_side=False, alpn=offered[-1])
                try:
                    await pipe.receive_some()
                finally:
                    pipe.close_nowait()
        await log.until("refused a connection", "no certificate shown", count=3)


async def test_a_client_hello_may_come_in_pieces(issuer: Issuer) -> None:
    """A joiner's, and a member's while a token is good."""
    token = issuer.token()
    async with issuer.node() as address:
        async with trio.open_nursery() as nursery:
            relayed = await nursery.start(byte_by_byte, address)
            await join(relayed, token, "bob")
            assert (await get_through(issuer.machine.network("carol"), relayed)).name == "alice"
            nursery.cancel_scope.cancel()


async def byte_by_byte(to: Address, *, task_status: trio.TaskStatus[Address]) -> None:
    """Carries connections, and passes their first 600 bytes on one by one."""

    async def carry(client: trio.SocketStream) -> None:
        async with client, await trio.open_tcp_stream(to.host, to.port) as server:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(pump, client, server, 1)
                await pump(server, client, 65536)
                nursery.cancel_scope.cancel()

    async def pump(source: trio.SocketStream, sink: trio.SocketStream, size: int) -> None:
        passed = 0
        with suppress(trio.BrokenResourceError):
            while data := await source.receive_some(size if passed < 600 else None):
                await sink.send_all(data)
                passed += len(data)

    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port: int = listener.socket.getsockname()[1]
    task_status.started(Address("127.0.0.1", port))
    await trio.serve_listeners(carry, [listener])


# -- clients that mean harm -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "why"),
    [
        (b"", "no handshake within 0.3 s"),
        (b"\x16", "no handshake within 0.3 s"),
        (b"\x16\x03\x01\x02\x00\x01", "no handshake within 0.3 s"),
        (b"GET / HTTP/1.1\r\n\r\n", "plain HTTP"),
        (b"\x00" * 500, "not TLS"),
        (b"\x16\x03\x01\x40\x00" + b"\x01" + bytes(16383), "TLS failed"),
    ],
)
async def test_nonsense_and_silence_end_within_the_time_for_a_handshake(
    issuer: Issuer, log: Log, said: bytes, why: str
) -> None:
    """X4: as without tokens."""
    issuer.token()
    async with issuer.node(timeout_s=0.3) as address:
        async with await trio.open_tcp_stream(address.host, address.port) as client:
            await client.send_all(said)
            await log.until("refused a connection", why)
            with suppress(trio.BrokenResourceError):
                while await client.receive_some():  # at most an alert, and then the end
                    pass


@pytest.mark.parametrize(
    ("said", "why"),
    [
        (b"", "no handshake within 0.3 s"),
        (b"\x10", "no handshake within 0.3 s"),
        (framed(bytes(100))[:-1], "no handshake within 0.3 s"),
        (framed(b"nonsense"), "not let in"),
        (framed(b"\x83\x46abcdef\x40\x58\x40" + bytes(64)), "the token is not known here"),
        ((MAX_JOIN_REQUEST_BYTES + 1).to_bytes(2, "big"), "over 6144"),
        (framed(b"x") + bytes(100_000), "more than one message"),
    ],
)
async def test_a_joiner_that_says_nonsense_costs_one_line_of_the_log(
    issuer: Issuer, log: Log, said: bytes, why: str
) -> None:
    token = issuer.token()
    async with issuer.node(timeout_s=0.3) as address:
        pipe = await knock(address)
        pipe.write_nowait(said)
        await log.until("refused a connection", why)
        pipe.close_nowait()
        assert len(log.lines) == 1
        assert (await join(address, token, "bob")).granted


async def test_a_joiner_that_resets_the_connection_ends_nothing_else(
    issuer: Issuer, log: Log
) -> None:
    """X4: at whatever moment; the socket then has no far end that could be asked for."""
    token = issuer.token()
    hello = ssl.MemoryBIO()
    tls = make_join_client().wrap_bio(ssl.MemoryBIO(), hello)
    with pytest.raises(ssl.SSLWantReadError):
        tls.do_handshake()
    data = hello.read()
    async with issuer.node() as address:
        for said in (b"", data[:50], data):
            sock = (await trio.open_tcp_stream(address.host, address.port)).socket
            await sock.send(said)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            sock.close()
        await log.until("refused a connection", count=3)
        assert (await join(address, token, "bob")).granted


async def test_places_for_joiners_are_few_and_members_have_their_own(
    issuer: Issuer, log: Log
) -> None:
    token = issuer.token()
    async with issuer.node() as address:
        silent = [await knock(address) for _ in range(MAX_JOINERS)]
        with pytest.raises((SecurityError, trio.BrokenResourceError)):
            await join(address, token, "bob")
        await log.until("more than 8 want to join at once")
        assert (await get_through(issuer.machine.network("carol"), address)).name == "alice"
        silent.pop().close_nowait()
        await log.until("refused a connection", count=2)
        assert (await join(address, token, "bob")).granted
        for each in silent:
            each.close_nowait()


async def test_an_address_that_guesses_is_received_no_more_for_a_while(
    issuer: Issuer, log: Log
) -> None:
    token = issuer.token(uses=2)
    stranger = Home(issuer.home.path.with_name("stranger"))
    cluster = stranger.default_cluster()
    guess = replace(
        stranger.tokens(cluster).make(cluster, now=datetime.now(UTC)),
        cluster_id=issuer.cluster.id,
        fingerprint=issuer.cluster.fingerprint,
    )
    async with issuer.node() as address:
        for _ in range(MAX_FAILURES):
            with pytest.raises(JoinFailed, match="not known here"):
                await join(address, guess, "bob")
        with pytest.raises((SecurityError, trio.BrokenResourceError)) as raised:
            await join(address, token, "bob")
        assert not isinstance(raised.value, JoinFailed)
        await log.until("no certificate shown")
        assert (await get_through(issuer.machine.network("carol"), address)).name == "alice"


def test_failures_are_forgiven_and_forgotten() -> None:
    failures = Failures()
    for _ in range(MAX_FAILURES):
        assert not failures.too_many("a", 0.0)
        failures.count("a", 0.0)
    assert failures.too_many("a", 59.0)
    assert not failures.too_many("a", 60.0)
    failures.count("a", 60.0)
    assert not failures.too_many("a", 60.0)
    for number in range(2000):
        failures.count(str(number), 61.0)
    assert len(failures) <= 1024
