"""A dashboard as a value, its variables, and its JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from dashboards.generator.panel import SOURCE, Panel
from grafana_foundation_sdk.builders import dashboard as sdk
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import dashboard as models

Variable = Builder[models.VariableModel]

TAG = "joulebook"
LEADERBOARD = "https://github.com/joulebook/joulebook/blob/main/docs/leaderboard.md"
"""Where it is said how results are joined with their energy."""


@dataclass(frozen=True)
class Row:
    """A heading and the panels below it."""

    title: str
    panels: tuple[Panel, ...]


@dataclass(frozen=True)
class Board:
    """One dashboard: `dashboards/<uid>.json`; those of one `tag` are linked with one another."""

    uid: str
    title: str
    about: str
    variables: tuple[Variable, ...]
    rows: tuple[Row, ...]
    since: str = "now-30d"
    refresh: str = "5m"
    datasource: str = "prometheus"
    tag: str = TAG

    def json(self) -> str:
        """The dashboard as Grafana imports it."""
        made = (
            sdk.Dashboard(self.title)
            .uid(self.uid)
            .description(self.about)
            .tags([self.tag])
            .timezone("browser")
            .editable()
            .tooltip(models.DashboardCursorSync.CROSSHAIR)
            .time(self.since, "now")
            .refresh(self.refresh)
            .link(
                sdk.DashboardLink("Joulebook")
                .type(models.DashboardLinkType.DASHBOARDS)
                .tags([self.tag])
                .as_dropdown(True)
                .include_vars(True)
                .keep_time(True)
            )
            .link(
                sdk.DashboardLink("What a point of accuracy cost")
                .type(models.DashboardLinkType.LINK)
                .url(LEADERBOARD)
                .target_blank(True)
            )
            .with_variable(
                sdk.DatasourceVariable("datasource").label("Source").type(self.datasource)
            )
        )
        for variable in self.variables:
            made.with_variable(variable)
        number = 0
        for row in self.rows:
            number += 1
            if row.title:
                made.with_row(sdk.Row(row.title).id(number))
            for panel in row.panels:
                number += 1
                made.with_panel(panel.build(number))
        text = json.dumps(made.build(), cls=JSONEncoder, indent=1, ensure_ascii=False)
        return text + "\n"


def label_values(
    name: str, metric: str, label: str, shown: str = "", *, several: bool = True
) -> Variable:
    """A choice of values of a label: several, or all (`.*`, which fits no label too); or one."""
    made = (
        sdk.QueryVariable(name)
        .label(shown or name.capitalize())
        .datasource(SOURCE)
        .query(
            {
                "qryType": 1,
                "query": f"label_values({metric},{label})",
                "refId": "PrometheusVariableQueryEditor-VariableQuery",
            }
        )
        .refresh(models.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(models.VariableSort.ALPHABETICAL_ASC)
    )
    if several:
        everything = models.VariableOption(text="All", value="$__all", selected=True)
        made.multi(True).include_all(True).all_value(".*").current(everything)
    return made


def text_box(name: str, shown: str) -> Variable:
    """A box to type into."""
    return sdk.TextBoxVariable(name).label(shown).default_value("")


class _Hidden(sdk.QueryVariable):
    """A variable that nobody sees, and that no link carries: it follows from the time range."""

    def build(self) -> models.VariableModel:
        made = super().build()
        made.skip_url_sync = True
        return made


def hidden(name: str, expression: str) -> Variable:
    """The value of the label `name` of the first series that `expression` gives, worked out again
    whenever the time range changes.
    """
    return (
        _Hidden(name)
        .datasource(SOURCE)
        .query(
            {
                "qryType": 3,
                "query": f"query_result({expression})",
                "refId": "PrometheusVariableQueryEditor-VariableQuery",
            }
        )
        .regex(f'/{name}="([^"]+)"/')
        .refresh(models.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .hide(models.VariableHide.HIDE_VARIABLE)
    )


def named(**labels: str) -> str:
    """A series that has these labels."""
    made = "vector(1)"
    for name, value in labels.items():
        made = f'label_replace({made}, "{name}", `{value}`, "", "")'
    return made


def follows(name: str, given: str, values: Mapping[str, str], otherwise: str) -> Variable:
    """A variable that follows from others: what these come to, and its value then."""
    cases = [
        f"({named(**{name: value, 'given': of})} and on (given) {named(given=given)})"
        for of, value in values.items()
    ]
    return hidden(name, " or on () ".join([*cases, named(**{name: otherwise})]))
