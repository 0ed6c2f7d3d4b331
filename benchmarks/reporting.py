"""What people see: one table (terminal or Markdown) and one plot (SVG, written by hand).

A plot library would be the largest dependency of the project, for a dozen bars.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from statistics import median

from rich.table import Table

from benchmarks.comparing import Comparison, Row

HEADINGS = ("workload", "figure", "ours", "theirs", "ours / theirs", "min-max", "target")


def number(value: float) -> str:
    """Three significant digits, thousands set apart."""
    if value == 0 or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def _cells(row: Row, gap: str | None) -> tuple[str, ...]:
    unit = row.figure.unit
    ours = f"{number(median(row.ours))} {unit}"
    theirs = "cannot" if gap is not None else f"{number(median(row.theirs))} {unit}"
    ratio = "" if row.ratio is None else f"{row.ratio:.2f}"
    ratios = row.ratios
    extent = f"{min(ratios):.2f}-{max(ratios):.2f}" if ratios else ""
    return row.workload.name, row.figure.key, ours, theirs, ratio, extent, _target(row)


def _target(row: Row) -> str:
    target = row.target
    if target is None:
        return ""
    sign = ">=" if row.figure.better.value == "higher" else "<="
    wanted = f"{sign} {number(target.limit)}{'x' if target.of_ratio else ' ' + row.figure.unit}"
    verdict = {True: ", reached", False: ", not reached", None: ""}[row.reached()]
    return wanted + verdict


def rows_of(comparison: Comparison) -> list[tuple[str, ...]]:
    """The table's body.  Targets are against Erlang over TLS, so only its table has them."""
    cells = [_cells(row, comparison.gaps.get(row.workload.name)) for row in comparison.rows]
    if comparison.peer.name != "erlang":
        cells = [(*row[:-1], "") for row in cells]
    return cells


def caption(comparison: Comparison) -> str:
    """Under which conditions the table came about."""
    text = (
        f"Steinadler beside {comparison.peer.title} ({comparison.peer.security}): medians of "
        f"{comparison.pairs} pairs of runs; ours / theirs is the median of the pairs' ratios."
    )
    if comparison.busy:
        text += (
            f" The machine was not idle (load {comparison.load_before:.1f} before the first run)."
        )
    return text


def terminal_table(comparison: Comparison) -> Table:
    """The table for `rich`."""
    table = Table(*HEADINGS, caption=caption(comparison))
    for column in table.columns[2:6]:
        column.justify = "right"
    for cells in rows_of(comparison):
        table.add_row(*cells)
    return table


def markdown(comparison: Comparison) -> str:
    """The table, its caption, and the reasons for what is missing, in Markdown."""
    lines = [caption(comparison), "", _line(HEADINGS), _line(["---"] * len(HEADINGS))]
    lines += [_line(cells) for cells in rows_of(comparison)]
    if comparison.gaps:
        lines += ["", f"What {comparison.peer.title} cannot do here:", ""]
        lines += [f"- `{name}`: {why}" for name, why in comparison.gaps.items()]
    return "\n".join(lines) + "\n"


def filled(document: str, name: str, table: str) -> str:
    """`document` with the table between the lines `<!-- NAME -->` and `<!-- end -->`.

    A document without such a place becomes the table alone.
    """
    start, found, rest = document.partition(f"<!-- {name} -->\n")
    _, ended, tail = rest.partition("<!-- end -->")
    if not found or not ended:
        return table
    return f"{start}{found}{table}{ended}{tail}"


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


# -- the plot -------------------------------------------------------------------------------------

_LEFT, _WIDTH, _BAR, _GAP, _TOP = 170, 440, 18, 10, 46


def svg(comparison: Comparison) -> str:
    """Bars of each workload's headline: how many times better ours is, on a logarithmic scale.

    Whiskers go from the worst pair to the best.
    """
    rows = [
        row
        for row in comparison.rows
        if row.figure is row.workload.figures[0] and row.advantage is not None
    ]
    reach = max([10.0, *(max(max(a), 1 / min(a)) for a in map(_advantages, rows))])
    scale = _WIDTH / 2 / math.log10(reach)
    middle = _LEFT + _WIDTH / 2
    height = _TOP + len(rows) * (_BAR + _GAP) + 34

    def x(advantage: float) -> float:
        return middle + math.log10(advantage) * scale

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_LEFT + _WIDTH + 90}" '
        f'height="{height}" font-family="sans-serif" font-size="12">',
        '<rect width="100%" height="100%" fill="white"/>',
        f'<text x="{_LEFT}" y="20" font-size="14">'
        f"{escape(f'Steinadler beside {comparison.peer.title}: times better')}</text>",
    ]
    powers = range(-int(math.log10(reach)), int(math.log10(reach)) + 1)
    for power in powers:
        at = x(10.0**power)
        parts.append(
            f'<line x1="{at:.1f}" y1="{_TOP - 8}" x2="{at:.1f}" y2="{height - 26}" '
            f'stroke="{"black" if power == 0 else "#ccc"}"/>'
            f'<text x="{at:.1f}" y="{height - 10}" text-anchor="middle">{10.0**power:g}x</text>'
        )
    for place, row in enumerate(rows):
        parts += _bar(row, _TOP + place * (_BAR + _GAP), x)
    return "\n".join([*parts, "</svg>"]) + "\n"


def _advantages(row: Row) -> list[float]:
    if row.figure.better.value == "higher":
        return row.ratios
    return [1 / ratio for ratio in row.ratios if ratio]


def _bar(row: Row, y: float, x) -> list[str]:  # type: ignore[no-untyped-def]
    advantage = row.advantage
    assert advantage is not None
    left, right = sorted((x(1.0), x(advantage)))
    worst, best = min(_advantages(row)), max(_advantages(row))
    line = y + _BAR / 2
    colour = "#2f6f9f" if advantage >= 1 else "#c0562b"
    return [
        f'<text x="{_LEFT - 10}" y="{y + 13}" text-anchor="end">{escape(row.workload.name)}</text>',
        f'<rect x="{left:.1f}" y="{y}" width="{max(right - left, 1):.1f}" height="{_BAR}" '
        f'fill="{colour}"/>',
        f'<line x1="{x(worst):.1f}" y1="{line}" x2="{x(best):.1f}" y2="{line}" stroke="black"/>',
        f'<text x="{max(x(best), right) + 6:.1f}" y="{y + 13}">{advantage:.2f}x</text>',
    ]
