"""The metrics of dcgm-exporter, by its names and labels, for dashboards that need those.

Names, units and help (except for the energy) are from its `default-counters.csv`, labels from its
template: https://github.com/NVIDIA/dcgm-exporter. None of this is for accounting.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from joulebook.core.energy.readings import Component
from joulebook.metrics.catalogue import Kind, Metric
from joulebook.metrics.collector import Family
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

_MIB = 1 << 20
_HZ_PER_MHZ = 1_000_000


class _Gauge(NamedTuple):
    metric: Metric
    key: str
    convert: Callable[[float], float]


def _metric(field: str, help: str, kind: Kind = Kind.GAUGE) -> Metric:
    name = f"DCGM_FI_DEV_{field}"
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
    )
)
_FB_FREE = _metric("FB_FREE", "Framebuffer memory free (in MiB).")
_ENERGY = _metric(
    "TOTAL_ENERGY_CONSUMPTION",
    "Total energy consumption since the ledger began (in mJ).",
    Kind.COUNTER,
)

METRICS = (*(gauge.metric for gauge in _GAUGES), _FB_FREE, _ENERGY)
"""All metrics of this module, in order."""


def collect_dcgm(view: Snapshot) -> list[Family]:
    """Return the compatible families of a snapshot.

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
        (labels, _mib(status.values["memory_total_bytes"] - status.values["memory_used_bytes"]))
        for labels, status in gpus
        if {"memory_total_bytes", "memory_used_bytes"} <= status.values.keys()
    ]
    energy: list[tuple[tuple[str, ...], float]] = [
        (labels, view.books.meters[status.meter].read_uj // UJ_PER_MJ)
        for labels, status in gpus
        if status.meter in view.books.meters
    ]
    return [*families, Family(_FB_FREE, free), Family(_ENERGY, energy)]


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
