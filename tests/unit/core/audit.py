"""What must hold after every tick, whatever the world does: asserted on each pair of books.

Where each law is held, as a property of made-up worlds:

    energy is conserved      test_ledger (any world), test_attribution and test_sharing (an
                             interval: replicas, MIG), test_host (CPU, DRAM, wraps), test_supply
                             (node = leaves + other - deficit), test_tenancy (never overbooked),
                             test_ticks (a burst moves nothing but edges); archive/test_laws
                             (nodes into one ledger)
    so are money and CO2e    test_accrual
    capacity = used + idle + remainders + gaps, in GPU time (and so in hardware cost): here
    a failed read is a gap   test_metering: what is read is booked once, the rest is lost time
    looking changes nothing  test_ledger (replays, more glances); exposition/test_scrape
    a crash loses nothing    test_restart; test_ledger (a commit that failed)
    time only goes on        test_ledger (a stepped clock, another cadence, a suspend)
    the core is pure         import contracts in pyproject.toml

    all of them at once      unit/oracle: the whole daemon, against a second account of the truth

What is asserted here holds in all of them that play a world.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Mapping
from typing import Any, TypeVar

from hypothesis import HealthCheck, settings
from tests.scale import SCALE, scaled
from tests.unit.core.world import Run

from joulebook.core.energy.readings import Component, Meter
from joulebook.core.evidence import Amount, Balance, Remainder
from joulebook.core.ledger.state import Books, Entry, ExperimentState
from joulebook.core.workloads import WorkloadId

Test = TypeVar("Test", bound=Callable[..., Any])


def laws(examples: int) -> Callable[[Test], Test]:
    """The settings of a property test: no clock; see `tests/scale.py`."""
    return settings(
        max_examples=scaled(examples),
        deadline=None,
        derandomize=SCALE == 1,
        database=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )


def total(balance: Balance) -> int:
    return sum(amount.energy_uj for amount in balance.values())


def shown_experiment(state: ExperimentState) -> Balance:
    """What the exposition shows of an experiment."""
    return state.baseline if state.hold_left_ns else state.balance


class Auditor:
    """Watches a run: conservation, and that nothing ever falls. Use as `play(..., each=...)`."""

    def __init__(self) -> None:
        self._posted: Counter[Meter] = Counter()
        self._added: Counter[Meter] = Counter()
        self._earned: Counter[Component] = Counter()
        self._pooled: Counter[Component] = Counter()
        self._began: dict[Meter, int] = {}
        self._gpu_ns: Counter[Meter] = Counter()
        self._unheld_ns: Counter[Remainder] = Counter()
        self.ticks = 0

    def __call__(self, before: Books, after: Books, entry: Entry) -> None:
        self.ticks += 1
        self._check_postings(entry)
        self._check_meters(before, after)
        self._check_roll_ups(after)
        self._check_capacity(after)
        _check_rising(before, after)

    def _check_postings(self, entry: Entry) -> None:
        for key, amount in entry.postings.items():
            assert key.quarter_s % 900 == 0
            assert 0 <= amount.idle_uj <= amount.energy_uj, (key, amount)
            assert 0 <= amount.idle_ns <= amount.held_ns
            if key.meter.component is Component.GPU:
                self._gpu_ns[key.meter] += amount.held_ns
                if isinstance(key.subject, Remainder):
                    self._unheld_ns[key.subject] += amount.held_ns
            self._posted[key.meter] += amount.energy_uj
            self._added[key.meter] += amount.calibration_uj
            if isinstance(key.subject, WorkloadId):
                self._earned[key.meter.component] += amount.energy_uj

    def _check_meters(self, before: Books, after: Books) -> None:
        for meter, state in after.meters.items():
            assert self._posted[meter] == state.booked_uj
            assert self._added[meter] == state.calibration_uj
            assert state.exposed_uj >= state.read_uj >= state.booked_uj
            old = before.meters.get(meter)
            assert old is None or (
                state.booked_uj >= old.booked_uj
                and state.exposed_uj >= old.exposed_uj
                # A calibration may lower what was read before it was known; the raw figure not.
                and state.read_uj - state.calibration_uj >= old.read_uj - old.calibration_uj
                and state.base.t_ns >= old.base.t_ns
            )
            times = [state.base.t_ns, *(reading.t_ns for reading in state.pending)]
            assert times == sorted(times)

    def _check_capacity(self, after: Books) -> None:
        """Each instant of a GPU is somebody's, nobody's by a reason, or in a gap.

        The energy of some gaps is learnt later; they are in both then.
        """
        for meter, state in after.meters.items():
            began_ns = self._began.setdefault(meter, state.base.t_ns)
            if meter.component is not Component.GPU:
                continue
            capacity_ns = state.base.t_ns - began_ns
            gaps_ns = sum(ns for (where, _), ns in after.gaps_ns.items() if where == meter)
            assert self._gpu_ns[meter] <= capacity_ns <= self._gpu_ns[meter] + gaps_ns
        assert +self._unheld_ns == +Counter(after.remainder_gpu_ns)

    def _check_roll_ups(self, after: Books) -> None:
        booked: Counter[Component] = Counter()
        for meter, state in after.meters.items():
            booked[meter.component] += state.booked_uj
        by_component: Counter[Component] = Counter(self._earned)
        for (component, _), energy_uj in after.remainders.items():
            by_component[component] += energy_uj
        assert +by_component == +booked
        assert sum(after.evidence_uj.values()) == sum(booked.values())
        assert sum(after.method_uj.values()) == sum(booked.values())
        experiments = sum(total(state.balance) for state in after.experiments.values())
        unsettled = sum(total(w.balance) for w in after.workloads.values() if w.labels is None)
        assert experiments + unsettled == sum(self._earned.values())


def _check_rising(before: Books, after: Books) -> None:
    for old, new in (
        (before.remainders, after.remainders),
        (before.remainder_gpu_ns, after.remainder_gpu_ns),
        (before.evidence_uj, after.evidence_uj),
        (before.method_uj, after.method_uj),
        (before.gaps_ns, after.gaps_ns),
        (before.overflow, after.overflow),
        (before.affirmed_ns, after.affirmed_ns),
    ):
        _never_fell(old, new)  # type: ignore[arg-type]
    # Not their sum: what those who left have used goes with their series.
    for key in before.foreign_ns.keys() & after.foreign_ns.keys():
        assert before.foreign_ns[key] <= after.foreign_ns[key], key
    for id_, workload in before.workloads.items():
        if (now := after.workloads.get(id_)) is not None:
            _no_less(workload.balance, now.balance)
            if workload.labels is not None:
                assert (now.labels, now.shown, now.folded) == (
                    workload.labels,
                    workload.shown,
                    workload.folded,
                )
                assert now.hold_left_ns <= workload.hold_left_ns
    for labels, experiment in before.experiments.items():
        if (kept := after.experiments.get(labels)) is not None:
            _no_less(experiment.balance, kept.balance)
            _no_less(shown_experiment(experiment), shown_experiment(kept))


def _never_fell(old: Mapping[Hashable, int], new: Mapping[Hashable, int]) -> None:
    for key, value in old.items():
        assert new[key] >= value, key


def _no_less(old: Balance, new: Balance) -> None:
    for component, amount in old.items():
        now = new.get(component, Amount(0))
        # What a calibration added may be negative, and so fall.
        rising = zip(amount._replace(calibration_uj=0), now._replace(calibration_uj=0), strict=True)
        assert all(b >= a for a, b in rising), (component, amount, now)


def books_by_subject(run: Run) -> dict[WorkloadId | Remainder, int]:
    """The same sums from the balances in the books as from all postings, or it fails."""
    sums = run.by_subject()
    for id_, workload in run.books.workloads.items():
        assert total(workload.balance) == sums.get(id_, 0)
    return sums
