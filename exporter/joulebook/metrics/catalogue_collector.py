"""The metrics of `joulebook collect`, which is of no node: no label `node`."""

from __future__ import annotations

from joulebook.metrics.catalogue import Kind, Metric, Stability


def _metric(
    kind: Kind, name: str, help: str, unit: str = "", labels: tuple[str, ...] = ()
) -> Metric:
    return Metric(
        f"joulebook_collect_{name}", kind, help, unit, labels, stability=Stability.BETA, bare=True
    )


_G, _C = Kind.GAUGE, Kind.COUNTER

COLLECTOR: tuple[Metric, ...] = (
    _metric(_G, "targets", "Nodes that are asked."),
    _metric(_G, "target_up", "Whether a node's last page is in the ledger.", "", ("target",)),
    _metric(
        _G,
        "target_last_success_timestamp_seconds",
        "When a page of a node was last taken in (UTC).",
        "seconds",
        ("target",),
    ),
    _metric(_G, "target_behind", "Changes on a node that are not collected.", "", ("target",)),
    _metric(
        _C,
        "errors_total",
        "Answers of a node that could not be used, by reason.",
        "",
        ("target", "reason"),
    ),
    _metric(_C, "pages_total", "Pages taken in."),
    _metric(_C, "rows_total", "Rows in them."),
    _metric(_C, "late_total", "Workloads and days that came late for a month that was closed."),
    _metric(_G, "database_up", "Whether the collected ledger can be written."),
    _metric(_G, "discovery_up", "Whether every source of targets was read."),
)
"""Every metric of the collector, in the order of exposition."""
