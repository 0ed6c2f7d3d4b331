"""What is said over mDNS: a pure reading and writing of names, TXT records and addresses.

A node announces one service instance (RFC 6763) of type `_steinadler._tcp.local.`:

    PTR   _steinadler._tcp.local.  ->  <label>._steinadler._tcp.local.
    SRV   the TCP port, at host <label>.local.
    TXT   v=1  cluster=<32 hex digits>  node=<name>  inc=<incarnation, decimal>
    A/AAAA  the addresses at which it listens

`<label>` differs for every life of every node (name, a digest of cluster and name, incarnation
in hexadecimal), so two instances never compete for a name and the 0.75 s of probing for
conflicts (RFC 6762 section 8.1) can be left out.  The node's name is read from TXT and never
from the label, because DNS compares labels without case and splits them at dots.

Everything here was sent by anybody on the link: nothing in this module raises on any input, and
whatever is not exactly as above is turned down whole.
"""

from __future__ import annotations

import hashlib
import ipaddress
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeAlias

from steinadler.discovery.source import Advertisement
from steinadler.errors import ConfigError
from steinadler.identity import check_node_name

SERVICE_TYPE = "_steinadler._tcp.local."
VERSION = 1
# 128 bits of the SHA-256 of the cluster's id tell clusters apart; TLS, not this, keeps them apart.
CLUSTER_HEX = 32
# RFC 6763 section 6.2 asks for a few hundred bytes; ours takes under 150.
MAX_TXT_BYTES = 1024
# One instance may make us dial no more than so many addresses.
MAX_ADDRESSES = 8
_MAX_INCARNATION = 2**64 - 1
_DECIMAL = re.compile(r"[0-9]{1,20}\Z")
_HEX = re.compile(r"[0-9a-f]+\Z")
# Name, two dashes, digest and incarnation together stay under DNS's 63 bytes for one label.
_LABEL_NAME_CHARS = 32

IpAddress: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address


@dataclass(frozen=True, slots=True)
class Announcement:
    """A TXT record of our protocol version, well formed."""

    cluster: str
    node: str
    incarnation: int


@dataclass(frozen=True, slots=True)
class OtherVersion:
    """A TXT record of a protocol version that we do not speak; the rest of it says nothing."""

    version: str


@dataclass(frozen=True, slots=True)
class Malformed:
    """Not a TXT record of any node."""

    reason: str


Txt: TypeAlias = Announcement | OtherVersion | Malformed


def cluster_mark(fingerprint: str) -> str:
    """The part of a cluster's fingerprint that is announced.

    Raises `ConfigError` when `fingerprint` is not hexadecimal text of at least 32 digits.
    """
    mark = fingerprint.lower()[:CLUSTER_HEX]
    if len(mark) < CLUSTER_HEX or not _HEX.match(fingerprint.lower()):
        raise ConfigError(
            f"{fingerprint!r} is not a fingerprint: it takes at least {CLUSTER_HEX} hex digits"
        )
    return mark


def instance_label(advertisement: Advertisement) -> str:
    """The one DNS label, of at most 58 bytes, that stands for this life of this node."""
    digest = hashlib.sha256(f"{advertisement.fingerprint}/{advertisement.node}".encode())
    name = advertisement.node[:_LABEL_NAME_CHARS].replace(".", "-")
    return f"{name}-{digest.hexdigest()[:8]}-{advertisement.incarnation:x}"


def txt_properties(advertisement: Advertisement) -> dict[str, str]:
    """The keys and values of the TXT record, the version first (RFC 6763 section 6.7)."""
    return {
        "v": str(VERSION),
        "cluster": cluster_mark(advertisement.fingerprint),
        "node": advertisement.node,
        "inc": str(advertisement.incarnation),
    }


def read_txt(data: bytes) -> Txt:
    """Read the raw bytes of a TXT record.  Never raises.

    As RFC 6763 section 6.4 has it: keys are compared without case, the first of several counts,
    strings without a key are skipped, and unknown keys are left for later versions to use.
    """
    if len(data) > MAX_TXT_BYTES:
        return Malformed(f"{len(data)} bytes are more than {MAX_TXT_BYTES}")
    values: dict[bytes, bytes] = {}
    at = 0
    while at < len(data):
        end = at + 1 + data[at]
        if end > len(data):
            return Malformed("a string runs past the end of the record")
        key, equals, value = data[at + 1 : end].partition(b"=")
        if key and equals:
            values.setdefault(key.lower(), value)
        at = end
    try:
        text = {
            key: values[key.encode()].decode("ascii")
            for key in ("v", "cluster", "node", "inc")
            if key.encode() in values
        }
    except UnicodeDecodeError:
        return Malformed("a value is not ASCII text")
    return _judge(text)


def _judge(text: dict[str, str]) -> Txt:
    version = text.get("v", "")
    if not _DECIMAL.match(version):
        return Malformed("no protocol version")
    if int(version) != VERSION:
        return OtherVersion(version)
    cluster, node, incarnation = (text.get(key, "") for key in ("cluster", "node", "inc"))
    if len(cluster) != CLUSTER_HEX or not _HEX.match(cluster):
        return Malformed("no cluster")
    if not _DECIMAL.match(incarnation) or int(incarnation) > _MAX_INCARNATION:
        return Malformed("no incarnation")
    try:
        check_node_name(node)
    except ConfigError:
        return Malformed("no node name")
    return Announcement(cluster, node, int(incarnation))


def usable_ips(texts: Iterable[str], most: int = MAX_ADDRESSES) -> tuple[str, ...]:
    """Of IP addresses as text, those worth announcing or dialling, the likeliest first.

    Link-local ones come last, IPv6 after IPv4; else their order stays, so that of many the first
    are kept: interfaces are listed with the machine's own before bridges of virtual ones.

    Left out are: what is not an IP address; the unspecified, multicast and reserved ones;
    IPv4 addresses dressed up as IPv6; and IPv6 link-local ones, which mean nothing without the
    interface.  A loopback address stays only where there is no other: on another machine it
    would be that machine's own.  At most `most` are returned.
    """
    # Dicts, as sets that keep an order.
    routed: dict[IpAddress, None] = {}
    loopback: dict[IpAddress, None] = {}
    for text in texts:
        try:
            ip = ipaddress.ip_address(text)
        except ValueError:
            continue
        if ip.is_unspecified or ip.is_multicast or (ip.is_reserved and not ip.is_loopback):
            continue
        if isinstance(ip, ipaddress.IPv6Address) and (
            ip.is_link_local or ip.ipv4_mapped is not None or ip.scope_id is not None
        ):
            continue
        (loopback if ip.is_loopback else routed)[ip] = None
    return tuple(str(ip) for ip in sorted(routed or loopback, key=_likelihood)[:most])


def all_loopback(ips: Iterable[str]) -> bool:
    """Whether every one of these IP addresses means "this machine"."""
    return all(ipaddress.ip_address(ip).is_loopback for ip in ips)


def _likelihood(ip: IpAddress) -> tuple[bool, int]:
    return (ip.is_link_local, ip.version)
