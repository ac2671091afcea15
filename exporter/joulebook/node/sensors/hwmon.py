"""Boards and sockets that hwmon knows: ACPI power meters (Grace, GH200, whole nodes), amd_energy.

A GH200 module's meters form a tree, and its Grace socket is booked:

    Module Power Socket 0       the module: Grace, GPU, memory, losses    reconciled (`other`)
      Grace Power Socket 0      the socket                                booked, component `cpu`
        CPU Power Socket 0      its cores' rail                           part of it: never added
        SysIO Power Socket 0    its SoC's rail                            part of it: never added
      the GPU                   by NVML                                   booked, component `gpu`

A Jetson's rails are those of an INA3221, reported as voltage and current: that of the GPU, of the
CPU, and of the whole board. NVML knows such a GPU, but not its power.

Without a meter of the socket, its rails are booked instead. Modules are reconciled together, as one
node meter; so is a power meter without such a name, which measures the whole node. All these have
power only, which is integrated. The names are those of NVIDIA's Grace firmware (power1_oem_info of
the kernel's acpi_power_meter).
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import msgspec

from joulebook.clock import Clock
from joulebook.core.energy.readings import Component, Failure, Meter, Reading
from joulebook.errors import SensorError, SensorMissing
from joulebook.log import LogOnce
from joulebook.node.sensors.contract import POWER_LOOK_S, Pace, PollResult
from joulebook.node.sensors.sysfs import int_or_none, numbered, read_int, text_or
from joulebook.units import UW_PER_MW

log = logging.getLogger(__name__)

_GRACE = re.compile(r"(?P<part>Module|Grace|CPU|SysIO) Power Socket (?P<socket>\d+)")
_SOCKET = re.compile(r"Esocket(?P<socket>\d+)")

NODE = Meter(Component.OTHER, "acpi-power-meter")
MODULES = Meter(Component.OTHER, "modules")
JETSON_GPU = Meter(Component.GPU, "jetson-gpu")
JETSON_CPU = Meter(Component.CPU, "jetson-cpu")
JETSON_BOARD = Meter(Component.OTHER, "jetson-board")

_RAILS = {
    "GPU": JETSON_GPU,
    "CPU": JETSON_CPU,
    "VDD_IN": JETSON_BOARD,
    "5V_IN": JETSON_BOARD,
}
"""By a word of the rail's label, the first that is in it."""

EVERYTHING = (Component.CPU, Component.DRAM, Component.GPU)
"""The components included in a power supply's meter."""

REMEDY = "Run the daemon as root; in a container mount the host's /sys and set sensors.hwmon.root"


class HwmonFiles(msgspec.Struct, frozen=True):
    """The files that are one meter: their values are added up.

    `counts`: they count energy (uJ), else they report power (uW); `rails` report voltage and
    current (mV, mA). `covers` as in `Reading`.
    """

    meter: Meter
    files: tuple[Path, ...]
    counts: bool = False
    covers: tuple[Component, ...] = ()
    rails: tuple[tuple[Path, Path], ...] = ()

    def value(self) -> int:
        """Return the sum of its files. Raises `SensorError`."""
        rails = sum(read_int(v, REMEDY) * read_int(i, REMEDY) for v, i in self.rails)
        return rails + sum(read_int(file, REMEDY) for file in self.files)

    def power_mw(self) -> int | None:
        """Its power now; `None` where it cannot be read."""
        try:
            return self.value() // UW_PER_MW
        except SensorError:
            return None


def sockets(root: Path) -> list[HwmonFiles]:
    """Return the CPU sockets of superchips, in the order of their numbers."""
    return [each for each in sources(root, supply=False) if each.meter.name.startswith("grace-")]


def paired(
    found: Sequence[HwmonFiles], sysfs: Path, gpus: Sequence[Path]
) -> list[HwmonFiles | None]:
    """Return which of the `sockets` found is that of each GPU, a PCI device, in bus order.

    A GPU is on the bus of its socket's cores. A socket's number is the rank of its package, whose
    own id is arbitrary on ARM. Where that is not known, both are in the same order, if there are
    as many of them.
    """
    if not found:
        return [None] * len(gpus)
    packages = sorted(
        {
            number
            for _, cpu in numbered(sysfs / "devices/system/cpu", r"cpu(\d+)")
            if (number := int_or_none(cpu / "topology/physical_package_id")) is not None
        }
    )
    by_package = dict(zip(packages, found, strict=True)) if len(packages) == len(found) else {}
    near = [_package(sysfs, gpu) for gpu in gpus]
    local = [None if package is None else by_package.get(package) for package in near]
    if None not in local and len({each.meter for each in local if each}) == len(local):
        return local
    return list(found) if len(found) == len(gpus) else [None] * len(gpus)


def _package(sysfs: Path, gpu: Path) -> int | None:
    """Return the package of the cores next to a PCI device; `None` if it has none of its own."""
    node = int_or_none(gpu / "numa_node")
    if node is None or node < 0:
        return None
    first = re.match(r"\d+", text_or(sysfs / f"devices/system/node/node{node}/cpulist"))
    if first is None:
        return None
    return int_or_none(sysfs / f"devices/system/cpu/cpu{first[0]}/topology/physical_package_id")


def jetson_gpu(root: Path) -> HwmonFiles | None:
    """Return the rail of a Jetson's GPU."""
    found = {each.meter: each for each in _jetson(root)}
    return found.get(JETSON_GPU)


def _jetson(root: Path) -> Iterator[HwmonFiles]:
    """The rails of a Jetson, each once: the GPU's, though it may feed more, then the CPU's."""
    rails: dict[Meter, list[tuple[Path, Path]]] = {}
    for _, chip in numbered(root, r"hwmon(\d+)"):
        if text_or(chip / "name") != "ina3221":
            continue
        for number, label in numbered(chip, r"in(\d+)_label"):
            name = text_or(label).upper()
            found = [meter for word, meter in _RAILS.items() if word in name]
            if found:
                rail = (chip / f"in{number}_input", chip / f"curr{number}_input")
                rails.setdefault(found[0], []).append(rail)
    for meter, files in rails.items():
        covers = EVERYTHING if meter == JETSON_BOARD else ()
        yield HwmonFiles(meter, (), covers=covers, rails=tuple(files))


def sources(
    root: Path, *, cpu: bool = True, supply: bool = True, gpu: bool = True
) -> list[HwmonFiles]:
    """Return the meters below `root`.

    Without `cpu`, packages are left out (RAPL reads them), without `supply` meters of a node or
    module (a BMC is read instead), without `gpu` a GPU (NVML names it).
    """
    chips = [(path, text_or(path / "name")) for _, path in numbered(root, r"hwmon(\d+)")]
    found: list[HwmonFiles] = []
    modules: list[Path] = []
    nodes: list[Path] = []
    sockets: dict[str, dict[str, Path]] = {}
    for path, chip in chips:
        if chip == "power_meter":
            file = _power_file(path)
            match = _GRACE.fullmatch(text_or(path / "power1_oem_info"))
            if file is None:
                continue
            if match is None:
                nodes.append(file)
            elif match["part"] == "Module":
                modules.append(file)
            else:
                sockets.setdefault(match["socket"], {})[match["part"]] = file
        elif chip == "amd_energy" and cpu:
            found += _amd_sockets(path)
    for socket, parts in sorted(sockets.items()):
        found += _grace(socket, parts)
    if supply and nodes:
        # Two of them are two supplies of one node.
        found.append(HwmonFiles(NODE, tuple(nodes), covers=EVERYTHING))
    elif supply and modules:
        found.append(HwmonFiles(MODULES, tuple(modules), covers=EVERYTHING))
    wanted = {JETSON_GPU: gpu, JETSON_CPU: cpu, JETSON_BOARD: supply}
    return [*found, *(each for each in _jetson(root) if wanted[each.meter])]


def _power_file(chip: Path) -> Path | None:
    return next((chip / n for n in ("power1_average", "power1_input") if (chip / n).exists()), None)


def _grace(socket: str, parts: dict[str, Path]) -> Iterator[HwmonFiles]:
    if "Grace" in parts:
        yield HwmonFiles(Meter(Component.CPU, f"grace-{socket}"), (parts["Grace"],))
    elif rails := tuple(parts[name] for name in ("CPU", "SysIO") if name in parts):
        yield HwmonFiles(Meter(Component.CPU, f"grace-rails-{socket}"), rails)


def _amd_sockets(chip: Path) -> Iterator[HwmonFiles]:
    for number, label in numbered(chip, r"energy(\d+)_label"):
        match = _SOCKET.fullmatch(text_or(label))
        if match is not None:
            meter = Meter(Component.CPU, f"amd-energy-{match['socket']}")
            yield HwmonFiles(meter, (chip / f"energy{number}_input",), counts=True)


class HwmonSensor:
    """All meters of hwmon below `root` that are not a GPU's."""

    name = "hwmon"
    kind = "power"
    components = frozenset({*EVERYTHING, Component.OTHER})

    def __init__(
        self,
        clock: Clock,
        root: Path,
        *,
        cpu: bool = True,
        supply: bool = True,
        gpu: bool = True,
        covers: tuple[Component, ...] = EVERYTHING,
    ) -> None:
        """`covers` is what a meter of the whole node, or of its modules, measures inside."""
        self._clock = clock
        self._root = root
        self._covers = covers
        self._parts = {"cpu": cpu, "supply": supply, "gpu": gpu}
        self._sources: list[HwmonFiles] = []
        self._once = LogOnce(log)

    @property
    def pace(self) -> Pace:
        """Power is polled often, however rarely the daemon ticks."""
        return Pace(most_s=POWER_LOOK_S)

    def owns(self, meter: Meter) -> bool:
        """Supplies, modules and sockets."""
        return meter in {NODE, MODULES} or meter.name.startswith(
            ("grace-", "amd-energy-", "jetson-")
        )

    def open(self) -> None:
        """Find the meters. Raises `SensorMissing`."""
        self._sources = sources(self._root, **self._parts)
        if not self._sources:
            raise SensorMissing(
                f"no power meter below {self._root}", reason="missing", remedy=REMEDY
            )

    def close(self) -> None:
        """Nothing is held open."""

    def poll(self, *, processes: bool) -> PollResult:
        """Read every meter once."""
        readings: list[Reading] = []
        failures: list[Failure] = []
        for source in self._sources:
            try:
                readings.append(self._read(source))
            except SensorError as error:
                name, why = source.meter.name, error.reason
                self._once.failed(name, "%s: %s. %s", name, error, error.remedy, reason=why)
                failures.append(Failure(source.meter, self._clock.now_ns(), error.reason))
            else:
                self._once.recovered(source.meter.name, "%s is read again", source.meter.name)
        return PollResult(tuple(readings), tuple(failures))

    def poll_energy(self, meters: Iterable[Meter]) -> Sequence[Reading]:
        """Counters only, and none of these steps in the time of a burst."""
        return ()

    def _read(self, source: HwmonFiles) -> Reading:
        value = source.value()
        t_ns = self._clock.now_ns()
        if source.counts:
            return Reading(source.meter, t_ns, energy_uj=value, epoch=self._clock.epoch)
        covers = self._covers if source.covers else ()
        return Reading(source.meter, t_ns, power_mw=value // UW_PER_MW, covers=covers)
