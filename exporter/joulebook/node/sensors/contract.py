"""What a sensor is: the one place where hardware is read.

A sensor is a factory function in `node/assembly/sensors.py`, and an object with the four methods
of `Sensor`. It is only ever called from one worker thread, which may hang with it; nothing else
waits for it without a time-out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple, Protocol, runtime_checkable

import msgspec

from joulebook.core.energy.readings import Component, DeviceStatus, Failure, Meter, Reading


class PollResult(msgspec.Struct, frozen=True, gc=False):
    """The result of one poll of a sensor's devices."""

    readings: tuple[Reading, ...] = ()
    failures: tuple[Failure, ...] = ()
    statuses: tuple[DeviceStatus, ...] = ()
    rejected: Mapping[str, int] = {}
    """Implausible values by reason, since the sensor was created."""
    within: frozenset[Meter] = frozenset()
    """Meters of other sensors whose energy is in that of meters here, nobody knows in which: they
    are not booked, or it would be twice."""


KERNEL_CARDS = ("AMD-", "INTEL-")
"""How the names of GPUs begin that the kernel's own files show."""

SUSPENDED = "suspended"
"""The reason of a `Failure` of a sleeping device: a query would wake it up."""

POWER_LOOK_S = 2.5
"""How often a meter with power only is polled, however rarely the daemon ticks."""


class Pace(NamedTuple):
    """How often a sensor must and may be polled, in seconds.

    `most_s` is the longest time between two polls, whatever the tick is (a counter wraps, power
    must be integrated); `None`: any. `least_s` is the shortest: such a sensor is slow, and no tick
    waits for it.
    """

    most_s: float | None = None
    least_s: float = 0.0


@runtime_checkable
class Paced(Protocol):
    """A sensor that is not simply polled once per tick.

    It reads files or a BMC and holds no driver, so a release does not affect it.
    """

    @property
    def pace(self) -> Pace:
        """Called after `open`, and again after each poll."""


class Sensor(Protocol):
    """A source of readings. Raises only `joulebook.errors.SensorError` and its children."""

    name: str
    """The value of the label `sensor`: `nvml`, `rapl`, `replay`, ..."""
    kind: str
    """How it measures (label `kind`): `counter`, `power`, `modelled`, `replay`."""
    components: frozenset[Component]
    """What its meters may be part of."""

    def owns(self, meter: Meter) -> bool:
        """Return whether a meter on record is read by this sensor, also when it is silent."""

    def open(self) -> None:
        """Take hold of the hardware; called again after `close` or a failed `open`."""

    def poll(self, *, processes: bool) -> PollResult:
        """Read every device once; `processes`: with process lists (the slow call)."""

    def poll_energy(self, meters: Iterable[Meter]) -> Sequence[Reading]:
        """Read only the energy counters of `meters`, fast: called in a burst at a boundary.

        A failing meter is left out; the next poll reports why.
        """

    def close(self) -> None:
        """Close the hardware, so that the driver can be unloaded."""
