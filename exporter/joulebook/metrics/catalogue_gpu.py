"""The metrics of GPUs: a part of the catalogue."""

from __future__ import annotations

from joulebook.metrics.metric import GPU, WORKLOAD, Stability, counter, gauge

DEVICE_GAUGES = {
    metric.name.removeprefix("joulebook_gpu_"): metric
    for metric in (
        gauge("gpu_power_watts", "Current power draw of the GPU.", "watts", GPU),
        gauge("gpu_power_limit_watts", "Current power limit of the GPU.", "watts", GPU),
        gauge(
            "gpu_utilization_ratio",
            "Fraction of time for which a kernel was running.",
            "ratio",
            GPU,
        ),
        gauge(
            "gpu_memory_utilization_ratio",
            "Fraction of time for which memory was being accessed.",
            "ratio",
            GPU,
        ),
        gauge("gpu_encoder_utilization_ratio", "Utilization of the video encoder.", "ratio", GPU),
        gauge("gpu_decoder_utilization_ratio", "Utilization of the video decoder.", "ratio", GPU),
        gauge("gpu_memory_used_bytes", "GPU memory in use.", "bytes", GPU),
        gauge("gpu_memory_total_bytes", "Total GPU memory.", "bytes", GPU),
        gauge("gpu_temperature_celsius", "Temperature of the GPU.", "celsius", GPU),
        gauge("gpu_sm_clock_hertz", "SM clock frequency.", "hertz", GPU),
        gauge("gpu_memory_clock_hertz", "Memory clock frequency.", "hertz", GPU),
        *(
            gauge(f"gpu_{name}", help, unit, GPU, stability=Stability.BETA)
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
        counter("gpu_xid_errors",
            "Xid errors that the driver reported since the daemon began, by number; the series "
            "appears with the first. A fourth number and more of a GPU count as `other`.",
            labels=(*GPU, "xid"), stability=Stability.BETA),
        counter("gpu_ecc_errors", "Memory errors over the life of the GPU, by kind.",
            labels=(*GPU, "kind"), stability=Stability.BETA),
        gauge("gpu_remapped_rows", "Rows of memory that were remapped, by kind of error.",
            labels=(*GPU, "kind"), stability=Stability.BETA),
        gauge("gpu_retired_pages", "Pages of memory that were retired, by kind of error.",
            labels=(*GPU, "kind"), stability=Stability.BETA),
        counter("gpu_nvlink_errors", "Errors of all NVLinks, by kind.",
            labels=(*GPU, "kind"), stability=Stability.BETA),
        counter("gpu_pcie_replay", "Packets that were sent again over PCIe.",
            labels=GPU, stability=Stability.BETA),
        counter("gpu_pcie_bytes", "Bytes moved over PCIe since the daemon began, by direction.",
            "bytes", (*GPU, "direction"), stability=Stability.BETA),
        counter("gpu_nvlink_bytes",
            "Bytes moved over NVLink since the daemon began, by direction.",
            "bytes", (*GPU, "direction"), stability=Stability.BETA),
    )
}  # fmt: skip
"""The counts of a device's health, by their name in `DeviceStatus.counts`."""

OF_GPU = (
    gauge("gpu_info", "Information about a GPU of this node.", labels=(
        *GPU, "vendor", "model", "driver", "pci", "mig")),
    gauge("gpu_held_ratio",
        "Share of the GPU that the workload holds, or uses if nobody holds it.", "ratio",
        (*GPU, *WORKLOAD), adds=True),
    gauge("gpu_peak_flops",
        "Peak dense FLOP/s of the GPU model by precision, from its data sheet (not measured).",
        labels=(*GPU, "precision", "source")),
    *DEVICE_GAUGES.values(),
    counter("gpu_throttle_seconds", "Time for which the GPU was throttled, by reason.",
        "seconds", (*GPU, "reason")),
    *DEVICE_COUNTERS.values(),
)  # fmt: skip
"""All of them, in the order of exposition."""
