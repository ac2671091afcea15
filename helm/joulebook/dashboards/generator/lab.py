"""Lab overview: what the lab consumed, what that cost, who for, and how much of it was for
nothing.
"""

from __future__ import annotations

from dashboards.generator import links
from dashboards.generator.board import Board, Row
from dashboards.generator.figures import (
    CHOICE,
    CLUSTERS,
    CURRENCY,
    DAY,
    NO_CARBON,
    NO_PRICE,
    NOT_OF_RULES,
    OF_GPU,
    OF_IDLE,
    OWNERS,
    PAID,
    RULES,
    by_day,
    idle_share,
    kwh,
    leading,
    metered,
    power,
    power_unused,
    ranked,
    unused,
    used,
    used_before,
)
from dashboards.generator.panel import (
    BARS_AHEAD,
    EACH_NAMED,
    STACKED,
    Basis,
    Column,
    Panel,
    Query,
    stat,
)
from dashboards.generator.promql import chosen, ratio, selector
from dashboards.generator.recording import RATES, SPENT, rate_rule

_EACH = "cluster, account, user, experiment"
LONG = "Long ranges of large labs end with the last whole hour (5 minutes up to 25 hours)."
_SAME = "the time before that is as long; choose Previous month to compare two months"

TOTALS = (
    stat(
        "Energy",
        f"Energy of all experiments, idle parts included. {LONG}",
        Basis.METERED,
        "kwatth",
        Query(kwh(used("energy_joules"))),
        empty="nothing was used",
    ),
    stat(
        "Cost",
        f"Electricity and hardware, less what negative prices earned. {LONG}",
        Basis.RATED,
        "locale",
        Query(used("cost", "currency"), "{{currency}}"),
        options=EACH_NAMED,
        decimals=2,
        empty=NO_PRICE,
    ),
    stat(
        "CO2e",
        f"Location-based emissions of electricity. {LONG}",
        Basis.RATED,
        "suffix: kg",
        Query(f"({used('co2e_grams')}) / 1000"),
        decimals=2,
        empty=NO_CARBON,
    ),
    stat(
        "GPU-hours",
        f"Hours for which experiments held GPUs. {LONG}",
        Basis.HELD,
        "locale",
        Query(f"({used('gpu_seconds')}) / 3600"),
        decimals=1,
        empty="no GPU was held",
    ),
    stat(
        "Allocated but idle",
        f"Share of GPU energy consumed while the GPUs that experiments held did nothing. {LONG}",
        Basis.METERED,
        "percentunit",
        Query(ratio(used("idle_energy_joules", "", OF_GPU), used("energy_joules", "", OF_GPU))),
        decimals=1,
        thresholds=OF_IDLE,
        empty="no GPU was held",
    ),
    stat(
        "Unattributed",
        "Share of all energy that belongs to no experiment: unallocated GPUs, the system itself, "
        "and what could not be attributed. It is of all accounts, whichever are chosen. "
        f"{LONG}",
        Basis.METERED,
        "percentunit",
        Query(ratio(unused("energy_joules"), metered())),
        decimals=1,
        thresholds=((None, "green"), (0.2, "orange"), (0.4, "red")),
        empty="no meter was read",
    ),
)

BEFORE = (
    stat(
        "Energy, period before",
        f"The same of {_SAME}.",
        Basis.METERED,
        "kwatth",
        Query(kwh(used_before("energy_joules"))),
        empty="not known",
    ),
    stat(
        "Cost, period before",
        f"The same of {_SAME}.",
        Basis.RATED,
        "locale",
        Query(used_before("cost", "currency"), "{{currency}}"),
        options=EACH_NAMED,
        decimals=2,
        empty="not known",
    ),
    stat(
        "Cost of idle allocations",
        f"Electricity and hours of GPUs while their holders did nothing with them. {LONG}",
        Basis.RATED,
        "locale",
        Query(used("idle_cost", "currency"), "{{currency}}"),
        options=EACH_NAMED,
        decimals=2,
        empty=NO_PRICE,
    ),
    Panel(
        "Budgets",
        "Share of each monthly budget that is spent since the month began (UTC), whatever range "
        "is shown; the fullest.",
        Basis.RATED,
        "percentunit",
        (
            Query(
                "sort_desc(topk(12, max by (cluster, account, experiment, unit) "
                f"(last_over_time({SPENT}{{{chosen('cluster', 'account')}}}[2h]))))",
                "{{account}} {{experiment}} ({{unit}}) {{cluster}}",
            ),
        ),
        "bargauge",
        12,
        4,
        at_most=1,
        thresholds=((None, "green"), (0.75, "orange"), (0.9, "red")),
        empty="no budget is set: see [budgets] in the configuration",
    ),
)

TABLE = Panel(
    "What each experiment cost",
    "Each user's part of every experiment that used energy in the range; a click on a name shows "
    "its runs. An experiment is listed once for each cluster and account; idle: the share of its "
    f"GPU energy. {LONG}",
    Basis.RATED,
    "none",
    kind="table",
    width=24,
    height=12,
    columns=(
        Column("cluster", width=110),
        Column("account", width=120),
        Column("user", width=130),
        Column("experiment", link=links.EXPERIMENT),
        Column("Cost", Query(used("cost", f"{_EACH}, currency", PAID)), "locale", 2, total=True),
        Column("currency", width=80),
        Column(
            "Energy (kWh)",
            Query(f"{kwh(used('energy_joules', _EACH))} > 0"),
            "locale",
            2,
            total=True,
        ),
        Column(
            "CO2e (kg)",
            Query(f"({used('co2e_grams', _EACH)}) / 1000"),
            "locale",
            2,
            total=True,
        ),
        Column(
            "GPU-hours", Query(f"({used('gpu_seconds', _EACH)}) / 3600"), "locale", 1, total=True
        ),
        idle_share(used, _EACH),
    ),
    sort="Energy (kWh)",
    empty="No experiment used energy in the range: run a job, or widen the range",
)

_POWER = power("account", "{{account}}")

TREND = (
    Panel(
        "Power by account",
        "Mean power of what the experiments of each account held, and of what is unattributed: "
        f"the accounts that used most, and the others. {LONG}",
        Basis.METERED,
        "watt",
        (
            *leading(_POWER, "account", used("energy_joules", "account")),
            power_unused("", "(unattributed)"),
        ),
        width=24,
        height=9,
        points=150,
        custom=STACKED,
    ),
)

RANKS = (
    Panel(
        "Energy by account",
        f"The accounts that used most. {LONG}",
        Basis.METERED,
        "kwatth",
        ranked("account", kwh(used("energy_joules", "account")), "{{account}}"),
        "bargauge",
        12,
        11,
        link=links.ACCOUNT,
        empty="no GPU was held",
    ),
    Panel(
        "Top users",
        f"The users whose experiments used most. {LONG}",
        Basis.METERED,
        "kwatth",
        ranked("user", kwh(used("energy_joules", "user")), "{{user}}"),
        "bargauge",
        12,
        11,
        link=links.USER,
        empty="no GPU was held",
    ),
)

_DAY = (
    "Each bar is a whole day from its midnight on, the first and the last day of the range too "
    "(of an hour in ranges of less than a day, of several days in those of over a year). Days "
    "begin up to an hour off in long ranges of large labs, and after a change of the clock."
)


def _days(what: str, scale: str = "") -> tuple[Query, Query]:
    every = f"({by_day(what, 'account')}){scale}"
    rank = used(what, "account", *([PAID] if what == "cost" else []))
    return leading(Query(every, "{{account}}", "$day"), "account", rank)


DAYS = (
    Panel(
        "Energy by day",
        _DAY,
        Basis.METERED,
        "kwatth",
        _days("energy_joules", " / 3600000"),
        custom=BARS_AHEAD,
    ),
    Panel(
        "Cost by day",
        f"In the currency chosen above. {_DAY}",
        Basis.RATED,
        "locale",
        _days("cost"),
        custom=BARS_AHEAD,
        decimals=2,
        below_zero=True,
        empty=NO_PRICE,
    ),
)


def _rate(what: str, legend: str, title: str, about: str, unit: str) -> Panel:
    gauge = selector(f"joulebook_{what}", CLUSTERS, NOT_OF_RULES)
    rule = selector(rate_rule(what), CLUSTERS)
    by_name = f"avg by ({RATES[what]})"
    return Panel(
        title,
        about,
        Basis.READ,
        unit,
        (
            Query(
                f"{by_name} (avg_over_time({gauge}[$__interval]))\nor\n"
                f"{by_name} (avg_over_time({rule}[$__interval]))",
                legend,
                "5m",
            ),
        ),
        width=8,
        below_zero=True,
        empty=f"Not known: see rates.{title.rsplit(maxsplit=1)[-1].lower()} in the configuration",
    )


CHEAP = (
    _rate("electricity_price_per_kwh", "{{cluster}} {{currency}}",
        "Electricity price", "What a kilowatt-hour costs, without PUE: when power is cheap.",
        "locale"),
    _rate("carbon_intensity_grams_per_kwh", "{{cluster}} {{zone}}",
        "Grid carbon", "Grams of CO2e of a kilowatt-hour, without PUE: when power is clean.",
        "locale"),
    _rate("pue_ratio", "{{cluster}} PUE", "Facility PUE",
        "Energy of the facility for each joule of the machines.", "none"),
)  # fmt: skip

DASHBOARD = Board(
    "joulebook-lab",
    "Lab overview",
    "What the lab's GPUs consumed, what that cost, for whom, and how much was for nothing.",
    (*OWNERS, CURRENCY, *CHOICE, RULES, DAY),
    (
        Row("", TOTALS + BEFORE),
        Row("Experiments", (TABLE,)),
        Row("Trend", TREND),
        Row("Who", RANKS),
        Row("Day by day", DAYS),
        Row("When power is cheap and clean", CHEAP),
    ),
)
