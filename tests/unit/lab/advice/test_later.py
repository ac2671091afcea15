"""What a later start would have saved, on the site's own curves."""

from __future__ import annotations

from typing import Any

import pytest
from tests.unit.lab.advice.jobs import START_S, charges, job

from joulebook.core.money.rates import NANO, UG_PER_G
from joulebook.lab.advice import later
from joulebook.lab.advice.later import SiteCurves, next_start
from joulebook.lab.advice.model import Advice, JobUse
from joulebook.lab.advice.start import StartPlanner, all_ahead, nothing_ahead

FIRST = START_S // 3600
NOW_S = START_S + 10 * 86_400


def hours(cheap: float, dear: float) -> dict[int, float]:
    """Six weeks in which the hours from 03:00 to 09:00 are cheap."""
    span = range(FIRST - 30 * 24, FIRST + 14 * 24)
    return {hour: cheap if 3 <= hour % 24 < 9 else dear for hour in span}


PRICE = StartPlanner(hours(0.1 * NANO, 0.3 * NANO), all_ahead)
CARBON = StartPlanner(hours(200 * UG_PER_G, 500 * UG_PER_G), nothing_ahead)
SITE = SiteCurves(PRICE, CARBON, "EUR", pue=1.5)


def advice(site: SiteCurves, *jobs: JobUse, window_h: int = 24) -> list[Advice]:
    return list(later.advise(jobs, {"": site}, NOW_S, window_h))


def test_money_and_co2e_at_the_start_that_would_have_been_chosen() -> None:
    made = job(ended_s=START_S + 4 * 3600, charges=charges(electricity=1))
    (line,) = advice(SITE, made)
    assert line.saving is not None
    assert line.saving.energy_uj == 0
    # From three dear hours and a cheap one to four cheap ones, 1 kWh at a PUE of 1.5.
    assert line.saving.money == {"EUR": pytest.approx(1.5 * 0.15 * NANO, rel=1e-6)}
    assert line.saving.co2e_ug == pytest.approx(1.5 * 225 * UG_PER_G, rel=1e-6)
    assert "1 job of up to 4 h" in line.evidence
    assert "100% of the 0.23 EUR that the best starts would have saved" in line.evidence
    assert "T03:00 UTC (0.1 EUR/kWh, against 0.25 at once)" in line.next_step


def test_the_intensity_decides_where_the_price_is_always_the_same() -> None:
    flat = StartPlanner(dict.fromkeys(hours(1, 1), 0.2 * NANO), all_ahead)
    for site in (SiteCurves(flat, CARBON, "EUR"), SiteCurves(None, CARBON)):
        (line,) = advice(site, job(ended_s=START_S + 4 * 3600))
        assert line.saving is not None
        assert not any(line.saving.money.values())
        assert line.saving.co2e_ug == pytest.approx(225 * UG_PER_G, rel=1e-6)
        assert "g CO2e/kWh" in line.next_step
        assert "100% of the 225 g CO2e that" in line.evidence
    assert advice(SiteCurves(flat), job(ended_s=START_S + 4 * 3600)) == []
    assert advice(SiteCurves(), job(ended_s=START_S + 4 * 3600)) == []


@pytest.mark.parametrize(
    "other",
    [
        {"ended_s": None, "whole": False},
        {"ended_s": START_S + 24 * 3600},
        {"scheduler": "process"},
        {"cluster": "elsewhere"},
        {"started_s": START_S + 4 * 3600, "ended_s": START_S + 8 * 3600},  # already the best
    ],
)
def test_what_cannot_wait_or_gains_nothing_has_no_line(other: dict[str, Any]) -> None:
    assert advice(SITE, job(**{"ended_s": START_S + 4 * 3600, **other})) == []


def test_the_next_start_is_now_where_nothing_better_is_known() -> None:
    assert next_start(SITE, FIRST * 3600 + 4 * 3600, 2, 24).startswith("at once (0.1 EUR/kWh)")
    assert "T03:00 UTC" in next_start(SITE, FIRST * 3600 + 10 * 3600, 2, 24)
    assert next_start(SiteCurves(), FIRST, 2, 24) == ""


def test_nothing_is_said_of_the_next_start_where_the_last_weeks_are_not_known() -> None:
    made = job(ended_s=START_S + 4 * 3600, charges=charges(electricity=1))
    (line,) = later.advise([made], {"": SITE}, NOW_S + 90 * 86_400, 24)
    assert line.saving is not None
    assert line.next_step == "Submit with --begin where a job can wait."
