"""The audit of a counter: its energy against that of its power, window by window.

Both measure the same device, so their ratio is 1 except for noise: the sensors sample 25 ms of
every 100, power may be a mean of the last second, and the counter advances in steps of 20 to 100
ms. The ratio is taken over blocks of some seconds under one kind of load. A counter is *wrong* if
the mean of half a minute's blocks, or of a minute's, is off by more than a fixed bound, or from
what was learned for that load, and by many times its own error.

A load may be in step with the sensor's window, which gives a ratio of 0.5 to 1.5 for minutes. At
partial utilization the audit then cannot tell. At full utilization it is the counter that is wrong
if it was wrong at rest, where nothing is in step; if it changed while power did not; or if several
loads of different power have the same ratio. Otherwise it may be the load: the audit cannot tell,
and names the counter as *in question*.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum
from math import dist
from statistics import fmean
from typing import NamedTuple

import msgspec

from joulebook.core.energy.power import LEAST_MW, counted_uj, drawn_uj
from joulebook.core.energy.readings import Reading
from joulebook.units import NS_PER_S, PJ_PER_UJ

BLOCK_NS = 5 * NS_PER_S
LEAST_BLOCKS, MOST_BLOCKS = 6, 11
"""A verdict needs half a minute under one load, and covers the last minute of it."""

BOUND = 0.06
"""A counter that is off by more is wrong, even if it always was."""

DRIFT = 0.05
"""A counter that is off by more from what was learned for that load is wrong, too."""

SIGMAS = 6
LEAST_ERROR = 0.003
"""The least error assumed for a mean, however similar its blocks are."""

LEARNING = 700
"""Each block moves the learned ratio by one part in at most this many: that of an hour."""

SETTLED = 220
"""The learned ratio counts after this many blocks of a load: some 20 minutes."""

FULL_PERCENT = 99

SAME_POWER = 0.03
"""Power that differs by less did not change."""

SAME_RATIO, SAME_LEVEL = 0.02, 0.1
LEVELS = 4
"""A ratio that so many loads of different power have in a row is the counter's, not theirs. (Three
loads in step, of any ratio from 0.5 to 1.5, agree by chance about once in 20,000 card-days if one
load in ten is in step.)
"""


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
    """The ratio of a counter under one load, and the number of blocks it is from."""

    ratio: float = 1.0
    blocks: int = 0


# The order of its fields is the format of the ledger on disk: new ones go last.
class Audit(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """The audit of one counter.

    Attributes:
        since: The reading at which the current block began.
        load: The load of the current blocks.
        blocks: Mean power of the last blocks, by the counter and by the sensor, in microwatts.
        learnt: What is known for each load.
        verdict: The current verdict.
        ratio: The ratio of the last window judged (0: none).
        proven: Whether the counter was seen right at rest since it began (it is said, not judged:
            it may be off under load alone).
        odd: The full loads under which it was off, since the last under which it was right: ratio,
            and microwatts by the counter.

    """

    since: Reading | None = None
    load: Load = Load.PARTIAL
    blocks: tuple[tuple[int, int], ...] = ()
    learnt: Mapping[str, Learnt] = {}
    verdict: Verdict = Verdict.NONE
    ratio: float = 0.0
    proven: bool = False
    odd: tuple[tuple[float, float], ...] = ()

    @property
    def in_question(self) -> float | None:
        """The ratio of a counter that is off at full load, if that may be the load's doing."""
        return self.odd[-1][0] if self.odd and self.verdict is not Verdict.WRONG else None

    @property
    def said(self) -> str:
        """The displayed result: the ratio of counter to power, and the verdict."""
        if self.verdict is Verdict.NONE:
            return "cannot tell: not yet compared under one load for half a minute"
        if self.verdict is Verdict.CANNOT_TELL:
            at_rest = ", though right at rest" if self.proven else ""
            return (
                f"cannot tell: {self.ratio:.1%} of power{at_rest}, by the counter, the noise of "
                "its sensors or a load in step with them"
            )
        agrees = "agrees with power" if self.verdict is Verdict.SOUND else "wrong"
        return f"{agrees}: {self.ratio:.1%} of power"


def interrupted(audit: Audit, *, anew: bool) -> Audit:
    """Return the audit after a faulty or missing reading: the next one starts a new block.

    `anew`: the counter began again, and may run at another rate.
    """
    if anew:
        audit = msgspec.structs.replace(audit, proven=False, odd=())
    return audit if audit.since is None else msgspec.structs.replace(audit, since=None, blocks=())


def heard(audit: Audit, reading: Reading) -> Audit:
    """Return the audit after one more valid reading."""
    now = reading.by_power
    if now is None or reading.energy_uj is None or reading.power_mw is None:
        return audit
    load, since = _load(reading), audit.since
    goes_on = since is not None and load is audit.load and since.epoch == reading.epoch
    if since is not None and goes_on and reading.t_ns - since.t_ns < BLOCK_NS:
        return audit
    mark = Reading(reading.meter, reading.t_ns, reading.energy_uj, wrap_uj=reading.wrap_uj,
                   epoch=reading.epoch, by_power=now)  # fmt: skip
    if since is None or not goes_on:
        return msgspec.structs.replace(audit, since=mark, load=load, blocks=())
    counted, drawn, duration_ns = (
        counted_uj(since, reading), drawn_uj(since, reading), reading.t_ns - since.t_ns
    )  # fmt: skip
    audit = msgspec.structs.replace(audit, since=mark)
    if counted is None or not drawn or drawn * PJ_PER_UJ < LEAST_MW * duration_ns:
        return msgspec.structs.replace(audit, blocks=())
    block = counted * NS_PER_S // duration_ns, drawn * NS_PER_S // duration_ns
    # The first block of a load contains its start, and is not judged.
    blocks = (*audit.blocks, block)[-MOST_BLOCKS - 1 :]
    return _judged(msgspec.structs.replace(audit, blocks=blocks))


def _load(reading: Reading) -> Load:
    if reading.busy is False:
        return Load.REST
    return Load.FULL if (reading.utilization_pct or 0) >= FULL_PERCENT else Load.PARTIAL


class _Window(NamedTuple):
    """The ratio of some blocks, and by how much and how surely it is off."""

    ratio: float
    excess: float
    error: float

    @property
    def is_off(self) -> bool:
        return self.excess > SIGMAS * self.error


def _window(blocks: Sequence[tuple[int, int]], known: Learnt) -> _Window:
    ratio = sum(counted for counted, _ in blocks) / sum(drawn for _, drawn in blocks)
    ratios = [counted / drawn for counted, drawn in blocks]
    # Of the mean; `statistics.stdev` does it in fractions, at fifty times the cost.
    spread = dist(ratios, [fmean(ratios)] * len(ratios))
    error = max(spread / (len(ratios) * (len(ratios) - 1)) ** 0.5, LEAST_ERROR)
    drift = abs(ratio - known.ratio) - DRIFT if known.blocks >= SETTLED else 0.0
    return _Window(ratio, max(abs(ratio - 1) - BOUND, drift), error)


def _judged(audit: Audit) -> Audit:
    """Judge the last minute, and its last half, which shows a change first."""
    blocks = audit.blocks[1:]
    if len(blocks) < LEAST_BLOCKS:
        return audit
    known = audit.learnt.get(audit.load, Learnt())
    window, latest = _window(blocks, known), _window(blocks[-LEAST_BLOCKS:], known)
    if latest.is_off:
        window = latest
    verdict = Verdict.SOUND if window.excess <= 0 else Verdict.CANNOT_TELL
    odd, learnt, proven = audit.odd, audit.learnt, audit.proven
    if audit.load is Load.FULL:
        odd = _off(odd, window, blocks[-1][0])
    is_its_own = audit.load is Load.REST or len(odd) >= LEVELS or _changed(blocks)
    if window.is_off and audit.load is not Load.PARTIAL and is_its_own:
        verdict = Verdict.WRONG
    elif audit.verdict is Verdict.WRONG and (
        verdict is Verdict.CANNOT_TELL or audit.load is Load.PARTIAL
    ):
        verdict = Verdict.WRONG  # until a load that can tell shows that it is right again
    if verdict is Verdict.SOUND and len(blocks) == MOST_BLOCKS:
        proven = proven or audit.load is Load.REST
        step = (blocks[-1][0] / blocks[-1][1] - known.ratio) / min(known.blocks + 1, LEARNING)
        learnt = {**learnt, audit.load: Learnt(known.ratio + step, known.blocks + 1)}
    return msgspec.structs.replace(
        audit, verdict=verdict, ratio=window.ratio, learnt=learnt, proven=proven, odd=odd
    )


def _off(
    odd: tuple[tuple[float, float], ...], window: _Window, counted_uw: int
) -> tuple[tuple[float, float], ...]:
    """Return the full loads of one ratio that is off, with that of `window`."""
    if not window.is_off:
        return () if window.excess <= 0 else odd
    alike = tuple(each for each in odd if abs(each[0] - window.ratio) < SAME_RATIO)
    is_known = any(abs(level_uw - counted_uw) < SAME_LEVEL * counted_uw for _, level_uw in alike)
    return alike if is_known else (*alike, (window.ratio, float(counted_uw)))


def _changed(blocks: Sequence[tuple[int, int]]) -> bool:
    """Return whether the counter changed half a minute ago, and power did not."""
    before, after = blocks[:-LEAST_BLOCKS], blocks[-LEAST_BLOCKS:]
    if len(before) < MOST_BLOCKS - LEAST_BLOCKS:
        return False
    (was_counted, counted), (was_drawn, drawn) = (
        (fmean(block[i] for block in before), fmean(block[i] for block in after)) for i in (0, 1)
    )
    stayed = abs(drawn - was_drawn) < SAME_POWER * drawn
    return stayed and abs(counted - was_counted) > DRIFT * counted
