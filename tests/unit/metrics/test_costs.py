"""Money and CO2e as they are shown: quantised, held at zero, and absent where nothing is set."""

from __future__ import annotations

import math

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.core.audit import laws
from tests.unit.metrics.sample import (
    BERT,
    CO2E,
    ELECTRICITY,
    FRESH,
    RATES,
    RUNNING,
    SWEEP,
    bill_of,
    small_books,
    small_view,
)

from joulebook.core.energy.readings import Component
from joulebook.core.evidence import Amount
from joulebook.core.ledger.state import ExperimentState
from joulebook.core.money.accrual import ChargeState
from joulebook.core.money.amounts import Exact
from joulebook.core.money.rates import PER_KWH, RateSet
from joulebook.metrics.catalogue import BY_NAME
from joulebook.metrics.collector import collect
from joulebook.metrics.costs import grams, money
from joulebook.metrics.derived import joules
from joulebook.metrics.snapshot import Snapshot

NS_PER_S = 1_000_000_000


def values(view: Snapshot, name: str) -> dict[tuple[str, ...], float]:
    (family,) = (f for f in collect(view).families if f.metric.name == f"joulebook_{name}")
    return dict(family.samples)


@laws(100)
@given(st.integers(0, 10**15), st.integers(0, 10**15))
def test_shown_amounts_are_floored_and_never_fall(nano: int, more: int) -> None:
    small, large = Exact.of(nano * PER_KWH), Exact.of((nano + more) * PER_KWH)
    assert money(small) <= money(large)
    assert 0 <= nano / 1e9 - money(small) < 2**-20 + 1e-9
    assert (money(small) * 2**20).is_integer()
    assert grams(small) <= grams(large)
    assert 0 <= nano / 1e6 - grams(small) < 2**-10 + 1e-6
    assert (grams(small) * 2**10).is_integer()


def test_a_workload_is_shown_what_it_was_charged() -> None:
    shown = values(small_view(), "workload_cost_total")
    expected = 1_234_567_891_234 / 3.6e12 * 0.3125 * 1.25
    assert math.isclose(shown["slurm", "101", *BERT, "electricity", "EUR"], expected, abs_tol=1e-6)
    assert shown["slurm", "101", *BERT, "hardware", "EUR"] == 1.25
    assert values(small_view(), "workload_credit_total")["slurm", "101", *BERT, "EUR"] > 0.009
    assert values(small_view(), "workload_co2e_grams_total")["slurm", "101", *BERT] > 155


def test_series_are_held_like_those_of_energy() -> None:
    shown = values(small_view(), "workload_cost_total")
    assert small_books().workloads[FRESH].bill[ELECTRICITY].atoms > 0
    assert shown["slurm", "108", *SWEEP, "electricity", "EUR"] == 0
    baseline = small_books().experiments[SWEEP].bill_baseline
    held = values(small_view(), "experiment_co2e_grams_total")[SWEEP]
    assert held == grams(baseline[CO2E])


def test_a_charge_that_is_new_shows_zero_everywhere() -> None:
    books = small_books()
    charges = {
        **books.charges,
        ELECTRICITY: ChargeState(books.charges[ELECTRICITY].total, hold_left_ns=NS_PER_S),
    }
    view = small_view(msgspec.structs.replace(books, charges=charges))
    for name in ("workload_cost_total", "experiment_cost_total", "remainder_cost_total"):
        shown = values(view, name)
        assert {v for labels, v in shown.items() if "electricity" in labels} == {0}
        assert name.startswith("remainder") or any(shown.values())


def test_the_hourly_rate_shows_at_zero_as_soon_as_a_gpu_is_held() -> None:
    books = small_books()
    workloads = {
        key: msgspec.structs.replace(state, bill={}) for key, state in books.workloads.items()
    }
    view = small_view(msgspec.structs.replace(books, workloads=workloads))
    assert values(view, "workload_cost_total")["slurm", "101", *BERT, "hardware", "EUR"] == 0
    other = msgspec.structs.replace(view, books=msgspec.structs.replace(view.books, models={}))
    assert ("slurm", "101", *BERT, "hardware", "EUR") not in values(other, "workload_cost_total")


def test_nothing_configured_is_no_series() -> None:
    books = msgspec.structs.replace(
        small_books(),
        charges={},
        remainder_bills={},
        unpriced_uj={},
        workloads={RUNNING: msgspec.structs.replace(small_books().workloads[RUNNING], bill={})},
        experiments={},
    )
    view = msgspec.structs.replace(
        small_view(books), rates=RateSet(), charges=frozenset(), feeds=()
    )
    collected = collect(view)
    assert not collected.failures
    for family in collected.families:
        about = ("_cost_", "_credit_", "_co2e_", "price", "carbon", "pue", "feed", "unpriced")
        if any(word in family.metric.name for word in about):
            assert family.samples == [], family.metric.name


def test_the_rates_in_force_are_shown_with_their_source() -> None:
    assert values(small_view(), "electricity_price_per_kwh") == {("EUR", "contract 2026"): 0.3125}
    assert values(small_view(), "carbon_intensity_grams_per_kwh") == {
        ("DE", "Energy-Charts DE"): 363.25
    }
    assert values(small_view(), "pue_ratio") == {("machine room",): 1.25}
    assert RATES.at(0).price is not None
    assert values(small_view(), "feed_age_seconds")["carbon", "Energy-Charts DE"] == 4200
    assert BY_NAME["joulebook_feed_age_seconds"].unit == "seconds"


def of_bert(view: Snapshot) -> list[tuple[str, tuple[str, ...]]]:
    """Every series of the experiment on a page."""
    return [
        (family.metric.name, labels)
        for family in collect(view).families
        if family.metric.name.startswith("joulebook_experiment_")
        for labels, _ in family.samples
        if labels[:3] == BERT
    ]


@pytest.mark.parametrize(("was_negative", "most"), [(False, 12), (True, 13)])
def test_an_experiment_has_twelve_series_at_most(was_negative: bool, most: int) -> None:
    """With every component metered, an hourly rate, a price and a carbon intensity; one more once
    a price was negative.
    """
    every = {part: Amount(10**9, 10**8, 10**9) for part in Component}
    bill = bill_of(every[Component.GPU], credit=was_negative)
    books = msgspec.structs.replace(
        small_books(),
        experiments={BERT: ExperimentState(every, {}, 0, 0, bill=bill)},
        charges={charge: ChargeState(amount) for charge, amount in bill.items()},
    )
    assert len(of_bert(small_view(books))) == most


def test_an_unused_experiment_leaves_the_page_and_the_sum_stays_whole() -> None:
    """It returns where it was."""
    books = small_books()
    there = of_bert(small_view(books))
    left = msgspec.structs.replace(books.experiments[BERT], exposed=False)
    without = small_view(
        msgspec.structs.replace(books, experiments={**books.experiments, BERT: left})
    )
    assert there
    assert not of_bert(without)
    for component, energy in (
        (part, amount.energy_uj) for part, amount in books.experiments[BERT].balance.items()
    ):
        assert values(without, "unexposed_energy_joules")[component,] == joules(energy)
    for page in (small_view(books), without):
        shown = sum(
            value
            for name in ("experiment_energy_joules_total", "unexposed_energy_joules",
                "remainder_energy_joules_total", "pending_energy_joules")
            for value in values(page, name).values()
        )  # fmt: skip
        meters = sum(values(page, "meter_energy_joules_total").values())
        assert math.isclose(shown, meters, abs_tol=20), "save for rounding down"
    assert of_bert(small_view(books)) == there
