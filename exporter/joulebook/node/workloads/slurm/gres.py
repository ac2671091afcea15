"""From the numbers that SLURM gives GPUs to meters: position -> device file -> minor -> UUID.

`SLURM_JOB_GPUS` and `IDX` count the GPU lines of gres.conf as slurmd understood them. That is
neither the number in /dev/nvidiaN (the order of lines is free, and there may be holes) nor NVML's
index. `gresconf` reads which device file each position is.

An instance (MIG) is known by the capability files that gres.conf lists for it; which instance a
capability is of stands in `/proc/driver/nvidia-caps/mig-minors`.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from joulebook.core.energy.readings import DeviceStatus, Instance, Meter

MIG_MINORS = Path("/proc/driver/nvidia-caps/mig-minors")

_LINE = re.compile(r"^gpu(\d+)/gi(\d+)(?:/ci(\d+))?/access (\d+)$", re.MULTILINE)
_CAPABILITY = re.compile(r"/nvidia-cap(\d+)$")


class Capability(NamedTuple):
    """What a capability file is of: a card by its minor number, and an instance on it."""

    card: int
    gi: int
    ci: int | None


def parse_minors(text: str) -> dict[int, Capability]:
    """Return the driver's table, by the minor number of the capability file."""
    return {
        int(minor): Capability(int(card), int(gi), int(ci) if ci else None)
        for card, gi, ci, minor in _LINE.findall(text)
    }


def read_minors(path: Path = MIG_MINORS) -> dict[int, Capability]:
    """Return the table of this machine; empty where there is none."""
    try:
        return parse_minors(path.read_text(errors="replace"))
    except OSError:
        return {}


def capabilities(files: Iterable[str]) -> tuple[int, ...]:
    """Return the minor numbers of the capability files among these."""
    found = (_CAPABILITY.search(file) for file in files)
    return tuple(int(match[1]) for match in found if match)


def of_capabilities(
    caps: Iterable[int], minors: Mapping[int, Capability], devices: Iterable[DeviceStatus]
) -> tuple[DeviceStatus, Instance] | None:
    """Return the one instance that all of these are of; `None` if they do not agree on one."""
    known = [minors[cap] for cap in caps if cap in minors]
    cards, gis = {each.card for each in known}, {each.gi for each in known}
    cis = {each.ci for each in known if each.ci is not None}
    if len(cards) != 1 or len(gis) != 1 or len(cis) > 1:
        return None
    (card,), (gi,) = cards, gis
    device = next((d for d in devices if d.minor == card), None)
    if device is None:
        return None
    instance = on_gi(device, gi, next(iter(cis), None))
    return None if instance is None else (device, instance)


def on_gi(device: DeviceStatus, gi: int, ci: int | None = None) -> Instance | None:
    """Return the instance of these ids; without `ci` the only one of its GPU instance."""
    there = [i for i in device.instances if i.gi == gi and ci in (None, i.ci)]
    return there[0] if len(there) == 1 else None


_TRAILING_NUMBER = re.compile(r"(\d+)$")


class Position(NamedTuple):
    """One GPU of gres.conf: its device file, and its shards (0: it is not shared out).

    Of a MIG instance also the capability files that a job needs of it, by minor number.
    """

    file: str
    shards: int = 0
    caps: tuple[int, ...] = ()


class GresPart(NamedTuple):
    """The device of a SLURM id: a meter, and the part of it."""

    meter: Meter
    parts: int = 1
    of: int = 1
    instance: str = ""


class GresMap(msgspec.Struct, frozen=True):
    """The GPUs of one node in SLURM's order. Empty: the node has none."""

    positions: tuple[Position, ...]
    minors: Mapping[int, Capability] = {}
    """What the capability files of MIG instances are of."""

    @property
    def sharded(self) -> bool:
        """Whether several jobs may hold one GPU by shards."""
        return any(p.shards for p in self.positions)

    def shards(self, gpu: str) -> int:
        """Return how many shards the GPU at a position has (0: not shared, or no such position)."""
        at = int(gpu) if gpu.isdecimal() else len(self.positions)
        return self.positions[at].shards if at < len(self.positions) else 0


UNCOUNTED = "?"
"""A GPU of which only that it was held is known; alone, not even how many. With a number: one of
so many."""


class Unmappable(Exception):
    """It cannot be reported which device an id means, though there may be one.

    `meter` is the card of which it is an instance, where that much is known.
    """

    def __init__(self, gpu: str, meter: Meter | None = None) -> None:
        super().__init__(gpu)
        self.meter = meter


def find_part(
    gpu: str, gpu_ids: str, gres: GresMap | None, devices: Sequence[DeviceStatus]
) -> GresPart | None:
    """Return the meter that one GPU id of a job means; `None` if that device cannot be metered.

    `gpu_ids` is `gres`, `minor` or `uuid`; an id that looks like a UUID is one in any case. Raises
    `Unmappable` if the device is unknown (`unknown_holder`).
    """
    if gpu.startswith(UNCOUNTED):
        raise Unmappable(gpu)
    if gpu_ids == "nvml" and gpu[:1].isdecimal():
        return _by_index(gpu, devices)
    if not gpu.isdecimal():
        return _by_uuid(gpu, devices)
    if gpu_ids == "minor":
        return _by_minor(int(gpu), devices)
    if gres is None or int(gpu) >= len(gres.positions):
        raise Unmappable(gpu)
    position = gres.positions[int(gpu)]
    if (card := _by_file(position.file, devices)) is not None:
        return card
    minor = minor_of(position.file)
    found = None if minor is None else _by_minor(minor, devices)
    if position.caps:
        one = of_capabilities(position.caps, gres.minors, devices)
        if one is None:
            raise Unmappable(gpu, found.meter if found is not None else None)
        return _instance(*one)
    if found is not None and sum(p.file == position.file for p in gres.positions) > 1:
        raise Unmappable(gpu, found.meter)  # instances that nothing tells apart
    return found


def _instance(device: DeviceStatus, instance: Instance) -> GresPart:
    return GresPart(
        device.meter, instance.slices, max(device.slices, instance.slices), instance.uuid
    )


def _by_uuid(gpu: str, devices: Sequence[DeviceStatus]) -> GresPart | None:
    for device in devices:
        if device.meter.name == gpu:
            return GresPart(device.meter)
        instance = device.instance(gpu)
        if instance is not None:
            return _instance(device, instance)
    if gpu.startswith("MIG-"):
        raise Unmappable(gpu)
    return None


def _by_index(gpu: str, devices: Sequence[DeviceStatus]) -> GresPart | None:
    """NVML's index, with the id of a GPU instance after a dot (dcgm-exporter's files)."""
    index, _, gi = gpu.partition(".")
    device = next((d for d in devices if d.index == int(index)), None)
    if device is None or not gi:
        return None if device is None else GresPart(device.meter)
    instance = on_gi(device, int(gi))
    if instance is None:
        raise Unmappable(gpu, device.meter)
    return _instance(device, instance)


def minor_of(file: str) -> int | None:
    """The minor number of a device file; by its name where the file is not to be seen from here."""
    try:
        seen = Path(file).stat()
    except OSError:
        # In a container without the host's /dev; a card that was pulled has no meter either way.
        number = _TRAILING_NUMBER.search(file)
        return int(number[1]) if number else None
    return os.minor(seen.st_rdev) if stat.S_ISCHR(seen.st_mode) else None


def _by_file(file: str, devices: Sequence[DeviceStatus]) -> GresPart | None:
    """The card of AMD or Intel with that device file; minors of /dev/dri mean nothing of NVIDIA."""
    for device in devices:
        if any(file.endswith(f"/{each}") for each in device.files):
            return GresPart(device.meter)
    return None


def _by_minor(minor: int, devices: Sequence[DeviceStatus]) -> GresPart | None:
    for device in devices:
        if device.minor == minor:
            return GresPart(device.meter)
    return None
