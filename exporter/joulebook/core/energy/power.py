"""Integrate power next to a counter: the energy that the counter should show.

A counter may stand still, run at the wrong rate or go missing while its device draws power. So
power is integrated for every counter. While the counter shows far less, it is in *doubt*, and its
readings are held back. A counter that catches up is trusted again; otherwise its energy is booked
by power (`meter`).
"""

from __future__ import annotations

import msgspec

from joulebook.core.energy.readings import Component, PowerSample, PowerSum, Reading
from joulebook.units import MW_PER_W, NS_PER_MS, NS_PER_S, PJ_PER_UJ

DEFAULT_MAX_POWER_MW = 3_000 * MW_PER_W
"""No single device draws 3 kW (2026): such a reading is rejected."""

NODE_MAX_POWER_MW = 200_000 * MW_PER_W
"""The same for a whole node, or whatever else is not metered separately."""

MAX_HOLE_NS = 5 * NS_PER_S
"""A longer hole between two power samples is not interpolated: it is a gap.

A meter that can only be polled rarely sets `Reading.hole_ns`.
"""

LAG_NS = 200 * NS_PER_MS
"""A counter advances in steps of at most this much time, or half of it."""

STALL_NS = 5 * NS_PER_S
"""A counter that stood still for less is trusted once it advances, or once nothing is drawn: power
may be a mean of the last second, and include work that is over.
"""

SLOW = 4
"""A counter that shows less than one part in this many of the energy drawn is in doubt."""

FAST = 4
"""A counter that shows more than this many times the energy drawn is not trusted yet."""

OFF = 4
"""A counter that stood still is right if it caught up to within one part in this many."""

LEAST_MW = 10 * MW_PER_W
"""Below this, power is too coarse to doubt the rate of a counter."""

LEAST_STILL_MW = 1 * MW_PER_W
"""Above this, a counter that stands still is in doubt: it should have moved by hundreds of mJ."""

_63_BITS = (1 << 63) - 1


def max_power_mw(reading: Reading) -> int:
    """Return the most that the meter's device can draw for a moment."""
    if reading.max_power_mw is not None:
        return reading.max_power_mw
    is_node = reading.meter.component is Component.OTHER
    return NODE_MAX_POWER_MW if is_node else DEFAULT_MAX_POWER_MW


def is_believable(reading: Reading) -> bool:
    """Return whether a reading is possible at all, whatever came before it."""
    figures = (reading.energy_uj, reading.uptime_ns, reading.max_power_mw, reading.wrap_uj)
    if not all(figure is None or 0 <= figure <= _63_BITS for figure in figures):
        return False
    if reading.wrap_uj is not None and (reading.energy_uj or 0) > reading.wrap_uj:
        return False
    alone = reading.energy_uj is None
    return not alone or reading.power_mw is None or 0 <= reading.power_mw <= max_power_mw(reading)


def added_up(total: PowerSum | None, reading: Reading) -> PowerSum | None:
    """Return the sum of power continued to `reading` with its samples; restarted after a hole."""
    samples = reading.samples
    if not samples and reading.power_mw is not None:
        samples = (PowerSample(reading.t_ns, reading.power_mw),)
    most_mw, hole_ns = max_power_mw(reading), reading.hole_ns or MAX_HOLE_NS
    for t_ns, power_mw in samples:
        if not 0 <= power_mw <= most_mw or t_ns > reading.t_ns:
            continue
        if total is None or t_ns - total.t_ns > hole_ns:
            total = PowerSum(t_ns, t_ns, power_mw)
        elif t_ns > total.t_ns:
            twice_pj = (total.power_mw + power_mw) * (t_ns - total.t_ns)
            energy_uj = total.energy_uj + twice_pj // (2 * PJ_PER_UJ)
            total = PowerSum(total.since_ns, t_ns, power_mw, energy_uj)
    return total


def summed(last: Reading, reading: Reading, *, anew: bool = False) -> Reading:
    """Return a reading of a counter with the sum of power instead of samples."""
    total = last.by_power if last.epoch == reading.epoch and not anew else None
    if last.energy_uj is None and reading.energy_uj is None and last.by_power is None:
        return reading
    return msgspec.structs.replace(
        reading,
        by_power=added_up(total, reading),
        samples=() if reading.energy_uj is not None else reading.samples[-1:],
    )


def drawn_uj(before: Reading, now: Reading) -> int | None:
    """Return the energy between two readings by the sum of power; `None` if not known
    throughout.
    """
    a, b = before.by_power, now.by_power
    if a is None or b is None or a.since_ns != b.since_ns:
        return None
    return b.energy_uj - a.energy_uj


def counted_uj(before: Reading, now: Reading) -> int | None:
    """Return the energy between two readings by the counter; `None` if one lacks it."""
    if before.energy_uj is None or now.energy_uj is None:
        return None
    delta_uj = now.energy_uj - before.energy_uj
    return delta_uj + (now.wrap_uj or 0) if delta_uj < 0 else delta_uj


def is_doubted(before: Reading, now: Reading) -> bool:
    """Return whether the counter hardly advanced while power was drawn, or went missing."""
    counted = counted_uj(before, now)
    if counted is None:
        return before.energy_uj is not None and now.power_mw is not None
    drawn, duration_ns = drawn_uj(before, now), now.t_ns - before.t_ns
    least_mw = LEAST_MW if counted else LEAST_STILL_MW
    if drawn is None or duration_ns <= LAG_NS or drawn * PJ_PER_UJ < least_mw * duration_ns:
        return False
    if duration_ns < STALL_NS and now.power_mw is not None and now.power_mw < least_mw:
        return False
    return 0 <= SLOW * counted < drawn * (duration_ns - LAG_NS) // duration_ns


def is_off(before: Reading, now: Reading) -> bool:
    """Return whether a counter that stood still differs from the energy drawn."""
    counted, drawn = counted_uj(before, now), drawn_uj(before, now)
    if counted is None or drawn is None:
        return False
    return abs(counted - drawn) * OFF > drawn


def is_sound(before: Reading, now: Reading) -> bool:
    """Return whether a counter that was given up advances as power says it should."""
    counted, drawn = counted_uj(before, now), drawn_uj(before, now)
    if not counted or drawn is None or is_doubted(before, now):
        return False
    mean_uj = drawn * LAG_NS // max(now.t_ns - before.t_ns, 1)
    return 0 < counted <= FAST * drawn + mean_uj
