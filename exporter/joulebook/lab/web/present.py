"""What the lab's pages show: columns of one unit each, cards, pictures, and advice."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple
from urllib.parse import quote, urlencode

from markupsafe import Markup

from joulebook.core import units_text
from joulebook.core.evidence import Amount
from joulebook.core.money.amounts import Charges, total
from joulebook.core.report.dataset import ReportData, ReportWorkload
from joulebook.core.report.rollup import net
from joulebook.core.report.runs import WorkloadTotals
from joulebook.core.report.tally import ENOUGH
from joulebook.core.units_text import ENERGY, in_column
from joulebook.lab.figures import CO2E, charges, idle_cost
from joulebook.lab.web.view import JobLine, OwnerUsage
from joulebook.units import NS_PER_HOUR, NS_PER_S

_PICTURE = 120
"""The most steps in a picture of power over time."""


class TableColumn(NamedTuple):
    """A column of a table: its title, whether it holds figures, and its cells."""

    title: str
    cells: Sequence[str]
    figures: bool = True
    links: Sequence[str] = ()


def cards(lines: Sequence[OwnerUsage], before: Sequence[OwnerUsage]) -> list[tuple[str, str, str]]:
    """Return title, figure and the figure of the period before."""
    return [
        (title, say(lines), say(before) if before else "")
        for title, say in (
            ("Energy", _said_energy),
            ("Cost", _said_cost),
            ("CO2e", _said_co2e),
            ("Allocated but idle", _said_idle),
            ("Unattributed and unallocated", _said_remainder),
        )
        if title != "Unattributed and unallocated" or any(e.owner.remainder for e in lines)
    ]


def _said_energy(lines: Sequence[OwnerUsage]) -> str:
    return units_text.energy(sum(line.amount.energy_uj for line in lines))


def _said_cost(lines: Sequence[OwnerUsage]) -> str:
    sums = net(_charges(lines))
    return ", ".join(units_text.money(v.floor, c) for c, v in sorted(sums.items())) or "no price"


def _said_co2e(lines: Sequence[OwnerUsage]) -> str:
    charges = _charges(lines)
    return units_text.co2e(charges[CO2E].floor) if CO2E in charges else "no intensity"


def _said_idle(lines: Sequence[OwnerUsage]) -> str:
    used = [line for line in lines if not line.owner.remainder]
    said = [units_text.energy(sum(line.amount.idle_uj for line in used))]
    idle = sorted(idle_cost(_charges(used)).items())
    return ", ".join([*said, *(units_text.money(value.floor, c) for c, value in idle)])


def _said_remainder(lines: Sequence[OwnerUsage]) -> str:
    return _said_energy([line for line in lines if line.owner.remainder])


def _charges(lines: Sequence[OwnerUsage]) -> Charges:
    return total(line.charges for line in lines)


def _figures(rows: Sequence[tuple[Amount, Charges]]) -> list[TableColumn]:
    """Return energy, GPU-hours, idle share, cost and CO2e, each in one unit."""
    unit, energies = in_column([amount.energy_uj for amount, _ in rows], ENERGY)
    _, hours = in_column([amount.held_ns for amount, _ in rows], ((NS_PER_HOUR, ""),), decimals=2)
    idle = [
        f"{amount.idle_ns / amount.held_ns:.0%}" if amount.held_ns else "-" for amount, _ in rows
    ]
    columns = [
        TableColumn(f"energy ({unit})", energies),
        TableColumn("GPU-hours", hours),
        TableColumn("idle", idle),
    ]
    # Without a price or an intensity there is nothing to show.
    charged = charges([bill for _, bill in rows])
    return columns + [TableColumn(*each) for each in charged if set(each.cells) != {"-"}]


def experiments(lines: Sequence[OwnerUsage], month: str) -> list[TableColumn]:
    """Return a row for each experiment, with links to its page and to the jobs of its user."""
    names = [line.owner.experiment or "(no name)" for line in lines]
    links = [
        f"/experiment?{urlencode({'name': line.owner.experiment, 'account': line.owner.account})}"
        if line.owner.experiment
        else ""
        for line in lines
    ]
    jobs_ = [f"/jobs?{urlencode({'month': month, 'user': line.owner.person})}" for line in lines]
    return [
        TableColumn("experiment", names, figures=False, links=links),
        TableColumn("account", [line.owner.account for line in lines], figures=False),
        TableColumn("user", [line.owner.person for line in lines], figures=False, links=jobs_),
        *_figures([(line.amount, line.charges) for line in lines]),
    ]


def owners(lines: Sequence[OwnerUsage], field: str) -> list[TableColumn]:
    """Return a row for each value of one field of the owner."""
    names = [getattr(line.owner, field) or "(none)" for line in lines]
    return [
        TableColumn(field, names, figures=False),
        *_figures([(line.amount, line.charges) for line in lines]),
    ]


def jobs(lines: Sequence[JobLine]) -> list[TableColumn]:
    """Return a row for each job, with a link to its page."""
    jobs_ = [line.job for line in lines]
    started = [_started(job.started_utc_ns) for job in jobs_]
    columns = [
        TableColumn("job", [job.shown for job in jobs_], figures=False,
               links=[f"/job/{quote(job.shown, safe='')}" for job in jobs_]),
        TableColumn("name", [job.name for job in jobs_], figures=False),
        TableColumn("user", [job.labels.user for job in jobs_], figures=False),
        TableColumn("experiment", [job.labels.experiment for job in jobs_], figures=False),
        TableColumn("started (UTC)", started, figures=False),
        TableColumn("duration", [_lasted(job) for job in jobs_]),
        *_figures([(line.amount, line.charges) for line in lines]),
    ]  # fmt: skip
    return [column for column in columns if any(column.cells)]


def one_run(run: WorkloadTotals, data: ReportData) -> dict[str, Any]:
    """Return what one screen says of a run."""
    job, line = run.workload, JobLine.of(run)
    component_unit, cells = in_column(
        [amount.energy_uj for amount in line.by_component.values()], ENERGY
    )
    coverage = run.coverage
    return {
        "shown": job.shown,
        "facts": [
            (name, value)
            for name, value in (
                ("name", job.name), ("user", job.labels.user), ("account", job.labels.account),
                ("experiment", job.labels.experiment), ("cluster", job.of_cluster),
                ("nodes", ", ".join(run.nodes)), ("GPUs", str(job.gpu_count or "")),
                ("started", _started(job.started_utc_ns)), ("duration", _lasted(job)),
                ("outcome", job.outcome), ("stage", job.stage),
            )
            if value
        ],
        "cards": cards([line.usage], []),
        "unit": component_unit,
        "components": list(zip(line.by_component, cells, strict=True)),
        "coverage": "" if coverage is None else f"{coverage:.1%}",
        "partial": coverage is not None and coverage < ENOUGH,
        "methods": [
            (method.value, f"{amount.energy_uj / (run.total.energy_uj or 1):.0%}")
            for method, amount in run.by_method.items()
        ],
        "replayed": run.replayed,
        "picture": picture(data, run),
        "advice": list(_advice(run)),
    }  # fmt: skip


_IDLE_SHARE = 0.2


def _advice(run: WorkloadTotals) -> Iterator[str]:
    """Yield what the owner of a run can do about it."""
    gpu = run.gpu
    if gpu.held_ns and gpu.idle_ns > _IDLE_SHARE * gpu.held_ns:
        yield (
            f"GPUs were idle for {gpu.idle_ns / gpu.held_ns:.0%} of the time they were held: end "
            "the job when it is done, load data ahead, or ask for fewer GPUs."
        )
    if not run.workload.named:
        yield (
            "Nobody gave this experiment its name: set JOULEBOOK_EXPERIMENT, or --comment "
            "experiment=NAME, so that its runs are added up as one."
        )


def picture(data: ReportData, run: WorkloadTotals | None = None) -> dict[str, Any] | None:
    """Return mean GPU power by quarter hour (or longer) as points of an SVG; `None`: too few."""
    of: dict[int, int] = {}
    for row in data.postings:
        if run is None or row.subject == run.workload.id:
            of[row.quarter_s] = of.get(row.quarter_s, 0) + row.amount.energy_uj
    if len(of) < 2:
        return None
    first, last = min(of), max(of) + _QUARTER_S
    width_s = max((last - first) // _PICTURE // _QUARTER_S + 1, 1) * _QUARTER_S
    sums: dict[int, int] = {}
    for at_s, energy_uj in of.items():
        sums[(at_s - first) // width_s] = sums.get((at_s - first) // width_s, 0) + energy_uj
    watts = [sums.get(n, 0) / 1e6 / width_s for n in range((last - first - 1) // width_s + 1)]
    most = max(watts) or 1.0
    step = 300 / len(watts)
    edges = [(n * step, 60 - 56 * value / most) for n, value in enumerate(watts)]
    points = " ".join(f"{x:.1f},{y:.1f} {x + step:.1f},{y:.1f}" for x, y in edges)
    return {
        "points": Markup(f"0,60 {points} 300,60"),  # noqa: S704 - numbers of ours
        "most": units_text.watts(most),
        "first": moment(first),
        "last": moment(last),
        "step": f"{width_s // 60} min",
    }


_QUARTER_S = 900


def _started(utc_ns: int | None) -> str:
    return "" if utc_ns is None else moment(utc_ns // NS_PER_S)


def _lasted(job: ReportWorkload) -> str:
    if job.started_utc_ns is None:
        return ""
    if job.ended_utc_ns is None:
        return "running"
    seconds = (job.ended_utc_ns - job.started_utc_ns) / NS_PER_S
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def moment(utc_s: int) -> str:
    """Return an instant as people read it; 0: never."""
    return datetime.fromtimestamp(utc_s, UTC).strftime("%Y-%m-%d %H:%M") if utc_s else "never"


def day(utc_s: int) -> str:
    """Return the day of an instant, as in 2026-11-30."""
    return datetime.fromtimestamp(utc_s, UTC).strftime("%Y-%m-%d")
