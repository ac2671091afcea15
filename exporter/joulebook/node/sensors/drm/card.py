"""Read a graphics card's directory in sysfs, of any vendor."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import msgspec

from joulebook.core.energy.readings import DeviceStatus, Meter, Reading
from joulebook.node.sensors.sysfs import int_or_none, numbered, text_or

AMD, INTEL = "0x1002", "0x8086"
_MAKERS = {AMD: "AMD", INTEL: "Intel"}

_SLOT = re.compile(r"^PCI_SLOT_NAME=(\S+)$", re.MULTILINE)
_DRIVER = re.compile(r"^DRIVER=(\S+)$", re.MULTILINE)

REMEDY = "Run the daemon as root; in a container mount the host's /sys and set sensors.drm.root"


class CardNumbers(msgspec.Struct, frozen=True):
    """A card: `card` is its number in the kernel, `render` that of /dev/dri/renderD*.

    `hwmon` is its directory of sensors (`None`: it has none).
    """

    card: int
    device: Path
    vendor: str
    pci: str
    driver: str
    render: int | None
    hwmon: Path | None

    def status(
        self, meter: Meter, index: int, t_ns: int, values: Mapping[str, float | None]
    ) -> DeviceStatus:
        """What is shown of the card: values that are known, and what it calls itself."""
        maker = _MAKERS[self.vendor]
        model = text_or(self.device / "product_name")
        return DeviceStatus(
            meter,
            index,
            t_ns,
            vendor=maker.lower(),
            model=model or f"{maker} {text_or(self.device / 'device')}",
            driver=self.driver,
            pci=self.pci,
            values={name: value for name, value in values.items() if value is not None},
            files=self.files,
        )

    @property
    def files(self) -> tuple[str, ...]:
        """The names of its device files below /dev."""
        render = () if self.render is None else (f"dri/renderD{self.render}",)
        return (*render, f"dri/card{self.card}")


class MeteredCard(Protocol):
    """A card that is a meter."""

    meter: Meter

    def read(self) -> Reading:
        """Energy or power now. Raises `SensorError`."""

    def status(self, index: int, t_ns: int) -> DeviceStatus:
        """Everything else, as far as it is reported."""


def places(root: Path) -> list[CardNumbers]:
    """Return the cards below `root` (/sys/class/drm) that AMD or Intel made, by number."""
    found = []
    for number, path in numbered(root, r"card(\d+)"):
        device = path / "device"
        vendor = text_or(device / "vendor")
        uevent = text_or(device / "uevent")
        if vendor not in {AMD, INTEL}:
            continue
        render = next((n for n, _ in numbered(device / "drm", r"renderD(\d+)")), None)
        hwmon = next((p for _, p in numbered(device / "hwmon", r"hwmon(\d+)")), None)
        found.append(
            CardNumbers(
                number,
                device,
                vendor,
                _first(_SLOT, uevent) or device.resolve().name,
                _first(_DRIVER, uevent),
                render,
                hwmon,
            )
        )
    return found


def partitions(root: Path, card: CardNumbers) -> list[CardNumbers]:
    """Return the partitions of an AMD card beside the first, which is the card itself.

    In the modes DPX, QPX and CPX of an MI300 each has device files of its own, under a platform
    device without an address; the compute driver's topology tells whose they are.
    """
    nodes = root.parent / "kfd/kfd/topology/nodes"
    found = []
    for _, node in numbered(nodes, r"(\d+)"):
        told = dict(_PROPERTY.findall(text_or(node / "properties")))
        render = int(told.get("drm_render_minor", 0))
        if render > 0 and _address(told) == card.pci[:10] and render != card.render:
            device = (root / f"renderD{render}/device").resolve()
            number = next((n for n, _ in numbered(device / "drm", r"card(\d+)")), render - 128)
            found.append(
                msgspec.structs.replace(
                    card, card=number, pci=device.name, render=render, hwmon=None
                )
            )
    return found


_PROPERTY = re.compile(r"^(\w+) (\d{1,20})$", re.MULTILINE)


def _address(told: Mapping[str, str]) -> str:
    """Return the PCI address without its function, whose bits, like the highest, number partitions
    (kfd_topology.c of the kernel).
    """
    domain, location = int(told.get("domain", 0)), int(told.get("location_id", 0))
    return f"{domain:04x}:{location >> 8 & 0xFF:02x}:{location >> 3 & 0x1F:02x}"


def _first(pattern: re.Pattern[str], text: str) -> str:
    match = pattern.search(text)
    return match[1] if match else ""


def ratio(percent: int | None) -> float | None:
    """Return a percentage as the metrics want it; `None` where it is no percentage."""
    return None if percent is None or not 0 <= percent <= 100 else percent / 100


def scaled(path: Path | None, per_unit: int) -> float | None:
    """Return a number out of a file that may be absent, in base units."""
    value = int_or_none(path) if path is not None else None
    return None if value is None else value / per_unit
