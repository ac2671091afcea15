"""Waste: idle allocations, low utilization and GPUs that nobody held, by owner and in money."""

from __future__ import annotations

from dashboards.generator import links
from dashboards.generator.board import Board, Row
from dashboards.generator.figures import (
    CHOICE,
    OWNERS,
    WHO,
    kwh,
    power_of,
    power_unused,
    unused,
    used,
)
from dashboards.generator.lab import LONG
from dashboards.generator.panel import STACKED, Basis, Column, Panel, Query
from dashboards.generator.promql import ratio

UNALLOCATED = 'reason="unallocated"'
_OWNER = "cluster, account, user"
_NODE = "cluster, node"
_EXPERIMENT = "cluster, account, user, experiment"
_IDLE = "Consumed while the GPUs that were held did nothing: no kernel, no process."
_MONEY = (
    "Electricity in proportion to the idle part of each experiment's energy, so apportioned; what "
    "idle hardware costs is not in it."
)


def _idle_money(labels: str) -> str:
    """The idle part of what experiments paid for electricity."""
    idle = ratio(
        used("idle_energy_joules", _EXPERIMENT), f"(({used('energy_joules', _EXPERIMENT)}) > 0)"
    )
    paid = used("cost", f"{_EXPERIMENT}, currency", 'kind="electricity"')
    return f"sum by ({labels}) (\n(\n{paid}\n)\n* on ({_EXPERIMENT}) group_left ()\n(\n{idle}\n)\n)"


def _stat(title: str, about: str, basis: Basis, unit: str, query: Query, **how: object) -> Panel:
    return Panel(title, about, basis, unit, (query,), "stat", 6, 4, **how)  # type: ignore[arg-type]


TOTALS = (
    _stat("Allocated but idle", f"{_IDLE} {LONG}", Basis.METERED, "kwatth",
        Query(kwh(used("idle_energy_joules")))),
    _stat("Cost of idle allocations", f"{_MONEY} {LONG}", Basis.MODELLED, "none",
        Query(_idle_money("currency"), "{{currency}}"), decimals=2,
        options={"textMode": "value_and_name"}, empty="no price"),
    _stat("Unallocated", f"Energy of devices that no workload held. {LONG}", Basis.METERED,
        "kwatth", Query(kwh(unused("energy_joules", "", UNALLOCATED)))),
    _stat("What unheld devices cost", f"Electricity of devices that no workload held. {LONG}",
        Basis.RATED, "none", Query(unused("cost", "currency", UNALLOCATED), "{{currency}}"),
        decimals=2, options={"textMode": "value_and_name"}, empty="no price"),
)  # fmt: skip

TREND = (
    Panel(
        "Where the power goes",
        f"Mean power of held devices that did nothing, and of what belongs to nobody. {LONG}",
        Basis.METERED,
        "watt",
        (
            *power_of("idle_energy_joules", "", "held and idle"),
            *power_unused("reason", "{{reason}}"),
        ),
        width=16,
        height=9,
        custom=STACKED,
    ),
    Panel(
        "Idle energy by owner",
        f"{_IDLE} The ten largest. {LONG}",
        Basis.METERED,
        "kwatth",
        (
            Query(
                f"sort_desc(topk(10, {kwh(used('idle_energy_joules', 'account, user'))}))",
                "{{user}} ({{account}})",
            ),
        ),
        "bargauge",
        8,
        9,
    ),
)

OWNERS_TABLE = Panel(
    "By owner",
    f"Who held GPUs without using them. {_MONEY} {LONG}",
    Basis.MODELLED,
    "none",
    kind="table",
    width=24,
    height=9,
    columns=(
        Column("cluster", width=110),
        Column("account"),
        Column("user"),
        Column("Cost of idling", Query(_idle_money(f"{_OWNER}, currency")), "none", 2),
        Column("currency", width=80),
        Column("Idle", Query(f"{kwh(used('idle_energy_joules', _OWNER))} > 0"), "kwatth", 2),
        Column(
            "Of its energy",
            Query(
                ratio(
                    used("idle_energy_joules", _OWNER), f"(({used('energy_joules', _OWNER)}) > 0)"
                )
            ),
            "percentunit",
            0,
            share=True,
        ),
    ),
    sort="Idle",
)

_GPU = "cluster, node, gpu, uuid"
_HOLDER = f"{_GPU}, scheduler, workload, user, account, experiment"
_BUSY = f"max by ({_GPU}) (avg_over_time(joulebook_gpu_utilization_ratio[1h]))"

LOW = Panel(
    "Held and hardly used",
    "GPUs that are held at the end of the range and were busy for less than 30 % of the hour "
    "before it, by all who hold them; the least used first.",
    Basis.READ,
    "none",
    kind="table",
    width=24,
    height=9,
    hidden=("uuid", "scheduler"),
    columns=(
        Column("cluster", width=110),
        Column("node", link=links.NODE),
        Column("gpu", width=60),
        Column("workload", link=links.WORKLOAD),
        Column("user"),
        Column("account"),
        Column("experiment", link=links.EXPERIMENT),
        Column(
            "Busy",
            Query(
                f"(max by ({_HOLDER}) (joulebook_gpu_held_ratio{{{WHO}}}) > bool 0)\n"
                f"* on ({_GPU}) group_left ()\n({_BUSY} < 0.3)"
            ),
            "percentunit",
            1,
            share=True,
        ),
    ),
    sort="Busy",
    ascending=True,
)

WHERE_NOBODY = (
    Panel(
        "Unallocated, by node",
        f"Energy of devices that no workload held: the ten largest. {LONG}",
        Basis.METERED,
        "kwatth",
        (
            Query(
                f"sort_desc(topk(10, {kwh(unused('energy_joules', _NODE, UNALLOCATED))}))",
                "{{node}} {{cluster}}",
            ),
        ),
        "bargauge",
    ),
    Panel(
        "Nobody's, by reason",
        f"All energy that belongs to no workload. {LONG}",
        Basis.METERED,
        "kwatth",
        (Query(f"sort_desc({kwh(unused('energy_joules', 'reason'))})", "{{reason}}"),),
        "bargauge",
    ),
)

DASHBOARD = Board(
    "joulebook-waste",
    "Waste",
    "GPUs that were allocated but idle, or unallocated: whose, where, and in money.",
    (*OWNERS, *CHOICE),
    (
        Row("", TOTALS),
        Row("Trend", TREND),
        Row("Owners", (OWNERS_TABLE,)),
        Row("Now", (LOW,)),
        Row("Nobody", WHERE_NOBODY),
    ),
)
