"""What the registries of two nodes say to each other, and how it travels.

    Summary      hashes of everything that the sender holds; mostly all there is to say
    Versions     how far the sender has some nodes' entries, and what they add up to
    Want         send me that node's entries from this version on
    Update       a piece of one node's entries, in the order of their versions

Each is a CBOR array that begins with its code; what a later version adds to the end is passed over.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias, assert_never

from steinadler.errors import RemoteProtocolError
from steinadler.identity import MAX_PROCESS_NAME_BYTES, NodeId
from steinadler.wire import plain


@dataclass(frozen=True, slots=True)
class NameEntry:
    """A process has the name `text`, as of its node's `version`; `claimed_us` decides conflicts."""

    version: int
    text: str
    number: int
    claimed_us: int


@dataclass(frozen=True, slots=True)
class GroupEntry:
    """A process is in the group `text`, as of `version` of its node."""

    version: int
    text: str
    number: int


@dataclass(frozen=True, slots=True)
class Removal:
    """A name is nobody's (`number` 0), or a process is in a group no more."""

    version: int
    text: str
    number: int


Entry: TypeAlias = NameEntry | GroupEntry | Removal


@dataclass(frozen=True, slots=True)
class Summary:
    """Hashes over whose entries the sender has, how far, and what they add up to, in buckets by
    the node's name (`registry.digests`)."""

    digests: bytes


@dataclass(frozen=True, slots=True)
class Versions:
    """How far the sender has the entries of some nodes, and what they add up to
    (`Replica.check`)."""

    versions: tuple[tuple[NodeId, int, int], ...]


@dataclass(frozen=True, slots=True)
class Want:
    """The sender has the entries of `origin` up to `version`, and asks for those behind.

    It started with nothing when `origin` was at `started`, so of what was removed until then it
    has nothing to remove.  `pieces` is how many updates it wants at most; none is no answer.
    """

    origin: NodeId
    version: int
    started: int
    pieces: int


@dataclass(frozen=True, slots=True)
class Update:
    """Entries of `origin`: what became of them between `base` and `version`.

    `base` 0: forget what you had.  `latest` is how far the sender has them, and `check` what they
    add up to there; where `version` is less, more is to be had.
    """

    origin: NodeId
    base: int
    version: int
    latest: int
    check: int
    entries: tuple[Entry, ...]


# The hashes of a summary: 8 bytes for each bucket.
BUCKETS = 32
SUMMARY_BYTES = 8 * BUCKETS
# How many nodes' versions fit one message, which is to fit a frame.
VERSIONS_TOGETHER = 150
# How many updates answer one question at most: what is on its way for one round trip.
PIECES_TOGETHER = 8
# No node changes its names so often in any life; half of it is left for those that were slandered
# (`exchange`: what is believed) to count on from.
MAX_VERSION = 2**62

Message: TypeAlias = Summary | Versions | Want | Update


def encode(message: Message) -> bytes:
    """A message as bytes."""
    match message:
        case Summary(digests):
            return plain.dumps([1, digests])
        case Versions(versions):
            return plain.dumps([2, [[*_node(node), *rest] for node, *rest in versions]])
        case Want(origin, version, started, pieces):
            return plain.dumps([3, _node(origin), version, started, pieces])
        case Update(origin, base, version, latest, check, entries):
            told = [_entry(entry) for entry in entries]
            return plain.dumps([4, _node(origin), base, version, latest, check, told])
        case _:
            assert_never(message)


def decode(data: bytes) -> Message | None:
    """Undo `encode`; None for a message of a later version (codes above 63).

    Raises `RemoteProtocolError` for anything else that is none.
    """
    natural = plain.natural
    match plain.array(plain.loads(data), 1):
        case [1, bytes(digests), *_] if len(digests) == SUMMARY_BYTES:
            return Summary(digests)
        case [2, list() as versions, *_]:
            return Versions(tuple(map(_read_version, versions)))
        case [3, origin, version, started, pieces, *_]:
            return Want(plain.node_id(origin), natural(version), natural(started), natural(pieces))
        case [4, *rest]:
            return _read_update(rest)
        case [int() as code, *_] if code > 63:
            return None
    raise RemoteProtocolError("a message of the registry that is none")


def _node(node: NodeId) -> list[object]:
    return [node.name, node.incarnation]


def _version(value: object) -> int:
    if plain.natural(value) > MAX_VERSION:
        raise RemoteProtocolError("no node's entries are at such a version")
    return plain.natural(value)


def _read_version(value: object) -> tuple[NodeId, int, int]:
    _, _, version, check = plain.array(value, 4)[:4]
    return plain.node_id(value), _version(version), plain.natural(check)


def _read_update(rest: list[object]) -> Update:
    origin, base, version, latest, check, entries = plain.array(rest, 6)[:6]
    update = Update(
        plain.node_id(origin),
        plain.natural(base),
        plain.natural(version),
        _version(latest),
        plain.natural(check),
        tuple(map(_read_entry, plain.array(entries, 0))),
    )
    if not update.base <= update.version <= update.latest or any(
        entry.version > update.version for entry in update.entries
    ):
        raise RemoteProtocolError("an update whose versions are in no order")
    return update


def _entry(entry: Entry) -> list[object]:
    match entry:
        case NameEntry(version, name, number, claimed_us):
            return [1, version, name, number, claimed_us]
        case GroupEntry(version, group, number):
            return [2, version, group, number]
        case Removal(version, text, number):
            return [3, version, text, number]
        case _:
            assert_never(entry)


def _read_entry(value: object) -> Entry:
    natural = plain.natural
    match plain.array(value, 4):
        case [1, version, name, number, claimed_us, *_]:
            return NameEntry(natural(version), _text(name), _number(number), natural(claimed_us))
        case [2, version, group, number, *_]:
            return GroupEntry(natural(version), _text(group), _number(number))
        case [3, version, text, number, *_]:
            return Removal(natural(version), _text(text), natural(number))
    raise RemoteProtocolError("an entry of the registry that is none")


def _number(value: object) -> int:
    if plain.natural(value) == 0:
        raise RemoteProtocolError("no process has the number 0")
    return plain.natural(value)


def _text(value: object) -> str:
    text = plain.text(value, MAX_PROCESS_NAME_BYTES)
    if not text or not text.isprintable():
        raise RemoteProtocolError("a name that cannot be one")
    return text
