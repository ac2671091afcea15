"""The rest of the node: what its own meter counted, less what was booked on the meters in it.

A BMC or a module's power sensor measures from outside what CPU, DRAM and GPUs measure inside.
Booked is only the difference, as a leaf of component `other` (fans, disks, losses), so nothing is
counted twice:

    node = leaves + other - deficit          exactly, at every instant that is reconciled

Where the leaves come to more than the node (a slow or averaging BMC, one that leaves the GPUs
out), nothing negative is booked: the excess is the *deficit*, which later differences fill first.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import msgspec

from joulebook.core.energy import meter
from joulebook.core.energy.intervals import Interval
from joulebook.core.energy.meter import MeterState
from joulebook.core.energy.readings import Component, Meter, Reading
from joulebook.core.evidence import Leaf, Method
from joulebook.core.sums import counted
from joulebook.units import NS_PER_S


# The order of its fields is the format of the ledger on disk: new ones go last.
class Supply(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """A meter that measures others from outside: a node's supply, a module (see the module).

    `state` holds its own readings; `began_ns` is when it was first read. Up to `edge_ns` it is
    reconciled: it counted `node_uj`, the
    leaves of the components it `covers` came to `leaves_uj`, and `other_uj` was booked;
    `deficit_uj` is by how much the leaves exceed it. `omits` is the component that it seems to
    leave out (empty: none), `modelled` says that a leaf was taken off that is a model's.
    """

    state: MeterState
    covers: tuple[Component, ...]
    began_ns: int
    edge_ns: int
    node_uj: int = 0
    leaves_uj: int = 0
    other_uj: int = 0
    deficit_uj: int = 0
    omits: str = ""
    modelled: bool = False


LEAF_WAIT_NS = 60 * NS_PER_S
"""A leaf that was not read for so long is no longer waited for."""

KEPT_S = 3_600
"""Energy of leaves is kept by the second for so long; what is older counts as of then."""

OMITTED_NS = 30 * NS_PER_S
"""A deficit worth this much of the leaves' power is no delay: something is left out."""


def heard(known: Supply | None, reading: Reading) -> Supply:
    """The supply of a reading: a new one, or what is known of it with what it covers now."""
    if known is None:
        return Supply(meter.begin(reading), reading.covers, reading.t_ns, reading.t_ns)
    return (
        known
        if known.covers == reading.covers
        else msgspec.structs.replace(known, covers=reading.covers)
    )


def as_meter(supply: Supply) -> MeterState:
    """The derived leaf as a meter: what is read of it is what is booked."""
    state = supply.state
    return MeterState(
        state.meter,
        Reading(state.meter, supply.edge_ns),
        booked_uj=supply.other_uj,
        read_uj=supply.other_uj,
        gap_to_ns=supply.edge_ns,
    )


def noted(
    leaves_uj: Mapping[Leaf, int],
    intervals: Iterable[Interval],
    supplies: Iterable[Supply],
    horizon_ns: int,
) -> Mapping[Leaf, int]:
    """The energy of leaves by second, with the intervals that were just booked.

    What was burnt before a supply was first read is not in it.
    """
    since_ns: dict[Component, int] = {}
    for supply in supplies:
        for component in supply.covers:
            since_ns[component] = min(supply.began_ns, since_ns.get(component, supply.began_ns))
    oldest = horizon_ns // NS_PER_S - KEPT_S
    return counted(
        (
            part
            for interval in intervals
            if interval.meter.component in since_ns
            for part in _seconds(interval, since_ns[interval.meter.component], oldest)
        ),
        leaves_uj,
    )


def _seconds(interval: Interval, since_ns: int, oldest: int) -> Iterator[tuple[Leaf, int]]:
    """The energy of a leaf from `since_ns` on, by second; what is older than `oldest` as of it."""
    t_ns = max(interval.t0_ns, since_ns)
    while t_ns < interval.t1_ns:
        second = max(t_ns // NS_PER_S, oldest)
        until_ns = min((second + 1) * NS_PER_S, interval.t1_ns)
        energy_uj = interval.until_uj(until_ns) - interval.until_uj(t_ns)
        yield Leaf(interval.meter.component, second), energy_uj
        t_ns = until_ns


def reconcile(
    supply: Supply,
    leaves: Mapping[Meter, MeterState],
    leaves_uj: Mapping[Leaf, int],
    horizon_ns: int,
) -> tuple[Supply, list[Interval], Mapping[Leaf, int]]:
    """Take leaves off the supply as far as all of them are booked; what is left is `other`.

    `leaves` are the meters as they are booked now. Returns the supply, the intervals of `other`
    and what is left of `leaves_uj`.
    """
    covered = [state for meter, state in leaves.items() if meter.component in supply.covers]
    for state in covered:
        if state.last.t_ns > horizon_ns - LEAF_WAIT_NS:
            horizon_ns = min(horizon_ns, state.base.t_ns)
    state, intervals = meter.ripe(supply.state, horizon_ns)
    modelled = any(leaf.last.modelled for leaf in covered)
    supply = msgspec.structs.replace(supply, state=state, modelled=modelled)
    others = []
    for interval in intervals:
        if interval.t0_ns > supply.edge_ns:
            # The supply was not read: what the leaves burnt meanwhile is not in it.
            _, leaves_uj = _taken(leaves_uj, supply, interval.t0_ns)
        taken, leaves_uj = _taken(leaves_uj, supply, interval.t1_ns)
        supply, other = _less(supply, interval, taken)
        others.append(other)
    return supply, others, leaves_uj


def _taken(
    leaves_uj: Mapping[Leaf, int], supply: Supply, t1_ns: int
) -> tuple[Mapping[Component, int], Mapping[Leaf, int]]:
    """The energy of the leaves up to `t1_ns`, and what is left; a second is cut by time.

    Energy of before `supply.edge_ns` came late (a leaf that was silent): it is taken now.
    """
    taken = dict.fromkeys(supply.covers, 0)
    left: dict[Leaf, int] = {}
    for leaf, energy_uj in leaves_uj.items():
        if leaf.component not in taken:
            left[leaf] = energy_uj
            continue
        part_uj = _until_uj(leaf, energy_uj, supply.edge_ns, t1_ns)
        taken[leaf.component] += part_uj
        if (leaf.second + 1) * NS_PER_S > t1_ns:
            left[leaf] = energy_uj - part_uj
    return taken, left


def _until_uj(leaf: Leaf, energy_uj: int, edge_ns: int, t1_ns: int) -> int:
    """The part of what a leaf burnt in its second, from `edge_ns` on, up to `t1_ns`."""
    begin_ns, end_ns = leaf.second * NS_PER_S, (leaf.second + 1) * NS_PER_S
    if begin_ns >= t1_ns:
        return 0
    if end_ns <= t1_ns:
        return energy_uj
    begin_ns = max(begin_ns, edge_ns)
    return energy_uj * (t1_ns - begin_ns) // (end_ns - begin_ns)


def _less(
    supply: Supply, interval: Interval, taken: Mapping[Component, int]
) -> tuple[Supply, Interval]:
    """What is left of an interval of the supply, once the leaves in it are taken off."""
    leaves_uj = sum(taken.values())
    left_uj = interval.energy_uj - leaves_uj - supply.deficit_uj
    deficit_uj = max(-left_uj, 0)
    omits = supply.omits if deficit_uj else ""
    if deficit_uj * (interval.t1_ns - interval.t0_ns) > leaves_uj * OMITTED_NS and leaves_uj:
        omits = max(taken, key=lambda component: taken[component]).value
    method = Method.MODELLED if supply.modelled else interval.method
    supply = msgspec.structs.replace(
        supply,
        edge_ns=interval.t1_ns,
        node_uj=supply.node_uj + interval.energy_uj,
        leaves_uj=supply.leaves_uj + leaves_uj,
        other_uj=supply.other_uj + max(left_uj, 0),
        deficit_uj=deficit_uj,
        omits=omits,
    )
    return supply, msgspec.structs.replace(interval, energy_uj=max(left_uj, 0), method=method)
