"""Charging again: at the same rates it comes to what was booked, and parts are still the whole."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

import msgspec
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.core.audit import laws
from tests.unit.core.money.test_accrual import (
    CO2E,
    CREDIT,
    EUR,
    H100,
    HARDWARE,
    T0_S,
    WANTED,
    hourly,
    metered,
    rates_of,
)
from tests.unit.core.world import Run, S, gpu

from joulebook.core.energy.readings import Meter
from joulebook.core.evidence import Amount, Method, Remainder, Subject
from joulebook.core.money.amounts import Charges, Exact, total
from joulebook.core.money.rates import PER_KWH, UG_PER_G, HardwareRate, RateSet
from joulebook.core.report.dataset import Charged, Posting, ReportData, ReportWorkload
from joulebook.core.report.rollup import billed, lines, net, own_rates, recharged, whole
from joulebook.core.workloads import Labels, WorkloadId
from joulebook.lab.report import cost_carbon
from joulebook.units import UJ_PER_KWH

ADA = Labels("ada", "nlp", "bert")
GRACE = Labels("grace", "vision", "vit")
MODELS = {gpu(): H100}


JOB = WorkloadId("slurm", "1")
OTHER = WorkloadId("slurm", "2")
OWNERS = {JOB: ReportWorkload(JOB, labels=ADA), OTHER: ReportWorkload(OTHER, labels=GRACE)}


def account(rows: Iterable[tuple[Subject, Meter, int, Amount]]) -> ReportData:
    return ReportData(
        "test",
        0,
        1 << 40,
        tuple(
            Posting("n1", subject, meter, quarter_s, amount, Method.COUNTER, "prolog")
            for subject, meter, quarter_s, amount in rows
        ),
        workloads=OWNERS,
        models={("n1", meter): model for meter, model in MODELS.items()},
    )


def posted(run: Run) -> ReportData:
    """What a run of the ledger posted; all of its workloads are Ada's job."""
    return account(
        (key.subject if isinstance(key.subject, Remainder) else JOB, *key[1:3], amount)
        for key, amount in run.postings.items()
    )


def with_bill(booked: ReportData, bill: Charges) -> ReportData:
    charged = tuple(Charged("n1", JOB, 0, charge, amount) for charge, amount in bill.items())
    return msgspec.structs.replace(booked, charges=charged)


@laws(40)
@given(
    st.lists(st.integers(0, 3_000_000), min_size=1, max_size=6),
    st.lists(st.integers(-(10**9), 10**9), min_size=1, max_size=6),
    st.integers(10**6, 2 * 10**6),
)
def test_the_same_rates_come_to_what_was_booked(
    power_mw: list[int], prices: list[int], pue: int
) -> None:
    rates = rates_of(hourly(*prices), hourly(*map(abs, prices)), pue, 1_250_000_007)
    run = metered(power_mw, rates=rates)
    anew = recharged(posted(run), rates, WANTED)
    (bill,) = billed(anew.account).values()
    booked = next(iter(run.books.workloads.values())).bill
    assert {c: a for c, a in bill.items() if a.atoms} == {
        c: a for c, a in booked.items() if a.atoms
    }
    assert anew.unpriced_uj == {}


def test_other_rates_and_the_difference() -> None:
    """The worked example of the field: 10.5 kg by the hour, 12.0 kg at a flat 400 g."""
    hours = hourly(300 * UG_PER_G, 500 * UG_PER_G, 400 * UG_PER_G)
    run = metered([16_000_000, 4_000_000, 4_000_000], rates=rates_of(carbon=hours, pue=1_250_000))
    flat = rates_of(carbon=[(0, 400 * UG_PER_G)], pue=1_250_000)
    booked = with_bill(posted(run), next(iter(run.books.workloads.values())).bill)
    anew = recharged(booked, flat, WANTED)
    (line,) = lines(booked, anew.account)
    assert line.booked == {CO2E: Exact(10, 500_000_000)}
    assert line.restated == {CO2E: Exact(12)}
    assert line.amount.energy_uj == 24 * UJ_PER_KWH
    assert anew.unpriced_uj == {"electricity": 24 * UJ_PER_KWH}


def test_a_line_for_everybody_and_the_whole() -> None:
    quarter = account(
        [
            (JOB, gpu(), T0_S, Amount(UJ_PER_KWH, 0, 900 * S)),
            (OTHER, gpu("GPU-1"), T0_S, Amount(3 * UJ_PER_KWH, 0, 900 * S)),
            (Remainder.UNALLOCATED, gpu(), T0_S + 900, Amount(9 * UJ_PER_KWH)),
        ]
    )
    rates = rates_of([(0, 200_000_000), (T0_S + 900, -100_000_000)], per_gpu_hour=4_000_000_000)
    anew = recharged(quarter, rates, WANTED)
    bills = billed(anew.account)
    assert bills == {
        ADA: {EUR: Exact.of(200_000_000 * PER_KWH), HARDWARE: Exact(1)},
        GRACE: {EUR: Exact.of(600_000_000 * PER_KWH)},
        Remainder.UNALLOCATED: {CREDIT: Exact.of(900_000_000 * PER_KWH)},
    }
    found = lines(quarter, anew.account)
    assert [line.owner for line in found] == [GRACE, ADA, Remainder.UNALLOCATED]
    assert whole(found).restated == total(bills.values())
    assert net(whole(found).restated or {}) == {"EUR": Exact(0, 900_000_000)}


V100, A100 = "Tesla V100-SXM2-16GB", "NVIDIA A100-SXM4-40GB"


def two_models(pue: int = 1_250_000) -> RateSet:
    rates = rates_of(hourly(200_000_000, 400_000_000), hourly(300 * UG_PER_G, 500 * UG_PER_G), pue)
    return dataclasses.replace(
        rates,
        hardware=(
            HardwareRate("*V100*", 400_000_000, "bought 2019"),
            HardwareRate("*A100*", 1_250_000_000, "bought 2022"),
        ),
    )


@laws(60)
@given(
    st.lists(
        st.tuples(
            st.sampled_from((JOB, OTHER, Remainder.UNALLOCATED)),
            st.sampled_from((gpu("V-0"), gpu("A-0"), gpu("A-1"))),
            st.integers(0, 7).map(lambda n: T0_S + 900 * n),
            st.builds(Amount, st.integers(0, 10**13), st.just(0), st.integers(0, 900 * S)),
        ),
        min_size=1,
        max_size=24,
    )
)
def test_rates_weigh_what_the_selection_burnt_and_held(
    rows: list[tuple[Subject, Meter, int, Amount]],
) -> None:
    """As if the selection alone had been charged: whatever others consumed at other rates."""
    models = {("n1", gpu("V-0")): V100, ("n1", gpu("A-0")): A100, ("n1", gpu("A-1")): A100}
    everybody = msgspec.structs.replace(account(rows), models=models)
    ledger = recharged(everybody, two_models(), WANTED).account
    own = msgspec.structs.replace(
        ledger,
        postings=tuple(row for row in ledger.postings if row.subject == JOB),
        charges=tuple(row for row in ledger.charges if row.subject == JOB),
    )
    alone = recharged(own, two_models(), WANTED).account
    assert {row for row in own_rates(own) if row.energy_uj or row.held_ns} == {
        row for row in alone.rates if row.energy_uj or row.held_ns
    }
    assert sorted(own_rates(ledger)) == sorted(ledger.rates)


def test_an_experiment_on_one_model_shows_its_own_means() -> None:
    """1 kWh at 0.20 and 3 at 0.40 are 0.35 a kWh, though others consumed 90 at 0.20."""
    models = {("n1", gpu("V-0")): V100, ("n1", gpu("A-0")): A100}
    rows = [
        (JOB, gpu("V-0"), T0_S, Amount(UJ_PER_KWH, 0, 900 * S)),
        (JOB, gpu("V-0"), T0_S + 3600, Amount(3 * UJ_PER_KWH, 0, 900 * S)),
        (OTHER, gpu("A-0"), T0_S, Amount(90 * UJ_PER_KWH, 0, 900 * S)),
    ]
    everybody = msgspec.structs.replace(account(rows), models=models)
    ledger = recharged(everybody, two_models(), WANTED).account
    own = msgspec.structs.replace(
        ledger,
        postings=tuple(row for row in ledger.postings if row.subject == JOB),
        charges=tuple(row for row in ledger.charges if row.subject == JOB),
    )
    found = {(rate.quantity, rate.source): rate for rate in cost_carbon.rates(own_rates(own))}
    assert found["price", "test"].mean == 0.35
    assert found["carbon", "test"].mean == 450
    assert [source for quantity, source in found if quantity == "hardware"] == ["bought 2019"]
    assert found["hardware", "bought 2019"].percent == 100


def test_a_mean_of_what_the_facility_pays_weighs_its_energy() -> None:
    """With a PUE that steps from 1 to 2 a kWh counts twice as much after it."""
    rows = [
        (JOB, gpu(), T0_S, Amount(UJ_PER_KWH)),
        (JOB, gpu(), T0_S + 3600, Amount(UJ_PER_KWH)),
    ]
    first = recharged(account(rows[:1]), two_models(1_000_000), WANTED).account
    second = recharged(account(rows[1:]), two_models(2_000_000), WANTED).account
    rates = {rate.quantity: rate for rate in cost_carbon.rates((*first.rates, *second.rates))}
    assert rates["carbon"].mean == (300 + 2 * 500) / 3
    assert rates["pue"].mean == 1.5
