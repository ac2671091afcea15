"""The pages of the lab server, for browsers: HTML made on the server, no script needed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated
from urllib.parse import urlencode

from fastapi import APIRouter, Path, Query, Request, Response
from fastapi.responses import RedirectResponse
from jinja2 import Environment, PackageLoader, StrictUndefined

from joulebook.core.report.runs import totals
from joulebook.core.sanitize import one_line
from joulebook.errors import InputError
from joulebook.lab.collected import months
from joulebook.lab.report.document import Document, document
from joulebook.lab.report.formats import FORMATS
from joulebook.lab.report.sources import FOREVER_S
from joulebook.lab.web import present
from joulebook.lab.web.api import (
    LEVELS,
    MONTH,
    MOST,
    Anybody,
    Known,
    Name,
    TheLab,
    accounts_of,
    statement_of,
)
from joulebook.lab.web.grants import SESSION_S, GrantKind, Grants
from joulebook.lab.web.identity import COOKIE
from joulebook.lab.web.view import JobFilter, JobLine, LabView, OwnerUsage, of_job
from joulebook.lab.web.viewer import Viewer

MOST_ROWS = 200
"""The most rows of a table; the rest is counted, and in the CSV."""


_LONGEST = 10_000
"""Characters of one text; a paragraph of a statement has some hundred."""


def _cleaned(value: object) -> object:
    """Return text from outside on one line, without what could pass for something else."""
    if isinstance(value, str) and not hasattr(value, "__html__"):
        return one_line(value, _LONGEST)
    return value


_templates = Environment(
    loader=PackageLoader("joulebook.lab.web"),
    autoescape=True,
    undefined=StrictUndefined,
    finalize=_cleaned,
    trim_blocks=True,
    lstrip_blocks=True,
)

router = APIRouter(include_in_schema=False)


def page(template: str, viewer: Viewer, status: int = 200, /, **values: object) -> Response:
    """Return a page made of a template."""
    text = _templates.get_template(template).render(viewer=viewer, **values)
    return Response(text, status, media_type="text/html")


def message(
    request: Request, status: int, text: str, headers: dict[str, str] | None = None
) -> Response:
    """Return a page that says one thing."""
    response = page("message.html", Viewer(), status, text=text, login=status == 401)
    response.headers.update(headers or {})
    return response


@router.get("/")
def overview(
    lab: TheLab,
    viewer: Anybody,
    month: Annotated[str, Query(pattern=rf"^({MONTH})?$")] = "",
    sort: Annotated[str, Query(pattern="^(energy|idle|hours)$")] = "energy",
) -> Response:
    """Show a month: what it cost, who used it, what idled, and the months before."""
    if not viewer.known and not viewer.sees_totals:
        raise InputError("Nobody is logged in here.", reason="unknown")
    now = months.month_of(int(lab.now_s()))
    shown = months.parsed(month) if month else now
    with lab.view(viewer) as view:
        seen = _seen(view, shown)
        before = _seen(view, months.before(shown))
        lines = view.usage(shown, LEVELS["experiment"])
        accounts = view.accounts(shown)
        others = [each.month for each in view.months()]
        collected_s, replayed = view.collected_to_s(), view.replayed_nodes()
    used = [line for line in lines if not line.owner.remainder]
    used.sort(key=_SORTS[sort], reverse=True)
    return page(
        "overview.html",
        viewer,
        month=months.shown(shown),
        earlier=months.shown(months.before(shown)),
        later=months.shown(months.after(shown)) if shown < now else "",
        cards=present.cards(seen, before),
        whose="the whole lab" if viewer.admin else f"what {viewer.user} may see",
        sort=sort,
        experiments=present.experiments(used[:MOST_ROWS], months.shown(shown)),
        rest=max(len(used) - MOST_ROWS, 0),
        remainders=present.owners([each for each in lines if each.owner.remainder], "remainder"),
        accounts=present.owners(accounts, "account"),
        months=[months.shown(each) for each in others],
        collected=present.moment(collected_s),
        replayed=replayed,
    )


@router.get("/jobs")
def jobs(
    lab: TheLab,
    viewer: Known,
    month: Annotated[str, Query(pattern=rf"^({MONTH})?$")] = "",
    user: Name = "",
    account: Name = "",
    experiment: Name = "",
) -> Response:
    """List the jobs of a month."""
    shown = months.parsed(month) if month else months.month_of(int(lab.now_s()))
    since_s, until_s = months.begin_s(shown), months.begin_s(months.after(shown))
    with lab.view(viewer) as view:
        found = view.jobs(JobFilter(since_s, until_s, user, account, experiment))
    days = {"since": present.day(since_s), "until": present.day(until_s)}
    query = {**days, "user": user, "account": account, "experiment": experiment}
    query |= {"format": "csv", "limit": f"{MOST}"}
    return page(
        "jobs.html",
        viewer,
        month=months.shown(shown),
        asked=[each for each in (user, account, experiment) if each],
        table=present.jobs(found[:MOST_ROWS]),
        count=len(found),
        rest=max(len(found) - MOST_ROWS, 0),
        csv=f"/api/v1/jobs?{urlencode(query)}",
    )


@router.get("/job/{job}")
def one_job(
    job: Annotated[str, Path(max_length=256)], lab: TheLab, viewer: Known, cluster: Name = ""
) -> Response:
    """Show one job on one screen."""
    with lab.view(viewer) as view:
        data = view.dataset(0, FOREVER_S, of_job(job, cluster))
    found = totals(data)
    if not found:
        raise InputError(f"No job {job} of yours is in the ledger.", reason="missing")
    return page(
        "job.html",
        viewer,
        job=job,
        runs=[present.one_run(each, data) for each in found[:MOST_ROWS]],
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
    owners = accounts_of(data)
    if len(owners) > 1:
        links = [f"/experiment?{urlencode({'name': name, 'account': each})}" for each in owners]
        return page("choose.html", viewer, name=name, choices=list(zip(owners, links, strict=True)))
    made = statement_of(lab, data)
    runs = [JobLine.of(each) for each in totals(data)]
    query = urlencode({"experiment": name, "account": account})
    return page(
        "experiment.html",
        viewer,
        name=name,
        account=account,
        cards=present.cards([run.usage for run in runs], []),
        texts=_texts(document(made)),
        picture=present.picture(data),
        formats=[(word, f"/api/v1/statement?{query}&format={word}") for word in FORMATS],
        table=present.jobs(runs[:MOST_ROWS]),
        rest=max(len(runs) - MOST_ROWS, 0),
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


_SORTS: dict[str, Callable[[OwnerUsage], int]] = {
    "energy": lambda line: line.amount.energy_uj,
    "idle": lambda line: line.amount.idle_ns,
    "hours": lambda line: line.amount.held_ns,
}


def _texts(made: Document) -> list[tuple[str, str, str]]:
    """Return what can be copied: an id, a title, and the text."""
    return [
        ("sentence", "A sentence, for an abstract", made.abstract),
        ("short", "A paragraph, for an appendix", " ".join(made.short)),
    ]


def _seen(view: LabView, month: int) -> list[OwnerUsage]:
    """Return the lab's totals where they may be seen, else the viewer's own."""
    return view.totals(month) if view.viewer.sees_totals else view.usage(month, ("remainder",))
