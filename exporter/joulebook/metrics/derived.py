"""A view with what several metrics need of it, worked out once; and how values are shown.

Energy that was read and is in no counter yet is pending, so that a node's counters always add up:

meters = experiments + unexposed + remainders + pending      (integers, before quantising)

The daemon's own use is from `/proc/self` (60 us): prometheus-client has a collector of the same,
but importing it costs 3 MiB.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from functools import cache, cached_property
from pathlib import Path
from typing import NamedTuple, TypeVar, cast

import msgspec

from joulebook.core.attribution.claims import Evidence
from joulebook.core.attribution.host import COMPONENTS
from joulebook.core.energy.readings import Component, Meter
from joulebook.core.evidence import ZERO, Balance
from joulebook.core.ledger.series import OVERFLOW, pool_id
from joulebook.core.ledger.state import Books, ExperimentState
from joulebook.core.workloads import Labels, WorkloadFacts, WorkloadId
from joulebook.metrics.snapshot import DeviceStatus, Snapshot
from joulebook.units import NS_PER_S, UJ_PER_J

T = TypeVar("T")


def shown_balance(experiment: ExperimentState) -> Balance:
    """Return what an experiment's counters show: its baseline while held, else its balance."""
    return experiment.baseline if experiment.hold_left_ns > 0 else experiment.balance


def pending_uj(books: Books) -> Mapping[Component, int]:
    """Return the energy (uJ) read that no experiment or remainder shows yet, by component.

    It waits to be booked (for late evidence), belongs to a workload whose labels are not settled,
    or to an experiment whose series is held at its baseline so that Prometheus sees it start there.
    The result has every component that has a meter.
    """
    pending: dict[Component, int] = {}

    def add(component: Component, energy_uj: int) -> None:
        pending[component] = pending.get(component, 0) + energy_uj

    for meter, state in books.meters.items():
        add(meter.component, state.exposed_uj - state.booked_uj)
    for workload in books.workloads.values():
        if workload.labels is None:
            for component, amount in workload.balance.items():
                add(component, amount.energy_uj)
    for experiment in books.experiments.values():
        if experiment.hold_left_ns > 0 and experiment.exposed:
            for component, amount in experiment.balance.items():
                shown = experiment.baseline.get(component, ZERO)
                add(component, amount.energy_uj - shown.energy_uj)
    return pending


def unexposed_uj(books: Books) -> Mapping[Component, int]:
    """Return the energy (uJ) of experiments that no longer have series, by component."""
    unexposed = {meter.component: 0 for meter in books.meters}
    for experiment in books.experiments.values():
        if not experiment.exposed:
            for component, amount in experiment.balance.items():
                unexposed[component] = unexposed.get(component, 0) + amount.energy_uj
    return unexposed


UNKNOWN = ("", "(unknown)", "", "", "")
"""The labels of a holder that certainly exists but is unknown."""


def joules(energy_uj: int) -> float:
    """Microjoules as they are shown: floored to 2^-6 J below 1000 J, to whole joules above."""
    if energy_uj >= 1000 * UJ_PER_J:
        return energy_uj // UJ_PER_J
    return (energy_uj << 6) // UJ_PER_J / 64


def seconds(duration_ns: int) -> float:
    """Nanoseconds as they are shown: seconds, floored to 2^-10."""
    return (duration_ns << 10) // NS_PER_S / 1024


class ShownWorkload(NamedTuple):
    """A workload that has a series of its own, as it is shown."""

    identity: tuple[str, str, str, str, str]
    facts: WorkloadFacts
    balance: Balance
    """Components it has or will have; all zero while its series are held at zero."""


class Derived:
    """A snapshot with lazily derived values, so that a failure affects one metric only."""

    def __init__(
        self, view: Snapshot, process: ProcessStats | None, errors: Mapping[str, int]
    ) -> None:
        self.view = view
        self.books = view.books
        self.process = process
        self.errors = errors
        self._kept: dict[Callable[[Derived], object], object] = {}

    def once(self, work_out: Callable[[Derived], T]) -> T:
        """Return what `work_out` makes of this; worked out when it is first wanted."""
        if work_out not in self._kept:
            self._kept[work_out] = work_out(self)
        return cast(T, self._kept[work_out])

    @property
    def is_charged(self) -> bool:
        """Whether anything is, was or will be charged."""
        return bool(self.view.charges or self.view.rates.hardware or self.books.charges)

    @cached_property
    def gpus(self) -> list[tuple[tuple[str, str], DeviceStatus]]:
        """The GPUs and their labels."""
        return [
            ((str(status.index), status.meter.name), status)
            for status in self.view.devices
            if status.meter.component is Component.GPU
        ]

    @cached_property
    def held(self) -> Mapping[WorkloadId, set[Meter]]:
        """The meters that workloads hold, or held and are not yet booked to the end."""
        held: dict[WorkloadId, set[Meter]] = {}
        for claim in self.books.claims:
            if claim.workload is not None:
                workload = self.books.booked_to(claim.workload)
                held.setdefault(workload, set()).add(claim.meter)
        for meter, holders in self.view.holders.items():
            for holder in holders:
                if holder.workload is not None:
                    held.setdefault(holder.workload, set()).add(meter)
        shared = {meter for meter in self.books.meters if meter.component in COMPONENTS}
        newest = max(self.books.snapshots, default=None)
        for use in self.books.snapshots[newest].uses if newest is not None and shared else ():
            held.setdefault(self.books.booked_to(use.workload), set()).update(shared)
        # Whatever the next one of an overflow holds: its series must be seen at zero before.
        overflows = (key for key in self.books.workloads if key.scheduler == OVERFLOW)
        held.update((key, set(self.books.meters)) for key in overflows)
        return held

    @cached_property
    def components(self) -> Mapping[WorkloadId, set[Component]]:
        """The components that a workload with settled labels consumes energy on, or will.

        A component counts from the moment it is held, before anything is booked on it: its
        series must be seen at zero first.
        """
        components: dict[WorkloadId, set[Component]] = {}
        for key, state in self.books.workloads.items():
            if state.labels is None:
                continue
            found = {meter.component for meter in self.held.get(key, ())}
            found.update(state.balance)
            if state.facts.gpu_count:
                found.add(Component.GPU)
            components.setdefault(key, set()).update(found)
            if state.folded:
                components.setdefault(pool_id(state.labels), set()).update(found)
        return components

    @cached_property
    def workloads(self) -> Mapping[WorkloadId, ShownWorkload]:
        """The workloads that are shown."""
        shown: dict[WorkloadId, ShownWorkload] = {}
        for key, state in self.books.workloads.items():
            if state.labels is None or state.folded:
                continue
            booked: Balance = {} if state.hold_left_ns > 0 else state.balance
            shown[key] = ShownWorkload(
                (key.scheduler, state.shown, *state.labels),
                state.facts,
                {part: booked.get(part, ZERO) for part in sorted(self.components[key])},
            )
        return shown

    def coverage(self, key: WorkloadId) -> float | None:
        """Return the share of the GPU time held by a workload for which its energy is known.

        `None`: that is not known. It holds as many GPUs as it was given from its start to its end,
        or until now; parts of GPUs are left out, since they may change.
        """
        state = self.books.workloads[key]
        facts = state.facts
        is_held = facts.evidence not in {"", Evidence.PROCESSES.label}
        if not is_held or state.shared or not facts.gpu_count or not facts.started_ns:
            return None
        ends_ns = []
        for meter in self.held.get(key, ()):
            if meter.component is Component.GPU and (read := self.books.meters.get(meter)):
                ends_ns.append(read.gap_to_ns if read.gap_reason else read.base.t_ns)
        until_ns = min(ends_ns, default=state.ended_ns or 0)
        if state.ended_ns is not None:
            until_ns = min(until_ns, state.ended_ns)
        held_ns = facts.gpu_count * (until_ns - facts.started_ns)
        amount = state.balance.get(Component.GPU, ZERO)
        return min(amount.held_ns / held_ns, 1.0) if held_ns > 0 else None

    @cached_property
    def experiments(self) -> Mapping[Labels, Balance]:
        """The experiments as they are shown, with the components they have or will have."""
        coming: dict[Labels, set[Component]] = {}
        for key, components in self.components.items():
            state = self.books.workloads.get(key)
            if state is not None and state.labels is not None:
                coming.setdefault(state.labels, set()).update(components)
        shown: dict[Labels, Balance] = {}
        for labels, experiment in self.books.experiments.items():
            if not experiment.exposed:
                continue
            booked = shown_balance(experiment)
            found = coming.get(labels, set()).union(experiment.balance, experiment.baseline)
            shown[labels] = {part: booked.get(part, ZERO) for part in sorted(found)}
        return shown

    def holders(self, meter: Meter) -> Iterator[tuple[tuple[str, ...], float]]:
        """Who holds or uses a meter now, by the labels of their series, and which share of it."""
        shares: dict[WorkloadId | None, float] = {}
        for holder in self.view.holders.get(meter, ()):
            part = holder.parts / holder.of
            shares[holder.workload] = shares.get(holder.workload, 0.0) + part
        return self._labelled(shares)

    def unsettled(self, meter: Meter) -> int:
        """Return how many workloads on a meter are not named yet."""
        there = {holder.workload for holder in self.view.holders.get(meter, ())}
        return sum(self._identity(workload) is None for workload in there)

    def draws(self, meter: Meter) -> Iterator[tuple[tuple[str, ...], float]]:
        """The same, with the part of its power that each draws; where unknown, what each holds."""
        draws = self.view.draws.get(meter)
        return self._labelled(draws) if draws else self.holders(meter)

    def _labelled(
        self, shares: Mapping[WorkloadId | None, float]
    ) -> Iterator[tuple[tuple[str, ...], float]]:
        """By labels. A workload whose labels are not settled is left out; one that is folded
        counts in the series of its owner's overflow.
        """
        found: dict[tuple[str, ...], float] = {}
        for workload, share in shares.items():
            identity = self._identity(workload)
            if identity is not None:
                found[identity] = found.get(identity, 0.0) + share
        return iter(found.items())

    def _identity(self, workload: WorkloadId | None) -> tuple[str, ...] | None:
        if workload is None:
            return UNKNOWN
        state = self.books.workloads.get(workload)
        if state is None or state.labels is None:
            return None
        if state.folded:
            return (OVERFLOW, OVERFLOW, *state.labels[:2], OVERFLOW)
        return (workload.scheduler, state.shown, *state.labels)


_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


class ProcessStats(msgspec.Struct, frozen=True, gc=False):
    """Resource use of this process; `start_s` is its start in UTC seconds."""

    cpu_s: float
    resident_bytes: int
    virtual_bytes: int
    open_fds: int
    start_s: float


def process_stats(proc: Path = Path("/proc")) -> ProcessStats | None:
    """Read the statistics (proc(5)); `None` if `proc` does not have them."""
    try:
        # The command name, in parentheses, may itself contain spaces and parentheses.
        fields = (proc / "self/stat").read_text("ascii", "replace").rpartition(")")[2].split()
        return ProcessStats(
            cpu_s=(int(fields[11]) + int(fields[12])) / _TICKS_PER_S,
            resident_bytes=int(fields[21]) * _PAGE_BYTES,
            virtual_bytes=int(fields[20]),
            open_fds=len(os.listdir(proc / "self/fd")),  # noqa: PTH208 - no path for each
            start_s=_booted_s(proc) + int(fields[19]) / _TICKS_PER_S,
        )
    except (OSError, ValueError, IndexError, StopIteration):
        return None


@cache
def _booted_s(proc: Path) -> int:
    """When the machine was booted; asked once, for the file lists every interrupt before that."""
    lines = (proc / "stat").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("btime ")).split()[1])
