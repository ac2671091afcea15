"""GPUs that are there and cannot be read from the start: what the kernel module says of them.

NVML gives no handle of a card that is lost, so not even its UUID; the module's own files in
/proc/driver/nvidia/gpus do. Without them a card is known by its index alone.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

import msgspec

from joulebook.core.energy.devices import DeviceStatus
from joulebook.core.energy.readings import Component, Meter
from joulebook.node.sensors.sysfs import text_or

_LINE = re.compile(r"^([^:\n]+):[ \t]*(\S.*?)\s*$", re.MULTILINE)


class KernelGpu(msgspec.Struct, frozen=True):
    """One card as the kernel module knows it."""

    uuid: str
    model: str = ""
    pci: str = ""
    minor: int | None = None


def kernel_gpus(proc: Path) -> list[KernelGpu]:
    """The cards below `proc`, by PCI address."""
    try:
        folders = sorted((proc / "driver/nvidia/gpus").iterdir())
    except OSError:
        return []
    found = []
    for folder in folders:
        told = dict(_LINE.findall(text_or(folder / "information")))
        uuid, minor = told.get("GPU UUID", ""), told.get("Device Minor", "")
        if uuid and "?" not in uuid:
            number = int(minor) if minor.isdecimal() and len(minor) < 6 else None
            found.append(KernelGpu(uuid, told.get("Model", ""), folder.name, number))
    return found


def unread(
    indexes: Sequence[int], known: Collection[str], cards: Iterable[KernelGpu]
) -> list[DeviceStatus]:
    """Who the cards are that NVML counts at `indexes` and does not open.

    They are those that nobody `known` (by UUID) is; both come in the order of the bus.
    """
    left = [card for card in cards if card.uuid not in known]
    if len(left) != len(indexes):
        left = [KernelGpu(f"GPU-unread-{index}", minor=index) for index in indexes]
    return [
        DeviceStatus(
            Meter(Component.GPU, card.uuid),
            index,
            0,
            "nvidia",
            card.model,
            "",
            card.pci,
            card.minor,
        )
        for index, card in zip(indexes, left, strict=True)
    ]
