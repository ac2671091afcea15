"""MIG instances in SLURM: from capability files, UUIDs and indexes to instances of a card.

gres.conf lists an instance by the device files that a job needs of it: its card's, and those of
capabilities, `MultipleFiles=/dev/nvidia0,/dev/nvidia-caps/nvidia-cap21,...`. Which instance a
capability is of, the driver says in `/proc/driver/nvidia-caps/mig-minors`:

    gpu0/gi1/access 21
    gpu0/gi1/ci0/access 22
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from joulebook.core.devices import DeviceStatus, Instance

MIG_MINORS = Path("/proc/driver/nvidia-caps/mig-minors")

_LINE = re.compile(r"^gpu(\d+)/gi(\d+)(?:/ci(\d+))?/access (\d+)$", re.MULTILINE)
_CAPABILITY = re.compile(r"/nvidia-cap(\d+)$")


class Capability(NamedTuple):
    """What a capability file is of: a card by its minor number, and an instance on it."""

    card: int
    gi: int
    ci: int | None


def parse_minors(text: str) -> dict[int, Capability]:
    """The driver's table, by the minor number of the capability file."""
    return {
        int(minor): Capability(int(card), int(gi), int(ci) if ci else None)
        for card, gi, ci, minor in _LINE.findall(text)
    }


def read_minors(path: Path = MIG_MINORS) -> dict[int, Capability]:
    """The table of this machine; empty where there is none."""
    try:
        return parse_minors(path.read_text(errors="replace"))
    except OSError:
        return {}


def capabilities(files: Iterable[str]) -> tuple[int, ...]:
    """The minor numbers of the capability files among these."""
    found = (_CAPABILITY.search(file) for file in files)
    return tuple(int(match[1]) for match in found if match)


def of_capabilities(
    caps: Iterable[int], minors: Mapping[int, Capability], devices: Iterable[DeviceStatus]
) -> tuple[DeviceStatus, Instance] | None:
    """The one instance that all of these are of; `None` if they do not agree on one."""
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
    """The instance of these ids; without `ci` the only one of its GPU instance."""
    there = [i for i in device.instances if i.gi == gi and ci in (None, i.ci)]
    return there[0] if len(there) == 1 else None
