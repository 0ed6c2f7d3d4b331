"""Names in DNS: what they lead to is proposed, followed, and never believed."""

from __future__ import annotations

import builtins
import contextlib
import logging
import os
import random
import shutil
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import dns.rcode
import pytest
import trio
from dns_server import DnsServer, dns_server
from hypothesis import given, settings
from hypothesis import strategies as st
from proposals import proposing, until

from steinadler import open_node
from steinadler.discovery import Candidate, Dns, dns_lookup, dns_names, rounds
from steinadler.discovery.rounds import MOST_A_ROUND
from steinadler.errors import ConfigError
from steinadler.identity import Address

ALICE, BOB = Address("192.0.2.7", 4370), Address("192.0.2.8", 4370)
NAME = "nodes.test"
SERVICE = "_steinadler._tcp.nodes.test"


@pytest.fixture
async def server() -> AsyncIterator[DnsServer]:
    async with dns_server() as server:
        yield server


@pytest.fixture
def warnings(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.INFO, logger="steinadler.discovery")
    return caplog


def names(server: DnsServer, name: str = NAME, port: int | None = 4370, **options: Any) -> Dns:
    """A source that looks often and proposes often."""
    often = {"poll_interval_s": 0.02, "interval_s": 0.02, "timeout_s": 0.5}
    return Dns(name, port, nameservers=[server.address], **{**often, **options})


# -- what is answered ------------------------------------------------------------------------


async def test_all_addresses_of_a_name_are_proposed_again_and_again(server: DnsServer) -> None:
    server.put(NAME, "A", ALICE.host, BOB.host)
    server.put(NAME, "AAAA", "2001:db8::7")
    async with proposing(names(server)) as proposed:
        await proposed.until(ALICE, BOB, Address("2001:db8::7", 4370), times=5)
    assert Candidate(Address("2001:db8::7", 4370), "dns") in proposed.seen


async def test_the_records_of_a_service_say_hosts_and_ports(server: DnsServer) -> None:
    """RFC 2782: a target of "." says that there is none."""
    server.put(SERVICE, "SRV", "0 1 4371 a.test.", "9 1 4372 b.test.", "0 1 1 .", "0 1 0 a.test.")
    server.put("a.test", "A", ALICE.host)
    server.put("b.test", "A", BOB.host)
    a, b = Address(ALICE.host, 4371), Address(BOB.host, 4372)
    async with proposing(names(server, NAME, None)) as proposed:
        await proposed.until(a, b, times=2)
    assert proposed.addresses() == {a, b}


async def test_an_answer_that_changes_is_followed(server: DnsServer) -> None:
    server.put(NAME, "A", ALICE.host)
    async with proposing(names(server)) as proposed:
        await proposed.until(ALICE)
        server.put(NAME, "A", BOB.host)
        await proposed.until(BOB)
        proposed.forget()
        await proposed.until(BOB, times=5)
    assert proposed.addresses() == {BOB}


async def test_a_new_address_does_not_wait_for_a_round(server: DnsServer) -> None:
    server.put(NAME, "A", ALICE.host)
    async with proposing(names(server, interval_s=3600)) as proposed:
        await proposed.until(ALICE)
        server.put(NAME, "A", BOB.host)
        await proposed.until(BOB)


async def test_records_are_asked_for_when_they_run_out(
    server: DnsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By their TTL, where the interval is longer; a TTL of nothing is a while all the same."""
    monkeypatch.setattr(dns_names, "_SHORTEST_POLL_S", 0.1)
    server.put(NAME, "A", ALICE.host)
    server.ttl = 0
    async with proposing(names(server, poll_interval_s=3600)):
        await server.was_asked(NAME, 2)  # A and AAAA
        begun = trio.current_time()
        await server.was_asked(NAME, 2)
    assert trio.current_time() - begun > 0.05


async def test_a_long_answer_comes_over_tcp(server: DnsServer) -> None:
    hosts = [f"127.0.2.{number}" for number in range(1, 101)]
    server.put(NAME, "A", *hosts)
    async with proposing(names(server)) as proposed:
        await proposed.until(*(Address(host, 4370) for host in hosts))
    assert server.over_tcp


async def test_search_domains_are_tried_as_other_programs_do(
    server: DnsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In Kubernetes `nodes` and `nodes.shop` are names too, by `/etc/resolv.conf`."""
    made = dns_lookup._resolver

    def with_search(nameservers: Any) -> Any:
        resolver = made(nameservers)
        resolver.search = [dns.name.from_text("shop.svc.cluster.local")]
        resolver.ndots = 5
        return resolver

    monkeypatch.setattr(dns_lookup, "_resolver", with_search)
    server.put("nodes.shop.svc.cluster.local", "A", ALICE.host)
    async with proposing(names(server, "nodes")) as proposed:
        await proposed.until(ALICE)


# -- what goes wrong -------------------------------------------------------------------------


def cut_off(wire: bytes) -> bytes:
    """With the bit that says so (TC)."""
    return wire[:2] + bytes([wire[2] | 2]) + wire[3:]


def garbage(wire: bytes, tcp: bool) -> bytes:
    """The right question and identity, and nonsense behind them."""
    return wire[:6] + b"\xff" * 6 + wire[12:] + random.Random(1).randbytes(200)


async def failing(server: DnsServer, how: str) -> None:
    match how:
        case "refused":
            server.rcode = dns.rcode.REFUSED
        case "server failure":
            server.rcode = dns.rcode.SERVFAIL
        case "no answer":
            server.spoil = lambda wire, tcp: None
        case "garbage":
            server.spoil = garbage
        case "empty datagrams":
            server.spoil = lambda wire, tcp: b""
        case "another's answer":
            server.spoil = lambda wire, tcp: bytes([wire[0] ^ 1]) + wire[1:]
        case "cut off, and no TCP":
            server.spoil = lambda wire, tcp: None if tcp else cut_off(wire)
        case "no such name":
            server.zone.clear()
        case "no addresses":
            server.zone = {(NAME, "TXT"): ["x"]}


FAILURES = [
    "refused",
    "server failure",
    "no answer",
    "garbage",
    "empty datagrams",
    "another's answer",
    "cut off, and no TCP",
    "no such name",
    "no addresses",
]
# These say so; of the others no answer comes, and a busy machine's late one is the same.
ANSWERED = {"refused", "server failure", "no such name", "no addresses"}


@pytest.mark.parametrize("how", FAILURES)
async def test_what_was_known_is_proposed_while_dns_is_out_of_order(
    how: str, server: DnsServer, warnings: pytest.LogCaptureFixture
) -> None:
    """One warning, not one a look; and when it works again, new answers are followed."""
    server.put(NAME, "A", ALICE.host)
    timeout_s = 5.0 if how in ANSWERED else 0.05
    async with proposing(names(server, timeout_s=timeout_s)) as proposed:
        await proposed.until(ALICE)
        await failing(server, how)
        await until(lambda: warnings.records)
        await server.was_asked(NAME, 6)
        proposed.forget()
        await proposed.until(ALICE)
        told = [record.getMessage() for record in warnings.records]
        assert len(told) == 1, told
        assert NAME in told[0]
        server.rcode, server.spoil = dns.rcode.NOERROR, lambda wire, tcp: wire
        server.put(NAME, "A", BOB.host)
        await proposed.until(BOB)
        await until(lambda: len(warnings.records) > 1)
    assert [record.levelname for record in warnings.records] == ["WARNING", "INFO"]


async def test_a_server_that_is_not_there_is_one_warning(
    warnings: pytest.LogCaptureFixture,
) -> None:
    async with dns_server() as server:
        gone = names(server, timeout_s=0.05)
    async with proposing(gone):
        await until(lambda: warnings.records)
    assert NAME in warnings.records[0].getMessage()


async def test_a_target_that_cannot_be_found_costs_that_target(
    server: DnsServer, warnings: pytest.LogCaptureFixture
) -> None:
    """And no line in the log: who answers could name ever others."""
    server.put(SERVICE, "SRV", "0 1 4370 a.test.", "0 1 4370 gone.test.")
    server.put("a.test", "A", ALICE.host)
    async with proposing(names(server, NAME, None)) as proposed:
        await proposed.until(ALICE, times=3)
    assert not warnings.records


# -- what DNS could do to us -----------------------------------------------------------------


async def test_a_huge_answer_makes_few_dials(server: DnsServer) -> None:
    """S3, X4: of a thousand addresses each round proposes 32 at most, and not always the same."""
    server.put(NAME, "A", *(f"127.{a}.{b}.1" for a in range(1, 5) for b in range(250)))
    async with proposing(names(server, poll_interval_s=3600, interval_s=3600)) as proposed:
        await server.was_asked(NAME, 2)
        await until(lambda: proposed.seen)
    first = proposed.addresses()
    assert len(proposed.seen) == MOST_A_ROUND
    async with proposing(names(server)) as proposed:
        await until(lambda: len(proposed.addresses()) >= 3 * MOST_A_ROUND)
    assert proposed.addresses() != first


async def test_a_service_of_hundreds_of_hosts_makes_few_questions(server: DnsServer) -> None:
    server.put(SERVICE, "SRV", *(f"{n // 100} 0 4370 n{n}.test." for n in range(400)))
    server.put("n7.test", "A", ALICE.host)
    source = names(server, NAME, None, poll_interval_s=3600)
    async with proposing(source):
        await until(lambda: server.asked.total() > 2 * dns_lookup.MAX_TARGETS)
    targets = {name for name in server.asked if name != SERVICE}
    assert len(targets) == dns_lookup.MAX_TARGETS
    # Those of the lowest priority.
    assert targets <= {f"n{number}.test" for number in range(100)}


async def test_a_target_with_a_huge_answer_is_none(server: DnsServer) -> None:
    """Reading 64 of those would keep the node from everything else."""
    server.put(SERVICE, "SRV", "0 1 4370 a.test.", "0 1 4370 huge.test.")
    server.put("a.test", "A", ALICE.host)
    server.put("huge.test", "A", *(f"192.0.2.{n}" for n in range(100, 250)))
    async with proposing(names(server, NAME, None)) as proposed:
        await proposed.until(ALICE, times=3)
    assert server.over_tcp
    assert proposed.addresses() == {ALICE}


async def test_addresses_that_nobody_could_have_are_left_out(server: DnsServer) -> None:
    server.put(NAME, "A", "0.0.0.0", "224.0.0.1", "255.255.255.255", "192.0.2.7", "127.0.0.1")
    server.put(NAME, "AAAA", "::", "ff02::1", "fe80::1", "::ffff:192.0.2.9")
    async with proposing(names(server)) as proposed:
        await proposed.until(Address("192.0.2.7", 4370), times=3)
    assert proposed.addresses() == {Address("192.0.2.7", 4370)}


@settings(max_examples=15)
@given(st.binary(max_size=600), st.booleans())
def test_no_answer_raises(noise: bytes, over_tcp: bool) -> None:
    """X4: whatever comes behind the right identity."""

    async def main() -> None:
        async with dns_server() as server:
            server.put(NAME, "A", ALICE.host)

            def spoil(wire: bytes, tcp: bool) -> bytes:
                return cut_off(wire) if over_tcp and not tcp else wire[:12] + noise

            server.spoil = spoil
            asking = dns_lookup.Lookups(NAME, [server.address], 0.01, random.Random(1))
            with trio.fail_after(5):
                await asking.hosts(4370)

    trio.run(main)


async def test_cancellation_leaves_no_socket(server: DnsServer) -> None:
    """In the middle of questions that nobody answers, over UDP and over TCP."""
    server.put(NAME, "A", *(f"127.0.3.{number}" for number in range(1, 101)))
    server.spoil = lambda wire, tcp: None if tcp else wire
    before = set(os.listdir("/proc/self/fd")) if sys.platform == "linux" else set()
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            await nursery.start(names(server, timeout_s=60).run, pytest.fail)
            while not server.over_tcp:
                await server.was_asked(NAME)
            nursery.cancel_scope.cancel()
    if sys.platform == "linux":
        await until(lambda: set(os.listdir("/proc/self/fd")) <= before)  # the server's end too


# -- arguments -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "options", "said"),
    [
        (("",), {}, "could know"),
        (("192.0.2.7", 4370), {}, "addresses are seeds"),
        (("a..b", 4370), {}, "could know"),
        (("a" * 64 + ".test", 4370), {}, "could know"),
        (("a.test", 0), {}, "not a port"),
        (("a.test", 65536), {}, "not a port"),
        (("a.test", 4370), {"poll_interval_s": 0}, "poll_interval_s"),
        (("a.test", 4370), {"interval_s": -1}, "interval_s"),
        (("a.test", 4370), {"timeout_s": float("nan")}, "timeout_s"),
        (("a.test", 4370), {"nameservers": [Address("ns.test", 53)]}, "name server"),
    ],
)
def test_arguments_that_make_no_sense_are_refused_by_dns(
    arguments: tuple[Any, ...], options: dict[str, Any], said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        Dns(*arguments, **options)


def test_without_dnspython_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "steinadler.discovery.dns_lookup")
    real = builtins.__import__

    def missing(name: str, *args: Any) -> Any:
        if name.startswith("dns."):
            raise ModuleNotFoundError("No module named 'dns'")
        return real(name, *args)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(ConfigError, match=r"pip install 'steinadler\[dns\]'"):
        Dns("nodes.test", 4370)


# -- nodes -----------------------------------------------------------------------------------


@pytest.fixture
def two_machines(tmp_path: Path) -> tuple[Path, Path]:
    """Two homes with one cluster, so that the runtime folder brings nobody together."""
    from steinadler.security import open_home

    one, other = tmp_path / "one", tmp_path / "other"
    open_home(one).default_cluster()
    shutil.copytree(one, other)
    return one, other


async def test_nodes_join_by_a_service_in_dns(
    server: DnsServer, two_machines: tuple[Path, Path]
) -> None:
    """SRV, as Kubernetes has it: hosts come and go, and each node is in the answer itself."""
    async with contextlib.AsyncExitStack() as stack:
        nodes = []
        for name, home in zip(("alice", "bob"), two_machines, strict=True):
            source = names(server, NAME, None)
            node = open_node(name, host="127.0.0.1", home=home, mdns=False, sources=[source])
            nodes.append(await stack.enter_async_context(node))
        for node in nodes:
            server.put(f"{node.name}.test", "A", "127.0.0.1")
        server.put(
            SERVICE, "SRV", *(f"0 0 {node.addresses[0].port} {node.name}.test." for node in nodes)
        )
        with trio.fail_after(10):
            await nodes[0].wait_for_member("bob")
            await nodes[1].wait_for_member("alice")


async def test_dns_that_lies_costs_dials_that_come_to_nothing(
    server: DnsServer, two_machines: tuple[Path, Path], warnings: pytest.LogCaptureFixture
) -> None:
    """S3, X2: addresses of strangers are dialled, and no further than TLS."""
    warnings.set_level(logging.INFO, logger="steinadler.transport")
    dialled = trio.Event()

    async def stranger(stream: trio.SocketStream) -> None:
        assert (await stream.receive_some())[:1] == b"\x16"  # a TLS handshake, and nothing else
        await stream.send_all(b"220 mail.test ESMTP\r\n")
        dialled.set()
        with contextlib.suppress(trio.BrokenResourceError):
            assert not await stream.receive_some()

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(trio.serve_tcp, stranger, 0)
        port = listeners[0].socket.getsockname()[1]
        server.put(NAME, "A", "127.0.0.1", "127.0.4.4")
        source = names(server, port=port)
        async with open_node(
            "alice", host="127.0.0.1", home=two_machines[0], mdns=False, sources=[source]
        ) as alice:
            with trio.fail_after(10):
                await dialled.wait()
            assert [member.node.name for member in alice.members()] == ["alice"]
        nursery.cancel_scope.cancel()


def test_rounds_are_drawn_from_all_that_is_listed() -> None:
    """Nobody is left out for ever because the list is long."""
    listed = [Candidate(Address("192.0.2.1", port), "x") for port in range(1, 101)]
    seen: set[Candidate] = set()

    async def main() -> None:
        made = rounds.Rounds(random.Random(1), 3.0)
        made.put(listed)
        with trio.move_on_after(60):
            await made.run(seen.add)

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
    assert seen == set(listed)
