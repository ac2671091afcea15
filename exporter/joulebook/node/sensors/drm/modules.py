"""Several dies, one meter: MI250 and the partitions of a card, of which only the first tells power.

The kernel tells 0 W and no energy of every die but the first, whose figures are the module's. So
the module is one meter, that of its first die; each die is an instance of it, as busy as it says.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from joulebook.core.energy.devices import DeviceStatus, Instance
from joulebook.core.energy.readings import InstanceUse, Meter, Reading

PPM_PER_PERCENT = 10_000


def dies(readings: Sequence[tuple[str, Reading]]) -> dict[Meter, Meter]:
    """The module of each die, by its meter; `readings` are of all cards, with their product.

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
    """The readings, those of dies as one of their module."""
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
    """The statuses; each die says what it is a part of, and no power that is not its own."""
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
