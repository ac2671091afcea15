"""Turn the pods of this node into claims on meters and facts of workloads, until a pod has ended.

What must agree before a pod counts as ended is in docs/evidence.md.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

from joulebook.core import experiments
from joulebook.core.attribution.claims import Claim, Evidence
from joulebook.core.energy.readings import DeviceStatus, Meter
from joulebook.core.sanitize import clean_label
from joulebook.core.workloads import Labels, WorkloadFacts, WorkloadId
from joulebook.errors import InputError
from joulebook.node.workloads.kubernetes.allocation import DeviceGrant, PodAllocation, PodCgroup
from joulebook.node.workloads.kubernetes.device_ids import (
    AllocatableDevices,
    Described,
    DevicePart,
    KubeletDevice,
    UnknownDevice,
    base,
    find_part,
)
from joulebook.units import NS_PER_S

NAME_WAIT_NS = 2 * NS_PER_S
"""How long to wait for a pod's UID and labels before claiming what it holds (`settle_s` is longer,
so nothing is booked meanwhile).
"""


class DeviceView(NamedTuple):
    """What devices are: cards as NVML shows them, what plugins offer, what slices describe.

    `names` are those of the cards. `pending`: whether an unknown device may soon be known.
    """

    cards: Sequence[DeviceStatus]
    names: frozenset[str]
    offer: AllocatableDevices
    described: Mapping[str, Described]
    pending: Callable[[KubeletDevice], bool]


def find_parts(
    allocations: Collection[PodAllocation],
    view: DeviceView,
    now_ns: int,
    refuse: Callable[[InputError], None],
) -> bool:
    """Find out what each grant is of which that is not known; whether nothing is left to wait for.

    Once it is known it is kept: a card that drops out does not change what a pod was given. But
    the part that a replica is changes with how many there are.
    """
    whole = True
    held = _held(allocations, view)
    for allocation in allocations:
        for grant in [g for g in allocation.grants if g.part is None or g.t1_ns is None]:
            if grant.part is None and not grant.rejected and view.pending(grant.device):
                whole = False
                continue
            if grant.part is not None and base(grant.device.id, view.names) == grant.device.id:
                continue
            try:
                part = find_part(grant.device, view.cards, view.offer, view.described, held)
            except UnknownDevice as error:
                if grant.rejected or grant.part is not None:
                    continue
                grant.rejected = True
                if not error.absent:
                    grant.somebody = _candidates(grant.device, view.cards, allocations)
                refuse(_unmapped(allocation, grant, absent=error.absent))
                continue
            if part == grant.part:
                continue
            allocation.found(grant, part, now_ns)
            allocation.models |= {clean_label(_model(view.cards, part.meter))} - {""}
    return whole


def claims_of(allocation: PodAllocation, now_ns: int, *, awaited: bool) -> tuple[Claim, ...] | None:
    """Return the claims of one pod; `None` while it cannot be reported yet.

    `awaited`: the API server may soon report the labels, by which a pod may turn out to be
    infrastructure.
    """
    patient = now_ns - allocation.since_ns < NAME_WAIT_NS and allocation.ended_ns is None
    if (
        patient
        and allocation.grants
        and (not allocation.uid or (awaited and allocation.info is None))
    ):
        return None
    claims = []
    for grant in allocation.grants:
        who: WorkloadId | None = None if grant.nameless else allocation.id
        parts = (grant.part,) if grant.part is not None else grant.somebody
        for part in parts:
            claims.append(
                Claim(
                    who if grant.part is not None else None,
                    part.meter,
                    grant.t0_ns,
                    grant.t1_ns,
                    Evidence.POD_RESOURCES,
                    part.parts,
                    part.of * grant.sharers,
                    part.instance,
                )
            )
        grant.claimed = grant.claimed or bool(parts)
        grant.over = grant.t1_ns is not None
    return tuple(claims)


def facts_of(
    allocation: PodAllocation, rules: Sequence[str], now_ns: int, *, awaited: bool
) -> WorkloadFacts | None:
    """Return the facts of a pod; `None` while its identity is unknown."""
    workload = allocation.id
    if workload is None or allocation.unseen:
        return None
    info = allocation.info
    sources = {**(info.sources if info is not None else {}), "workload": allocation.name}
    experiment = experiments.chosen(rules, sources)
    extra = {"uid": allocation.uid, **(info.extra if info is not None else {})}
    if allocation.models:
        extra["gpu_model"] = ",".join(sorted(allocation.models))
    fact = WorkloadFacts(
        id=workload,
        name=allocation.name,
        labels=Labels(
            info.user if info is not None else "",
            allocation.namespace,
            clean_label(experiment.name),
        ),
        started_ns=allocation.begun_ns or allocation.since_ns,
        ended_ns=allocation.ended_ns,
        complete=info is not None or not awaited,
        gpu_count=len(allocation.held),
        evidence=Evidence.POD_RESOURCES.label if allocation.held else "",
        extra=extra,
        named=experiment.named,
        stage=experiments.stage_of(sources),
        outcome=info.outcome if info is not None else "",
        named_ns=allocation.named_ns(experiment.name),
    )
    return allocation.steady(fact, now_ns)


def _held(allocations: Iterable[PodAllocation], view: DeviceView) -> Counter[str]:
    """Of each device, how many replicas are held: more than are offered while that changes."""
    return Counter(
        base(grant.device.id, view.names)
        for allocation in allocations
        for grant in allocation.grants
        if grant.t1_ns is None and (grant.part is not None or not view.pending(grant.device))
    )


def _candidates(
    device: KubeletDevice, cards: Sequence[DeviceStatus], allocations: Collection[PodAllocation]
) -> tuple[DevicePart, ...]:
    """Return the cards of which a device may be one: those that no pod holds by name."""
    taken = {
        grant.part.meter
        for allocation in allocations
        for grant in allocation.grants
        if grant.part is not None and grant.t1_ns is None
    }
    mig = device.id.startswith("MIG-")
    return tuple(DevicePart(c.meter) for c in cards if c.meter not in taken and (c.mig or not mig))


def _model(cards: Sequence[DeviceStatus], meter: Meter) -> str:
    return next((card.model for card in cards if card.meter == meter), "")


def _unmapped(allocation: PodAllocation, grant: DeviceGrant, *, absent: bool) -> InputError:
    device = grant.device
    what = device.id if device.is_dra else f"{device.id} ({device.resource})"
    pod = f"pod {allocation.namespace}/{allocation.name} holds {what}"
    if absent:
        text = f"{pod}, which NVML does not show on this node: its energy is not measured"
        return InputError(text, reason="gpu_absent")
    text = f"{pod}, but unknown which device that is: booked to unknown_holder"
    return InputError(text, reason="gpu_unknown")


MISSING_NS = 3 * NS_PER_S // 2
"""A pod that the kubelet does not list for so long, and of which nothing lives, has ended (below
`settle_s`, so in time)."""

RECOVERY_NS = 10 * NS_PER_S
"""So long after it did not answer a kubelet may list less than there is, and takes longer."""

MISSING_RECOVERING_NS = 5 * NS_PER_S


class Circumstances(NamedTuple):
    """What is known in addition to the pod itself.

    Attributes:
        now_ns: What time it is.
        failed_ns: When the kubelet last gave no answer.
        api_silent: There is an API server, and it does not answer.
        node_ns: Makes node time of UTC.

    """

    now_ns: int
    failed_ns: int | None
    api_silent: bool
    node_ns: Callable[[int], int]


def end_ns(
    allocation: PodAllocation,
    cgroup: PodCgroup | None,
    now: Circumstances,
    *,
    lives: Callable[[], bool],
) -> int | None:
    """Return when a pod ended, if that is certain; `lives` looks whether processes of it are left.

    One that is missing from the kubelet's list is noted as living while it does.
    """
    if cgroup is not None and cgroup.gone_ns is not None:
        return cgroup.ended_ns(allocation.own)
    left_ns = cgroup.left_ns(allocation.own) if cgroup is not None else None
    if allocation.done_ns is not None and not lives():
        return _done_ns(allocation, allocation.done_ns, now) if left_ns is None else left_ns
    unnamed = allocation.info is None and cgroup is not None and not cgroup.containers
    if left_ns is not None and unnamed and now.now_ns - left_ns >= MISSING_NS:
        return left_ns  # Still listed for a while, but nothing of it will run any more.
    missing_ns, failed_ns = allocation.missing_ns, now.failed_ns
    if missing_ns is None:
        return None
    failed = failed_ns is not None and now.now_ns - failed_ns < RECOVERY_NS
    if now.now_ns - missing_ns < (MISSING_RECOVERING_NS if failed else MISSING_NS):
        return None
    lost = failed_ns is not None and missing_ns - failed_ns < RECOVERY_NS
    if lives() or (cgroup is None and now.api_silent and lost):
        # A kubelet that was restarted lists no pods until it has heard of the API server.
        allocation.lived_ns = now.now_ns
        return None
    return left_ns or max(missing_ns, allocation.lived_ns or 0)


def _done_ns(allocation: PodAllocation, told_ns: int, now: Circumstances) -> int:
    """Return when a pod ended by the API server alone."""
    finished_utc_ns = allocation.info.finished_utc_ns if allocation.info is not None else 0
    if not finished_utc_ns:
        return told_ns
    # It is reported in whole seconds, cut off.
    return min(now.node_ns(finished_utc_ns) + NS_PER_S // 2, told_ns)
