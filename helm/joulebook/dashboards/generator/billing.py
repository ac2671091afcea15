"""Billing, from the collected ledger in PostgreSQL: a month by account, exactly as billed.

It asks `used_entries` and `billed_entries` (the program's own views), in which late entries and
both legs of each correction stand beside what was used in the month.
"""

from __future__ import annotations

from typing import Any

from dashboards.generator.board import Board, Row
from dashboards.generator.panel import BARS, Basis, Column, Panel
from dashboards.generator.sql import TYPE, Sql, choice

_KWH = "3600000000000"
_HOUR = "3600000000000"

_MONTH = "e.month = (${month:sqlstring})::int"
_MINE = "(o.account IN (${account:sqlstring}) OR o.account = '')"
_HERE = f"JOIN owners o ON o.id = e.owner WHERE {_MONTH} AND {_MINE}"

_MONEY = "(sum(CASE e.item WHEN 'credit' THEN -1 ELSE 1 END * (e.whole + e.nano / 1e9)))::float8"
_WHOSE = "CASE WHEN o.remainder <> '' THEN '(' || o.remainder || ')' ELSE o.account END"
_BURNT = f"(sum(e.energy_uj) / {_KWH}.0)::float8"
_DAY_MONTH = "to_char(to_timestamp(e.day_s) AT TIME ZONE 'UTC', 'YYYYMM')::int"
_ENTRY = (
    "CASE WHEN e.correction > 0 THEN 'correction ' || e.correction "
    f"WHEN {_DAY_MONTH} <> e.month THEN 'late, of ' || {_DAY_MONTH} ELSE 'usage' END"
)


def _panel(
    title: str,
    about: str,
    basis: Basis,
    unit: str,
    sql: str,
    kind: str,
    width: int,
    height: int,
    **more: Any,  # noqa: ANN401 - further fields of a panel
) -> Panel:
    return Panel(
        title, about, basis, unit, (Sql(sql),), kind, width, height, datasource=TYPE, **more
    )


_ALL_ROWS = {"reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": True}}

FIGURES = (
    _panel("Energy", "Energy billed in the month, remainders too.", Basis.METERED, "kwatth",
        f'SELECT coalesce({_BURNT}, 0) AS "energy" FROM used_entries e {_HERE}', "stat", 6, 4,
        decimals=2),
    _panel("Cost", "What was charged in the month, credits taken off, by currency.", Basis.RATED,
        "none", f'SELECT e.currency, {_MONEY} AS "cost" FROM billed_entries e {_HERE} '
        "AND e.currency <> '' GROUP BY e.currency ORDER BY e.currency", "stat", 6, 4,
        decimals=2, options={**_ALL_ROWS, "textMode": "value_and_name"}),
    _panel("CO2e", "Location-based CO2e of the energy billed in the month.", Basis.RATED, "massg",
        f'SELECT ({_MONEY} * 1000)::float8 AS "CO2e" FROM billed_entries e {_HERE} '
        "AND e.item = 'co2e'", "stat", 6, 4, decimals=0, empty="no intensity set"),
    _panel("Unattributed", "Share of the month's energy of no workload.", Basis.METERED,
        "percentunit", "SELECT coalesce(sum(CASE WHEN o.remainder <> '' THEN e.energy_uj ELSE 0 "
        f"END)::float8 / nullif(sum(e.energy_uj), 0)::float8, 0) AS unattributed "
        f"FROM used_entries e {_HERE}", "stat", 6, 4, decimals=1),
)  # fmt: skip

ACCOUNTS = (
    _panel("Cost by account", "What each account is billed in the month.", Basis.RATED, "none",
        f'SELECT {_WHOSE} || \' \' || e.currency AS "account", {_MONEY} AS "cost" '
        f"FROM billed_entries e {_HERE} AND e.currency <> '' GROUP BY 1 ORDER BY 2 DESC",
        "bargauge", 12, 9, decimals=2, options=_ALL_ROWS),
    _panel("Energy by account and day", "Energy by the day it was consumed, in the time range.",
        Basis.METERED, "kwatth",
        f'SELECT to_timestamp(e.day_s + 86400) AS "time", {_WHOSE} AS "metric", {_BURNT} AS "kWh" '
        "FROM used e JOIN owners o ON o.id = e.owner "
        f"WHERE $__unixEpochFilter(e.day_s) AND {_MINE} GROUP BY 1, 2 ORDER BY 1, 2",
        "timeseries", 12, 9, custom=BARS),
)  # fmt: skip


_INSTANT = ("time:YYYY-MM-DD HH:mm", None)


def _once(figure: str) -> str:
    """A figure that is of no currency, in the first row of an entry that has several of them."""
    return (
        "CASE WHEN row_number() OVER (PARTITION BY owner, entry ORDER BY currency) = 1 "
        f"THEN {figure} END"
    )


def _table(
    title: str, about: str, basis: Basis, sql: str, figures: dict[str, tuple[str, int | None]],
    height: int,
) -> Panel:  # fmt: skip
    """A table of one question; `figures` are its columns with a unit and decimals."""
    return Panel(
        title,
        about,
        basis,
        "none",
        (Sql(sql),),
        "table",
        24,
        height,
        columns=tuple(
            Column(name, unit=unit, decimals=decimals, width=150 if decimals is None else None)
            for name, (unit, decimals) in figures.items()
        ),
        datasource=TYPE,
    )


BILL = _table(
    "Bill",
    "Each experiment of the month, with late entries of closed months and corrections beside it.",
    Basis.RATED,
    f"""WITH energy AS (
  SELECT e.owner, {_ENTRY} AS entry, {_BURNT} AS kwh,
         (sum(e.held_ns) / {_HOUR}.0)::float8 AS hours
  FROM used_entries e {_HERE} GROUP BY 1, 2
), money AS (
  SELECT e.owner, {_ENTRY} AS entry, e.currency, {_MONEY} AS cost
  FROM billed_entries e {_HERE} AND e.currency <> '' GROUP BY 1, 2, 3
), carbon AS (
  SELECT e.owner, {_ENTRY} AS entry, {_MONEY} AS kg
  FROM billed_entries e {_HERE} AND e.item = 'co2e' GROUP BY 1, 2
)
SELECT {_WHOSE} AS "account", o.person AS "user", o.experiment AS "experiment", entry AS "entry",
       {_once("kwh")} AS "energy", {_once("hours")} AS "GPU-hours", cost AS "cost",
       currency AS "currency", {_once("kg * 1000")} AS "CO2e"
FROM energy FULL JOIN money USING (owner, entry) FULL JOIN carbon USING (owner, entry)
JOIN owners o ON o.id = owner ORDER BY cost DESC NULLS LAST, kwh DESC""",
    {"energy": ("kwatth", 2), "GPU-hours": ("none", 1), "cost": ("none", 4), "CO2e": ("massg", 0)},
    11,
)

CORRECTIONS = _table(
    "Corrections",
    "Amounts that went from one owner to another in the month: who, why, when.",
    Basis.COUNTED,
    """SELECT c.id AS "number", to_timestamp(c.made_s) AS "made", c.kind AS "kind", c.who AS "who",
       c.why AS "why", a.remainder || a.account || '/' || a.experiment AS "from",
       b.remainder || b.account || '/' || b.experiment AS "to",
       (sum(t.energy_uj) / 3600000000000.0)::float8 AS "energy",
       (SELECT string_agg(amount || ' ' || currency, ', ' ORDER BY currency) FROM
        (SELECT e.currency, (sum(CASE e.item WHEN 'credit' THEN -1 ELSE 1 END
         * (e.whole + e.nano / 1e9)))::numeric(38, 4) AS amount FROM transfers e
         WHERE e.correction = c.id AND e.currency <> '' GROUP BY 1) paid) AS "cost"
FROM corrections c JOIN transfers t ON t.correction = c.id
JOIN owners a ON a.id = t.from_owner JOIN owners b ON b.id = t.to_owner
WHERE c.month = (${month:sqlstring})::int GROUP BY 1, 2, 3, 4, 5, 6, 7 ORDER BY 1""",
    {"made": _INSTANT, "energy": ("kwatth", 2)},
    5,
)

MONTHS = _table(
    "Months",
    "All months that anything is billed in; what is closed never changes.",
    Basis.RATED,
    f"""SELECT e.month AS "month", coalesce(to_char(to_timestamp(p.closed_s) AT TIME ZONE 'UTC',
       '"closed "YYYY-MM-DD'), 'open') AS "state", coalesce(p.closed_by, '') AS "by",
       {_BURNT} AS "energy"
FROM used_entries e LEFT JOIN periods p ON p.month = e.month
GROUP BY 1, 2, 3 ORDER BY 1 DESC""",
    {"energy": ("kwatth", 2)},
    6,
)

NODES = _table(
    "Nodes",
    "Up to when each ledger has been collected, and how many changes are not.",
    Basis.COUNTED,
    """SELECT cluster AS "cluster", node AS "node", left(ledger_id, 8) AS "ledger",
       to_timestamp(booked_to_s) AS "booked up to", to_timestamp(seen_s) AS "collected",
       last_seq - position AS "behind"
FROM ledgers ORDER BY last_seq - position DESC, booked_to_s, node""",
    {"booked up to": _INSTANT, "collected": _INSTANT, "behind": ("none", 0)},
    6,
)

DASHBOARD = Board(
    "joulebook-billing",
    "Billing",
    "What a month comes to by account, from the collected ledger in PostgreSQL, exactly as billed.",
    (
        choice(
            "month",
            "Month",
            "SELECT DISTINCT month::text FROM used ORDER BY 1 DESC",
            several=False,
        ),
        choice(
            "account",
            "Account",
            "SELECT DISTINCT account FROM owners WHERE account <> '' ORDER BY 1",
            several=True,
        ),
    ),
    (
        Row("", FIGURES),
        Row("Accounts", ACCOUNTS),
        Row("Bill", (BILL, CORRECTIONS, MONTHS)),
        Row("Collection", (NODES,)),
    ),
    datasource=TYPE,
)
