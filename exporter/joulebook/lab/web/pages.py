"""The pages of the lab server, for browsers: HTML made on the server, no script needed."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Query, Request, Response
from fastapi.responses import RedirectResponse

from joulebook.core.report.dataset import ReportData
from joulebook.core.report.runs import totals
from joulebook.errors import InputError
from joulebook.lab.collected import months
from joulebook.lab.report.sources import FOREVER_S
from joulebook.lab.web import present, present_runs
from joulebook.lab.web.api import (
    DAY,
    LEVELS,
    MONTH,
    Anybody,
    Known,
    Name,
    TheLab,
    accounts_of,
    day,
    statement_of,
)
from joulebook.lab.web.grants import SESSION_S, GrantKind, Grants
from joulebook.lab.web.html import page
from joulebook.lab.web.identity import COOKIE
from joulebook.lab.web.lists import MOST
from joulebook.lab.web.pictures import by_month, power
from joulebook.lab.web.spans import MonthSpan, OwnerFilter, added_up, link
from joulebook.lab.web.view import (
    MOST_JOBS,
    JobFilter,
    JobLine,
    LabView,
    OwnerUsage,
    of_experiment,
    of_job,
)
from joulebook.lab.web.viewer import Viewer

MOST_ROWS = 200
"""The most rows of a table; the rest is counted, and in the CSV."""


router = APIRouter(include_in_schema=False)


Day = Annotated[str, Query(pattern=rf"^({DAY})?$")]
SomeMonth = Annotated[str, Query(pattern=rf"^({MONTH})?$")]

_TREND = 12
"""Months of a trend."""

_MOST_IDLE = 8
_MOST_RUNS = 50
_FEW = 20
"""Rows of a table beside others."""


@router.get("/")
def overview(
    lab: TheLab,
    viewer: Anybody,
    month: SomeMonth = "",
    until: SomeMonth = "",
    user: Name = "",
    account: Name = "",
    sort: Annotated[str, Query(pattern=rf"^{present.SORTS}$")] = "energy",
) -> Response:
    """Show some months: what they cost, who used it, what idled, and the months before."""
    if not viewer.known and not viewer.sees_totals:
        raise InputError("Nobody is logged in here.", reason="unknown")
    now = months.month_of(int(lab.now_s()))
    span, wanted = MonthSpan.parse(month, until, now), OwnerFilter(user, account)
    with lab.view(viewer) as view:
        lines = _used(view, span, wanted)
        before = _used(view, span.earlier, wanted)
        if viewer.sees_totals and not (viewer.admin or any(wanted)):
            # Where no job is the viewer's own, the sums of the lab may be.
            seen, was = (added_up(map(view.totals, each.every)) for each in (span, span.earlier))
        else:
            seen, was = lines, before
        accounts = [] if any(wanted) else added_up(map(view.accounts, span.every))
        trend = _trend(view, span, wanted)
        others = [MonthSpan(each.month, each.month) for each in view.months()]
        collected_s, replayed = view.collected_to_s(), view.replayed_nodes()
    used = present.ranked([line for line in lines if not line.owner.remainder], sort)
    own = span.query | wanted.query
    return page(
        "overview.html",
        viewer,
        span=span,
        now=now,
        wanted=wanted,
        link=link,
        cards=present.cards(seen, was),
        whose="the whole lab" if viewer.admin else f"what {viewer.user} may see",
        sort=sort,
        base=link("/", own),
        experiments=present.experiments(used[:MOST_ROWS], span.days),
        rest=max(len(used) - MOST_ROWS, 0),
        remainders=present.owners([each for each in lines if each.owner.remainder], "remainder"),
        accounts=present.owners(accounts, "account"),
        trend=trend,
        months=others,
        collected=present.moment(collected_s),
        replayed=replayed,
    )


@router.get("/me")
def mine(lab: TheLab, viewer: Known, month: SomeMonth = "") -> Response:
    """Show a user's own month beside the last one: jobs, idle time, and what to do about it."""
    now = months.month_of(int(lab.now_s()))
    span, wanted = MonthSpan.parse(month, "", now), OwnerFilter(viewer.user)
    with lab.view(viewer) as view:
        lines, before = (_used(view, each, wanted) for each in (span, span.earlier))
        found = view.jobs(JobFilter(span.begin_s, span.end_s, user=viewer.user))
        idle = view.as_booked(present.most_idle(found)[:_MOST_IDLE])
        trend = _trend(view, span, wanted)
        replayed = view.replayed_nodes()
    return page(
        "me.html",
        viewer,
        span=span,
        now=now,
        link=link,
        cards=present.cards(lines, before),
        trend=trend,
        experiments=present.experiments(present.ranked(lines, "energy")[:_FEW], span.days),
        idle=present.idle_jobs(idle),
        advice=list(present.idle_advice(lines, idle)),
        table=present.jobs(found[:_FEW]),
        rest=max(len(found) - _FEW, 0),
        jobs_link=link("/jobs", span.days | wanted.query),
        replayed=replayed,
    )


@router.get("/jobs")
def jobs(  # noqa: PLR0913 - the parameters of a query are those of its function
    lab: TheLab,
    viewer: Known,
    month: SomeMonth = "",
    *,
    since: Day = "",
    until: Day = "",
    user: Name = "",
    account: Name = "",
    experiment: Name = "",
    skip: Annotated[int, Query(ge=0, le=MOST_JOBS)] = 0,
) -> Response:
    """List the jobs of some days; of a month, if no days are given."""
    span = MonthSpan.parse(month, "", months.month_of(int(lab.now_s())))
    since_s = day(since, "since") if since else span.begin_s
    until_s = day(until, "until") if until else max(span.end_s, since_s + months.DAY_S)
    with lab.view(viewer) as view:
        found = view.jobs(JobFilter(since_s, until_s, user, account, experiment))
    shown = found[skip : skip + MOST_ROWS]
    asked = {"since": present.day(since_s), "until": present.day(until_s)}
    asked |= {"user": user, "account": account, "experiment": experiment}
    return page(
        "jobs.html",
        viewer,
        asked=asked,
        table=present.jobs(shown),
        count=len(found),
        first=skip + 1,
        last=skip + len(shown),
        earlier=link("/jobs", asked | {"skip": f"{max(skip - MOST_ROWS, 0)}"}) if skip else "",
        further=link("/jobs", asked | {"skip": f"{skip + MOST_ROWS}"})
        if skip + MOST_ROWS < len(found) else "",
        csv=link("/api/v1/jobs", asked | {"format": "csv", "limit": f"{MOST}"}),
    )  # fmt: skip


@router.get("/job/{job}")
def one_job(
    job: Annotated[str, Path(max_length=256)], lab: TheLab, viewer: Known, cluster: Name = ""
) -> Response:
    """Show one job on one screen."""
    wanted = of_job(job, cluster)
    with lab.view(viewer) as view:
        data = view.dataset(0, FOREVER_S, wanted)
        drawn, row_s = view.drawn(wanted, data)
    found = totals(data)
    if not found:
        raise InputError(f"No job {job} of yours is in the ledger.", reason="missing")
    pictures = [power(drawn, row_s, each) for each in found[:MOST_ROWS]]
    return page(
        "job.html",
        viewer,
        job=job,
        runs=[present_runs.one_run(*each) for each in zip(found, pictures, strict=False)],
    )


@router.get("/experiment")
def experiment(
    lab: TheLab,
    viewer: Known,
    name: Annotated[str, Query(min_length=1, max_length=256)],
    account: Name = "",
) -> Response:
    """Show an experiment: its figures, runs, and what to publish."""
    with lab.view(viewer) as view:
        data = view.of_experiment(name, account)
        drawn, row_s = view.drawn(of_experiment(name, account), data)
    owners = accounts_of(data)
    if len(owners) > 1:
        links = [link("/experiment", {"name": name, "account": each}) for each in owners]
        return page("choose.html", viewer, name=name, choices=list(zip(owners, links, strict=True)))
    made = statement_of(lab, data)
    runs = [JobLine.of(each) for each in totals(data)][::-1]
    statement = {"experiment": name, "account": account}
    return page(
        "experiment.html",
        viewer,
        name=name,
        account=account,
        cards=present.cards([run.usage for run in runs], []),
        texts=present_runs.to_copy(made),
        picture=power(drawn, row_s),
        formats=[
            (word, link("/api/v1/statement", statement | {"format": form}))
            for form, word in present_runs.FORMAT_WORDS.items()
        ],
        table=present.jobs(runs[:_MOST_RUNS]),
        rest=max(len(runs) - _MOST_RUNS, 0),
        jobs_link=link("/jobs", {"experiment": name, "account": account} | days_of(data)),
    )


@router.get("/nodes")
def nodes(lab: TheLab, viewer: Known) -> Response:
    """Show how far every node is collected."""
    with lab.view(viewer) as view:
        found = view.nodes()
    return page(
        "nodes.html",
        viewer,
        table=[
            present.TableColumn("node", [each.node for each in found], figures=False),
            present.TableColumn("cluster", [each.cluster for each in found], figures=False),
            present.TableColumn(
                "booked to", [present.moment(each.booked_to_s) for each in found], figures=False
            ),
            present.TableColumn(
                "last asked", [present.moment(each.seen_s) for each in found], figures=False
            ),
            present.TableColumn("changes missing", [f"{each.missing:,}" for each in found]),
            present.TableColumn("target", [each.target for each in found], figures=False),
        ],
    )


@router.get("/enter/{secret}")
def enter(secret: Annotated[str, Path(max_length=128)], lab: TheLab) -> Response:
    """Show the button that opens a session; looking at the page uses nothing up."""
    with lab.databases.one() as database:
        grant = Grants(database, lab.now_s).of(secret, GrantKind.LINK)
    if grant is None:
        raise InputError(_SPENT, reason="link")
    return page("enter.html", Viewer(), user=grant.user, secret=secret)


@router.post("/enter/{secret}")
def entered(secret: Annotated[str, Path(max_length=128)], lab: TheLab) -> Response:
    """Use up the link, and open a session."""
    with lab.databases.one() as database:
        grants = Grants(database, lab.now_s)
        grant = grants.redeem(secret, GrantKind.LINK)
        if grant is None:
            raise InputError(_SPENT, reason="link")
        session = grants.make(
            GrantKind.SESSION, grant.user, grant.how, SESSION_S, accounts=grant.accounts
        )
    response = RedirectResponse("/", 303)
    response.set_cookie(
        COOKIE, session, max_age=SESSION_S, secure=lab.secure, httponly=True, samesite="lax"
    )
    return response


@router.post("/leave")
def leave(request: Request, lab: TheLab) -> Response:
    """End the session."""
    with lab.databases.one() as database:
        Grants(database, lab.now_s).redeem(request.cookies.get(COOKIE, ""), GrantKind.SESSION)
    response = RedirectResponse("/", 303)
    response.delete_cookie(COOKIE)
    return response


_SPENT = "This link was used, or is older than five minutes: run joulebook acct --web again."


def days_of(data: ReportData) -> dict[str, str]:
    """Return the days with energy, as in a query for jobs."""
    quarters = [row.quarter_s for row in data.postings] or [0]
    return {"since": present.day(min(quarters)), "until": present.day(max(quarters) + months.DAY_S)}


def _used(view: LabView, span: MonthSpan, wanted: OwnerFilter) -> list[OwnerUsage]:
    """Return what each experiment used in some months, and remainders."""
    return wanted.of(added_up(view.usage(each, LEVELS["experiment"]) for each in span.every))


def _trend(view: LabView, span: MonthSpan, wanted: OwnerFilter) -> tuple[object, object]:
    """Return the picture and the table of a year up to the last of some months."""
    first = MonthSpan(span.last, span.last).moved(1 - _TREND).first
    if view.viewer.sees_totals and not any(wanted):
        sums = view.trend_of_lab(first, span.last)
    else:
        sums = view.trend(first, span.last, wanted.user, wanted.account)
    return by_month(sums, min(sums, default=first), span.last), present.months_table(sums)
