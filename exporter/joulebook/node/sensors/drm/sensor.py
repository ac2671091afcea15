"""AMD's and Intel's GPUs, as the kernel's own files show them (/sys/class/drm).

NVIDIA's cards are there too and are left alone: NVML reads them. An integrated GPU without a
meter of its own is no meter: its energy is in the CPU package's.

For a module of several dies (MI250) the kernel reports 0 W and no energy for every die but the
first, whose values are the module's; for the partitions of an MI300 (DPX, QPX, CPX) it reports none
at all. So the module is one meter, that of its first part; each part is an instance of it, with its
own activity.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import msgspec

from joulebook.clock import Clock
from joulebook.core.energy.readings import (
    Component,
    DeviceStatus,
    Failure,
    Instance,
    InstanceUse,
    Meter,
    Reading,
)
from joulebook.errors import SensorError, SensorMissing
from joulebook.log import LogOnce
from joulebook.node.sensors.contract import KERNEL_CARDS, POWER_LOOK_S, Pace, PollResult
from joulebook.node.sensors.drm.amd import AmdCard, AmdPartition, AmdSmi, load
from joulebook.node.sensors.drm.card import (
    AMD,
    REMEDY,
    CardNumbers,
    MeteredCard,
    partitions,
    places,
)
from joulebook.node.sensors.drm.clients import Clients
from joulebook.node.sensors.drm.intel import IntelCard
from joulebook.node.sensors.sysfs import text_or

log = logging.getLogger(__name__)

LOOK_S = 60.0
"""An Intel card's register may wrap within four minutes."""


def metered(root: Path) -> list[CardNumbers]:
    """Return the cards below `root` that have a meter of their own."""
    found = []
    for place in places(root):
        names = (
            ("energy1_input", "energy2_input")
            if place.vendor != AMD
            else ("power1_average", "power1_input")
        )
        metrics = place.vendor == AMD and (place.device / "gpu_metrics").exists()
        if metrics or (place.hwmon and any((place.hwmon / name).exists() for name in names)):
            found.append(place)
    return found


class DrmSensor:
    """All metered cards of AMD and Intel below `root`; `proc` is where their users are seen."""

    name = "drm"
    kind = "counter"
    components = frozenset({Component.GPU})

    def __init__(self, clock: Clock, root: Path, *, proc: Path = Path("/proc")) -> None:
        self._clock = clock
        self._root = root
        self._clients = Clients(proc, clock)
        self._cards: list[tuple[CardNumbers, MeteredCard]] = []
        self._module_of: dict[Meter, Meter] | None = None
        """The module of each die; `None`: not every card was read yet."""
        self._modes: list[str] = []
        self._smi: AmdSmi | None = None
        self._once = LogOnce(log)

    @property
    def pace(self) -> Pace:
        """Cards that may have power only are polled often, others before a register wraps."""
        return Pace(most_s=POWER_LOOK_S if any(p.vendor == AMD for p, _ in self._cards) else LOOK_S)

    def owns(self, meter: Meter) -> bool:
        """GPUs of AMD and Intel."""
        return meter.component is Component.GPU and meter.name.startswith(KERNEL_CARDS)

    def open(self) -> None:
        """Find the cards. Raises `SensorMissing`."""
        found = metered(self._root)
        if not found:
            raise SensorMissing(f"no metered card below {self._root}", reason="missing")
        if self._smi is None and any(place.vendor == AMD for place in found):
            self._smi = load()
        self._cards = [pair for place in found for pair in self._with_partitions(place)]
        self._clients.files = {
            file.removeprefix("dri/"): place.pci
            for place, card in self._cards
            if isinstance(card, AmdPartition)
            for file in place.files
        }
        self._modes = self._read_modes()
        self._module_of = None

    def close(self) -> None:
        """Nothing is held open."""

    def poll(self, *, processes: bool) -> PollResult:
        """Read every card once."""
        if processes and self._modes != self._read_modes():
            log.info("sensor drm: the partitions of a card have changed")
            self.open()
        readings: list[Reading] = []
        failures: list[Failure] = []
        statuses: list[DeviceStatus] = []
        users = self._clients.scan() if processes else None
        for index, (place, card) in enumerate(self._cards):
            t_ns = self._clock.now_ns()
            try:
                reading = card.read()
            except SensorError as error:
                name, why = card.meter.name, error.reason
                self._once.failed(name, "%s: %s. %s", name, error, error.remedy, reason=why)
                failures.append(Failure(card.meter, t_ns, error.reason))
            else:
                self._once.recovered(card.meter.name, "%s is read again", card.meter.name)
                readings.append(self._clients.reported(reading, place.pci, users))
            status = card.status(index, t_ns)
            statuses.append(self._clients.memory(status, place.pci))
        if self._module_of is None and not failures:
            products = [text_or(place.device / "device") for place, _ in self._cards]
            self._module_of = dies(list(zip(products, readings, strict=True)))
        elif self._module_of is None:
            # One without any power may be the die of a card that failed.
            readings = [each for each in readings if each.power_mw or each.energy_uj is not None]
        module_of = self._module_of or {}
        return PollResult(
            tuple(joined(readings, module_of)),
            tuple(failure for failure in failures if failure.meter not in _inner(module_of)),
            tuple(reported(statuses, module_of)),
        )

    def poll_energy(self, meters: Iterable[Meter]) -> Sequence[Reading]:
        """Return the counters of `meters` alone."""
        wanted, readings = set(meters), []
        for _, card in self._cards:
            if card.meter in wanted:
                try:
                    reading = card.read()
                except SensorError:
                    continue
                if reading.energy_uj is not None:
                    readings.append(reading)
        return readings

    def _read_modes(self) -> list[str]:
        """Return the partition modes of the cards, which may change while they are open."""
        return [
            text_or(place.device / "current_compute_partition")
            for place, card in self._cards
            if isinstance(card, AmdCard)  # Its partitions have the file of their card.
        ]

    def _with_partitions(self, place: CardNumbers) -> list[tuple[CardNumbers, MeteredCard]]:
        if place.vendor != AMD:
            return [(place, IntelCard(place, self._clock))]
        card = AmdCard(place, self._clock, self._smi)
        parts = enumerate(partitions(self._root, place), start=1)
        return [(place, card), *((part, AmdPartition(part, card, n)) for n, part in parts)]


def _inner(module_of: Mapping[Meter, Meter]) -> set[Meter]:
    """Return the dies without their own energy."""
    return {die for die, module in module_of.items() if die != module}


__all__ = ["REMEDY", "DrmSensor", "metered"]


PPM_PER_PERCENT = 10_000


def dies(readings: Sequence[tuple[str, Reading]]) -> dict[Meter, Meter]:
    """Return the module of each die, by its meter; `readings` are of all cards, with their product.

    Cards without any power of their own belong to the last one before them that has some.
    """
    found: dict[Meter, Meter] = {}
    first: tuple[str, Meter] | None = None
    for product, reading in readings:
        if reading.power_mw or reading.energy_uj is not None:
            first = (product, reading.meter)
        elif first is not None and reading.power_mw == 0 and first[0] == product:
            found[reading.meter] = first[1]
            found[first[1]] = first[1]
    return found


def joined(readings: Sequence[Reading], module_of: Mapping[Meter, Meter]) -> list[Reading]:
    """Return the readings, those of dies as one of their module."""
    parts: dict[Meter, list[Reading]] = {}
    for reading in readings:
        parts.setdefault(module_of.get(reading.meter, reading.meter), []).append(reading)
    return [
        _module(meter, found) if meter in module_of else found[0]
        for meter, found in parts.items()
        if found[0].meter == meter
    ]


def _module(meter: Meter, found: Sequence[Reading]) -> Reading:
    percents = [reading.utilization_pct for reading in found]
    known = [percent for percent in percents if percent is not None]
    lists = [reading.processes for reading in found if reading.processes is not None]
    return msgspec.structs.replace(
        found[0],
        busy=any(known) if len(known) == len(found) or any(known) else None,
        utilization_pct=max(known, default=None),
        processes=tuple(
            msgspec.structs.replace(process, instance=reading.meter.name)
            for reading in found
            for process in reading.processes or ()
        )
        if lists
        else None,
        instances=tuple(
            InstanceUse(
                reading.meter.name,
                1,
                len(found),
                None if percent is None else percent * PPM_PER_PERCENT,
            )
            for reading, percent in zip(found, percents, strict=True)
        ),
    )


def reported(
    statuses: Sequence[DeviceStatus], module_of: Mapping[Meter, Meter]
) -> list[DeviceStatus]:
    """Return the statuses; each die with its module, and without the module's power."""
    return [
        _die(status, [m.name for m, of in module_of.items() if of == module_of[status.meter]],
             module_of[status.meter])
        if status.meter in module_of
        else status
        for status in statuses
    ]  # fmt: skip


def _die(status: DeviceStatus, names: Sequence[str], module: Meter) -> DeviceStatus:
    is_first = status.meter == module
    values = {k: v for k, v in status.values.items() if is_first or k != "power_watts"}
    parts = [Instance(name, i, None, 1, "die") for i, name in enumerate(sorted(names))]
    return msgspec.structs.replace(
        status,
        values=values,
        module=module,
        slices=len(names),
        instances=tuple(parts) if is_first else (),
    )
