"""A statement as values: what `--format json` writes, and what every other format is made of.

The schema in `docs/schema/report.schema.json` is generated from these classes, so their docstrings
are its documentation. A figure that is not known has the value null and says why; one that rests
on a figure of Joulebook's own, and not on a measurement or a setting of the site, is marked.
"""

from __future__ import annotations

from typing import Final, Literal

from msgspec import Struct

from joulebook.lab.report.serving import ServedRow

VERSION: Final = 1


class Figure(Struct, frozen=True, omit_defaults=True):
    """One figure with its unit. `low` and `high` bound it where it is a range.

    `unknown` says why `value` is null; `default` that a figure of Joulebook's own is in it;
    `source` where it is from; `note` what must be known to read it rightly.
    """

    value: float | None
    unit: str
    low: float | None = None
    high: float | None = None
    default: bool = False
    source: str = ""
    note: str = ""
    unknown: str = ""


class SharePercent(Struct, frozen=True):
    """A part of the energy, in percent."""

    name: str
    percent: float


class Gpus(Struct, frozen=True):
    """The GPUs of one model that were used: how many different ones, and for how long."""

    model: str
    count: int
    gpu_hours: float
    energy_kwh: float


class RunRow(Struct, frozen=True):
    """One run: a job on all of its nodes, or a pod. `role` is `best`, `sweep`, `excluded` or empty.

    Energy is that of the machines (without PUE). `cost` is by kind and currency. A run that is not
    `whole` began before or ended after the time of the statement, and a part of its energy is here.
    What is of a `recorded_trace` was not measured.
    """

    id: str
    name: str
    user: str
    account: str
    experiment: str
    state: str
    stage: str
    final: bool | None
    whole: bool
    role: str
    excluded_because: str
    nodes: list[str]
    started_utc: str | None
    ended_utc: str | None
    gpus: int
    gpu_models: list[str]
    gpu_hours: float
    energy_kwh: float
    energy_uj: int
    idle_energy_kwh: float
    coverage_percent: float | None
    co2e_kg: float | None
    water_l: float | None
    cost: dict[str, float]
    recorded_trace: bool


class Counts(Struct, frozen=True):
    """How many runs there were, by how they ended. All of them are in the energy.

    `not_known` is how many have an outcome that is not known; `partial_runs` are those of which
    only a part is in the time of the statement.
    """

    total: int
    completed: int
    failed: int
    cancelled: int
    preempted: int
    running: int
    not_known: int
    excluded: int
    failed_runs: list[str]
    cancelled_runs: list[str]
    preempted_runs: list[str]
    excluded_runs: dict[str, str]
    partial_runs: list[str]
    states_from: str


class Inventory(Struct, frozen=True):
    """What was run, by whom, where, when and on what."""

    experiments: list[str]
    users: list[str]
    accounts: list[str]
    nodes: list[str]
    region: str | None
    started_utc: str | None
    ended_utc: str | None
    gpus: list[Gpus]
    gpu_count: Figure
    gpu_hours: Figure


class Energy(Struct, frozen=True):
    """Energy in kWh. `it` = `gpu` + `host`, `facility` = `it` x PUE; `idle` is part of `it`.

    `best`, `sweep` and `project` are of the machines, like `it`: the run whose result is reported,
    the runs it was chosen from, and all runs, failed and excluded ones too.
    """

    gpu: Figure
    host: Figure
    cpu: Figure
    dram: Figure
    other: Figure
    idle: Figure
    it: Figure
    facility: Figure
    best: Figure
    sweep: Figure
    project: Figure


class Boundary(Struct, frozen=True):
    """What the energy covers, each part in kWh: accelerators, nodes, and the facility around them.

    `modelled_hosts` and `modelled_network` are what a multiplier of the site adds for what no meter
    read; `modelled_facility` is the energy of the facility with both. They are in no other figure.
    """

    accelerators: Figure
    node: Figure
    facility: Figure
    modelled_hosts: Figure
    modelled_network: Figure
    modelled_facility: Figure


class StageRow(Struct, frozen=True):
    """The runs of one stage, and how they ended. Energy is that of the machines (without PUE).

    `percent` is their part of the energy; `cost` is by kind and currency.
    """

    stage: str
    runs: int
    completed: int
    failed: int
    cancelled: int
    preempted: int
    running: int
    not_known: int
    gpu_hours: float
    energy_kwh: float
    energy_uj: int
    facility_kwh: float | None
    co2e_kg: float | None
    water_l: float | None
    cost: dict[str, float]
    percent: float


class Stages(Struct, frozen=True):
    """The energy by stage, the final runs against all others, and what ended without a result.

    `final` and `development` are null if nobody stated which runs are final.
    """

    rows: list[StageRow]
    total: StageRow
    final: StageRow | None
    development: StageRow | None
    lost: StageRow


class EnergyQuality(Struct, frozen=True):
    """How well the energy is known.

    `coverage` is measured time to the time for which GPUs were held, `host` the share of that time
    for which energy of hosts was measured too: below 100 % `energy.host` and what it is a part of
    are lower bounds, and at 0 % energy is that of GPUs alone. `uncertainty` is the
    half-width of the measured part: `sensor` and `reading` (what the way from ledger to report
    adds) added up. `attribution` is apart from it: the part of the energy that was shared out
    among several holders, or comes from a model. `counters` is what the energy counters of GPUs
    show of the energy that their power comes to, and whether that is right.
    """

    coverage: Figure
    methods: list[SharePercent]
    evidence: list[SharePercent]
    host: Figure
    sensor: Figure
    reading: Figure
    uncertainty: Figure
    attribution: Figure
    how_combined: str
    counters: Figure


class Rate(Struct, frozen=True):
    """A rate that was used: its least, greatest and mean value (by energy or time), and its source.

    `years` are those in which it was used; `percent` its part of what was charged at its quantity.
    """

    quantity: str
    low: float
    high: float
    mean: float
    unit: str
    source: str
    quality: str
    years: str
    percent: float
    default: bool


class Carbon(Struct, frozen=True):
    """CO2e in kg: location-based with average intensities; beside it market-based, by the site's
    contract, and embodied, as a range. `water` is in litres: IT energy x WUE of the site + energy
    of the facility x WUE of the grid.
    """

    intensity: Figure
    zone: str | None
    water: Figure
    location_based: Figure
    market_based: Figure
    embodied: Figure
    sci: Figure


class CostFigure(Struct, frozen=True):
    """Cost of one kind: `electricity` (less what was earned below zero) or `hardware`."""

    kind: str
    cost: Figure


class Compute(Struct, frozen=True):
    """Compute in PFLOP/s-days: GPUs x peak x days x utilization."""

    pflops_days: Figure
    precision: str
    utilization: Figure
    peak_source: str


class ReportedResult(Struct, frozen=True, omit_defaults=True):
    """What the researcher said of the model; nothing here is measured by Joulebook."""

    params: float | None = None
    flops: float | None = None
    metric: str = ""
    split: str = ""
    value: float | None = None
    tokens: float | None = None


class ModelCardFacts(Struct, frozen=True, omit_defaults=True):
    """What forms of others ask for, as the researcher said it: model cards and BoAmps."""

    training_type: str = ""
    stage: str = ""
    family: str = ""
    algorithm: str = ""
    data: str = ""
    country: str = ""


class Restated(Struct, frozen=True):
    """What was booked, where the statement was charged again at other rates."""

    rates_file: str
    booked_cost: dict[str, float]
    booked_co2e_kg: float | None
    difference_cost: dict[str, float]
    difference_co2e_kg: float | None
    unpriced_kwh: dict[str, float]


class Statement(Struct, frozen=True):
    """The energy, cost and CO2e of an experiment, and how they are known.

    `recorded_trace` says that energy of a trace is in it (a demo or a replay), which was not
    measured here; `named_in_code` that the researcher's code named the experiment. `rows_sha256` is
    the digest of the rows that it rests on, where they were written beside it (`--rows`) or it was
    signed: `joulebook verify` recomputes every figure from them, except for `served`, which rests
    on tokens as well.
    """

    version: Literal[1]
    title: str
    made_by: str
    made_utc: str
    recorded_trace: bool
    named_in_code: bool
    source: str
    warnings: list[str]
    unknown: dict[str, str]
    since_utc: str | None
    until_utc: str | None
    inventory: Inventory
    counts: Counts
    energy: Energy
    boundary: Boundary
    stages: Stages
    quality: EnergyQuality
    rates: list[Rate]
    carbon: Carbon
    cost: list[CostFigure]
    compute: Compute
    result: ReportedResult
    card: ModelCardFacts
    restated: Restated | None
    runs: list[RunRow]
    limits: list[str]
    rows_sha256: str | None = None
    served: list[ServedRow] = []
