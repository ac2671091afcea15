"""The audit of a counter: its energy against that of its power, window by window.

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

from joulebook.core.energy.power import LEAST_MW, counted_uj, drawn_uj
from joulebook.core.energy.readings import Reading
from joulebook.units import NS_PER_S, PJ_PER_UJ

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
