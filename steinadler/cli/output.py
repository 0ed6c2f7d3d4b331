"""What commands print: JSON for programs (see `steinadler.wire.as_json`), text for people."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import click

from steinadler.wire.as_json import plain, to_json

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

# In columns: nothing that is not a terminal cuts lines off.
_ENDLESS = 10_000


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


def size(number: float) -> str:
    """Bytes, in the largest unit of which there is one, to two or three figures."""
    for unit in ("B", "kB", "MB", "GB"):
        if number < 1000 or unit == "GB":
            break
        number /= 1000
    return f"{number:.1f} {unit}" if number < 10 and unit != "B" else f"{number:.0f} {unit}"


def harmless(text: str) -> str:
    """`text` without what a terminal would obey: some of it is a peer's."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)
