"""Values beyond CBOR's own types: how each is written, and what of a peer's is believed.

Every hook takes what cbor2 made of the tag's content and checks all of it, because the content is
the peer's: a hook that only unpacked it would call whatever came.  Tags that cbor2 would decode by
itself and messages do not use are refused by name.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from decimal import Decimal
from email.mime.text import MIMEText
from fractions import Fraction
from typing import Any

import cbor2

from steinadler.identity import NodeId, ProcessId, SinkRef, SourceRef

TAG_SET = 258  # array; registered for sets, and decoded by cbor2 itself
TAG_TUPLE = 22497
TAG_DATACLASS = 22498  # [registered name, {field: value}]
TAG_ENUM = 22499  # [registered name, member name]
TAG_NODE_ID = 22500  # [name, incarnation]
TAG_PROCESS_ID = 22501  # [node name, incarnation, number]
TAG_FROZENSET = 22502  # a set
TAG_DECIMAL_TEXT = 22503  # for what tag 4 cannot say: NaN, infinities, minus zero
TAG_SOURCE_REF = 22504  # [node name, incarnation, token]
TAG_SINK_REF = 22505  # the same
# `Decimal(int)` is quadratic, so a decimal from a peer may have only so many bits.
MAX_DECIMAL_BITS = 14_000  # below the 4300 digits at which Python refuses int <-> str


def _encode_tuple(encoder: cbor2.CBOREncoder, value: tuple[Any, ...]) -> None:
    encoder.encode_semantic(TAG_TUPLE, list(value))


def _encode_set(encoder: cbor2.CBOREncoder, value: set[Any]) -> None:
    encoder.encode_semantic(TAG_SET, list(value))


def _encode_frozenset(encoder: cbor2.CBOREncoder, value: frozenset[Any]) -> None:
    # The set inside makes cbor2 decode the elements as hashable ones.
    encoder.encode_semantic(TAG_FROZENSET, set(value))


def _encode_decimal(encoder: cbor2.CBOREncoder, value: Decimal) -> None:
    sign, digits, exponent = value.as_tuple()
    if not isinstance(exponent, int) or (sign and not value):
        encoder.encode_semantic(TAG_DECIMAL_TEXT, str(value))
        return
    mantissa = int("".join(map(str, digits)))
    if mantissa.bit_length() > MAX_DECIMAL_BITS:
        raise ValueError("a decimal with too many digits")
    encoder.encode_semantic(4, [exponent, -mantissa if sign else mantissa])


def _encode_memoryview(encoder: cbor2.CBOREncoder, value: memoryview) -> None:
    encoder.encode_bytes(bytes(value))


def _encode_node_id(encoder: cbor2.CBOREncoder, value: NodeId) -> None:
    encoder.encode_semantic(TAG_NODE_ID, [value.name, value.incarnation])


def _encode_process_id(encoder: cbor2.CBOREncoder, value: ProcessId) -> None:
    encoder.encode_semantic(TAG_PROCESS_ID, [value.node.name, value.node.incarnation, value.number])


def _encode_source_ref(encoder: cbor2.CBOREncoder, value: SourceRef) -> None:
    encoder.encode_semantic(TAG_SOURCE_REF, [value.node.name, value.node.incarnation, value.token])


def _encode_sink_ref(encoder: cbor2.CBOREncoder, value: SinkRef) -> None:
    encoder.encode_semantic(TAG_SINK_REF, [value.node.name, value.node.incarnation, value.token])


def refuse(encoder: object, value: object) -> None:
    raise TypeError(
        f"{type(value).__module__}.{type(value).__qualname__} cannot be in a message; if it is "
        "a dataclass or an enum of yours, register it with @steinadler.message"
    )


def array_of(value: Any, length: int) -> Any:
    # Other things can be unpacked too: an IP network into each of its 2**128 addresses.
    if not isinstance(value, (list, tuple)) or len(value) != length:
        raise ValueError(f"an array of {length} was expected")
    return value


def _decode_decimal(value: Any, immutable: bool) -> Decimal:
    exponent, mantissa = array_of(value, 2)
    if not isinstance(exponent, int):  # a text would make a NaN or an infinity
        raise ValueError("a decimal fraction whose exponent is not an integer")
    if mantissa.bit_length() > MAX_DECIMAL_BITS:
        raise ValueError("a decimal with too many digits")
    digits = tuple(map(int, str(abs(mantissa))))
    return Decimal((int(mantissa < 0), digits, exponent))


def _decode_decimal_text(value: Any, immutable: bool) -> Decimal:
    if not isinstance(value, str):
        raise ValueError("a decimal that is not text")
    return Decimal(value)


def _decode_frozenset(value: Any, immutable: bool) -> frozenset[Any]:
    if not isinstance(value, (set, frozenset)):
        raise ValueError("a frozenset that is not a set")
    return frozenset(value)


def _decode_tuple(value: Any, immutable: bool) -> tuple[Any, ...]:
    if not isinstance(value, (list, tuple)):
        raise ValueError("a tuple that is not an array")
    return tuple(value)


def _decode_node_id(value: Any, immutable: bool) -> NodeId:
    name, incarnation = array_of(value, 2)
    return _node_id(name, incarnation)


def _decode_process_id(value: Any, immutable: bool) -> ProcessId:
    return ProcessId(*_numbered(value))


def _decode_source_ref(value: Any, immutable: bool) -> SourceRef:
    return SourceRef(*_numbered(value))


def _decode_sink_ref(value: Any, immutable: bool) -> SinkRef:
    return SinkRef(*_numbered(value))


def _numbered(value: Any) -> tuple[NodeId, int]:
    """What belongs to a node, and has a number there."""
    name, incarnation, number = array_of(value, 3)
    if not isinstance(number, int) or number < 0:
        raise ValueError("a number of a node's that is not a natural number")
    return _node_id(name, incarnation), number


def refuse_tag(value: object, immutable: bool) -> Any:
    raise ValueError("a CBOR tag that is not used here")


def ignore_tag(value: object, immutable: bool) -> None:
    return None


# What cbor2 would decode by itself and we do not use: references (they make cycles), regular
# expressions, MIME, rationals, big floats, complex numbers, epoch dates.
_REFUSED_TAGS = (1, 5, 25, 28, 29, 30, 35, 36, 100, 256, 260, 261, 43000, 55799)
SEMANTIC_DECODERS: dict[int, Any] = {
    **dict.fromkeys(_REFUSED_TAGS, refuse_tag),
    4: _decode_decimal,
    TAG_DECIMAL_TEXT: _decode_decimal_text,
    TAG_TUPLE: _decode_tuple,
    TAG_FROZENSET: _decode_frozenset,
    TAG_NODE_ID: _decode_node_id,
    TAG_PROCESS_ID: _decode_process_id,
    TAG_SOURCE_REF: _decode_source_ref,
    TAG_SINK_REF: _decode_sink_ref,
}
# To look only at the nesting, no tag means anything; the tags are those of RFC 8949 that cbor2
# decodes by itself.
_NEUTRAL_TAGS = {**SEMANTIC_DECODERS, **dict.fromkeys((0, 2, 3, 37, 52, 54, 258, 1004))}
NEUTRAL_DECODERS: dict[int, Any] = dict.fromkeys(_NEUTRAL_TAGS, ignore_tag)
ENCODERS: dict[type, Callable[[cbor2.CBOREncoder, Any], None]] = {
    # Left to itself, cbor2 recurses into these without a limit and overflows the C stack.
    list: cbor2.CBOREncoder.encode_array,
    dict: cbor2.CBOREncoder.encode_map,
    tuple: _encode_tuple,
    set: _encode_set,
    frozenset: _encode_frozenset,
    Decimal: _encode_decimal,
    memoryview: _encode_memoryview,
    NodeId: _encode_node_id,
    ProcessId: _encode_process_id,
    SourceRef: _encode_source_ref,
    SinkRef: _encode_sink_ref,
    **dict.fromkeys(
        (complex, Fraction, re.Pattern, MIMEText, cbor2.CBORTag, cbor2.CBORSimpleValue), refuse
    ),
}


def _node_id(name: object, incarnation: object) -> NodeId:
    if not isinstance(name, str) or not isinstance(incarnation, int) or incarnation < 0:
        raise ValueError("a node id is a text and a natural number")
    return NodeId(name, incarnation)
