"""The pages of bills, where administrators close and correct months as `joulebook bill` does."""

from __future__ import annotations

from itertools import groupby
from typing import NamedTuple

from fastapi import APIRouter, Request, Response
from fastapi.responses import RedirectResponse

from joulebook.core.evidence import Amount
from joulebook.core.money.amounts import Charges, total
from joulebook.lab.bill_formats import entry
from joulebook.lab.collected import months
from joulebook.lab.collected.schema import BilledOwner
from joulebook.lab.figures import added, idle_columns
from joulebook.lab.web import bill_api, present
from joulebook.lab.web.api import Known, Month, Name, TheLab
from joulebook.lab.web.bill_api import MonthOrOpen
from joulebook.lab.web.forms import Form, form_token
from joulebook.lab.web.html import page
from joulebook.lab.web.present import TableColumn
from joulebook.lab.web.spans import link

_MOST_LINES = 500
"""The most lines of a bill on one page; the rest is in the CSV."""

router = APIRouter(include_in_schema=False)


class _Row(NamedTuple):
    """A line of a bill, or the total of several."""

    title: str
    user: str
    experiment: str
    entry: str
    amount: Amount
    charges: Charges


@router.get("/bills")
def all_bills(lab: TheLab, viewer: Known) -> Response:
    """List the months with bills, the latest first."""
    with lab.view(viewer) as view:
        found = view.periods()[::-1]
    names = [months.shown(each.period.month) for each in found]
    states = [
        f"closed {present.moment(each.period.closed_s)} by {each.period.closed_by}"
        if each.period.closed_s
        else "open"
        for each in found
    ]
    rows = [(added(each.total.used), each.total.billed) for each in found]
    table = [
        TableColumn("month", names, figures=False, links=[f"/bills/{name}" for name in names]),
        TableColumn("state", states, figures=False),
        *present.figure_columns(rows),
    ]
    return page("bills.html", viewer, table=table)


@router.get("/bills/{month}")
def one_bill(
    month: Month, request: Request, lab: TheLab, viewer: Known, account: Name = ""
) -> Response:
    """Show a month's bill: lines, subtotals, corrections, and whether it is closed."""
    number = months.parsed(month)
    with lab.view(viewer) as view:
        bill = view.bill(number, account)
        accounts = view.accounts(number)
        behind = view.behind(number)
    rows: list[_Row] = []
    for name, of_account in groupby(bill.lines, key=lambda line: line.owner.account):
        lines = [
            _Row(_title(each.owner), each.owner.person, each.owner.experiment, entry(each),
                 added(each.used), each.billed)
            for each in of_account
        ]  # fmt: skip
        rows += lines
        if name and 1 < len(lines) < len(bill.lines):
            rows.append(_sum(f"{name}, total", lines))
    whole = _sum("total", [row for row in rows if not row.title.endswith(", total")])
    shown = [*rows[:_MOST_LINES], *([whole] if rows else [])]
    query = {"account": account}
    return page(
        "bill.html",
        viewer,
        month=month,
        account=account,
        state="Open" if bill.closed_s is None
        else f"Closed on {present.moment(bill.closed_s)} UTC by {bill.closed_by}",
        is_open=bill.closed_s is None,
        is_over=number < months.month_of(int(lab.now_s())),
        table=_columns(shown),
        rest=max(len(rows) - _MOST_LINES, 0),
        accounts=present.owners(accounts, "account"),
        corrections=[
            TableColumn("correction", [str(each.number) for each in bill.corrections]),
            TableColumn("kind", [each.kind for each in bill.corrections], figures=False),
            TableColumn(
                "made (UTC)", [present.moment(each.made_s) for each in bill.corrections],
                figures=False,
            ),
            TableColumn("by", [each.who for each in bill.corrections], figures=False),
            TableColumn("why", [each.why for each in bill.corrections], figures=False),
        ],
        behind=[node for node, _ in behind],
        links=[
            (form.upper(), link(f"/api/v1/bills/{month}", query | {"format": form}))
            for form in ("csv", "json")
        ],
        token=form_token(request),
    )  # fmt: skip


@router.post("/bills/{month}/close")
def close(month: Month, lab: TheLab, viewer: Known, form: Form) -> Response:
    """Close a month, and show it."""
    bill_api.close(month, lab, viewer, form)
    return RedirectResponse(f"/bills/{month}", 303)


@router.post("/bills/{month}/corrections")
def correct(month: MonthOrOpen, lab: TheLab, viewer: Known, form: Form) -> Response:
    """Write a correction, and show the bill in which it counts."""
    done = bill_api.correct(month, lab, viewer, form)
    return RedirectResponse(f"/bills/{done.month}", 303)


def _title(owner: BilledOwner) -> str:
    return f"({owner.remainder})" if owner.remainder else owner.account or "(no account)"


def _sum(title: str, rows: list[_Row]) -> _Row:
    amount = added({str(n): row.amount for n, row in enumerate(rows)})
    return _Row(title, "", "", "", amount, total(row.charges for row in rows))


def _columns(rows: list[_Row]) -> list[TableColumn]:
    columns = [
        TableColumn("account", [row.title for row in rows], figures=False),
        TableColumn("user", [row.user for row in rows], figures=False),
        TableColumn("experiment", [row.experiment for row in rows], figures=False),
        TableColumn("entry", [row.entry for row in rows], figures=False),
    ]
    return [
        *(column for column in columns if any(column.cells)),
        *present.figure_columns([(row.amount, row.charges) for row in rows]),
        *(TableColumn(*each) for each in idle_columns([row.charges for row in rows])),
    ]
