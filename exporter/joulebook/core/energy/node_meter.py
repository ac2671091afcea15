"""The rest of the node: its own meter minus what was booked on its child meters.

A BMC or a module's power sensor includes what CPU, DRAM and GPUs measure. Only the difference is
booked, as a meter of component `other` (fans, disks, losses), so nothing is counted twice:

    node = children + other - deficit          exactly, at every instant that is reconciled

If the children exceed the node (a slow or averaging BMC, or one that leaves out the GPUs), nothing
negative is booked: the excess is the *deficit*, which later differences fill first.

A superchip's counter is its module's, including the CPU socket. There the rest is booked as the
GPU: module = socket + GPU.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import msgspec

from joulebook.core.energy import idle
from joulebook.core.energy.intervals import Interval
from joulebook.core.energy.meter import MeterState
from joulebook.core.energy.readings import Component, Meter, Reading
from joulebook.core.energy.ripe import ripe
from joulebook.core.evidence import ChildSecond, Method, counted
from joulebook.units import NS_PER_S


# The order of its fields is the format of the ledger on disk: new ones go last.
class NodeMeter(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """A meter that includes others: a node's power meter, a module.

    Attributes:
        state: Its own readings.
        began_ns: When it was first read.
        edge_ns: Up to when it is reconciled.
        node_uj: What it counted up to then.
        covers: The components of its children.
        children_uj: Their energy up to then.
        other_uj: What was booked of it up to then.
        deficit_uj: By how much the children exceed it.
        omits: The component that it appears to leave out (empty: none).
        modelled: Whether the energy of a modelled child was subtracted.

    """

    state: MeterState
    covers: tuple[Component, ...]
    began_ns: int
    edge_ns: int
    node_uj: int = 0
    children_uj: int = 0
    other_uj: int = 0
    deficit_uj: int = 0
    omits: str = ""
    modelled: bool = False
    parts: tuple[Meter, ...] = ()
    """The meters inside, where they are known by name: of a module, whose rest is its GPU."""
    idle_mw: int | None = None
    """The idle floor of the rest."""

    def child(self, meter: Meter) -> ChildSecond | None:
        """Return the name under which a child meter's energy is kept (second 0); `None`: it is
        not.
        """
        if meter in self.parts:
            return ChildSecond(meter.component, 0, meter.name)
        return ChildSecond(meter.component, 0) if meter.component in self.covers else None


CHILD_WAIT_NS = 60 * NS_PER_S
"""A child that was not read for so long is no longer waited for."""

KEPT_S = 3_600
"""Energy of children is kept by the second for this long; older energy counts as of then."""

OMITTED_NS = 30 * NS_PER_S
"""A deficit worth this much of the children' power is no delay: something is left out."""


def heard(known: NodeMeter | None, reading: Reading, state: MeterState) -> NodeMeter:
    """Return the node meter of a reading, new or with what it covers now.

    `state` has its readings so far; a meter that was booked by itself until now continues from it.
    """
    if known is None:
        t_ns = state.base.t_ns
        known = NodeMeter(state, (), t_ns, t_ns, other_uj=state.booked_uj, idle_mw=state.idle_mw)
    if (known.covers, known.parts) == (reading.covers, reading.parts):
        return known
    return msgspec.structs.replace(known, covers=reading.covers, parts=reading.parts)


def as_meter(node: NodeMeter) -> MeterState:
    """Return the rest of the node as a meter: what is read of it is what is booked."""
    state = node.state
    if node.parts:
        return msgspec.structs.replace(
            state, booked_uj=node.other_uj, read_uj=node.other_uj, idle_mw=node.idle_mw
        )
    return MeterState(
        state.meter,
        Reading(state.meter, node.edge_ns),
        booked_uj=node.other_uj,
        read_uj=node.other_uj,
        gap_to_ns=node.edge_ns,
    )


def noted(
    children_uj: Mapping[ChildSecond, int],
    intervals: Iterable[Interval],
    nodes: Iterable[NodeMeter],
    horizon_ns: int,
) -> Mapping[ChildSecond, int]:
    """Return the energy of children by second, with the intervals that were just booked.

    What was consumed before a node meter was first read is not in it.
    """
    found, oldest = list(nodes), horizon_ns // NS_PER_S - KEPT_S
    return counted(
        (
            part
            for interval in intervals
            for child, since_ns in _kept_for(interval.meter, found).items()
            for part in _seconds(interval, child, since_ns, oldest)
        ),
        children_uj,
    )


def _kept_for(meter: Meter, nodes: Iterable[NodeMeter]) -> Mapping[ChildSecond, int]:
    """Under which names the energy of a meter is kept, and since when."""
    since_ns: dict[ChildSecond, int] = {}
    for node in nodes:
        child = node.child(meter)
        if child is not None:
            since_ns[child] = min(node.began_ns, since_ns.get(child, node.began_ns))
    return since_ns


def _seconds(
    interval: Interval, child: ChildSecond, since_ns: int, oldest: int
) -> Iterator[tuple[ChildSecond, int]]:
    """Yield a child's energy from `since_ns` on by second, no older than `oldest`."""
    t_ns = max(interval.t0_ns, since_ns)
    while t_ns < interval.t1_ns:
        second = max(t_ns // NS_PER_S, oldest)
        until_ns = min((second + 1) * NS_PER_S, interval.t1_ns)
        energy_uj = interval.until_uj(until_ns) - interval.until_uj(t_ns)
        yield child._replace(second=second), energy_uj
        t_ns = until_ns


def reconcile(
    node: NodeMeter,
    children: Mapping[Meter, MeterState],
    children_uj: Mapping[ChildSecond, int],
    horizon_ns: int,
    edges: Iterable[int] = (),
) -> tuple[NodeMeter, list[Interval], Mapping[ChildSecond, int]]:
    """Subtract the children from the node meter as far as all are booked; the rest is `other`.

    `children` are the meters as they are booked now. Returns the node meter, the intervals
    of `other` and what is left of `children_uj`.
    """
    covered = [state for meter, state in children.items() if node.child(meter) is not None]
    for state in covered:
        if state.last.t_ns > horizon_ns - CHILD_WAIT_NS:
            horizon_ns = min(horizon_ns, state.base.t_ns)
    state, intervals = ripe(node.state, horizon_ns, edges)
    modelled = any(child.last.modelled for child in covered)
    node = msgspec.structs.replace(node, state=state, modelled=modelled)
    others = []
    for interval in intervals:
        if interval.t0_ns > node.edge_ns:
            # It was not read: the children's energy of that time is not in it.
            _, children_uj = _taken(children_uj, node, interval.t0_ns)
        taken, children_uj = _taken(children_uj, node, interval.t1_ns)
        node, other = _less(node, interval, taken)
        others.append(other)
    floor = idle.learnt(idle.Floor(node.idle_mw), others)
    return msgspec.structs.replace(node, idle_mw=floor.idle_mw), others, children_uj


def _taken(
    children_uj: Mapping[ChildSecond, int], node: NodeMeter, t1_ns: int
) -> tuple[Mapping[Component, int], Mapping[ChildSecond, int]]:
    """Return the energy of the children up to `t1_ns`, and what is left; a second is cut by time.

    Energy from before `node.edge_ns` came late (from a child without readings): it is subtracted
    now.
    """
    taken = dict.fromkeys(node.covers or {part.component for part in node.parts}, 0)
    names = {part.name for part in node.parts} or {""}
    left: dict[ChildSecond, int] = {}
    for child, energy_uj in children_uj.items():
        if child.component not in taken or child.name not in names:
            left[child] = energy_uj
            continue
        part_uj = _until_uj(child, energy_uj, node.edge_ns, t1_ns)
        taken[child.component] += part_uj
        if (child.second + 1) * NS_PER_S > t1_ns:
            left[child] = energy_uj - part_uj
    return taken, left


def _until_uj(child: ChildSecond, energy_uj: int, edge_ns: int, t1_ns: int) -> int:
    """Return the part of what a child consumed in its second, from `edge_ns` on, up to `t1_ns`."""
    begin_ns, end_ns = child.second * NS_PER_S, (child.second + 1) * NS_PER_S
    if begin_ns >= t1_ns:
        return 0
    if end_ns <= t1_ns:
        return energy_uj
    begin_ns = max(begin_ns, edge_ns)
    return energy_uj * (t1_ns - begin_ns) // (end_ns - begin_ns)


def _less(
    node: NodeMeter, interval: Interval, taken: Mapping[Component, int]
) -> tuple[NodeMeter, Interval]:
    """Return what is left of an interval of the node meter, once its children are taken off."""
    children_uj = sum(taken.values())
    left_uj = interval.energy_uj - children_uj - node.deficit_uj
    deficit_uj = max(-left_uj, 0)
    omits = node.omits if deficit_uj else ""
    if deficit_uj * (interval.t1_ns - interval.t0_ns) > children_uj * OMITTED_NS and children_uj:
        omits = max(taken, key=lambda component: taken[component]).value
    rest = Method.INTEGRATED if node.parts else interval.method
    method = Method.MODELLED if node.modelled else rest
    node = msgspec.structs.replace(
        node,
        edge_ns=interval.t1_ns,
        node_uj=node.node_uj + interval.energy_uj,
        children_uj=node.children_uj + children_uj,
        other_uj=node.other_uj + max(left_uj, 0),
        deficit_uj=deficit_uj,
        omits=omits,
    )
    return node, msgspec.structs.replace(interval, energy_uj=max(left_uj, 0), method=method)
