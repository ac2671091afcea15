"""The catalogue of metrics: the collector fills it in, and `docs/metrics.md` is made from it.

Every metric also carries `node`, and `cluster` if `node.cluster` is set. No label is named `job`,
`instance`, `pod` or `namespace`: those would collide with the labels of a scrape target.
"""

from __future__ import annotations

from joulebook.metrics.catalogue_gpu import OF_GPU
from joulebook.metrics.metric import (
    GPU,
    METER,
    OWNER,
    WORKLOAD,
    Kind,
    Metric,
    Quantum,
    Stability,
    counter,
    gauge,
)

GAP_REASONS = (
    "daemon_down", "hung", "missing", "released", "energy_unread", "implausible",
    "counter_reset", "counter_stalled", "reboot",
)  # fmt: skip
"""Exposed at 0 for every meter from the start, so that `increase()` sees the first gap."""

GPU_GAP_REASONS = ("gpu_is_lost", "uninitialized")
"""The same, for GPUs."""

SENSOR_ERROR_REASONS = {
    "nvml": ("driver_not_loaded", "gpu_is_lost", "timeout", "uninitialized", "unknown"),
    "drm": ("denied", "energy_unread", "missing", "unreadable"),
    "rapl": ("denied", "missing", "unreadable"),
    "hwmon": ("denied", "missing", "unreadable"),
    "ipmi": ("denied", "inactive", "missing", "timeout", "unreadable"),
    "redfish": ("ambiguous", "denied", "missing", "timeout", "tls", "unreachable", "unreadable"),
}
"""Exposed at 0 from the start, by sensor. Any other reason appears with its first error."""

_OF_ENERGY = (
    counter("meter_energy_joules", "Energy read from a meter since the ledger began.",
        "joules", METER),
    gauge("meter_idle_watts",
        "Learned idle power of the meter's device, which is shared out separately from active "
        "power.",
        "watts", METER, stability=Stability.BETA),
    counter("workload_energy_joules", "Energy booked to a workload on this node, idle included.",
        "joules", (*WORKLOAD, "component")),
    counter("workload_idle_energy_joules",
        "Energy booked to a workload while its allocated devices were idle (included in its "
        "energy).",
        "joules", (*WORKLOAD, "component")),
    gauge("workload_power_watts",
        "Power drawn by a workload; the power of shared devices is split as their energy is.",
        "watts", (*WORKLOAD, "component"), adds=True),
    counter("workload_gpu_seconds", "GPU time held by a workload (share held x time).",
        "seconds", WORKLOAD),
    gauge("workload_coverage_ratio",
        "Share of the GPU time held by a workload for which its energy is known; only if below "
        "0.995: its energy is then a lower bound.",
        "ratio", WORKLOAD, stability=Stability.BETA),
    counter("workload_idle_gpu_seconds",
        "GPU time held by a workload while the GPUs were idle.", "seconds", WORKLOAD),
    counter("workload_tensor_seconds",
        "Held GPU time weighted by the activity of the tensor cores; Hopper and newer only.",
        "seconds", WORKLOAD, Stability.BETA),
    gauge("workload_info", "Information about a workload; join on scheduler and workload.",
        labels=("scheduler", "workload", "name", "partition", "image", "array", "gpu_count",
        "gpu_model", "evidence"), stability=Stability.BETA),
    gauge("pending_energy_joules",
        "Energy read from meters but not yet shown by any experiment or remainder.",
        "joules", ("component",), Quantum.JOULES),
    gauge("unexposed_energy_joules",
        "Energy of experiments whose series were dropped after a day without use: meters = "
        "experiments + unexposed + remainders + pending.",
        "joules", ("component",), Quantum.JOULES),
    counter("experiment_energy_joules", "Energy booked to an experiment on this node.",
        "joules", (*OWNER, "component")),
    counter("experiment_idle_energy_joules",
        "Energy booked to an experiment while its allocated devices were idle (included in its "
        "energy).",
        "joules", (*OWNER, "component")),
    counter("experiment_gpu_seconds", "GPU time held by an experiment (share held x time).",
        "seconds", OWNER),
    counter("experiment_idle_gpu_seconds",
        "GPU time held by an experiment while the GPUs were idle.", "seconds", OWNER),
    counter("remainder_gpu_seconds",
        "GPU time not held by any workload, by reason. Held time + remainders + gaps = capacity.",
        "seconds", ("reason",)),
    counter("remainder_energy_joules", "Energy not attributed to any workload, by reason.",
        "joules", ("component", "reason")),
    counter("evidence_energy_joules", "Energy booked, by the evidence for its holder.",
        "joules", ("evidence",)),
    counter("method_energy_joules", "Energy booked, by how it was measured or estimated.",
        "joules", ("method",)),
)  # fmt: skip

_OF_NODE = (
    counter("node_energy_joules",
        "Reconciled energy of a meter of the whole node: its child meters plus the rest, which "
        "is booked as component other.",
        "joules", ("meter",), Stability.BETA),
    counter("node_covered_energy_joules",
        "Energy of its child meters (CPU, DRAM, GPUs) over the same time.",
        "joules", ("meter",), Stability.BETA),
    gauge("node_deficit_joules",
        "Energy by which the child meters exceed the node meter; later differences fill it first.",
        "joules", ("meter",), Quantum.JOULES, Stability.BETA),
    gauge("node_meter_omits", "1 if the meter of the whole node appears to leave out a component.",
        labels=("meter", "component"), stability=Stability.BETA),
)  # fmt: skip

_MONEY = Quantum.MONEY

_OF_MONEY = (
    counter("workload_cost",
        "Cost of a workload on this node, at the rates in force when the energy was consumed.",
        labels=(*WORKLOAD, "kind", "currency"), quantum=_MONEY),
    counter("workload_idle_cost", "Cost of a workload's idle allocations (included in its cost).",
        labels=(*WORKLOAD, "kind", "currency"), quantum=_MONEY),
    counter("workload_credit",
        "Credit to a workload for energy at negative prices; subtract it from its cost.",
        labels=(*WORKLOAD, "currency"), quantum=_MONEY),
    counter("workload_co2e_grams",
        "CO2e of a workload on this node, at the carbon intensity in force when the energy was "
        "consumed.",
        "grams", WORKLOAD),
    counter("experiment_cost", "Cost of an experiment on this node.",
        labels=(*OWNER, "kind", "currency"), quantum=_MONEY),
    counter("experiment_idle_cost",
        "Cost of an experiment's idle allocations (included in its cost).",
        labels=(*OWNER, "kind", "currency"), quantum=_MONEY),
    counter("experiment_credit",
        "Credit to an experiment for energy at negative prices; subtract it from its cost.",
        labels=(*OWNER, "currency"), quantum=_MONEY),
    counter("experiment_co2e_grams", "CO2e of an experiment on this node.",
        "grams", OWNER),
    counter("remainder_cost",
        "Cost of energy and GPU time not attributed to any workload, by reason.",
        labels=("reason", "kind", "currency"), quantum=_MONEY),
    counter("remainder_credit",
        "Credit for unattributed energy at negative prices, by reason; subtract it from its cost.",
        labels=("reason", "currency"), quantum=_MONEY),
    counter("remainder_co2e_grams", "CO2e of energy not attributed to any workload, by reason.",
        "grams", ("reason",)),
    counter("unpriced_energy_joules",
        "Energy without a charge because a configured rate was unknown.",
        "joules", ("kind",)),
    gauge("budget",
        "Monthly budget of an experiment, or of the whole account if the label experiment is "
        "empty. The unit is kwh or a currency.", labels=("account", "experiment", "unit")),
    gauge("electricity_price_per_kwh", "Current price per kWh, without PUE.",
        labels=("currency", "source")),
    gauge("carbon_intensity_grams_per_kwh", "Current carbon intensity per kWh, without PUE.",
        labels=("zone", "source")),
    gauge("pue_ratio", "Current PUE: facility energy / IT energy.",
        "ratio", ("source",)),
    gauge("feed_up", "1 if the last response of a rate source was usable, else 0.",
        labels=("quantity", "source")),
    gauge("feed_age_seconds", "Time since the last usable response of a rate source.",
        "seconds", ("quantity", "source")),
    counter("feed_errors", "Unusable responses of a rate source, by reason.",
        labels=("quantity", "source", "reason")),
)  # fmt: skip

_OF_QUALITY = (
    counter("gap_seconds",
        "Time for which a meter was not read or its reading was rejected, by reason. A "
        "counter's energy of that time is booked once it is read again. Initialized to 0: "
        f"{', '.join(GAP_REASONS)}; for GPUs also {', '.join(GPU_GAP_REASONS)}.",
        "seconds", (*METER, "reason")),
    counter("foreign_use_seconds",
        "Time for which a device was used by processes of others than its holder.",
        "seconds", (*METER, "scheduler", "workload"), Stability.BETA),
    gauge("counter_power_ratio",
        "Energy of one minute by a GPU's counter, divided by that from its power readings. About "
        "1, unless the load is in step with the sensor.",
        "ratio", (*GPU, "scope"), stability=Stability.BETA),
    counter("overflow", "Series folded into (overflow), by the limit that was reached.",
        labels=("source", "reason")),
    counter("rejected_inputs", "External inputs that were rejected, by reason.",
        labels=("source", "reason")),
    counter("exposition_errors", "Metrics left out of a scrape because rendering them failed.",
        labels=("family",)),
)  # fmt: skip

_OF_DAEMON = (
    gauge("sensor_up", "1 if the last poll of a sensor returned readings, else 0.",
        labels=("sensor", "kind")),
    counter("sensor_errors",
        "Failed polls of a sensor or a device, by reason. Initialized to 0: "
        + "; ".join(f"{s}: {', '.join(found)}" for s, found in SENSOR_ERROR_REASONS.items()) + ".",
        labels=("sensor", "kind", "reason")),
    gauge("sensor_last_success_timestamp_seconds", "Unix time of a sensor's last readings.",
        "seconds", ("sensor", "kind")),
    gauge("sensor_duration_seconds", "Duration of the last poll of a sensor.", "seconds",
        ("sensor", "kind")),
    gauge("tick_duration_seconds", "Duration of the last tick.", "seconds"),
    gauge("build_info",
        "Version of the daemon.", labels=("version", "revision", "python")),
    Metric("process_cpu_seconds_total", Kind.COUNTER,
        "CPU time of Joulebook itself.", "seconds"),
    Metric("process_resident_memory_bytes", Kind.GAUGE, "Resident memory of Joulebook.", "bytes"),
    Metric("process_virtual_memory_bytes", Kind.GAUGE, "Virtual memory of Joulebook.", "bytes"),
    Metric("process_open_fds", Kind.GAUGE, "Open file descriptors of Joulebook."),
    Metric("process_start_time_seconds", Kind.GAUGE,
        "Unix time of Joulebook's start.", "seconds"),
)  # fmt: skip

CATALOGUE: tuple[Metric, ...] = (
    *OF_GPU,
    *_OF_ENERGY,
    *_OF_NODE,
    *_OF_MONEY,
    *_OF_QUALITY,
    *_OF_DAEMON,
)
"""Every metric, in the order of exposition."""

BY_NAME = {metric.name: metric for metric in CATALOGUE}
