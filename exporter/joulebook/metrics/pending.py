"""Energy that was read and is in no counter yet, so that a node's counters always add up.

meters = experiments + unexposed + remainders + pending      (integers, before quantising)
"""

from __future__ import annotations

from collections.abc import Mapping

from joulebook.core.energy.readings import Component
from joulebook.core.evidence import ZERO, Balance
from joulebook.core.ledger.state import Books, ExperimentState


def shown_balance(experiment: ExperimentState) -> Balance:
    """What an experiment's counters show: its baseline while it is held, else the truth."""
    return experiment.baseline if experiment.hold_left_ns > 0 else experiment.balance


def pending_uj(books: Books) -> Mapping[Component, int]:
    """Read energy (uJ) that neither an experiment nor a remainder shows yet, by component.

    It is waiting to be booked (late evidence may come), belongs to a workload whose labels are
    not settled, or to an experiment whose series is held at its baseline so that Prometheus
    sees where it starts. Every component that has a meter is in the answer.
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
    """Energy (uJ) of experiments that have no series any more, by component."""
    unexposed = {meter.component: 0 for meter in books.meters}
    for experiment in books.experiments.values():
        if not experiment.exposed:
            for component, amount in experiment.balance.items():
                unexposed[component] = unexposed.get(component, 0) + amount.energy_uj
    return unexposed
