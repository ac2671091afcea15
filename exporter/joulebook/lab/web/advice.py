"""Where a lab can save: the advice of a month, as a page and as JSON."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Response

from joulebook.lab.advice.advise import MonthAdviceOut, SortBy, answer, ranked, said
from joulebook.lab.advice.model import TITLES, Advice
from joulebook.lab.collected import months
from joulebook.lab.collected.schema import BilledOwner
from joulebook.lab.web.api import MONTH, Known, Month, Name, TheLab
from joulebook.lab.web.html import page
from joulebook.lab.web.pages import MOST_ROWS

router = APIRouter()

_Window = Annotated[
    int, Query(ge=2, le=72, description="Hours in which a job that waits must end.")
]


@router.get("/api/v1/advice/{month}")
def month_advice(
    month: Month,
    lab: TheLab,
    viewer: Known,
    sort: SortBy = "money",
    account: Name = "",
    window: _Window = 24,
) -> MonthAdviceOut:
    """Return where the viewer's jobs of a month could have saved, the greatest saving first."""
    with lab.view(viewer) as view:
        found = view.advice(months.parsed(month), int(lab.now_s()), account, lab.to_come(), window)
    return answer(found, sort)


@router.get("/advice", include_in_schema=False)
def advice(
    lab: TheLab,
    viewer: Known,
    month: Annotated[str, Query(pattern=rf"^({MONTH})?$")] = "",
    sort: SortBy = "money",
) -> Response:
    """Show the same to people."""
    now = months.month_of(int(lab.now_s()))
    shown = months.parsed(month) if month else now
    with lab.view(viewer) as view:
        found = view.advice(shown, int(lab.now_s()), "", lab.to_come())
    told = answer(found, sort)
    return page(
        "advice.html",
        viewer,
        month=told.month,
        earlier=months.shown(months.before(shown)),
        later=months.shown(months.after(shown)) if shown < now else "",
        sort=sort,
        whose="the whole lab" if viewer.admin else f"what {viewer.user} may see",
        lines=[_shown(line) for line in ranked(found.lines, sort)[:MOST_ROWS]],
        rest=max(len(found.lines) - MOST_ROWS, 0),
        missing=told.missing,
    )


def _shown(line: Advice) -> dict[str, object]:
    """Return a line as its page shows it."""
    owner = BilledOwner("", line.labels.account, line.labels.user, line.labels.experiment)
    return {
        "title": TITLES[line.kind],
        "saving": said(line.saving),
        "owner": f"{owner} ({line.cluster})" if line.cluster else f"{owner}",
        "evidence": line.evidence,
        "next_step": line.next_step,
        "jobs": [
            (job.shown, "" if line.saving is None else f" ({said(job.saving)})")
            for job in line.jobs
        ],
    }
