"""Who is on a GPU, and for how long each kept it busy: process lists and samples of use together.

Lists are the slow call of a driver, samples are one call that shows everybody at work. So a list
stands for a while, as long as nothing shows that somebody has come or gone.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import NamedTuple

import msgspec

from joulebook.clock import Clock
from joulebook.core.energy.readings import Instance, ProcessUse
from joulebook.errors import SensorError
from joulebook.node.sensors.nvidia.processes import ProcessOnCard, ProcessReader, SmTimes
from joulebook.node.workloads.host.procfs import ProcessStarts
from joulebook.units import NS_PER_MS, NS_PER_US

LISTS_NS = 1800 * NS_PER_MS
"""How long a list stands: one that does no work is found at every other poll."""


class _Listed(NamedTuple):
    """Who was on the GPU at `t_ns`: the processes that lived, each as it was on each instance."""

    t_ns: int
    running: Collection[int]
    uses: tuple[ProcessUse, ...]


_NOT_LISTED = _Listed(-LISTS_NS, (), ())


class ProcessUses:
    """The processes of one GPU."""

    def __init__(self, reader: ProcessReader, starts: ProcessStarts, clock: Clock) -> None:
        self._reader = reader
        self._starts = starts
        self._clock = clock
        self._listed = _NOT_LISTED
        self._sm_times = SmTimes(self._now_us())

    @property
    def refused(self) -> int:
        """Samples that cannot be true, since the beginning."""
        return self._sm_times.refused

    def go_on_from(self, earlier: ProcessUses) -> None:
        """Take over what was known of the same GPU in the session before."""
        self._sm_times = earlier._sm_times

    def forget(self) -> None:
        """Take a list at the next poll: instances have changed."""
        self._listed = _NOT_LISTED

    def poll(
        self, t_ns: int, gpu_pct: int | None, instances: Iterable[Instance]
    ) -> tuple[ProcessUse, ...] | None:
        """Return the processes on the GPU; `None` if the query fails or is unsupported."""
        known = self._listed
        living = self._starts.living(known.running)
        is_recent = t_ns - known.t_ns < LISTS_NS and len(living) == len(known.running)
        listed = known if is_recent else self._list(t_ns, instances)
        if listed is None:
            self.forget()
            return None
        times, otherwise = self._sm_times_by_pid(listed.running, gpu_pct)
        if is_recent and (otherwise is None or any(map(times.get, times.keys() - living))):
            listed = self._list(t_ns, instances) or known
        self._listed = listed
        # A process that has ended since may still have used the GPU before.
        gone = [
            self._use(ProcessOnCard(pid), None, "", ended=True)
            for pid, sm_time_ns in times.items()
            if sm_time_ns and pid not in listed.running and self._starts.started_ns(pid)
        ]
        return tuple(_used(use, times.get(use.pid, otherwise)) for use in (*listed.uses, *gone))

    def _list(self, t_ns: int, instances: Iterable[Instance]) -> _Listed | None:
        """Ask the driver who is there; `None` if it does not say."""
        try:
            listed = self._reader.listed()
        except SensorError:
            return None
        if listed is None:
            return None
        running = self._starts.living({place.pid for place in listed})
        names = {(each.gi, each.ci): each.uuid for each in instances}
        uses = (
            self._use(place, memory, names.get((place.gi, place.ci), ""))
            for place, memory in listed.items()
            if place.pid in running
        )
        return _Listed(t_ns, running, tuple(uses))

    def _use(
        self, place: ProcessOnCard, memory: int | None, instance: str, *, ended: bool = False
    ) -> ProcessUse:
        began_ns = self._starts.started_ns(place.pid)
        return ProcessUse(
            place.pid,
            began_ns and began_ns - self._clock.boottime_ns(0),
            None,
            memory,
            ended=ended,
            instance=instance,
            graphics=place.pid in self._reader.graphics,
        )

    def _sm_times_by_pid(
        self, running: Collection[int], gpu_pct: int | None
    ) -> tuple[dict[int, int | None], int | None]:
        """SM time by pid, and that of a process which has none in the driver's answer."""
        now_us = self._now_us()
        try:
            samples = self._reader.samples(self._sm_times.after_us(running, now_us))
        except SensorError:
            samples = None
        if samples is None:
            return {}, None
        if not samples and gpu_pct:
            return {}, None  # at work, but the driver has not taken its next sample yet
        times = self._sm_times.take(samples, running, now_us)
        # Zombies are reported of with percentages of anything (nvtop issue 110), and do no work.
        for pid, sm_time_ns in times.items():
            if sm_time_ns is None and not self._starts.lives(pid):
                times[pid] = 0
        return times, 0

    def _now_us(self) -> int:
        return (self._clock.now_ns() + self._clock.utc_offset_ns()) // NS_PER_US


def _used(use: ProcessUse, sm_time_ns: int | None) -> ProcessUse:
    if sm_time_ns is None:
        return use
    return msgspec.structs.replace(use, sm_time_ns=sm_time_ns)
