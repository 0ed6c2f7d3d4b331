"""Figures over sizes, as one SVG of several panels, written by hand as `reporting` writes its bars.

The horizontal axis is logarithmic: clusters grow by factors.  The vertical one starts at nothing,
so that what is flat looks flat.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from benchmarks.reporting import number

_COLOURS = ("#2f6f9f", "#c0562b", "#5b8c3a", "#7a5195")
_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 440, 250, 64, 18, 34, 46
_COLUMNS = 2
_HEADER = 34


@dataclass(frozen=True, slots=True)
class Curve:
    """One line: its label, and (size, value) in the order of sizes."""

    label: str
    points: tuple[tuple[float, float], ...]


@dataclass(frozen=True, slots=True)
class Panel:
    """Curves of one unit, and the limit that they are held against."""

    title: str
    curves: tuple[Curve, ...]
    limit: float | None = None
    limit_label: str = ""


def svg(title: str, across: str, panels: Sequence[Panel]) -> str:
    """All panels, two in a row; `across` says what sizes are."""
    rows = math.ceil(len(panels) / _COLUMNS)
    width, height = _COLUMNS * _WIDTH, _HEADER + rows * _HEIGHT
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
        'font-family="sans-serif" font-size="11">',
        '<rect width="100%" height="100%" fill="white"/>',
        f'<text x="12" y="22" font-size="15">{escape(title)}</text>',
    ]
    for place, panel in enumerate(panels):
        x, y = place % _COLUMNS * _WIDTH, _HEADER + place // _COLUMNS * _HEIGHT
        parts += [f'<g transform="translate({x},{y})">', *_panel(panel, across), "</g>"]
    return "\n".join([*parts, "</svg>"]) + "\n"


def _panel(panel: Panel, across: str) -> list[str]:
    points = [point for curve in panel.curves for point in curve.points]
    sizes = sorted({size for size, _ in points})
    most = max([value for _, value in points] + ([panel.limit] if panel.limit else []))
    step = _step(most)
    top = step * math.ceil(most * 1.04 / step)
    low, high = math.log10(sizes[0]), math.log10(sizes[-1])
    right, bottom = _WIDTH - _RIGHT, _HEIGHT - _BOTTOM

    def x(size: float) -> float:
        part = 0.5 if high == low else (math.log10(size) - low) / (high - low)
        return _LEFT + part * (right - _LEFT)

    def y(value: float) -> float:
        return bottom - value / top * (bottom - _TOP)

    parts = [f'<text x="{_LEFT}" y="16" font-size="13">{escape(panel.title)}</text>']
    for line in range(round(top / step) + 1):
        at = y(line * step)
        parts.append(
            f'<line x1="{_LEFT}" y1="{at:.1f}" x2="{right}" y2="{at:.1f}" stroke="#ddd"/>'
            f'<text x="{_LEFT - 6}" y="{at + 4:.1f}" text-anchor="end">{number(line * step)}</text>'
        )
    parts += [
        f'<text x="{x(size):.1f}" y="{bottom + 15}" text-anchor="middle">{size:,.0f}</text>'
        for size in sizes
    ]
    parts.append(f'<text x="{right}" y="{bottom + 30}" text-anchor="end">{escape(across)}</text>')
    if panel.limit is not None:
        at = y(panel.limit)
        parts.append(
            f'<line x1="{_LEFT}" y1="{at:.1f}" x2="{right}" y2="{at:.1f}" stroke="black" '
            'stroke-dasharray="5 4"/>'
            f'<text x="{right}" y="{at - 4:.1f}" text-anchor="end">'
            f"{escape(panel.limit_label)}</text>"
        )
    label_at = float(_LEFT)
    for colour, curve in zip(_COLOURS, panel.curves, strict=False):
        path = " ".join(f"{x(size):.1f},{y(value):.1f}" for size, value in curve.points)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts += [
            f'<circle cx="{x(size):.1f}" cy="{y(value):.1f}" r="3" fill="{colour}"/>'
            for size, value in curve.points
        ]
        parts.append(
            f'<rect x="{label_at:.0f}" y="{bottom + 22}" width="10" height="10" fill="{colour}"/>'
            f'<text x="{label_at + 14:.0f}" y="{bottom + 31}">{escape(curve.label)}</text>'
        )
        label_at += 28 + 6.2 * len(curve.label)
    return parts


def _step(most: float) -> float:
    """Between lines: 1, 2 or 5 times a power of ten, for three to eight lines."""
    power = 10.0 ** math.floor(math.log10(most / 3))
    return next(power * factor for factor in (1, 2, 5, 10) if most / (power * factor) <= 7)
