"""The gates of the one port, and what a dial makes of what it finds (promises X1 to X4, S3)."""

from __future__ import annotations

import errno
import logging
import os
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import pytest
import trio
import trio.testing
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from machines import Machine

from steinadler.config import DialSettings, WireSettings
from steinadler.errors import ConfigError
from steinadler.identity import NODE, Address
from steinadler.security import Authority, Home, PeerIdentity
from steinadler.transport.network import DialError, SecureStream
from steinadler.transport.tcp import TcpNetwork


class Refusals(logging.Handler):
    """The transport's log, as a queue that can be waited on."""

    def __init__(self) -> None:
        super().__init__()
        self._send, self._receive = trio.open_memory_channel[str](100)

    def emit(self, record: logging.LogRecord) -> None:
        self._send.send_nowait(record.getMessage())

    async def next(self) -> str:
        return await self._receive.receive()

    def none_left(self) -> bool:
        return self._receive.statistics().current_buffer_used == 0


@pytest.fixture
def refusals() -> Iterator[Refusals]:
    handler = Refusals()
    logger = logging.getLogger("steinadler.transport")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)  # a hang-up is no reason to warn
    yield handler
    logger.setLevel(logging.NOTSET)
    logger.removeHandler(handler)


async def echo(stream: SecureStream) -> None:
    try:
        while data := await stream.receive_some():
            if not stream.write_nowait(data):
                await stream.flush()
    except trio.BrokenResourceError:
        pass
    finally:
        stream.close_nowait()


@asynccontextmanager
async def serving(network: TcpNetwork, host: str | None = "127.0.0.1") -> AsyncIterator[Address]:
    """An echo service, for at most 20 s."""
    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            addresses = await nursery.start(network.serve, host, 0, echo)
            yield addresses[0]
            nursery.cancel_scope.cancel()


async def get_through(network: TcpNetwork, address: Address) -> PeerIdentity:
    stream = await network.dial(address)
    try:
        assert stream.write_nowait(b"hello")
        assert await stream.receive_some() == b"hello"
        return stream.peer
    finally:
        stream.close_nowait()


def client_context(machine: Machine, minimum: ssl.TLSVersion, *, alpn: bool) -> ssl.SSLContext:
    """A client that shows a good certificate, but keeps few of the other rules."""
    folder = machine.home.path / "clusters/default"
    authority_key = serialization.load_pem_private_key((folder / "ca.key").read_bytes(), None)
    assert isinstance(authority_key, ec.EllipticCurvePrivateKey)
    authority = Authority(
        x509.load_pem_x509_certificate((folder / "ca.pem").read_bytes()), authority_key
    )
    identity = machine.credentials("alice").identity
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = authority.issue(identity, key.public_key(), datetime.now(UTC))
    pem = machine.home.path / "alice.pem"
    pem.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        + certificate.public_bytes(serialization.Encoding.PEM)
    )
    context = bare_context()
    context.minimum_version = context.maximum_version = minimum
    context.load_cert_chain(pem)
    if alpn:
        context.set_alpn_protocols(["steinadler/1"])
    return context


def bare_context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


async def knock_with_tls(address: Address, context: ssl.SSLContext) -> None:
    """Try to get in with `context`, until the server ends it."""
    tcp = await trio.open_tcp_stream(address.host, address.port)
    async with trio.SSLStream(tcp, context, https_compatible=True) as stream:
        with pytest.raises(trio.BrokenResourceError):
            await receive_to_the_end(stream)


async def receive_to_the_end(stream: trio.abc.Stream) -> None:
    # A server that ends without an alert is as good a refusal as one with.
    if await stream.receive_some(1) == b"":
        raise trio.BrokenResourceError


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", None])
async def test_peers_meet_under_their_certified_names(machine: Machine, host: str | None) -> None:
    """X3, and one port for everything."""
    alice, bob = machine.network("alice"), machine.network("bob")
    async with serving(bob, host) as address:
        assert await get_through(alice, address) == bob.identity
        assert bob.identity == PeerIdentity(alice.identity.cluster_id, NODE, "bob")


async def test_every_interface_means_both_versions_and_no_loopback_in_the_answer(
    machine: Machine,
) -> None:
    """`host` None listens on IPv4 and IPv6 alike, and tells addresses that others can use."""
    alice, bob = machine.network("alice"), machine.network("bob")
    async with serving(bob, None) as address:
        assert address.host == "127.0.0.1" or not address.host.startswith("127.")
        await get_through(alice, Address("127.0.0.1", address.port))
        if socket.has_dualstack_ipv6():
            await get_through(alice, Address("::1", address.port))


async def test_a_given_host_is_the_answer(machine: Machine) -> None:
    async with serving(machine.network("bob"), "localhost") as address:
        assert address.host == "localhost"


async def test_a_port_in_use_is_a_sentence(machine: Machine) -> None:
    async with serving(machine.network("alice")) as address:
        with pytest.raises(ConfigError, match=rf"port {address.port} of 127\.0\.0\.1 is in use"):
            await machine.network("bob").serve("127.0.0.1", address.port, echo)
        with pytest.raises(ConfigError, match=rf"port {address.port} is in use"):
            await machine.network("bob").serve(None, address.port, echo)


@pytest.mark.parametrize(
    ("host", "port", "sentence"),
    [
        ("203.0.113.7", 0, "'203.0.113.7' is not an address of this machine"),
        ("not a host", 0, "'not a host' is not the name or address of a host"),
        ("127.0.0.1", 65536, "65536 is not a port"),
        ("127.0.0.1", -1, "-1 is not a port"),
    ],
)
async def test_a_place_that_cannot_be_listened_at_is_a_sentence(
    machine: Machine, host: str, port: int, sentence: str
) -> None:
    with pytest.raises(ConfigError, match=sentence):
        await machine.network("alice").serve(host, port, echo)


async def test_strangers_are_one_line_each_and_stop_nobody(
    machine: Machine, refusals: Refusals
) -> None:
    """X2, X4: HTTP, garbage, a hang-up: each named with its address; members get in as before."""
    alice, bob = machine.network("alice"), machine.network("bob")
    async with serving(bob) as address:
        for sent, seen in (
            (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", "plain HTTP"),
            (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "plain HTTP"),
            (os.urandom(1000).lstrip(b"\x15\x16") or b"\x00", "not TLS"),
            (b"SSH-2.0-OpenSSH_9.2\r\n", "not TLS"),
            (b"\x16\x03\x01\x00\x05hello", "TLS failed"),
            (b"\x16\x03\x01\xff\xff" + bytes(70_000), "TLS failed"),
            (b"", "the connection was closed during the TLS handshake"),
        ):
            stranger = await trio.open_tcp_stream(address.host, address.port)
            name = stranger.socket.getsockname()
            if sent:
                await stranger.send_all(sent)
            else:
                await stranger.send_eof()
            line = await refusals.next()
            assert line.startswith(f"refused a connection from {name[0]}:{name[1]}: {seen}"), line
            await stranger.aclose()
            await get_through(alice, address)
        assert refusals.none_left()


async def test_silent_and_slow_clients_are_cut_while_others_get_in(
    machine: Machine, refusals: Refusals
) -> None:
    """X4: a client that says nothing, or half of a hello, costs a place for a limited time."""
    alice, bob = machine.network("alice"), machine.network("bob", handshake_timeout_s=1.0)
    async with serving(bob) as address:
        silent = await trio.open_tcp_stream(address.host, address.port)
        slow = await trio.open_tcp_stream(address.host, address.port)
        await slow.send_all(b"\x16\x03\x01\x01\x00\x01")
        await get_through(alice, address)
        assert refusals.none_left()
        for _ in range(2):
            assert (await refusals.next()).endswith(": no handshake within 1 s")
        for client in (silent, slow):
            assert await client.receive_some() == b""
            await client.aclose()


async def test_established_streams_hold_no_place(machine: Machine) -> None:
    alice, bob = machine.network("alice"), machine.network("bob", max_handshakes=1)
    async with serving(bob) as address:
        streams = [await alice.dial(address) for _ in range(5)]
        for stream in streams:
            assert stream.write_nowait(b"x")
            assert await stream.receive_some() == b"x"
            stream.close_nowait()


async def test_a_client_without_a_certificate_gets_no_further_than_the_handshake(
    machine: Machine, refusals: Refusals
) -> None:
    """X2."""
    context = bare_context()
    context.set_alpn_protocols(["steinadler/1"])
    async with serving(machine.network("bob")) as address:
        await knock_with_tls(address, context)
        assert (await refusals.next()).endswith(": no certificate shown")


async def test_an_older_tls_is_refused(machine: Machine, refusals: Refusals) -> None:
    """X1: TLS 1.2 is not spoken, even by the holder of a good certificate."""
    async with serving(machine.network("bob")) as address:
        await knock_with_tls(address, client_context(machine, ssl.TLSVersion.TLSv1_2, alpn=True))
        assert (await refusals.next()).endswith(": a TLS version other than 1.3")


async def test_tls_for_another_protocol_is_refused(machine: Machine, refusals: Refusals) -> None:
    """Section 5: without our ALPN it is not for us, whatever certificate is shown."""
    bob = machine.network("bob")
    async with serving(bob) as address:
        await knock_with_tls(address, client_context(machine, ssl.TLSVersion.TLSv1_3, alpn=False))
        assert (await refusals.next()).endswith(": TLS, but not steinadler/1 (ALPN)")


async def test_two_clusters_never_merge(machine: Machine, refusals: Refusals) -> None:
    """X2, S3: the dialler refuses the server's certificate, and says what it is."""
    ours, theirs = machine.network("alice"), machine.network("bob", "other")
    async with serving(theirs) as address:
        with pytest.raises(DialError, match="certificate not signed by this cluster's CA") as error:
            await ours.dial(address)
        # A living node of somebody else's is no evidence that the one we knew is gone.
        assert not error.value.refused
        assert "our certificate is not signed by its cluster's CA" in await refusals.next()


async def test_a_client_of_another_cluster_is_refused(machine: Machine, refusals: Refusals) -> None:
    """X2: the same the other way round, for a client that does not look at the server."""
    context = bare_context()
    context.set_alpn_protocols(["steinadler/1"])
    other = Machine(machine.home.path / "elsewhere")
    other.credentials("x")
    context = client_context(other, ssl.TLSVersion.TLSv1_3, alpn=True)
    async with serving(machine.network("bob")) as address:
        await knock_with_tls(address, context)
        assert (await refusals.next()).endswith(": certificate not signed by this cluster's CA")


async def test_expired_certificates_are_refused_on_both_sides(
    tmp_path: Path, refusals: Refusals
) -> None:
    """Section 6: validity is checked.  The dialler learns of its own at the first read."""
    then = datetime.now(UTC) - timedelta(days=20)
    past, present = Home(tmp_path, clock=lambda: then), Home(tmp_path)
    cluster = past.default_cluster()
    expired, good = (
        TcpNetwork(home.credentials(cluster, NODE, name), DialSettings(), WireSettings())
        for home, name in ((past, "alice"), (present, "bob"))
    )
    async with serving(expired) as address:
        with pytest.raises(DialError, match="certificate expired") as error:
            await good.dial(address)
        assert not error.value.refused
        await refusals.next()
    async with serving(good) as address:
        stream = await expired.dial(address)
        with pytest.raises(trio.BrokenResourceError, match="refuses us: certificate expired"):
            await stream.receive_some()
        stream.close_nowait()
        assert (await refusals.next()).endswith(": certificate expired")


@asynccontextmanager
async def answering(answer: bytes | None) -> AsyncIterator[Address]:
    """Something that is not a node: it says `answer`, or (None) resets whoever connects."""

    async def handler(stream: trio.SocketStream) -> None:
        if answer is None:
            stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        elif answer:
            await stream.send_all(answer)
            await receive_all(stream)
        else:
            await receive_all(stream)
        await stream.aclose()

    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            listeners = await nursery.start(partial(trio.serve_tcp, handler, 0, host="127.0.0.1"))
            yield Address("127.0.0.1", listeners[0].socket.getsockname()[1])
            nursery.cancel_scope.cancel()


async def receive_all(stream: trio.SocketStream) -> None:
    try:
        async for _ in stream:
            pass
    except trio.BrokenResourceError:
        pass


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (b"SSH-2.0-OpenSSH_9.2\r\n", "not TLS"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "plain HTTP"),
    ],
)
async def test_somebody_else_at_the_port_is_a_refusal(
    machine: Machine, answer: bytes, words: str
) -> None:
    """Section 7: strong evidence that the node which used to be there is gone."""
    async with answering(answer) as address:
        with pytest.raises(DialError, match=words) as error:
            await machine.network("alice").dial(address)
        assert error.value.refused


async def test_a_reset_in_mid_handshake_is_no_refusal_s2(machine: Machine) -> None:
    """The path may have done it: a connection that breaks is no evidence of a death."""
    async with answering(None) as address:
        with pytest.raises(DialError, match="reset by peer") as error:
            await machine.network("alice").dial(address)
        assert not error.value.refused


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
async def test_a_closed_port_is_a_refusal(machine: Machine, host: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with trio.fail_after(10):
        with pytest.raises(DialError, match=f"{host}:{port}: Connection refused") as error:
            await machine.network("alice").dial(Address(host, port))
    assert error.value.refused


@pytest.mark.parametrize(
    "address",
    [Address("no such host", 1), Address("", 1), Address("x\0y", 1), Address("ü" * 300, 1)],
    ids=repr,
)
async def test_an_address_that_is_none_is_a_failed_dial(machine: Machine, address: Address) -> None:
    """X4: addresses come from peers too, and nonsense must not raise anything else."""
    with trio.fail_after(10):
        with pytest.raises(DialError) as error:
            await machine.network("alice").dial(address)
    assert not error.value.refused


async def test_a_cancelled_dial_leaves_nothing_open(machine: Machine) -> None:
    ended = trio.Event()

    async def silent(stream: trio.SocketStream) -> None:
        await receive_all(stream)
        ended.set()

    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            listeners = await nursery.start(partial(trio.serve_tcp, silent, 0, host="127.0.0.1"))
            address = Address("127.0.0.1", listeners[0].socket.getsockname()[1])
            network = machine.network("alice")
            with trio.move_on_after(0.1) as scope:
                await network.dial(address)
            assert scope.cancelled_caught
            await ended.wait()
            nursery.cancel_scope.cancel()


async def test_a_server_that_stops_lets_go_of_its_port(machine: Machine) -> None:
    alice, bob = machine.network("alice"), machine.network("bob")
    async with serving(bob) as address:
        await get_through(alice, address)
    with trio.fail_after(10):
        with pytest.raises(DialError) as error:
            await alice.dial(address)
    assert error.value.refused


def take_all_descriptors(any_descriptor: int, taken: ExitStack) -> None:
    while True:
        taken.callback(os.close, os.dup(any_descriptor))


async def test_a_machine_out_of_descriptors_goes_on_when_there_are_some(
    machine: Machine, refusals: Refusals
) -> None:
    """X4: no number of connections stops a node; it says so once and accepts again later."""
    resource = pytest.importorskip("resource")
    alice, bob = machine.network("alice"), machine.network("bob")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    async with serving(bob) as address:
        with ExitStack() as taken:
            resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, 256), hard))
            taken.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
            waiting = await trio.open_tcp_stream("127.0.0.1", address.port)
            await trio.testing.wait_all_tasks_blocked()
            client = socket.socket()
            client.setblocking(False)
            with pytest.raises(OSError, match=os.strerror(errno.EMFILE)):
                take_all_descriptors(client.fileno(), taken)
            assert client.connect_ex((address.host, address.port)) == errno.EINPROGRESS
            assert await refusals.next() == (
                f"cannot accept connections for now: {os.strerror(errno.EMFILE)}"
            )
        assert refusals.none_left()
        client.close()
        await waiting.aclose()
        await get_through(alice, address)
