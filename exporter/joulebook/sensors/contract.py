"""What a sensor is: the one place where hardware is read.

A sensor is a factory function in `wiring.py`, and an object with the four methods of `Sensor`.
It is only ever called from one worker thread, which may hang with it; nothing else waits for it
without a time-out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

import msgspec

from joulebook.core.readings import Failure, Meter, Reading


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


class Look(msgspec.Struct, frozen=True, gc=False):
    """All that one look at a sensor's devices gave."""

    readings: tuple[Reading, ...] = ()
    failures: tuple[Failure, ...] = ()
    statuses: tuple[DeviceStatus, ...] = ()


class Sensor(Protocol):
    """A source of readings. Raises only `joulebook.errors.SensorError` and its children."""

    name: str
    """The value of the label `sensor`: `nvml`, `rapl`, `replay`, ..."""

    def open(self) -> None:
        """Take hold of the hardware; called again after `close` or a failed `open`."""

    def look(self, *, processes: bool) -> Look:
        """Read every device once; `processes` asks for process lists too (the slow call)."""

    def glance(self, meters: Iterable[Meter]) -> Sequence[Reading]:
        """Read only the energy counters of `meters`, fast: called in a burst at a boundary.

        A meter that fails is left out: the next `look` says why.
        """

    def close(self) -> None:
        """Let go of the hardware (the driver can then be unloaded)."""
