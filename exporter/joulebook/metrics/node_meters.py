"""What each meter counted, what of it no workload got, and the node's meter beside those in it."""

from __future__ import annotations

from collections.abc import Iterator

from joulebook.core.energy.node_meter import NodeMeter
from joulebook.core.energy.readings import Component, Meter
from joulebook.core.evidence import Remainder
from joulebook.metrics.catalogue import GAP_REASONS, GPU_GAP_REASONS
from joulebook.metrics.derived import Derived, joules, seconds
from joulebook.units import MW_PER_W

Sample = tuple[tuple[str, ...], float]


def _whole(derived: Derived) -> Iterator[tuple[Meter, NodeMeter]]:
    """Yield the meters of the whole node, and not of a module in it."""
    for meter, node_meter in derived.books.node_meters.items():
        if not node_meter.parts:
            yield meter, node_meter


def node_energy(derived: Derived) -> Iterator[Sample]:
    """Yield what the node's meter counted."""
    for meter, node_meter in _whole(derived):
        yield (meter.name,), joules(node_meter.node_uj)


def covered_energy(derived: Derived) -> Iterator[Sample]:
    """Yield the energy of the child meters over the same time."""
    for meter, node_meter in _whole(derived):
        yield (meter.name,), joules(node_meter.children_uj)


def deficit(derived: Derived) -> Iterator[Sample]:
    """By how much they exceed it."""
    for meter, node_meter in _whole(derived):
        yield (meter.name,), joules(node_meter.deficit_uj)


def omits(derived: Derived) -> Iterator[Sample]:
    """Yield what it appears to leave out; 0 for every component that it should include."""
    for meter, node_meter in _whole(derived):
        for component in node_meter.covers:
            yield (meter.name, component), int(component == node_meter.omits)


def idle_power(derived: Derived) -> Iterator[Sample]:
    """Yield the learned idle floor of each meter."""
    for meter, state in derived.books.meters.items():
        if state.idle_mw is not None:
            yield (meter.component, meter.name), state.idle_mw / MW_PER_W


def meters(derived: Derived) -> Iterator[Sample]:
    """Yield what each meter counted."""
    for meter, state in derived.books.meters.items():
        yield (meter.component, meter.name), joules(state.exposed_uj)


def gaps(derived: Derived) -> Iterator[Sample]:
    """Yield the time without energy, by reason."""
    known = {
        (meter, reason): 0
        for meter in derived.books.meters
        for reason in GAP_REASONS + GPU_GAP_REASONS * (meter.component is Component.GPU)
    }
    for (meter, reason), gap_ns in {**known, **derived.books.gaps_ns}.items():
        yield (meter.component, meter.name, reason), seconds(gap_ns)


def counter_power_ratio(derived: Derived) -> Iterator[Sample]:
    """Yield what the counters show against power."""
    for labels, status in derived.gpus:
        state = derived.books.meters.get(status.meter)
        if state is not None and state.audit.ratio:
            scope = "module" if state.last.parts else "gpu"
            yield (*labels, scope), round(state.audit.ratio, 4)


def remainders(derived: Derived) -> Iterator[Sample]:
    """Yield what was attributed to no workload, by reason."""
    # All of them from the start, at zero: a counter that appears with a value hides an increase.
    known = {(meter.component, reason): 0 for meter in derived.books.meters for reason in Remainder}
    for (component, reason), energy_uj in {**known, **derived.books.remainders}.items():
        yield (component, reason), joules(energy_uj)


def remainder_gpu_time(derived: Derived) -> Iterator[Sample]:
    """Yield the GPU time of no workload, by reason."""
    if any(meter.component is Component.GPU for meter in derived.books.meters):
        for reason in Remainder:
            yield (reason,), seconds(derived.books.remainder_gpu_ns.get(reason, 0))


def foreign_use(derived: Derived) -> Iterator[Sample]:
    """Yield use of devices by those who do not hold them."""
    for (meter, key), use_ns in derived.books.foreign_ns.items():
        # Not the name that is shown: it is forgotten before this counter is.
        yield (meter.component, meter.name, key.scheduler, key.workload), seconds(use_ns)
