"""The node meter with its child meters, and the idle floor of each meter."""

from __future__ import annotations

from collections.abc import Iterator

from joulebook.core.energy.node_meter import NodeMeter
from joulebook.core.energy.readings import Meter
from joulebook.metrics.derived import Derived, joules
from joulebook.units import MW_PER_W

Sample = tuple[tuple[str, ...], float]


def _whole(scene: Derived) -> Iterator[tuple[Meter, NodeMeter]]:
    """Yield the meters of the whole node, and not of a module in it."""
    for meter, node_meter in scene.books.node_meters.items():
        if not node_meter.parts:
            yield meter, node_meter


def node_energy(scene: Derived) -> Iterator[Sample]:
    """Yield what the node's meter counted."""
    for meter, node_meter in _whole(scene):
        yield (meter.name,), joules(node_meter.node_uj)


def covered_energy(scene: Derived) -> Iterator[Sample]:
    """Yield the energy of the child meters over the same time."""
    for meter, node_meter in _whole(scene):
        yield (meter.name,), joules(node_meter.children_uj)


def deficit(scene: Derived) -> Iterator[Sample]:
    """By how much they exceed it."""
    for meter, node_meter in _whole(scene):
        yield (meter.name,), joules(node_meter.deficit_uj)


def omits(scene: Derived) -> Iterator[Sample]:
    """Yield what it appears to leave out; 0 for every component that it should include."""
    for meter, node_meter in _whole(scene):
        for component in node_meter.covers:
            yield (meter.name, component), int(component == node_meter.omits)


def idle_power(scene: Derived) -> Iterator[Sample]:
    """Yield the learned idle floor of each meter."""
    for meter, state in scene.books.meters.items():
        if state.idle_mw is not None:
            yield (meter.component, meter.name), state.idle_mw / MW_PER_W
