"""CPU packages and DRAM: the energy counters of RAPL, as powercap shows them (Intel and AMD).

    intel-rapl:0        package-0      booked, component `cpu`
    intel-rapl:0:0      core, uncore   parts of the package: never booked
    intel-rapl:0:1      dram           beside the package, not in it: booked, component `dram`
    intel-rapl:1        psys           the whole platform, packages included: never booked
    intel-rapl-mmio:0   package-0      the same package read another way: counted once

Zones of several dies may mirror one counter, that of their socket. So counters are compared, not
names: one that shows, read between two readings of another, a value between them is the same one.

AMD's packages come through the same driver under the same names. The files are described in
Documentation/power/powercap of the kernel.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Iterable, Sequence
from itertools import combinations
from pathlib import Path

import msgspec

from joulebook.clock import Clock
from joulebook.core.energy.readings import Component, Failure, Meter, Reading
from joulebook.errors import SensorError, SensorMissing
from joulebook.log import LogOnce
from joulebook.node.sensors.contract import Pace, PollResult
from joulebook.node.sensors.sysfs import int_or_none, read_int, text_or
from joulebook.units import MW_PER_W, NS_PER_S, PJ_PER_UJ, UW_PER_MW

log = logging.getLogger(__name__)

_ZONE = re.compile(r"(?P<type>[a-z][a-z0-9-]*):(?P<package>\d+)(?::(?P<part>\d+))?")
_PACKAGE = re.compile(r"package-\d+(?:-die-\d+)?")
_ORDER = ("intel-rapl", "amd-rapl", "intel-rapl-tpmi", "intel-rapl-mmio")
"""Of two zones with one name the first of these counts."""

DEFAULT_MAX_MW = 1_000 * MW_PER_W
"""The bound for a package that does not report its own: none of 2026 consumes 1 kW."""

HEADROOM = 2
"""A package may consume so many times its longest-lasting limit for a moment."""

LOOKS_PER_WRAP = 4

STEP_S = 0.02
"""In so much time every counter moves: they do each millisecond, and no CPU draws nothing."""

REMEDY = (
    "Since Linux 5.10 only root may read RAPL: run the daemon as root, or give it "
    "CAP_DAC_READ_SEARCH; in a container mount the host's /sys/class/powercap and "
    "/sys/devices/virtual/powercap, which runtimes mask, and set sensors.rapl.root"
)


class Zone(msgspec.Struct, frozen=True):
    """One counter that is booked. `wrap_uj` is where it begins again (`None`: not reported)."""

    meter: Meter
    path: Path
    wrap_uj: int | None
    max_power_mw: int


def zones(root: Path) -> list[Zone]:
    """Return the counters below `root` that are booked, each once."""
    try:
        names = sorted(entry.name for entry in root.iterdir())
    except OSError:
        return []
    found: dict[Meter, tuple[int, Zone]] = {}
    for name in names:
        match = _ZONE.fullmatch(name)
        if match is None:
            continue
        meter = _meter(root, name, match)
        if meter is None:
            continue
        kind = match["type"]
        rank = _ORDER.index(kind) if kind in _ORDER else len(_ORDER)
        if meter not in found or rank < found[meter][0]:
            path = root / name
            wrap_uj = int_or_none(path / "max_energy_range_uj")
            found[meter] = (rank, Zone(meter, path, wrap_uj or None, _max_mw(path)))
    return [zone for _, (_, zone) in sorted(found.items())]


def _meter(root: Path, name: str, match: re.Match[str]) -> Meter | None:
    """Return what a zone is booked as; `None` if it is a part of another, or holds others."""
    label = text_or(root / name / "name")
    if match["part"] is None:
        return Meter(Component.CPU, label) if _PACKAGE.fullmatch(label) else None
    if label != "dram":
        return None
    package = text_or(root / f"{match['type']}:{match['package']}" / "name")
    number = package.removeprefix("package-") if _PACKAGE.fullmatch(package) else match["package"]
    return Meter(Component.DRAM, f"dram-{number}")


def _max_mw(path: Path) -> int:
    limits = [int_or_none(path / f"constraint_{n}_max_power_uw") for n in range(2)]
    known_uw = max((limit for limit in limits if limit), default=0)
    return HEADROOM * known_uw // UW_PER_MW if known_uw else DEFAULT_MAX_MW


def _common(zone: Zone, twin: Zone) -> int | None:
    """What both zones show if that may be one counter; `None` if it is not, or cannot be read."""
    path = zone.path / "energy_uj"
    before, between = int_or_none(path), int_or_none(twin.path / "energy_uj")
    after = int_or_none(path)
    if before is None or between is None or after is None:
        return None
    return after if before <= between <= after else None


class RaplSensor:
    """All RAPL counters below `root`."""

    name = "rapl"
    kind = "counter"
    components = frozenset({Component.CPU, Component.DRAM})

    def __init__(self, clock: Clock, root: Path) -> None:
        self._clock = clock
        self._root = root
        self._zones: list[Zone] = []
        self._alike: dict[tuple[Zone, Zone], int] = {}
        """Pairs that may be one counter, with its first value; it has not advanced yet."""
        self._once = LogOnce(log)

    @property
    def pace(self) -> Pace:
        """Several polls in the shortest time in which any counter can wrap."""
        wraps_s = [
            zone.wrap_uj * PJ_PER_UJ / zone.max_power_mw / NS_PER_S
            for zone in self._zones
            if zone.wrap_uj
        ]
        return Pace(most_s=min(wraps_s) / LOOKS_PER_WRAP if wraps_s else None)

    def owns(self, meter: Meter) -> bool:
        """Packages and their DRAM."""
        return meter.name.startswith(("package-", "dram-"))

    def open(self) -> None:
        """Find the counters. Raises `SensorMissing`."""
        self._zones = zones(self._root)
        if not self._zones:
            raise SensorMissing(f"no RAPL zone below {self._root}", reason="missing", remedy=REMEDY)
        self._alike = {
            pair: value
            for pair in combinations(self._zones, 2)
            if (value := _common(*pair)) is not None
        }
        if self._alike:
            time.sleep(STEP_S)
            self._drop_mirrors()

    def _drop_mirrors(self) -> None:
        """Leave out zones that show another's counter, once it has moved and both still agree."""
        for (zone, twin), first in list(self._alike.items()):
            value = _common(zone, twin)
            if value == first:
                continue  # it stands still: nothing is counted twice yet
            del self._alike[zone, twin]
            if value is not None and twin in self._zones:
                self._zones.remove(twin)
                log.warning(
                    "sensor rapl: %s shows the counter of %s and is left out",
                    twin.path.name, zone.path.name,
                )  # fmt: skip

    def close(self) -> None:
        """Nothing is held open."""

    def poll(self, *, processes: bool) -> PollResult:
        """Read every counter once."""
        if self._alike:
            self._drop_mirrors()
        readings: list[Reading] = []
        failures: list[Failure] = []
        for zone in self._zones:
            try:
                readings.append(self._read(zone))
            except SensorError as error:
                name, why = zone.meter.name, error.reason
                self._once.failed(name, "%s: %s. %s", name, error, error.remedy, reason=why)
                failures.append(Failure(zone.meter, self._clock.now_ns(), error.reason))
            else:
                self._once.recovered(zone.meter.name, "%s is read again", zone.meter.name)
        return PollResult(tuple(readings), tuple(failures))

    def poll_energy(self, meters: Iterable[Meter]) -> Sequence[Reading]:
        """Return the same, without a word about what fails."""
        wanted, readings = set(meters), []
        for zone in self._zones:
            if zone.meter in wanted:
                try:
                    readings.append(self._read(zone))
                except SensorError:
                    continue
        return readings

    def _read(self, zone: Zone) -> Reading:
        energy_uj = read_int(zone.path / "energy_uj", REMEDY)
        return Reading(
            zone.meter,
            self._clock.now_ns(),
            energy_uj=energy_uj,
            wrap_uj=zone.wrap_uj,
            epoch=self._clock.epoch,
            max_power_mw=zone.max_power_mw,
        )
