"""A leaderboard as Markdown, HTML, CSV and JSON, and its plot as SVG or PNG.

Names come from outside: each format has its own way to take them as text and nothing else.
"""

from __future__ import annotations

import base64
import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction
from html import escape
from typing import Any

import msgspec

from joulebook.core.money.rates import UG_PER_G
from joulebook.core.report.leaderboard import Board, Entrant, Expected, FrontStep
from joulebook.errors import ConfigError
from joulebook.lab.leaderboard.join import WithoutEnergy
from joulebook.lab.leaderboard.plot import STYLES, Area, Dot, Picture, Point, Polyline, Shape
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
    "not_compared_because", "co2e_kg", "co2e_kg_per_point", "coverage", "host_share",
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
                    _kg(entrant.co2e_ug), _kg(None if step is None else step.ug_per_point),
                    "" if entrant.coverage is None else f"{entrant.coverage:.4f}",
                    "" if entrant.host is None else f"{entrant.host:.4f}",
                    *(each.get(c, "") for c in currencies for each in (cost, per_point)),
                ]
            )  # fmt: skip
    return out.getvalue()


def _kg(ug: int | Fraction | None) -> float | None:
    return None if ug is None else float(Fraction(ug) / (UG_PER_G * 1_000))


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
                "co2e_kg": _kg(entrant.co2e_ug),
                "coverage": entrant.coverage,
                "host_share": entrant.host,
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
                "co2e_kg_per_point": None if step is None else _kg(step.ug_per_point),
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


def svg(picture: Picture, title: str = "Results against the energy they took") -> str:
    """A document of its own. All text from outside is escaped, and there is no script in it."""
    light = "".join(f".{name}{{--c:{style.light}}}" for name, style in STYLES.items())
    dark = "".join(f".{name}{{--c:{style.dark}}}" for name, style in STYLES.items())
    width, height = f"{picture.width:g}", f"{picture.height:g}"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        f'width="{width}" height="{height}" role="img">\n<title>{escape(title)}</title>\n'
        f"<style>{light}@media(prefers-color-scheme:dark){{{dark}}}"
        "text,.fill{fill:var(--c)}.line{fill:none;stroke:var(--c);stroke-linejoin:round}"
        ".ring{fill:none;stroke:var(--c);stroke-width:1.2}"
        "text{font-family:system-ui,'Helvetica Neue',Arial,sans-serif}.b{font-weight:600}</style>\n"
        f'<rect class="ground fill" width="{width}" height="{height}"/>\n'
        + "\n".join(_drawn(shape) for shape in picture.shapes)
        + "\n</svg>\n"
    )


def _drawn(shape: Shape) -> str:
    if isinstance(shape, Polyline):
        return (
            f'<polyline class="{shape.style} line" stroke-width="{shape.width:g}" '
            f'points="{_points(shape.points)}"/>'
        )
    if isinstance(shape, Area):
        return f'<polygon class="{shape.style} fill" points="{_points(shape.points)}"/>'
    if isinstance(shape, Dot):
        kind = "ring" if shape.hollow else "fill"
        x, y = shape.at
        return (
            f'<circle class="{shape.style} {kind}" cx="{x:.1f}" cy="{y:.1f}" '
            f'r="{shape.radius:g}"><title>{escape(shape.title)}</title></circle>'
        )
    x, y = shape.at
    bold = " b" if shape.bold else ""
    return (
        f'<text class="{shape.style}{bold}" x="{x:.1f}" y="{y:.1f}" font-size="{shape.size:g}" '
        f'text-anchor="{shape.anchor}">{escape(shape.text)}</text>'
    )


def _points(points: tuple[Point, ...]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in points)


SCALE = 2
"""Pixels for each unit of the picture: sharp on screens of twice the density."""
SMOOTH = 2
"""It is drawn so much larger first: Pillow's lines have no smooth edges."""
MOST_PIXELS = 100_000_000


def png(picture: Picture, *, dark: bool = False) -> bytes:
    """Return the picture on a light ground, or a dark one. Raises `ConfigError` without Pillow."""
    try:
        from PIL import Image, ImageDraw, ImageFont  # noqa: PLC0415 - optional
    except ImportError:
        raise ConfigError(
            "a PNG needs Pillow: pip install 'joulebook[plot]', or use a name ending in .svg"
        ) from None
    factor = SCALE * SMOOTH
    width, height = round(picture.width * factor), round(picture.height * factor)
    if width * height > MOST_PIXELS:
        raise ConfigError(f"a PNG of {width} x {height} pixels: use a name ending in .svg")
    colours = {name: style.dark if dark else style.light for name, style in STYLES.items()}
    image = Image.new("RGB", (width, height), colours["ground"])
    draw = ImageDraw.Draw(image)
    for shape in picture.shapes:
        if isinstance(shape, Polyline):
            spots = [(x * factor, y * factor) for x, y in shape.points]
            draw.line(spots, colours[shape.style], round(shape.width * factor), joint="curve")
        elif isinstance(shape, Area):
            draw.polygon([(x * factor, y * factor) for x, y in shape.points], colours[shape.style])
        elif isinstance(shape, Dot):
            x, y, r = shape.at[0] * factor, shape.at[1] * factor, shape.radius * factor
            inside = None if shape.hollow else colours[shape.style]
            draw.ellipse(
                (x - r, y - r, x + r, y + r), inside, colours[shape.style], round(1.2 * factor)
            )
    image = image.resize((width // SMOOTH, height // SMOOTH), Image.Resampling.LANCZOS)
    draw = ImageDraw.Draw(image)
    anchors = {"start": "ls", "middle": "ms", "end": "rs"}
    for shape in picture.shapes:
        if isinstance(shape, Polyline | Area | Dot):
            continue
        font = ImageFont.load_default(shape.size * SCALE)
        draw.text(
            (shape.at[0] * SCALE, shape.at[1] * SCALE), shape.text.replace("\u202f", " "),
            colours[shape.style], font, anchors[shape.anchor],
            stroke_width=0.5 if shape.bold else 0,
        )  # fmt: skip
    out = io.BytesIO()
    image.save(out, "PNG", optimize=True)
    return out.getvalue()
