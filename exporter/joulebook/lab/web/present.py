"""What the lab's pages show: columns of one unit each, cards, pictures, and advice."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import NamedTuple
from urllib.parse import quote, urlencode

from joulebook.core import units_text
from joulebook.core.evidence import Amount
from joulebook.core.money.amounts import Charges, total
from joulebook.core.report.dataset import ReportWorkload
from joulebook.core.report.rollup import net
from joulebook.core.units_text import ENERGY, in_column
from joulebook.lab.collected import months
from joulebook.lab.collected.schema import MonthSum
from joulebook.lab.figures import CO2E, added, charges, idle_columns, idle_text
from joulebook.lab.web.view import JobLine, OwnerUsage
from joulebook.units import NS_PER_HOUR, NS_PER_S

IDLE_SHARE = 0.2
"""Of the time that GPUs were held, beyond which something should be done about it."""


class TableColumn(NamedTuple):
    """A column of a table.

    Attributes:
        title: What it holds.
        cells: Its cells.
        figures: Whether these are figures.
        links: Where each leads; empty: nowhere.
        key: The word by which rows are sorted by it; empty: they are not.

    """

    title: str
    cells: Sequence[str]
    figures: bool = True
    links: Sequence[str] = ()
    key: str = ""


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
    return idle_text(sum(line.amount.idle_uj for line in used), _charges(used))


def _said_remainder(lines: Sequence[OwnerUsage]) -> str:
    return _said_energy([line for line in lines if line.owner.remainder])


def _charges(lines: Sequence[OwnerUsage]) -> Charges:
    return total(line.charges for line in lines)


def figure_columns(rows: Sequence[tuple[Amount, Charges]]) -> list[TableColumn]:
    """Return energy, GPU-hours, idle share, cost and CO2e, each in one unit."""
    unit, energies = in_column([amount.energy_uj for amount, _ in rows], ENERGY)
    _, hours = in_column([amount.held_ns for amount, _ in rows], ((NS_PER_HOUR, ""),), decimals=2)
    idle = [
        f"{amount.idle_ns / amount.held_ns:.0%}" if amount.held_ns else "-" for amount, _ in rows
    ]
    columns = [
        TableColumn(f"energy ({unit})", energies, key="energy"),
        TableColumn("GPU-hours", hours, key="hours"),
        TableColumn("idle", idle, key="idle"),
    ]
    currencies = sorted({currency for _, bill in rows for currency in net(bill)})
    keys = [f"cost-{currency}" for currency in currencies] if currencies else [""]
    # Without a price or an intensity there is nothing to show.
    charged = zip(charges([bill for _, bill in rows]), [*keys, "co2e"], strict=True)
    return columns + [
        TableColumn(*each, key=key) for each, key in charged if set(each.cells) != {"-"}
    ]


def experiments(lines: Sequence[OwnerUsage], jobs_: Mapping[str, str]) -> list[TableColumn]:
    """Return a row for each experiment, with links to its page and to the jobs of its user.

    `jobs_` is the query of those jobs without their user.
    """
    names = [line.owner.experiment or "(no name)" for line in lines]
    links = [
        f"/experiment?{urlencode({'name': line.owner.experiment, 'account': line.owner.account})}"
        if line.owner.experiment
        else ""
        for line in lines
    ]
    of_user = [f"/jobs?{urlencode({**jobs_, 'user': line.owner.person})}" for line in lines]
    accounts = [line.owner.account for line in lines]
    users = [line.owner.person for line in lines]
    return [
        TableColumn("experiment", names, figures=False, links=links, key="experiment"),
        TableColumn("account", accounts, figures=False, key="account"),
        TableColumn("user", users, figures=False, links=of_user, key="user"),
        *figure_columns([(line.amount, line.charges) for line in lines]),
    ]


SORTS = r"-?(experiment|account|user|energy|hours|idle|co2e|cost-[A-Za-z0-9]{1,8})"
"""What experiments are sorted by; with `-`, the other way round."""


def ranked(lines: Sequence[OwnerUsage], sort: str) -> list[OwnerUsage]:
    """Return experiments in order: figures begin with the most, names with the first."""
    key = sort.removeprefix("-")
    names = {"experiment": 3, "account": 1, "user": 2}
    if key in names:
        return sorted(lines, key=lambda line: line.owner[names[key]], reverse=sort != key)

    def figure(line: OwnerUsage) -> float:
        amount = line.amount
        if key == "idle":
            return amount.idle_ns / amount.held_ns if amount.held_ns else -1
        if key == "co2e":
            return line.charges[CO2E].atoms if CO2E in line.charges else -1
        if key.startswith("cost-"):
            cost = net(line.charges).get(key.removeprefix("cost-"))
            return -1 if cost is None else cost.atoms
        return amount.held_ns if key == "hours" else amount.energy_uj

    return sorted(lines, key=figure, reverse=sort == key)


def owners(lines: Sequence[OwnerUsage], field: str) -> list[TableColumn]:
    """Return a row for each value of one field of the owner."""
    names = [getattr(line.owner, field) or "(none)" for line in lines]
    title = "reason" if field == "remainder" else field
    return [
        TableColumn(title, names, figures=False),
        *figure_columns([(line.amount, line.charges) for line in lines]),
    ]


def jobs(lines: Sequence[JobLine]) -> list[TableColumn]:
    """Return a row for each job, with a link to its page."""
    jobs_ = [line.job for line in lines]
    begun = [started(job.started_utc_ns) for job in jobs_]
    columns = [
        TableColumn("job", [job.shown for job in jobs_], figures=False,
               links=[f"/job/{quote(job.shown, safe='')}" for job in jobs_]),
        TableColumn("name", [job.name for job in jobs_], figures=False),
        TableColumn("user", [job.labels.user for job in jobs_], figures=False),
        TableColumn("experiment", [job.labels.experiment for job in jobs_], figures=False),
        TableColumn("started (UTC)", begun, figures=False),
        TableColumn("duration", [lasted(job) for job in jobs_]),
        *figure_columns([(line.amount, line.charges) for line in lines]),
    ]  # fmt: skip
    return [*columns[:1], *(column for column in columns[1:] if any(column.cells))]


def months_table(sums: Mapping[int, MonthSum]) -> list[TableColumn]:
    """Return a row for each month that has anything, the latest first."""
    every = sorted(sums, reverse=True)
    return [
        TableColumn("month", [months.shown(month) for month in every], figures=False),
        *figure_columns([(added(sums[month].used), sums[month].billed) for month in every]),
    ]


def most_idle(lines: Sequence[JobLine]) -> list[JobLine]:
    """Return the jobs that held GPUs without using them, the longest first."""
    idle = [line for line in lines if line.amount.idle_ns]
    return sorted(idle, key=lambda line: -line.amount.idle_ns)


def idle_jobs(lines: Sequence[JobLine]) -> list[TableColumn]:
    """Return a row for each job: how long it held idle GPUs, and what that cost."""
    named = [column for column in jobs(lines) if column.title in {"job", "name", "experiment"}]
    _, hours = in_column([line.amount.idle_ns for line in lines], ((NS_PER_HOUR, ""),), decimals=2)
    shares = [f"{line.amount.idle_ns / (line.amount.held_ns or 1):.0%}" for line in lines]
    return [
        *named,
        TableColumn("idle GPU-hours", hours),
        TableColumn("of its time", shares),
        *(TableColumn(*each) for each in idle_columns([line.charges for line in lines])),
    ]


def idle_advice(lines: Sequence[OwnerUsage], idle: Sequence[JobLine]) -> Iterator[str]:
    """Yield what somebody can do about the idle time of a month."""
    held_ns = sum(line.amount.held_ns for line in lines)
    idle_ns = sum(line.amount.idle_ns for line in lines)
    if not idle or idle_ns <= IDLE_SHARE * held_ns:
        return
    first = idle[0]
    yield (
        f"GPUs were idle for {idle_ns / held_ns:.0%} of the time that you held them, which costs "
        "as much hardware as if they had worked."
    )
    yield (
        f"Begin with job {first.job.shown}: it has {first.amount.idle_ns / idle_ns:.0%} of that "
        "time. End jobs when they are done, load data ahead of the GPU, or ask for fewer GPUs."
    )


def started(utc_ns: int | None) -> str:
    """Return when a job started, as people read it."""
    return "" if utc_ns is None else moment(utc_ns // NS_PER_S)


def lasted(job: ReportWorkload) -> str:
    """Return how long a job lasted: hours, minutes and seconds."""
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
