"""Node and GPU: what the devices do now and did, and who holds them."""

from __future__ import annotations

from dashboards.generator import links
from dashboards.generator.board import Board, Row
from dashboards.generator.figures import NODES, WHERE, kwh
from dashboards.generator.panel import STACKED, Basis, Column, Panel, Query
from dashboards.generator.promql import by

_GPU = "{{node}} GPU {{gpu}} {{cluster}}"


def _gauge(title: str, about: str, name: str, unit: str, *, most: float | None = None) -> Panel:
    """Means over each step, so that nothing between two points is lost."""
    expression = f"avg_over_time(joulebook_gpu_{name}{{{WHERE}}}[$__interval])"
    return Panel(title, f"{about} Mean of each step.", Basis.READ, unit,
        (Query(expression, _GPU, "1m"),), at_most=most)  # fmt: skip


def _stat(title: str, about: str, basis: Basis, unit: str, expression: str) -> Panel:
    return Panel(title, about, basis, unit, (Query(expression),), "stat", 6, 4)


NOW = (
    _stat("GPUs", "GPUs that can be seen.", Basis.COUNTED, "none",
        f"count(joulebook_gpu_info{{{WHERE}}})"),
    _stat("Held", "Share of the GPUs that workloads hold.", Basis.HELD, "percentunit",
        f"(sum(joulebook_gpu_held_ratio{{{WHERE}}}) or vector(0))"
        f" / count(joulebook_gpu_info{{{WHERE}}})"),
    _stat("Power", "What the GPUs draw now.", Basis.READ, "watt",
        f"sum(joulebook_gpu_power_watts{{{WHERE}}})"),
    _stat("Energy", "What all meters read in the range: GPUs, and CPU and memory where measured.",
        Basis.METERED, "kwatth",
        kwh(f"sum(increase(joulebook_meter_energy_joules_total{{{WHERE}}}[$__range]))")),
)  # fmt: skip

METERS = (
    Panel(
        "Power by node and component",
        "Mean power of each step, from the energy counters.",
        Basis.METERED,
        "watt",
        (
            Query(
                by(
                    "cluster, node, component",
                    f"rate(joulebook_meter_energy_joules_total{{{WHERE}}}[$__rate_interval])",
                ),
                "{{node}} {{component}} {{cluster}}",
                "1m",
            ),
        ),
        custom=STACKED,
    ),
    _gauge("Power of each GPU", "As the driver says.", "power_watts", "watt"),
)

HOLDERS = Panel(
    "Who holds what",
    "Each GPU and who holds it at the end of the range; (unknown): somebody whose name is not "
    "known.",
    Basis.HELD,
    "none",
    kind="table",
    width=24,
    height=9,
    hidden=("__name__", "instance", "job", "scheduler", "uuid"),
    columns=(
        Column("cluster", width=110),
        Column("node", link=links.NODE),
        Column("gpu", width=60),
        Column("workload", link=links.WORKLOAD),
        Column("user"),
        Column("account"),
        Column("experiment", link=links.EXPERIMENT),
        Column(
            "Held",
            Query(
                "sum by (cluster, node, gpu, workload, user, account, experiment) "
                f"(joulebook_gpu_held_ratio{{{WHERE}}})"
            ),
            "percentunit",
            0,
        ),
    ),
    sort="node",
    ascending=True,
)

DEVICES = (
    _gauge("Utilization", "Share of time a kernel was running.", "utilization_ratio",
        "percentunit", most=1),
    _gauge("Memory in use", "On the GPU.", "memory_used_bytes", "bytes"),
    _gauge("Temperature", "Of the GPU.", "temperature_celsius", "celsius"),
    _gauge("Clock", "Of the multiprocessors.", "sm_clock_hertz", "hertz"),
    Panel(
        "Throttling",
        "Share of time for which a GPU was slowed down, by reason.",
        Basis.READ,
        "percentunit",
        (
            Query(
                by(
                    "cluster, node, gpu, reason",
                    f"rate(joulebook_gpu_throttle_seconds_total{{{WHERE}}}[$__rate_interval])",
                ),
                "{{node}} GPU {{gpu}} {{reason}} {{cluster}}",
                "1m",
            ),
        ),
    ),
    _gauge("Power limit", "In force.", "power_limit_watts", "watt"),
)  # fmt: skip

DASHBOARD = Board(
    "joulebook-node",
    "Node and GPU",
    "Power, utilization, temperature, clocks and throttling of the GPUs, and who holds them.",
    NODES,
    (
        Row("", NOW),
        Row("Power", METERS),
        Row("Holders", (HOLDERS,)),
        Row("Devices", DEVICES),
    ),
    since="now-6h",
    refresh="1m",
)
