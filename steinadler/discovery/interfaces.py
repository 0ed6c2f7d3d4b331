"""The interfaces of this machine, as mDNS needs them: which sockets to open, what to announce.

They are looked at again every few seconds, because they come and go: a laptop joins a network, a
cable is plugged in, an address is leased.  Asking the kernel to tell (netlink, routing sockets) was
refused: it differs on every system, and mDNS is in no such hurry.

Over IPv4 every address has a socket, loopback included, so that nodes of a machine without any
other interface find each other.  Over IPv6 an interface takes part once it has an address that
others could dial, which leaves out loopback (multicast has no route there on most systems) and
the many bridges and virtual interfaces that have nothing but a link-local one.  An address that
cannot be bound yet, because the kernel is still asking whether somebody has it (RFC 4862), is left
out until it can.
"""

from __future__ import annotations

import ipaddress
import socket
from dataclasses import dataclass

import ifaddr

from steinadler.discovery.records import usable_ips


@dataclass(frozen=True, slots=True)
class Interfaces:
    """What there is at a time: addresses to open sockets on, and those worth announcing."""

    sockets: tuple[str, ...]
    ips: tuple[str, ...]


def interfaces_here() -> Interfaces:
    """Those of now.  Takes less than a millisecond; raises `OSError` when nothing can be told."""
    sockets: set[str] = set()
    everything: list[str] = []
    for adapter in ifaddr.get_adapters():
        ips = sorted({ip.ip if isinstance(ip.ip, str) else ip.ip[0] for ip in adapter.ips})
        everything.extend(ips)
        sockets.update(ip for ip in ips if _is_v4(ip))
        sockets.update([ip for ip in ips if _is_routed_v6(ip) and _can_bind(ip)][:1])
    return Interfaces(tuple(sorted(sockets)), usable_ips(everything))


def _is_v4(ip: str) -> bool:
    return ipaddress.ip_address(ip).version == 4


def _is_routed_v6(ip: str) -> bool:
    return not _is_v4(ip) and not ipaddress.ip_address(ip).is_loopback and bool(usable_ips([ip]))


def _can_bind(ip: str) -> bool:
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as probe:
            probe.bind((ip, 0))
    except OSError:
        return False
    return True
