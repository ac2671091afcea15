"""What a meter reads into what it would read if it were right: a gain and an offset.

The error of a GPU's sensors against a meter at its plug is a gain and an offset of each card
(arXiv:2312.02741, SC24), the same in every run. A calibration is applied to energy as it is booked;
what it added is kept beside, so that the figure as it was read can always be had.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import NamedTuple

import msgspec

from joulebook.core.energy.intervals import Calibration, Interval
from joulebook.core.energy.readings import Meter, for_model
from joulebook.core.evidence import Method
from joulebook.units import PJ_PER_UJ

PPM = 1_000_000

GAINS = (0.5, 2.0)
MOST_OFFSET_W = 200.0
"""What a sensor can be off by, and still be one of that device."""


def of(known: Mapping[str, Calibration], meter: Meter, model: str) -> Calibration | None:
    """The calibration of a meter: by its name (a UUID), else by the most specific model."""
    if not known or meter.name in known:
        return known.get(meter.name)
    named = for_model(model, known, str)
    return None if named is None else known[named]


def power_mw(calibration: Calibration | None, read_mw: int) -> int:
    """Power as it is, where a meter reads `read_mw`."""
    if calibration is None:
        return read_mw
    return max(read_mw * calibration.gain_ppm // PPM + calibration.offset_mw, 0)


def applied(calibration: Calibration | None, interval: Interval) -> Interval:
    """An interval as it is booked: calibrated, and never below zero.

    What was not measured stays as it is. Energy of which the time is not known, or that may be of
    another time, has no offset.
    """
    if calibration is None or interval.unread or interval.method is Method.MODELLED:
        return interval
    offset_pj = 0 if interval.remainder else calibration.offset_mw * interval.duration_ns
    # A millionth of a microjoule is a picojoule: both terms are in pJ.
    right_uj = (interval.energy_uj * calibration.gain_ppm + offset_pj + PPM // 2) // PJ_PER_UJ
    right_uj = max(right_uj, 0)
    return msgspec.structs.replace(
        interval,
        energy_uj=right_uj,
        calibration_uj=right_uj - interval.energy_uj,
        calibration=calibration,
    )


LEAST_WINDOWS = 10
"""Fewer points give no line that could be trusted."""

LEAST_SPREAD = 1.2
"""The least ratio of highest to lowest power that separates a gain from an offset."""

MOST_ERROR = 0.05
"""A fit that leaves more of its energy open is worth no more than no calibration."""


class Fit(NamedTuple):
    """A line through what a sensor read and a meter said: meter = gain x read + offset, in watts.

    Attributes:
        gain: Its slope.
        offset_w: Its offset.
        gain_error: The standard error of the gain.
        offset_error_w: That of the offset.
        residual_w: The standard deviation of the meter from the line.
        uncertainty_ratio: Two standard errors of the line at the power where they weigh most.
        windows: How many points it is through.

    """

    gain: float
    offset_w: float
    gain_error: float
    offset_error_w: float
    residual_w: float
    uncertainty_ratio: float
    windows: int


def fit(points: Sequence[tuple[float, float]]) -> Fit:
    """Least squares through (read, metered) watts. Raises `ValueError` if it means nothing."""
    count = len(points)
    if count < LEAST_WINDOWS:
        raise ValueError(f"{count} windows that both cover: expected {LEAST_WINDOWS} or more")
    least, most = min(x for x, _ in points), max(x for x, _ in points)
    if least <= 0 or most < LEAST_SPREAD * least:
        raise ValueError(
            f"power from {least:.1f} to {most:.1f} W: expected a load that varies, its most "
            f"{LEAST_SPREAD:g} times its least or more (idle, partial, full)"
        )
    mean_x, mean_y = fmean(x for x, _ in points), fmean(y for _, y in points)
    spread = math.fsum((x - mean_x) ** 2 for x, _ in points)
    gain = math.fsum((x - mean_x) * (y - mean_y) for x, y in points) / spread
    offset_w = mean_y - gain * mean_x
    left = math.fsum((y - gain * x - offset_w) ** 2 for x, y in points)
    residual_w = math.sqrt(left / (count - 2))

    def error_w(x: float) -> float:
        return residual_w * math.sqrt(1 / count + (x - mean_x) ** 2 / spread)

    if not GAINS[0] <= gain <= GAINS[1] or abs(offset_w) > MOST_OFFSET_W:
        raise ValueError(
            f"a gain of {gain:.3f} and an offset of {offset_w:.1f} W: expected {GAINS[0]} to "
            f"{GAINS[1]} and at most {MOST_OFFSET_W:g} W. Is it the same device, in watts, with "
            "the times of the trace?"
        )
    ratios = [2 * error_w(x) / max(gain * x + offset_w, 1e-9) for x in (least, mean_x, most)]
    if not 0 <= max(ratios) <= MOST_ERROR:
        raise ValueError(
            f"the meter is {residual_w:.1f} W off the line, which leaves {max(ratios):.1%} open: "
            f"expected {MOST_ERROR:.0%} at most. Are both on one clock?"
        )
    offset_error_w = error_w(0)
    gain_error = residual_w / math.sqrt(spread)
    return Fit(gain, offset_w, gain_error, offset_error_w, residual_w, max(ratios), count)
