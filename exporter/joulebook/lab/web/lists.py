"""Lists of the REST API: JSON or CSV, in pages that go on where the last one ended."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, fields, is_dataclass
from typing import Annotated, Any, ClassVar, Literal, Protocol, TypeVar
from urllib.parse import quote

from fastapi import Query, Response
from fastapi.responses import JSONResponse

from joulebook.errors import InputError
from joulebook.lab.figures import Figures
from joulebook.lab.report.formats.runs_csv import cell

MOST = 1_000
"""The most rows of one answer."""

NEXT = "X-Next"

Limit = Annotated[int, Query(ge=1, le=MOST)]
After = Annotated[
    str,
    Query(
        max_length=1024, description=f"`next` or {NEXT} of the answer before: what comes after it."
    ),
]
Format = Literal["json", "csv"]

T = TypeVar("T")


class ListRow(Protocol):
    """A dataclass."""

    __dataclass_fields__: ClassVar[dict[str, Any]]


def part_of(
    found: Sequence[T], limit: int, after: str, names: Sequence[str]
) -> tuple[Sequence[T], str]:
    """Return the rows after one, and what to go on from; the fields in `names` tell rows apart.

    Raises `InputError` for one that is not in the list (any more).
    """
    keys = ["/".join(quote(str(getattr(row, name)), safe="") for name in names) for row in found]
    if after and after not in keys:
        raise InputError(f"after: {after[:80]!r} is not in this list", reason="after")
    start = keys.index(after) + 1 if after else 0
    further = keys[start + limit - 1] if start + limit < len(found) else ""
    return found[start : start + limit], further


def listed(
    found: Sequence[ListRow], limit: int, after: str, format: Format, *names: str
) -> Response:
    """Return dataclasses as JSON or CSV; the fields in `names` tell rows apart."""
    shown, further = part_of(found, limit, after, names)
    if format == "csv":
        return csv_response([flat(each) for each in shown], further)
    headers = {NEXT: further} if further else {}
    return JSONResponse([asdict(each) for each in shown], headers=headers)


def flat(each: ListRow) -> dict[str, str]:
    """Return a dataclass as one row: text that no spreadsheet takes for a formula, and decimals.

    Columns of what is inside a field begin with its name; those of its only figures do not.
    """
    values = {field.name: getattr(each, field.name) for field in fields(each)}
    several = sum(isinstance(value, Figures) for value in values.values()) > 1
    row: dict[str, str] = {}
    for name, value in values.items():
        if isinstance(value, Figures) and not several:
            row |= value.cells()
        else:
            row |= _cells(name, value)
    return row


def _cells(name: str, value: object) -> dict[str, str]:
    if isinstance(value, Figures):
        value = value.cells()
    elif is_dataclass(value):
        value = {field.name: getattr(value, field.name) for field in fields(value)}
    if isinstance(value, Mapping):
        inside = (_cells(f"{name}_{cell(str(key))}", each) for key, each in value.items())
        return {key: text for row in inside for key, text in row.items()}
    return {name: _cell(value)}


def csv_response(rows: Sequence[Mapping[str, str]], further: str = "") -> Response:
    """Return rows as CSV (RFC 4180); what follows is named in a header."""
    out = io.StringIO()
    names: Iterable[str] = dict.fromkeys(name for row in rows for name in row)
    writer = csv.DictWriter(out, list(names), restval="", lineterminator="\r\n")
    writer.writeheader()
    writer.writerows(rows)
    headers = {NEXT: further} if further else {}
    return Response(out.getvalue(), media_type="text/csv", headers=headers)


def _cell(value: object) -> str:
    return "" if value is None else cell(value) if isinstance(value, str) else f"{value}"
