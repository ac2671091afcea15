"""Questions to PostgreSQL, by Grafana's built-in data source.

A variable goes into SQL as `${name:sqlstring}` only: Grafana then quotes every value of it, and
doubles the quotes within (https://grafana.com/docs/grafana/latest/dashboards/variables/).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from grafana_foundation_sdk.builders import dashboard as sdk
from grafana_foundation_sdk.cog import builder, variants
from grafana_foundation_sdk.models import dashboard as models

TYPE = "grafana-postgresql-datasource"
SOURCE = models.DataSourceRef(type_val=TYPE, uid="${datasource}")


class _Dataquery(variants.Dataquery):
    """A query as Grafana keeps it; the SDK has none for SQL."""

    def __init__(self, fields: dict[str, Any]) -> None:
        self._fields = fields

    def to_json(self) -> dict[str, Any]:
        return self._fields


class _Builder(builder.Builder[variants.Dataquery]):
    def __init__(self, made: _Dataquery) -> None:
        self._made = made

    def build(self) -> variants.Dataquery:
        return self._made


@dataclass(frozen=True)
class Sql:
    """One SELECT; for a course of time it has a column `time`."""

    text: str

    def build(self, ref: str, kind: str) -> builder.Builder[variants.Dataquery]:
        """The query of the panel's kind under the letter `ref`."""
        return _Builder(
            _Dataquery(
                {
                    "refId": ref,
                    "datasource": {"type": TYPE, "uid": "${datasource}"},
                    "editorMode": "code",
                    "rawQuery": True,
                    "rawSql": self.text,
                    "format": "time_series" if kind == "timeseries" else "table",
                }
            )
        )


def choice(name: str, shown: str, sql: str, *, several: bool) -> sdk.QueryVariable:
    """A choice of what a SELECT finds: one, or several and all."""
    made = (
        sdk.QueryVariable(name)
        .label(shown)
        .datasource(SOURCE)
        .query(sql)
        .refresh(models.VariableRefresh.ON_TIME_RANGE_CHANGED)
    )
    if several:
        everything = models.VariableOption(text="All", value="$__all", selected=True)
        made.multi(True).include_all(True).current(everything)
    return made
