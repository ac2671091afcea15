"""Law 1 on the exposition: meters = experiments + remainders + pending, to the microjoule."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st
from tests.unit.metrics.sample import busy_view, meter_state, small_books

from joulebook.core.energy.readings import Component, Meter
from joulebook.core.evidence import Amount, Remainder
from joulebook.core.ledger.state import Books, ExperimentState, WorkloadState
from joulebook.core.workloads import Labels, WorkloadFacts, WorkloadId
from joulebook.metrics.derived import pending_uj, shown_balance

energies = st.integers(0, 10**18)
components = st.sampled_from([Component.GPU, Component.CPU])
balances = st.dictionaries(components, energies)


def add(total: Counter[Component], balance: dict[Component, int]) -> None:
    for component, energy_uj in balance.items():
        total[component] += energy_uj


def amounts(balance: dict[Component, int]) -> dict[Component, Amount]:
    return {component: Amount(energy_uj) for component, energy_uj in balance.items()}


@st.composite
def balanced_books(draw: st.DrawFn) -> Books:
    """Books as a ledger would leave them: what is booked is in workloads or remainders."""
    booked: Counter[Component] = Counter()
    workloads: dict[WorkloadId, WorkloadState] = {}
    truth: dict[Labels, Counter[Component]] = {}
    for i, (balance, experiment) in enumerate(
        draw(st.lists(st.tuples(balances, st.none() | st.integers(0, 2)), max_size=6))
    ):
        id_ = WorkloadId("slurm", str(i))
        labels = None if experiment is None else Labels("u", "a", str(experiment))
        workloads[id_] = WorkloadState(WorkloadFacts(id_), amounts(balance), 0, labels)
        add(booked, balance)
        if labels is not None:
            add(truth.setdefault(labels, Counter()), balance)
    experiments: dict[Labels, ExperimentState] = {}
    for labels, balance in truth.items():
        earlier = draw(balances)  # of workloads that are off the air
        add(booked, earlier)
        add(balance, earlier)
        hold_ns = draw(st.sampled_from([0, 1]))
        experiments[labels] = ExperimentState(amounts(balance), amounts(earlier), hold_ns, 0)
    remainders = draw(
        st.dictionaries(st.tuples(components, st.sampled_from(Remainder)), energies, max_size=4)
    )
    for (component, _), energy_uj in remainders.items():
        booked[component] += energy_uj
    meters = {}
    for component in Component:
        if component in booked or draw(st.booleans()):
            first = draw(st.integers(0, booked[component]))
            for i, part_uj in enumerate((first, booked[component] - first)):
                meter = Meter(component, str(i))
                meters[meter] = meter_state(meter, part_uj, part_uj + draw(energies))
    return Books(meters=meters, workloads=workloads, experiments=experiments, remainders=remainders)


def assert_balanced(books: Books) -> None:
    pending = pending_uj(books)
    for component in Component:
        read_uj = sum(s.read_uj for m, s in books.meters.items() if m.component is component)
        shown_uj = sum(
            amount.energy_uj
            for experiment in books.experiments.values()
            for part, amount in shown_balance(experiment).items()
            if part is component
        )
        rest_uj = sum(uj for (part, _), uj in books.remainders.items() if part is component)
        assert read_uj == shown_uj + rest_uj + pending.get(component, 0)


@given(balanced_books())
def test_what_is_shown_and_pending_is_what_was_read(books: Books) -> None:
    assert_balanced(books)


def test_every_metered_component_is_named() -> None:
    assert set(pending_uj(small_books())) == {Component.GPU, Component.CPU}
    assert pending_uj(Books()) == {}


def test_samples_of_these_tests_balance() -> None:
    assert_balanced(small_books())
    assert_balanced(busy_view().books)
