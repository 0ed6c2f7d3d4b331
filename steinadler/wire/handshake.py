"""Hello, the one exchange before frames flow, and the rule that settles simultaneous dials.

    dialler                                    acceptor
      | -- TLS 1.3, both certificates ------------ |
      | -- HELLO --------------------------------> |  checks it, decides
      | <-------------- HELLO  (or REJECT, reason) |
      | -- frames -------------------------------> |

Each Hello offers a session: a token of one's own, the token of the peer that one remembers, and
the last frame number that arrived.  When both ends remember both tokens the session goes on
from there; otherwise both begin a new one, and whoever still held an old one treats the peer as
having been down in between (D3, M4).

**Two connections between the same two nodes.**  Every dial has a number, one more than the highest
that its dialler has seen or used there, so none is used twice.  The higher number wins; between
equal numbers, the one dialled by the node whose name sorts first.  So of two simultaneous dials
both ends keep the same one, and a dial that follows a break always replaces what broke, even if the
other end has not noticed the break yet.  Deciding by "whoever was first" was refused: the two ends
see different firsts.

A dialler may give up before its Hello has arrived, and the Hello arrives all the same, any time
later: it lies in a buffer, or behind a cut.  What it says of the session may be out of date then.
So an end lets nobody in whose number does not win against that of the latest connection, though
that has broken, and against that of its own latest dial, though it gave that up.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from steinadler.config import MAX_WINDOW_BYTES
from steinadler.errors import ConfigError, RemoteProtocolError
from steinadler.identity import Address, NodeId, may_call_itself
from steinadler.wire import plain
from steinadler.wire.channels import FIRST_FREE_CHANNEL, PeerLimits
from steinadler.wire.frames import MAX_PAYLOAD_BYTES, FrameType, encode_frame

PROTOCOL_VERSIONS = (1, 1)  # the lowest and the highest that this code speaks
MAX_LABELS = 64
MAX_LABEL_LENGTH = 255
# Longer than a key: one label names all the entity types that a node hosts.
MAX_LABEL_VALUE_LENGTH = 2048
MAX_ADDRESSES = 32
MAX_DETAIL_LENGTH = 1024
MAX_CONNECTION_NUMBER = 2**64 - 1


class RejectReason(StrEnum):
    """Why a Hello was not answered with a Hello."""

    VERSION = "version"  # no protocol version in common
    CLUSTER = "cluster"  # another cluster
    IDENTITY = "identity"  # the Hello's name is not the certificate's
    NAME_IN_USE = "name-in-use"  # a living node has that name
    STALE = "stale"  # a life of that name that is over
    SELF = "self"  # that was ourselves
    SUPERSEDED = "superseded"  # another connection between the two is the one to keep
    CLOSING = "closing"  # one of the two is shutting down


@dataclass(frozen=True, slots=True)
class SessionOffer:
    """What one end remembers of the session.  Token 0 is "nothing"."""

    token: int
    peer_token: int
    last_received: int
    connection_number: int


@dataclass(frozen=True, slots=True)
class Hello:
    """Who one end is, what it can take, and where it would go on."""

    cluster_id: str
    role: str
    node: NodeId
    refutation: int
    addresses: tuple[Address, ...]
    labels: tuple[tuple[str, str], ...]
    features: tuple[str, ...]
    limits: PeerLimits
    session: SessionOffer
    versions: tuple[int, int] = PROTOCOL_VERSIONS


@dataclass(frozen=True, slots=True)
class Reject:
    """A refusal.  `connection_number` tells a superseded dialler what it must exceed."""

    reason: RejectReason
    detail: str
    connection_number: int = 0


@dataclass(frozen=True, slots=True)
class ConnectionRank:
    """What decides between two connections of one session."""

    number: int
    dialler: str

    def beats(self, other: ConnectionRank) -> bool:
        """True when this connection is to be kept, and not the other."""
        if self.number != other.number:
            return self.number > other.number
        return self.dialler < other.dialler


def encode_hello(hello: Hello) -> bytes:
    """The HELLO frame.

    Raises `ConfigError` when no peer would accept it: too many labels or addresses, or one of
    them too long.
    """
    session = hello.session
    limits = hello.limits
    payload = plain.dumps(
        {
            "versions": list(hello.versions),
            "cluster": hello.cluster_id,
            "role": hello.role,
            "node": [hello.node.name, hello.node.incarnation],
            "refutation": hello.refutation,
            "addresses": [[address.host, address.port] for address in hello.addresses],
            "labels": dict(hello.labels),
            "features": list(hello.features),
            "limits": [
                limits.window_bytes,
                limits.max_message_bytes,
                limits.reassembly_bytes,
                limits.max_channels,
            ],
            "session": [
                session.token,
                session.peer_token,
                session.last_received,
                session.connection_number,
            ],
        }
    )
    if len(payload) > MAX_PAYLOAD_BYTES:
        raise ConfigError("the node's labels and addresses do not fit one frame")
    try:
        decode_hello(payload)
    except RemoteProtocolError as error:
        raise ConfigError(f"no peer would accept this node's Hello: {error}") from error
    return encode_frame(FrameType.HELLO, payload=payload)


def decode_hello(payload: bytes) -> Hello:
    """Undo `encode_hello`; raise `RemoteProtocolError` when it is none.

    A Hello that offers only other protocol versions may look different in everything but its
    versions, and comes back with the rest empty.
    """
    fields = plain.loads(payload)
    if not isinstance(fields, dict):
        raise RemoteProtocolError("a Hello that is not a map")
    low, high = plain.array(fields.get("versions"), 2)[:2]
    versions = (plain.natural(low), plain.natural(high))
    if choose_version(versions) is None:
        return Hello(
            cluster_id="",
            role="",
            node=NodeId("", 0),
            refutation=0,
            addresses=(),
            labels=(),
            features=(),
            limits=PeerLimits(0, 0, 0),
            session=SessionOffer(0, 0, 0, 0),
            versions=versions,
        )
    limits = PeerLimits(*map(plain.natural, plain.array(fields.get("limits"), 3)[:4]))
    window, message = limits.window_bytes, limits.max_message_bytes
    if (
        not window > 0
        or not 0 < message <= limits.reassembly_bytes
        or limits.max_channels <= FIRST_FREE_CHANNEL
    ):
        raise RemoteProtocolError("a Hello with limits that allow nothing")
    if window > MAX_WINDOW_BYTES:
        raise RemoteProtocolError(f"a window of {window} bytes; the limit is {MAX_WINDOW_BYTES}")
    return Hello(
        cluster_id=plain.text(fields.get("cluster"), 64),
        role=plain.text(fields.get("role"), 32),
        node=plain.node_id(fields.get("node")),
        refutation=plain.natural(fields.get("refutation")),
        addresses=decode_addresses(fields.get("addresses")),
        labels=decode_labels(fields.get("labels")),
        features=tuple(plain.text(f, 64) for f in plain.array(fields.get("features"), 0)),
        limits=limits,
        session=SessionOffer(*map(plain.natural, plain.array(fields.get("session"), 4)[:4])),
        versions=versions,
    )


def decode_addresses(value: object) -> tuple[Address, ...]:
    """Addresses, from an array of [host, port]."""
    items = plain.array(value, 0)
    if len(items) > MAX_ADDRESSES:
        raise RemoteProtocolError(f"more than {MAX_ADDRESSES} addresses")
    addresses = []
    for item in items:
        host, port = plain.array(item, 2)[:2]
        if not 0 < plain.natural(port) < 65536:
            raise RemoteProtocolError(f"port {port}")
        addresses.append(Address(plain.text(host, 255), port))
    return tuple(addresses)


def decode_labels(value: object) -> tuple[tuple[str, str], ...]:
    """Labels, sorted, from a map of texts."""
    if not isinstance(value, Mapping) or len(value) > MAX_LABELS:
        raise RemoteProtocolError(f"labels are a map of at most {MAX_LABELS}")
    return tuple(
        sorted(
            (plain.text(key, MAX_LABEL_LENGTH), plain.text(item, MAX_LABEL_VALUE_LENGTH))
            for key, item in value.items()
        )
    )


def choose_version(theirs: tuple[int, int]) -> int | None:
    """The highest protocol version that both ends speak, or None."""
    ours_low, ours_high = PROTOCOL_VERSIONS
    version = min(theirs[1], ours_high)
    return version if version >= max(theirs[0], ours_low) else None


def judge_hello(
    hello: Hello, *, cluster_id: str, role: str, name: str, ourselves: NodeId
) -> Reject | None:
    """Compare a Hello with the certificate behind it (X3); None when they agree.

    `cluster_id`, `role` and `name` are the certificate's.  The Hello's name must be the same, but
    that an observer's certificate stands for several (`may_call_itself`).
    """
    if choose_version(hello.versions) is None:
        return Reject(
            RejectReason.VERSION,
            f"the peer speaks protocol {hello.versions[0]} to {hello.versions[1]}, this node "
            f"{PROTOCOL_VERSIONS[0]} to {PROTOCOL_VERSIONS[1]}; upgrade the older one",
        )
    if hello.cluster_id != cluster_id:
        return Reject(RejectReason.CLUSTER, f"the peer says it is of cluster {hello.cluster_id}")
    if hello.role != role or not may_call_itself(role, name, hello.node.name):
        return Reject(
            RejectReason.IDENTITY,
            f"the peer says it is {hello.role} {hello.node.name!r}, "
            f"its certificate says {role} {name!r}",
        )
    if hello.node == ourselves:
        return Reject(RejectReason.SELF, "this node dialled itself")
    return None


def encode_reject(reject: Reject) -> bytes:
    """The REJECT frame.  The detail is cut to MAX_DETAIL_LENGTH characters."""
    detail = plain.clipped(reject.detail, MAX_DETAIL_LENGTH)
    payload = plain.dumps([reject.reason.value, detail, reject.connection_number])
    return encode_frame(FrameType.REJECT, payload=payload)


def decode_reject(payload: bytes) -> Reject:
    """Undo `encode_reject`; raise `RemoteProtocolError` when it is none."""
    reason, detail, number = plain.array(plain.loads(payload), 3)[:3]
    try:
        known = RejectReason(plain.text(reason, 64))
    except ValueError:
        raise RemoteProtocolError(f"rejected for an unknown reason, {reason!r}") from None
    return Reject(known, plain.text(detail, MAX_DETAIL_LENGTH), plain.natural(number))
