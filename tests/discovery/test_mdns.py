"""Nodes on one link find each other over real multicast, and only those of their cluster."""

from __future__ import annotations

import errno
import functools
import logging
import os
import secrets
import shutil
import socket
import subprocess
import sys
import textwrap
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import ifaddr
import pytest
import trio
from zeroconf import DNSOutgoing, IPVersion, ServiceInfo, Zeroconf

from steinadler.discovery import (
    Advertisement,
    Candidate,
    Mdns,
    instances,
    interfaces,
    mdns,
    records,
)
from steinadler.discovery.interfaces import Interfaces
from steinadler.errors import ConfigError
from steinadler.identity import Address

GROUP, PORT = "224.0.0.251", 5353


def mdns_socket() -> socket.socket:
    """A socket in the mDNS group on the loopback interface, as zeroconf opens it."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if hasattr(socket, "SO_REUSEPORT"):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    sock.bind(("", PORT))
    loopback = socket.inet_aton("127.0.0.1")
    sock.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, socket.inet_aton(GROUP) + loopback)
    sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, loopback)
    sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_LOOP, 1)
    return sock


@functools.cache
def why_no_multicast() -> str | None:
    """Send ourselves an empty mDNS message; None when it arrives."""
    message = secrets.token_bytes(2) + bytes(10)
    try:
        with mdns_socket() as sock:
            sock.settimeout(1)
            sock.sendto(message, (GROUP, PORT))
            while sock.recv(9000) != message:
                pass
    except OSError as error:
        return f"no multicast on the loopback interface: {error or type(error).__name__}"
    return None


@pytest.fixture
def multicast() -> None:
    if (reason := why_no_multicast()) is not None:
        pytest.skip(reason)


def new_cluster() -> str:
    """Drawn anew for every test, so that tests which run side by side do not meet."""
    return secrets.token_hex(32)


def advertise(node: str, fingerprint: str, incarnation: int = 7, port: int = 4370) -> Advertisement:
    return Advertisement(node, incarnation, (Address("127.0.0.1", port),), fingerprint)


def threads() -> set[threading.Thread]:
    """All threads but those that Trio keeps for the next use."""
    return {thread for thread in threading.enumerate() if not thread.name.startswith("Trio thread")}


async def no_more_threads_than(before: set[threading.Thread]) -> None:
    for thread in threads() - before:
        await trio.to_thread.run_sync(thread.join, 5)
    assert threads() <= before


class Node:
    """A running `Mdns`, and what it proposed."""

    def __init__(self) -> None:
        self.seen: list[Candidate] = []
        self._more = trio.Event()

    def found(self, candidate: Candidate) -> None:
        self.seen.append(candidate)
        self._more.set()

    def names(self) -> set[str | None]:
        return {candidate.name for candidate in self.seen}

    async def until(self, name: str, times: int = 1) -> None:
        with trio.fail_after(10):
            while sum(candidate.name == name for candidate in self.seen) < times:
                await self._more.wait()
                self._more = trio.Event()


@asynccontextmanager
async def running(source: Mdns) -> AsyncIterator[Node]:
    node = Node()
    async with trio.open_nursery() as nursery:
        await nursery.start(source.run, node.found)
        yield node
        nursery.cancel_scope.cancel()


@pytest.mark.usefixtures("multicast")
async def test_two_nodes_find_each_other() -> None:
    """Both learn where the other listens, without either having to wait for a repetition."""
    cluster = new_cluster()
    async with (
        running(Mdns(advertise("alice", cluster, 1, 4371), cluster)) as alice,
        running(Mdns(advertise("bob", cluster, 2, 4372), cluster)) as bob,
    ):
        with trio.fail_after(3):
            await alice.until("bob")
            await bob.until("alice")
    assert set(alice.seen) == {Candidate(Address("127.0.0.1", 4372), "mdns", "bob", 2)}
    assert set(bob.seen) == {Candidate(Address("127.0.0.1", 4371), "mdns", "alice", 1)}


NODE = textwrap.dedent(
    """
    import sys, trio
    from steinadler.discovery import Advertisement, Mdns, mdns
    from steinadler.identity import Address

    mdns._LOOK_S = 0.1
    name, cluster, wanted, *interfaces = sys.argv[1:]

    async def main():
        def found(candidate):
            if candidate.name == wanted:
                print(candidate, flush=True)

        me = Advertisement(name, 1, (Address("192.0.2.99", 4370),), cluster)
        await Mdns(me, cluster, interfaces=interfaces or None).run(found)

    trio.run(main)
    """
)


@pytest.mark.usefixtures("multicast")
async def test_two_processes_find_each_other() -> None:
    """On all interfaces, as nodes that others can reach are run by default."""
    cluster = new_cluster()

    async def node(name: str, wanted: str) -> bytes:
        command = [sys.executable, "-c", NODE, name, cluster, wanted]
        async with trio.open_nursery() as nursery:
            process = await nursery.start(
                functools.partial(trio.run_process, command, stdout=subprocess.PIPE, check=False)
            )
            seen: bytes = await process.stdout.receive_some()
            await release(name)
            nursery.cancel_scope.cancel()
        return seen

    done: set[str] = set()
    both = trio.Event()

    async def release(name: str) -> None:
        done.add(name)
        if len(done) == 2:
            both.set()
        await both.wait()

    results: list[bytes] = []

    async def collect(call: Callable[[], Awaitable[bytes]]) -> None:
        results.append(await call())

    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(collect, functools.partial(node, "alice", "bob"))
            nursery.start_soon(collect, functools.partial(node, "bob", "alice"))
    assert all(b"192.0.2.99" in result for result in results)


@pytest.mark.usefixtures("multicast")
async def test_an_observer_finds_and_is_not_found() -> None:
    cluster = new_cluster()
    async with (
        running(Mdns(advertise("alice", cluster), cluster)) as alice,
        running(Mdns(None, cluster, interfaces=["127.0.0.1"])) as observer,
    ):
        await observer.until("alice")
        # When the later node has been heard, so has anything that the observer might have said.
        async with running(Mdns(advertise("bob", cluster), cluster)):
            await alice.until("bob")
            await observer.until("bob")
    assert alice.names() == {"bob"}
    assert observer.names() == {"alice", "bob"}


@pytest.mark.usefixtures("multicast")
async def test_two_clusters_on_one_network_never_merge() -> None:
    """S3: what is announced for another cluster is heard, and never proposed."""
    ours, theirs = new_cluster(), new_cluster()
    async with (
        running(Mdns(advertise("alice", ours), ours, repeat_interval_s=0.1)) as alice,
        running(Mdns(advertise("mallory", theirs), theirs)),
        running(Mdns(advertise("trudy", theirs), theirs)) as trudy,
    ):
        await trudy.until("mallory")
        async with running(Mdns(advertise("bob", ours), ours)) as bob:
            await bob.until("alice")
            await alice.until("bob", 5)
    assert alice.names() == {"bob"}
    assert bob.names() == {"alice"}
    assert trudy.names() == {"mallory"}


@pytest.mark.usefixtures("multicast")
async def test_whoever_wants_to_overhears_other_clusters() -> None:
    """To tell an operator of them: they are still not proposed."""
    ours, theirs = new_cluster(), new_cluster()
    overheard: list[tuple[records.Txt, tuple[Address, ...]]] = []
    where = (Address("127.0.0.1", 4370),)
    strangers = (records.Announcement(theirs[:32], "mallory", 7), where)
    heard = trio.Event()

    def note(txt: records.Txt, addresses: tuple[Address, ...]) -> None:
        overheard.append((txt, addresses))
        if overheard[-1] == strangers:
            heard.set()

    async with (
        running(Mdns(None, ours, interfaces=["127.0.0.1"], overheard=note)) as observer,
        running(Mdns(advertise("mallory", theirs), theirs)),
        running(Mdns(advertise("bob", ours), ours)),
    ):
        await observer.until("bob")
        with trio.fail_after(10):
            await heard.wait()
    assert (records.Announcement(ours[:32], "bob", 7), where) in overheard
    assert observer.names() == {"bob"}


@pytest.mark.usefixtures("multicast")
async def test_another_life_is_found_but_never_this_one() -> None:
    """D3: a node of the same name is another life; what bears our incarnation is ourselves."""
    cluster = new_cluster()
    async with (
        running(Mdns(advertise("alice", cluster, 1), cluster)) as first,
        running(Mdns(advertise("alice", cluster, 2), cluster)) as second,
    ):
        await first.until("alice")
        await second.until("alice")
    assert {candidate.incarnation for candidate in first.seen} == {2}
    assert {candidate.incarnation for candidate in second.seen} == {1}


@pytest.mark.usefixtures("multicast")
async def test_a_node_is_proposed_until_it_says_goodbye() -> None:
    cluster = new_cluster()
    async with (
        running(Mdns(None, cluster, interfaces=["127.0.0.1"], repeat_interval_s=0.02)) as observer,
        running(Mdns(advertise("bob", cluster), cluster)),
    ):
        async with running(Mdns(advertise("alice", cluster), cluster)):
            await observer.until("alice", 3)
        # Unsaid, her records would live for another two minutes.
        with trio.fail_after(10):
            while "alice" in observer.names():
                del observer.seen[:]
                await observer.until("bob", 5)


@pytest.mark.usefixtures("multicast")
async def test_cancellation_leaves_no_thread() -> None:
    """Whenever it comes: before, during and after the set-up."""
    before = threads()
    cluster = new_cluster()
    with trio.fail_after(10):
        with trio.CancelScope() as scope:
            scope.cancel()
            await Mdns(advertise("alice", cluster), cluster).run(pytest.fail)
        await no_more_threads_than(before)
        async with running(Mdns(advertise("alice", cluster), cluster)):
            assert threads() > before
        await no_more_threads_than(before)


@pytest.mark.usefixtures("multicast")
async def test_a_callback_that_raises_is_not_silenced() -> None:
    """A bug above ends loudly, and still leaves no thread."""
    before = threads()
    cluster = new_cluster()

    def found(candidate: Candidate) -> None:
        raise ZeroDivisionError

    async with running(Mdns(advertise("alice", cluster), cluster)):
        observer = Mdns(None, cluster, interfaces=["127.0.0.1"])
        with trio.fail_after(10), pytest.raises(BaseExceptionGroup) as caught:
            await observer.run(found)
    assert caught.group_contains(ZeroDivisionError)
    await no_more_threads_than(before)


@pytest.mark.usefixtures("multicast")
async def test_ten_nodes_in_one_process_find_each_other() -> None:
    """Nothing is shared between them but the network."""
    before = threads()
    cluster = new_cluster()
    names = [f"n{number}" for number in range(10)]
    nodes: list[Node] = []
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            for name in names:
                node = Node()
                await nursery.start(Mdns(advertise(name, cluster), cluster).run, node.found)
                nodes.append(node)
            for own, node in zip(names, nodes, strict=True):
                for name in names:
                    if name != own:
                        await node.until(name)
            nursery.cancel_scope.cancel()
    assert all(node.names() == set(names) - {own} for own, node in zip(names, nodes, strict=True))
    await no_more_threads_than(before)


def good_txt(cluster: str, node: str = "mallory") -> dict[str, str]:
    return {"v": "1", "cluster": cluster[:32], "node": node, "inc": "1"}


@pytest.mark.usefixtures("multicast")
async def test_hostile_records_are_ignored() -> None:
    """X4: whatever is announced, the source goes on and proposes what is in order."""
    cluster = new_cluster()

    def instance(
        label: str, txt: dict[str, str] | bytes, port: int = 1, ips: tuple[str, ...] = ("10.0.0.1",)
    ) -> ServiceInfo:
        return ServiceInfo(
            records.SERVICE_TYPE,
            f"{label}-{cluster[:8]}.{records.SERVICE_TYPE}",
            port=port,
            properties=txt,
            server=f"{label}-{cluster[:8]}.local.",
            parsed_addresses=list(ips),
        )

    hostile = [
        instance("empty", b"\x00"),
        instance("binary", b"\xff" * 200),
        instance("huge", b"\xff" + b"x" * 255 + b"\xff" + b"y" * 255 + b"\xff" * 3000),
        instance("version", {**good_txt(cluster), "v": "2"}),
        instance("path", good_txt(cluster, "../../etc/passwd")),
        instance("incarnation", {**good_txt(cluster), "inc": "-1"}),
        instance("cluster", {**good_txt(cluster), "cluster": "x" * 32}),
        instance("port", good_txt(cluster), port=0),
        instance("zero", good_txt(cluster), ips=("0.0.0.0", "::")),
        instance("multicast", good_txt(cluster), ips=("224.0.0.1", "255.255.255.255")),
        instance("a.b.c.d", good_txt(new_cluster())),
        instance("no address", good_txt(cluster), ips=()),
        instance("victim again", {**good_txt(cluster, "victim"), "inc": "7"}),
        instance("s p\u00e4c\u00e9 \u2603", good_txt(new_cluster())),
    ]
    unspeakable = instance("name", good_txt(cluster))
    unspeakable.name = f"\x01\x7f-{cluster[:8]}.{records.SERVICE_TYPE}"
    victim = Mdns(advertise("victim", cluster), cluster, repeat_interval_s=0.05)
    async with running(victim) as node:
        zc = Zeroconf(interfaces=["127.0.0.1"], ip_version=IPVersion.V4Only, use_asyncio=False)
        try:
            for info in (*hostile, unspeakable):
                zc.send(zc.generate_service_broadcast(info, None))
            async with running(Mdns(advertise("alice", cluster), cluster)):
                await node.until("alice", 5)
        finally:
            zc.close()
    assert node.names() == {"alice"}


@pytest.mark.usefixtures("multicast")
async def test_a_flood_of_names_keeps_nobody_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """X4: what is remembered is bounded, and nodes are found while and after it is full."""
    monkeypatch.setattr(instances, "_MAX_INSTANCES", 50)
    cluster = new_cluster()
    flood = DNSOutgoing(0x8400)
    for number in range(200):
        label = f"{number}-{cluster[:8]}.{records.SERVICE_TYPE}"
        flood.add_answer_at_time(ServiceInfo(records.SERVICE_TYPE, label).dns_pointer(), 0)
    observer = Mdns(None, cluster, interfaces=["127.0.0.1"], repeat_interval_s=0.1)
    with trio.socket.from_stdlib_socket(mdns_socket()) as sock:
        async with running(observer) as node:
            for packet in flood.packets():
                await sock.sendto(packet, (GROUP, PORT))
            async with (
                running(Mdns(advertise("alice", cluster), cluster)),
                running(Mdns(advertise("bob", cluster), cluster)),
            ):
                await node.until("alice", 3)
                await node.until("bob", 3)
    assert node.names() == {"alice", "bob"}


@pytest.mark.usefixtures("multicast")
async def test_records_that_did_not_come_along_are_asked_for() -> None:
    """RFC 6763 section 12 only recommends to send them unasked, with the instance's name."""
    cluster = new_cluster()
    label = f"shy-{cluster[:8]}"
    info = ServiceInfo(
        records.SERVICE_TYPE,
        f"{label}.{records.SERVICE_TYPE}",
        port=4379,
        properties=good_txt(cluster, "shy"),
        server=f"{label}.local.",
        parsed_addresses=["127.0.0.1"],
    )
    name_only = DNSOutgoing(0x8400)
    name_only.add_answer_at_time(info.dns_pointer(), 0)
    everything = DNSOutgoing(0x8400)
    for answer in (info.dns_service(), info.dns_text(), *info.dns_addresses()):
        everything.add_answer_at_time(answer, 0)
    # The name, its length in front, begins the question for it and no other question.
    asked = bytes([len(label)]) + label.encode()
    with trio.socket.from_stdlib_socket(mdns_socket()) as sock:
        async with running(Mdns(None, cluster, interfaces=["127.0.0.1"])) as observer:
            for packet in name_only.packets():
                await sock.sendto(packet, (GROUP, PORT))
            with trio.fail_after(10):
                packet = b""
                while packet[2:4] != b"\x00\x00" or not packet[12:].startswith(asked):
                    packet = await sock.recv(9000)
            for packet in everything.packets():
                await sock.sendto(packet, (GROUP, PORT))
            await observer.until("shy")
    assert set(observer.seen) == {Candidate(Address("127.0.0.1", 4379), "mdns", "shy", 1)}


@pytest.mark.parametrize(
    "failure",
    [
        OSError(errno.ENETUNREACH, os.strerror(errno.ENETUNREACH)),
        OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE)),
        PermissionError(errno.EPERM, os.strerror(errno.EPERM)),
        RuntimeError("No interfaces to listen on"),
    ],
)
async def test_no_multicast_is_one_warning_and_no_failure(
    failure: Exception, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(**arguments: object) -> None:
        raise failure

    monkeypatch.setattr(mdns, "Zeroconf", refuse)
    cluster = new_cluster()
    with caplog.at_level(logging.WARNING), trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            await nursery.start(Mdns(advertise("alice", cluster), cluster).run, pytest.fail)
            nursery.cancel_scope.cancel()
    (record,) = caplog.records
    assert record.name == "steinadler.discovery"
    assert str(failure) in record.message
    assert "runtime folder" in record.message


async def test_a_set_up_that_hangs_is_given_up(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """And when it comes to an end after all, what it opened is closed."""
    release, closed = threading.Event(), threading.Event()

    class Slow:
        def __init__(self, **arguments: object) -> None:
            release.wait(20)

        def close(self) -> None:
            closed.set()

    monkeypatch.setattr(mdns, "Zeroconf", Slow)
    monkeypatch.setattr(mdns, "_OPEN_TIMEOUT_S", 0.05)
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            await nursery.start(Mdns(None, new_cluster()).run, pytest.fail)
            nursery.cancel_scope.cancel()
    assert "0.05 s" in caplog.text
    release.set()
    assert await trio.to_thread.run_sync(closed.wait, 5)


@functools.cache
def why_no_namespace() -> str | None:
    if not sys.platform.startswith("linux") or not shutil.which("unshare"):
        return "no network namespaces here"
    result = subprocess.run(["unshare", "--net", "true"], capture_output=True, text=True)
    return None if result.returncode == 0 else f"no network namespace: {result.stderr.strip()}"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("set_up", "expected"),
    [
        ("ip link set lo up", b"Candidate(address=Address(host='192.0.2.99'"),
        ("true", b"mDNS does not work here"),
        ("ip link set lo up; ip link set lo down", b"our own announcement did not come back"),
    ],
    ids=["loopback only", "no address", "no interface that is up"],
)
async def test_a_machine_without_a_network(set_up: str, expected: bytes) -> None:
    """Loopback alone is enough for mDNS on one machine; nothing at all is one clear line."""
    if (reason := why_no_namespace()) is not None:
        pytest.skip(reason)
    script = f'{set_up}; "$0" -c "$1" alice "$2" bob & "$0" -c "$1" bob "$2" alice & wait'
    command = ["unshare", "--net", "--pid", "--fork", "--kill-child", "sh", "-c", script]
    heard = b""
    with trio.fail_after(20):
        process = await trio.lowlevel.open_process(
            [*command, sys.executable, NODE, new_cluster()],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        try:
            assert process.stdout is not None
            while expected not in heard:
                chunk = await process.stdout.receive_some()
                assert chunk, heard
                heard += chunk
        finally:
            # Killing the first process of a process namespace kills all that are in it.
            process.kill()
            with trio.CancelScope(shield=True):
                await process.wait()


@pytest.mark.parametrize(
    ("plug_in", "unplug"),
    [
        ("ip addr add 192.0.2.7/24 dev v0", "ip addr del 192.0.2.7/24 dev v0"),
        ("ip addr add fd00:1::7/64 dev v0 nodad", "ip addr del fd00:1::7/64 dev v0"),
    ],
    ids=["IPv4", "IPv6 alone"],
)
@pytest.mark.slow
async def test_interfaces_that_come_and_go_are_followed(plug_in: str, unplug: str) -> None:
    """A machine joins a network after its nodes have started; and another, which has IPv6 alone."""
    if (reason := why_no_namespace()) is not None:
        pytest.skip(reason)
    script = (
        "ip link add v0 type veth peer name v1 || exit; ip link set v0 up; ip link set v1 up;"
        '"$0" -c "$1" alice "$2" bob & "$0" -c "$1" bob "$2" alice &'
        f"read line; {plug_in}; read line; {unplug}; read line; {plug_in}; wait"
    )
    command = ["unshare", "--net", "--pid", "--fork", "--kill-child", "sh", "-c", script]
    process = await trio.lowlevel.open_process(
        [*command, sys.executable, NODE, new_cluster()],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    heard = b""

    async def both_say(words: bytes) -> None:
        nonlocal heard
        while heard.count(words) < 2:
            chunk = await process.stdout.receive_some()
            assert chunk, heard
            heard += chunk
        heard = b""

    async def pass_on() -> None:
        await process.stdin.send_all(b"\n")

    try:
        with trio.fail_after(30):
            await both_say(b"no interface has an address")
            await pass_on()
            await both_say(b"Candidate(address=Address(host='192.0.2.99'")
            await pass_on()
            await both_say(b"no interface has an address")
            await pass_on()
            await both_say(b"Candidate(address=Address(host='192.0.2.99'")
    finally:
        process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()
            await process.stdin.aclose()
            await process.stdout.aclose()


@pytest.mark.usefixtures("multicast")
async def test_a_node_that_listens_on_all_announces_what_the_machine_has_now(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """And not the addresses of the network that it was in when it opened."""
    cluster = new_cluster()
    here = Interfaces(("127.0.0.1",), ("192.0.2.7",))
    monkeypatch.setattr(mdns, "interfaces_here", lambda: here)
    monkeypatch.setattr(mdns, "_LOOK_S", 0.05)
    roaming = Mdns(advertise("alice", cluster), cluster, listening_on_all=True)
    async with running(Mdns(advertise("bob", cluster), cluster)) as bob, running(roaming):
        await bob.until("alice")
        assert {each.address for each in bob.seen} == {Address("192.0.2.7", 4370)}
        here = Interfaces(("127.0.0.1",), ("198.51.100.7", "2001:db8::7"))
        with trio.fail_after(10):
            while bob.seen[-1].address.host not in here.ips:
                await bob.until("alice", len(bob.seen) + 1)


def test_ipv6_takes_part_where_others_could_dial(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bridges with nothing but a link-local address do not, nor do addresses not ours yet."""

    def adapter(name: str, *ips: str | tuple[str, int, int]) -> ifaddr.Adapter:
        return ifaddr.Adapter(name, name, [ifaddr.IP(ip, 64, name) for ip in ips], index=1)

    monkeypatch.setattr(
        ifaddr,
        "get_adapters",
        lambda: [
            adapter("lo", "127.0.0.1", ("::1", 0, 0)),
            adapter(
                "eth0", "192.0.2.7", ("fe80::1", 0, 2), ("2001:db8::7", 0, 0), ("fd00::7", 0, 0)
            ),
            adapter("docker0", "172.17.0.1", ("fe80::2", 0, 3)),
            adapter("wlan0", ("2001:db8::8", 0, 0)),
        ],
    )
    monkeypatch.setattr(interfaces, "_can_bind", lambda ip: ip != "2001:db8::8")
    here = interfaces.interfaces_here()
    assert here.sockets == ("127.0.0.1", "172.17.0.1", "192.0.2.7", "2001:db8::7")
    assert set(here.ips) == {"172.17.0.1", "192.0.2.7", "2001:db8::7", "2001:db8::8", "fd00::7"}


@pytest.mark.parametrize(
    "addresses",
    [(), (Address("0.0.0.0", 1),), (Address("fe80::1", 1),)],
)
@pytest.mark.usefixtures("multicast")
async def test_a_node_that_nobody_could_dial_only_listens(
    addresses: tuple[Address, ...], caplog: pytest.LogCaptureFixture
) -> None:
    cluster = new_cluster()
    deaf = Mdns(Advertisement("deaf", 1, addresses, cluster), cluster, interfaces=["127.0.0.1"])
    async with running(deaf) as node, running(Mdns(advertise("alice", cluster), cluster)):
        await node.until("alice")
    assert [
        record.message for record in caplog.records if record.name == "steinadler.discovery"
    ] == ["mDNS announces nothing: no address of this node is of use to others"]


def test_what_is_not_an_ip_address_cannot_be_announced() -> None:
    cluster = new_cluster()
    for address in (Address("alice.example", 1), Address("192.0.2.7", 0), Address("", 1)):
        with pytest.raises(ConfigError, match="cannot be announced"):
            Mdns(Advertisement("alice", 1, (address,), cluster), cluster)


def test_arguments_that_make_no_sense_are_refused() -> None:
    cluster = new_cluster()
    with pytest.raises(ConfigError, match="fingerprint"):
        Mdns(None, "beef")
    with pytest.raises(ConfigError, match="another cluster"):
        Mdns(advertise("alice", cluster), new_cluster())
    with pytest.raises(ConfigError, match="repeat_interval_s"):
        Mdns(None, cluster, repeat_interval_s=0)
