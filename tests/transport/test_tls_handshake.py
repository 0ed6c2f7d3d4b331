"""What a handshake insists on by itself, whatever context it is given (promises X1 to X3).

`Credentials` make contexts that leave nothing to insist on; these tests bring laxer ones.
"""

from __future__ import annotations

import ssl
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import UTC, datetime

import pytest
import trio
from machines import connected_sockets

from steinadler.errors import SecurityError
from steinadler.identity import NODE
from steinadler.security import Authority, IssuedCredentials, PeerIdentity, SpiffePattern
from steinadler.transport.carrier import SocketCarrier
from steinadler.transport.network import SecureStream
from steinadler.transport.tls import AnotherProtocol, handshake

CLUSTER = "0123456789abcdef" * 2
ALICE = PeerIdentity(CLUSTER, NODE, "alice")
BOB = PeerIdentity(CLUSTER, NODE, "bob")
JUDGE = SpiffePattern.of_cluster(CLUSTER).identify


async def outcome_on_the_server(client: ssl.SSLContext, server: ssl.SSLContext) -> object:
    """The peer's identity, or the exception, that the server's side of a handshake ends with."""
    near, far = connected_sockets()
    outcomes: dict[str, object] = {}

    async def shake(side: str, run: Callable[[], Awaitable[SecureStream]]) -> None:
        try:
            stream = await run()
        except (SecurityError, trio.BrokenResourceError) as error:
            outcomes[side] = error
        else:
            outcomes[side] = stream.peer
            stream.close_nowait()

    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            for side, sock, context in (("client", near, client), ("server", far, server)):
                nursery.start_soon(
                    shake,
                    side,
                    lambda sock=sock, context=context, side=side: handshake(
                        SocketCarrier(sock), context, server_side=side == "server", judge=JUDGE
                    ),
                )
    assert near.fileno() == far.fileno() == -1
    return outcomes["server"]


@pytest.fixture
def authority() -> Authority:
    return Authority.create(CLUSTER, datetime.now(UTC))


@pytest.fixture
def alice(authority: Authority) -> ssl.SSLContext:
    return IssuedCredentials(authority, ALICE).client_context()


@pytest.fixture
def bob(authority: Authority) -> ssl.SSLContext:
    return IssuedCredentials(authority, BOB).server_context()


async def test_a_good_one(alice: ssl.SSLContext, bob: ssl.SSLContext) -> None:
    assert await outcome_on_the_server(alice, bob) == ALICE


async def test_tls_1_3_is_required(alice: ssl.SSLContext, bob: ssl.SSLContext) -> None:
    """X1: a context that allows TLS 1.2 does not make it good enough."""
    for context in (alice, bob):
        context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_2
    refusal = await outcome_on_the_server(alice, bob)
    assert isinstance(refusal, SecurityError)
    assert str(refusal) == "TLSv1.2 where TLS 1.3 is required"


async def test_a_certificate_is_required(bob: ssl.SSLContext) -> None:
    """X2: a context that does not ask for a certificate does not make one dispensable."""
    nobody = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    nobody.check_hostname = False
    nobody.verify_mode = bob.verify_mode = ssl.CERT_NONE
    nobody.set_alpn_protocols(["steinadler/1"])
    refusal = await outcome_on_the_server(nobody, bob)
    assert isinstance(refusal, SecurityError)
    assert str(refusal) == "no certificate shown"


async def test_our_protocol_is_required(alice: ssl.SSLContext, bob: ssl.SSLContext) -> None:
    alice.set_alpn_protocols(["h2"])
    assert isinstance(await outcome_on_the_server(alice, bob), AnotherProtocol)


async def test_a_well_signed_certificate_with_an_odd_name_is_refused(
    authority: Authority, bob: ssl.SSLContext
) -> None:
    """X3: the authority's signature alone does not make a name."""
    odd = IssuedCredentials(authority, replace(ALICE, name="-alice")).client_context()
    refusal = await outcome_on_the_server(odd, bob)
    assert isinstance(refusal, SecurityError)
    assert "bad name" in str(refusal)


async def test_a_certificate_that_vouches_for_another_cluster_is_refused(
    authority: Authority, bob: ssl.SSLContext
) -> None:
    """S3: the authority may not name other clusters' nodes."""
    forged = IssuedCredentials(authority, replace(ALICE, cluster_id="f" * 32)).client_context()
    refusal = await outcome_on_the_server(forged, bob)
    assert isinstance(refusal, SecurityError)
    assert str(refusal) == "certificate not acceptable: permitted subtree violation"


async def test_a_connection_that_ends_early_is_no_security_matter(bob: ssl.SSLContext) -> None:
    near, far = connected_sockets()
    near.close()
    with trio.fail_after(10), pytest.raises(trio.BrokenResourceError, match="closed during"):
        await handshake(SocketCarrier(far), bob, server_side=True, judge=JUDGE)
    assert far.fileno() == -1
