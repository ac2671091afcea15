"""CSV: a line for each run, all of them, with energy to the microjoule."""

from __future__ import annotations

import csv
import io

from joulebook.core.sanitize import one_line
from joulebook.lab.report.model import RunRow, Statement

_LIST = "; "
_FORMULA = ("=", "+", "-", "@")


def render(statement: Statement) -> str:
    """Return the runs in CSV (RFC 4180, UTF-8), with a header."""
    kinds = sorted({kind for run in statement.runs for kind in run.cost})
    fields = [name for name in RunRow.__struct_fields__ if name != "cost"]
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\r\n")
    writer.writerow([*fields, *(f"cost_{cell(kind)}" for kind in kinds)])
    for run in statement.runs:
        values = [_value(getattr(run, name)) for name in fields]
        writer.writerow([*values, *(_value(run.cost.get(kind)) for kind in kinds)])
    return out.getvalue()


def cell(text: str) -> str:
    """Text that no spreadsheet takes for a formula (OWASP, CSV injection), on one line."""
    plain = one_line(text, 1_000)
    return f"'{plain}" if plain.startswith(_FORMULA) else plain


def _value(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, list):
        return cell(_LIST.join(value))
    return cell(value) if isinstance(value, str) else repr(value)
