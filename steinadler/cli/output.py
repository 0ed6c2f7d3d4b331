"""What commands print: JSON for programs, text for people.

What JSON lacks is written like this, which reads well and does not read back:

    tuple, set, frozenset   an array; a set's in the order of its elements' JSON texts
    dataclass               an object of its fields
    enum                    the member's name, as a text
    bytes                   base64, as a text
    ProcessId, NodeId       "#7@bob", "bob"
    date and time           ISO 8601
    Decimal, UUID, others   their text; so are NaN and the infinities
    keys of a map           a text stays; anything else is its JSON text
"""

from __future__ import annotations

import base64
import dataclasses
import enum
import json
import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import date
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

# In columns: nothing that is not a terminal cuts lines off.
_ENDLESS = 10_000


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


def print_json(value: Any) -> None:
    """One line of JSON on stdout, at once."""
    click.echo(to_json(value))


def pretty_json(value: Any) -> str:
    """JSON as people like to read it."""
    return json.dumps(plain(value), ensure_ascii=False, allow_nan=False, indent=2)


def console() -> Console:
    """Where tables are printed: plain text, and lines as long as they are, but on a terminal."""
    from rich.console import Console  # here, because it takes longer to import than most calls

    width = None if sys.stdout.isatty() else _ENDLESS
    return Console(highlight=False, markup=False, width=width)


def table(
    columns: Iterable[str], rows: Iterable[Sequence[str]], *, numbers_from: int | None = None
) -> Table:
    """A table without lines.  With `numbers_from`, columns from there on are aligned to the right,
    and all stand close, in one line each.
    """
    from rich.table import Table

    made = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0) if numbers_from else (0, 1))
    for place, column in enumerate(columns):
        number = numbers_from is not None and place >= numbers_from
        made.add_column(
            column, justify="right" if number else "left", no_wrap=numbers_from is not None
        )
    for row in rows:
        made.add_row(*map(harmless, row))
    return made


def harmless(text: str) -> str:
    """`text` without what a terminal would obey: some of it is a peer's."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)
