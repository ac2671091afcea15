"""Node and GPU: what the devices do now and did, and who holds them."""

from __future__ import annotations

from dashboards.generator.board import Board, Row
from dashboards.generator.figures import (
    HOLDER,
    NODES,
    WHERE,
    foremost,
    kwh,
    largest,
    leading,
)
from dashboards.generator.panel import STACKED, Basis, Column, Panel, Query, stat
from dashboards.generator.promql import by, rate, risen, selector

_GPU = "{{node}} GPU {{gpu}} {{cluster}}"


_LEADING = largest(
    f"avg by (cluster, node, uuid) (avg_over_time(joulebook_gpu_power_watts{{{WHERE}}}[$__range]))"
)
"""The GPUs that drew most in the range: all, on a node or two."""


def _gauge(title: str, about: str, name: str, unit: str, *, most: float | None = None) -> Panel:
    """Means over each step, so that nothing between two points is lost."""
    each = (
        "max by (cluster, node, gpu, uuid) "
        f"(avg_over_time(joulebook_gpu_{name}{{{WHERE}}}[$__interval]))"
    )
    these = f"on (cluster, node, uuid) {_LEADING}"
    queries = (
        Query(f"{each} and {these}", _GPU, "1m"),
        Query(f"avg({each} unless {these})", "(mean of the others)", "1m"),
    )
    return Panel(title, f"{about} Mean of each step, of the GPUs that drew most.", Basis.READ, unit,
        queries, at_most=most)  # fmt: skip


def _stat(title: str, about: str, basis: Basis, unit: str, expression: str) -> Panel:
    return stat(title, about, basis, unit, Query(expression), 6)


_METERS = selector("joulebook_meter_energy_joules_total", WHERE)
_BY_METER = "cluster, node, component"
_POWER = Query(
    by(_BY_METER, rate(_METERS)),
    "{{node}} {{component}} {{cluster}}",
    "1m",
)
_SEEN = f"group by (cluster, node, uuid) (joulebook_gpu_info{{{WHERE}}})"
_HELD = (
    f"sum(max by (cluster, node, uuid, scheduler, workload) (joulebook_gpu_held_ratio{{{WHERE}}}))"
)

NOW = (
    _stat("GPUs", "GPUs that can be seen.", Basis.COUNTED, "none", f"count({_SEEN})"),
    _stat("Held", "Share of the GPUs that workloads hold.", Basis.HELD, "percentunit",
        f"({_HELD} or vector(0)) / count({_SEEN})"),
    _stat("Power", "What the GPUs draw now.", Basis.READ, "watt",
        f"sum(max by (cluster, node, uuid) (joulebook_gpu_power_watts{{{WHERE}}}))"),
    _stat("Energy", "What all meters read in the range: GPUs, and CPU and memory where measured.",
        Basis.METERED, "kwatth", kwh(f"sum({risen(_METERS)})")),
)  # fmt: skip

METERS = (
    Panel(
        "Power by node and component",
        "Mean power of each step, from the energy counters: those that used most, and the others.",
        Basis.METERED,
        "watt",
        leading(_POWER, _BY_METER, by(_BY_METER, risen(_METERS))),
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
        *HOLDER,
        Column(
            "Held",
            Query(
                "max by (cluster, node, gpu, workload, user, account, experiment) "
                f"(joulebook_gpu_held_ratio{{{WHERE}}})"
            ),
            "percentunit",
            0,
        ),
    ),
    sort="node",
    ascending=True,
    empty="No GPU is held at the end of the range",
)

_THROTTLED = (
    "max by (cluster, node, gpu, reason) "
    f"(rate(joulebook_gpu_throttle_seconds_total{{{WHERE}}}[$__rate_interval]))"
)

DEVICES = (
    _gauge("Utilization", "Share of time a kernel was running.", "utilization_ratio",
        "percentunit", most=1),
    _gauge("Memory in use", "On the GPU.", "memory_used_bytes", "bytes"),
    _gauge("Temperature", "Of the GPU.", "temperature_celsius", "celsius"),
    _gauge("Clock", "Of the multiprocessors.", "sm_clock_hertz", "hertz"),
    Panel(
        "Throttling",
        "Share of time for which a GPU was slowed down, by reason: those that were longest.",
        Basis.READ,
        "percentunit",
        (Query(foremost(f"clamp_max({_THROTTLED}, 1) > 0", "cluster, node, gpu, reason",
            "max by (cluster, node, gpu, reason) (increase("
            f"joulebook_gpu_throttle_seconds_total{{{WHERE}}}[$__range]))"),
            "{{node}} GPU {{gpu}} {{reason}} {{cluster}}", "1m"),),
        at_most=1,
        empty="No GPU was slowed down",
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
