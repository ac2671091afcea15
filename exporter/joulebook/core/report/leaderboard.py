"""The leaderboard: the energy and cost of results, and of each improvement.

A board ranks entrants of one metric on one GPU model, since kWh of different hardware are not
comparable (Green AI, Schwartz et al. 2020). Its front contains the entrants that no other reaches
with less energy; along the front each step has a price: kWh and money per point gained. Values are
exact fractions and energies integers, so that the figures do not depend on the order of sums.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from fractions import Fraction
from typing import NamedTuple

import msgspec

UNKNOWN_GPU = ""
"""The model of unknown hardware: such entrants rank among themselves."""


class Unit(StrEnum):
    """The unit of a metric's values, and so of a point."""

    PERCENT = "percent"
    RATIO = "ratio"
    PLAIN = "plain"

    @property
    def point(self) -> Fraction:
        """One point in units of the value: a percentage point, or one of whatever it is."""
        return Fraction(1, 100) if self is Unit.RATIO else Fraction(1)


class ComparedMetric(msgspec.Struct, frozen=True):
    """A metric: its name, which direction is better, and its unit."""

    name: str
    higher: bool = True
    unit: Unit = Unit.PLAIN

    def better(self, value: Fraction, than: Fraction) -> bool:
        """Return whether one value is strictly better."""
        return value > than if self.higher else value < than

    def gained(self, before: Fraction, after: Fraction) -> Fraction:
        """Points gained from one value to another; negative if it is worse."""
        return (after - before if self.higher else before - after) / self.unit.point


class Join(StrEnum):
    """How a result was joined to its energy; the values are displayed."""

    RUN = "run id"
    TAG = "tag"
    EXPERIMENT = "experiment"
    INFERRED = "inferred from time and host"
    GIVEN = "given with the result"


class Entrant(msgspec.Struct, frozen=True):
    """One result with its energy in uJ and money in nano-units by currency.

    Attributes:
        runs: Number of runs that the energy is from, including failed ones.
        flops: The author's statement on the computation.
        hedge: Caveats for the reader.
        gpu_uj: The part of the energy that is from GPUs; `None`: unknown.
        host: Share of the time for which hosts were measured, too; `None`: unknown.
        partial: Why the energy is incomplete; empty: it is complete.
        own_uj: The energy with a job's split among its results; `None`: all of it.
        co2e_ug: CO2e, of everything measured; `None`: unknown.
        coverage: Share of the held GPU time that is measured; `None`: unknown.

    """

    name: str
    value: Fraction
    energy_uj: int
    cost_nano: Mapping[str, int] = {}
    gpu: str = UNKNOWN_GPU
    runs: int = 1
    flops: float | None = None
    join: Join = Join.GIVEN
    hedge: str = ""
    experiment: str = ""
    gpu_uj: int | None = None
    host: float | None = None
    partial: str = ""
    own_uj: Fraction | None = None
    co2e_ug: int | None = None
    coverage: float | None = None

    @property
    def inferred(self) -> bool:
        """Return whether the join of energy and result was inferred."""
        return self.join is Join.INFERRED


class FrontStep(msgspec.Struct, frozen=True):
    """One entrant of the front, and the cost per point since the previous one.

    `uj_per_point`, `cost_per_point` (nano-units) and `ug_per_point` (CO2e) are `None` for the
    first; money and CO2e too where either of the two has none.
    """

    entrant: Entrant
    gained: Fraction | None = None
    uj_per_point: Fraction | None = None
    cost_per_point: Mapping[str, Fraction] | None = None
    ug_per_point: Fraction | None = None


class Dominated(NamedTuple):
    """An entrant that is not on the front, and one that is at least as good for no more energy."""

    entrant: Entrant
    by: Entrant


class Aside(NamedTuple):
    """An entrant that is not compared, and why."""

    entrant: Entrant
    why: str


class RankBoundary(StrEnum):
    """What the energy of a board covers; the values are displayed."""

    HOSTS = "GPUs and their hosts"
    GPUS = "GPUs alone"
    GIVEN = "as the authors gave it"


class Board(msgspec.Struct, frozen=True):
    """The ranking of one metric on one GPU model; `front` by energy, the least first."""

    title: str
    metric: ComparedMetric
    gpu: str
    front: tuple[FrontStep, ...]
    dominated: tuple[Dominated, ...] = ()
    aside: tuple[Aside, ...] = ()
    boundary: RankBoundary = RankBoundary.GIVEN

    @property
    def compared(self) -> list[Entrant]:
        """Those that compare, with their energy of the same boundary."""
        return [step.entrant for step in self.front] + [each.entrant for each in self.dominated]

    @property
    def entrants(self) -> tuple[Entrant, ...]:
        """All of them, the least energy first."""
        every = [*self.compared, *(each.entrant for each in self.aside)]
        return tuple(sorted(every, key=lambda e: (e.energy_uj, e.name)))


def boards(title: str, metric: ComparedMetric, entrants: Iterable[Entrant]) -> list[Board]:
    """Return a board for each GPU model, by its name; hardware that is not known comes last."""
    groups: dict[str, list[Entrant]] = {}
    for entrant in entrants:
        groups.setdefault(entrant.gpu, []).append(entrant)
    return [
        board(title, metric, gpu, groups[gpu])
        for gpu in sorted(groups, key=lambda gpu: (gpu == UNKNOWN_GPU, gpu))
    ]


def board(title: str, metric: ComparedMetric, gpu: str, entrants: Sequence[Entrant]) -> Board:
    """Rank entrants of the same hardware, by the energy that all of them have.

    If hosts were not measured for all, GPUs are compared. Lower bounds, and energy stated by an
    author among measured ones, are shown but not compared: they would win by what they lack.
    """
    compared, aside, boundary = _comparable(entrants)
    # The least energy first, then the best value: a later entrant is on the front only if it is
    # better than all before it.
    ordered = sorted(
        compared,
        key=lambda e: (e.energy_uj, -e.value if metric.higher else e.value, e.name),
    )
    front: list[Entrant] = []
    behind: list[Entrant] = []
    for entrant in ordered:
        best = front[-1] if front else None
        ties = best is not None and (best.energy_uj, best.value) == (
            entrant.energy_uj,
            entrant.value,
        )
        if best is None or ties or metric.better(entrant.value, best.value):
            front.append(entrant)
        else:
            behind.append(entrant)
    dominated = [
        Dominated(entrant, next(f for f in front if not metric.better(entrant.value, f.value)))
        for entrant in behind
    ]
    return Board(
        title,
        metric,
        gpu,
        tuple(_steps(metric, front)),
        tuple(dominated),
        tuple(sorted(aside, key=lambda each: (each.entrant.energy_uj, each.entrant.name))),
        boundary,
    )


_ALL = 0.9995
"""Hosts measured for at least this share of the time count as measured."""


def _comparable(
    entrants: Sequence[Entrant],
) -> tuple[list[Entrant], list[Aside], RankBoundary]:
    """Split entrants into those that compare, in energy of the same boundary, and the others."""
    aside = [Aside(each, f"a lower bound: {each.partial}") for each in entrants if each.partial]
    whole = [each for each in entrants if not each.partial]
    measured = [each for each in whole if each.join is not Join.GIVEN]
    if not measured:
        return whole, aside, RankBoundary.GIVEN
    aside += [
        Aside(each, "its energy was stated by its author, that of others was measured")
        for each in whole
        if each.join is Join.GIVEN
    ]
    if all(each.host is not None and each.host >= _ALL for each in measured):
        return measured, aside, RankBoundary.HOSTS
    aside += [
        Aside(each, "nothing was measured of its GPUs, which are what is compared")
        for each in measured
        if each.gpu_uj == 0
    ]
    narrowed = [
        each if each.gpu_uj is None else _narrowed(each, each.gpu_uj)
        for each in measured
        if each.gpu_uj != 0
    ]
    return narrowed, aside, RankBoundary.GPUS


def _narrowed(entrant: Entrant, gpu_uj: int) -> Entrant:
    own_uj = entrant.own_uj
    if own_uj is not None:
        own_uj *= Fraction(gpu_uj, entrant.energy_uj)
    return msgspec.structs.replace(entrant, energy_uj=gpu_uj, own_uj=own_uj)


def _steps(metric: ComparedMetric, front: Sequence[Entrant]) -> Iterable[FrontStep]:
    before: Entrant | None = None
    for entrant in front:
        gained = None if before is None else metric.gained(before.value, entrant.value)
        if before is None or not gained:
            yield FrontStep(entrant)
        else:
            # Money and CO2e cover everything measured: with different boundaries they do not
            # compare.
            alike = (entrant.host or 0.0) == (before.host or 0.0)
            spent = {
                currency: Fraction(entrant.cost_nano[currency] - before.cost_nano[currency])
                for currency in sorted(entrant.cost_nano.keys() & before.cost_nano.keys())
                if alike
            }
            emitted = None
            if alike and entrant.co2e_ug is not None and before.co2e_ug is not None:
                emitted = Fraction(entrant.co2e_ug - before.co2e_ug) / gained
            yield FrontStep(
                entrant,
                gained,
                Fraction(entrant.energy_uj - before.energy_uj) / gained,
                {currency: nano / gained for currency, nano in spent.items()} or None,
                emitted,
            )
        before = entrant


class Expected(NamedTuple):
    """The expected best result of `trials` runs, and the energy of that many runs."""

    trials: int
    value: Fraction
    energy_uj: Fraction


def expected_best(metric: ComparedMetric, values: Sequence[Fraction], trials: int) -> Fraction:
    """Return E[V*_n], the expected best value of `trials` random runs, from the runs made.

    E[V*_n] = sum_i v_i [(i/N)^n - ((i-1)/N)^n], v ascending from the worst to the best (Dodge et
    al. 2019, "Show Your Work", eq. 3). Raises `ValueError` without values or trials.
    """
    if not values or trials < 1:
        raise ValueError("at least one value and one trial")
    ordered = sorted(values, reverse=not metric.higher)
    whole = len(ordered)
    return sum(
        (
            value * (Fraction(i, whole) ** trials - Fraction(i - 1, whole) ** trials)
            for i, value in enumerate(ordered, start=1)
        ),
        Fraction(0),
    )


def against_budget(metric: ComparedMetric, runs: Sequence[Entrant]) -> list[Expected]:
    """Return the expected best of 1, 2, 4, ... up to all runs, at their mean energy."""
    if not runs:
        return []
    energies = [Fraction(run.energy_uj) if run.own_uj is None else run.own_uj for run in runs]
    mean_uj = sum(energies, Fraction(0)) / len(runs)
    counts, count = [], 1
    while count < len(runs):
        counts.append(count)
        count *= 2
    values = [run.value for run in runs]
    return [
        Expected(trials, expected_best(metric, values, trials), trials * mean_uj)
        for trials in (*counts, len(runs))
    ]
