"""Pictures of the lab's pages: SVG without scripts, in the colours of the style sheet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import NamedTuple

from markupsafe import Markup

from joulebook.core import units_text
from joulebook.core.report.dataset import ReportData
from joulebook.core.report.runs import WorkloadTotals
from joulebook.lab.collected import months
from joulebook.lab.collected.schema import MonthSum
from joulebook.lab.figures import added

WIDTH, HEIGHT = 300, 60
_STEPS = 240
"""The most steps in a picture of power over time."""

_HOUR_S = 3600
_MICRO = 1e6


class SvgPicture(NamedTuple):
    """A picture: an area, a part of it in another colour, and what is to be read beside it.

    Attributes:
        label: What it shows, in words that stand for the picture where it cannot be seen.
        area: Points of a polygon.
        part: Points of the part that was idle; empty: none was.
        first: Where it begins.
        last: Where it ends.

    """

    label: str
    area: Markup
    part: Markup
    first: str
    last: str


def power(data: ReportData, row_s: int, run: WorkloadTotals | None = None) -> SvgPicture | None:
    """Return power over time, by what a row stands for (`row_s`) or by hours and more.

    `None`: there are too few rows for a picture.
    """
    of: dict[int, tuple[int, int]] = {}
    for row in data.postings:
        if run is None or row.subject == run.workload.id:
            energy_uj, idle_uj = of.get(row.quarter_s, (0, 0))
            amount = row.amount
            of[row.quarter_s] = (energy_uj + amount.energy_uj, idle_uj + amount.idle_uj)
    if not of:
        return None
    first, last = min(of), max(of) + row_s
    steps = (last - first) // row_s
    if steps < 2:
        return None
    # Beyond so many quarter hours, whole hours; beyond so many hours, several of them.
    width_s = row_s
    if steps > _STEPS:
        unit_s = max(row_s, _HOUR_S)
        width_s = ((last - first - 1) // _STEPS // unit_s + 1) * unit_s
    sums: dict[int, tuple[int, int]] = {}
    for at_s, (energy_uj, idle_uj) in of.items():
        before = sums.get((at_s - first) // width_s, (0, 0))
        sums[(at_s - first) // width_s] = (before[0] + energy_uj, before[1] + idle_uj)
    count = (last - first - 1) // width_s + 1
    # What is left of the last step is shorter.
    widths = [min(width_s, last - first - n * width_s) for n in range(count)]
    watts, idle = (
        [sums.get(n, (0, 0))[part] / _MICRO / width for n, width in enumerate(widths)]
        for part in (0, 1)
    )
    mean = sum(energy_uj for energy_uj, _ in of.values()) / _MICRO / (last - first)
    said = f"mean of each {_span(width_s)}; {units_text.watts(mean)} in all"
    label = f"{said}, {units_text.watts(max(watts))} at most"
    return _drawn(label, watts, idle, _moment(first), f"{_moment(last)} UTC")


def by_month(sums: Mapping[int, MonthSum], first: int, last: int) -> SvgPicture | None:
    """Return energy by month, all months from first to last; `None`: there is none."""
    every = [first]
    while every[-1] < last:
        every.append(months.after(every[-1]))
    amounts = [added(sums[month].used) if month in sums else None for month in every]
    energies = [0 if amount is None else amount.energy_uj for amount in amounts]
    if sum(energy > 0 for energy in energies) < 2:
        return None
    idle = [0 if amount is None else amount.idle_uj for amount in amounts]
    label = f"by month, {units_text.energy(max(energies))} at most"
    return _drawn(label, energies, idle, months.shown(first), months.shown(last))


def _drawn(
    label: str, values: Sequence[float], parts: Sequence[float], first: str, last: str
) -> SvgPicture:
    most = max(values) or 1.0
    part = _polygon(parts, most) if any(parts) else Markup()
    return SvgPicture(label, _polygon(values, most), part, first, last)


def _polygon(values: Sequence[float], most: float) -> Markup:
    step = WIDTH / len(values)
    edges = [
        (n * step, HEIGHT - (HEIGHT - 4) * max(value, 0) / most) for n, value in enumerate(values)
    ]
    points = " ".join(f"{x:.1f},{y:.1f} {x + step:.1f},{y:.1f}" for x, y in edges)
    return Markup(f"0,{HEIGHT} {points} {WIDTH},{HEIGHT}")  # noqa: S704 - numbers of ours


def _span(seconds: int) -> str:
    if seconds % 86_400 == 0:
        return f"{seconds // 86_400} days" if seconds > 86_400 else "day"
    if seconds % _HOUR_S == 0:
        return f"{seconds // _HOUR_S} hours" if seconds > _HOUR_S else "hour"
    return f"{seconds // 60} min"


def _moment(utc_s: int) -> str:
    return datetime.fromtimestamp(utc_s, UTC).strftime("%Y-%m-%d %H:%M")
