"""Who changed what, for administrators: a page, and a list of the API."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from fastapi import APIRouter, Query, Response

from joulebook.lab.web import present
from joulebook.lab.web.api import Known, TheLab
from joulebook.lab.web.html import page
from joulebook.lab.web.pages import MOST_ROWS

router = APIRouter()


@dataclass(frozen=True)
class AuditOut:
    """A change: when (UTC seconds), by whom, how that was known, and what."""

    made_utc_s: int
    who: str
    how: str
    what: str


@router.get("/api/v1/audit")
def list_audit(
    lab: TheLab, viewer: Known, limit: Annotated[int, Query(ge=1, le=1000)] = 100
) -> list[AuditOut]:
    """List who changed what, the latest first; for administrators."""
    with lab.view(viewer) as view:
        return [AuditOut(*each) for each in view.audit(limit)]


@router.get("/audit", include_in_schema=False)
def audit(lab: TheLab, viewer: Known) -> Response:
    """Show who changed what."""
    with lab.view(viewer) as view:
        found = view.audit(MOST_ROWS)
    columns = {
        "when": [present.moment(each.when_s) for each in found],
        "who": [each.who for each in found],
        "known by": [each.how for each in found],
        "what": [each.what for each in found],
    }
    table = [present.TableColumn(name, cells, figures=False) for name, cells in columns.items()]
    return page("audit.html", viewer, table=table)
