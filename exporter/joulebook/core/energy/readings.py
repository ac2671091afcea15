"""What a sensor saw: one look at one meter, or the reason why there was none; and its devices.

All instants in the core are *node time*: nanoseconds that never go back, survive a restart of
the daemon and a reboot (`clock.py` makes them from CLOCK_BOOTTIME). UTC is node time plus
an offset that the tick carries, so a stepped wall clock changes no duration and no order.

Beside its energy a device has names, numbers and telemetry; none of these is booked.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from fractions import Fraction
from typing import NamedTuple

import msgspec

from joulebook.core.workloads import WorkloadId

REPLAYED = "replay"
"""The `Reading.epoch` of a recorded trace: its counters never begin again, not even with a boot,
and what they say was not consumed here."""


class Component(StrEnum):
    """The part of a node that a meter measures (label `component`)."""

    GPU = "gpu"
    CPU = "cpu"
    DRAM = "dram"
    OTHER = "other"


class Meter(NamedTuple):
    """One thing whose energy can be read; the leaf that is booked.

    `name` is stable over restarts and enumeration changes: the UUID of a GPU, the zone of RAPL.
    """

    component: Component
    name: str


class PowerSample(NamedTuple):
    """One timestamped value of the driver's own power buffer: node time and milliwatts."""

    t_ns: int
    power_mw: int


class PowerSum(NamedTuple):
    """Power added up beside a counter, from `since_ns` to `t_ns`, where it was `power_mw`."""

    since_ns: int
    t_ns: int
    power_mw: int
    energy_uj: int = 0


class Span(NamedTuple):
    """A mark on a process: from when to when (`None`: still) it consumes for `workload`."""

    t0_ns: int
    t1_ns: int | None
    workload: WorkloadId


# The order of its fields is the format of the ledger on disk: new ones go last.
class ProcessUse(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """One process seen on a device.

    `started_ns` is the start of the process in node time (0 when unknown): pids are reused, the
    pair is not. `ended` says that it is gone by now. `sm_time_ns` is the time for which it kept
    the device's multiprocessors busy since the reading before, `None` where the driver does not
    say. `workload` is filled in by the daemon from the process's cgroup; `None` means that nobody
    could say whose process it is. `marks` are the marks that it was under lately, the innermost
    first; in their time it consumes for them and not for `workload` (`core/attribution/spans.py`).
    """

    pid: int
    started_ns: int
    sm_time_ns: int | None = None
    memory_bytes: int | None = None
    workload: WorkloadId | None = None
    ended: bool = False
    instance: str = ""
    """The UUID of the MIG instance that it runs on; empty on a card that is not cut up."""
    marks: tuple[Span, ...] = ()
    graphics: bool = False
    """Whether it has graphics contexts alone, as display servers have."""


def joined(
    earlier: tuple[ProcessUse, ...] | None, later: tuple[ProcessUse, ...] | None
) -> tuple[ProcessUse, ...] | None:
    """One list that tells what two did: busy times add up, and who is not in the later has ended.

    Either may be `None` (nobody asked), which is nothing to add.
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
    """One MIG instance at a look: `slices` of the card's `of`, and how busy they were.

    `active_ppm` is the share of its multiprocessors that were at work since the look before, in
    parts per million; `None` where the driver does not say (before Hopper it never does).
    """

    uuid: str
    slices: int
    of: int
    active_ppm: int | None = None


class Break(StrEnum):
    """What happened to a counter between a reading and the one before it."""

    NONE = ""
    RESET = "counter_reset"
    """It began again at zero; when, only `Reading.uptime_ns` can tell."""
    REBOOT = "reboot"
    """The same, because the machine was booted."""
    IMPLAUSIBLE = "implausible"
    """It jumped by more than the device can consume, and stayed there."""
    WRAPPED = "counter_wrap"
    """It may have wrapped more than once since it was last read."""
    STALLED = "counter_stalled"
    """It stood still, or all but, while power was drawn: its energy is reported by power."""


# The order of its fields is the format of the ledger on disk: new ones go last.
class Reading(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """One successful look at one meter.

    `energy_uj` is the meter's own cumulative counter; `None` means the meter has none, and
    then `samples` (else `power_mw` alone) are integrated. `wrap_uj` is the size of a counter
    that wraps. `epoch` names the life of the counter where the system tells it (the boot id);
    `uptime_ns` is the time since the counter last started at zero, where the driver tells it.
    `max_power_mw` bounds what is plausible. `busy` says whether the device was at work: its
    utilization was above 0 (`None`: it does not tell, or was not asked). `processes` is `None`
    where this look did not ask, empty where it asked and found none; and so are `instances`.
    `covers` names the components whose meters
    are measured here too, from outside: of such a meter only the rest is booked
    (`core.energy.node_meter`).
    `modelled` says that nothing was measured: `energy_uj` or `power_mw` are a model's. `hole_ns`
    is how far apart two values of power may lie, where the meter can only be asked that seldom
    (0: as for all, `intervals.MAX_HOLE_NS`).
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
    """Set by the ledger: why the counter cannot simply be subtracted from the one before."""
    instances: tuple[InstanceUse, ...] | None = None
    covers: tuple[Component, ...] = ()
    modelled: bool = False
    hole_ns: int = 0
    by_power: PowerSum | None = None
    """Set by the ledger: what a counter should show, by power."""
    parts: tuple[Meter, ...] = ()
    """The meters that are measured inside this one: of a superchip's module its CPU socket."""
    utilization_pct: int | None = None
    """How much of the time the device was at work, where it tells that."""
    tensor_ppm: int | None = None
    """How busy its tensor cores were since the look before that told it, in parts per million."""


class Failure(msgspec.Struct, frozen=True, gc=False):
    """A look at a meter that gave nothing; `reason` is a short stable word (label `reason`)."""

    meter: Meter
    t_ns: int
    reason: str


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
    counts: Mapping[tuple[str, str], int] = {}
    """Counters of its health by name (`joulebook_gpu_NAME_total`) and the value of their label."""
    last_xid: int | None = None
    """The last Xid (0: none yet; `None`: they cannot be asked for)."""

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
