"""What is known of a device beside its energy: names, numbers, telemetry; none of it is booked."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction

import msgspec

from joulebook.core.energy.readings import Meter


class Instance(msgspec.Struct, frozen=True, gc=False):
    """One MIG device of a card, as its user is given it (a compute instance).

    `uuid` is what the driver calls it (`MIG-<uuid>`; before R470 `MIG-GPU-<uuid>/<gi>/<ci>`).
    `gi` and `ci` are the ids of its GPU instance and compute instance (`ci` is `None` where only
    the GPU instance is known). `slices` is how many compute slices of the card are its own;
    `profile` its name in `nvidia-smi` (`1g.10gb`).
    """

    uuid: str
    gi: int
    ci: int | None
    slices: int
    profile: str


class DeviceStatus(msgspec.Struct, frozen=True, gc=False):
    """The live telemetry of one device, for gauges and the page; nothing of it is booked.

    `values` maps the metric names of the catalogue, without prefix `joulebook_gpu_`
    (`power_watts`, `power_limit_watts`, `utilization_ratio`, `memory_used_bytes`,
    `temperature_celsius`, `sm_clock_hertz`, ...), to their value in base units; what the device
    cannot say is absent, never 0. `throttle_ns` maps a reason to cumulative nanoseconds.
    `mig` says that the card is in MIG mode: then `instances` lists what it is cut into now, and
    `slices` counts the compute slices of the whole card, those of no instance among them (0: the
    card is not cut up). `files` are its device files below /dev (`dri/renderD128`), where a minor
    number alone would not tell the card.
    """

    meter: Meter
    index: int
    t_ns: int
    vendor: str = ""
    model: str = ""
    driver: str = ""
    pci: str = ""
    minor: int | None = None
    mig: bool = False
    values: Mapping[str, float] = {}
    throttle_ns: Mapping[str, int] = {}
    instances: tuple[Instance, ...] = ()
    slices: int = 0
    files: tuple[str, ...] = ()
    module: Meter | None = None
    """The meter that measures it together with others: a die of a module of `slices` dies."""

    @property
    def rooms(self) -> dict[str, Fraction]:
        """Which part of the card each of its MIG instances is, by UUID."""
        of = max(self.slices, sum(each.slices for each in self.instances))
        return {each.uuid: Fraction(each.slices, of) for each in self.instances if each.slices > 0}

    def instance(self, name: str) -> Instance | None:
        """The MIG instance of this card that a device plugin or a scheduler calls `name`.

        That is its UUID, or the name that drivers before R470 gave it, whatever this one says:
        `MIG-GPU-<uuid of the card>/<gi>/<ci>`.
        """
        for each in self.instances:
            old = f"MIG-{self.meter.name}/{each.gi}/{each.ci}"
            if name in (each.uuid, old):
                return each
        return None
