"""What `openssl s_client` finds at a node's port: TLS 1.3 alone, a certificate of the cluster on
both sides, ALPN, no tickets, no resumption, no renegotiation (X1, X2).
"""

from __future__ import annotations

import shutil
import ssl

import pytest
import trio
from machines import Machine
from test_tcp_network import Refusals, client_context, get_through, refusals, serving

from steinadler.identity import Address

__all__ = ["refusals"]

needs_openssl = pytest.mark.skipif(
    shutil.which("openssl") is None, reason="needs the command openssl"
)
ALPN = ("-alpn", "steinadler/1")


def certificate(machine: Machine) -> tuple[str, ...]:
    """A good certificate, as options."""
    machine.credentials("alice")  # makes the cluster, the first time
    client_context(machine, ssl.TLSVersion.TLSv1_3, alpn=True)
    pem = str(machine.home.path / "alice.pem")
    return ("-cert", pem, "-key", pem)


async def s_client(address: Address, *options: str, said: bytes = b"") -> str:
    """What it prints, both ways, until the node or `said` ends it."""
    command = ["openssl", "s_client", "-connect", f"{address.host}:{address.port}", *options]
    done = await trio.run_process(
        command, stdin=said, capture_stdout=True, capture_stderr=True, check=False
    )
    return (done.stdout + done.stderr).decode(errors="replace")


@needs_openssl
async def test_a_member_gets_tls_1_3_and_no_ticket(machine: Machine) -> None:
    async with serving(machine.network("bob")) as address:
        told = await s_client(address, *ALPN, *certificate(machine), said=b"hello\n")
    assert "New, TLSv1.3" in told
    assert "ALPN protocol: steinadler/1" in told
    assert "Requested Signature Algorithms" in told, "it asks for a certificate"
    assert "New Session Ticket" not in told


@needs_openssl
@pytest.mark.parametrize("version", ["-tls1", "-tls1_1", "-tls1_2"])
async def test_no_older_version_is_spoken(
    machine: Machine, version: str, refusals: Refusals
) -> None:
    async with serving(machine.network("bob")) as address:
        told = await s_client(address, version, *ALPN, *certificate(machine))
        assert "Cipher is (NONE)" in told
        if "no protocols available" not in told:  # else openssl itself did not try
            assert await refusals.next()


@needs_openssl
@pytest.mark.parametrize(
    ("with_alpn", "with_certificate", "seen"),
    [(True, False, "no certificate shown"), (False, True, "TLS, but not steinadler/1 (ALPN)")],
    ids=["no certificate", "no ALPN"],
)
async def test_without_a_certificate_or_alpn_nobody_gets_in(
    machine: Machine, with_alpn: bool, with_certificate: bool, seen: str, refusals: Refusals
) -> None:
    options = (ALPN if with_alpn else ()) + (certificate(machine) if with_certificate else ())
    async with serving(machine.network("bob")) as address:
        await s_client(address, *options, "-ign_eof", said=b"hello\n")
        assert (await refusals.next()).endswith(f": {seen}")


@needs_openssl
async def test_no_session_is_resumed(machine: Machine) -> None:
    """Five more connections offer what the first left, which is nothing."""
    async with serving(machine.network("bob")) as address:
        told = await s_client(address, *ALPN, *certificate(machine), "-reconnect")
    assert told.count("New, TLSv1.3") >= 5
    assert "Reused" not in told


@needs_openssl
async def test_there_is_no_renegotiation(machine: Machine) -> None:
    """R is s_client's request for one."""
    async with serving(machine.network("bob")) as address:
        told = await s_client(address, *ALPN, *certificate(machine), said=b"R\n")
        assert "Secure Renegotiation IS NOT supported" in told
        assert "wrong ssl version" in told
        await get_through(machine.network("alice"), address)


async def test_pythons_ssl_gets_no_ticket_to_come_back_with(machine: Machine) -> None:
    machine.credentials("alice")
    context = client_context(machine, ssl.TLSVersion.TLSv1_3, alpn=True)
    async with serving(machine.network("bob")) as address:
        tcp = await trio.open_tcp_stream(address.host, address.port)
        async with trio.SSLStream(tcp, context, https_compatible=True) as stream:
            await stream.send_all(b"hello")
            assert await stream.receive_some(5) == b"hello"
            assert not stream.session_reused  # type: ignore[attr-defined]
            session = stream.session  # type: ignore[attr-defined]
            assert session is None or not session.has_ticket
