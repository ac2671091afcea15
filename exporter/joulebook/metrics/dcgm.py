"""The metrics of dcgm-exporter, by its names and labels, for dashboards that need those.

Names, units and help (except for the energy) are those of `default-counters.csv` of dcgm-exporter
4.8, labels those of its template (`Hostname`; with `dcgm-hostname` the newer `hostname` instead):
https://github.com/NVIDIA/dcgm-exporter. `ABSENT` lists what NVML does not tell. None of this is for
accounting.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import msgspec

from joulebook.core.energy.readings import Component
from joulebook.metrics.collector import Family
from joulebook.metrics.metric import Kind, Metric
from joulebook.metrics.snapshot import DeviceStatus, Snapshot
from joulebook.units import UJ_PER_MJ

LABELS = (
    "gpu",
    "UUID",
    "pci_bus_id",
    "device",
    "modelName",
    "Hostname",
    "DCGM_FI_DRIVER_VERSION",
    "hpc_job",
)

_NEWER = tuple("hostname" if name == "Hostname" else name for name in LABELS)

_MIB = 1 << 20
_HZ_PER_MHZ = 1_000_000


class _Gauge(NamedTuple):
    metric: Metric
    key: str
    convert: Callable[[float], float]


def _metric(field: str, help: str, kind: Kind = Kind.GAUGE) -> Metric:
    name = f"DCGM_FI_{field}" if field.startswith("PROF_") else f"DCGM_FI_DEV_{field}"
    return Metric(name, kind, help, labels=LABELS, sparse=True, bare=True)


def _percent(ratio: float) -> float:
    return round(ratio * 100)


def _mhz(hertz: float) -> float:
    return round(hertz / _HZ_PER_MHZ)


def _mib(size_bytes: float) -> float:
    return int(size_bytes) // _MIB


_GAUGES = tuple(
    _Gauge(_metric(field, help), key, convert)
    for field, help, key, convert in (
        ("SM_CLOCK", "SM clock frequency (in MHz).", "sm_clock_hertz", _mhz),
        ("MEM_CLOCK", "Memory clock frequency (in MHz).", "memory_clock_hertz", _mhz),
        ("GPU_TEMP", "GPU temperature (in C).", "temperature_celsius", round),
        ("POWER_USAGE", "Power draw (in W).", "power_watts", float),
        ("GPU_UTIL", "GPU utilization (in %).", "utilization_ratio", _percent),
        ("MEM_COPY_UTIL", "Memory utilization (in %).", "memory_utilization_ratio", _percent),
        ("ENC_UTIL", "Encoder utilization (in %).", "encoder_utilization_ratio", _percent),
        ("DEC_UTIL", "Decoder utilization (in %).", "decoder_utilization_ratio", _percent),
        ("FB_USED", "Framebuffer memory used (in MiB).", "memory_used_bytes", _mib),
        ("FB_RESERVED", "Framebuffer memory reserved (in MiB).", "memory_reserved_bytes", _mib),
        ("MEMORY_TEMP", "Memory temperature (in C).", "memory_temperature_celsius", round),
        (
            "ROW_REMAP_FAILURE",
            "Whether remapping of rows has failed",
            "row_remapping_failed",
            round,
        ),
        (
            "PROF_GR_ENGINE_ACTIVE",
            "Ratio of time the graphics engine is active.",
            "graphics_active_ratio",
            float,
        ),
        (
            "PROF_PIPE_TENSOR_ACTIVE",
            "Ratio of cycles the tensor (HMMA) pipe is active.",
            "tensor_active_ratio",
            float,
        ),
        (
            "PROF_DRAM_ACTIVE",
            "Ratio of cycles the device memory interface is active sending or receiving data.",
            "dram_active_ratio",
            float,
        ),
        (
            "PROF_PCIE_TX_BYTES",
            "The rate of data transmitted over the PCIe bus - including both protocol headers and "
            "data payloads - in bytes per second.",
            "pcie_bytes_transmit",
            float,
        ),
        (
            "PROF_PCIE_RX_BYTES",
            "The rate of data received over the PCIe bus - including both protocol headers and "
            "data payloads - in bytes per second.",
            "pcie_bytes_receive",
            float,
        ),
    )
)

_COUNTS = {
    ("pcie_replay", ""): _metric(
        "PCIE_REPLAY_COUNTER", "Total number of PCIe retries.", Kind.COUNTER
    ),
    ("remapped_rows", "uncorrected"): _metric(
        "UNCORRECTABLE_REMAPPED_ROWS",
        "Number of remapped rows for uncorrectable errors",
        Kind.COUNTER,
    ),
    ("remapped_rows", "corrected"): _metric(
        "CORRECTABLE_REMAPPED_ROWS", "Number of remapped rows for correctable errors", Kind.COUNTER
    ),
}
_XID = _metric("XID_ERRORS", "Value of the last XID error encountered.")
_FB_FREE = _metric("FB_FREE", "Framebuffer memory free (in MiB).")
_ENERGY = _metric(
    "TOTAL_ENERGY_CONSUMPTION",
    "Total energy consumption since the ledger began (in mJ).",
    Kind.COUNTER,
)

METRICS = (
    *(gauge.metric for gauge in _GAUGES), *_COUNTS.values(), _XID, _FB_FREE, _ENERGY
)  # fmt: skip
"""All metrics of this module, in order."""

ABSENT = {
    "DCGM_FI_DEV_NVLINK_BANDWIDTH_TOTAL": "its unit depends on the version of DCGM; "
    "`joulebook_gpu_nvlink_bytes_total` has bytes",
    "DCGM_FI_DEV_VGPU_LICENSE_STATUS": "a host has no license of a virtual GPU",
    "DCGM_FI_PROF_*": "before Hopper: NVML has no GPM there",
}
"""The default counters that are not there, and why."""


def collect_dcgm(view: Snapshot, *, newer_hostname: bool = False) -> list[Family]:
    """Return the compatible families of a snapshot, with label `Hostname`, or newer `hostname`.

    `TOTAL_ENERGY_CONSUMPTION` counts from the start of the ledger, so that, unlike the driver's own
    counter, it does not reset when the driver is reloaded.
    """
    gpus = [
        (_labels(view, status), status)
        for status in view.devices
        if status.meter.component is Component.GPU
    ]
    families = [
        Family(
            metric,
            [
                (labels, convert(status.values[key]))
                for labels, status in gpus
                if key in status.values
            ],
        )
        for metric, key, convert in _GAUGES
    ]
    free = [
        (
            labels,
            _mib(
                status.values["memory_total_bytes"]
                - status.values["memory_used_bytes"]
                - status.values.get("memory_reserved_bytes", 0)
            ),
        )
        for labels, status in gpus
        if {"memory_total_bytes", "memory_used_bytes"} <= status.values.keys()
    ]
    energy: list[tuple[tuple[str, ...], float]] = [
        (labels, view.books.meters[status.meter].exposed_uj // UJ_PER_MJ)
        for labels, status in gpus
        if status.meter in view.books.meters
    ]
    families += [
        Family(
            metric,
            [(labels, status.counts[key]) for labels, status in gpus if key in status.counts],
        )
        for key, metric in _COUNTS.items()
    ]
    xids: list[tuple[tuple[str, ...], float]] = [
        (labels, status.last_xid) for labels, status in gpus if status.last_xid is not None
    ]
    families += [Family(_XID, xids), Family(_FB_FREE, free), Family(_ENERGY, energy)]
    if newer_hostname:
        return [
            family._replace(metric=msgspec.structs.replace(family.metric, labels=_NEWER))
            for family in families
        ]
    return families


def _labels(view: Snapshot, status: DeviceStatus) -> tuple[str, ...]:
    jobs = {
        holder.workload.workload
        for holder in view.holders.get(status.meter, ())
        if holder.workload is not None and holder.workload.scheduler == "slurm"
    }
    # dcgm-exporter has the plain SLURM_JOB_ID, without the requeue suffix.
    job = jobs.pop().partition(".")[0] if len(jobs) == 1 else ""
    minor = status.index if status.minor is None else status.minor
    return (
        str(status.index),
        status.meter.name,
        status.pci,
        f"nvidia{minor}",
        status.model,
        view.node,
        status.driver,
        job,
    )
