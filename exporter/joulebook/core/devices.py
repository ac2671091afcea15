"""What is known of a device beside its energy: names, numbers, telemetry; none of it is booked."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from joulebook.core.readings import Meter


class DeviceStatus(msgspec.Struct, frozen=True, gc=False):
    """The live telemetry of one device, for gauges and the page; nothing of it is booked.

    `values` maps the metric names of the catalogue, without prefix `joulebook_gpu_`
    (`power_watts`, `power_limit_watts`, `utilization_ratio`, `memory_used_bytes`,
    `temperature_celsius`, `sm_clock_hertz`, ...), to their value in base units; what the device
    cannot say is absent, never 0. `throttle_ns` maps a reason to cumulative nanoseconds.
    `parts` lists MIG instances and their slices.
    """

    meter: Meter
    index: int
    t_ns: int
    vendor: str = ""
    model: str = ""
    driver: str = ""
    pci: str = ""
    minor: int | None = None
    mig: bool = False
    values: Mapping[str, float] = {}
    throttle_ns: Mapping[str, int] = {}
