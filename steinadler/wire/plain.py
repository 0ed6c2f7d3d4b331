"""CBOR without tags, for what the protocol itself says: Hellos, signals, gossip.

Stricter than the messages' codec: no tag at all, shallow, small, one item and no byte behind it.
Every reader below raises `RemoteProtocolError` for a value that is not what it should be, and
tolerates extra elements at the end of arrays and extra keys in maps, so that the next version may
add some.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any, NoReturn

import cbor2

from steinadler.errors import RemoteProtocolError
from steinadler.identity import NodeId, ProcessId

_MAX_DEPTH = 8
# Every tag that cbor2 decodes by itself.  None is ours, so each is an error.
_BUILT_IN_TAGS = (
    *(0, 1, 2, 3, 4, 5, 25, 28, 29, 30, 35, 36, 37, 52, 54, 100, 256, 258, 260, 261),
    *(1004, 43000, 55799),
)


def _refuse(*_: object) -> NoReturn:
    raise ValueError("a tag where none belongs")


_DECODERS: Mapping[int, Any] = dict.fromkeys(_BUILT_IN_TAGS, _refuse)


def dumps(value: object) -> bytes:
    """Encode plain values."""
    return cbor2.dumps(value)


def loads(data: bytes, max_depth: int = _MAX_DEPTH) -> Any:
    """The plain value that `data` is, no more and no less; the outermost array counts as one deep.

    Raises `RemoteProtocolError` for anything else: cut short, trailing bytes, too deep, a tag.
    """
    buffer = io.BytesIO(data)
    try:
        value = cbor2.CBORDecoder(
            buffer,
            tag_hook=_refuse,
            semantic_decoders=_DECODERS,
            max_depth=max_depth,
            strict_hashable_types=True,  # keys are text, whose hashes nobody can make collide
        ).decode()
    # cbor2 lets a few built-in errors through (unhashable keys, recursion); the data is at fault.
    except Exception as error:
        raise RemoteProtocolError(f"not plain CBOR: {error}") from error
    if buffer.tell() != len(data):
        raise RemoteProtocolError("bytes after the end of plain CBOR")
    return value


def array(value: object, least: int) -> list[Any]:
    """`value`, if it is an array of at least `least` elements."""
    if not isinstance(value, list) or len(value) < least:
        raise RemoteProtocolError(f"an array of {least} or more was expected")
    return value


def natural(value: object, most: int = 2**64 - 1) -> int:
    """`value`, if it is an integer from 0 to `most`."""
    # True is an int to Python, and not to the protocol.
    if type(value) is not int or not 0 <= value <= most:
        raise RemoteProtocolError(f"a number from 0 to {most} was expected")
    return value


def text(value: object, longest: int) -> str:
    """`value`, if it is text of at most `longest` characters."""
    if not isinstance(value, str) or len(value) > longest:
        raise RemoteProtocolError(f"a text of at most {longest} characters was expected")
    return value


def node_id(value: object) -> NodeId:
    """A node id, from its array [name, incarnation]."""
    name, incarnation = array(value, 2)[:2]
    return NodeId(text(name, 63), natural(incarnation))


def process_id(value: object) -> ProcessId:
    """A process id, from its array [node name, incarnation, number]."""
    name, incarnation, number = array(value, 3)[:3]
    return ProcessId(NodeId(text(name, 63), natural(incarnation)), natural(number))


def clipped(value: str, longest: int) -> str:
    """`value` as a peer accepts it: at most `longest` characters, all of which UTF-8 can say.

    An exception's text may hold lone surrogates: a file name that is not UTF-8 has them.
    """
    return value[:longest].encode(errors="backslashreplace").decode()[:longest]


def process_id_array(process: ProcessId) -> list[object]:
    """Undo `process_id`."""
    return [process.node.name, process.node.incarnation, process.number]
