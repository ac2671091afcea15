"""Leaderboards: results that people upload, or that the site links, ranked with what they cost."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from typing import Annotated, Literal

from fastapi import APIRouter, Path, Request, Response
from fastapi.responses import RedirectResponse

from joulebook.errors import InputError
from joulebook.lab.leaderboard.formats import as_csv, as_json, closing, markdown, svg
from joulebook.lab.leaderboard.plot import draw
from joulebook.lab.leaderboard.ranked import Asked
from joulebook.lab.leaderboard.tables import Sheet
from joulebook.lab.web import present
from joulebook.lab.web.api import Known, TheLab
from joulebook.lab.web.forms import Form, described, form_token, refuse_further
from joulebook.lab.web.html import page
from joulebook.lab.web.lists import After, Format, Limit, listed
from joulebook.lab.web.present import TableColumn
from joulebook.lab.web.result_view import SITE

router = APIRouter()
API = "/api/v1/leaderboards"

_FIELDS = {
    "name": "Name of the results; those that have it are replaced.",
    "results": "CSV with experiment,run,metric,value, or a Hugging Face model card.",
    "metric": "Metric to rank by, if there are several.",
    "better": "`higher` or `lower`, if the metric's name does not imply it.",
    "unit": "`percent`, `ratio` or `plain`.",
    "by": "`run` or `experiment`.",
}
_WORDS = {
    "better": ("", "higher", "lower"), "unit": ("", "percent", "ratio", "plain"),
    "by": ("", "run", "experiment"),
}  # fmt: skip
Board = Annotated[str, Path(max_length=256, description=f"Number, or `{SITE}NAME`.")]


@dataclass(frozen=True)
class ResultsOut:
    """Results of which there is a leaderboard; those of the site have no owner."""

    id: str
    name: str
    owner: str
    made_utc_s: int | None


@router.get(API, response_model=list[ResultsOut])
def list_results(
    lab: TheLab, viewer: Known, limit: Limit = 100, after: After = "", format: Format = "json"
) -> Response:
    """List the viewer's results, and those that the site links."""
    with lab.view(viewer) as view:
        found = [
            ResultsOut(each.id, each.name, each.owner, each.made_s or None)
            for each in view.result_sets(lab.config.lab.results)
        ]
    return listed(found, limit, after, format, "id")


@router.get(f"{API}/{{board}}", response_class=Response)
def leaderboard(
    board: Board, lab: TheLab, viewer: Known, format: Literal["json", "csv", "markdown"] = "json"
) -> Response:
    """Return a leaderboard, as `joulebook leaderboard` writes it."""
    with lab.view(viewer) as view:
        _, found = view.leaderboard(board, lab.config.lab.results)
    if format == "csv":
        return Response(as_csv(found), media_type="text/csv")
    if format == "markdown":
        return Response(markdown(found), media_type="text/markdown")
    return Response(json.dumps(as_json(found), indent=2), media_type="application/json")


@router.post(API, openapi_extra=described(**_FIELDS))
def keep(lab: TheLab, viewer: Known, form: Form) -> ResultsOut:
    """Keep results for a leaderboard."""
    refuse_further(form, *_FIELDS)
    for name, words in _WORDS.items():
        if form.get(name, "") not in words:
            known = " or ".join(filter(None, words))
            raise InputError(f"{name}: {form[name][:40]!r}: expected {known}", reason="form")
    asked = Asked((), *(form.get(name, "") for name in ("metric", "better", "unit", "by")))
    name = form.get("name", "").strip()
    with lab.changes(viewer) as changes:
        number = changes.keep_results(name, form.get("results", ""), asked)
    return ResultsOut(str(number), name, viewer.user, int(lab.now_s()))


@router.post(f"{API}/{{board}}/remove", openapi_extra=described())
def remove(board: Board, lab: TheLab, viewer: Known, form: Form) -> None:
    """Remove results."""
    refuse_further(form)
    with lab.changes(viewer) as changes:
        changes.remove_results(board)


@router.get("/leaderboards", include_in_schema=False)
def all_boards(lab: TheLab, viewer: Known, request: Request) -> Response:
    """List leaderboards, and take results."""
    with lab.view(viewer) as view:
        found = view.result_sets(lab.config.lab.results)
    table = [
        TableColumn("results", [each.name for each in found], figures=False,
                    links=[f"/leaderboards/{each.id}" for each in found]),
        TableColumn("owner", [each.owner or "the site" for each in found], figures=False),
        TableColumn("uploaded (UTC)",
                    [present.moment(each.made_s) if each.made_s else "" for each in found],
                    figures=False),
    ]  # fmt: skip
    return page("leaderboards.html", viewer, table=table, words=_WORDS, token=form_token(request))


@router.get("/leaderboards/{board}", include_in_schema=False)
def one_board(board: Board, lab: TheLab, viewer: Known, request: Request) -> Response:
    """Show a leaderboard."""
    with lab.view(viewer) as view:
        name, found = view.leaderboard(board, lab.config.lab.results)
    sheets = [sheet for each in found.boards for sheet in found.sheets(each)]
    picture = svg(draw(found.boards)) if found.boards else ""
    return page(
        "leaderboard.html",
        viewer,
        name=name,
        board=board,
        is_own=not board.startswith(SITE),
        sheets=[(each.title, _columns(each), each.notes) for each in sheets],
        picture=base64.b64encode(picture.encode()).decode(),
        notes=closing(found),
        token=form_token(request),
    )


@router.post("/leaderboards", include_in_schema=False)
def keep_on_page(lab: TheLab, viewer: Known, form: Form) -> Response:
    """Keep results, and show their leaderboard."""
    return RedirectResponse(f"/leaderboards/{keep(lab, viewer, form).id}", 303)


@router.post("/leaderboards/{board}/remove", include_in_schema=False)
def remove_on_page(board: Board, lab: TheLab, viewer: Known, form: Form) -> Response:
    """Remove results, and show what is left."""
    remove(board, lab, viewer, form)
    return RedirectResponse("/leaderboards", 303)


def _columns(sheet: Sheet) -> list[TableColumn]:
    return [
        TableColumn(title, [row[n] for row in sheet.rows], figures=n in sheet.right)
        for n, title in enumerate(sheet.columns)
    ]
