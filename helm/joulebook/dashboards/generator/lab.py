"""Lab overview: what the lab consumed, what that cost, who for, and how much of it was for
nothing.
"""

from __future__ import annotations

from dashboards.generator import links
from dashboards.generator.board import Board, Row
from dashboards.generator.figures import (
    CHOICE,
    OF_GPU,
    OWNERS,
    kwh,
    metered,
    power,
    power_unused,
    recorded,
    unused,
    used,
)
from dashboards.generator.panel import BARS, STACKED, Basis, Column, Panel, Query
from dashboards.generator.promql import ratio
from dashboards.generator.recording import SPENT

_EXPERIMENT = "cluster, account, experiment"
_EACH = "cluster, account, user, experiment"
LONG = "Beyond 25 hours: whole hours of the recording rules, the last of them up to an hour ago."

TOTALS = (
    Panel(
        "Energy",
        f"Energy of all experiments, idle parts included. {LONG}",
        Basis.METERED,
        "kwatth",
        (Query(kwh(used("energy_joules"))),),
        "stat",
        4,
        4,
    ),
    Panel(
        "Cost",
        f"Electricity and hardware, what negative prices earned taken off. {LONG}",
        Basis.RATED,
        "locale",
        (Query(used("cost", "currency"), "{{currency}}"),),
        "stat",
        4,
        4,
        decimals=0,
        options={"textMode": "value_and_name"},
        empty="no price",
    ),
    Panel(
        "CO2e",
        f"Location-based emissions of electricity. {LONG}",
        Basis.RATED,
        "massg",
        (Query(used("co2e_grams")),),
        "stat",
        4,
        4,
        empty="no intensity",
    ),
    Panel(
        "GPU-hours",
        f"Hours for which experiments held GPUs. {LONG}",
        Basis.HELD,
        "locale",
        (Query(f"({used('gpu_seconds')}) / 3600"),),
        "stat",
        4,
        4,
        decimals=0,
    ),
    Panel(
        "Allocated but idle",
        f"Share of GPU energy consumed while the GPUs that experiments held did nothing. {LONG}",
        Basis.METERED,
        "percentunit",
        (Query(ratio(used("idle_energy_joules", "", OF_GPU), used("energy_joules", "", OF_GPU))),),
        "stat",
        4,
        4,
        decimals=1,
        thresholds=((None, "green"), (0.1, "orange"), (0.25, "red")),
    ),
    Panel(
        "Unattributed",
        "Share of all energy that no experiment held: unallocated GPUs, the system itself, and "
        f"what could not be attributed. Whatever accounts are chosen, all of it counts. {LONG}",
        Basis.METERED,
        "percentunit",
        (Query(ratio(unused("energy_joules"), metered())),),
        "stat",
        4,
        4,
        decimals=1,
        thresholds=((None, "green"), (0.2, "orange"), (0.4, "red")),
    ),
)

TREND = (
    Panel(
        "Power by account",
        f"Mean power of what each account's experiments held, and of what nobody held. {LONG}",
        Basis.METERED,
        "watt",
        (*power("account", "{{account}}"), *power_unused("", "(nobody)")),
        width=16,
        height=9,
        points=150,
        custom=STACKED,
    ),
    Panel(
        "Energy by account",
        f"The accounts that used most. {LONG}",
        Basis.METERED,
        "kwatth",
        (Query(f"sort_desc(topk(10, {kwh(used('energy_joules', 'account'))}))", "{{account}}"),),
        "bargauge",
        8,
        9,
        link=links.ACCOUNT,
    ),
)

TABLE = Panel(
    "What each experiment cost",
    "Each user's part of every experiment that used energy in the range; a click on its name shows "
    "its runs. An experiment is reported apart by cluster and account; idle: the share of its GPU "
    f"energy. {LONG}",
    Basis.RATED,
    "none",
    kind="table",
    width=24,
    height=10,
    columns=(
        Column("cluster", width=110),
        Column("account", width=120),
        Column("user", width=130),
        Column("experiment", link=links.EXPERIMENT),
        Column("Cost", Query(used("cost", f"{_EACH}, currency")), "none", 2),
        Column("currency", width=80),
        Column("Energy", Query(f"{kwh(used('energy_joules', _EACH))} > 0"), "kwatth", 2),
        Column("CO2e", Query(used("co2e_grams", _EACH)), "massg", 1),
        Column("GPU-hours", Query(f"({used('gpu_seconds', _EACH)}) / 3600"), "none", 1),
        Column(
            "Idle",
            Query(
                ratio(
                    used("idle_energy_joules", _EACH, OF_GPU),
                    f"({used('energy_joules', _EACH, OF_GPU)}) > 0",
                )
            ),
            "percentunit",
            0,
            share=True,
        ),
    ),
    sort="Cost",
)

RANKS = (
    Panel(
        "Top experiments",
        f"By energy. {LONG}",
        Basis.METERED,
        "kwatth",
        (
            Query(
                f"sort_desc(topk(10, {kwh(used('energy_joules', _EXPERIMENT))}))",
                "{{account}}/{{experiment}} {{cluster}}",
            ),
        ),
        "bargauge",
        8,
        9,
        link=links.EXPERIMENT_OF_BAR,
    ),
    Panel(
        "Top users",
        f"By energy. {LONG}",
        Basis.METERED,
        "kwatth",
        (Query(f"sort_desc(topk(10, {kwh(used('energy_joules', 'user'))}))", "{{user}}"),),
        "bargauge",
        8,
        9,
        link=links.USER,
    ),
    Panel(
        "Budgets",
        "Spent of the budgets in the configuration, since the counters began, whatever range is "
        "shown.",
        Basis.RATED,
        "percentunit",
        (
            Query(
                "sort_desc(max by (cluster, account, experiment, unit) "
                f'(last_over_time({SPENT}{{cluster=~"$cluster",account=~"$account"}}[15m])))',
                "{{account}} {{experiment}} ({{unit}}) {{cluster}}",
            ),
        ),
        "bargauge",
        8,
        9,
        at_most=1,
        thresholds=((None, "green"), (0.75, "orange"), (0.9, "red")),
        empty="no budgets set",
    ),
)

_DAY = "Each bar stands for the day (or the longer step) before it; from the recording rules."
DAYS = (
    Panel(
        "Energy by day",
        f"{_DAY}",
        Basis.METERED,
        "kwatth",
        (Query(kwh(recorded("energy_joules", "account")), "{{account}}", "1d"),),
        custom=BARS,
    ),
    Panel(
        "Cost by day",
        f"{_DAY} Different currencies stand on each other, and do not add up.",
        Basis.RATED,
        "locale",
        (Query(recorded("cost", "account, currency"), "{{account}} ({{currency}})", "1d"),),
        custom=BARS,
        decimals=2,
        below_zero=True,
        empty="no price",
    ),
)

DASHBOARD = Board(
    "joulebook-lab",
    "Lab overview",
    "What the lab's GPUs consumed, what that cost, whose experiments it was for, and how "
    "much of it "
    "was for nothing.",
    (*OWNERS, *CHOICE),
    (
        Row("", TOTALS),
        Row("Trend", TREND),
        Row("Experiments", (TABLE,)),
        Row("Who", RANKS),
        Row("Day by day", DAYS),
    ),
)
