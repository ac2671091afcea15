"""Advice on a collected ledger: every kind, ranked, and only of what may be seen."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import msgspec
import pytest
from tests.unit.lab.advice.ledger import NOW_S, Cards, filled
from tests.unit.lab.collected.nodes import NOVEMBER_S

from joulebook.core.money.rates import NANO, Point, Quality, RateSet, StepCurve
from joulebook.lab.advice.advise import MonthAdvice, by_kind, of_month, ranked
from joulebook.lab.advice.later import next_start
from joulebook.lab.advice.model import Advice, AdviceKind, Saving
from joulebook.lab.advice.read import Rows, curves
from joulebook.lab.collected import ingest
from joulebook.lab.collected.database import opened
from joulebook.units import UJ_PER_KWH

K = AdviceKind


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> str:
    return filled(tmp_path_factory.mktemp("advice"))


@pytest.fixture(scope="module")
def found(url: str) -> MonthAdvice:
    with opened(url) as database:
        return of_month(database, 202611, NOW_S)


def line(found: MonthAdvice, kind: AdviceKind) -> Advice:
    (only,) = [each for each in found.lines if each.kind is kind]
    return only


def test_idle_time_is_split_and_costs_what_was_charged(found: MonthAdvice) -> None:
    hours = {K.GPUS: 12, K.AFTER_WORK: 8, K.IDLE: 1}
    for kind, idle_h in hours.items():
        saving = line(found, kind).saving
        assert saving is not None
        assert saving.energy_uj == idle_h * UJ_PER_KWH // 10
        assert saving.money["EUR"] == pytest.approx(23 * NANO * idle_h / 21, abs=2)
        assert [each.shown for each in line(found, kind).jobs] == ["101"]


def test_size_start_and_power_limit(found: MonthAdvice) -> None:
    assert "partition small (24 GiB a card)" in line(found, K.MEMORY).next_step
    assert "asked for 48.0 h" in line(found, K.TIME_LIMIT).evidence
    starts = {each.labels.user: each for each in found.lines if each.kind is K.START}
    assert set(starts) == {"bob", "eve"}
    saving = starts["bob"].saving
    assert saving is not None
    # 4 kWh at noon, at 0.3 EUR, would have waited for the night at 0.1.
    assert saving.money["EUR"] == pytest.approx(4 * 0.2 * NANO, rel=1e-6)
    assert saving.co2e_ug == pytest.approx(4 * 200 * 1e6, rel=1e-6)
    assert "at once (0.1 EUR/kWh)" in starts["bob"].next_step
    limit = line(found, K.POWER_LIMIT)
    assert "3 runs at 500 W against 3 at 700 W: 21.2% less energy, +12.5% time" in limit.evidence
    assert found.missing == ()


def test_the_greatest_saving_is_first_and_claims_of_nothing_are_last(found: MonthAdvice) -> None:
    for by in ("money", "kwh", "co2e"):
        lines = ranked(found.lines, by)
        claimed = [each.saving is not None for each in lines]
        assert claimed == sorted(claimed, reverse=True)
    assert found.lines[0].kind is K.GPUS
    assert ranked(found.lines, "kwh")[0].kind in {K.GPUS, K.POWER_LIMIT}
    sums = by_kind(found)
    assert sums["lab", "nlp", K.GPUS].energy_uj == 12 * UJ_PER_KWH // 10
    assert all(kind not in {K.MEMORY, K.TIME_LIMIT} for *_, kind in sums)


def test_money_is_compared_within_a_currency(found: MonthAdvice) -> None:
    of = line(found, K.IDLE)

    def saving(currency: str, amount: int) -> Advice:
        return msgspec.structs.replace(of, saving=Saving(1, {currency: amount}))

    lines = [saving("JPY", 9_000), saving("EUR", 20), saving("JPY", 100), saving("EUR", 70),
             saving("EUR", 5)]  # fmt: skip
    money = [each.saving.money for each in ranked(lines, "money") if each.saving is not None]
    assert money == [{"EUR": 70}, {"EUR": 20}, {"EUR": 5}, {"JPY": 9_000}, {"JPY": 100}]


def test_what_a_feed_knows_of_the_hours_to_come_decides_the_next_start(url: str) -> None:
    span, later_s = (NOVEMBER_S, NOW_S), NOW_S + 3 * 3600
    points = (
        Point(NOW_S, 3 * NANO // 10, "nEUR/kWh", "contract", Quality.FORECAST, later_s),
        Point(later_s, NANO // 20, "nEUR/kWh", "contract", Quality.FORECAST, later_s + 7200),
    )
    elsewhere = StepCurve(tuple(msgspec.structs.replace(p, source="ENTSO-E BE") for p in points))
    known = RateSet(currency="EUR", price=StepCurve(points))
    with opened(url) as database:
        usual = curves(database, span, NOW_S, RateSet(), "")["lab"]
        fed = curves(database, span, NOW_S, known, "")["lab"]
        # Prices of another zone are not this cluster's, whatever their currency.
        other = curves(database, span, NOW_S, dataclasses.replace(known, price=elsewhere), "")
    assert next_start(usual, NOW_S, 2, 24) == "at once (0.1 EUR/kWh)"
    assert next_start(fed, NOW_S, 2, 24).startswith("2026-11-21T03:00 UTC (0.05 EUR/kWh")
    assert next_start(other["lab"], NOW_S, 2, 24) == "at once (0.1 EUR/kWh)"


@pytest.mark.parametrize(
    ("source", "kind", "ahead_h"),
    [("ENTSO-E BE", "", 35), ("Energy-Charts BE", "", 35), ("contract", "", 0),
     ("contract", "schedule", 87_840),
     # A tariff of the lab server's own does not tell what the market did.
     ("ENTSO-E BE", "schedule", 35), ("Energy-Charts BE", "constant", 35)],
)  # fmt: skip
def test_how_far_a_price_was_known_follows_from_its_source(
    tmp_path: Path, source: str, kind: str, ahead_h: int
) -> None:
    made = Cards()
    for hour in range(30):
        made.rate(hour, hour / 100, 300, source)
    made.booked_to_s = NOW_S
    with opened(f"sqlite://{tmp_path / 'c.db'}", create=True) as database:
        ingest.take(database, made.page(0), made.name, NOW_S, frozenset({made.name}))
        site = curves(database, (NOVEMBER_S, NOW_S), NOW_S, RateSet(), kind)["lab"]
    noon = NOVEMBER_S // 3600 + 12  # 13:00 in Brussels: 35 hours to the end of the next day
    assert site.price is not None
    assert site.price.known_until(noon) - noon == ahead_h
    assert site.carbon is not None
    assert site.carbon.known_until(noon) == noon


def test_only_rows_that_may_be_seen(url: str) -> None:
    with opened(url) as database:
        bobs = of_month(database, 202611, NOW_S, Rows("o.person = ?", ["bob"]))
        nothing = of_month(database, 202611, NOW_S, Rows("1 = 0"))
        before = of_month(database, 202610, NOW_S)
    assert {each.labels.user for each in bobs.lines} == {"bob"}
    assert "ada" not in repr(bobs)
    assert (nothing.lines, nothing.missing) == ((), ())
    assert before.lines == ()


def test_what_is_not_in_the_ledger_is_said(tmp_path: Path) -> None:
    from tests.unit.lab.web.served import filled as plain

    with opened(plain(tmp_path)) as database:
        found = of_month(database, 202611, NOW_S)
    assert len(found.missing) == 4
    assert json.dumps(found.missing).count("no ") == 4
