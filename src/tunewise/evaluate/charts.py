"""Inline SVG: interval bars, the loss curve and cost against volume. No script, no font, no colour of its own.

Colours are classes that the report's style sheet binds to light and dark; every picture carries a title and a
description, and the numbers stand in a table beside it. Knows points and labels; knows nothing of reports.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

from markupsafe import Markup

WIDTH, HEIGHT = 460.0, 250.0
LEFT, RIGHT, TOP, BOTTOM = 52.0, 12.0, 12.0, 40.0
BAR_WIDTH = 300.0
MOST_POINTS = 120


class Line(NamedTuple):
    """One series: `points` are (x, y); `style` is the CSS class that colours it."""

    label: str
    style: str
    points: Sequence[tuple[float, float]]
    has_dots: bool = False


class Mark(NamedTuple):
    """A point that is spoken of, such as a break-even."""

    label: str
    x: float
    y: float


class Chart(NamedTuple):
    """What a line chart shows; `slug` makes its element ids unique on the page."""

    slug: str
    title: str
    description: str
    x_label: str
    y_label: str
    lines: Sequence[Line]
    marks: Sequence[Mark] = ()
    y_top: float | None = None


def interval_bar(value: float, low: float, high: float, top: float, style: str) -> Markup:
    """A bar from 0 to `value` with its interval as a whisker, on a scale that ends at `top`. Decoration of a number."""
    v, a, b = (_n(x * BAR_WIDTH / top) for x in (value, low, high))
    return Markup(
        '<svg class="bar {style}" viewBox="-2 0 304 18" preserveAspectRatio="none" aria-hidden="true">'
        '<rect class="track" x="0" y="4" width="300" height="10"/>'
        '<rect class="fill" x="0" y="4" width="{v}" height="10"/>'
        '<path class="whisker" d="M{a} 9H{b}M{a} 3V15M{b} 3V15"/></svg>'
    ).format(style=style, v=v, a=a, b=b)


def scale_top(highest: float) -> float:
    """The end of a score scale: 1, or a round number where every score is small."""
    return next((top for top in (0.02, 0.05, 0.1, 0.2, 0.5) if highest <= top), 1.0)


def line_chart(chart: Chart) -> Markup:
    """A chart of lines from x = 0 and y = 0 on, with round ticks and a mark for each point that is spoken of."""
    x_top = max(x for line in chart.lines for x, _ in line.points) or 1.0
    y_top = chart.y_top or 1.04 * max(y for line in chart.lines for _, y in line.points) or 1.0
    body = Markup("").join(
        [
            _y_axis(chart.y_label, y_top),
            _x_axis(chart.x_label, x_top),
            *(_series(line, x_top, y_top) for line in chart.lines),
            *_marks(chart.marks, x_top, y_top),
        ]
    )
    return Markup(
        '<svg class="chart" viewBox="0 0 {w} {h}" role="img" aria-labelledby="{slug}-title {slug}-desc">'
        '<title id="{slug}-title">{title}</title><desc id="{slug}-desc">{desc}</desc>{body}</svg>'
    ).format(w=_n(WIDTH), h=_n(HEIGHT), slug=chart.slug, title=chart.title, desc=chart.description, body=body)


def thinned(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """At most 120 points, each the mean of its neighbours, so that a long run stays a small and readable curve."""
    size = math.ceil(len(points) / MOST_POINTS)
    chunks = [points[i : i + size] for i in range(0, len(points), max(size, 1))]
    return [(sum(x for x, _ in c) / len(c), sum(y for _, y in c) / len(c)) for c in chunks]


def ticks(top: float, wanted: int = 4) -> list[float]:
    """Round numbers from 0 to `top`, about `wanted` of them: steps of 1, 2 or 5 times a power of ten."""
    raw = top / wanted
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= raw * 0.999)
    return [i * step for i in range(math.floor(top / step * 1.0001) + 1)]


def short(value: float) -> str:
    """A tick label: 1500000 is "1.5M"."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:g}{unit}"
    return f"{value:.6g}"


def _x(value: float, top: float) -> float:
    return LEFT + (WIDTH - LEFT - RIGHT) * value / top


def _y(value: float, top: float) -> float:
    return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * min(value / top, 1.0)


def _y_axis(label: str, top: float) -> Markup:
    lines = Markup("").join(
        Markup(
            '<path class="grid" d="M{a} {y}H{b}"/><text class="tick" x="{t}" y="{ty}" text-anchor="end">{s}</text>'
        ).format(a=_n(LEFT), b=_n(WIDTH - RIGHT), y=_n(_y(v, top)), t=_n(LEFT - 6), ty=_n(_y(v, top) + 3.5), s=short(v))
        for v in ticks(top)
    )
    middle = _n((HEIGHT - BOTTOM + TOP) / 2)
    return lines + Markup(
        '<text class="axis" x="10" y="{m}" transform="rotate(-90 10 {m})" text-anchor="middle">{label}</text>'
    ).format(m=middle, label=label)


def _x_axis(label: str, top: float) -> Markup:
    bottom = HEIGHT - BOTTOM
    labels = Markup("").join(
        Markup('<text class="tick" x="{x}" y="{y}" text-anchor="middle">{s}</text>').format(
            x=_n(_x(v, top)), y=_n(bottom + 14), s=short(v)
        )
        for v in ticks(top)
    )
    return labels + Markup('<text class="axis" x="{x}" y="{y}" text-anchor="middle">{label}</text>').format(
        x=_n((LEFT + WIDTH - RIGHT) / 2), y=_n(HEIGHT - 6), label=label
    )


def _series(line: Line, x_top: float, y_top: float) -> Markup:
    places = [(_n(_x(x, x_top)), _n(_y(y, y_top))) for x, y in line.points]
    path = "M" + "L".join(f"{x} {y}" for x, y in places)
    drawn = Markup('<path class="line {style}" d="{path}"/>').format(style=line.style, path=path)
    if not line.has_dots:
        return drawn
    dots = (
        Markup('<circle class="dot {s}" cx="{x}" cy="{y}" r="3"/>').format(s=line.style, x=x, y=y) for x, y in places
    )
    return drawn + Markup("").join(dots)


def _marks(marks: Sequence[Mark], x_top: float, y_top: float) -> list[Markup]:
    """The marks from left to right, each label a line above the last, so that none covers another or its leader."""
    ordered = sorted(marks, key=lambda mark: mark.x)
    highest = min((_y(mark.y, y_top) for mark in marks), default=0.0)
    places = [(_x(mark.x, x_top), _y(mark.y, y_top)) for mark in ordered]
    heights = [max(highest - 12 - 14 * rank, TOP + 6) for rank in range(len(ordered))]
    return [_mark(mark.label, x, y, label_y) for mark, (x, y), label_y in zip(ordered, places, heights, strict=True)]


def _mark(label: str, x: float, y: float, label_y: float) -> Markup:
    is_early = x < LEFT + 90
    return Markup(
        '<path class="drop" d="M{x} {top}V{bottom}"/><circle class="mark" cx="{x}" cy="{y}" r="4"/>'
        '<text class="note" x="{tx}" y="{ty}" text-anchor="{anchor}">{label}</text>'
    ).format(
        x=_n(x),
        y=_n(y),
        top=_n(label_y - 6),
        bottom=_n(HEIGHT - BOTTOM),
        tx=_n(x + 5 if is_early else x - 5),
        ty=_n(label_y),
        anchor="start" if is_early else "end",
        label=label,
    )


def _n(value: float) -> str:
    """A coordinate with one decimal: a tenth of a pixel is enough, and keeps the file small."""
    return f"{value:.1f}".removesuffix(".0")
