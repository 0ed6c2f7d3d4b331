"""Does multicast work here?  A question is asked on each interface, and has to be heard.

The question (mDNS, RFC 6762) goes out from a socket of the interface's own, at a port that the
kernel chooses, to group and port of mDNS.  A listener at that port, which has joined the group on
that interface, hears it, and knows it by the address and port that it came from.  That is what
nodes need of *this* machine: that the interface can be joined, that the group has a route, that
nobody holds the port for himself, and that the packet filter lets it in.

It says nothing of the network behind the interface, since the kernel itself loops it back.  That
shows when somebody else answers: all responders are asked for their types of service (RFC 6763,
section 9), which printers and telephones answer too.  Whoever is heard counts, whatever he says:
nothing of it is read.
"""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import ifaddr
import trio

from steinadler.diagnosis.network import (
    MDNS_PORT,
    Asked,
    Interface,
    NetworkFacts,
    sharers_of_port,
)
from steinadler.discovery.records import SERVICE_TYPE, usable_ips
from steinadler.transport.tls import explain

GROUPS = {socket.AF_INET: "224.0.0.251", socket.AF_INET6: "ff02::fb"}
# Three times, because a packet may be lost; answers come within 0.12 s (RFC 6762, section 6).
_ASK_AT_S = (0.0, 0.3, 0.9)
LISTEN_S = 1.5
_TYPES = "_services._dns-sd._udp.local."
_PTR, _IN = 12, 1
# IP_MULTICAST_ALL and IPV6_MULTICAST_ALL (linux/in.h, in6.h): without them a socket hears what
# comes in wherever any program has joined the group, and the interface cannot be told.
_ONLY_JOINED = {
    socket.AF_INET: (socket.IPPROTO_IP, 49),
    socket.AF_INET6: (socket.IPPROTO_IPV6, 29),
}
_TABLES = (Path("/proc/net/udp"), Path("/proc/net/udp6"))


@dataclass(slots=True)
class _Question:
    """A question on one interface: its two sockets, and what has come of it so far."""

    interface: Interface
    listener: trio.socket.SocketType | None = None
    sender: trio.socket.SocketType | None = None
    failure: str = ""
    came_back: bool = False
    others: set[str] = field(default_factory=set)

    def result(self) -> Asked:
        return Asked(self.interface, self.failure, self.came_back, tuple(sorted(self.others)))


def interfaces_of_mdns() -> tuple[Interface, ...]:
    """The addresses that mDNS goes out by: as `steinadler.discovery.interfaces` has it."""
    found = []
    for adapter in ifaddr.get_adapters():
        ips = sorted({ip.ip if isinstance(ip.ip, str) else ip.ip[0] for ip in adapter.ips})
        used = [ip for ip in ips if ":" not in ip]
        used += [ip for ip in ips if ":" in ip and ip != "::1" and usable_ips([ip])][:1]
        found += [Interface(adapter.nice_name, ip, adapter.index or 0) for ip in used]
    return tuple(found)


async def look_at_network(
    *, multicast: bool, seeded: bool, listen_s: float = LISTEN_S
) -> NetworkFacts:
    """Look at the interfaces; with `multicast`, ask on each and listen for so many seconds."""
    interfaces = interfaces_of_mdns()
    facts = NetworkFacts(interfaces, sharers=_sharers(), seeded=seeded)
    if not multicast:
        return facts
    questions = [_Question(each) for each in interfaces]
    own = {each.ip for each in interfaces}
    with ExitStack() as stack:
        for question in questions:
            try:
                question.listener = stack.enter_context(_listening(question.interface))
            except OSError as error:
                if error.errno == errno.EADDRINUSE:
                    return replace(facts, port_failure=explain(error))
                question.failure = explain(error)
                continue
            try:
                _join(question.listener, question.interface)
                question.sender = stack.enter_context(_sending(question.interface))
            except OSError as error:
                question.failure = explain(error)
        with trio.move_on_after(listen_s):
            async with trio.open_nursery() as nursery:
                for question in questions:
                    if question.listener is not None and question.sender is not None:
                        nursery.start_soon(_listen, question, question.listener, own)
                        nursery.start_soon(_listen, question, question.sender, own)
                        nursery.start_soon(_ask, question, question.sender)
    return replace(facts, asked=tuple(each.result() for each in questions))


async def _ask(question: _Question, sender: trio.socket.SocketType) -> None:
    group = GROUPS[_family(question.interface)]
    begun = trio.current_time()
    for after_s in _ASK_AT_S:
        await trio.sleep_until(begun + after_s)
        try:
            await sender.sendto(_packet(), (group, MDNS_PORT))
        except OSError as error:
            question.failure = explain(error)
            return


async def _listen(question: _Question, sock: trio.socket.SocketType, own: set[str]) -> None:
    """Note who is heard, this very question or anybody else, until cancelled."""
    assert question.sender is not None
    ip, port = question.interface.ip, question.sender.getsockname()[1]
    while True:
        try:
            _, sender = await sock.recvfrom(1)
        except OSError:
            continue  # Windows' word for a packet that was cut, or an ICMP error for one of ours
        heard = str(sender[0]).partition("%")[0]
        if (heard, sender[1]) == (ip, port):
            question.came_back = True
        elif heard not in own:
            question.others.add(heard)


def _packet() -> bytes:
    """A query (RFC 1035, section 4.1): all zeros but the number of questions, and these."""
    questions = []
    for name in (SERVICE_TYPE, _TYPES):
        labels = (label.encode() for label in name.split("."))  # the last one is empty, the root
        encoded = b"".join(bytes([len(label)]) + label for label in labels)
        questions.append(encoded + struct.pack(">HH", _PTR, _IN))
    return struct.pack(">6H", 0, 0, len(questions), 0, 0, 0) + b"".join(questions)


@contextmanager
def _listening(interface: Interface) -> Iterator[trio.socket.SocketType]:
    """A socket that shares the port of mDNS with whoever else does."""
    family = _family(interface)
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with suppress(OSError, AttributeError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family is socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        level, option = _ONLY_JOINED[family]
        with suppress(OSError):  # elsewhere than on Linux
            sock.setsockopt(level, option, 0)
        sock.bind(("", MDNS_PORT))
        with trio.socket.from_stdlib_socket(sock) as listener:
            yield listener


@contextmanager
def _sending(interface: Interface) -> Iterator[trio.socket.SocketType]:
    """A socket whose multicast goes out on one interface, with its address, and is looped back."""
    family = _family(interface)
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        if family is socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, interface.index)
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_LOOP, 1)
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, 255)
        else:
            own = socket.inet_aton(interface.ip)
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, own)
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_LOOP, 1)
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, 255)
        sock.bind((interface.ip, 0))
        with trio.socket.from_stdlib_socket(sock) as sender:
            yield sender


def _join(listener: trio.socket.SocketType, interface: Interface) -> None:
    family = _family(interface)
    group = socket.inet_pton(family, GROUPS[family])
    if family is socket.AF_INET6:
        member = group + struct.pack("@I", interface.index)
        listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, member)
    else:
        member = group + socket.inet_aton(interface.ip)
        listener.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, member)


def _family(interface: Interface) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in interface.ip else socket.AF_INET


def _sharers() -> int | None:
    found = None
    for table in _TABLES:
        with suppress(OSError):
            found = (found or 0) + sharers_of_port(table.read_text())
    return found
