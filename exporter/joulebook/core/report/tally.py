"""Exact totals of runs: energy, held time, charges, and how they are known."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple, TypeVar

import msgspec

from joulebook.core.energy.readings import Component
from joulebook.core.evidence import Subject, counted
from joulebook.core.money.amounts import CALIBRATION, Charges, total
from joulebook.core.money.rates import PER_KWH, PPM
from joulebook.core.report.dataset import Posting, UsedRate

K = TypeVar("K", Component, str)

UNKNOWN = ""
"""The method or evidence of energy if the source does not know it."""

ENOUGH = 0.995
"""If less than this share of the held GPU time is measured, energy is called a lower bound."""

HOST = "host"
"""All components of a host other than GPUs."""


class Held(msgspec.Struct, frozen=True):
    """Parts of runs, a part being a workload on a node: how many, the GPU time that they held, and
    the energy of their GPUs.
    """

    count: int = 0
    held_ns: int = 0
    gpu_uj: int = 0

    def plus(self, other: Held) -> Held:
        """Return the sum."""
        return Held(
            self.count + other.count, self.held_ns + other.held_ns, self.gpu_uj + other.gpu_uj
        )


class Tally(msgspec.Struct, frozen=True):
    """Total consumption, held time and charges; every mapping adds up to `energy_uj`.

    Attributes:
        wall_ns: Held GPU time to be covered; `None`: unknown.
        facility: Energy of the facility as far as a PUE was known, in uJ x 10^-6.
        no_pue_uj: Energy without a known PUE.
        water: Water as far as a WUE of site and grid was known, in atoms of `PER_KWH` to a uL.
        no_water_uj: Energy without them.
        parts: All parts.
        parts_with: The parts with energy of a host component, by component; under `HOST`, of any.

    """

    by_component: Mapping[Component, int] = {}
    by_method: Mapping[str, int] = {}
    by_evidence: Mapping[str, int] = {}
    idle_uj: int = 0
    held_ns: int = 0
    wall_ns: int | None = 0
    bill: Charges = {}
    facility: int = 0
    no_pue_uj: int = 0
    parts: Held = Held()
    parts_with: Mapping[str, Held] = {}
    water: int = 0
    no_water_uj: int = 0

    @property
    def energy_uj(self) -> int:
        """All of it."""
        return sum(self.by_component.values())

    @property
    def gpu_uj(self) -> int:
        """That of GPUs."""
        return self.by_component.get(Component.GPU, 0)

    @property
    def facility_uj(self) -> int | None:
        """Return the facility energy; `None` if a PUE was not known for all of it."""
        return None if self.no_pue_uj else (2 * self.facility + PPM) // (2 * PPM)

    @property
    def water_ul(self) -> int | None:
        """Return the water in microlitres; `None` if it was not known for all of the energy."""
        return None if self.no_water_uj else (2 * self.water + PER_KWH) // (2 * PER_KWH)

    @property
    def gpu_ns(self) -> int:
        """Return the GPU time held: from start to end if known, else what was booked."""
        return self.held_ns if self.wall_ns is None else max(self.wall_ns, self.held_ns)

    @property
    def coverage(self) -> float | None:
        """Return the measured share of the held time; `None`: unknown, or nothing was held."""
        if not self.wall_ns:
            return None
        return min(self.held_ns / self.wall_ns, 1.0)

    def measured_with(self, component: str) -> float:
        """Share of the GPU time (without any: of the parts) for which a component was measured."""
        found = self.parts_with.get(component, Held())
        if self.parts.held_ns:
            return found.held_ns / self.parts.held_ns
        return found.count / self.parts.count if self.parts.count else 0.0


NOTHING = Tally()


def added(tallies: Iterable[Tally]) -> Tally:
    """Return the sum of tallies."""
    every = list(tallies)
    walls = [each.wall_ns for each in every]
    return Tally(
        _sums(each.by_component for each in every),
        _sums(each.by_method for each in every),
        _sums(each.by_evidence for each in every),
        sum(each.idle_uj for each in every),
        sum(each.held_ns for each in every),
        None if None in walls else sum(wall for wall in walls if wall is not None),
        total(each.bill for each in every),
        sum(each.facility for each in every),
        sum(each.no_pue_uj for each in every),
        sum_of(each.parts for each in every),
        {
            name: sum_of(each.parts_with.get(name, Held()) for each in every)
            for name in sorted({name for each in every for name in each.parts_with})
        },
        sum(each.water for each in every),
        sum(each.no_water_uj for each in every),
    )


def sum_of(parts: Iterable[Held]) -> Held:
    """Return the sum of parts."""
    return functools.reduce(Held.plus, parts, Held())


def _sums(parts: Iterable[Mapping[K, int]]) -> Mapping[K, int]:
    return counted(pair for part in parts for pair in part.items())


PUE, WATER_SITE, WATER_GRID = "pue", "water_site", "water_grid"

Place = tuple[str, int]
"""A node and the UTC start of a quarter hour."""


class Facility(NamedTuple):
    """What the site adds to energy, by place: PUE in millionths, water in uL per kWh."""

    pue: Mapping[Place, int]
    water_site: Mapping[Place, int]
    water_grid: Mapping[Place, int]

    @classmethod
    def of(cls, rates: Sequence[UsedRate]) -> Facility:
        """Take it out of the rates that were used."""
        return cls(*(mean_of(rates, quantity) for quantity in (PUE, WATER_SITE, WATER_GRID)))

    def water(self, place: Place) -> int | None:
        """Return uL per kWh of IT energy, in millionths; `None`: not known."""
        pue, site, grid = (curve.get(place) for curve in self)
        return None if pue is None or site is None or grid is None else site * PPM + grid * pue


def mean_of(rates: Iterable[UsedRate], quantity: str) -> Mapping[Place, int]:
    """Return a rate by node and quarter hour; of several in one, their mean by energy."""
    sums: dict[Place, list[int]] = {}
    for row in rates:
        if row.used.quantity == quantity:
            both = sums.setdefault((row.node, row.used.quarter_s), [0, 0])
            both[0] += row.energy_uj * row.used.value
            both[1] += row.energy_uj
    return {key: energy // weight for key, (energy, weight) in sums.items() if weight}


class Calibrated(NamedTuple):
    """What is left of the error of a meter in a quarter hour, in percent, and who says so."""

    percent: float
    sources: frozenset[str]


def calibrations(rates: Iterable[UsedRate]) -> Mapping[tuple[str, str, int], Calibrated]:
    """The calibrations by node, meter and quarter hour; of several in one, their mean by energy."""
    rows: dict[tuple[str, str, int], list[UsedRate]] = {}
    for row in rates:
        name = row.used.quantity.removeprefix(CALIBRATION)
        if name != row.used.quantity and row.energy_uj:
            rows.setdefault((row.node, name, row.used.quarter_s), []).append(row)
    return {
        key: Calibrated(
            100
            * sum(r.energy_uj * r.used.value for r in found)
            / (PPM * sum(r.energy_uj for r in found)),
            frozenset(row.used.source for row in found),
        )
        for key, found in rows.items()
    }


def booked(
    rows: Sequence[Posting],
    bill: Charges,
    site: Facility,
    wall_ns: int | None,
) -> Tally:
    """Return the totals of postings and charges."""
    components: dict[Component, int] = {}
    methods: dict[str, int] = {}
    evidence: dict[str, int] = {}
    idle_uj = held_ns = facility = no_pue_uj = water = no_water_uj = 0
    for row in rows:
        component, energy_uj = row.meter.component, row.amount.energy_uj
        components[component] = components.get(component, 0) + energy_uj
        method = UNKNOWN if row.method is None else str(row.method)
        methods[method] = methods.get(method, 0) + energy_uj
        reported = row.evidence or UNKNOWN
        evidence[reported] = evidence.get(reported, 0) + energy_uj
        idle_uj += row.amount.idle_uj
        if component is Component.GPU:
            held_ns += row.amount.held_ns
        place = (row.node, row.quarter_s)
        per_kwh = site.water(place)
        if per_kwh is None:
            no_water_uj += energy_uj
        else:
            water += energy_uj * per_kwh
        ppm = site.pue.get(place)
        if ppm is None:
            no_pue_uj += energy_uj
        else:
            facility += energy_uj * ppm
    return Tally(
        components, methods, evidence, idle_uj, held_ns, wall_ns, bill, facility, no_pue_uj,
        *_parts(rows), water, no_water_uj,
    )  # fmt: skip


def _parts(rows: Iterable[Posting]) -> tuple[Held, dict[str, Held]]:
    """Return all parts, and those to which a host component was booked, by component."""
    held: dict[tuple[Subject, str], Held] = {}
    seen: dict[str, set[tuple[Subject, str]]] = {}
    for row in rows:
        part, component = (row.subject, row.node), row.meter.component
        is_gpu = component is Component.GPU
        of_gpu = Held(0, row.amount.held_ns, row.amount.energy_uj) if is_gpu else Held()
        held[part] = held.get(part, Held(1)).plus(of_gpu)
        if not is_gpu:
            seen.setdefault(component, set()).add(part)
            seen.setdefault(HOST, set()).add(part)
    return sum_of(held.values()), {
        name: sum_of(held[part] for part in parts) for name, parts in seen.items()
    }
