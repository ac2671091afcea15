"""The building blocks of the page, pictures as inline SVG among them.

All that comes from outside goes through `text` or `lines`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

from joulebook.core.sanitize import one_line

_WIDTH = 300
_HEIGHT = 60
_BREAK_S = 15.0
"""Points farther apart than this are not joined: gaps are not drawn."""


def bar(share: float, *, style: str = "") -> str:
    """Return a horizontal bar filled to `share` (0 to 1, clamped). The figure is next to it."""
    filled = 100 * min(max(share, 0.0), 1.0)
    classes = f"bar {style}".strip()
    return (
        f'<svg class="{classes}" viewBox="0 0 100 6" preserveAspectRatio="none" '
        'aria-hidden="true"><rect class="track" width="100" height="6" rx="1"/>'
        f'<rect class="fill" width="{filled:.1f}" height="6" rx="1"/></svg>'
    )


def parts(amounts: Sequence[tuple[str, int]]) -> str:
    """One bar made of amounts, each drawn in the colour of its class."""
    whole = sum(amount for _, amount in amounts)
    drawn: list[str] = []
    left = 0.0
    for style, amount in amounts:
        width = 100 * amount / whole if whole > 0 else 0.0
        if width > 0:
            drawn.append(f'<rect class="{style}" x="{left:.2f}" width="{width:.2f}" height="10"/>')
        left += width
    return (
        '<svg class="parts" viewBox="0 0 100 10" preserveAspectRatio="none" aria-hidden="true">'
        f"{''.join(drawn)}</svg>"
    )


def key(style: str) -> str:
    """Return the colored square of a legend."""
    return (
        '<svg class="key" viewBox="0 0 10 10" aria-hidden="true">'
        f'<rect class="{style}" width="10" height="10"/></svg>'
    )


def sparkline(points: Sequence[tuple[float, float]], span_s: float, label: str) -> str:
    """Power over the last `span_s` seconds, from (time in s, watts), oldest first.

    It starts at zero watts, so that the eye compares areas rightly.
    """
    if not points:
        return ""
    end_s = points[-1][0]
    top = max(max(value for _, value in points) * 1.08, 1.0)
    shapes: list[str] = []
    for run in _runs(_thinned([p for p in points if p[0] >= end_s - span_s], span_s)):
        spots = [
            (
                _WIDTH * (1 - (end_s - at_s) / span_s),
                _HEIGHT * (1 - value / top),
            )
            for at_s, value in run
        ]
        line = " ".join(f"{x:.1f},{y:.1f}" for x, y in spots)
        first, last = f"{spots[0][0]:.1f},{_HEIGHT}", f"{spots[-1][0]:.1f},{_HEIGHT}"
        shapes.append(
            f'<polygon class="area" points="{first} {line} {last}"/>'
            f'<polyline class="line" vector-effect="non-scaling-stroke" points="{line}"/>'
        )
    return (
        f'<svg class="spark" viewBox="0 0 {_WIDTH} {_HEIGHT}" preserveAspectRatio="none" '
        f'role="img" aria-label="{escape(label)}">{"".join(shapes)}'
        f'<line class="base" x1="0" y1="{_HEIGHT}" x2="{_WIDTH}" y2="{_HEIGHT}"/></svg>'
    )


def _thinned(points: Sequence[tuple[float, float]], span_s: float) -> list[tuple[float, float]]:
    """At most one point for each unit of width: the highest, so that no peak is lost."""
    best: dict[int, tuple[float, float]] = {}
    for at_s, value in points:
        column = int(at_s * _WIDTH / span_s)
        if column not in best or value > best[column][1]:
            best[column] = (at_s, value)
    return list(best.values())


def _runs(points: Sequence[tuple[float, float]]) -> list[list[tuple[float, float]]]:
    runs: list[list[tuple[float, float]]] = []
    for point in points:
        if not runs or point[0] - runs[-1][-1][0] > _BREAK_S:
            runs.append([])
        runs[-1].append(point)
    return runs


_NUMERIC = frozenset({"Energy", "GPU time", "Power now", "Charged"})
"""The columns of figures, which are aligned to the right."""


def text(value: str, max_chars: int = 60) -> str:
    """Return a string from outside as HTML: cut, cleaned, on one line, escaped."""
    return escape(one_line(value, max_chars))


def lines(message: str) -> str:
    """Return a message of a few lines as HTML; the style sheet keeps its line breaks."""
    return "\n".join(text(line, 300) for line in message.splitlines()[:8])


def section(title: str, content: str, *, note: str = "", wide: bool = False) -> str:
    """Return a part of the page with its heading; all arguments are HTML."""
    name = title.lower().replace(" ", "-")
    more = f" <span>{note}</span>" if note else ""
    style = ' class="wide"' if wide else ""
    return (
        f'<section{style} aria-labelledby="{name}"><h2 id="{name}">{title}{more}</h2>\n'
        f"{content}</section>"
    )


def table(style: str, heads: Iterable[str], rows: Iterable[str], foot: str = "") -> str:
    """Return a table; `heads` are the names of its columns, `rows` HTML."""
    head = "".join(f'<th scope="col"{_aligned(name)}>{name}</th>' for name in heads)
    return (
        f'<table class="{style}"><thead><tr>{head}</tr></thead>\n'
        f"<tbody>\n{chr(10).join(rows)}\n</tbody>{foot}</table>\n"
    )


def _aligned(head: str) -> str:
    return ' class="num"' if head in _NUMERIC else ""
