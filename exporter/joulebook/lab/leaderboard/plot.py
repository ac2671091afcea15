"""The plot of a leaderboard as shapes, which `svg` and `png` draw alike.

A panel for each board: energy on a logarithmic axis, the value upwards as far as it is better, the
front as steps, dominated results in gray behind it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

from joulebook.core import units_text
from joulebook.core.report.leaderboard import Board, ComparedMetric, Unit
from joulebook.core.sanitize import one_line
from joulebook.lab.leaderboard.tables import energy, gpu_of
from joulebook.units import UJ_PER_KWH

Point = tuple[float, float]

PANEL_WIDTH, PANEL_HEIGHT = 400.0, 300.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 52.0, 18.0, 58.0, 44.0
MOST_PANELS = 24
MOST_DOTS = 2000
_LABEL_CHARS = 22
_LETTER_PX, _GAP_PX = 6.6, 8.0
"""About how wide a letter of a label on an axis is, at size 11; the least between two labels."""


class Style(NamedTuple):
    """Colours on a light and on a dark ground."""

    light: str
    dark: str


STYLES = {
    "ground": Style("#ffffff", "#0d1117"),
    "ink": Style("#1f2328", "#e6edf3"),
    "dim": Style("#59636e", "#9198a1"),
    "grid": Style("#e4e7eb", "#262c34"),
    "axis": Style("#aab2bb", "#4a525c"),
    "behind": Style("#b6bdc6", "#57606a"),
    "front": Style("#0b7a4b", "#3fb97f"),
    "area": Style("#e8f4ee", "#12261d"),
}


class Polyline(NamedTuple):
    """A line through points."""

    points: tuple[Point, ...]
    style: str
    width: float = 1.0


class Area(NamedTuple):
    """A filled polygon."""

    points: tuple[Point, ...]
    style: str


class Dot(NamedTuple):
    """A circle; `hollow` is drawn as a ring. `title` is what a browser shows on it."""

    at: Point
    radius: float
    style: str
    hollow: bool = False
    title: str = ""


class Text(NamedTuple):
    """One line of text; `anchor` is start, middle or end."""

    at: Point
    text: str
    style: str
    size: float = 11.0
    anchor: str = "start"
    bold: bool = False


Shape = Polyline | Area | Dot | Text


class Picture(NamedTuple):
    """Shapes in the order in which they are drawn."""

    width: float
    height: float
    shapes: tuple[Shape, ...]


def draw(boards: Sequence[Board], columns: int = 0) -> Picture:
    """All boards as panels, in `columns` (0: as many as suit), at most `MOST_PANELS` of them."""
    # What is not compared is not drawn: a dot would be a comparison.
    shown = [board for board in boards if board.front][:MOST_PANELS]
    columns = columns or min(3 if len(shown) > 4 else 2, max(len(shown), 1))
    shapes: list[Shape] = []
    for n, board in enumerate(shown):
        x, y = n % columns * PANEL_WIDTH, n // columns * PANEL_HEIGHT
        shapes += _Panel(board, x, y).shapes()
    rows = max(-(-len(shown) // columns), 1)
    return Picture(columns * PANEL_WIDTH, rows * PANEL_HEIGHT, tuple(shapes))


class _Panel:
    """One board in a frame whose corner is at `x`, `y`."""

    def __init__(self, board: Board, x: float, y: float) -> None:
        self._board = board
        self._left, self._right = x + _LEFT, x + PANEL_WIDTH - _RIGHT
        self._top, self._bottom = y + _TOP, y + PANEL_HEIGHT - _BOTTOM
        self._x = x
        spent = [math.log10(max(e.energy_uj, 1)) for e in board.entrants]
        self._least, self._most = _widened(min(spent), max(spent), 0.15)
        values = [float(e.value) for e in board.entrants]
        self._low, self._high = _widened(min(values), max(values), 0.0)

    def shapes(self) -> list[Shape]:
        return [*self._behind(), *self._frame(), *self._front()]

    def _at(self, energy_uj: float, value: float) -> Point:
        across = (math.log10(max(energy_uj, 1)) - self._least) / (self._most - self._least)
        up = (value - self._low) / (self._high - self._low)
        if not self._board.metric.higher:
            up = 1 - up
        height = self._bottom - self._top
        return (
            self._left + across * (self._right - self._left),
            # A margin above and below, so that no dot sits on the frame.
            self._bottom - height * (0.06 + 0.88 * up),
        )

    def _frame(self) -> list[Shape]:
        board = self._board
        better = "" if board.metric.higher else ", lower is better (upwards)"
        unit = " (%)" if board.metric.unit is Unit.PERCENT else ""
        title = one_line(board.title, 60) or one_line(board.metric.name, 60)
        under = f"{one_line(board.metric.name, 60)}{unit}{better}  ·  {one_line(gpu_of(board), 60)}"
        made: list[Shape] = [
            Text((self._x + 14, self._top - 32), _cut(title, 44), "ink", 15, bold=True),
            Text((self._x + 14, self._top - 15), _cut(under, 66), "dim", 11),
        ]
        for value in _ticks(self._low, self._high):
            _, y = self._at(1, value)
            made.append(Polyline(((self._left, y), (self._right, y)), "grid"))
            made.append(Text((self._left - 7, y + 4), f"{value:g}", "dim", 11, "end"))
        free_x = -math.inf
        for uj, label in _energies(self._least, self._most):
            x, _ = self._at(uj, self._low)
            made.append(Polyline(((x, self._top), (x, self._bottom)), "grid"))
            half = len(label) * _LETTER_PX / 2
            if x - half >= free_x:  # else the label before reaches into it: the line says enough
                made.append(Text((x, self._bottom + 16), label, "dim", 11, "middle"))
                free_x = x + half + _GAP_PX
        made.append(Polyline(((self._left, self._bottom), (self._right, self._bottom)), "axis"))
        foot = self._bottom + 33
        made.append(Text((self._left, foot), "energy (log)", "dim", 11))
        last = board.front[-1]
        if last.gained is not None and last.uj_per_point is not None:
            gained = _points(board.metric, float(last.gained))
            said = f"the last {gained}: {energy(last.uj_per_point)} per point"
            made.append(Text((self._right, foot), said, "front", 11, "end", bold=True))
        made += [
            Dot(self._at(e.energy_uj, float(e.value)), 3.2, "behind", hollow=True, title=one_line(
                f"{e.name}: {float(e.value):.6g} for {energy(e.energy_uj)}"))
            for e, _ in board.dominated[:MOST_DOTS]
        ]  # fmt: skip
        return made

    def _corners(self) -> list[Point]:
        """Return the front as steps: a value holds until more energy buys a better one."""
        corners: list[Point] = []
        for step in self._board.front:
            x, y = self._at(step.entrant.energy_uj, float(step.entrant.value))
            if corners:
                corners.append((x, corners[-1][1]))
            corners.append((x, y))
        corners.append((self._right, corners[-1][1]))
        return corners

    def _behind(self) -> list[Shape]:
        corners = self._corners()
        ground = [(self._right, self._bottom), (corners[0][0], self._bottom)]
        return [Area((*corners, *ground), "area")]

    def _front(self) -> list[Shape]:
        board = self._board
        made: list[Shape] = [Polyline(tuple(self._corners()), "front", 2.0)]
        taken: list[tuple[float, float, float, float]] = []
        for step in board.front:
            e = step.entrant
            at = self._at(e.energy_uj, float(e.value))
            price = "" if step.uj_per_point is None else f", {energy(step.uj_per_point)} per point"
            title = one_line(f"{e.name}: {float(e.value):.6g} for {energy(e.energy_uj)}{price}")
            made.append(Dot(at, 4.0, "front", hollow=e.inferred, title=title))
            taken.append((at[0] - 5, at[1] - 5, at[0] + 5, at[1] + 5))
        # Nor may a label lie on the line.
        taken += [
            (min(a[0], b[0]) - 1, min(a[1], b[1]) - 1, max(a[0], b[0]) + 1, max(a[1], b[1]) + 1)
            for a, b in pairwise(self._corners())
        ]
        # The first and the last ones first: where there is no room for all, read those.
        for step in (*board.front[:1], *board.front[:0:-1]):
            name = _cut(one_line(step.entrant.name), _LABEL_CHARS)
            spot = self._spot(
                self._at(step.entrant.energy_uj, float(step.entrant.value)), name, taken
            )
            if spot is not None:
                (x, y, anchor), box = spot
                taken.append(box)
                made.append(Text((x, y), name, "ink", 10.5, anchor))
        return made

    def _spot(
        self, at: Point, name: str, taken: Sequence[tuple[float, float, float, float]]
    ) -> tuple[tuple[float, float, str], tuple[float, float, float, float]] | None:
        """Return where a label is free: left above its dot, right below it, or nowhere."""
        wide = _width(name, 10.5)
        x, y = at
        for left, top, anchor in (
            (x - 8 - wide, y - 14, "end"),
            (x + 8, y + 5, "start"),
            (x + 8, y - 14, "start"),
        ):
            box = (left - 2, top, left + wide + 2, top + 12)
            inside = left >= self._left and left + wide <= self._right + 6
            inside = inside and top >= self._top - 8 and top + 12 <= self._bottom
            if inside and not any(_meet(box, other) for other in taken):
                return (x - 8 if anchor == "end" else x + 8, top + 10, anchor), box
        return None


def _points(metric: ComparedMetric, gained: float) -> str:
    word = "point" if metric.unit is not Unit.PLAIN else metric.name
    return f"{gained:.3g} {word}{'' if gained == 1 or metric.unit is Unit.PLAIN else 's'}"


def _meet(a: tuple[float, float, float, float], b: tuple[float, float, float, float]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _width(text: str, size: float) -> float:
    return sum(1.0 if ord(c) > 0x2E80 else 0.55 for c in text) * size


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"


def _widened(low: float, high: float, by: float) -> tuple[float, float]:
    if high - low < 1e-9:
        pad = abs(low) * 0.05 or 0.5
        return low - pad, high + pad
    return low - by * (high - low), high + by * (high - low)


def _ticks(low: float, high: float) -> list[float]:
    """Four to seven round values."""
    raw = (high - low) / 4
    size = 10 ** math.floor(math.log10(raw))
    step = next(m * size for m in (1, 2, 2.5, 5, 10) if m * size >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [round(n * step, 10) for n in range(first, math.floor(high / step + 1e-9) + 1)]


def _energies(least: float, most: float) -> list[tuple[float, str]]:
    """Round energies in reach (as logarithms of uJ): decades, and more where these are few."""
    # In kWh: a decade of microjoules is nothing round.
    shift = math.log10(UJ_PER_KWH)
    low, high = least - shift, most - shift
    within = (
        (1,) if high - low > 2.2 else (1, 2, 5) if high - low > 0.9 else (1, 1.5, 2, 3, 4, 5, 7)
    )
    return [
        (m * 10.0**decade * UJ_PER_KWH, _round(m * 10.0**decade))
        for decade in range(math.floor(low) - 1, math.ceil(high) + 1)
        for m in within
        if low <= math.log10(m) + decade <= high
    ]


def _round(kwh: float) -> str:
    number, unit = (kwh, "kWh") if kwh >= 0.099 else (kwh * 1000, "Wh")
    return units_text.unit(f"{number:,.6g}", unit)
