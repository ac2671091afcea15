"""Log energy counters that stand still or run at a wrong rate."""

from __future__ import annotations

import logging

from joulebook.core.energy.audit import Verdict
from joulebook.core.ledger.state import Books

log = logging.getLogger(__name__)


def say_audits(before: Books, after: Books) -> None:
    """Log once if a counter's rate differs from its power, and when it recovers."""
    for meter, state in after.meters.items():
        known = before.meters.get(meter)
        was_wrong = known is not None and known.audit.verdict is Verdict.WRONG
        is_wrong = state.audit.verdict is Verdict.WRONG
        name = f"{meter.component} {meter.name}"
        if is_wrong and not was_wrong:
            log.warning(
                "the energy counter of %s shows %.0f %% of the energy integrated from power: its "
                "figures are off by as much (joulebook_counter_power_ratio). See the known "
                "issues of its driver and firmware",
                name, 100 * state.audit.ratio,
            )  # fmt: skip
        elif was_wrong and not is_wrong:
            log.info("the energy counter of %s agrees with its power again", name)


def say_stalls(before: Books, after: Books) -> None:
    """Log once when a counter is given up, and when it is used again."""
    for meter, state in after.meters.items():
        known = before.meters.get(meter)
        if state.stalled == (known is not None and known.stalled):
            continue
        name = f"{meter.component} {meter.name}"
        if state.stalled:
            log.warning(
                "the energy counter of %s hardly advances while power is drawn: its energy is "
                "integrated from power (method integrated) until the counter advances again",
                name,
            )
        else:
            log.info("the energy counter of %s advances again and is used again", name)
