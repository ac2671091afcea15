"""A leaderboard as Markdown, HTML, CSV and JSON.

Names come from outside: each format has its own way to take them as text and nothing else.
"""

from __future__ import annotations

import base64
import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from joulebook.core.report.leaderboard import Board, Entrant, Expected, FrontStep
from joulebook.lab.leaderboard.join import WithoutEnergy
from joulebook.lab.leaderboard.tables import Sheet, kwh, sheets, units
from joulebook.lab.report.formats.markdown import escape as escape_markdown
from joulebook.lab.report.formats.markdown import table as markdown_table
from joulebook.lab.report.formats.runs_csv import cell
from joulebook.metrics.page.markup import text


class Leaderboard(msgspec.Struct, frozen=True):
    """All boards, the expected results by experiment, and results without energy."""

    boards: tuple[Board, ...]
    expected: Mapping[str, Mapping[str, Sequence[Expected]]] = {}
    """By the GPU model of the board."""
    left: tuple[WithoutEnergy, ...] = ()
    notes: tuple[str, ...] = ()
    source: str = ""

    def sheets(self, board: Board) -> list[Sheet]:
        """Return the sheets of one board."""
        return sheets(board, self.expected.get(board.gpu, {}))


def markdown(found: Leaderboard) -> str:
    """GitHub's Markdown."""
    made: list[str] = []
    for board in found.boards:
        for sheet in found.sheets(board):
            made += [f"### {escape_markdown(sheet.title)}", ""]
            made += markdown_table(sheet.columns, sheet.rows, sheet.right)
            made += ["", *(f"- {escape_markdown(note)}" for note in sheet.notes)]
            made += [""] if sheet.notes else []
    made += [f"- {escape_markdown(note)}" for note in closing(found)]
    return "\n".join(made).rstrip() + "\n"


def closing(found: Leaderboard) -> list[str]:
    """Return the notes below all boards."""
    said = [f"{left.result.name}: left out ({left.why})" for left in found.left[:MOST_LEFT]]
    more = len(found.left) - MOST_LEFT
    if more > 0:
        said.append(f"{more:,} more results are left out")
    return [*said, *found.notes]


MOST_LEFT = 20


def html(found: Leaderboard, svg: str) -> str:
    """One page that needs nothing else: no script, no font, no address."""
    body: list[str] = []
    if svg:
        drawn = base64.b64encode(svg.encode()).decode()
        body.append(f'<img alt="Results against energy" src="data:image/svg+xml;base64,{drawn}">')
    for board in found.boards:
        for sheet in found.sheets(board):
            body.append(f"<h2>{text(sheet.title, 1000)}</h2><table><thead><tr>")
            body += [
                f"<th{_class(sheet, i)}>{text(name, 1000)}</th>"
                for i, name in enumerate(sheet.columns)
            ]
            body.append("</tr></thead><tbody>")
            for n, row in enumerate(sheet.rows):
                cells = "".join(
                    f"<td{_class(sheet, i)}>{text(cell, 1000)}</td>" for i, cell in enumerate(row)
                )
                body.append(f"<tr{' class=dim' if n in sheet.dim else ''}>{cells}</tr>")
            body.append("</tbody></table>")
            body += _list(sheet.notes)
    body += _list(closing(found))
    return _PAGE.replace("BODY", "\n".join(body))


def _class(sheet: Sheet, column: int) -> str:
    return " class=r" if column in sheet.right else ""


def _list(notes: Iterable[str]) -> list[str]:
    items = [f"<li>{text(note, 1000)}</li>" for note in notes]
    return ["<ul>", *items, "</ul>"] if items else []


_PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; style-src 'unsafe-inline'; img-src data:">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Leaderboard</title>
<style>
:root { color-scheme: light dark; --line: #8884; --dim: #777 }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 76rem; margin: 2rem auto; padding: 0 1rem }
h1 { font-size: 1.5rem } h2 { font-size: 1.1rem; margin: 2rem 0 .5rem }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums }
th, td { text-align: left; padding: .3rem .6rem; border-bottom: 1px solid var(--line) }
th { font-weight: 600 } .r { text-align: right } .dim, li { color: var(--dim) }
img { width: 100%; height: auto }
</style>
<h1>What results cost</h1>
BODY
</html>
"""

_COLUMNS = (
    "board", "gpu", "metric", "result", "value", "energy_kwh", "on_front", "points_gained",
    "kwh_per_point", "dominated_by", "runs", "flops", "joined_by", "note", "boundary",
    "not_compared_because",
)  # fmt: skip


def as_csv(found: Leaderboard) -> str:
    """Return a row for each result; money in a column for each currency."""
    currencies = sorted(
        {currency for b in found.boards for e in b.entrants for currency in e.cost_nano}
    )
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    money = [f"{kind}_{c}" for c in currencies for kind in ("cost", "cost_per_point")]
    writer.writerow([*_COLUMNS, *map(cell, money)])
    for board in found.boards:
        for entrant, step, by, aside in _entrants(board):
            per_point = units(step.cost_per_point or {}) if step else {}
            cost = units(entrant.cost_nano)
            writer.writerow(
                [
                    cell(board.title), cell(board.gpu), cell(board.metric.name),
                    cell(entrant.name), float(entrant.value), kwh(entrant.energy_uj),
                    int(step is not None),
                    "" if step is None or step.gained is None else float(step.gained),
                    "" if step is None or step.uj_per_point is None else kwh(step.uj_per_point),
                    "" if by is None else cell(by.name), entrant.runs,
                    "" if entrant.flops is None else entrant.flops, entrant.join.value,
                    cell(entrant.hedge), board.boundary.value, cell(aside),
                    *(each.get(c, "") for c in currencies for each in (cost, per_point)),
                ]
            )  # fmt: skip
    return out.getvalue()


def _entrants(board: Board) -> list[tuple[Entrant, FrontStep | None, Entrant | None, str]]:
    """Each with its step on the front, by whom it is dominated, or why it is not compared."""
    front = [(step.entrant, step, None, "") for step in board.front]
    behind = [(entrant, None, by, "") for entrant, by in board.dominated]
    return [*front, *behind, *((entrant, None, None, why) for entrant, why in board.aside)]


def as_json(found: Leaderboard) -> dict[str, Any]:
    """Return JSON. Energies in uJ are exact integers; unknown values are `null`."""
    return {
        "version": 1,
        "source": found.source or None,
        "boards": [_board(found, board) for board in found.boards],
        "without_energy": [{"result": left.result.name, "reason": left.why} for left in found.left],
        "notes": list(found.notes),
    }


def _board(found: Leaderboard, board: Board) -> dict[str, Any]:
    return {
        "title": board.title or None,
        "gpu": board.gpu or None,
        "boundary": board.boundary.value,
        "metric": {
            "name": board.metric.name,
            "better": "higher" if board.metric.higher else "lower",
            "unit": board.metric.unit.value,
            "point": float(board.metric.unit.point),
        },
        "results": [
            {
                "name": entrant.name,
                "value": float(entrant.value),
                "energy_uj": entrant.energy_uj,
                "energy_kwh": kwh(entrant.energy_uj),
                "cost": units(entrant.cost_nano),
                "runs": entrant.runs,
                "flops": entrant.flops,
                "joined_by": entrant.join.value,
                "inferred": entrant.inferred,
                "note": entrant.hedge or None,
                "on_front": step is not None,
                "not_compared_because": aside or None,
                "dominated_by": None if by is None else by.name,
                "points_gained": None
                if step is None or step.gained is None
                else float(step.gained),
                "kwh_per_point": (
                    None if step is None or step.uj_per_point is None else kwh(step.uj_per_point)
                ),
                "cost_per_point": units(step.cost_per_point or {}) if step is not None else {},
            }
            for entrant, step, by, aside in _entrants(board)
        ],
        "expected_best": {
            name: [
                {
                    "runs": each.trials,
                    "value": float(each.value),
                    "energy_kwh": kwh(each.energy_uj),
                }
                for each in several
            ]
            for name, several in found.expected.get(board.gpu, {}).items()
        },
    }
