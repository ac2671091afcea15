"""The rest of the node: what its own meter counted, less what was booked on the meters in it.

A BMC or a module's power sensor measures from outside what CPU, DRAM and GPUs measure inside.
Booked is only the difference, as a leaf of component `other` (fans, disks, losses), so nothing is
counted twice:

    node = leaves + other - deficit          exactly, at every instant that is reconciled

Where the leaves come to more than the node (a slow or averaging BMC, one that leaves the GPUs
out), nothing negative is booked: the excess is the *deficit*, which later differences fill first.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum

import msgspec

from joulebook.core.attribution.claims import Tenure
from joulebook.core.attribution.gpu import Share, apportion
from joulebook.core.energy import meter
from joulebook.core.energy.intervals import Interval
from joulebook.core.energy.meter import MeterState
from joulebook.core.energy.readings import Component, Meter, Reading
from joulebook.core.evidence import NO_EVIDENCE, Amount, Leaf, Method, Remainder, Subject
from joulebook.units import NS_PER_S


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

EVIDENCE = "held-gpus"
"""How it is known who gets a part of `other` (label `evidence`)."""


class OtherSplit(StrEnum):
    """Who gets the energy of `other` (`[host] other`)."""

    NONE = "none"
    HELD_GPUS = "held-gpus"


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
    leaves_uj: dict[Leaf, int], interval: Interval, supplies: Iterable[Supply], now_ns: int
) -> None:
    """Keep the energy of a leaf that was just booked, by second, if a supply measures it too."""
    component = interval.meter.component
    began_ns = min((s.began_ns for s in supplies if component in s.covers), default=None)
    if began_ns is None or interval.t1_ns <= began_ns:
        return
    # What was consumed before the supply was first read is not in it.
    t_ns = max(interval.t0_ns, began_ns)
    known_uj = interval.until_uj(t_ns)
    oldest = now_ns // NS_PER_S - KEPT_S
    while t_ns < interval.t1_ns:
        second = t_ns // NS_PER_S
        t_ns = min(max(second, oldest) * NS_PER_S + NS_PER_S, interval.t1_ns)
        until_uj = interval.until_uj(t_ns)
        leaf = Leaf(component, max(second, oldest))
        leaves_uj[leaf] = leaves_uj.get(leaf, 0) + until_uj - known_uj
        known_uj = until_uj


def reconcile(
    supply: Supply, leaves: Mapping[Meter, MeterState], leaves_uj: dict[Leaf, int], horizon_ns: int
) -> tuple[Supply, tuple[Interval, ...]]:
    """Take leaves off the supply as far as all of them are booked; what is left is `other`.

    `leaves` are the meters as they are booked now; what is taken leaves `leaves_uj`.
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
            # The supply was not read: what the leaves consumed meanwhile is not in it.
            _take(leaves_uj, supply, interval.t0_ns)
        supply, other = _less(supply, interval, _take(leaves_uj, supply, interval.t1_ns))
        others.append(other)
    return supply, tuple(others)


def _take(leaves_uj: dict[Leaf, int], supply: Supply, t1_ns: int) -> dict[Component, int]:
    """Take out the energy of the leaves up to `t1_ns`; that of an edge inside a second by time.

    Energy of before `supply.edge_ns` came late (a leaf that was silent): it is taken now.
    """
    taken = dict.fromkeys(supply.covers, 0)
    for leaf in [leaf for leaf in leaves_uj if leaf.component in taken]:
        begin_ns = leaf.second * NS_PER_S
        if begin_ns >= t1_ns:
            continue
        energy_uj, end_ns = leaves_uj.pop(leaf), begin_ns + NS_PER_S
        if end_ns > t1_ns:
            begin_ns = max(begin_ns, supply.edge_ns)
            part_uj = energy_uj * (t1_ns - begin_ns) // (end_ns - begin_ns)
            leaves_uj[leaf] = energy_uj - part_uj
            energy_uj = part_uj
        taken[leaf.component] += energy_uj
    return taken


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


def share_out(
    interval: Interval, gpus: Sequence[Sequence[Tenure]], split: OtherSplit
) -> list[Share]:
    """Share out an interval of `other`. `gpus` are the tenures in it of each GPU of the node."""
    if interval.remainder is not None:
        return [Share(interval.remainder, Amount(interval.energy_uj), interval.method, NO_EVIDENCE)]
    if split is OtherSplit.NONE or not gpus:
        rest = Remainder.DAEMON_DOWN if interval.outage else Remainder.SYSTEM
        return [Share(rest, Amount(interval.energy_uj), interval.method, NO_EVIDENCE)]
    held: dict[Subject, int] = {}
    for tenure in (tenure for gpu in gpus for tenure in gpu):
        for holder in tenure.holders:
            who = Remainder.UNKNOWN_HOLDER if holder.workload is None else holder.workload
            time_ns = (tenure.t1_ns - tenure.t0_ns) * holder.parts // holder.of
            held[who] = held.get(who, 0) + time_ns
    whole_ns = sum(tenure.t1_ns - tenure.t0_ns for gpu in gpus for tenure in gpu)
    nobody = Remainder.DAEMON_DOWN if interval.outage else Remainder.UNALLOCATED
    owners = [*held, nobody]
    weights = [*held.values(), max(whole_ns - sum(held.values()), 0)]
    energies = apportion(interval.energy_uj, weights, interval.t0_ns)
    method = interval.method if interval.method is Method.MODELLED else Method.APPORTIONED
    return [
        Share(
            who,
            Amount(energy_uj),
            method if held else interval.method,
            EVIDENCE if who is not nobody else NO_EVIDENCE,
        )
        for who, energy_uj in zip(owners, energies, strict=True)
        if energy_uj
    ]
