"""What Grafana does with a dashboard before Prometheus sees it: variables and intervals put in."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "dashboards").glob("*.json"))

POINTS = 1_000
"""Points across a panel: about its width in pixels."""

ROUND_S = (
    1, 2, 5, 10, 15, 20, 30, 60, 120, 300, 600, 900, 1200, 1800, 3600, 7200, 10800, 21600, 43200,
    86400, 172800, 604800, 2592000, 31536000,
)  # fmt: skip
"""Steps that Grafana rounds to."""

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def seconds(text: str) -> int:
    """`30d` in seconds."""
    return int(text[:-1]) * _UNITS[text[-1]]


class Ask(NamedTuple):
    """One query as the data source gets it. `step_s` is 0 for an instant."""

    board: str
    panel: str
    ref: str
    expression: str
    start_s: int
    end_s: int
    step_s: int
    legend: str


def dashboards(source: str = "prometheus") -> dict[str, dict[str, Any]]:
    """All dashboards of a kind of data source, by uid."""
    boards = [json.loads(file.read_text()) for file in FILES]
    return {
        board["uid"]: board
        for board in boards
        if any(each.get("query") == source for each in board["templating"]["list"])
    }


def panels(board: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """All panels that show something, also those in folded rows."""
    for panel in board["panels"]:
        if panel["type"] == "row":
            yield from panel.get("panels", ())
        else:
            yield panel


def targets(board: Mapping[str, Any]) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Each query and its panel."""
    for panel in panels(board):
        for target in panel["targets"]:
            yield panel, target


def step_for(span_s: int, least: str, points: int = POINTS) -> int:
    """The interval that Grafana would take for a range."""
    wanted = span_s / points
    step = next(step for step in reversed(ROUND_S) if step <= max(wanted, 1))
    if wanted > step * 1.5:
        step = next(step for step in ROUND_S if step >= wanted)
    return max(step, seconds(least) if least else 15, 1)


def filled(
    expression: str, values: Mapping[str, str], span_s: int, step_s: int, scrape_s: int
) -> str:
    """The expression with built-in variables and those of the dashboard put in."""
    rate_s = max(step_s + scrape_s, 4 * scrape_s)
    built_in = {
        "__range_s": str(span_s),
        "__range": f"{span_s}s",
        "__interval_ms": str(step_s * 1000),
        "__interval": f"{step_s}s",
        "__rate_interval": f"{rate_s}s",
    }
    found: dict[str, str] = {**built_in, **values}
    return re.sub(r"\$(?:\{(\w+)\}|(\w+))", lambda match: found[match[1] or match[2]], expression)


def asks(
    board: Mapping[str, Any],
    values: Mapping[str, str],
    end_s: int,
    span_s: int,
    scrape_s: int,
) -> Iterator[Ask]:
    """All queries of a dashboard for a range; `values` are those of its variables."""
    for panel, target in targets(board):
        points = panel.get("maxDataPoints") or POINTS
        step_s = step_for(span_s, target.get("interval", ""), points)
        expression = filled(target["expr"], values, span_s, step_s, scrape_s)
        start_s, last_s = end_s - span_s, end_s
        if target.get("instant"):
            step_s = 0
        else:  # Grafana moves both ends back to a multiple of the step
            start_s, last_s = (math.floor(t / step_s) * step_s for t in (start_s, end_s))
        yield Ask(
            board["uid"],
            panel["title"],
            target["refId"],
            expression,
            start_s,
            last_s,
            step_s,
            target.get("legendFormat", ""),
        )


def choice(board: Mapping[str, Any], name: str) -> str | None:
    """The expression of a hidden variable, if the dashboard has it."""
    for variable in board["templating"]["list"]:
        if variable["name"] == name:
            text: str = variable["query"]["query"]
            return text.removeprefix("query_result(").removesuffix(")")
    return None
