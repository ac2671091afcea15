"""A family of models as a real ledger, to a thousandth of what AI2 and CMU published of one.

arXiv 2605.01158: 12.3 MWh at the facility, 4,251 kg CO2e, 15,887 L of water, 82.2 % of it spent on
development. They multiplied the energy of GPUs by 1.74 for hosts and network; here hosts are
measured (0.45 of the GPUs) and the PUE is 1.2, which is the same: 1.45 x 1.2 = 1.74.

Shares of the stages, the runs and their ends are made up, and known.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from tests.unit.lab.report.worked import MODEL, NODE, T0_S, WANTED, write_ledger

from joulebook.core.energy.readings import Component, Meter
from joulebook.core.evidence import Amount, Method
from joulebook.core.money.rates import (
    NANO,
    PPM,
    RATIO_PPM,
    UG_PER_G,
    UG_PER_KWH,
    HardwareRate,
    Point,
    Quality,
    RateSet,
    StepCurve,
    nano_per_kwh,
)
from joulebook.core.report.dataset import Posting, ReportData
from joulebook.core.report.rollup import recharged
from joulebook.core.workloads import Labels, WorkloadFacts, WorkloadId
from joulebook.units import NS_PER_S, UJ_PER_KWH

GPUS = 8
GPU_KWH = 12_300 / 1.74
HOST = 0.45
WATTS = 600.0
"""Of each GPU."""
BLOCK_S = 6 * 3600

RATES_TOML = """
[rates]
zone = "US-CENT-SWPP"
currency = "USD"
pue = 1.2
pue_source = "the data centre, 2025"
[rates.water]
site_l_per_kwh = 0.2
site_source = "the data centre, 2025"
grid_l_per_kwh = 1.12496
grid_source = "WRI, US mix"
[report]
sacct = ""
region = "Texas, USA"
"""
"""What the ledger does not have."""


def _flat(value: int, unit: str, source: str) -> StepCurve:
    return StepCurve((Point(0, value, unit, source, Quality.MEASURED),))


RATES = RateSet(
    "USD",
    "US-CENT-SWPP",
    _flat(NANO // 10, nano_per_kwh("USD"), "contract 2026"),
    _flat(round(4_251_000 / 12_300 * UG_PER_G), UG_PER_KWH, "the grid's operator"),
    _flat(PPM * 6 // 5, RATIO_PPM, "the data centre, 2025"),
    (HardwareRate("NVIDIA H100*", 2 * NANO, "bought 2026"),),
)


class Trial(NamedTuple):
    """A run: its share of the energy of all GPUs, in thousandths, and what it was for."""

    name: str
    experiment: str
    stage: str
    outcome: str
    share: int


TRIALS = (
    *(Trial(f"ablation-{n}", "family-dev", "development", "completed", 45) for n in range(12)),
    *(Trial(f"scaling-{n}", "family-dev", "development", "failed", 40) for n in range(4)),
    Trial("scaling-4", "family-dev", "development", "cancelled", 62),
    Trial("scaling-5", "family-dev", "development", "preempted", 60),
    Trial("7b", "family", "pre-training", "completed", 140),
    Trial("7b-anneal", "family", "mid-training", "completed", 23),
    Trial("7b-instruct", "family", "SFT", "completed", 6),
    Trial("7b-instruct-rl", "family", "RL", "completed", 7),
    Trial("7b-eval", "family", "evaluation", "completed", 2),
)


def _spans() -> Iterator[tuple[Trial, WorkloadId, int, int]]:
    """Each run with its start and end; one after the other, in whole blocks where it can be."""
    at_s = T0_S
    for n, trial in enumerate(TRIALS):
        took_s = round(GPU_KWH * trial.share / 1000 / (GPUS * WATTS / 1000) * 3600)
        yield trial, WorkloadId("slurm", str(101 + n)), at_s, at_s + took_s
        at_s += -(-took_s // 900) * 900


def postings() -> Iterator[Posting]:
    for trial, workload, start_s, end_s in _spans():
        whole_uj = round(GPU_KWH * trial.share / 1000 * UJ_PER_KWH)
        starts = range(start_s, end_s, BLOCK_S)
        for n, at_s in enumerate(starts):
            done, more = n * BLOCK_S, min((n + 1) * BLOCK_S, end_s - start_s)
            part_uj = whole_uj * more // (end_s - start_s) - whole_uj * done // (end_s - start_s)
            for gpu in range(GPUS):
                share_uj = part_uj * (gpu + 1) // GPUS - part_uj * gpu // GPUS
                amount = Amount(share_uj, 0, (more - done) * NS_PER_S)
                meter = Meter(Component.GPU, f"GPU-{gpu}")
                yield Posting(NODE, workload, meter, at_s, amount, Method.COUNTER, "prolog")
            host = Meter(Component.CPU, "package-0")
            amount = Amount(round(part_uj * HOST))
            yield Posting(NODE, workload, host, at_s, amount, Method.APPORTIONED, "prolog")


def write_family(path: Path) -> None:
    """The family as a ledger."""
    models = {(NODE, Meter(Component.GPU, f"GPU-{n}")): MODEL for n in range(GPUS)}
    whole = ReportData("test", 0, 1 << 40, tuple(postings()), models=models)
    facts = (
        WorkloadFacts(
            workload,
            name=trial.name,
            labels=Labels("ada", "olm", trial.experiment),
            started_ns=start_s * NS_PER_S,
            ended_ns=end_s * NS_PER_S,
            complete=True,
            gpu_count=GPUS,
            evidence="prolog",
            extra={"gpu_model": MODEL},
            stage=trial.stage,
            outcome=trial.outcome,
        )
        for trial, workload, start_s, end_s in _spans()
    )
    end_s = max(end_s for *_, end_s in _spans())
    write_ledger(path, recharged(whole, RATES, WANTED).account, facts, end_s)
