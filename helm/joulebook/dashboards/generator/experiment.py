"""Experiment: its runs, over time, by node; what it cost; each run against all of them."""

from __future__ import annotations

from dashboards.generator import links
from dashboards.generator.board import Board, Row
from dashboards.generator.figures import CHOICE, OF_GPU, OWNERS, WHO, kwh, power, run, used
from dashboards.generator.lab import LONG
from dashboards.generator.panel import STACKED, Basis, Column, Panel, Query
from dashboards.generator.promql import EXPIRED, by, ratio, selector

RUN = "cluster, scheduler, workload, user"
_BAR = "cluster, workload"
EXACT = "The counter at the end of the range less that at its beginning."


def _stat(title: str, about: str, basis: Basis, unit: str, query: Query, **how: object) -> Panel:
    return Panel(title, about, basis, unit, (query,), "stat", 4, 4, **how)  # type: ignore[arg-type]


TOTALS = (
    _stat("Energy", f"Idle parts included. {LONG}", Basis.METERED, "kwatth",
        Query(kwh(used("energy_joules")))),
    _stat("Cost", f"Electricity and hardware, what negative prices earned taken off. {LONG}",
        Basis.RATED, "none", Query(used("cost", "currency"), "{{currency}}"), decimals=2,
        options={"textMode": "value_and_name"}, empty="no price"),
    _stat("CO2e", f"Location-based emissions of electricity. {LONG}", Basis.RATED, "massg",
        Query(used("co2e_grams")), empty="no intensity"),
    _stat("GPU-hours", f"Hours for which it held GPUs. {LONG}", Basis.HELD, "locale",
        Query(f"({used('gpu_seconds')}) / 3600"), decimals=1),
    _stat("Allocated but idle", f"Share of GPU energy consumed while its GPUs did nothing. {LONG}",
        Basis.METERED, "percentunit",
        Query(ratio(used("idle_energy_joules", "", OF_GPU), used("energy_joules", "", OF_GPU))),
        decimals=1, thresholds=((None, "green"), (0.1, "orange"), (0.25, "red"))),
    _stat("Runs", "Jobs, pods and the like that were exposed in the range.",
        Basis.COUNTED, "none",
        Query(f"count(count by ({RUN}) (last_over_time(joulebook_workload_gpu_seconds_total"
            f"{{{WHO}}}[$__range])))")),
)  # fmt: skip

_NODE_ENERGY = selector("joulebook_experiment_energy_joules_total", WHO, EXPIRED)
_BY_NODE = f"increase({_NODE_ENERGY}[$__range])"
_LIVE = f"avg_over_time(joulebook_workload_power_watts{{{WHO}}}[$__interval])"

_PEAK = 'joulebook_gpu_peak_flops{precision="fp16"}'
_TENSOR = f"increase(joulebook_workload_tensor_seconds_total{{{WHO}}}[$__range])"
_GPU_JOULES = by(
    _BAR, f"increase(joulebook_workload_energy_joules_total{{{WHO},{OF_GPU}}}[$__range])"
)
_FLOP = by(
    _BAR,
    f"{_TENSOR} * on (cluster, node) group_left () "
    f"max by (cluster, node) (last_over_time({_PEAK}[$__range]))",
)

OVER_TIME = (
    Panel(
        "Power by experiment and component",
        f"Mean power of what it held: the 20 largest at an instant. {LONG}",
        Basis.METERED,
        "watt",
        tuple(
            Query(f"topk(20, {query.expression})", query.legend, query.step)
            for query in power(
                "cluster, experiment, component", "{{experiment}} {{component}} {{cluster}}"
            )
        ),
        custom=STACKED,
    ),
    Panel(
        "Power by run",
        "Power of the devices each run held, times its share of each: the 20 runs that draw most "
        "at an instant.",
        Basis.READ,
        "watt",
        (Query(f"topk(20, {by(_BAR, _LIVE)})", "{{workload}} {{cluster}}", "1m"),),
        custom=STACKED,
    ),
    Panel(
        "Energy by node",
        "What it used on each node: the 20 largest.",
        Basis.METERED,
        "kwatth",
        (
            Query(
                f"sort_desc(topk(20, {kwh(by('cluster, node', _BY_NODE))} > 0))",
                "{{node}} {{cluster}}",
            ),
        ),
        "bargauge",
        8,
    ),
    Panel(
        "Cost by kind",
        f"Electricity (what negative prices earned taken off) and hardware. {LONG}",
        Basis.RATED,
        "none",
        (Query(used("cost", "kind, currency"), "{{kind}} ({{currency}})"),),
        "bargauge",
        8,
        decimals=2,
        below_zero=True,
        empty="no price",
    ),
    Panel(
        "Each run against all runs",
        f"Energy of a run, 100 % being the mean of all runs shown: the 20 largest. {EXACT}",
        Basis.METERED,
        "percentunit",
        (
            Query(
                f"sort_desc(topk(20, {by(_BAR, run('energy_joules', RUN))}"
                f" / scalar(avg({run('energy_joules', RUN)}))))",
                "{{workload}} {{cluster}}",
            ),
        ),
        "bargauge",
        8,
        decimals=0,
        link=links.WORKLOAD_OF_BAR,
    ),
    Panel(
        "Picojoules per useful FLOP",
        "GPU energy by the FLOPs that tensor cores can have done while they were at work, at the "
        "16-bit peak: at least so much. The 20 largest; Hopper and newer only.",
        Basis.METERED,
        "none",
        (
            Query(
                f"sort_desc(topk(20, 1e12 * {ratio(_GPU_JOULES, f'({_FLOP}) > 0')}))",
                "{{workload}} {{cluster}}",
            ),
        ),
        "bargauge",
        8,
        decimals=2,
        link=links.WORKLOAD_OF_BAR,
        empty="not measured",
    ),
)

RUNS = Panel(
    "Each run",
    f"Every run in the range; a click on it shows it alone. {EXACT}",
    Basis.RATED,
    "none",
    kind="table",
    width=24,
    height=10,
    hidden=("scheduler",),
    columns=(
        Column("cluster", width=110),
        Column("workload", link=links.WORKLOAD),
        Column("user"),
        Column("Cost", Query(run("cost", f"{RUN}, currency")), "none", 2),
        Column("currency", width=80),
        Column("Energy", Query(kwh(run("energy_joules", RUN))), "kwatth", 2),
        Column("CO2e", Query(run("co2e_grams", RUN)), "massg", 1),
        Column("GPU-hours", Query(f"({run('gpu_seconds', RUN)}) / 3600"), "none", 2),
        Column(
            "Idle",
            Query(
                ratio(
                    run("idle_energy_joules", RUN, OF_GPU),
                    f"({run('energy_joules', RUN, OF_GPU)}) > 0",
                )
            ),
            "percentunit",
            0,
            share=True,
        ),
        Column(
            "Of all runs",
            Query(ratio(run("energy_joules", RUN), f"scalar({run('energy_joules', '')})")),
            "percentunit",
            1,
            share=True,
        ),
    ),
    sort="Energy",
)

DASHBOARD = Board(
    "joulebook-experiment",
    "Experiment",
    "What one experiment used and cost: its runs, over time, by node, and each run against all.",
    (*OWNERS, *CHOICE),
    (Row("", TOTALS), Row("Over time", OVER_TIME[:2]), Row("Where", OVER_TIME[2:]),
        Row("Runs", (RUNS,))),
    since="now-7d",
)  # fmt: skip
