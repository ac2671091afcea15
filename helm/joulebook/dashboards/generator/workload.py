"""Workload: one job or pod: power, utilization, energy and what it cost."""

from __future__ import annotations

from dashboards.generator import links
from dashboards.generator.board import Board, Row, text_box
from dashboards.generator.figures import CLUSTER, CLUSTERS, CURRENCY, OF_GPU, OF_IDLE, PAID
from dashboards.generator.panel import EACH_NAMED, STACKED, Basis, Column, Panel, Query, stat
from dashboards.generator.promql import J_PER_KWH, TARGET, by, chosen, exact, net, one_of, ratio

THIS = chosen("cluster", "workload")
_HOW = "Choose a run: click one in the table, or type its number or name into the box above."
_EXACT = "The counter at the end of the range less that at its beginning."


def _used(what: str, labels: str = "", matcher: str = "") -> str:
    also = f",{matcher}" if matcher else ""
    risen = exact(f"joulebook_workload_{what}_total{{{THIS}{also}}}")
    if what == "cost":
        risen = net(risen, exact(f"joulebook_workload_credit_total{{{THIS}}}"))
    return by(labels, risen)


TOTALS = (
    stat("Energy", f"In the range, idle parts included. {_EXACT}", Basis.METERED, "kwatth",
        Query(f"({_used('energy_joules')}) / {J_PER_KWH}"), empty="choose a run"),
    stat("Cost", f"Electricity and hardware, less what negative prices earned. {_EXACT}",
        Basis.RATED, "locale", Query(_used("cost", "currency"), "{{currency}}"), decimals=2,
        options=EACH_NAMED, empty="-"),
    stat("CO2e", f"Location-based emissions of electricity. {_EXACT}", Basis.RATED, "suffix: kg",
        Query(f"({_used('co2e_grams')}) / 1000"), decimals=3, empty="-"),
    stat("GPU-hours", f"Hours for which it held GPUs. {_EXACT}", Basis.HELD, "locale",
        Query(f"({_used('gpu_seconds')}) / 3600"), decimals=2, empty="-"),
    stat("Allocated but idle",
        f"Share of GPU energy consumed while its GPUs did nothing. {_EXACT}",
        Basis.METERED, "percentunit",
        Query(ratio(_used("idle_energy_joules", "", OF_GPU),
            f"({_used('energy_joules', '', OF_GPU)}) > 0")),
        decimals=1, thresholds=OF_IDLE, empty="-"),
    stat("Nodes", "Nodes on which it was seen in the range.", Basis.COUNTED, "none",
        Query("count(count by (cluster, node) (last_over_time(joulebook_workload_gpu_seconds_total"
            f"{{{THIS}}}[$__range])))"), empty="-"),
)  # fmt: skip

_HELD = (
    "max by (cluster, node, gpu, uuid) "
    f"(last_over_time(joulebook_gpu_held_ratio{{{THIS}}}[$__interval]))"
)
_UTIL = (
    f"avg_over_time(joulebook_gpu_utilization_ratio{{{CLUSTERS}}}[$__interval])"
    f" and on (cluster, node, uuid) {_HELD}"
)


def _sofar(what: str, *more: str) -> str:
    return one_of(TARGET, f"joulebook_workload_{what}_total{{{','.join((THIS, *more))}}}")


OVER_TIME = (
    Panel(
        "Power",
        "Power of the devices it holds, times its share of each.",
        Basis.READ,
        "watt",
        (
            Query(
                by(
                    "cluster, node, component",
                    f"avg_over_time(joulebook_workload_power_watts{{{THIS}}}[$__interval])",
                ),
                "{{node}} {{component}}",
                "1m",
            ),
        ),
        custom=STACKED,
        empty=_HOW,
    ),
    Panel(
        "Utilization of its GPUs",
        "Share of time a kernel was running on each GPU it holds, whoever's kernel it was. Mean of "
        "each step.",
        Basis.READ,
        "percentunit",
        (Query(_UTIL, "{{node}} GPU {{gpu}}", "1m"),),
        at_most=1,
        empty=_HOW,
    ),
    Panel(
        "Energy so far",
        "Since it began, idle parts included.",
        Basis.METERED,
        "kwatth",
        (Query(f"{by('component', _sofar('energy_joules'))} / {J_PER_KWH}", "{{component}}"),),
        custom=STACKED,
        empty=_HOW,
    ),
    Panel(
        "Cost so far",
        "Since it began, less what negative prices earned; in the currency chosen above.",
        Basis.RATED,
        "locale",
        (
            Query(
                by("kind, currency", net(_sofar("cost", PAID), _sofar("credit", PAID))),
                "{{kind}} ({{currency}})",
            ),
        ),
        decimals=2,
        custom=STACKED,
        below_zero=True,
        empty="Choose a run; if it costs nothing: see rates.price",
    ),
)

_NOW = "cluster, scheduler, workload, user, account, experiment"
_ANY = f"{CLUSTERS},workload=~`${{workload:regex}}.*`"
"""All while the box is empty."""

RUNNING = Panel(
    "Running now",
    "All that hold a GPU at the end of the range, or those whose number begins with what is in the "
    "box above; a click on one opens its page.",
    Basis.HELD,
    "none",
    kind="table",
    width=24,
    height=7,
    hidden=("scheduler",),
    columns=(
        Column("cluster", width=110),
        Column("workload", link=links.WORKLOAD),
        Column("user"),
        Column("account"),
        Column("experiment", link=links.EXPERIMENT),
        Column(
            "GPUs held",
            Query(
                by(
                    _NOW,
                    one_of(TARGET, f'joulebook_gpu_held_ratio{{{_ANY},workload!="(unknown)"}}'),
                )
            ),
            "none",
            2,
        ),
        Column(
            "Power",
            Query(by(_NOW, one_of(TARGET, f"joulebook_workload_power_watts{{{_ANY}}}"))),
            "watt",
        ),
    ),
    sort="Power",
    empty="None of these holds a GPU at the end of the range; clear the box above to see all",
)

DASHBOARD = Board(
    "joulebook-workload",
    "Workload",
    "One job or pod: its power, the utilization of its GPUs, its energy and what it cost.",
    (CLUSTER, text_box("workload", "Workload"), CURRENCY),
    (Row("", (RUNNING,)), Row("One run", TOTALS), Row("Over time", OVER_TIME)),
    since="now-24h",
    refresh="1m",
)
