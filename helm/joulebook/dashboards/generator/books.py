"""Books and exporter health: whether all energy is accounted for, how well it is known, and how
the daemons fare.
"""

from __future__ import annotations

from dashboards.generator import links
from dashboards.generator.alerts import unbooked
from dashboards.generator.board import Board, Row
from dashboards.generator.figures import END, NODES, WHERE, foremost, kwh
from dashboards.generator.panel import Basis, Column, Panel, Query, stat
from dashboards.generator.promql import by, risen, selector

_NODE = "{{node}} {{cluster}}"
_IN = f"{{{WHERE}}}"


def _rise(counter: str, *more: str) -> str:
    return risen(selector(f"joulebook_{counter}_total", WHERE, *more))


_GONE = f"({unbooked(_IN)})"
_LOST = 'reason=~"unknown_holder|daemon_down|counter_reset"'

STATE = (
    stat("Nodes scraped", "Daemons that were scraped at the end of the range.", Basis.COUNTED,
        "none",
        Query(f"count(group by (cluster, node, instance) (joulebook_build_info{_IN}))"), 6),
    stat("Not in the books", "The worst node: what its meters have read and neither experiments, "
        "remainders nor pending energy show, as a share of what they have read; 0 by design, save "
        "for rounding down.", Basis.METERED, "percentunit",
        Query(f"max(abs({_GONE}) / sum by (cluster, node) ("
            f"joulebook_meter_energy_joules_total{_IN}))"),
        6, decimals=3, thresholds=((None, "green"), (0.005, "red")),
        empty="no meter was read"),
    stat("Not attributed", "Share of the energy of the range that went to unknown_holder, "
        "daemon_down or counter_reset.", Basis.METERED, "percentunit",
        Query(f"(sum({_rise('remainder_energy_joules', _LOST)}) or vector(0))\n"
            f"/ sum({_rise('meter_energy_joules')})"),
        6, decimals=2, thresholds=((None, "green"), (0.05, "red")),
        empty="no meter was read"),
    stat("Not measured", "Time in which meters were not read in the range, all meters together.",
        Basis.COUNTED, "s", Query(f"sum({_rise('gap_seconds')})"), 6,
        empty="no meter was read"),
)  # fmt: skip

QUALITY = (
    Panel("How amounts are known", "Energy booked in the range by method: counter and integrated "
        "are measured, apportioned and modelled are what they say.", Basis.COUNTED, "kwatth",
        (Query(f"sort_desc({kwh(by('method', _rise('method_energy_joules')))})", "{{method}}"),),
        "bargauge", 8, 6),
    Panel("How holders are known", "Energy booked in the range by evidence; none: nobody claimed "
        "the device.", Basis.COUNTED, "kwatth",
        (Query(f"sort_desc({kwh(by('evidence', _rise('evidence_energy_joules')))} > 0)",
            "{{evidence}}"),),
        "bargauge", 8, 6),
    Panel("Unattributed, by reason", "Energy that belongs to no workload.", Basis.METERED, "kwatth",
        (Query(f"sort_desc({kwh(by('reason', _rise('remainder_energy_joules')))})", "{{reason}}"),),
        "bargauge", 8, 6),
)  # fmt: skip

WORST = Panel(
    "Each node",
    "The worst first: energy that its meters have read and its books do not show (a few joules, "
    "from rounding down), how much of its energy in the range could not be attributed, and for how "
    "long meters were not read.",
    Basis.METERED,
    "none",
    kind="table",
    width=24,
    columns=(
        Column("cluster", width=110),
        Column("node", link=links.NODE),
        Column("Not in the books (J)", Query(f"abs({_GONE})"), "locale", 0),
        Column(
            "Not attributed (kWh)",
            Query(kwh(by("cluster, node", _rise("remainder_energy_joules", _LOST)))),
            "locale",
            3,
            total=True,
        ),
        Column(
            "Not measured (s)",
            Query(f"max by (cluster, node) ({_rise('gap_seconds')})"),
            "locale",
            0,
        ),
    ),
    sort="Not in the books (J)",
)


def _most(metric: str) -> str:
    """The highest of each step, of the nodes that were highest in the range."""
    course = f"max by (cluster, node) (max_over_time({metric}[$__interval]))"
    return foremost(course, "cluster, node", course.replace("$__interval", "$__range"))


_TICK = _most(f"joulebook_tick_duration_seconds{_IN}")
_MEMORY = _most(f"process_resident_memory_bytes{_IN}")
_GONE_THEN = f"({unbooked(_IN, END)})"


def _gaps(span: str) -> str:
    gaps = f"increase(joulebook_gap_seconds_total{_IN}[{span}])"
    return f"max by (cluster, node, reason) ({gaps})"


TROUBLE = (
    Panel("Not in the books, by node", "What meters have read and the books do not show, in "
        "joules: of the nodes where it is most at the end.", Basis.METERED, "joule",
        (Query(foremost(f"abs({_GONE})", "cluster, node", f"abs({_GONE_THEN})"), _NODE, "1m"),)),
    Panel("Gaps", "Seconds of the hour before in which a meter was not read, by reason: those with "
        "the longest in the range.", Basis.COUNTED, "s",
        (Query(foremost(f"{_gaps('1h')} > 0", "cluster, node, reason", _gaps("$__range")),
            "{{node}} {{reason}} {{cluster}}", "1m"),), empty="Every meter was read all the time"),
    Panel("Duration of a tick", "How long the last tick of each daemon took: the slowest.",
        Basis.COUNTED, "s", (Query(_TICK, _NODE, "1m"),)),
    Panel("Memory of the daemons", "Resident memory: the largest.", Basis.READ, "bytes",
        (Query(_MEMORY, _NODE, "1m"),)),
)  # fmt: skip

_UP = f"joulebook_sensor_up{_IN}"
SENSORS = Panel(
    "Sensors",
    "Whether the last look gave readings, and how many failed in the range.",
    Basis.COUNTED,
    "none",
    kind="table",
    width=12,
    columns=(
        Column("cluster", width=110),
        Column("node", link=links.NODE),
        Column("sensor"),
        Column("Up", Query(f"min by (cluster, node, sensor) ({_UP})"), "bool_yes_no"),
        Column(
            "Errors",
            Query(
                f"{by('cluster, node, sensor', _rise('sensor_errors'))}\n"
                f"or\nmin by (cluster, node, sensor) ({_UP} * 0)"
            ),
            "none",
            0,
        ),
    ),
)
COUNTS = Panel(
    "Rejected and folded",
    "Inputs from outside that were rejected, series folded into (overflow), metrics that could not "
    "be rendered, answers of rate sources that could not be used: all in the range.",
    Basis.COUNTED,
    "none",
    (
        Query(f"sum({_rise('rejected_inputs')}) or vector(0)", "inputs rejected"),
        Query(f"sum({_rise('overflow')}) or vector(0)", "series folded"),
        Query(f"sum({_rise('exposition_errors')}) or vector(0)", "metrics not rendered"),
        Query(f"sum({_rise('feed_errors')}) or vector(0)", "answers of rate sources"),
    ),
    "bargauge",
    12,
    decimals=0,
)
FEEDS = Panel(
    "Sources of rates",
    "Age of the last good answer of each source, the oldest of all nodes; beyond rates.*.keep_s "
    "nothing is charged.",
    Basis.COUNTED,
    "s",
    (
        Query(
            "max by (cluster, quantity, source) (joulebook_feed_age_seconds" + _IN + ")",
            "{{quantity}}: {{source}} {{cluster}}",
        ),
    ),
    "bargauge",
    12,
    5,
    empty="No rate comes from a feed",
)
UNPRICED = Panel(
    "Not charged",
    "Energy of the range for which a configured rate was not known, by kind.",
    Basis.METERED,
    "kwatth",
    (Query(f"{kwh(by('kind', _rise('unpriced_energy_joules')))} > 0", "{{kind}}"),),
    "bargauge",
    12,
    5,
    empty="Everything was charged, or no rate is set",
)

DASHBOARD = Board(
    "joulebook-books",
    "Books and exporter health",
    "Whether all energy is accounted for, how well it is known, and how the daemons fare.",
    NODES,
    (
        Row("", STATE),
        Row("How well it is known", QUALITY),
        Row("Nodes", (WORST,)),
        Row("Over time", TROUBLE),
        Row("Daemons", (SENSORS, COUNTS)),
        Row("Rates", (FEEDS, UNPRICED)),
    ),
    since="now-24h",
)
