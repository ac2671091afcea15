"""The REST API under `/api/v1`: JSON or CSV, described by `/api/v1/openapi.json`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Path, Query, Request, Response

from joulebook.core.report.dataset import ReportData
from joulebook.core.report.run_roles import RoleChoice
from joulebook.errors import ConfigError, InputError
from joulebook.lab.collected import months
from joulebook.lab.figures import Figures, figures
from joulebook.lab.report import statement
from joulebook.lab.report.about import About
from joulebook.lab.report.formats import renderer
from joulebook.lab.report.model import Statement
from joulebook.lab.web.grants import Grants
from joulebook.lab.web.identity import viewer_of
from joulebook.lab.web.lists import MOST, After, Format, Limit, listed, part_of
from joulebook.lab.web.service import Lab
from joulebook.lab.web.view import JobFilter, JobLine, OwnerUsage, of_job
from joulebook.lab.web.viewer import Viewer
from joulebook.units import NS_PER_S

LEVELS = {
    "experiment": ("remainder", "account", "person", "experiment"),
    "user": ("remainder", "account", "person"),
    "account": ("account",),
    "lab": ("remainder",),
}
"""What a month can be grouped by, and the fields of an owner that are kept."""

_YEAR = r"(19[7-9]\d|2[01]\d\d)"
"""Nanoseconds of a later one fit into no database."""
MONTH = rf"{_YEAR}-(0[1-9]|1[0-2])"
"""A month that has seconds of UTC."""

Month = Annotated[str, Path(pattern=rf"^{MONTH}$", description="As in 2026-11.")]
DAY = rf"{_YEAR}-\d\d-\d\d"
Day = Annotated[str, Query(pattern=rf"^{DAY}$", description="As in 2026-11-30, UTC.")]
Name = Annotated[str, Query(max_length=256)]

router = APIRouter(prefix="/api/v1")


def the_lab(request: Request) -> Lab:
    """Return the server that answers."""
    lab: Lab = request.app.state.lab
    return lab


def the_viewer(request: Request) -> Viewer:
    """Return whoever asks."""
    lab = the_lab(request)
    with lab.databases.one() as database:
        grants = Grants(database, lab.now_s)
        return viewer_of(request, grants, lab.directory, lab.proxy, lab.reviews)


def known(viewer: Annotated[Viewer, Depends(the_viewer)]) -> Viewer:
    """Return whoever asks. Raises `InputError` (`unknown`) if that is nobody in particular."""
    if not viewer.known:
        raise InputError("log in first: joulebook acct --web", reason="unknown")
    return viewer


TheLab = Annotated[Lab, Depends(the_lab)]
Anybody = Annotated[Viewer, Depends(the_viewer)]
Known = Annotated[Viewer, Depends(known)]


@dataclass(frozen=True)
class Whoami:
    """Who asks, and what may be seen."""

    user: str
    how: str
    admin: bool
    coordinates: list[str]


@dataclass(frozen=True)
class MonthOut:
    """A month with bookings; `closed_utc_s` is `null` while it is open."""

    month: str
    closed_utc_s: int | None


@dataclass(frozen=True)
class UsageOut:
    """What one owner used; names that were not asked for, or do not apply, are empty."""

    account: str
    user: str
    experiment: str
    remainder: str
    figures: Figures


@dataclass(frozen=True)
class MonthUsage:
    """A month, grouped; `next` is `after` of the next request, empty at the end."""

    month: str
    by: str
    lines: list[UsageOut]
    next: str


@dataclass(frozen=True)
class JobOut:
    """One job. Times are UTC seconds, `null`: not known, or not over."""

    id: str
    cluster: str
    scheduler: str
    name: str
    user: str
    account: str
    experiment: str
    stage: str
    outcome: str
    started_utc_s: float | None
    ended_utc_s: float | None
    gpu_count: int
    figures: Figures


@dataclass(frozen=True)
class JobsOut:
    """Jobs, the latest first; `next` is `after` of the next request, empty at the end."""

    jobs: list[JobOut]
    next: str


@dataclass(frozen=True)
class NodeOut:
    """How far a node is collected (UTC seconds), and how many changes are missing."""

    cluster: str
    node: str
    booked_to_utc_s: int
    seen_utc_s: int
    missing: int
    target: str


@router.get("/whoami")
def whoami(viewer: Anybody) -> Whoami:
    """Say who asks."""
    return Whoami(viewer.user, viewer.how, viewer.admin, sorted(viewer.coordinates))


@router.get("/months", response_model=list[MonthOut])
def list_months(
    lab: TheLab, viewer: Known, limit: Limit = 100, after: After = "", format: Format = "json"
) -> Response:
    """List the months in which the viewer has anything, the latest first."""
    with lab.view(viewer) as view:
        found = [MonthOut(months.shown(m), closed_s) for m, closed_s, _ in view.months()]
    return listed(found, limit, after, format, "month")


@router.get("/months/{month}", response_model=MonthUsage)
def month_usage(
    month: Month,
    lab: TheLab,
    viewer: Anybody,
    by: Literal["experiment", "user", "account", "lab"] = "experiment",
    limit: Limit = MOST,
    after: After = "",
    format: Format = "json",
) -> MonthUsage | Response:
    """Return what a month comes to, grouped; `account` and `lab` name nobody."""
    number = months.parsed(month)
    with lab.view(viewer) as view:
        if by == "lab":
            found = view.totals(number)
        elif by == "account":
            found = view.accounts(number)
        else:
            found = view.usage(number, LEVELS[by])
    made = [usage_out(each) for each in found]
    names = ("account", "user", "experiment", "remainder")
    if format == "csv":
        return listed(made, limit, after, format, *names)
    shown, further = part_of(made, limit, after, names)
    return MonthUsage(month, by, list(shown), further)


@router.get("/jobs", response_model=JobsOut)
def jobs(  # noqa: PLR0913 - the parameters of a query are those of its function
    lab: TheLab,
    viewer: Known,
    since: Day,
    until: Day,
    *,
    user: Name = "",
    account: Name = "",
    experiment: Name = "",
    limit: Limit = 100,
    after: After = "",
    format: Format = "json",
) -> JobsOut | Response:
    """List jobs with energy on the days from `since` to before `until`."""
    asked = JobFilter(day(since, "since"), day(until, "until"), user, account, experiment)
    with lab.view(viewer) as view:
        found = [job_out(each) for each in view.jobs(asked)]
    names = ("started_utc_s", "cluster", "id")
    if format == "csv":
        return listed(found, limit, after, format, *names)
    shown, further = part_of(found, limit, after, names)
    return JobsOut(list(shown), further)


@router.get("/jobs/{job}")
def one_job(
    job: Annotated[str, Path(max_length=256)], lab: TheLab, viewer: Known, cluster: Name = ""
) -> list[JobOut]:
    """Return the runs of a job: its tasks, requeues and components."""
    with lab.view(viewer) as view:
        found = [job_out(each) for each in view.runs(of_job(job, cluster))]
    if not found:
        raise InputError(f"no job {job!r} of yours", reason="missing")
    return found


@router.get("/statement")
def write_statement(
    lab: TheLab,
    viewer: Known,
    experiment: Annotated[str, Query(min_length=1, max_length=256)],
    account: Name = "",
    length: Literal["sentence", "short", "full"] = "full",
    format: Literal[
        "text",
        "markdown",
        "latex",
        "html",
        "json",
        "csv",
        "hf",
        "boamps",
        "eu-gpai",
        "cyclonedx",
        "spdx",
        "sci",
    ] = "json",
) -> Response:
    """Return the statement of an experiment, as `joulebook report` writes it."""
    with lab.view(viewer) as view:
        data = view.of_experiment(experiment, account)
    if len(names := accounts_of(data)) > 1:
        raise InputError(
            f"several accounts have an experiment {experiment!r}: choose one with account="
            f"{' or '.join(name or '(none)' for name in names)}",
            reason="ambiguous",
        )
    made = statement_of(lab, data)
    media = dict.fromkeys(("json", "boamps", "cyclonedx", "spdx"), "application/json")
    media |= {"csv": "text/csv", "html": "text/html"}
    try:
        text = renderer(format, length)(made)
    except ConfigError as error:
        raise InputError(str(error), reason="lacking") from None
    return Response(text, media_type=media.get(format, "text/plain"))


@router.get("/nodes", response_model=list[NodeOut])
def nodes(
    lab: TheLab, viewer: Known, limit: Limit = 100, after: After = "", format: Format = "json"
) -> Response:
    """List the nodes and how far each is collected; for administrators."""
    with lab.view(viewer) as view:
        found = [NodeOut(*each) for each in view.nodes()]
    return listed(found, limit, after, format, "cluster", "node", "booked_to_utc_s", "target")


def accounts_of(data: ReportData) -> list[str]:
    """Return the accounts that the runs of a report belong to."""
    return sorted({each.labels.account for each in data.workloads.values()})


def statement_of(lab: Lab, data: ReportData) -> Statement:
    """Return the statement that `joulebook report` would make of the data."""
    site = lab.config
    context = statement.StatementContext(lab.now_s(), {}, "", site.report, site.rates.zone)
    return statement.make(data, About(), RoleChoice("", (), {}), context)


def usage_out(usage: OwnerUsage) -> UsageOut:
    """Return a line of a month as it is answered."""
    remainder, account, user, experiment = usage.owner
    used = figures(usage.by_component, usage.charges)
    return UsageOut(account, user, experiment, remainder, used)


def job_out(line: JobLine) -> JobOut:
    """Return a job as it is answered."""
    job = line.job
    return JobOut(
        job.shown,
        job.of_cluster,
        job.id.scheduler,
        job.name,
        job.labels.user,
        job.labels.account,
        job.labels.experiment,
        job.stage,
        job.outcome,
        None if job.started_utc_ns is None else job.started_utc_ns / NS_PER_S,
        None if job.ended_utc_ns is None else job.ended_utc_ns / NS_PER_S,
        job.gpu_count,
        figures(line.by_component, line.charges),
    )


def day(text: str, name: str) -> int:
    """Parse a day into the UTC second at which it begins. Raises `InputError`."""
    try:
        return months.day_s(text)
    except ValueError:
        raise InputError(f"{name}: {text!r} is no day", reason="day") from None
