"""The metrics of `joulebook collect`, which have no label `node`."""

from __future__ import annotations

from joulebook.metrics.metric import Kind, Metric, Stability


def _metric(
    kind: Kind, name: str, help: str, unit: str = "", labels: tuple[str, ...] = ()
) -> Metric:
    return Metric(
        f"joulebook_collect_{name}", kind, help, unit, labels, stability=Stability.BETA, bare=True
    )


_G, _C = Kind.GAUGE, Kind.COUNTER

COLLECTOR: tuple[Metric, ...] = (
    _metric(_G, "targets", "Number of nodes to collect from."),
    _metric(
        _G,
        "target_up",
        "1 if the last page of a node was written to the ledger, else 0.",
        "",
        ("target",),
    ),
    _metric(
        _G,
        "target_last_success_timestamp_seconds",
        "Unix time at which a page of a node was last written to the ledger.",
        "seconds",
        ("target",),
    ),
    _metric(_G, "target_behind", "Changes on a node that are not collected yet.", "", ("target",)),
    _metric(
        _C,
        "errors_total",
        "Unusable responses of a node, by reason.",
        "",
        ("target", "reason"),
    ),
    _metric(_C, "pages_total", "Pages written to the ledger."),
    _metric(_C, "rows_total", "Rows written to the ledger."),
    _metric(_C, "late_total", "Workloads and days that arrived after their month was closed."),
    _metric(_G, "database_up", "1 if the collected ledger is writable, else 0."),
    _metric(_G, "discovery_up", "1 if every source of targets was read, else 0."),
)
"""Every metric of the collector, in the order of exposition."""
