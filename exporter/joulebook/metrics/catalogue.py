"""The catalogue of metrics: the collector fills it in, and `docs/metrics.md` is made from it.

Every metric also carries `node`, and `cluster` if `node.cluster` is set. No label is named `job`,
`instance`, `pod` or `namespace`: those would collide with the labels of a scrape target.
"""

from __future__ import annotations

from enum import StrEnum

import msgspec


class Kind(StrEnum):
    """The type of a metric."""

    GAUGE = "gauge"
    COUNTER = "counter"


class Stability(StrEnum):
    """When a metric may change: with a major version if stable, with a minor one if beta."""

    STABLE = "stable"
    BETA = "beta"


class Quantum(StrEnum):
    """The step that a value is floored to when exposed (coarse values cost a third of the
    storage).
    """

    NONE = "exact"
    JOULES = "2^-6 below 1000 J, to 1 J above"
    SECONDS = "2^-10"
    GRAMS = "2^-10 g"
    MONEY = "2^-20"


class Metric(msgspec.Struct, frozen=True, gc=False):
    """One metric.

    Attributes:
        name: As in a sample.
        unit: A base unit.
        labels: Other than `node` and `cluster`.
        adds: Whether samples with the same labels are parts of one value, to be summed.
        sparse: Whether to leave out empty labels, as other exporters do.
        bare: Whether to leave out `node` and `cluster`.

    """

    name: str
    kind: Kind
    help: str
    unit: str = ""
    labels: tuple[str, ...] = ()
    quantum: Quantum = Quantum.NONE
    stability: Stability = Stability.STABLE
    since: str = "0.1.0"
    adds: bool = False
    sparse: bool = False
    bare: bool = False


GPU = ("gpu", "uuid")
OWNER = ("user", "account", "experiment")
WORKLOAD = ("scheduler", "workload", *OWNER)
METER = ("component", "meter")


_QUANTA = {"joules": Quantum.JOULES, "seconds": Quantum.SECONDS, "grams": Quantum.GRAMS}


def _gauge(
    name: str,
    help: str,
    unit: str = "",
    labels: tuple[str, ...] = (),
    quantum: Quantum = Quantum.NONE,
    stability: Stability = Stability.STABLE,
    *,
    adds: bool = False,
) -> Metric:
    name = f"joulebook_{name}"
    return Metric(name, Kind.GAUGE, help, unit, labels, quantum, stability, adds=adds)


def _counter(
    name: str,
    help: str,
    unit: str = "",
    labels: tuple[str, ...] = (),
    stability: Stability = Stability.STABLE,
    quantum: Quantum | None = None,
) -> Metric:
    if quantum is None:
        quantum = _QUANTA.get(unit, Quantum.NONE)
    name = f"joulebook_{name}_total"
    return Metric(name, Kind.COUNTER, help, unit, labels, quantum, stability, adds=True)


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

DEVICE_GAUGES = {
    metric.name.removeprefix("joulebook_gpu_"): metric
    for metric in (
        _gauge("gpu_power_watts", "Current power draw of the GPU.", "watts", GPU),
        _gauge("gpu_power_limit_watts", "Current power limit of the GPU.", "watts", GPU),
        _gauge(
            "gpu_utilization_ratio",
            "Fraction of time for which a kernel was running.",
            "ratio",
            GPU,
        ),
        _gauge(
            "gpu_memory_utilization_ratio",
            "Fraction of time for which memory was being accessed.",
            "ratio",
            GPU,
        ),
        _gauge("gpu_encoder_utilization_ratio", "Utilization of the video encoder.", "ratio", GPU),
        _gauge("gpu_decoder_utilization_ratio", "Utilization of the video decoder.", "ratio", GPU),
        _gauge("gpu_memory_used_bytes", "GPU memory in use.", "bytes", GPU),
        _gauge("gpu_memory_total_bytes", "Total GPU memory.", "bytes", GPU),
        _gauge("gpu_temperature_celsius", "Temperature of the GPU.", "celsius", GPU),
        _gauge("gpu_sm_clock_hertz", "SM clock frequency.", "hertz", GPU),
        _gauge("gpu_memory_clock_hertz", "Memory clock frequency.", "hertz", GPU),
        *(
            _gauge(f"gpu_{name}", help, unit, GPU, stability=Stability.BETA)
            for name, unit, help in (
                ("memory_temperature_celsius", "celsius", "Temperature of the GPU's memory."),
                ("performance_state", "", "Performance state: 0 is the fastest, 15 the slowest."),
                ("pcie_generation", "", "Generation that the PCIe link runs at now."),
                ("pcie_lanes", "", "Lanes that the PCIe link uses now."),
                (
                    "remapped_rows_pending",
                    "",
                    "Whether rows of memory are remapped with the next reset.",
                ),
                ("row_remapping_failed", "", "Whether a row could not be remapped: replace it."),
                (
                    "retired_pages_pending",
                    "",
                    "Whether pages of memory are retired with the next reboot.",
                ),
                (
                    "graphics_active_ratio",
                    "ratio",
                    "Share of time in which any graphics or compute engine was active.",
                ),
                ("sm_active_ratio", "ratio", "Share of the multiprocessors that were busy."),
                (
                    "sm_occupancy_ratio",
                    "ratio",
                    "Warps that were resident, as a share of those that fit.",
                ),
                ("tensor_active_ratio", "ratio", "Share of time in which tensor cores worked."),
                (
                    "dram_active_ratio",
                    "ratio",
                    "Memory bandwidth used, as a share of what there is.",
                ),
                ("fp64_active_ratio", "ratio", "Share of time with FP64 math, tensor cores not."),
                ("fp32_active_ratio", "ratio", "Share of time with FP32 math, tensor cores not."),
                ("fp16_active_ratio", "ratio", "Share of time with FP16 math, tensor cores not."),
            )
        ),
    )
}
"""The gauges of a device, by key in `DeviceStatus.values`."""

DEVICE_COUNTERS = {
    metric.name.removeprefix("joulebook_gpu_").removesuffix("_total"): metric
    for metric in (
        _counter("gpu_xid_errors",
            "Xid errors that the driver reported since the daemon began, by number; the series "
            "appears with the first.", labels=(*GPU, "xid"), stability=Stability.BETA),
        _counter("gpu_ecc_errors", "Memory errors over the life of the GPU, by kind.",
            labels=(*GPU, "kind"), stability=Stability.BETA),
        _counter("gpu_remapped_rows", "Rows of memory that were remapped, by kind of error.",
            labels=(*GPU, "kind"), stability=Stability.BETA),
        _counter("gpu_retired_pages", "Pages of memory that were retired, by kind of error.",
            labels=(*GPU, "kind"), stability=Stability.BETA),
        _counter("gpu_nvlink_errors", "Errors of all NVLinks, by kind.",
            labels=(*GPU, "kind"), stability=Stability.BETA),
        _counter("gpu_pcie_replays", "Packets that were sent again over PCIe.",
            labels=GPU, stability=Stability.BETA),
        _counter("gpu_pcie_bytes", "Bytes moved over PCIe since the daemon began, by direction.",
            "bytes", (*GPU, "direction"), stability=Stability.BETA),
        _counter("gpu_nvlink_bytes",
            "Bytes moved over NVLink since the daemon began, by direction.",
            "bytes", (*GPU, "direction"), stability=Stability.BETA),
    )
}  # fmt: skip
"""The counters of a device's health, by their name in `DeviceStatus.counts`."""

_OF_GPU = (
    _gauge("gpu_info", "Information about a GPU of this node.", labels=(
        *GPU, "vendor", "model", "driver", "pci", "mig")),
    _gauge("gpu_held_ratio",
        "Share of the GPU that the workload holds, or uses if nobody holds it.", "ratio",
        (*GPU, *WORKLOAD), adds=True),
    _gauge("gpu_peak_flops",
        "Peak dense FLOP/s of the GPU model by precision, from its data sheet (not measured).",
        labels=(*GPU, "precision", "source")),
    *DEVICE_GAUGES.values(),
    _counter("gpu_throttle_seconds", "Time for which the GPU was throttled, by reason.",
        "seconds", (*GPU, "reason")),
    *DEVICE_COUNTERS.values(),
)  # fmt: skip

_OF_ENERGY = (
    _counter("meter_energy_joules", "Energy read from a meter since the ledger began.",
        "joules", METER),
    _gauge("meter_idle_watts",
        "Learned idle power of the meter's device, which is shared out separately from active "
        "power.",
        "watts", METER, stability=Stability.BETA),
    _counter("workload_energy_joules", "Energy booked to a workload on this node, idle included.",
        "joules", (*WORKLOAD, "component")),
    _counter("workload_idle_energy_joules",
        "Energy booked to a workload while its allocated devices were idle (included in its "
        "energy).",
        "joules", (*WORKLOAD, "component")),
    _gauge("workload_power_watts",
        "Power drawn by a workload; the power of shared devices is split as their energy is.",
        "watts", (*WORKLOAD, "component"), adds=True),
    _counter("workload_gpu_seconds", "GPU time held by a workload (share held x time).",
        "seconds", WORKLOAD),
    _counter("workload_idle_gpu_seconds",
        "GPU time held by a workload while the GPUs were idle.", "seconds", WORKLOAD),
    _counter("workload_tensor_seconds",
        "Held GPU time weighted by the activity of the tensor cores; Hopper and newer only.",
        "seconds", WORKLOAD, Stability.BETA),
    _gauge("workload_info", "Information about a workload; join on scheduler and workload.",
        labels=("scheduler", "workload", "name", "partition", "image", "array", "gpu_count",
        "gpu_model", "evidence"), stability=Stability.BETA),
    _gauge("pending_energy_joules",
        "Energy read from meters but not yet shown by any experiment or remainder.",
        "joules", ("component",), Quantum.JOULES),
    _gauge("unexposed_energy_joules",
        "Energy of experiments whose series were dropped after a day without use: meters = "
        "experiments + unexposed + remainders + pending.",
        "joules", ("component",), Quantum.JOULES),
    _counter("experiment_energy_joules", "Energy booked to an experiment on this node.",
        "joules", (*OWNER, "component")),
    _counter("experiment_idle_energy_joules",
        "Energy booked to an experiment while its allocated devices were idle (included in its "
        "energy).",
        "joules", (*OWNER, "component")),
    _counter("experiment_gpu_seconds", "GPU time held by an experiment (share held x time).",
        "seconds", OWNER),
    _counter("experiment_idle_gpu_seconds",
        "GPU time held by an experiment while the GPUs were idle.", "seconds", OWNER),
    _counter("remainder_gpu_seconds",
        "GPU time not held by any workload, by reason. Held time + remainders + gaps = capacity.",
        "seconds", ("reason",)),
    _counter("remainder_energy_joules", "Energy not attributed to any workload, by reason.",
        "joules", ("component", "reason")),
    _counter("evidence_energy_joules", "Energy booked, by the evidence for its holder.",
        "joules", ("evidence",)),
    _counter("method_energy_joules", "Energy booked, by how it was measured or estimated.",
        "joules", ("method",)),
)  # fmt: skip

_OF_NODE = (
    _counter("node_energy_joules",
        "Reconciled energy of a meter of the whole node: its child meters plus the rest, which "
        "is booked as component other.",
        "joules", ("meter",), Stability.BETA),
    _counter("node_covered_energy_joules",
        "Energy of its child meters (CPU, DRAM, GPUs) over the same time.",
        "joules", ("meter",), Stability.BETA),
    _gauge("node_deficit_joules",
        "Energy by which the child meters exceed the node meter; later differences fill it first.",
        "joules", ("meter",), Quantum.JOULES, Stability.BETA),
    _gauge("node_meter_omits", "1 if the meter of the whole node appears to leave out a component.",
        labels=("meter", "component"), stability=Stability.BETA),
)  # fmt: skip

_MONEY = Quantum.MONEY

_OF_MONEY = (
    _counter("workload_cost",
        "Cost of a workload on this node, at the rates in force when the energy was consumed.",
        labels=(*WORKLOAD, "kind", "currency"), quantum=_MONEY),
    _counter("workload_idle_cost", "Cost of a workload's idle allocations (included in its cost).",
        labels=(*WORKLOAD, "kind", "currency"), quantum=_MONEY),
    _counter("workload_credit",
        "Credit to a workload for energy at negative prices; subtract it from its cost.",
        labels=(*WORKLOAD, "currency"), quantum=_MONEY),
    _counter("workload_co2e_grams",
        "CO2e of a workload on this node, at the carbon intensity in force when the energy was "
        "consumed.",
        "grams", WORKLOAD),
    _counter("experiment_cost", "Cost of an experiment on this node.",
        labels=(*OWNER, "kind", "currency"), quantum=_MONEY),
    _counter("experiment_idle_cost",
        "Cost of an experiment's idle allocations (included in its cost).",
        labels=(*OWNER, "kind", "currency"), quantum=_MONEY),
    _counter("experiment_credit",
        "Credit to an experiment for energy at negative prices; subtract it from its cost.",
        labels=(*OWNER, "currency"), quantum=_MONEY),
    _counter("experiment_co2e_grams", "CO2e of an experiment on this node.",
        "grams", OWNER),
    _counter("remainder_cost",
        "Cost of energy and GPU time not attributed to any workload, by reason.",
        labels=("reason", "kind", "currency"), quantum=_MONEY),
    _counter("remainder_credit",
        "Credit for unattributed energy at negative prices, by reason; subtract it from its cost.",
        labels=("reason", "currency"), quantum=_MONEY),
    _counter("remainder_co2e_grams", "CO2e of energy not attributed to any workload, by reason.",
        "grams", ("reason",)),
    _counter("unpriced_energy_joules",
        "Energy without a charge because a configured rate was unknown.",
        "joules", ("kind",)),
    _gauge("budget",
        "Monthly budget of an experiment, or of the whole account if the label experiment is "
        "empty. The unit is kwh or a currency.", labels=("account", "experiment", "unit")),
    _gauge("electricity_price_per_kwh", "Current price per kWh, without PUE.",
        labels=("currency", "source")),
    _gauge("carbon_intensity_grams_per_kwh", "Current carbon intensity per kWh, without PUE.",
        labels=("zone", "source")),
    _gauge("pue_ratio", "Current PUE: facility energy / IT energy.",
        "ratio", ("source",)),
    _gauge("feed_up", "1 if the last response of a rate source was usable, else 0.",
        labels=("quantity", "source")),
    _gauge("feed_age_seconds", "Time since the last usable response of a rate source.",
        "seconds", ("quantity", "source")),
    _counter("feed_errors", "Unusable responses of a rate source, by reason.",
        labels=("quantity", "source", "reason")),
)  # fmt: skip

_OF_QUALITY = (
    _counter("gap_seconds",
        "Time for which a meter was not read or its reading was rejected, by reason. A "
        "counter's energy of that time is booked once it is read again. Initialized to 0: "
        f"{', '.join(GAP_REASONS)}; for GPUs also {', '.join(GPU_GAP_REASONS)}.",
        "seconds", (*METER, "reason")),
    _counter("foreign_use_seconds",
        "Time for which a device was used by processes of others than its holder.",
        "seconds", (*METER, "scheduler", "workload"), Stability.BETA),
    _gauge("counter_power_ratio",
        "Energy of one minute by a GPU's counter, divided by that from its power readings. About "
        "1, unless the load is in step with the sensor.",
        "ratio", (*GPU, "scope"), stability=Stability.BETA),
    _counter("overflow", "Series folded into (overflow), by the limit that was reached.",
        labels=("source", "reason")),
    _counter("rejected_inputs", "External inputs that were rejected, by reason.",
        labels=("source", "reason")),
    _counter("exposition_errors", "Metrics left out of a scrape because rendering them failed.",
        labels=("family",)),
)  # fmt: skip

_OF_DAEMON = (
    _gauge("sensor_up", "1 if the last poll of a sensor returned readings, else 0.",
        labels=("sensor", "kind")),
    _counter("sensor_errors",
        "Failed polls of a sensor or a device, by reason. Initialized to 0: "
        + "; ".join(f"{s}: {', '.join(found)}" for s, found in SENSOR_ERROR_REASONS.items()) + ".",
        labels=("sensor", "kind", "reason")),
    _gauge("sensor_last_success_timestamp_seconds", "Unix time of a sensor's last readings.",
        "seconds", ("sensor", "kind")),
    _gauge("sensor_duration_seconds", "Duration of the last poll of a sensor.", "seconds",
        ("sensor", "kind")),
    _gauge("tick_duration_seconds", "Duration of the last tick.", "seconds"),
    _gauge("build_info",
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
    *_OF_GPU,
    *_OF_ENERGY,
    *_OF_NODE,
    *_OF_MONEY,
    *_OF_QUALITY,
    *_OF_DAEMON,
)
"""Every metric, in the order of exposition."""

BY_NAME = {metric.name: metric for metric in CATALOGUE}
