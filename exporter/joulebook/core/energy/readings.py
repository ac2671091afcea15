"""What a sensor reports: readings of meters, failures with their reasons, and devices.

All instants in the core are *node time*: nanoseconds that never go back, survive a restart of
the daemon and a reboot (`clock.py` makes them from CLOCK_BOOTTIME). UTC is node time plus
an offset that the tick carries, so a stepped wall clock changes no duration and no order.

A device also has names, numbers and telemetry; none of these is booked.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from enum import StrEnum
from fnmatch import fnmatchcase
from fractions import Fraction
from typing import NamedTuple, TypeVar

import msgspec

from joulebook.core.workloads import WorkloadId

REPLAYED = "replay"
"""The `Reading.epoch` of a recorded trace: its counters never reset, not even with a boot, and
their energy was not consumed here.
"""


class Component(StrEnum):
    """The part of a node that a meter measures (label `component`)."""

    GPU = "gpu"
    CPU = "cpu"
    DRAM = "dram"
    OTHER = "other"


class Meter(NamedTuple):
    """One thing whose energy can be read and booked.

    `name` is stable over restarts and enumeration changes: the UUID of a GPU, the zone of RAPL.
    """

    component: Component
    name: str


class PowerSample(NamedTuple):
    """One timestamped value of the driver's own power buffer: node time and milliwatts."""

    t_ns: int
    power_mw: int


class PowerSum(NamedTuple):
    """Power integrated for a counter from `since_ns` to `t_ns`, where it was `power_mw`."""

    since_ns: int
    t_ns: int
    power_mw: int
    energy_uj: int = 0


class ProcessSpan(NamedTuple):
    """A mark on a process: it consumes for `workload` from `t0` until `t1` (`None`: still)."""

    t0_ns: int
    t1_ns: int | None
    workload: WorkloadId


# The order of its fields is the format of the ledger on disk: new ones go last.
class ProcessUse(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """One process seen on a device.

    Attributes:
        started_ns: Start of the process in node time (0: unknown). PIDs are reused, the pair is
            not.
        ended: Whether it has ended by now.
        sm_time_ns: Time for which it kept the device's SMs busy since the last reading; `None`
            if the driver does not report it.
        workload: Its owner, set by the daemon; `None` if unknown.
        marks: The marks that it was under lately, the innermost first. In their time it
            consumes for them and not for `workload` (`core/attribution/spans.py`).

    """

    pid: int
    started_ns: int
    sm_time_ns: int | None = None
    memory_bytes: int | None = None
    workload: WorkloadId | None = None
    ended: bool = False
    instance: str = ""
    """The UUID of the MIG instance that it runs on; empty on a card without MIG."""
    marks: tuple[ProcessSpan, ...] = ()
    graphics: bool = False
    """Whether it has graphics contexts only, as display servers do."""


def joined(
    earlier: tuple[ProcessUse, ...] | None, later: tuple[ProcessUse, ...] | None
) -> tuple[ProcessUse, ...] | None:
    """Join two lists: busy times add up, and a process missing in the later one has ended.

    Either may be `None` (not queried), which adds nothing.
    """
    if earlier is None or later is None:
        return later if earlier is None else earlier
    known = {(use.pid, use.started_ns, use.instance): use for use in earlier}
    uses: list[ProcessUse] = []
    for use in later:
        before = known.pop((use.pid, use.started_ns, use.instance), None)
        if before is None or before.sm_time_ns is None or use.sm_time_ns is None:
            uses.append(use)
        else:
            busy_ns = before.sm_time_ns + use.sm_time_ns
            uses.append(msgspec.structs.replace(use, sm_time_ns=busy_ns))
    return (*uses, *(msgspec.structs.replace(use, ended=True) for use in known.values()))


class InstanceUse(NamedTuple):
    """One MIG instance at a reading: `slices` of the card's `of`, and how busy they were.

    `active_ppm` is the share of its SMs that were busy since the last reading, in parts per
    million; `None` if the driver does not report it (never before Hopper).
    """

    uuid: str
    slices: int
    of: int
    active_ppm: int | None = None


class Break(StrEnum):
    """What happened to a counter between a reading and the one before it."""

    NONE = ""
    RESET = "counter_reset"
    """It was reset to zero; only `Reading.uptime_ns` tells when."""
    REBOOT = "reboot"
    """The same, because the machine was booted."""
    IMPLAUSIBLE = "implausible"
    """It jumped by more than the device can consume, and stayed there."""
    WRAPPED = "counter_wrap"
    """It may have wrapped more than once since it was last read."""
    STALLED = "counter_stalled"
    """It hardly advanced while power was drawn: its energy is booked by power."""


# The order of its fields is the format of the ledger on disk: new ones go last.
class Reading(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """One successful reading of one meter.

    Attributes:
        energy_uj: The meter's own cumulative counter; `None` if it has none, and then `samples`
            (else `power_mw` alone) are integrated.
        wrap_uj: The size of a counter that wraps.
        epoch: Identifies the life of the counter, where the system reports it (the boot id).
        uptime_ns: Time since the counter last started at zero, where the driver reports it.
        max_power_mw: Bounds what is plausible.
        busy: Whether the device was at work, its utilization being above 0 (`None`: not
            reported, or not queried).
        processes: `None` if not queried, empty if there were none; `instances` likewise.
        covers: The components whose meters are included in this one; only the rest of such a
            meter is booked (`core.energy.node_meter`).
        modelled: Whether nothing was measured: `energy_uj` or `power_mw` are a model's.
        hole_ns: How far apart two values of power may be, if the meter can only be polled
            rarely (0: `intervals.MAX_HOLE_NS`).

    """

    meter: Meter
    t_ns: int
    energy_uj: int | None = None
    power_mw: int | None = None
    samples: tuple[PowerSample, ...] = ()
    wrap_uj: int | None = None
    epoch: str = ""
    uptime_ns: int | None = None
    max_power_mw: int | None = None
    busy: bool | None = None
    processes: tuple[ProcessUse, ...] | None = None
    after_outage: bool = False
    """Set by the ledger on the first reading after the daemon was down."""
    breaks: Break = Break.NONE
    """Set by the ledger: why the last counter cannot simply be subtracted from this one."""
    instances: tuple[InstanceUse, ...] | None = None
    covers: tuple[Component, ...] = ()
    modelled: bool = False
    hole_ns: int = 0
    by_power: PowerSum | None = None
    """Set by the ledger: what a counter should show, by power."""
    parts: tuple[Meter, ...] = ()
    """The meters included in this one: of a superchip's module, its CPU socket."""
    utilization_pct: int | None = None
    """How much of the time the device was at work, if reported."""
    tensor_ppm: int | None = None
    """How busy its tensor cores were since the last reading with this value, in parts per
    million.
    """


class Failure(msgspec.Struct, frozen=True, gc=False):
    """A failed reading of a meter; `reason` is a short stable word (label `reason`)."""

    meter: Meter
    t_ns: int
    reason: str


class Instance(msgspec.Struct, frozen=True, gc=False):
    """One MIG device of a card, as its user is given it (a compute instance).

    Attributes:
        uuid: The driver's name (`MIG-<uuid>`; before R470 `MIG-GPU-<uuid>/<gi>/<ci>`).
        gi: Id of its GPU instance.
        ci: Id of its compute instance (`None` if only the GPU instance is known).
        slices: Its number of compute slices of the card.
        profile: Its name in `nvidia-smi` (`1g.10gb`).

    """

    uuid: str
    gi: int
    ci: int | None
    slices: int
    profile: str


class DeviceStatus(msgspec.Struct, frozen=True, gc=False):
    """The live telemetry of one device, for gauges and the status page; none of it is booked.

    Attributes:
        values: Maps metric names of the catalogue, without the prefix `joulebook_gpu_`
            (`power_watts`, `utilization_ratio`, `memory_used_bytes`, `temperature_celsius`,
            ...) to values in base units; what the device does not report is absent, never 0.
        throttle_ns: Cumulative nanoseconds by reason.
        mig: Whether the card is in MIG mode.
        instances: Its MIG instances.
        slices: Compute slices of the whole card, including free ones (0: no MIG).
        files: Its device files below /dev (`dri/renderD128`), where a minor number alone would
            not identify the card.

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
    """The meter that it shares with others, as a die of a module of `slices` dies."""
    counts: Mapping[tuple[str, str], int] = {}
    """Health counters by name (`joulebook_gpu_NAME_total`) and label value."""
    last_xid: int | None = None
    """The last Xid (0: none yet; `None`: not available)."""

    @property
    def rooms(self) -> dict[str, Fraction]:
        """Return the part of the card that each of its MIG instances is, by UUID."""
        of = max(self.slices, sum(each.slices for each in self.instances))
        return {each.uuid: Fraction(each.slices, of) for each in self.instances if each.slices > 0}

    def instance(self, name: str) -> Instance | None:
        """Return the MIG instance of this card that a device plugin or a scheduler calls `name`.

        That is its UUID, or the name of drivers before R470, whatever this driver uses:
        `MIG-GPU-<uuid of the card>/<gi>/<ci>`.
        """
        for each in self.instances:
            old = f"MIG-{self.meter.name}/{each.gi}/{each.ci}"
            if name in (each.uuid, old):
                return each
        return None


_Named = TypeVar("_Named")


def for_model(
    model: str, known: Iterable[_Named], pattern: Callable[[_Named], str]
) -> _Named | None:
    """Return what is known of a model of device; of several matches, the most specific.

    `pattern` is the name of the models that it is for; `*` matches anything.
    """
    fits = [each for each in known if fnmatchcase(model, pattern(each))]

    def names(each: _Named) -> tuple[int, str]:
        return len(pattern(each).replace("*", "")), pattern(each)

    return max(fits, key=names, default=None)
