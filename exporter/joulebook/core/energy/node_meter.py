"""The rest of the node: what its own meter counted, less what was booked on the meters in it.

A BMC or a module's power sensor measures from outside what CPU, DRAM and GPUs measure inside.
Booked is only the difference, as a meter of component `other` (fans, disks, losses), so nothing is
counted twice:

    node = children + other - deficit          exactly, at every instant that is reconciled

Where the children come to more than the node (a slow or averaging BMC, one that leaves the GPUs
out), nothing negative is booked: the excess is the *deficit*, which later differences fill first.

A superchip's counter is of its module, the CPU socket in it included. There the rest is the GPU,
and is booked as it: module = socket + GPU.
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
    """A meter that measures others from outside: a node's power meter, a module.

    `state` holds its own readings; `began_ns` is when it was first read. Up to `edge_ns` it is
    reconciled: it counted `node_uj`, the
    children of the components it `covers` came to `children_uj`, and `other_uj` was booked;
    `deficit_uj` is by how much the children exceed it. `omits` is the component that it seems to
    leave out (empty: none), `modelled` says that a child was taken off that is a model's.
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
        """Under which name the energy of a meter inside is kept (second 0); `None`: it is not."""
        if meter in self.parts:
            return ChildSecond(meter.component, 0, meter.name)
        return ChildSecond(meter.component, 0) if meter.component in self.covers else None


CHILD_WAIT_NS = 60 * NS_PER_S
"""A child that was not read for so long is no longer waited for."""

KEPT_S = 3_600
"""Energy of children is kept by the second for so long; what is older counts as of then."""

OMITTED_NS = 30 * NS_PER_S
"""A deficit worth this much of the children' power is no delay: something is left out."""


def heard(known: NodeMeter | None, reading: Reading, state: MeterState) -> NodeMeter:
    """The node meter of a reading: a new one, or what is known of it with what it covers now.

    `state` are the readings of it so far; one that was booked by itself until now goes on from it.
    """
    if known is None:
        t_ns = state.base.t_ns
        known = NodeMeter(state, (), t_ns, t_ns, other_uj=state.booked_uj, idle_mw=state.idle_mw)
    if (known.covers, known.parts) == (reading.covers, reading.parts):
        return known
    return msgspec.structs.replace(known, covers=reading.covers, parts=reading.parts)


def as_meter(node: NodeMeter) -> MeterState:
    """The rest of the node as a meter: what is read of it is what is booked."""
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
    """The energy of children by second, with the intervals that were just booked.

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
    """The energy of a child from `since_ns` on, by second; what is older than `oldest` as of it."""
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
    """Take children off the node meter as far as all of them are booked; what is left is `other`.

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
            # It was not read: what the children consumed meanwhile is not in it.
            _, children_uj = _taken(children_uj, node, interval.t0_ns)
        taken, children_uj = _taken(children_uj, node, interval.t1_ns)
        node, other = _less(node, interval, taken)
        others.append(other)
    floor = idle.learnt(idle.Floor(node.idle_mw), others)
    return msgspec.structs.replace(node, idle_mw=floor.idle_mw), others, children_uj


def _taken(
    children_uj: Mapping[ChildSecond, int], node: NodeMeter, t1_ns: int
) -> tuple[Mapping[Component, int], Mapping[ChildSecond, int]]:
    """The energy of the children up to `t1_ns`, and what is left; a second is cut by time.

    Energy of before `node.edge_ns` came late (a child that was silent): it is taken now.
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
    """The part of what a child consumed in its second, from `edge_ns` on, up to `t1_ns`."""
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
    """What is left of an interval of the node meter, once its children are taken off."""
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
