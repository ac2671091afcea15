"""The statement of a job, as text and as JSON; unknown figures are marked."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

from joulebook.commands.shared import text
from joulebook.commands.shared.charge_text import NO_RATES, as_object, came_to
from joulebook.commands.shared.text import UNKNOWN
from joulebook.core import units_text
from joulebook.core.energy.readings import Component
from joulebook.core.evidence import ZERO, Amount, Method
from joulebook.core.money import amounts
from joulebook.core.report.dataset import ReportWorkload
from joulebook.core.report.runs import WorkloadTotals
from joulebook.core.sanitize import one_line
from joulebook.terminal import Column, Screen, cut, wrap
from joulebook.units import NS_PER_HOUR, NS_PER_S, QUARTER_NS, kwh_from_uj, s_from_ns

_QUARTER_S = QUARTER_NS // NS_PER_S

Key = TypeVar("Key", bound=str)

_METHODS = {
    Method.COUNTER: "measured by the energy counter",
    Method.INTEGRATED: "integrated from measured power",
    Method.MODELLED: "modelled, not measured",
    Method.APPORTIONED: "apportioned among the workloads that shared the device",
}

_EVIDENCE = {
    "prolog": "SLURM's Prolog",
    "pod-resources": "the kubelet",
    "job-mapping": "a job-mapping file",
    "gpustat": "a Jobstats file",
    "scontrol": "SLURM's controller",
    "processes": "processes on the GPU",
    "derived": "its module's counter minus the CPU socket",
}

_THIS_NODE = (
    "Covers this node's meters only: a job on several nodes has a part in each node's ledger."
)

_LIST_COLUMNS = (
    Column("JOB", name=True),
    Column("USER", name=True, spare=4),
    Column("EXPERIMENT", name=True, spare=3),
    Column("BEGIN (UTC)", spare=5),
    Column("LASTED", right=True, spare=2),
    Column("GPU-HOURS", right=True),
    Column("ENERGY", right=True),
    Column("IDLE", right=True),
    Column("COST", right=True, spare=6),
)
_HOURS = 5
"""The place of the GPU-hours, of which energy may be known for a part only."""


def is_running(totals: WorkloadTotals, now_s: float) -> bool:
    """Return whether the job seems to be running: no end on record, and booked to lately.

    A job whose end was missed (power failure) has no end on record either.
    """
    if totals.workload.ended_utc_ns is not None:
        return False
    began_ns = totals.workload.started_utc_ns
    last_s = totals.last_s if totals.last_s is not None else (began_ns or 0) // NS_PER_S
    # A quarter hour ends in the future while it is being booked to.
    return last_s >= now_s - _QUARTER_S


def as_statement(
    totals: WorkloadTotals, where: str, screen: Screen, now_s: float, *, alone: bool = True
) -> list[str]:
    """Return the statement of a job; `alone`: from one node's ledger, which knows no other node."""
    job = totals.workload
    running = is_running(totals, now_s)
    title = f"{_kind(job)} {one_line(job.display or job.id.workload)} on {where}"
    if running:
        title += " (so far: running, or its end is being booked)"
    fields = [
        ("Name", _known(job.name)),
        ("User", _known(job.labels.user)),
        ("Account", _known(job.labels.account)),
        ("Experiment", _known(job.labels.experiment)),
        ("Begin", _instant(job.started_utc_ns)),
        ("End", _end(totals, running)),
        ("GPUs", _gpus(totals)),
        *_figures([totals]),
    ]
    made = [screen.paint(cut(title, screen.width), "bold")]
    for name, value in fields:
        made += _field(name, value, screen.width)
    if len(totals.by_meter) > 1:
        made += ["", *_meters(totals, screen)]
    if not totals.total.energy_uj:
        made += [
            "",
            "Nothing booked yet." if running else "Nothing was booked to it.",
        ]
    if totals.replayed:
        made += ["", *wrap(text.REPLAYED, screen.width)]
    if alone:
        made += ["", *wrap(_THIS_NODE, screen.width)]
    return made


def as_list(
    asked: str, found: Sequence[WorkloadTotals], where: str, screen: Screen, now_s: float
) -> list[str]:
    """Return the tasks of an array or the runs of a requeued job, one per line, and their total."""
    running = sum(is_running(each, now_s) for each in found)
    title = f"{text.several(len(found), 'workload')} of {one_line(asked, 80)} on {where}"
    if running:
        title += f" ({running:,} so far: running, or their end is being booked)"
    unit, energies = units_text.in_column([e.total.energy_uj for e in found], units_text.ENERGY)
    columns = [
        column._replace(title=f"ENERGY ({unit})") if column.title == "ENERGY" else column
        for column in _LIST_COLUMNS
    ]
    rows = [_row(each, energy, now_s) for each, energy in zip(found, energies, strict=True)]
    if any(text.is_partial(each.gpu.held_ns, _held_ns(each)) for each in found):
        columns.insert(_HOURS + 1, Column("MEASURED", right=True))
        for row, each in zip(rows, found, strict=True):
            row.insert(_HOURS + 1, text.percent(each.gpu.held_ns, _held_ns(each)))
    return [
        screen.paint(cut(title, screen.width), "bold"),
        "",
        *screen.table(columns, rows),
        "",
        *(line for field in _figures(found) for line in _field(*field, screen.width)),
        *(["", *wrap(text.REPLAYED, screen.width)] if any(e.replayed for e in found) else []),
    ]


def _figures(found: Sequence[WorkloadTotals]) -> list[tuple[str, str]]:
    """Return the figures of one workload, or of several together."""
    total = _sum(each.total for each in found)
    gpu = _sum(_of_gpus(each) for each in found)
    idle = (
        f"of it idle: {text.energy(total.idle_uj)}, "
        f"{text.percent(total.idle_uj, total.energy_uj)} (allocated but idle)"
    )
    methods = _merged(each.by_method for each in found)
    evidence = _merged(each.by_evidence for each in found)
    return [
        ("GPU time", _gpu_time(found)),
        ("Energy", text.exact_energy(total.energy_uj)),
        *([("", idle)] if total.energy_uj else []),
        ("Mean power", _mean_power(gpu)),
        ("Method", _shares(methods, _METHODS, total)),
        ("Evidence", _shares(evidence, _EVIDENCE, total)),
        ("Cost", came_to(amounts.total(each.bill for each in found)) or NO_RATES),
    ]


def _held_ns(totals: WorkloadTotals) -> int:
    return max(totals.wall_ns or 0, totals.gpu.held_ns)


def _gpu_time(found: Sequence[WorkloadTotals]) -> str:
    """Return the GPU time held, and for how much of it energy is booked."""
    held_ns = sum(map(_held_ns, found))
    booked_ns = sum(each.gpu.held_ns for each in found)
    said = text.gpu_hours(held_ns)
    if text.is_partial(booked_ns, held_ns):
        said += f"; {text.percent(booked_ns, held_ns)} of it is measured: energy is a lower bound"
    return said


def as_json(
    asked: str, node: str | None, found: Sequence[WorkloadTotals], now_s: float
) -> dict[str, Any]:
    """Return the statement as JSON. Energies in uJ are exact integers; unknown values are
    `null`.
    """
    return {
        "query": asked,
        "node": node,
        "workloads": [_object(each, now_s) for each in found],
        "total": {
            **_amounts(_sum(each.total for each in found)),
            **as_object(amounts.total(each.bill for each in found)),
        },
    }


def _object(totals: WorkloadTotals, now_s: float) -> dict[str, Any]:
    job, gpu = totals.workload, _of_gpus(totals)
    mean_w = text.mean_power_w(gpu.energy_uj, gpu.held_ns)
    return {
        "scheduler": job.id.scheduler,
        "id": job.id.workload,
        "shown": job.display or job.id.workload,
        "name": job.name or None,
        "user": job.labels.user or None,
        "account": job.labels.account or None,
        "experiment": job.labels.experiment or None,
        "running": is_running(totals, now_s),
        "started_utc_s": _utc_s(job.started_utc_ns),
        "ended_utc_s": _utc_s(job.ended_utc_ns),
        "gpu_count": job.gpu_count or None,
        **_amounts(totals.total),
        **as_object(totals.bill),
        "gpu_seconds": s_from_ns(gpu.held_ns),
        "held_gpu_seconds": s_from_ns(_held_ns(totals)),
        "coverage": totals.coverage,
        "nodes": list(totals.nodes),
        "mean_power_w_per_gpu": None if mean_w is None else round(mean_w, 3),
        "meters": {f"{m.component}/{m.name}": _amounts(a) for m, a in totals.by_meter.items()},
        "methods": {method.value: _amounts(a) for method, a in totals.by_method.items()},
        "evidence": {label: _amounts(a) for label, a in totals.by_evidence.items()},
        "recorded_trace": totals.replayed,
        "extra": job.extra,
    }


def _amounts(amount: Amount) -> dict[str, Any]:
    return {
        "energy_uj": amount.energy_uj,
        "energy_kwh": kwh_from_uj(amount.energy_uj),
        "idle_uj": amount.idle_uj,
        "held_ns": amount.held_ns,
    }


def _sum(amounts: Iterable[Amount]) -> Amount:
    total = ZERO
    for amount in amounts:
        total = total.plus(amount)
    return total


def _merged(parts: Iterable[Mapping[Key, Amount]]) -> dict[Key, Amount]:
    merged: dict[Key, Amount] = {}
    for part in parts:
        for key, amount in part.items():
            merged[key] = merged.get(key, ZERO).plus(amount)
    return merged


def _of_gpus(totals: WorkloadTotals) -> Amount:
    return totals.gpu


def _kind(job: ReportWorkload) -> str:
    return {"slurm": "Job", "kubernetes": "Pod"}.get(job.id.scheduler, "Workload")


def _known(value: str) -> str:
    return one_line(value) or UNKNOWN


def _utc_s(utc_ns: int | None) -> float | None:
    return None if utc_ns is None else s_from_ns(utc_ns)


def _instant(utc_ns: int | None) -> str:
    return UNKNOWN if utc_ns is None else text.moment(s_from_ns(utc_ns))


def _end(totals: WorkloadTotals, running: bool) -> str:
    job = totals.workload
    if job.ended_utc_ns is not None:
        lasted = _lasted(job)
        return _instant(job.ended_utc_ns) + (f", after {lasted}" if lasted else "")
    if running:
        return "not yet: no end on record"
    if totals.last_s is None:
        return UNKNOWN
    return f"{UNKNOWN}; nothing booked after {text.moment(totals.last_s)}"


def _lasted(job: ReportWorkload) -> str:
    if job.started_utc_ns is None or job.ended_utc_ns is None:
        return ""
    return text.lasted(job.ended_utc_ns - job.started_utc_ns)


def _gpus(totals: WorkloadTotals) -> str:
    names = [meter.name for meter in totals.by_meter if meter.component is Component.GPU]
    count = max(totals.workload.gpu_count, len(names))
    if not count:
        # If host energy was booked to it, or somebody said what it holds, it held none.
        return "none" if totals.total.energy_uj or totals.workload.evidence else UNKNOWN
    model = one_line(totals.workload.extra.get("gpu_model", ""))
    return f"{count} {model}".rstrip() + (
        f" ({one_line(names[0])})" if count == len(names) == 1 else ""
    )


def _mean_power(gpu: Amount) -> str:
    mean_w = text.mean_power_w(gpu.energy_uj, gpu.held_ns)
    return UNKNOWN if mean_w is None else f"{text.power(mean_w)} per GPU while held"


def _shares(amounts: Mapping[Key, Amount], names: Mapping[Key, str], total: Amount) -> str:
    ranked = sorted(amounts.items(), key=lambda item: -item[1].energy_uj)
    parts = [
        f"{text.percent(amount.energy_uj, total.energy_uj)} {names.get(key, one_line(str(key)))}"
        for key, amount in ranked
        if amount.energy_uj
    ]
    return ", ".join(parts) or UNKNOWN


def _meters(totals: WorkloadTotals, screen: Screen) -> list[str]:
    meters = sorted(totals.by_meter.items())
    unit, energies = units_text.in_column([a.energy_uj for _, a in meters], units_text.ENERGY)
    hours = units_text.in_column(
        [a.held_ns or None for _, a in meters], ((NS_PER_HOUR, ""),), decimals=2
    )[1]
    cols = (
        Column("METER", name=True),
        Column("GPU-HOURS", right=True),
        Column(f"ENERGY ({unit})", right=True),
        Column("IDLE", right=True),
    )
    rows = [
        [one_line(meter.name), held, energy, text.percent(amount.idle_uj, amount.energy_uj)]
        for (meter, amount), held, energy in zip(meters, hours, energies, strict=True)
    ]
    return screen.table(cols, rows)


def _row(totals: WorkloadTotals, energy: str, now_s: float) -> list[str]:
    job = totals.workload
    lasted = _lasted(job) or ("running" if is_running(totals, now_s) else UNKNOWN)
    return [
        one_line(job.display or job.id.workload, 80),
        _known(job.labels.user),
        _known(job.labels.experiment),
        _instant(job.started_utc_ns).removesuffix(" UTC"),
        lasted,
        f"{_held_ns(totals) / NS_PER_HOUR:,.4f}",
        energy,
        text.percent(totals.total.idle_uj, totals.total.energy_uj),
        came_to(totals.bill) or text.NOTHING,
    ]


def _field(name: str, value: str, width: int) -> list[str]:
    return wrap(value, width, f"  {name:<12}")
