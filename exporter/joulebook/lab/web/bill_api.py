"""The REST API of bills, and of the rows behind reports and bills."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from fastapi import APIRouter, Path, Query, Response

from joulebook.errors import InputError
from joulebook.lab.bill_formats import as_csv, as_json
from joulebook.lab.billing import WantedClose, WantedCorrection
from joulebook.lab.collected import months
from joulebook.lab.figures import Figures, figures
from joulebook.lab.report.sources import FOREVER_S
from joulebook.lab.web import wire
from joulebook.lab.web.api import MONTH, Known, Month, Name, TheLab
from joulebook.lab.web.forms import Form, described, refuse_further
from joulebook.lab.web.lists import After, Limit, listed

router = APIRouter(prefix="/api/v1")

OPEN = "open"
"""In the place of a month: the one in which an entry made now counts."""

MonthOrOpen = Annotated[
    str, Path(pattern=rf"^({MONTH}|{OPEN})$", description=f"As in 2026-11, or `{OPEN}`.")
]

_ANYWAY = "`yes`: although {}"
_CORRECTION = {
    "from": "Whom it is taken from: `ACCOUNT`, `ACCOUNT/USER/EXPERIMENT` or `(unallocated)`.",
    "to": "Who is given it, in the same form.",
    "why": "Reason, recorded permanently.",
    "cost": "Amount of money, such as 12.50.",
    "currency": "Its currency (default: the one billed).",
    "item": "`electricity` (default) or `hardware`.",
    "kwh": "Amount of energy.",
    "gpu-hours": "Amount of GPU time held.",
    "co2e-kg": "Amount of CO2e.",
    "anyway": _ANYWAY.format("the owner or currency is new."),
}


@dataclass(frozen=True)
class PeriodOut:
    """A month and what is billed in it to all that the viewer may see."""

    month: str
    closed_utc_s: int | None
    closed_by: str
    figures: Figures


@dataclass(frozen=True)
class Closed:
    """A month that was closed."""

    month: str
    closed_by: str


@dataclass(frozen=True)
class Corrected:
    """The number of a correction, and the month in which it counts."""

    correction: int
    month: str


@router.get("/bills", response_model=list[PeriodOut])
def list_bills(
    lab: TheLab,
    viewer: Known,
    limit: Limit = 100,
    after: After = "",
    format: Literal["json", "csv", "msgpack"] = "json",
) -> Response:
    """List the months with bills, the latest first."""
    with lab.view(viewer) as view:
        found = view.periods()
    if format == "msgpack":
        return _packed(found)
    made = [
        PeriodOut(
            months.shown(each.month),
            each.closed_s,
            each.closed_by,
            figures(total.used, total.billed),
        )
        for each, total in reversed(found)
    ]
    return listed(made, limit, after, format, "month")


@router.get("/bills/{month}")
def one_bill(
    month: Month,
    lab: TheLab,
    viewer: Known,
    account: Name = "",
    format: Literal["json", "csv", "msgpack"] = "json",
) -> Response:
    """Return the viewer's lines of a bill, as `joulebook bill` writes them."""
    number = months.parsed(month)
    with lab.view(viewer) as view:
        if account and not view.has_account(account):
            raise InputError(
                f"account {account[:80]!r}: nothing of yours was ever booked to it",
                reason="missing",
            )
        if format == "csv":
            return Response(as_csv(view.bill(number, account)) + "\n", media_type="text/csv")
        seen = view.whole_bill(number, int(lab.now_s()), account)
    if format == "msgpack":
        return _packed(seen)
    return Response(as_json(seen.bill, seen.measured, seen.advice), media_type="application/json")


@router.post(
    "/bills/{month}/close",
    openapi_extra=described(anyway=_ANYWAY.format("nodes have not reported all of it.")),
)
def close(month: Month, lab: TheLab, viewer: Known, form: Form) -> Closed:
    """Close a month permanently; for administrators."""
    refuse_further(form, "anyway")
    with lab.changes(viewer) as changes:
        changes.close(WantedClose(months.parsed(month), anyway(form)))
    return Closed(month, viewer.user)


@router.post("/bills/{month}/corrections", openapi_extra=described(**_CORRECTION))
def correct(month: MonthOrOpen, lab: TheLab, viewer: Known, form: Form) -> Corrected:
    """Move an amount from one owner to another; for administrators."""
    refuse_further(form, *_CORRECTION)
    wanted = WantedCorrection(
        giver=form.get("from", ""), taker=form.get("to", ""), why=form.get("why", ""),
        cost=form.get("cost") or None, currency=form.get("currency", ""),
        item=form.get("item") or "electricity", kwh=form.get("kwh") or None,
        gpu_hours=form.get("gpu-hours") or None, co2e_kg=form.get("co2e-kg") or None,
        month=0 if month == OPEN else months.parsed(month), anyway=anyway(form),
    )  # fmt: skip
    with lab.changes(viewer) as changes:
        number, counted = changes.correct(wanted)
    return Corrected(number, months.shown(counted))


Second = Annotated[int, Query(ge=0, le=FOREVER_S)]


@router.get("/rows", response_class=Response)
def rows(
    lab: TheLab,
    viewer: Known,
    since_utc_s: Second = 0,
    until_utc_s: Second = FOREVER_S,
    selection: Annotated[
        str,
        Query(
            max_length=32_768,
            description='JSON: {"experiments": ["bert"]}, and `users`, `accounts`, `workloads`, '
            "`clusters`, `jobs`.",
        ),
    ] = "",
    hourly: Name = "",
) -> Response:
    """Return rows as they are booked, for `--lab` of the command line (MessagePack)."""
    wanted = wire.selection(selection)
    with lab.view(viewer) as view:
        return _packed(view.dataset(since_utc_s, until_utc_s, wanted, hourly))


def anyway(form: Form) -> bool:
    """Return whether a form says so. Raises `InputError` for what is neither yes nor nothing."""
    if form.get("anyway", "") not in {"", "yes"}:
        raise InputError(f"anyway: {form['anyway'][:20]!r}: expected yes", reason="form")
    return form.get("anyway") == "yes"


def _packed(found: object) -> Response:
    return Response(wire.encode(found), media_type=wire.MEDIA_TYPE, headers=wire.HEADERS)
