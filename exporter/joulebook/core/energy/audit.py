"""The audit of a counter: its energy against that of its power, window by window.

A counter may stand still, run at the wrong rate or go missing while its device draws power. So
power is integrated for every counter. While the counter shows far less, it is in *doubt*, and its
readings are held back. A counter that catches up is trusted again; otherwise its energy is booked
by power (`meter`).

Both measure the same device, so their ratio is 1 except for noise: the sensors sample 25 ms of
every 100, power may be a mean of the last second, and the counter advances in steps of 20 to 100
ms. The ratio is taken over blocks of some seconds under one kind of load. A counter is *wrong* if
the mean of a minute's blocks is off by more than a fixed bound, or from what was learned for that
load, and by many times its own error. At partial utilization a load may be in step with the
sensor's window, giving a ratio of 0.5 to 1.5: there the audit cannot tell.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from math import dist
from statistics import fmean

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
"""Below this, power is too coarse to doubt a counter."""

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
    if drawn is None or duration_ns <= LAG_NS or drawn * PJ_PER_UJ < LEAST_MW * duration_ns:
        return False
    if duration_ns < STALL_NS and now.power_mw is not None and now.power_mw < LEAST_MW:
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


BLOCK_NS = 5 * NS_PER_S
LEAST_BLOCKS, MOST_BLOCKS = 6, 12
"""A verdict needs half a minute under one load, and covers the last minute of it."""

BOUND = 0.06
"""A counter that is off by more is wrong, even if it always was."""

DRIFT = 0.05
"""A counter that is off by more from what was learned for that load is wrong, too."""

SIGMAS = 6
LEAST_ERROR = 0.003
"""The least error assumed for a mean, however similar its blocks are."""

LEARNING = 64
"""Each window moves the learned ratio by one part in at most this many."""

SETTLED = 20
"""The learned ratio counts after this many windows of a load."""

FULL_PERCENT = 99


class Load(StrEnum):
    """The kinds of load that are distinguished."""

    REST = "rest"
    PARTIAL = "partial"
    FULL = "full"


class Verdict(StrEnum):
    """The result of the audit of a counter."""

    NONE = ""
    SOUND = "sound"
    WRONG = "wrong"
    CANNOT_TELL = "cannot tell"


class Learnt(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """The ratio of a counter under one load, and the number of windows it is from."""

    ratio: float = 1.0
    windows: int = 0


# The order of its fields is the format of the ledger on disk: new ones go last.
class Audit(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """The audit of one counter.

    Attributes:
        since: The reading at which the current block began.
        load: The load of the current blocks.
        blocks: Energy by the counter and by power of the last blocks, in microjoules.
        learnt: What is known for each load.
        verdict: The current verdict.
        ratio: The ratio of the last window judged (0: none).

    """

    since: Reading | None = None
    load: Load = Load.PARTIAL
    blocks: tuple[tuple[int, int], ...] = ()
    learnt: Mapping[str, Learnt] = {}
    verdict: Verdict = Verdict.NONE
    ratio: float = 0.0

    @property
    def said(self) -> str:
        """The displayed result: the ratio of counter to power, and the verdict."""
        if self.verdict is Verdict.NONE:
            return "cannot tell: not yet compared under one load for half a minute"
        if self.verdict is Verdict.CANNOT_TELL:
            return f"cannot tell: {self.ratio:.1%} of power, within the noise of its sensors"
        agrees = "agrees with power" if self.verdict is Verdict.SOUND else "wrong"
        return f"{agrees}: {self.ratio:.1%} of power"


def interrupted(audit: Audit) -> Audit:
    """Return the audit after a faulty or missing reading: the next one starts a new block."""
    return audit if audit.since is None else msgspec.structs.replace(audit, since=None, blocks=())


def heard(audit: Audit, reading: Reading) -> Audit:
    """Return the audit after one more valid reading."""
    now = reading.by_power
    if now is None or reading.energy_uj is None or reading.power_mw is None:
        return audit
    load, since = _load(reading), audit.since
    mark = Reading(reading.meter, reading.t_ns, reading.energy_uj, wrap_uj=reading.wrap_uj,
                   epoch=reading.epoch, by_power=now)  # fmt: skip
    if since is None or load is not audit.load or since.epoch != reading.epoch:
        return msgspec.structs.replace(audit, since=mark, load=load, blocks=())
    if reading.t_ns - since.t_ns < BLOCK_NS:
        return audit
    counted, drawn = counted_uj(since, reading), drawn_uj(since, reading)
    audit = msgspec.structs.replace(audit, since=mark)
    if counted is None or not drawn or drawn * PJ_PER_UJ < LEAST_MW * (reading.t_ns - since.t_ns):
        return msgspec.structs.replace(audit, blocks=())
    blocks = (*audit.blocks, (counted, drawn))[-MOST_BLOCKS:]
    return _judged(msgspec.structs.replace(audit, blocks=blocks))


def _load(reading: Reading) -> Load:
    if reading.busy is False:
        return Load.REST
    return Load.FULL if (reading.utilization_pct or 0) >= FULL_PERCENT else Load.PARTIAL


def _judged(audit: Audit) -> Audit:
    """Judge the last blocks, except the first of a load, which contains its start."""
    blocks = audit.blocks[1:]
    if len(blocks) < LEAST_BLOCKS:
        return audit
    ratio = sum(counted for counted, _ in blocks) / sum(drawn for _, drawn in blocks)
    ratios = [counted / drawn for counted, drawn in blocks]
    # Of the mean; `statistics.stdev` does it in fractions, at fifty times the cost.
    spread = dist(ratios, [fmean(ratios)] * len(ratios))
    error = max(spread / (len(ratios) * (len(ratios) - 1)) ** 0.5, LEAST_ERROR)
    known = audit.learnt.get(audit.load, Learnt())
    drift = abs(ratio - known.ratio) - DRIFT if known.windows >= SETTLED else 0.0
    excess = max(abs(ratio - 1) - BOUND, drift)
    verdict = Verdict.SOUND
    if excess > SIGMAS * error:
        verdict = Verdict.CANNOT_TELL if audit.load is Load.PARTIAL else Verdict.WRONG
    elif excess > 0:
        verdict = Verdict.CANNOT_TELL
    if verdict is not Verdict.WRONG and audit.verdict is Verdict.WRONG:
        # It stays wrong until a load that can tell shows that it is right again.
        verdict = Verdict.SOUND if verdict is Verdict.SOUND and _tells(audit) else Verdict.WRONG
    if len(blocks) < MOST_BLOCKS - 1:
        return msgspec.structs.replace(audit, verdict=verdict, ratio=ratio)
    learnt = dict(audit.learnt)
    if verdict is Verdict.SOUND:
        step = (fmean(ratios) - known.ratio) / min(known.windows + 1, LEARNING)
        learnt[audit.load] = Learnt(known.ratio + step, known.windows + 1)
    return msgspec.structs.replace(
        audit, verdict=verdict, ratio=ratio, learnt=learnt, blocks=audit.blocks[-1:]
    )


def _tells(audit: Audit) -> bool:
    return audit.load is not Load.PARTIAL
