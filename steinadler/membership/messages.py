"""The messages that engines exchange, and their bytes.

A message is one CBOR array of plain types (RFC 8949): its type code, its fields.  A member record
is an array too.  Elements after the known ones are ignored, in messages and in records alike, so
that the next version may add fields; a type code that is not known is an error, because the
handshake has agreed on the version.  Maps, tags and objects were refused: arrays of integers,
strings and arrays are all that a decoder has to survive (promise X4).

    Ping          [1, sequence, updates]             answer me
    PingRequest   [2, sequence, target, updates]     ping the target for me (SWIM 4.1)
    Ack           [3, sequence, updates]             the answer to either
    Gossip        [4, updates]                       news
    SyncRequest   [5, members, buckets]              what I know; tell me what you know in them
    SyncReply     [6, members]                       what I know
    Nack          [7, sequence, updates]             I am here; your target has not answered so far
    Summary       [8, digests]                       what I know, in 32 numbers: where do we differ?
    buckets       numbers under 32; null, or nothing, asks for all
    target        [name, incarnation]
    member        [name, incarnation, addresses, labels, state, refutation, accusers]
    accusers      names; records without them, of older nodes, have none
    address       [host, port]
    label         [key, value]

A message fits one frame of 16 KiB: see `steinadler.membership.dissemination` for how a table that
does not is sent.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeAlias, assert_never

from steinadler.errors import ConfigError, RemoteProtocolError
from steinadler.identity import Address, NodeId, check_node_name
from steinadler.membership.members import MAX_ACCUSERS, Member, MemberState
from steinadler.wire import plain
from steinadler.wire.handshake import MAX_ADDRESSES, MAX_LABELS

# A message fits one frame (design section 5), and so no decoder looks at more than this.
MAX_MESSAGE_BYTES = 16_384 - 16
# The smallest record takes about ten bytes; this is more than a message can hold.
MAX_RECORDS = 2_048
# message > records > record > addresses > address; cbor2 counts the outermost as one.
_MAX_DEPTH = 6
# Integers that any language's 64-bit signed type holds, with room to add one.
MAX_INTEGER = 2**62
# How many digests a summary has: the more there are, the less is sent for one difference.
BUCKETS = 32


@dataclass(frozen=True, slots=True)
class Ping:
    """Are you there?  Answered by an `Ack` of the same sequence."""

    sequence: int
    updates: tuple[Member, ...] = ()


@dataclass(frozen=True, slots=True)
class PingRequest:
    """Is `target` there?  The receiver pings it, and passes its `Ack` on."""

    sequence: int
    target: NodeId
    updates: tuple[Member, ...] = ()


@dataclass(frozen=True, slots=True)
class Ack:
    """I am here, or the target of your `PingRequest` is."""

    sequence: int
    updates: tuple[Member, ...] = ()


@dataclass(frozen=True, slots=True)
class Nack:
    """The target of your `PingRequest` has not answered so far; an `Ack` may still follow.

    It is no evidence about the target.  It tells whoever asked that its own way to others works.
    """

    sequence: int
    updates: tuple[Member, ...] = ()


@dataclass(frozen=True, slots=True)
class Gossip:
    """News that nobody asked for."""

    updates: tuple[Member, ...]


@dataclass(frozen=True, slots=True)
class SyncRequest:
    """What the sender holds, or the last part of it; answered by `SyncReply`.

    It asks for what the receiver holds in these `buckets`, or for its whole table.
    """

    members: tuple[Member, ...]
    buckets: tuple[int, ...] | None = None


@dataclass(frozen=True, slots=True)
class SyncReply:
    """What the sender holds, or a part of it.  Not answered."""

    members: tuple[Member, ...]


@dataclass(frozen=True, slots=True)
class Summary:
    """The digests of the sender's table; answered when the receiver's differ."""

    digests: tuple[int, ...]


Message: TypeAlias = Ping | PingRequest | Ack | Nack | Gossip | SyncRequest | SyncReply | Summary


def encode(message: Message) -> bytes:
    """The message's bytes."""
    match message:
        case Ping(sequence, updates):
            return plain.dumps([1, sequence, _records(updates)])
        case PingRequest(sequence, target, updates):
            target_fields = [target.name, target.incarnation]
            return plain.dumps([2, sequence, target_fields, _records(updates)])
        case Ack(sequence, updates):
            return plain.dumps([3, sequence, _records(updates)])
        case Gossip(updates):
            return plain.dumps([4, _records(updates)])
        case SyncRequest(members, buckets):
            return plain.dumps([5, _records(members), buckets])
        case SyncReply(members):
            return plain.dumps([6, _records(members)])
        case Nack(sequence, updates):
            return plain.dumps([7, sequence, _records(updates)])
        case Summary(digests):
            return plain.dumps([8, digests])
        case _:
            assert_never(message)


def decode(data: bytes) -> Message:
    """The message that `data` is, no more and no less.

    Raises `RemoteProtocolError` for anything else: cut short, trailing bytes, over 16 KiB, a type
    code that is not known, a field of the wrong type or out of its range, a tag.
    """
    if len(data) > MAX_MESSAGE_BYTES:
        raise RemoteProtocolError(f"a membership message of {len(data)} bytes is too large")
    fields = plain.loads(data, _MAX_DEPTH)
    try:
        return _message(fields)
    except ConfigError as error:
        raise RemoteProtocolError(f"a membership message names what cannot be: {error}") from error


def _records(members: Iterable[Member]) -> list[list[object]]:
    return [
        [
            member.node.name,
            member.node.incarnation,
            [[address.host, address.port] for address in member.addresses],
            [[key, value] for key, value in member.labels],
            int(member.state),
            member.refutation,
            list(member.accusers),
        ]
        for member in members
    ]


def _message(value: object) -> Message:
    # A pattern compares with ==, and to Python both True and 1.0 equal 1.
    if not isinstance(value, list) or not value or type(value[0]) is not int:
        raise RemoteProtocolError("not an array that begins with a type code")
    match value:
        case [1, sequence, updates, *_]:
            return Ping(_integer(sequence), _members(updates))
        case [2, sequence, [name, incarnation, *_], updates, *_]:
            return PingRequest(_integer(sequence), _node(name, incarnation), _members(updates))
        case [3, sequence, updates, *_]:
            return Ack(_integer(sequence), _members(updates))
        case [4, updates, *_]:
            return Gossip(_members(updates))
        case [5, members, *later]:
            return SyncRequest(_members(members), _buckets(later[0]) if later else None)
        case [6, members, *_]:
            return SyncReply(_members(members))
        case [7, sequence, updates, *_]:
            return Nack(_integer(sequence), _members(updates))
        case [8, list(digests), *_] if len(digests) == BUCKETS:
            return Summary(tuple(_integer(digest) for digest in digests))
        case _:
            raise RemoteProtocolError("not a membership message of this version")


def _members(value: object) -> tuple[Member, ...]:
    if not isinstance(value, list) or len(value) > MAX_RECORDS:
        raise RemoteProtocolError("not a list of members, or too long")
    return tuple(_member(item) for item in value)


def _member(value: object) -> Member:
    match value:
        case [name, incarnation, list(addresses), list(labels), state, refutation, *later]:
            # Four bytes make an address that takes a hundred and fifty in the table (X4).
            if len(addresses) > MAX_ADDRESSES or len(labels) > MAX_LABELS:
                raise RemoteProtocolError("more addresses or labels than a Hello may have")
            return Member(
                _node(name, incarnation),
                tuple(_address(item) for item in addresses),
                tuple(_label(item) for item in labels),
                _state(state),
                _integer(refutation),
                _accusers(later[0]) if later else (),
            )
        case _:
            raise RemoteProtocolError("not a member record")


def _node(name: object, incarnation: object) -> NodeId:
    return NodeId(check_node_name(_text(name)), _integer(incarnation))


def _address(value: object) -> Address:
    match value:
        case [host, port, *_]:
            return Address(_text(host), plain.natural(port, 65_535))
        case _:
            raise RemoteProtocolError("not an address")


def _label(value: object) -> tuple[str, str]:
    match value:
        case [key, text, *_]:
            return _text(key), _text(text)
        case _:
            raise RemoteProtocolError("not a label")


def _accusers(value: object) -> tuple[str, ...]:
    if not isinstance(value, list) or len(value) > MAX_ACCUSERS:
        raise RemoteProtocolError("not a list of accusers, or too long")
    return tuple(check_node_name(_text(item)) for item in value)


def _buckets(value: object) -> tuple[int, ...] | None:
    if value is None:
        return None
    if not isinstance(value, list) or len(value) > BUCKETS:
        raise RemoteProtocolError("not a list of buckets, or too long")
    return tuple(plain.natural(item, BUCKETS - 1) for item in value)


def _state(value: object) -> MemberState:
    return MemberState(plain.natural(value, MemberState.LEFT))


def _integer(value: object) -> int:
    return plain.natural(value, MAX_INTEGER)


def _text(value: object) -> str:
    return plain.text(value, MAX_MESSAGE_BYTES)  # what bounds it is the message
