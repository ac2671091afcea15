"""NVIDIA GPUs: one NVML session, one meter for each GPU, keyed by its UUID.

The session is opened once, and again only after the driver said UNINITIALIZED (it was reloaded)
or GPU_IS_LOST, ever less often: every initialisation costs file descriptors (all-smi issue 118).
A GPU that fails gives a `Failure`, and the others go on.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from joulebook.clock import Clock
from joulebook.core.energy.devices import DeviceStatus
from joulebook.core.energy.readings import Failure, Meter, Reading
from joulebook.errors import SensorError
from joulebook.node.sensors.contract import SUSPENDED, PollResult
from joulebook.node.sensors.nvidia.api import NvmlDevice, Session
from joulebook.node.sensors.nvidia.errors import GPU_IS_LOST, UNINITIALIZED, error, meaning
from joulebook.node.sensors.nvidia.gpu import OpenGpu
from joulebook.node.sensors.nvidia.processes import ProcessStarts
from joulebook.units import NS_PER_S

log = logging.getLogger(__name__)

_UNINITIALIZED = meaning(UNINITIALIZED).reason
_LOST = meaning(GPU_IS_LOST).reason
_GONE = meaning(28).reason

REOPEN_FIRST_NS = 10 * NS_PER_S
REOPEN_MOST_NS = 3_600 * NS_PER_S


class NvmlSensor:
    """All NVIDIA GPUs of this node.

    `sysfs` and `proc`: where those file systems are mounted (`None`: no /proc here has the pids
    that the driver tells).
    """

    name = "nvml"

    def __init__(
        self, clock: Clock, *, sysfs: Path = Path("/sys"), proc: Path | None = Path("/proc")
    ) -> None:
        self._clock = clock
        self._sysfs = sysfs
        self._starts = ProcessStarts(proc)
        self._session: Session | None = None
        self._cards: dict[Meter, OpenGpu] = {}
        self._absent: dict[Meter, str] = {}  # known, but not enumerated: the reason
        self._some_lost = False
        self._reopen_at_ns, self._reopen_ns = 0, REOPEN_FIRST_NS

    def open(self) -> None:
        """Initialise NVML and enumerate the GPUs. Raises `SensorError`."""
        self.close()
        session = Session()
        try:
            self._enumerate(session)
        except SensorError:
            session.close()
            raise
        self._session = session

    def close(self) -> None:
        """Let go of the driver; what is known of the GPUs is kept for the next `open`."""
        session, self._session = self._session, None
        if session is not None:
            for card in self._cards.values():
                card.close()
            session.close()

    def look(self, *, processes: bool) -> PollResult:
        """Read every GPU once. Raises `SensorError` if the driver as a whole is gone."""
        if self._session is None:
            raise error(UNINITIALIZED, "look")
        if self._some_lost and self._may_reopen():
            self._reopen("a GPU was lost")
        look = self._look(processes=processes)
        if any(failure.reason == _UNINITIALIZED for failure in look.failures):
            if not self._may_reopen():
                raise error(UNINITIALIZED, "look")
            self._reopen("the driver was reloaded")
            look = self._look(processes=processes)
        lost = any(failure.reason == _LOST for failure in look.failures)
        if not lost and self._clock.now_ns() >= self._reopen_at_ns:
            self._reopen_ns = REOPEN_FIRST_NS
        self._some_lost = lost
        return look

    def poll_energy(self, meters: Iterable[Meter]) -> Sequence[Reading]:
        """The energy counters alone; GPUs that have none, sleep or fail are left out."""
        readings: list[Reading] = []
        if self._session is None:
            return readings
        for meter in meters:
            card = self._cards.get(meter)
            if card is None or meter in self._absent or not card.has_counter or card.asleep():
                continue
            try:
                readings.append(card.poll_energy())
            except SensorError:
                continue
        return readings

    def _look(self, *, processes: bool) -> PollResult:
        readings: list[Reading] = []
        statuses: list[DeviceStatus] = []
        now_ns = self._clock.now_ns()
        failures = [Failure(meter, now_ns, reason) for meter, reason in self._absent.items()]
        for meter, card in self._cards.items():
            if meter in self._absent:
                continue
            reason = SUSPENDED
            if not card.asleep():
                try:
                    reading, status = card.look(processes=processes)
                except SensorError as e:
                    reason = e.reason
                else:
                    readings.append(reading)
                    statuses.append(status)
                    continue
            now_ns = self._clock.now_ns()
            failures.append(Failure(meter, now_ns, reason))
            statuses.append(card.status(now_ns, {}, {}))
        if processes:
            self._starts.keep({p.pid for reading in readings for p in reading.processes or ()})
        return PollResult(tuple(readings), tuple(failures), tuple(statuses), self._refused())

    def _refused(self) -> dict[str, int]:
        refused: Counter[str] = Counter()
        for card in self._cards.values():
            refused.update(card.refused())
        return {reason: count for reason, count in refused.items() if count}

    def _may_reopen(self) -> bool:
        now_ns = self._clock.now_ns()
        if now_ns < self._reopen_at_ns:
            return False
        self._reopen_at_ns = now_ns + self._reopen_ns
        self._reopen_ns = min(2 * self._reopen_ns, REOPEN_MOST_NS)
        return True

    def _reopen(self, why: str) -> None:
        log.warning("NVML is initialised again: %s", why)
        self.open()

    def _enumerate(self, session: Session) -> None:
        """Open every GPU that answers; `_cards` keeps those of before that do not."""
        found: dict[Meter, OpenGpu] = {}
        silent = ""
        for index in range(session.device_count()):
            try:
                device = NvmlDevice(session, index)
            except SensorError as e:
                log.error("GPU %d: %s. %s", index, e, e.remedy)
                silent = e.reason
                continue
            earlier = next((c for m, c in self._cards.items() if m.name == device.uuid), None)
            card = OpenGpu(session, device, self._clock, self._starts, self._sysfs, earlier)
            found[card.meter] = card
        self._absent = {meter: silent or _GONE for meter in self._cards if meter not in found}
        self._some_lost = silent == _LOST
        self._cards = {**self._cards, **found}
        log.info("NVML: %d GPUs, driver %s", len(found), session.driver)
