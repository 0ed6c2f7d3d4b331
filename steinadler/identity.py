"""Who is who: node and process identities, and the ways to write a destination.

A name says *which* node or process; an incarnation says *which life* of it.  Anything that
could be late (a message, a reply, a goodbye) is addressed to a life, never to a name alone, so
that it cannot be taken for the next one's (promise D3).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

from steinadler.errors import ConfigError

# A node name is one DNS label or several: it must fit a SPIFFE path segment and an mDNS
# instance name (RFC 6763 section 4.1.1: 63 bytes).
_NODE_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,61}[A-Za-z0-9])?\Z")
MAX_PROCESS_NAME_BYTES = 255
# What a certificate entitles its holder to be.  An observer is no member; all other roles, the
# cluster's own among them, are members.  What they may do `steinadler.security.policy` says.
NODE = "node"
OBSERVER = "observer"
SIDECAR = "sidecar"
_ROLE = re.compile(r"[a-z][a-z0-9-]{0,30}\Z")
# In place of a node: wherever in the cluster.
ANY_NODE = "*"
# The types that a node hosts travel in one of its labels, with commas between; so do services.
_SERVICE = re.compile(r"[!-+.0-?A-~-]{1,255}\Z")
_ENTITY_TYPE = re.compile(r"[!-+.0-~-]{1,255}\Z")
MAX_ENTITY_ID_BYTES = 1024


@dataclass(frozen=True, slots=True, order=True)
class NodeId:
    """One life of a node.

    `incarnation` is drawn from the clock when the node opens (microseconds since 1970), so a
    later life of the same name compares greater.
    """

    name: str
    incarnation: int

    def __str__(self) -> str:
        return self.name

    def __hash__(self) -> int:  # asked for at every message: cheaper than the generated one
        return hash(self.name) ^ self.incarnation


@dataclass(frozen=True, slots=True, order=True)
class ProcessId:
    """One process of one life of a node.  `number` is never used twice within that life."""

    node: NodeId
    number: int

    def __str__(self) -> str:
        return f"#{self.number}@{self.node.name}"


@dataclass(frozen=True, slots=True)
class ProcessName:
    """A registered name; `node` is None for this node, "*" for a name of the whole cluster."""

    name: str
    node: str | None = None

    def __str__(self) -> str:
        return self.name if self.node is None else f"{self.name}@{self.node}"


@dataclass(frozen=True, slots=True, order=True)
class Address:
    """Where a node listens: a host name or IP address, and a TCP port."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True, order=True)
class EntityKey:
    """One entity of the cluster: its type, and its id within the type.

    Raises `ConfigError` for a type that is not 1 to 255 bytes of visible ASCII without "/" and
    ",", or an id that is not 1 to 1024 bytes of UTF-8; within those any text is an id.
    """

    type: str
    id: str

    def __post_init__(self) -> None:
        check_entity_type(self.type)
        if not isinstance(self.id, str):
            raise ConfigError(f"an entity's id is text, as in '42', not {self.id!r:.300}")
        try:
            size = len(self.id.encode())
        except UnicodeEncodeError:
            raise ConfigError("an entity's id must be text that UTF-8 can say") from None
        if not 0 < size <= MAX_ENTITY_ID_BYTES:
            raise ConfigError(
                f"an entity's id takes 1 to {MAX_ENTITY_ID_BYTES} bytes; this one takes {size}"
            )

    def __str__(self) -> str:
        return f"{self.type}/{self.id}"


@dataclass(frozen=True, slots=True)
class SourceRef:
    """A promise of the receiving end of a channel, to be put into a message: `Node.claim`.

    `node` has the sending end; `token` is known to nobody who was not given it.
    """

    node: NodeId
    token: int


@dataclass(frozen=True, slots=True)
class SinkRef:
    """A promise of the sending end of a channel, to be put into a message: `Node.claim`.

    `node` has the receiving end; `token` is known to nobody who was not given it.
    """

    node: NodeId
    token: int


Destination: TypeAlias = "ProcessId | ProcessName | str"


def check_role(role: str) -> str:
    """Return `role`, or raise `ConfigError` when it cannot be one."""
    if not _ROLE.match(role):
        raise ConfigError(
            f"{role!r} is not a role: use 1 to 31 lower-case letters, digits or dashes, with a "
            "letter first"
        )
    return role


def may_call_itself(role: str, certified: str, name: str) -> bool:
    """Whether the holder of a certificate for `certified` in `role` may go by `name` (X3).

    The two are the same, with one exception: an observer called `bob` may also go by `bob.` and
    anything after it, so that several commands of one machine can watch at once.  It takes
    nobody's place by that: an observer has no name that a member has.
    """
    return name == certified or (role == OBSERVER and name.startswith(f"{certified}."))


def check_node_name(name: str) -> str:
    """Return `name`, or raise `ConfigError` when a node cannot be called so."""
    if not isinstance(name, str) or not _NODE_NAME.match(name):
        raise ConfigError(
            f"{name!r} cannot name a node: use 1 to 63 letters, digits, dots, dashes or "
            "underscores, with a letter or digit at both ends"
        )
    return name


def check_process_name(name: str) -> str:
    """Return `name`, or raise `ConfigError` when a process cannot be registered under it."""
    if (
        not isinstance(name, str)
        or not name.isprintable()
        or not name
        or "@" in name
        or len(name.encode()) > MAX_PROCESS_NAME_BYTES
    ):
        raise ConfigError(
            f"{name!r} cannot name a process: use 1 to {MAX_PROCESS_NAME_BYTES} bytes of "
            "printable text without '@'"
        )
    return name


def check_entity_type(type_: str) -> str:
    """Return `type_`; raise `ConfigError` when no entity type can be called so."""
    if not isinstance(type_, str) or not _ENTITY_TYPE.match(type_):
        raise ConfigError(
            f"{type_!r:.60} is not an entity type: 1 to 255 visible ASCII characters without "
            '"/" and ","'
        )
    return type_


def check_service(name: str) -> str:
    """Return `name`; raise `ConfigError` when no service can be called so."""
    if not isinstance(name, str) or not _SERVICE.match(name):
        raise ConfigError(
            f"{name!r:.300} cannot name a service: use 1 to 255 visible ASCII characters without "
            '"/", "@" and ","'
        )
    return name


def parse_destination(text: str) -> ProcessName:
    """Read `"name"`, `"name@node"` or `"name@*"`; raise `ConfigError` for anything else."""
    name, at, node = text.partition("@")
    check_process_name(name)
    if not at:
        return ProcessName(name)
    if node == ANY_NODE:
        return ProcessName(name, ANY_NODE)
    return ProcessName(name, check_node_name(node))


def check_labels(labels: Mapping[str, str]) -> None:
    """Raise `ConfigError` for labels that are not all texts."""
    for name, value in labels.items():
        if not (isinstance(name, str) and isinstance(value, str)):
            raise ConfigError(f"labels are texts; {name!r}: {value!r} is not")


def parse_address(text: str) -> Address:
    """Read `"host:port"` or `"[v6]:port"`; raise `ConfigError` for anything else."""
    host, colon, port = text.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        host = ""
    if (
        not colon
        or not host
        or any(character.isspace() or not character.isprintable() for character in host)
        or not port.isascii()
        or not port.isdigit()
        or len(port) > 5  # which also spares `int` thousands of digits
        or not 0 < int(port) < 65536
    ):
        raise ConfigError(f"{text!r} is not an address: write HOST:PORT, as in 192.0.2.7:4370")
    return Address(host, int(port))
