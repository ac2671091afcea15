"""A model in the place of meters, where nothing can be measured (virtual machines); off by default.

    CPU     idle + (TDP - idle) x utilization        from the site's own constants
    DRAM    installed memory x power per GiB

Every constant comes from the configuration, with the place it was taken from: none is built in.
What comes out is method `modelled`, on meters that are named `model-...`, and stays marked.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from joulebook.clock import Clock
from joulebook.core.energy.readings import Component, Meter, Reading
from joulebook.errors import SensorRetry
from joulebook.node.sensors.contract import POWER_LOOK_S, Pace, PollResult
from joulebook.node.workloads.host.procfs import cpu_times, memory
from joulebook.units import MW_PER_W

CPU = Meter(Component.CPU, "model-cpu")
DRAM = Meter(Component.DRAM, "model-dram")

_GIB = 1 << 30


class ModelSensor:
    """What the CPU and memory of this machine would draw (`watts`: of all its logical CPUs)."""

    name = "model"
    kind = "modelled"
    components = frozenset({Component.CPU, Component.DRAM})

    def __init__(
        self,
        clock: Clock,
        *,
        cpu_idle_w: float,
        cpu_tdp_w: float,
        dram_w_per_gib: float,
        proc: Path = Path("/proc"),
    ) -> None:
        self._clock = clock
        self._proc = proc
        self._cpu_w = (cpu_idle_w, cpu_tdp_w)
        self._dram_w_per_gib = dram_w_per_gib
        self._before: tuple[int, int] | None = None

    @property
    def pace(self) -> Pace:
        """Like a meter that knows power only."""
        return Pace(most_s=POWER_LOOK_S)

    def owns(self, meter: Meter) -> bool:
        """CPU and DRAM as a whole."""
        return meter in {CPU, DRAM}

    def open(self) -> None:
        """Nothing is held open."""
        self._before = None

    def close(self) -> None:
        """Nothing is held open."""

    def poll(self, *, processes: bool) -> PollResult:
        """Estimate the power since the last poll. Raises `SensorRetry`."""
        try:
            times = cpu_times(self._proc)
            installed_bytes = memory(self._proc).installed_bytes
        except (OSError, ValueError) as error:
            raise SensorRetry(
                f"{self._proc} cannot be read: {error}", reason="unreadable"
            ) from None
        t_ns = self._clock.now_ns()
        readings = []
        if self._dram_w_per_gib:
            watts = self._dram_w_per_gib * installed_bytes / _GIB
            readings.append(self._reading(DRAM, t_ns, watts))
        before, self._before = self._before, (t_ns, times.busy_ns)
        if before is not None and t_ns > before[0]:
            used = (times.busy_ns - before[1]) / (t_ns - before[0]) / max(times.cores, 1)
            idle_w, tdp_w = self._cpu_w
            watts = idle_w + (tdp_w - idle_w) * min(max(used, 0.0), 1.0)
            readings.append(self._reading(CPU, t_ns, watts))
        return PollResult(tuple(readings))

    def poll_energy(self, meters: Iterable[Meter]) -> Sequence[Reading]:
        """Return nothing: a model has no steps."""
        return ()

    def _reading(self, meter: Meter, t_ns: int, watts: float) -> Reading:
        return Reading(meter, t_ns, power_mw=round(watts * MW_PER_W), modelled=True)
