"""Experiment: its runs, over time, by node; what it cost; each run against all of them."""

from __future__ import annotations

from dashboards.generator import links
from dashboards.generator.board import Board, Row
from dashboards.generator.figures import (
    CHOICE,
    CURRENCY,
    MANY,
    NO_CARBON,
    NO_PRICE,
    NOT_OF_MANY,
    OF_GPU,
    OF_IDLE,
    OWNERS,
    PAID,
    WHO,
    idle_share,
    kwh,
    leading,
    power,
    ranked,
    run,
    used,
    used_before,
)
from dashboards.generator.lab import LONG
from dashboards.generator.panel import EACH_NAMED, STACKED, Basis, Column, Panel, Query, stat
from dashboards.generator.promql import EXPIRED, TARGET, by, chosen, ratio, risen, selector

RUN = "cluster, scheduler, workload, user"
_BAR = "cluster, workload"
EXACT = (
    "The counter at the end of the range less that at its beginning; of a run that ended while "
    "Prometheus was down, what it had seen by then."
)


_NONE = "nothing was used"
_CHOOSE = "no run, or choose an experiment"

TOTALS = (
    stat("Energy", f"Idle parts included. {LONG}", Basis.METERED, "kwatth",
        Query(kwh(used("energy_joules"))), empty=_NONE),
    stat("Cost", f"Electricity and hardware, less what negative prices earned. {LONG}",
        Basis.RATED, "locale", Query(used("cost", "currency"), "{{currency}}"), decimals=2,
        options=EACH_NAMED, empty=NO_PRICE),
    stat("CO2e", f"Location-based emissions of electricity. {LONG}", Basis.RATED, "suffix: kg",
        Query(f"({used('co2e_grams')}) / 1000"), decimals=2, empty=NO_CARBON),
    stat("GPU-hours", f"Hours for which it held GPUs. {LONG}", Basis.HELD, "locale",
        Query(f"({used('gpu_seconds')}) / 3600"), decimals=1, empty=_NONE),
    stat("Allocated but idle", f"Share of GPU energy consumed while its GPUs did nothing. {LONG}",
        Basis.METERED, "percentunit",
        Query(ratio(used("idle_energy_joules", "", OF_GPU), used("energy_joules", "", OF_GPU))),
        decimals=1, thresholds=OF_IDLE, empty=_NONE),
    stat("Runs", "Jobs, pods and the like that held devices in the range.",
        Basis.COUNTED, "none", Query(f"count(({run('gpu_seconds', RUN)}) > 0)"), empty=_CHOOSE),
)  # fmt: skip

_A_RUN = f"({used('energy_joules')}) / scalar(count(({run('gpu_seconds', RUN)}) > 0))"
_HELD = selector("joulebook_workload_gpu_seconds_total", WHO, NOT_OF_MANY)
_RUNS_BEFORE = by(RUN, f"last_over_time({_HELD}[$__range] offset $__range)")
_A_RUN_BEFORE = f"({used_before('energy_joules')}) / scalar(count(({_RUNS_BEFORE}) > 0) > 0)"

BEFORE = (
    stat("Energy, period before", "The same of the time before that is as long: is it getting "
        "better?", Basis.METERED, "kwatth", Query(kwh(used_before("energy_joules"))),
        empty="not known"),
    stat("Cost, period before", "The same of the time before that is as long.", Basis.RATED,
        "locale", Query(used_before("cost", "currency"), "{{currency}}"), decimals=2,
        options=EACH_NAMED, empty="not known"),
    stat("Energy of a run", "Mean energy of the runs of the range.", Basis.METERED, "kwatth",
        Query(kwh(_A_RUN)), empty=_CHOOSE),
    stat("Energy of a run, before", "The same of the time before that is as long: are runs of the "
        "same experiment getting cheaper?", Basis.METERED, "kwatth", Query(kwh(_A_RUN_BEFORE)),
        empty="not known"),
    stat("Cost of idle allocations", f"Electricity and hours of GPUs while they did nothing. "
        f"{LONG}", Basis.RATED, "locale", Query(used("idle_cost", "currency"), "{{currency}}"),
        decimals=2, options=EACH_NAMED, empty=NO_PRICE),
    stat("Cost by kind", "Electricity (less what negative prices earned) and hardware, in the "
        f"currency chosen above. {LONG}", Basis.RATED, "locale",
        Query(used("cost", "kind, currency", PAID), "{{kind}}"), decimals=2, options=EACH_NAMED,
        empty=NO_PRICE),
)  # fmt: skip

_HOURS = f"({run('gpu_seconds', RUN)}) / 3600"
_NAMED = (
    f"{_HOURS} * on (cluster, scheduler, workload) group_left (name)\n"
    "topk by (cluster, scheduler, workload) (1, max by (cluster, scheduler, workload, name) "
    f"(last_over_time(joulebook_workload_info{{{chosen('cluster')}}}[$__range])))\n"
    f"or on ({RUN})\n{_HOURS}"
)
"""GPU-hours with the name of the job, where it is known."""


_BEGIN = f"1000 * min by ({RUN}) (min_over_time(timestamp({_HELD})[$__range:15m]))"
"""Instant at which a run was first seen, in milliseconds."""

_SHARES = selector("joulebook_gpu_held_ratio", WHO, NOT_OF_MANY)
_TIME = (
    f"({run('gpu_seconds', RUN)})\n"
    f"/ (sum by ({RUN}) (max without ({TARGET}) (max_over_time({_SHARES}[$__range]))) > 0)"
)
"""GPU time by the GPUs (or shares of them) that a run held."""


RUNS = Panel(
    "Each run",
    "Every run in the range, the last one first: compare a run with the ones before it. A click "
    "on it opens its page. First seen is up to a quarter of an hour after its begin; how long it "
    "held its GPUs is not known if it ended between two scrapes. Cost is in the currency chosen "
    f"above. {EXACT}",
    Basis.RATED,
    "none",
    kind="table",
    width=24,
    height=12,
    hidden=("scheduler", "currency"),
    columns=(
        Column("cluster", width=80),
        Column("workload", link=links.WORKLOAD, width=120),
        Column("name", width=120),
        Column("user", width=100),
        Column("First seen", Query(_BEGIN), "dateTimeAsIso", width=160),
        Column("Held for", Query(_TIME), "s", 1),
        Column("Cost", Query(run("cost", f"{RUN}, currency", PAID)), "locale", 2, total=True),
        Column("Energy (kWh)", Query(kwh(run("energy_joules", RUN))), "locale", 3, total=True),
        Column("CO2e (kg)", Query(f"({run('co2e_grams', RUN)}) / 1000"), "locale", 3, total=True),
        Column("GPU-hours", Query(_NAMED), "locale", 2, total=True),
        idle_share(run, RUN),
    ),
    sort="First seen",
    empty="No run in the range: widen it, or choose an experiment above",
)

_NODE_ENERGY = selector("joulebook_experiment_energy_joules_total", WHO, NOT_OF_MANY, EXPIRED)
_POWER = power("cluster, experiment, component", "{{experiment}} {{component}} {{cluster}}")
_STEP = "[$__interval]"
_WORKLOAD_ENERGY = selector("joulebook_workload_energy_joules_total", WHO, NOT_OF_MANY)
_RISE = (
    f"({by(_BAR, f'last_over_time({_WORKLOAD_ENERGY}{_STEP})')}\n"
    f"  - ({by(_BAR, f'last_over_time({_WORKLOAD_ENERGY}[15m] offset $__interval)')}\n"
    f"    or {by(_BAR, f'min_over_time({_WORKLOAD_ENERGY}{_STEP})')})\n"
    ") / ($__interval_ms / 1000) > 0"
)

_PEAK = 'joulebook_gpu_peak_flops{precision="fp16"}'
_TENSOR = f"increase(joulebook_workload_tensor_seconds_total{{{WHO},{NOT_OF_MANY}}}[$__range])"
_GPU_JOULES = by(
    _BAR,
    f"increase({selector('joulebook_workload_energy_joules_total', WHO, NOT_OF_MANY, OF_GPU)}"
    "[$__range])",
)
_FLOP = by(
    _BAR,
    f"{_TENSOR} * on (cluster, node) group_left () "
    f"max by (cluster, node) (last_over_time({_PEAK}[$__range]))",
)

OVER_TIME = (
    Panel(
        "Power by experiment and component",
        f"Mean power of what it held: those that used most, and the others. {LONG}",
        Basis.METERED,
        "watt",
        leading(
            _POWER,
            "cluster, experiment, component",
            used("energy_joules", "cluster, experiment, component"),
        ),
        custom=STACKED,
        empty=_NONE,
    ),
    Panel(
        "Power by run",
        "Mean power of each step, from what a run used in it: the runs that used most in the "
        "range, and the others.",
        Basis.METERED,
        "watt",
        leading(Query(_RISE, "{{workload}} {{cluster}}", "1m"), _BAR, run("energy_joules", _BAR)),
        points=300,
        custom=STACKED,
        empty=_CHOOSE,
    ),
    Panel(
        "Energy by node",
        "What it used on each node: the largest, and the others.",
        Basis.METERED,
        "kwatth",
        ranked(
            "cluster, node",
            f"{kwh(by('cluster, node', risen(_NODE_ENERGY)))} > 0",
            "{{node}} {{cluster}}",
        ),
        "bargauge",
        12,
        11,
        empty=_CHOOSE,
    ),
    Panel(
        "Energy by run",
        f"The runs that used most, and the others. {EXACT}",
        Basis.METERED,
        "kwatth",
        ranked(_BAR, kwh(run("energy_joules", _BAR)), "{{workload}} {{cluster}}"),
        "bargauge",
        12,
        11,
        link=links.WORKLOAD_OF_BAR,
        empty=_CHOOSE,
    ),
    Panel(
        "Picojoules per useful FLOP",
        "GPU energy by the FLOPs that tensor cores can have done while they were at work, at the "
        "16-bit peak: at least so much. The 20 largest; Hopper and newer only.",
        Basis.METERED,
        "locale",
        (
            Query(
                f"sort_desc(topk(20, 1e12 * {ratio(_GPU_JOULES, f'({_FLOP}) > 0')}))",
                "{{workload}} {{cluster}}",
            ),
        ),
        "bargauge",
        24,
        9,
        decimals=2,
        link=links.WORKLOAD_OF_BAR,
        empty="not measured",
    ),
)

DASHBOARD = Board(
    "joulebook-experiment",
    "Experiment",
    "What one experiment used and cost: its runs against the ones before, over time, by node.",
    (*OWNERS, CURRENCY, *CHOICE, MANY),
    (Row("", TOTALS + BEFORE), Row("Runs", (RUNS,)), Row("Over time", OVER_TIME[:2]),
        Row("Where", OVER_TIME[2:])),
    since="now-7d",
)  # fmt: skip
