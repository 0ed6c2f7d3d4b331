"""The network of this machine: its interfaces, and what became of a multicast question on each.

How the question is asked, and what its coming back says, is in `multicast`.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from steinadler.diagnosis.findings import Finding, Topic, listed, note, ok, problem, warning

MDNS_PORT = 5353
_SEEDS = "give the nodes seeds (--seed HOST:PORT), which need no multicast"
_FILTER = f"let UDP port {MDNS_PORT} in, on this machine; or {_SEEDS}"


@dataclass(frozen=True, slots=True)
class Interface:
    """One address by which mDNS goes out; `index` is the kernel's number of the interface."""

    name: str
    ip: str
    index: int = 0

    @property
    def loopback(self) -> bool:
        return ipaddress.ip_address(self.ip).is_loopback

    @property
    def link_local(self) -> bool:
        return ipaddress.ip_address(self.ip).is_link_local

    def __str__(self) -> str:
        return f"{self.name} ({self.ip})"


@dataclass(frozen=True, slots=True)
class Asked:
    """What became of the question on one interface.

    `failure`: the system would not have it.  `came_back`: it was heard on this machine.  `others`:
    the IP addresses of whoever else was heard there.
    """

    interface: Interface
    failure: str = ""
    came_back: bool = False
    others: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class NetworkFacts:
    """What was seen.

    `asked` is empty where multicast is not wanted.  `port_failure`: why the port of mDNS could not
    be shared; then nothing could be heard.  `sharers`: how many other sockets are bound to it; None
    when the system does not tell.  `seeded`: nodes are to be found in other ways too.
    """

    interfaces: tuple[Interface, ...]
    asked: tuple[Asked, ...] = ()
    port_failure: str = ""
    sharers: int | None = None
    seeded: bool = False


def judge_network(facts: NetworkFacts) -> list[Finding]:
    """What this comes to."""
    findings = [_judge_interfaces(facts.interfaces)]
    # Without it nodes of this machine still meet, and so do those that have seeds.
    bad = warning if facts.seeded else problem
    if facts.port_failure:
        findings.append(
            bad(
                Topic.MDNS_PORT,
                f"UDP port {MDNS_PORT} cannot be shared ({facts.port_failure}): another program "
                "holds it for itself, and mDNS cannot be heard",
                f"find it (ss -ulpn 'sport = :{MDNS_PORT}') and have it share the port, or stop "
                f"it; or {_SEEDS}",
            )
        )
        return findings
    if facts.asked and facts.sharers:
        findings.append(
            ok(Topic.MDNS_PORT, f"UDP port {MDNS_PORT} is shared with {facts.sharers} others")
        )
    beyond = [each for each in facts.asked if not each.interface.loopback]
    working = [each for each in beyond if each.came_back]
    for each in facts.asked:
        if each.interface.loopback:
            findings += _judge_loopback(each)
        else:
            findings.append(_judge_asked(each, warning if working else bad))
    if working and not any(each.others for each in working):
        findings.append(
            note(
                Topic.MULTICAST,
                "nobody else on the network answers by multicast: nobody may be there, or the "
                "network does not carry it, as clouds, most container networks, and wireless "
                "networks that isolate their clients do not",
                f"if nodes of other machines are not found, {_SEEDS}",
            )
        )
    return findings


def _judge_interfaces(interfaces: Sequence[Interface]) -> Finding:
    beyond = [each for each in interfaces if not each.loopback]
    if not beyond:
        return warning(
            Topic.INTERFACES,
            "no interface but loopback has an address: no other machine can be reached",
            "connect this machine to a network; nodes of this machine meet without",
        )
    seen = f"interfaces: {listed(map(str, beyond), most=8)}"
    if all(each.link_local for each in beyond):
        return note(
            Topic.INTERFACES,
            f"{seen}; all addresses are link-local: no address was leased to this machine",
            "see why DHCP does not answer, unless the other machines have such addresses too",
        )
    return ok(Topic.INTERFACES, seen)


def _judge_asked(asked: Asked, bad: Callable[[Topic, str, str], Finding]) -> Finding:
    where = asked.interface
    if asked.failure:
        return bad(
            Topic.MULTICAST,
            f"multicast cannot be used on {where}: {asked.failure}",
            f"container networks and tunnels often have none: {_SEEDS}",
        )
    if not asked.came_back:
        heard = f", though {listed(asked.others)} was heard" if asked.others else ""
        return bad(
            Topic.MULTICAST,
            f"what was sent by multicast on {where} did not come back{heard}: a packet filter "
            "drops it",
            _FILTER,
        )
    if asked.others:
        seen = f"multicast works on {where}, and is answered by {listed(asked.others)}"
        return ok(Topic.MULTICAST, seen)
    return ok(Topic.MULTICAST, f"multicast comes back on {where}")


def _judge_loopback(asked: Asked) -> list[Finding]:
    if asked.came_back:
        return []
    why = asked.failure or "what is sent does not come back"
    return [
        note(
            Topic.MULTICAST,
            f"multicast does not work on {asked.interface}: {why}",
            "nothing: nodes of one user on one machine meet through the runtime folder",
        )
    ]


def sharers_of_port(table: str) -> int:
    """How many sockets are bound to the port of mDNS, by the kernel's table (/proc/net/udp)."""
    port = f":{MDNS_PORT:04X}"
    rows = (line.split() for line in table.splitlines()[1:])
    return sum(len(row) > 1 and row[1].endswith(port) for row in rows)
