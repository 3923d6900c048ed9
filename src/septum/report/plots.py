# SPDX-License-Identifier: GPL-2.0-only
"""Plots as inline SVG, without a library: lines over time, a heat map.

Each function returns one `<svg>` element as text, with a title and a description for
screen readers; colours come from CSS variables with defaults, so that a page in light or
dark can set them.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from html import escape
from itertools import pairwise
from typing import Final

from septum.trace.result import LEVEL_NAMES, ReplayResult

__all__ = ["heat_map", "line_chart", "replay_plots"]

_WIDTH: Final = 720
_HEIGHT: Final = 200
_LEFT: Final = 70
_RIGHT: Final = 12
_TOP: Final = 30  # below the legend
_BOTTOM: Final = 28
_COLOURS: Final = ("#2563eb", "#d97706", "#059669", "#dc2626")
_HEAT_COLUMNS: Final = 96
_BINS: Final = 120
_HEAT_ROWS: Final = 48


def _open(title: str, text: str) -> list[str]:
    return [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img"'
        f' aria-label="{escape(title)}" style="max-width:100%;height:auto">',
        f"<title>{escape(title)}</title><desc>{escape(text)}</desc>",
    ]


def _text(x: float, y: float, text: str, anchor: str = "start") -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="11"'
        f' fill="var(--fg,#444)">{escape(text)}</text>'
    )


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _axes(x: tuple[float, float], top: float, unit: str) -> list[str]:
    base = _HEIGHT - _BOTTOM
    return [
        f'<path d="M{_LEFT} {_TOP}V{base}H{_WIDTH - _RIGHT}" fill="none" stroke="var(--fg,#888)"/>',
        _text(_LEFT - 6, _TOP + 8, _number(top), "end"),
        _text(_LEFT - 6, base, "0", "end"),
        _text(_LEFT, _HEIGHT - 10, f"{x[0]:.6g} {unit}"),
        _text(_WIDTH - _RIGHT, _HEIGHT - 10, f"{x[1]:.6g} {unit}", "end"),
    ]


def line_chart(
    title: str, xs: Sequence[float], series: Sequence[tuple[str, Sequence[float]]], unit: str = "s"
) -> str:
    """Lines over ``xs`` (ascending).  ``series``: name and one value per x."""
    top = max((max(values, default=0.0) for _, values in series), default=0.0) or 1.0
    left, right = (xs[0], xs[-1]) if xs else (0.0, 1.0)
    span = right - left or 1.0
    peaks = ", ".join(f"{name} up to {_number(max(values, default=0))}" for name, values in series)
    out = _open(title, peaks) + _axes((left, right), top, unit)
    base, wide = _HEIGHT - _BOTTOM, _WIDTH - _LEFT - _RIGHT
    for number, (name, values) in enumerate(series):
        colour = _COLOURS[number % len(_COLOURS)]
        points = " ".join(
            f"{_LEFT + (x - left) / span * wide:.1f},{base - y / top * (base - _TOP):.1f}"
            for x, y in zip(xs, values, strict=True)
        )
        out.append(f'<polyline points="{points}" fill="none" stroke="{colour}"/>')
        at = _LEFT + 10 + number * 130
        out.append(f'<rect x="{at}" y="6" width="10" height="10" fill="{colour}"/>')
        out.append(_text(at + 14, 15, name))
    return "".join([*out, "</svg>"])


def heat_map(title: str, xs: Sequence[float], columns: Sequence[dict[int, int]]) -> str:
    """Activity by x and region: ``columns`` has the counts of each x by region number."""
    regions = sorted({region for column in columns for region in column})
    cells: dict[tuple[int, int], int] = {}
    # Regions that occur, not all between: GFNs of a guest are far apart.
    rank = {region: index for index, region in enumerate(regions)}
    per_row = max(-(-len(regions) // _HEAT_ROWS), 1)
    per_column = max(-(-len(columns) // _HEAT_COLUMNS), 1)
    for number, column in enumerate(columns):
        for region, count in column.items():
            key = (number // per_column, rank[region] // per_row)
            cells[key] = cells.get(key, 0) + count
    top = max(cells.values(), default=1)
    across = max(-(-len(columns) // per_column), 1)
    down = max(-(-len(regions) // per_row), 1)
    base = _HEIGHT - _BOTTOM
    width, height = (_WIDTH - _LEFT - _RIGHT) / across, (base - _TOP) / down
    out = _open(title, f"{len(regions)} regions of 2M; at most {top} changes in a cell")
    for (x, y), count in sorted(cells.items()):
        out.append(
            f'<rect x="{_LEFT + x * width:.1f}" y="{base - (y + 1) * height:.1f}"'
            f' width="{width + 0.2:.1f}" height="{height + 0.2:.1f}" fill="{_COLOURS[0]}"'
            f' fill-opacity="{0.15 + 0.85 * (count / top) ** 0.4:.2f}"/>'
        )
    if regions:
        out.append(_text(_LEFT - 6, _TOP + 8, f"{regions[-1] << 9:x}", "end"))
        out.append(_text(_LEFT - 6, base, f"{regions[0] << 9:x}", "end"))
    if xs:
        out.append(_text(_LEFT, _HEIGHT - 10, f"{xs[0]:.6g} s"))
        out.append(_text(_WIDTH - _RIGHT, _HEIGHT - 10, f"{xs[-1]:.6g} s", "end"))
    return "".join([*out, "</svg>"])


def _rates(xs: Sequence[float], counts: Sequence[int], edges: Sequence[float]) -> list[float]:
    """Per second, in each part that an edge ends; 0 at the first edge.  ``counts`` add up."""
    at = [counts[max(bisect_right(xs, edge) - 1, 0)] for edge in edges]
    spans = pairwise(zip(edges, at, strict=True))
    return [0.0, *((d - c) / (b - a) if b > a else 0.0 for (a, c), (b, d) in spans)]


def replay_plots(result: ReplayResult) -> list[tuple[str, str]]:
    """(heading, SVG) of a replay: leafs by level, rates, GFN by time.  Empty without a
    change."""
    samples = result.samples
    if len(samples) < 2:
        return []
    xs = [sample.time for sample in samples]
    leafs = [
        (name, [float(sample.leafs[level]) for sample in samples])
        for level, name in enumerate(LEVEL_NAMES)
    ]
    # Many samples may share a time stamp: rates are those of equal parts of the time.
    part = (xs[-1] - xs[0]) / _BINS
    edges = [xs[0] + n * part for n in range(_BINS)] + [xs[-1]]
    rates = [
        ("faults/s", _rates(xs, [sample.faults for sample in samples], edges)),
        ("zaps/s", _rates(xs, [sample.zaps for sample in samples], edges)),
    ]
    return [
        ("Present leafs by level", line_chart("Present leafs by level over time", xs, leafs)),
        ("Fault and zap rates", line_chart("Faults and zaps per second", edges, rates)),
        (
            "Changes by GFN and time",
            heat_map("Changes by GFN (2M regions) and time", xs, result.heat),
        ),
    ]
