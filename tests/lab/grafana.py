"""What Grafana does with a dashboard before Prometheus sees it: variables and intervals put in."""

from __future__ import annotations

import json
import math
import re
import urllib.parse
from collections.abc import Iterable, Iterator, Mapping
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


def links(panel: Mapping[str, Any]) -> list[dict[str, str]]:
    """Where clicks on a panel lead."""
    config = panel["fieldConfig"]
    found = list(config["defaults"].get("links") or [])
    for override in config["overrides"]:
        for prop in override["properties"]:
            if prop["id"] == "links":
                found += prop["value"]
    return found


def step_for(span_s: int, least: str, points: int = POINTS) -> int:
    """The interval that Grafana would take for a range."""
    wanted = span_s / points
    step = next(step for step in reversed(ROUND_S) if step <= max(wanted, 1))
    if wanted > step * 1.5:
        step = next(step for step in ROUND_S if step >= wanted)
    return max(step, seconds(least) if least else 15, 1)


Chosen = str | tuple[str, ...]
"""The value of a variable: a text that goes in as it is (All is `.*`), or what was chosen of a
list, of which each goes in with its regular expression characters escaped."""


def put_in(chosen: Chosen) -> str:
    """A variable's value as Grafana's data source for Prometheus writes it into an expression
    (`interpolateQueryExpr`, `prometheusSpecialRegexEscape`).
    """
    if isinstance(chosen, str):
        return chosen
    escaped = [
        re.sub(r"[$^*{}\[\]'+?.()|]", r"\\\\\g<0>", value.replace("\\", r"\\" * 2))
        for value in chosen
    ]
    return escaped[0] if len(escaped) == 1 else f"({'|'.join(escaped)})"


def as_regex(chosen: Chosen) -> str:
    """The same by Grafana's format `regex` (`escapeRegex`): a backslash before what is special."""
    if isinstance(chosen, str):
        return chosen
    escaped = [re.sub(r"[\\^$*+?.()|\[\]{}/]", r"\\\g<0>", value) for value in chosen]
    return escaped[0] if len(escaped) == 1 else f"({'|'.join(escaped)})"


def clicked(url: str, labels: Mapping[str, str], here: Mapping[str, Chosen]) -> dict[str, Chosen]:
    """The variables that a data link hands over from a row or bar with these labels, `here` being
    those of the dashboard it is on. A label that is not there becomes nothing; what has no format
    of its own is encoded as `encodeURI` does (`DataMacro`, `formatRegistry` of @grafana/scenes).
    """

    def value(match: re.Match[str]) -> str:
        name, how = match[1], match[2]
        if name.startswith("__data.fields.") or name.startswith("__field.labels."):
            text = labels.get(name.rpartition(".")[2], "")
            safe = "" if how == "percentencode" else ";,/?:@&=+$#"
            return urllib.parse.quote(text, safe=safe)
        if how == "queryparam":
            chosen = here.get(name, "")
            if isinstance(chosen, str):
                chosen = ("$__all" if chosen == ".*" else chosen,)
            return "&".join(f"var-{name}={urllib.parse.quote(one, safe='')}" for one in chosen)
        return ""

    filled_in = re.sub(r"\$\{([\w.]+)(?::(\w+))?\}", value, url)
    given = urllib.parse.parse_qs(urllib.parse.urlsplit(filled_in).query, keep_blank_values=True)
    return {
        name.removeprefix("var-"): ".*" if values == ["$__all"] else tuple(values)
        for name, values in given.items()
        if name.startswith("var-")
    }


def filled(
    expression: str,
    values: Mapping[str, Chosen],
    span_s: int,
    step_s: int,
    scrape_s: int,
    end_s: int = 1_740_996_000,
) -> str:
    """The expression with built-in variables and those of the dashboard put in."""
    rate_s = max(step_s + scrape_s, 4 * scrape_s)
    built_in = {
        "__range_s": str(span_s),
        "__range": f"{span_s}s",
        "__interval_ms": str(step_s * 1000),
        "__interval": f"{step_s}s",
        "__rate_interval": f"{rate_s}s",
        "__to": str(end_s),
    }
    found = built_in | {name: put_in(chosen) for name, chosen in values.items()}

    def value(match: re.Match[str]) -> str:
        name = match[1] or match[3]
        return as_regex(values[name]) if match[2] == "regex" else found[name]

    return re.sub(r"\$(?:\{(\w+)(?::([\w:]+))?\}|(\w+))", value, expression)


def asks(
    board: Mapping[str, Any],
    values: Mapping[str, Chosen],
    end_s: int,
    span_s: int,
    scrape_s: int,
    utc_offset_s: int = 0,
) -> Iterator[Ask]:
    """All queries of a dashboard for a range; `values` are those of its variables, and the offset
    is that of the browser's time zone at the end of the range.
    """
    for panel, target in targets(board):
        points = panel.get("maxDataPoints") or POINTS
        least = filled(target.get("interval", ""), values, span_s, 60, scrape_s)
        step_s = step_for(span_s, least, points)
        expression = filled(target["expr"], values, span_s, step_s, scrape_s, end_s)
        start_s, last_s = end_s - span_s, end_s
        if target.get("instant"):
            step_s = 0
        else:  # Grafana moves both ends back to a multiple of the step, of local time
            start_s, last_s = (
                math.floor((t + utc_offset_s) / step_s) * step_s - utc_offset_s
                for t in (start_s, end_s)
            )
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


def sqlstring(values: Iterable[str]) -> str:
    """Grafana's format `sqlstring`: each value quoted, quotes in it doubled."""
    return ",".join("'" + value.replace("'", "''") + "'" for value in values)


def asks_of_ledger(
    board: Mapping[str, Any], month: str, accounts: Iterable[str], start_s: int, end_s: int
) -> Iterator[tuple[dict[str, Any], str]]:
    """Each panel of a dashboard in SQL, and its query with all variables put in."""
    for panel, target in targets(board):
        sql = target["rawSql"].replace("${month:sqlstring}", sqlstring([month]))
        sql = sql.replace("${account:sqlstring}", sqlstring(accounts))
        inside = rf"\1 >= {start_s} AND \1 <= {end_s}"
        yield panel, re.sub(r"\$__unixEpochFilter\(([\w.]+)\)", inside, sql)


def opened(board: Mapping[str, Any]) -> dict[str, Chosen]:
    """The variables of a dashboard that is just opened, without the hidden ones: all of each."""
    return {v["name"]: ".*" for v in board["templating"]["list"] if not v.get("hide")}


def listed(board: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """What the lists of a dashboard's variables are: a selector, and of which label the values."""
    for variable in board["templating"]["list"]:
        query = variable["query"]["query"] if isinstance(variable["query"], dict) else ""
        if query.startswith("label_values("):
            metric, _, label = query.removeprefix("label_values(")[:-1].rpartition(",")
            yield metric, label


def choices(board: Mapping[str, Any]) -> dict[str, str]:
    """The expressions of hidden variables by their names: the label of that name is the value."""
    return {
        variable["name"]: variable["query"]["query"].removeprefix("query_result(")[:-1]
        for variable in board["templating"]["list"]
        if variable.get("hide")
    }
