"""Waste: idle allocations, low utilization and GPUs that nobody held, by owner and in money."""

from __future__ import annotations

from typing import Any

from dashboards.generator import links
from dashboards.generator.board import Board, Row
from dashboards.generator.figures import (
    CHOICE,
    CLUSTERS,
    CURRENCY,
    HOLDER,
    NO_PRICE,
    OWNERS,
    PAID,
    WHO,
    kwh,
    power,
    power_unused,
    ranked,
    unused,
    used,
)
from dashboards.generator.lab import LONG
from dashboards.generator.panel import EACH_NAMED, STACKED, Basis, Column, Panel, Query, stat
from dashboards.generator.promql import by, chosen, ratio, risen

UNALLOCATED = 'reason="unallocated"'
_OWNER = "cluster, account, user"
_NODE = "cluster, node"
_IDLE = "while the GPUs that were held did no work"
_BOTH = "electricity and the hours of the hardware"


def _stat(
    title: str,
    about: str,
    basis: Basis,
    unit: str,
    query: Query,
    **how: Any,  # noqa: ANN401 - further fields of a panel
) -> Panel:
    return stat(title, f"{about} {LONG}", basis, unit, query, **how)


_MONEY = {"decimals": 2, "options": EACH_NAMED, "empty": NO_PRICE}

TOTALS = (
    _stat("Cost of idle allocations", f"What was paid {_IDLE}: {_BOTH}.", Basis.RATED, "locale",
        Query(used("idle_cost", "currency"), "{{currency}}"), **_MONEY),
    _stat("Cost of unallocated GPUs", f"What GPUs cost that no workload held: {_BOTH}.",
        Basis.RATED, "locale",
        Query(unused("cost", "currency", UNALLOCATED), "{{currency}}"), **_MONEY),
    _stat("Allocated but idle", f"Energy consumed {_IDLE}.", Basis.METERED, "kwatth",
        Query(kwh(used("idle_energy_joules"))), empty="nothing was idle"),
    _stat("Unallocated", "Energy of devices that no workload held.", Basis.METERED, "kwatth",
        Query(kwh(unused("energy_joules", "", UNALLOCATED))), empty="all were held"),
    _stat("Idle GPU-hours", f"Hours of allocated GPUs {_IDLE}.", Basis.HELD, "locale",
        Query(f"({used('idle_gpu_seconds')}) / 3600"), decimals=1,
        empty="nothing was idle"),
    _stat("Unallocated GPU-hours", "Hours of GPUs that no workload held.", Basis.HELD, "locale",
        Query(f"({unused('gpu_seconds', '', UNALLOCATED)}) / 3600"), decimals=1,
        empty="all were held"),
)  # fmt: skip

OWNERS_TABLE = Panel(
    "Where to save",
    f"Who held GPUs without using them, and what that cost ({_BOTH}); the most expensive first, in "
    f"the currency chosen above. {LONG}",
    Basis.RATED,
    "none",
    kind="table",
    width=24,
    height=9,
    columns=(
        Column("cluster", width=110),
        Column("account"),
        Column("user"),
        Column(
            "Cost of idling",
            Query(used("idle_cost", f"{_OWNER}, currency", PAID)),
            "locale",
            2,
            total=True,
        ),
        Column("currency", width=80),
        Column(
            "Idle GPU-hours",
            Query(f"({used('idle_gpu_seconds', _OWNER)}) / 3600 > 0"),
            "locale",
            1,
            total=True,
        ),
        Column(
            "Idle energy (kWh)",
            Query(f"{kwh(used('idle_energy_joules', _OWNER))} > 0"),
            "locale",
            2,
            total=True,
        ),
        Column(
            "Idle share of time",
            Query(
                ratio(used("idle_gpu_seconds", _OWNER), f"(({used('gpu_seconds', _OWNER)}) > 0)")
            ),
            "percentunit",
            0,
            share=True,
        ),
    ),
    sort="Cost of idling",
    empty="Nobody held an idle GPU in the range",
)

TREND = (
    Panel(
        "Where the power goes",
        f"Mean power of held devices that did nothing, and of what belongs to nobody. {LONG}",
        Basis.METERED,
        "watt",
        (
            power("", "allocated but idle", "idle_energy_joules"),
            power_unused("reason", "{{reason}}"),
        ),
        width=24,
        height=9,
        custom=STACKED,
    ),
)

_GPU = "cluster, node, gpu, uuid"
_HOLDER = f"{_GPU}, scheduler, workload, user, account, experiment"
_FOREIGN = "joulebook_foreign_use_seconds_total"
_USER = "cluster, node, meter, scheduler, workload"
_BUSY = f"max by ({_GPU}) (avg_over_time(joulebook_gpu_utilization_ratio[1h]))"

LOW = Panel(
    "Held and hardly used",
    "GPUs that were held for at least the last hour of the range and were busy for less than 30 % "
    "of it, by all who hold them; the least used first.",
    Basis.READ,
    "none",
    kind="table",
    width=24,
    height=9,
    hidden=("uuid", "scheduler"),
    columns=(
        *HOLDER,
        Column(
            "Busy",
            Query(
                f"(max by ({_HOLDER}) (joulebook_gpu_held_ratio{{{WHO}}}) > bool 0\n"
                f"  and on ({_HOLDER}) last_over_time(joulebook_gpu_held_ratio[10m] offset 50m))\n"
                f"* on ({_GPU}) group_left ()\n({_BUSY} < 0.3)"
            ),
            "percentunit",
            1,
            share=True,
        ),
    ),
    sort="Busy",
    ascending=True,
    empty="Every GPU that was held for the last hour was busy",
)

UNASKED = Panel(
    "Used without an allocation",
    "Whose processes ran on GPUs that others hold, and for how long in the range: the holders pay "
    "for it.",
    Basis.READ,
    "none",
    kind="table",
    width=24,
    height=7,
    columns=(
        Column("cluster", width=110),
        Column("node", link=links.NODE),
        Column("meter"),
        Column("scheduler"),
        Column("workload", link=links.WORKLOAD),
        Column(
            "Hours",
            Query(f"{by(_USER, risen(f'{_FOREIGN}{{{CLUSTERS}}}'))} / 3600 > 0.01"),
            "locale",
            2,
        ),
    ),
    sort="Hours",
    empty="Nobody used a GPU that another held",
)

WHERE_UNUSED = (
    Panel(
        "Cost of unallocated GPUs, by node",
        f"In the currency chosen above: {_BOTH}. {LONG}",
        Basis.RATED,
        "locale",
        ranked(_NODE, unused("cost", _NODE, UNALLOCATED, PAID), "{{node}} {{cluster}}"),
        "bargauge",
        decimals=2,
        height=10,
        empty=NO_PRICE,
    ),
    Panel(
        "Unattributed, by reason",
        f"All energy that belongs to no workload. {LONG}",
        Basis.METERED,
        "kwatth",
        (Query(f"sort_desc({kwh(unused('energy_joules', 'reason'))} > 0)", "{{reason}}"),),
        "bargauge",
        height=10,
        empty="Every joule belongs to a workload",
    ),
)

_ADVICE = "joulebook_advice"
_OF_LINE = "cluster, account, kind"
_ALONE = (
    "Each kind alone: they overlap, so together they save less. From the lab server (`joulebook "
    "lab`), whatever the range; `joulebook advise` has the evidence and the next "
    "steps."
)
_NO_ADVICE = "no advice: it needs the lab server"


def _saved(what: str, labels: str = _OF_LINE, more: str = "") -> str:
    """What advice would have saved, once for several lab servers."""
    return f"max by ({labels}) ({_ADVICE}_{what}{{{chosen('cluster', 'account')}{more}}})"


def _all_saved(title: str, what: str, unit: str, query: Query, **how: Any) -> Panel:  # noqa: ANN401
    about = f"{what} that last month's advice would have saved. {_ALONE}"
    return stat(title, about, Basis.MODELLED, unit, query, width=8, **{"empty": _NO_ADVICE, **how})


ADVICE = (
    _all_saved(
        "Energy that advice would have saved",
        "Energy",
        "kwatth",
        Query(f"sum({kwh(_saved('energy_joules'))})"),
    ),
    _all_saved(
        "Cost that advice would have saved",
        "Money (electricity and the hours of the hardware)",
        "locale",
        Query(f"sum by (currency) ({_saved('cost', f'{_OF_LINE}, currency')})", "{{currency}}"),
        decimals=2,
        options=EACH_NAMED,
    ),
    _all_saved(
        "CO2e that advice would have saved",
        "CO2e",
        "suffix: kg",
        Query(f"sum({_saved('co2e_grams')}) / 1000"),
        decimals=1,
    ),
    Panel(
        "What last month's advice would have saved",
        "By account and kind of advice, the greatest saving first, in the currency chosen above. "
        f"{_ALONE}",
        Basis.MODELLED,
        "none",
        kind="table",
        width=24,
        height=9,
        columns=(
            Column("cluster", width=110),
            Column("account"),
            Column("kind"),
            Column("Cost", Query(_saved("cost", f"{_OF_LINE}, currency", f",{PAID}")), "locale", 2),
            Column("currency", width=80),
            Column("Energy (kWh)", Query(kwh(_saved("energy_joules"))), "locale", 2),
            Column("CO2e (kg)", Query(f"{_saved('co2e_grams')} / 1000"), "locale", 2),
        ),
        sort="Cost",
        empty=_NO_ADVICE,
    ),
)

DASHBOARD = Board(
    "joulebook-waste",
    "Waste",
    "GPUs that were allocated but idle, or unallocated: whose, where, and in money.",
    (*OWNERS, CURRENCY, *CHOICE),
    (
        Row("", TOTALS),
        Row("Owners", (OWNERS_TABLE,)),
        Row("Last month's advice", ADVICE),
        Row("Now", (LOW,)),
        Row("Outside allocations", (UNASKED,)),
        Row("Trend", TREND),
        Row("Unallocated and unattributed", WHERE_UNUSED),
    ),
)
