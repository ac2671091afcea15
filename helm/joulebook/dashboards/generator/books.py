"""Books and exporter health: whether all energy is accounted for, how well it is known, and how
the daemons fare.
"""

from __future__ import annotations

from dashboards.generator import links
from dashboards.generator.alerts import unbooked
from dashboards.generator.board import Board, Row
from dashboards.generator.figures import NODES, WHERE, kwh
from dashboards.generator.panel import Basis, Column, Panel, Query
from dashboards.generator.promql import by

_NODE = "{{node}} {{cluster}}"
_IN = f"{{{WHERE}}}"


def _rise(counter: str) -> str:
    return f"increase(joulebook_{counter}_total{_IN}[$__range])"


_GONE = f"({unbooked()}) and on (cluster, node) joulebook_build_info{_IN}"

STATE = (
    Panel("Nodes heard", "Daemons that answer at the end of the range.", Basis.COUNTED, "none",
        (Query(f"count(joulebook_build_info{_IN})"),), "stat", 6, 4),
    Panel("Not in the books", "What meters have read and neither experiments, remainders nor "
        "pending energy show, as a share of all; 0 by design, save for what flooring takes.",
        Basis.METERED, "percentunit",
        (Query(f"abs(sum({_GONE})) / sum(joulebook_meter_energy_joules_total{_IN})"),),
        "stat", 6, 4, decimals=3, thresholds=((None, "green"), (0.005, "red"))),
    Panel("Not attributed", "Share of the energy of the range that went to unknown_holder, "
        "daemon_down or counter_reset.", Basis.METERED, "percentunit",
        (Query("sum(increase(joulebook_remainder_energy_joules_total"
            f'{{{WHERE},reason=~"unknown_holder|daemon_down|counter_reset"}}[$__range]))\n'
            f"/ sum({_rise('meter_energy_joules')})"),),
        "stat", 6, 4, decimals=2, thresholds=((None, "green"), (0.05, "red"))),
    Panel("Not measured", "Time in which meters were not read in the range, all meters together.",
        Basis.COUNTED, "s", (Query(f"sum({_rise('gap_seconds')})"),), "stat", 6, 4),
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
    Panel("Nobody's, by reason", "Energy that belongs to no workload.", Basis.METERED, "kwatth",
        (Query(f"sort_desc({kwh(by('reason', _rise('remainder_energy_joules')))})", "{{reason}}"),),
        "bargauge", 8, 6),
)  # fmt: skip

TROUBLE = (
    Panel("Books of each node", "What meters have read and the books do not show, in joules: "
        "a few, from flooring.", Basis.METERED, "joule",
        (Query(_GONE, _NODE, "1m"),), below_zero=True),
    Panel("Gaps", "Seconds of the hour before in which meters were not read, by reason, all meters "
        "of a node together.", Basis.COUNTED, "s",
        (Query(by("cluster, node, reason", f"increase(joulebook_gap_seconds_total{_IN}[1h])"),
            "{{node}} {{reason}} {{cluster}}", "1m"),)),
    Panel("Duration of a tick", "How long the last look of each daemon took.", Basis.COUNTED, "s",
        (Query("max by (cluster, node) (max_over_time("
            f"joulebook_tick_duration_seconds{_IN}[$__interval]))", _NODE, "1m"),)),
    Panel("Memory of the daemons", "Resident memory.", Basis.READ, "bytes",
        (Query(f"max by (cluster, node) (process_resident_memory_bytes{_IN})", _NODE, "1m"),)),
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
    "Refused and folded",
    "Inputs from outside that were refused, series folded into (overflow), metrics that could not "
    "be rendered, answers of rate sources that could not be used: all in the range.",
    Basis.COUNTED,
    "none",
    (
        Query(f"sum({_rise('rejected_inputs')}) or vector(0)", "inputs refused"),
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
    "Age of the last good answer of each source; beyond rates.*.keep_s nothing is charged.",
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
    empty="no feeds",
)
UNPRICED = Panel(
    "Not charged",
    "Energy of the range for which a configured rate was not known, by kind.",
    Basis.METERED,
    "kwatth",
    (Query(kwh(by("kind", _rise("unpriced_energy_joules"))), "{{kind}}"),),
    "bargauge",
    12,
    5,
    empty="no rates set",
)

DASHBOARD = Board(
    "joulebook-books",
    "Books and exporter health",
    "Whether all energy is accounted for, how well it is known, and how the daemons fare.",
    NODES,
    (
        Row("", STATE),
        Row("How well it is known", QUALITY),
        Row("Course", TROUBLE),
        Row("Daemons", (SENSORS, COUNTS)),
        Row("Rates", (FEEDS, UNPRICED)),
    ),
    since="now-24h",
)
