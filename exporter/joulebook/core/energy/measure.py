"""Turn readings into energy over time: the first of the three steps of a tick.

Readings are recorded, and what is due of each meter becomes intervals. A meter of the whole node
yields the rest after its child meters are subtracted. Nothing here knows about workloads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import msgspec

from joulebook.core.energy import meter as metering
from joulebook.core.energy import node_meter
from joulebook.core.energy.calibration import applied
from joulebook.core.energy.intervals import Calibration, Interval
from joulebook.core.energy.meter import MeterState, MeterUpdate
from joulebook.core.energy.node_meter import NodeMeter
from joulebook.core.energy.power import is_believable
from joulebook.core.energy.readings import Component, Failure, Meter, Reading
from joulebook.core.energy.ripe import ripe
from joulebook.core.evidence import ChildSecond, Gap, counted


class Meters(NamedTuple):
    """Every meter of a node.

    Attributes:
        booked: The meters that energy is booked on; of a node's own meter, the rest.
        node: The meters that include others.
        children_uj: Energy of child meters that is still to be subtracted.

    """

    booked: Mapping[Meter, MeterState]
    node: Mapping[Meter, NodeMeter]
    children_uj: Mapping[ChildSecond, int]

    def resumed(self) -> Meters:
        """Return the meters after an outage of the daemon."""
        return self._replace(
            booked={name: metering.resume(state) for name, state in self.booked.items()},
            node={
                name: msgspec.structs.replace(each, state=metering.resume(each.state))
                for name, each in self.node.items()
            },
        )


class Due(NamedTuple):
    """What is due to be booked of a meter.

    Attributes:
        to_ns: Only what was consumed before this instant.
        edges: The instants at which its power may have changed.

    """

    to_ns: int
    edges: Sequence[int] = ()


class Measured(NamedTuple):
    """The meters after a tick, the energy that is due, and the time lost.

    Attributes:
        meters: All meters, with the readings of this tick.
        intervals: The energy that is due, no part of it twice.
        gaps: The gaps that ended.
        lost_ns: The time without energy, by meter and reason.

    """

    meters: Meters
    intervals: tuple[Interval, ...]
    gaps: tuple[Gap, ...]
    lost_ns: Mapping[tuple[Meter, str], int]


def measure(
    meters: Meters,
    polls: Iterable[Reading | Failure],
    horizon_ns: int,
    due: Callable[[MeterState], Due],
    calibration: Callable[[Meter], Calibration | None] = lambda _: None,
) -> Measured:
    """Take in what sensors saw, and take out the energy that is due, calibrated.

    `due` gives it for each meter that is booked by itself; a node meter is due up to `horizon_ns`,
    as far as its child meters are booked.
    """
    seen = sorted(polls, key=lambda poll: (poll.t_ns, poll.meter))
    states, taken = _taken_in(meters, seen)
    node = _node_meters(meters.node, states, seen)
    due_of = {
        name: _calibrated(*ripe(state, *due(state)), calibration(name))
        for name, state in states.items()
        if name not in node
    }
    booked = {name: state for name, (state, _) in due_of.items()}
    intervals = [each for _, found in due_of.values() for each in found]
    children_uj = node_meter.noted(meters.children_uj, intervals, node.values(), horizon_ns)
    # Modules first: their GPUs are child meters of the whole node's.
    for name, each in sorted(node.items(), key=lambda item: not item[1].parts):
        to_ns, edges = due(each.state) if each.parts else (horizon_ns, ())
        node[name], others, children_uj = node_meter.reconcile(
            each, booked, children_uj, to_ns, edges
        )
        if each.parts:
            node[name], others = _calibrated_rest(node[name], others, calibration(name))
        booked[name] = node_meter.as_meter(node[name])
        if each.parts:
            children_uj = node_meter.noted(children_uj, others, node.values(), horizon_ns)
        intervals += others
    return Measured(
        Meters(booked, node, children_uj),
        tuple(intervals),
        tuple(gap for each in taken for gap in each.gaps),
        counted(
            ((each.state.meter, reason), lasted_ns)
            for each in taken
            for reason, lasted_ns in each.lost_ns
        ),
    )


def _calibrated(
    state: MeterState, intervals: Sequence[Interval], calibration: Calibration | None
) -> tuple[MeterState, Sequence[Interval]]:
    """What was taken out of a meter, put right; its books say what is booked."""
    if calibration is None or not intervals:
        return state, intervals
    intervals = [applied(calibration, each) for each in intervals]
    added_uj = sum(each.calibration_uj for each in intervals)
    state = msgspec.structs.replace(
        state,
        booked_uj=state.booked_uj + added_uj,
        read_uj=state.read_uj + added_uj,
        calibration_uj=state.calibration_uj + added_uj,
        shown_uj=state.exposed_uj if added_uj < 0 else state.shown_uj,
    )
    return state, intervals


def _calibrated_rest(
    node: NodeMeter, others: Sequence[Interval], calibration: Calibration | None
) -> tuple[NodeMeter, list[Interval]]:
    """The same of a superchip's GPU, which is what is left of its module."""
    rest = [applied(calibration, each) for each in others]
    added_uj = sum(each.calibration_uj for each in rest)
    calibration_uj = node.state.calibration_uj + added_uj
    state = msgspec.structs.replace(node.state, calibration_uj=calibration_uj)
    return msgspec.structs.replace(node, state=state, other_uj=node.other_uj + added_uj), rest


def _taken_in(
    meters: Meters, polls: Iterable[Reading | Failure]
) -> tuple[dict[Meter, MeterState], list[MeterUpdate]]:
    """Return all meters with their readings, and how each reading changed its meter."""
    states = {**meters.booked, **{name: each.state for name, each in meters.node.items()}}
    taken = []
    for poll in polls:
        each = _after(states.get(poll.meter), poll)
        if each is not None:
            states[poll.meter] = each.state
            taken.append(each)
    return states, taken


def _after(state: MeterState | None, poll: Reading | Failure) -> MeterUpdate | None:
    """Return a meter after one poll; `None` if it was never read."""
    if isinstance(poll, Failure):
        if state is not None:
            return metering.lose(state, poll)
        is_gpu = poll.meter.component is Component.GPU
        return MeterUpdate(metering.begin_unread(poll)) if is_gpu else None
    if state is not None:
        return metering.take(state, poll)
    return MeterUpdate(metering.begin(poll)) if is_believable(poll) else None


def _node_meters(
    known: Mapping[Meter, NodeMeter],
    states: Mapping[Meter, MeterState],
    polls: Iterable[Reading | Failure],
) -> dict[Meter, NodeMeter]:
    """Return the node meters, updated with what they cover now."""
    found = dict(known)
    for poll in polls:
        if isinstance(poll, Reading) and (poll.covers or poll.parts) and poll.meter in states:
            state = states[poll.meter]
            found[poll.meter] = node_meter.heard(found.get(poll.meter), poll, state)
    return {name: msgspec.structs.replace(each, state=states[name]) for name, each in found.items()}
