"""Panels as values: what is asked, how it is drawn, and on what basis the figure stands."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Protocol

from grafana_foundation_sdk.builders import dashboard as sdk
from grafana_foundation_sdk.builders import prometheus
from grafana_foundation_sdk.cog import builder, variants
from grafana_foundation_sdk.models import dashboard as models
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

SOURCE = models.DataSourceRef(type_val="prometheus", uid="${datasource}")


class Basis(Enum):
    """On what a figure stands; the last sentence of every description."""

    METERED = (
        "Measured by the meters; of a GPU that several hold at once, the parts are apportioned."
    )
    RATED = (
        "Metered energy (parts of a shared GPU are apportioned) times PUE and the rate at the time."
    )
    HELD = "Counted from the allocations of the scheduler: the share held times the time."
    READ = "Read from the device as it is, not booked."
    COUNTED = "Counted by the daemon."
    MODELLED = "Modelled, not measured."


class Target(Protocol):
    """What a panel asks a data source for."""

    def build(self, ref: str, kind: str) -> builder.Builder[variants.Dataquery]:
        """The query of the panel's kind (`stat`, `table`, ...) under the letter `ref`."""
        ...


@dataclass(frozen=True)
class Query:
    """PromQL. `step` is the shortest interval that it may be asked at."""

    expression: str
    legend: str = ""
    step: str = ""

    def build(self, ref: str, kind: str) -> builder.Builder[variants.Dataquery]:
        """The query as Grafana keeps it."""
        query = prometheus.Dataquery().expr(self.expression).ref_id(ref).datasource(SOURCE)
        if kind == "timeseries":
            query.range().legend_format(self.legend or "__auto")
        else:
            slack = SLACK if kind == "bargauge" else ""
            query.instant().legend_format(f"{self.legend}{slack}" if self.legend else "__auto")
            query.format(PromQueryFormat.TABLE if kind == "table" else PromQueryFormat.TIME_SERIES)
        return query.interval(self.step) if self.step else query


@dataclass(frozen=True)
class Column:
    """A figure of a table: its heading, query and unit; or how a label is shown.

    `link` is where a click leads (`links.py`). `share` draws it as a bar from 0 to 1. `total`: its
    sum stands below.
    """

    name: str
    query: Target | None = None
    unit: str = ""
    decimals: int | None = None
    link: Mapping[str, str] | None = None
    share: bool = False
    width: int | None = None
    total: bool = False


@dataclass(frozen=True)
class Panel:
    """One panel. `kind` is Grafana's: `stat`, `timeseries`, `table`, `bargauge`.

    `below_zero`: what it shows may be less than nothing, as a cost is while the price is negative.
    `texts` are shown instead of values.
    `points` is how many a line has at most: a month is read much faster by six hours than by one.
    """

    title: str
    about: str
    basis: Basis
    unit: str
    queries: tuple[Target, ...] = ()
    kind: str = "timeseries"
    width: int = 12
    height: int = 8
    decimals: int | None = None
    columns: tuple[Column, ...] = ()
    hidden: tuple[str, ...] = ()
    sort: str = ""
    ascending: bool = False
    link: Mapping[str, str] | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    custom: Mapping[str, Any] = field(default_factory=dict)
    thresholds: tuple[tuple[float | None, str], ...] = ()
    at_most: float | None = None
    below_zero: bool = False
    points: int | None = None
    empty: str = ""
    texts: Mapping[str, str] = field(default_factory=dict)
    datasource: str = "prometheus"

    @property
    def description(self) -> str:
        """What it shows, and on what basis."""
        return f"{self.about} {self.basis.value}"

    @property
    def _axis(self) -> dict[str, Any]:
        """An axis has its 0, also one that may go below it."""
        return {"axisSoftMin": 0} if self.kind == "timeseries" and self.below_zero else {}

    def build(self, number: int) -> sdk.Panel:
        """The panel as Grafana keeps it."""
        panel = (
            sdk.Panel()
            .type(self.kind)
            .id(number)
            .title(self.title)
            .description(self.description)
            .datasource(models.DataSourceRef(type_val=self.datasource, uid="${datasource}"))
            .span(self.width)
            .height(self.height)
            .unit(_OF_BARS.get(self.unit, self.unit) if self.kind == "bargauge" else self.unit)
            .options(_merged(_OPTIONS[self.kind], self.options))
            .custom(_merged(_CUSTOM.get(self.kind, {}), {**self.custom, **self._axis}))
        )
        if self.decimals is not None:
            panel.decimals(self.decimals)
        if self.at_most is not None:
            panel.min(0).max(self.at_most)
        elif self.kind in ("timeseries", "bargauge") and not self.below_zero:
            panel.min(0)
        if self.points:
            panel.max_data_points(self.points)
        panel.no_value(self.empty or NOTHING[self.kind == "stat"])
        if self.texts:
            shown = {
                value: models.ValueMappingResult(text=text) for value, text in self.texts.items()
            }
            panel.mappings([models.ValueMap(options=shown)])
        if self.link:
            panel.data_links([_DataLink(self.link)])  # type: ignore[list-item]
        panel.color_scheme(sdk.FieldColor().mode(models.FieldColorModeId(_COLOURS[self.kind])))
        steps = self.thresholds or ((None, "blue"),)
        panel.thresholds(
            sdk.ThresholdsConfig()
            .mode(models.ThresholdsMode.ABSOLUTE)
            .steps([models.Threshold(value=value, color=colour) for value, colour in steps])
        )
        queries: list[Target] = [*self.queries, *(c.query for c in self.columns if c.query)]
        panel.targets([q.build(chr(65 + n), self.kind) for n, q in enumerate(queries)])
        if self.kind == "table":
            self._as_table(panel)
        return panel

    def _as_table(self, panel: sdk.Panel) -> None:
        """Rows that share their labels become one; the figures get their headings and units."""
        figures = [column for column in self.columns if column.query]
        for column in self.columns:
            if properties := _properties(column, blank="-" if self.empty else ""):
                panel.override_by_name(column.name, properties)
        if not figures:  # one question, whose columns stand as they are
            return
        several = len(figures) > 1
        renamed = {
            f"Value #{chr(65 + n)}" if several else "Value": column.name
            for n, column in enumerate(figures)
        }
        if several:
            panel.with_transformation(models.DataTransformerConfig("merge", options={}))
        labels = [column.name for column in self.columns if not column.query]
        order = {name: n for n, name in enumerate([*labels, *renamed])}
        panel.with_transformation(
            models.DataTransformerConfig(
                "organize",
                options={
                    "excludeByName": {name: True for name in ("Time", *self.hidden)},
                    "indexByName": order,
                    "renameByName": renamed,
                },
            )
        )
        options = dict(_OPTIONS["table"])
        if self.sort:
            options["sortBy"] = [{"displayName": self.sort, "desc": not self.ascending}]
        summed = {column.name for column in self.columns if column.total}
        if summed:  # by the names that fields have before they are renamed
            totals = [field for field, name in renamed.items() if name in summed]
            options["footer"] = {"show": True, "reducer": ["sum"], "fields": totals}
        panel.options(options)


def stat(
    title: str,
    about: str,
    basis: Basis,
    unit: str,
    query: Target,
    width: int = 4,
    **how: Any,  # noqa: ANN401 - further fields of a panel
) -> Panel:
    """One figure, of which a row holds six, or fewer that are wider."""
    return Panel(title, about, basis, unit, (query,), "stat", width, 4, **how)


def _properties(column: Column, blank: str) -> list[models.DynamicConfigValue]:
    """How a column is shown; `blank` stands in its empty cells, which else say what the panel says
    when it is empty.
    """
    given: dict[str, Any] = {"noValue": blank} if blank else {}
    if column.unit:
        given["unit"] = column.unit
    if column.decimals is not None:
        given["decimals"] = column.decimals
    if column.link:
        given["links"] = [dict(column.link)]
    if column.share:
        given |= {
            "min": 0,
            "max": 1,
            "custom.cellOptions": {"type": "gauge", "mode": "basic", "valueDisplayMode": "text"},
            "color": {"mode": "continuous-BlYlRd"},
        }
    figure_px = max(FIGURE_PX, 9 * len(column.name) + 20)
    if width := column.width or (figure_px if column.unit and not column.share else None):
        given["custom.width"] = width
    return [models.DynamicConfigValue(id_val=key, value=value) for key, value in given.items()]


class _DataLink:
    """A data link: the SDK only knows those of dashboards."""

    def __init__(self, link: Mapping[str, str]) -> None:
        self._link = dict(link)

    def build(self) -> dict[str, str]:
        return self._link


_OF_BARS = {"kwatth": "suffix: kWh"}
"""Units that Grafana would scale for each bar by itself: Wh beside MWh."""

NOTHING = ("No daemon was scraped in the range", "not yet known")
"""What a panel without words of its own says when it is empty, and what a single figure says."""

FIGURE_PX = 110
"""Least width of a column of figures; the names share the rest."""

SLACK = "\N{NO-BREAK SPACE}" * 8
"""Grafana makes room for the longest name by its letters, not by its width: `daemon_down` is as
long as `unallocated` and does not fit where that does. Blanks behind each are room enough."""

_COLOURS = {
    "stat": "thresholds",
    "timeseries": "palette-classic",
    "table": "thresholds",
    "bargauge": "thresholds",
}

_LAST = {"calcs": ["lastNotNull"], "fields": "", "values": False}

_OPTIONS: dict[str, dict[str, Any]] = {
    "stat": {
        "reduceOptions": _LAST,
        "colorMode": "value",
        "graphMode": "none",
        "justifyMode": "auto",
        "textMode": "auto",
        "orientation": "auto",
    },
    "timeseries": {
        "legend": {
            "displayMode": "list",
            "placement": "bottom",
            "showLegend": True,
            "calcs": [],
        },
        "tooltip": {"mode": "multi", "sort": "desc"},
    },
    "table": {"showHeader": True, "cellHeight": "sm", "footer": {"show": False, "reducer": []}},
    "bargauge": {
        "reduceOptions": _LAST,
        "displayMode": "basic",
        "orientation": "horizontal",
        "valueMode": "text",
        "showUnfilled": False,
        "minVizWidth": 8,
        "minVizHeight": 16,
        "maxVizHeight": 32,
        "namePlacement": "left",
        "sizing": "auto",
    },
}

_CUSTOM: dict[str, dict[str, Any]] = {
    "timeseries": {
        "drawStyle": "line",
        "lineInterpolation": "linear",
        "lineWidth": 1,
        "fillOpacity": 0,
        "showPoints": "never",
        "spanNulls": False,
        "stacking": {"group": "A", "mode": "none"},
    },
    "table": {"align": "auto", "inspect": False, "filterable": True},
}

STACKED: Mapping[str, Any] = {
    "fillOpacity": 70,
    "lineWidth": 0,
    "stacking": {"group": "A", "mode": "normal"},
}
"""An area of parts that add up."""

BARS: Mapping[str, Any] = {
    "drawStyle": "bars",
    "fillOpacity": 85,
    "lineWidth": 0,
    "barAlignment": -1,
    "stacking": {"group": "A", "mode": "normal"},
}
"""Bars of parts that add up; each stands for the time before its instant."""

BARS_AHEAD: Mapping[str, Any] = {**BARS, "barAlignment": 1}
"""The same, each of the time after its instant."""


EACH_NAMED: Mapping[str, Any] = {"textMode": "value_and_name"}
"""Several figures in one panel, each with its name, such as a currency."""


def _merged(base: Mapping[str, Any], more: Mapping[str, Any]) -> dict[str, Any]:
    return copy.deepcopy({**base, **more})
