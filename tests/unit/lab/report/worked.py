"""The worked example of a statement as a real ledger: every figure can be checked by hand.

4 trials x 2 H100 x 5 h = 40 GPU-hours. E_gpu 20 kWh, E_host 4 kWh; with PUE 1.25 the facility's
kilowatt-hours are 20, 5 and 5 in three hours with 300, 500 and 400 g, then none.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from decimal import Decimal
from pathlib import Path

from joulebook.clock import Anchor
from joulebook.core.energy.readings import Component, Meter
from joulebook.core.evidence import Amount, Method, PostingKey
from joulebook.core.ledger.state import Books, Entry
from joulebook.core.money.amounts import Charge, ChargeKey, Item
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
    hourly_nano,
    nano_per_kwh,
)
from joulebook.core.report.dataset import Posting, ReportData
from joulebook.core.report.rollup import recharged
from joulebook.core.workloads import Labels, WorkloadFacts, WorkloadId
from joulebook.ledger.sqlite import SqliteStore
from joulebook.units import NS_PER_S, QUARTER_NS, UJ_PER_KWH

T0_S = 1_767_225_600
"""2026-01-01 00:00 UTC."""
HOURS, HOUR_S, QUARTER_S = 5, 3600, 900
NODE = "gpu-1"
MODEL = "NVIDIA H100 80GB HBM3"
OWNER = Labels("ada", "nlp", "bert-base")
TRIALS = tuple(WorkloadId("slurm", str(101 + n)) for n in range(4))
IT_KWH = (16, 4, 4, 0, 0)
"""By hour, of all machines."""
GRAMS = (300, 500, 400, 400, 400)
CURRENCY = "USD"

RATES = RateSet(
    CURRENCY,
    "DE",
    StepCurve((Point(0, NANO // 5, nano_per_kwh(CURRENCY), "contract 2026", Quality.MEASURED),)),
    StepCurve(
        tuple(
            Point(T0_S + HOUR_S * n, g * UG_PER_G, UG_PER_KWH, "grid operator", Quality.MEASURED)
            for n, g in enumerate(GRAMS)
        )
    ),
    StepCurve((Point(0, PPM * 5 // 4, RATIO_PPM, "machine room, 2025", Quality.MEASURED),)),
    (
        HardwareRate(
            "NVIDIA H100*",
            # $280,320 for eight, four years, held for 80 % of them.
            hourly_nano(280_320 * NANO // 8, 0, Decimal(4), Decimal("0.8")),
            "bought 2026",
        ),
    ),
)
WANTED = frozenset(
    {Charge(Item.ELECTRICITY, CURRENCY), Charge(Item.CO2E), Charge(Item.HARDWARE, CURRENCY)}
)


def gpu(n: int) -> Meter:
    return Meter(Component.GPU, f"GPU-{n}")


def postings() -> Iterator[Posting]:
    """A fifth of a trial's energy is its host's CPU; a tenth of the GPUs' is idle."""
    for hour, kwh in enumerate(IT_KWH):
        quarter_uj = kwh * UJ_PER_KWH // 4
        for quarter in range(4):
            at_s = T0_S + hour * HOUR_S + quarter * QUARTER_S
            for n, trial in enumerate(TRIALS):
                of_trial = quarter_uj // len(TRIALS)
                of_gpu = of_trial * 5 // 6 // 2
                for card in (2 * n, 2 * n + 1):
                    amount = Amount(of_gpu, of_gpu // 10, QUARTER_NS)
                    yield Posting(NODE, trial, gpu(card), at_s, amount, Method.COUNTER, "prolog")
                cpu = Meter(Component.CPU, f"package-{n}")
                rest = Amount(of_trial - 2 * of_gpu)
                yield Posting(NODE, trial, cpu, at_s, rest, Method.APPORTIONED, "prolog")


MODELS: Mapping[Meter, str] = {gpu(n): MODEL for n in range(8)}


def account() -> ReportData:
    """What the ledger is made of."""
    return ReportData(
        "test",
        0,
        1 << 40,
        tuple(postings()),
        models={(NODE, meter): model for meter, model in MODELS.items()},
    )


def write_worked(path: Path, owner: Labels = OWNER, *, priced: bool = True, name: str = "") -> None:
    """The worked example as a ledger."""
    whole = account()
    facts = (
        WorkloadFacts(
            trial,
            name=name or "trial",
            labels=owner,
            started_ns=T0_S * NS_PER_S,
            ended_ns=(T0_S + HOURS * HOUR_S) * NS_PER_S,
            complete=True,
            gpu_count=2,
            evidence="prolog",
            extra={"partition": "h100", "gpu_model": MODEL},
        )
        for trial in TRIALS
    )
    data = recharged(whole, RATES, WANTED).account if priced else whole
    write_ledger(path, data, facts, T0_S + HOURS * HOUR_S)


def write_ledger(path: Path, data: ReportData, facts: Iterable[WorkloadFacts], end_s: int) -> None:
    """The ledger as the daemon would have left it, an hour after the end."""
    entry = Entry(
        postings={
            PostingKey(
                row.subject, row.meter, row.quarter_s, row.method or Method.COUNTER, "prolog"
            ): row.amount
            for row in data.postings
        },
        facts=tuple(facts),
        charges={
            ChargeKey(row.subject, row.quarter_s, row.charge): row.amount for row in data.charges
        },
        rates={row.used: Amount(row.energy_uj, 0, row.held_ns) for row in data.rates},
    )
    models = {meter: model for (_, meter), model in data.models.items()}
    with closing(SqliteStore(path, allow_volatile=True)) as store:
        books, _ = store.load()
        anchor = Anchor("boot", 0, (end_s + HOUR_S) * NS_PER_S)
        store.commit(books, Books(models=models), entry, anchor)
