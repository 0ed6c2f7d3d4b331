"""Messages as JSON, for people and for programs that speak nothing else.

What JSON lacks is written like this, which reads well and does not read back:

    tuple, set, frozenset   an array; a set's in the order of its elements' JSON texts
    dataclass               an object of its fields
    enum                    the member's name, as a text
    bytes                   base64, as a text
    ProcessId, NodeId       "#7@bob", "bob"
    date and time           ISO 8601
    Decimal, UUID, others   their text; so are NaN and the infinities
    keys of a map           a text stays; anything else is its JSON text

It is made of what was decoded, and is not a second encoding of messages: what has to come back as
it was is CBOR (see `codec`).
"""

from __future__ import annotations

import base64
import dataclasses
import enum
import json
import math
from collections.abc import Mapping
from datetime import date
from typing import Any


def to_json(value: Any) -> str:
    """One line of JSON; see the table above."""
    return json.dumps(plain(value), ensure_ascii=False, allow_nan=False)


def plain(value: Any) -> Any:
    """`value` in JSON's types alone."""
    match value:
        case enum.Enum():
            return value.name
        case None | bool() | int() | str():
            return value
        case float():
            return value if math.isfinite(value) else str(value)
        case bytes() | bytearray():
            return base64.b64encode(value).decode()
        case Mapping():
            return {k if isinstance(k, str) else to_json(k): plain(v) for k, v in value.items()}
        case list() | tuple():
            return [plain(item) for item in value]
        case set() | frozenset():
            return sorted((plain(item) for item in value), key=to_json)
        case date():
            return value.isoformat()
    # What has a text of its own (ProcessId, NodeId) is better told by that than by its fields.
    if dataclasses.is_dataclass(value) and type(value).__str__ is object.__str__:
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    return str(value)
