"""What a statement says of the meters: calibrated or not, and whether the counters are right."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
import pytest
from tests.unit.lab.report.worked import NODE, TRIALS, account, gpu

from joulebook.config.lab import ReportSection
from joulebook.core.energy.audit import Audit, Verdict
from joulebook.core.energy.readings import Component
from joulebook.core.money.amounts import RateUsed, calibration_of
from joulebook.core.money.rates import Quality
from joulebook.core.report.dataset import ReportData, ReportWorkload, UsedRate
from joulebook.core.report.runs import runs
from joulebook.core.report.tally import added
from joulebook.lab.report import cost_carbon
from joulebook.lab.report.about import About
from joulebook.lab.report.energy import quality
from joulebook.lab.report.model import EnergyQuality
from joulebook.units import UJ_PER_KWH, kwh_from_uj


def told(data: ReportData, settings: ReportSection | None = None) -> EnergyQuality:
    data = msgspec.structs.replace(data, workloads={id_: ReportWorkload(id_) for id_ in TRIALS})
    found = runs(data)
    project = added(run.tally for run in found)
    return quality(data, found, project, settings or ReportSection())


def calibrated(*cards: int, ppm: int = 10_000) -> ReportData:
    """The worked example with cards calibrated: a tenth of what is booked was added."""
    data, used = account(), []
    rows = []
    for posting in data.postings:
        row = posting
        if row.meter.component is Component.GPU and row.meter in {gpu(n) for n in cards}:
            amount = row.amount._replace(calibration_uj=row.amount.energy_uj // 10)
            row = row._replace(amount=amount)
            rate = RateUsed(
                row.quarter_s, calibration_of(row.meter.name), ppm, "ppm", "PDU", Quality.MEASURED
            )
            used.append(UsedRate(rate, amount.energy_uj, 0, NODE))
        rows.append(row)
    return msgspec.structs.replace(data, postings=tuple(rows), rates=tuple(used))


def test_what_is_calibrated_has_its_own_uncertainty_and_the_raw_figure_beside_it() -> None:
    data = calibrated(*range(8))
    sensor = told(data).sensor
    # 20 of 24 kWh are of the GPUs: 1 % of them, and 5 % of the rest.
    assert sensor.value == pytest.approx((20 * 1 + 4 * 5) / 24)
    assert sensor.default and "PDU" in sensor.source and "arXiv" in sensor.source
    assert "calibrated for 83.3 % of the energy; 22.00 kWh as read, +2 kWh" in sensor.note
    site = told(data, ReportSection(sensor_percent=2.0, sensor_source="PSU")).sensor
    assert site.value == pytest.approx((20 * 1 + 4 * 2) / 24) and not site.default
    assert told(account()).sensor.value == 5
    # No rate that money is charged at.
    assert cost_carbon.rates(data.rates) == []


def test_cards_that_are_not_calibrated_keep_the_usual_error() -> None:
    sensor = told(calibrated(0, 1, ppm=20_000)).sensor
    energy_uj = sum(
        row.amount.energy_uj for row in account().postings if row.meter in {gpu(0), gpu(1)}
    )
    of = kwh_from_uj(energy_uj) / 24
    assert sensor.value == pytest.approx(2 * of + 5 * (1 - of))
    assert energy_uj == 5 * UJ_PER_KWH


@pytest.mark.parametrize(
    ("audits", "value", "said"),
    [
        ({}, None, "cannot tell: test knows no audit"),
        (
            {n: Audit(verdict=Verdict.SOUND, ratio=0.99 + n / 400) for n in range(8)},
            99.875,
            "sound",
        ),
        ({0: Audit(verdict=Verdict.SOUND, ratio=1.0)}, 100.0, "cannot tell"),
        (
            {
                n: Audit(verdict=Verdict.CANNOT_TELL if n else Verdict.WRONG, ratio=0.9)
                for n in range(8)
            },
            90.0,
            "wrong (GPU-0)",
        ),
        ({n: Audit() for n in range(8)}, None, "cannot tell"),
    ],
)
def test_counters_stand_against_power(
    audits: Mapping[int, Audit], value: float | None, said: str
) -> None:
    known = {(NODE, gpu(n)): audit for n, audit in audits.items()}
    found = told(msgspec.structs.replace(account(), audits=known)).counters
    assert found.value == (None if value is None else pytest.approx(value))
    assert (found.note or found.unknown).startswith(said)


def tensored(share: float, known: float = 1.0) -> ReportData:
    rows = []
    for row in account().postings:
        held_ns = row.amount.held_ns
        known_ns = round(held_ns * known)
        amount = row.amount._replace(tensor_ns=round(known_ns * share), tensor_known_ns=known_ns)
        rows.append(row._replace(amount=amount))
    workloads = {id_: ReportWorkload(id_) for id_ in TRIALS}
    return msgspec.structs.replace(account(), postings=tuple(rows), workloads=workloads)


def test_compute_is_at_most_what_was_measured() -> None:
    data = tensored(0.25)
    found = cost_carbon.compute(data, runs(data), About(precision="bf16"))
    assert found.utilization.value == pytest.approx(25)
    assert not found.utilization.default and "GPM" in found.utilization.source
    assert found.utilization.note.startswith("at most")
    # 40 GPU-hours of 989.5 TFLOP/s.
    assert found.pflops_days.value == pytest.approx(40 / 24 * 0.9895 * 0.25)
    assert found.pflops_days.note == "dense bf16 peak; at most" and not found.pflops_days.default
    said = cost_carbon.compute(data, runs(data), About(utilization=0.4)).utilization
    assert (said.value, said.source) == (40, "said by the researcher")
    # What is known of a part of the time says nothing of the whole.
    partly = tensored(0.25, known=0.5)
    assumed = cost_carbon.compute(partly, runs(partly), About()).utilization
    assert assumed.value == 33 and assumed.default
