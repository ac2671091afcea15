"""The metrics of Joulebook as data: the collector fills it, `docs/metrics.md` is made of it.

Every metric also carries `node`, and `cluster` where `node.cluster` is set. No label is ever
named `job`, `instance`, `pod` or `namespace`: they collide with those of a scrape target.
"""

from __future__ import annotations

from enum import StrEnum

import msgspec


class Kind(StrEnum):
    """The type of a metric."""

    GAUGE = "gauge"
    COUNTER = "counter"


class Stability(StrEnum):
    """What may change: a stable metric only with a major version, a beta one with a minor."""

    STABLE = "stable"
    BETA = "beta"


class Quantum(StrEnum):
    """How a value is floored on its way out (coarse values cost a third of the storage)."""

    NONE = "exact"
    JOULES = "2^-6 below 1000 J, to 1 J above"
    SECONDS = "2^-10"
    GRAMS = "2^-10 g"
    MONEY = "2^-20"


class Metric(msgspec.Struct, frozen=True, gc=False):
    """One metric: `name` as a sample carries it, `unit` in base units, labels beside `node`.

    `adds` says that samples with the same labels are one quantity in parts, to be summed.
    `sparse` leaves empty labels out, and `bare` leaves `node` and `cluster` out: both are for
    compatibility with the names of other exporters.
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
"""Exposed at 0 for every meter from the start, so that `increase()` sees the first gap too."""

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
        _gauge("gpu_power_watts", "Power the GPU draws now.", "watts", GPU),
        _gauge("gpu_power_limit_watts", "Power limit in force.", "watts", GPU),
        _gauge("gpu_utilization_ratio", "Share of time a kernel was running.", "ratio", GPU),
        _gauge("gpu_memory_utilization_ratio", "Share of time memory was busy.", "ratio", GPU),
        _gauge("gpu_encoder_utilization_ratio", "Use of the video encoder.", "ratio", GPU),
        _gauge("gpu_decoder_utilization_ratio", "Use of the video decoder.", "ratio", GPU),
        _gauge("gpu_memory_used_bytes", "Memory in use on the GPU.", "bytes", GPU),
        _gauge("gpu_memory_total_bytes", "Memory of the GPU.", "bytes", GPU),
        _gauge("gpu_temperature_celsius", "Temperature of the GPU.", "celsius", GPU),
        _gauge("gpu_sm_clock_hertz", "Clock of the multiprocessors.", "hertz", GPU),
        _gauge("gpu_memory_clock_hertz", "Clock of the memory.", "hertz", GPU),
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
"""The gauges of a device, by their key in `DeviceStatus.values`."""

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
    _gauge("gpu_info", "A GPU of this node.", labels=(
        *GPU, "vendor", "model", "driver", "pci", "mig")),
    _gauge("gpu_held_ratio",
        "Share of the GPU that the workload holds now; where nobody does, uses.", "ratio",
        (*GPU, *WORKLOAD), adds=True),
    _gauge("gpu_peak_flops",
        "Peak of the GPU's model by precision, dense, in FLOP/s; a datasheet's figure, not a "
        "measurement.", labels=(*GPU, "precision", "source")),
    *DEVICE_GAUGES.values(),
    _counter("gpu_throttle_seconds", "Time for which the GPU was slowed down, by reason.",
        "seconds", (*GPU, "reason")),
    *DEVICE_COUNTERS.values(),
)  # fmt: skip

_OF_ENERGY = (
    _counter("meter_energy_joules", "Energy read from a meter since the ledger began.",
        "joules", METER),
    _gauge("meter_idle_watts",
        "What a meter's device draws while idle, as learnt: the floor that is shared out apart.",
        "watts", METER, stability=Stability.BETA),
    _counter("workload_energy_joules", "Energy booked to a workload on this node, idle included.",
        "joules", (*WORKLOAD, "component")),
    _counter("workload_idle_energy_joules",
        "The part of a workload's energy consumed while it held an idle device.",
        "joules", (*WORKLOAD, "component")),
    _gauge("workload_power_watts",
        "Power that a workload draws of its devices, shared out as their energy is.",
        "watts", (*WORKLOAD, "component"), adds=True),
    _counter("workload_gpu_seconds", "Time for which a workload held GPUs (held share x time).",
        "seconds", WORKLOAD),
    _counter("workload_idle_gpu_seconds",
        "The part of that time in which the GPUs did no work.", "seconds", WORKLOAD),
    _gauge("workload_info", "What is known of a workload; join it on scheduler and workload.",
        labels=("scheduler", "workload", "name", "partition", "image", "array", "gpu_count",
        "gpu_model", "evidence"), stability=Stability.BETA),
    _gauge("pending_energy_joules",
        "Energy that was read and that no experiment or remainder shows yet.",
        "joules", ("component",), Quantum.JOULES),
    _gauge("unexposed_energy_joules",
        "Energy of experiments that were not used for a day and have no series: meters = "
        "experiments + unexposed + remainders + pending.",
        "joules", ("component",), Quantum.JOULES),
    _counter("experiment_energy_joules", "Energy booked to an experiment on this node.",
        "joules", (*OWNER, "component")),
    _counter("experiment_idle_energy_joules",
        "The part of an experiment's energy consumed while it held an idle device.",
        "joules", (*OWNER, "component")),
    _counter("experiment_gpu_seconds", "Time for which an experiment held GPUs.",
        "seconds", OWNER),
    _counter("experiment_idle_gpu_seconds",
        "The part of that time in which the GPUs did no work.", "seconds", OWNER),
    _counter("remainder_gpu_seconds",
        "GPU time that no workload held, by reason. With the time that workloads held GPUs and "
        "the time of gaps it is the capacity.", "seconds", ("reason",)),
    _counter("remainder_energy_joules", "Energy that belongs to no workload, by reason.",
        "joules", ("component", "reason")),
    _counter("evidence_energy_joules", "Energy booked, by how its holder is known.",
        "joules", ("evidence",)),
    _counter("method_energy_joules", "Energy booked, by how its amount is known.",
        "joules", ("method",)),
)  # fmt: skip

_OF_NODE = (
    _counter("node_energy_joules",
        "Energy by a meter of the whole node, as far as it is reconciled: what the meters inside "
        "came to, and the rest, which is booked as component other.",
        "joules", ("meter",), Stability.BETA),
    _counter("node_covered_energy_joules",
        "Energy of the meters inside (CPU, DRAM, GPUs) in the same time.",
        "joules", ("meter",), Stability.BETA),
    _gauge("node_deficit_joules",
        "By how much the meters inside exceed the node's; later differences fill it first.",
        "joules", ("meter",), Quantum.JOULES, Stability.BETA),
    _gauge("node_meter_omits",
        "1 where the meter of the whole node seems to leave a component out.",
        labels=("meter", "component"), stability=Stability.BETA),
)  # fmt: skip

_MONEY = Quantum.MONEY

_OF_MONEY = (
    _counter("workload_cost",
        "What a workload cost on this node, at the rates in force when its energy was consumed.",
        labels=(*WORKLOAD, "kind", "currency"), quantum=_MONEY),
    _counter("workload_idle_cost",
        "The part of a workload's cost that was spent on GPUs which it held idle.",
        labels=(*WORKLOAD, "kind", "currency"), quantum=_MONEY),
    _counter("workload_credit",
        "What a workload earned while the price was below zero; to be taken off its cost.",
        labels=(*WORKLOAD, "currency"), quantum=_MONEY),
    _counter("workload_co2e_grams",
        "CO2e of a workload's energy, at the intensity in force when it was consumed.",
        "grams", WORKLOAD),
    _counter("experiment_cost", "What an experiment cost on this node.",
        labels=(*OWNER, "kind", "currency"), quantum=_MONEY),
    _counter("experiment_idle_cost",
        "The part of an experiment's cost that was spent on GPUs which it held idle.",
        labels=(*OWNER, "kind", "currency"), quantum=_MONEY),
    _counter("experiment_credit", "What an experiment earned while the price was below zero.",
        labels=(*OWNER, "currency"), quantum=_MONEY),
    _counter("experiment_co2e_grams", "CO2e of an experiment's energy on this node.",
        "grams", OWNER),
    _counter("remainder_cost", "What energy and GPU time of no workload cost, by reason.",
        labels=("reason", "kind", "currency"), quantum=_MONEY),
    _counter("remainder_credit", "What it earned while the price was below zero.",
        labels=("reason", "currency"), quantum=_MONEY),
    _counter("remainder_co2e_grams", "CO2e of energy that belongs to no workload, by reason.",
        "grams", ("reason",)),
    _counter("unpriced_energy_joules",
        "Energy that was charged nothing, since a rate that is configured was not known.",
        "joules", ("kind",)),
    _gauge("budget",
        "What an experiment, or (where that is empty) the whole account, may use in all; of the "
        "unit kwh, or money of a currency.", labels=("account", "experiment", "unit")),
    _gauge("electricity_price_per_kwh", "Price of a kWh in force now, without PUE.",
        labels=("currency", "source")),
    _gauge("carbon_intensity_grams_per_kwh", "Carbon intensity in force now, without PUE.",
        labels=("zone", "source")),
    _gauge("pue_ratio", "PUE in force now: energy of the facility to that of the machines.",
        "ratio", ("source",)),
    _gauge("feed_up", "Whether the last answer of a source of rates was good.",
        labels=("quantity", "source")),
    _gauge("feed_age_seconds", "Time since the last good answer of a source of rates.",
        "seconds", ("quantity", "source")),
    _counter("feed_errors", "Answers of a source of rates that could not be used, by reason.",
        labels=("quantity", "source", "reason")),
)  # fmt: skip

_OF_QUALITY = (
    _counter("gap_seconds",
        "Seconds in which the meter was not read (or not believed), by reason; a counter's energy "
        "of that time is booked once it is read again. From the start, at 0: "
        f"{', '.join(GAP_REASONS)}, of GPUs also {', '.join(GPU_GAP_REASONS)}.",
        "seconds", (*METER, "reason")),
    _counter("foreign_use_seconds",
        "Time for which processes of others than its holder used a held device.",
        "seconds", (*METER, "scheduler", "workload"), Stability.BETA),
    _gauge("counter_power_ratio",
        "A minute's energy by a GPU's counter to that by its power: near 1, but where a load is "
        "in step with the sensor.", "ratio", (*GPU, "scope"), stability=Stability.BETA),
    _counter("overflow", "Series folded into (overflow), by the budget that was full.",
        labels=("source", "reason")),
    _counter("rejected_inputs", "Inputs from outside that were refused, by reason.",
        labels=("source", "reason")),
    _counter("exposition_errors", "Renderings of a metric that failed; it was left out.",
        labels=("family",)),
)  # fmt: skip

_OF_DAEMON = (
    _gauge("sensor_up", "Whether the last look at a sensor gave readings.",
        labels=("sensor", "kind")),
    _counter("sensor_errors",
        "Failed looks at a sensor or a device, by reason. From the start, at 0: "
        + "; ".join(f"{s}: {', '.join(found)}" for s, found in SENSOR_ERROR_REASONS.items()) + ".",
        labels=("sensor", "kind", "reason")),
    _gauge("sensor_last_success_timestamp_seconds", "When a sensor last gave readings (UTC).",
        "seconds", ("sensor", "kind")),
    _gauge("sensor_duration_seconds", "How long the last look at a sensor took.", "seconds",
        ("sensor", "kind")),
    _gauge("tick_duration_seconds", "How long the last tick took.", "seconds"),
    _gauge("build_info", "What is running here.", labels=("version", "revision", "python")),
    Metric("process_cpu_seconds_total", Kind.COUNTER, "CPU time of Joulebook itself.", "seconds"),
    Metric("process_resident_memory_bytes", Kind.GAUGE, "Resident memory of Joulebook.", "bytes"),
    Metric("process_virtual_memory_bytes", Kind.GAUGE, "Virtual memory of Joulebook.", "bytes"),
    Metric("process_open_fds", Kind.GAUGE, "Open file descriptors of Joulebook."),
    Metric("process_start_time_seconds", Kind.GAUGE, "When Joulebook started (UTC).", "seconds"),
)  # fmt: skip

CATALOGUE: tuple[Metric, ...] = (
    *_OF_GPU,
    *_OF_ENERGY,
    *_OF_NODE,
    *_OF_MONEY,
    *_OF_QUALITY,
    *_OF_DAEMON,
)
"""Every metric that is exposed, in the order of exposition."""

BY_NAME = {metric.name: metric for metric in CATALOGUE}
