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
    """All that one look at a sensor's devices gave."""

    readings: tuple[Reading, ...] = ()
    failures: tuple[Failure, ...] = ()
    statuses: tuple[DeviceStatus, ...] = ()
    rejected: Mapping[str, int] = {}
    """Figures that were not believed, by reason, since the sensor was made."""


KERNEL_CARDS = ("AMD-", "INTEL-")
"""How the names of GPUs begin that the kernel's own files show."""

SUSPENDED = "suspended"
"""The reason of a `Failure` of a device that sleeps: asking it would wake it up."""

POWER_LOOK_S = 2.5
"""A meter that knows power only is looked at so often, however seldom the daemon ticks."""


class Pace(NamedTuple):
    """How often a sensor must and may be looked at, in seconds.

    `most_s` is the longest time between two looks, whatever the tick is (a counter wraps, power
    must be integrated); `None`: any. `least_s` is the shortest: such a sensor is slow, and no tick
    waits for it.
    """

    most_s: float | None = None
    least_s: float = 0.0


@runtime_checkable
class Paced(Protocol):
    """A sensor that is not just looked at once in each tick.

    It reads files or asks a BMC and holds no driver: a release passes it by.
    """

    @property
    def pace(self) -> Pace:
        """Asked after `open`, and again after each look."""


class Sensor(Protocol):
    """A source of readings. Raises only `joulebook.errors.SensorError` and its children."""

    name: str
    """The value of the label `sensor`: `nvml`, `rapl`, `replay`, ..."""
    kind: str
    """How it measures (label `kind`): `counter`, `power`, `modelled`, `replay`."""
    components: frozenset[Component]
    """What its meters may be part of."""

    def owns(self, meter: Meter) -> bool:
        """Whether a meter on record is read by this sensor, also when it is silent."""

    def open(self) -> None:
        """Take hold of the hardware; called again after `close` or a failed `open`."""

    def look(self, *, processes: bool) -> PollResult:
        """Read every device once; `processes` asks for process lists too (the slow call)."""

    def poll_energy(self, meters: Iterable[Meter]) -> Sequence[Reading]:
        """Read only the energy counters of `meters`, fast: called in a burst at a boundary.

        A meter that fails is left out: the next `look` says why.
        """

    def close(self) -> None:
        """Let go of the hardware (the driver can then be unloaded)."""
