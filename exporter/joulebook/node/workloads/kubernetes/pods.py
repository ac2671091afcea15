"""The pods of this node, combined from the kubelet, cgroups and the API server.

The kubelet knows namespace, name and devices, cgroups know a UID and instants, the API server knows
both, and labels. docs/evidence.md lists what each proves, and what its silence means. The caller
serializes access and passes the node time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial

from joulebook.node.workloads.kubernetes.allocation import PodAllocation, PodCgroup, share_claims
from joulebook.node.workloads.kubernetes.cgroups import (
    MAX_PODS,
    LogFolder,
    PodDirectory,
    PodLevel,
    PodNames,
    bound,
)
from joulebook.node.workloads.kubernetes.claims import RECOVERY_NS, Circumstances, end_ns
from joulebook.node.workloads.kubernetes.device_ids import KubeletDevice, ListedPod
from joulebook.node.workloads.kubernetes.pod_object import PodInfo, workload_id
from joulebook.units import NS_PER_S

DEDUCE_NS = NS_PER_S


class PodTable:
    """All pods that are or lately were here. `folders` lists the kubelet's log folders."""

    def __init__(
        self,
        is_gpu: Callable[[KubeletDevice], bool],
        folders: Callable[[], Sequence[LogFolder]] = list,
        *,
        node_ns: Callable[[int], int] = int,
        begun_ns: Mapping[str, int] = {},
    ) -> None:
        """`node_ns` makes node time of UTC; `begun_ns` is when workloads began that are known."""
        self._is_gpu = is_gpu
        self._node_ns = node_ns
        self._begun_ns = dict(begun_ns)
        self._names = PodNames(folders)
        self._here: dict[tuple[str, str], PodAllocation] = {}
        self._ended: list[PodAllocation] = []
        self._unnamed: dict[str, PodAllocation] = {}
        """Ended and booked, except for labels still to come from the API server."""
        self._cgroups: dict[str, PodCgroup] = {}
        self._failed_ns: int | None = None
        self._strays: dict[str, int] = {}
        """When the cgroups of unnamed pods disappeared."""
        self._lonely: tuple[str, str, int] | None = None
        self._replaced_ns: int | None = None
        self._empty_ns: int | None = None
        self.heard = False
        """Whether an answer of the kubelet was accepted."""
        self._late_until_ns = 0
        """Until then the kubelet may list pods that ended before we started."""
        self.reserved: set[str] = set()
        """UIDs whose pod is known from elsewhere."""

    def __iter__(self) -> Iterator[PodAllocation]:
        yield from self._here.values()
        yield from self._ended

    @property
    def doubtful(self) -> bool:
        """Whether a pod is missing of which it is not clear that it lives or has ended."""
        return any(
            r.missing_ns is not None and r.ended_ns is None and r.lived_ns is None
            for r in self._here.values()
        )

    # -- cgroups

    def cgroup_made(self, spot: PodDirectory, t_ns: int, *, live: bool) -> None:
        """A directory of a pod or a container was made."""
        cgroup = self._cgroups.setdefault(spot.uid, PodCgroup(spot.uid))
        cgroup.made(spot, t_ns, live=live)
        self._names.real(spot.uid)
        if spot.level is PodLevel.CONTAINER and live:
            for allocation in self._here.values():
                if (
                    allocation.uid == spot.uid
                    and allocation.ended_ns is not None
                    and not allocation.done_ns
                ):
                    allocation.revive(t_ns)

    def cgroup_gone(self, spot: PodDirectory, t_ns: int) -> None:
        """A directory is no more."""
        cgroup = self._cgroups.get(spot.uid)
        if cgroup is not None:
            cgroup.gone(spot, t_ns)
            if cgroup.gone_ns is not None:
                name = self.named(spot.uid)
                self._names.gone(spot.uid, name or ("", ""))
                if name is None:
                    self._strays[spot.uid] = t_ns
                    bound(self._strays)

    def cgroup(self, uid: str) -> PodCgroup | None:
        """Return the cgroups of a pod."""
        return self._cgroups.get(uid)

    def body_like(self, start: str) -> PodCgroup | None:
        """Return the cgroups of a pod whose uid begins like that, if there is just one."""
        found = [cgroup for uid, cgroup in self._cgroups.items() if uid.startswith(start)]
        return found[0] if len(found) == 1 else None

    def matters(self, uid: str) -> bool:
        """Whether a pod may hold or use a card: only of one that is known is it clear that not."""
        allocation = self.of_uid(uid)
        return allocation is None or bool(allocation.devices)

    # -- the kubelet

    def listed(self, pods: Sequence[ListedPod], t_ns: int) -> bool:
        """Take the kubelet's answer to a query at `t_ns`; return whether it is accepted.

        A kubelet that has just started reports no pods for a moment, which is rejected while
        containers run.
        """
        if pods or not any(cgroup.containers for cgroup in self._cgroups.values()):
            self._empty_ns = None
        else:
            self._empty_ns = self._empty_ns or t_ns
            if t_ns - self._empty_ns < RECOVERY_NS:
                self._failed_ns = t_ns
                return False
        there = set()
        spare = len(self._spare()) - sum(not allocation.uid for allocation in self._here.values())
        for pod in pods:
            key = (pod.namespace, pod.name)
            there.add(key)
            devices = tuple(device for device in pod.devices if self._is_gpu(device))
            allocation = self._here.get(key)
            uid = self._names.uid(*key, allocation.not_uid if allocation is not None else "")
            if allocation is not None and uid and allocation.uid and uid != allocation.uid:
                self._retire(key, t_ns)  # Made again under the same name, as StatefulSets do.
                allocation = None
            if allocation is None and not uid and spare <= 0 and self._names.was_here(*key):
                continue  # Listed though it is over; or made again, and then it will have a cgroup.
            if allocation is None:
                allocation = PodAllocation(pod.namespace, pod.name, t_ns, was_here=not self.heard)
                self._here[key] = allocation
            allocation.listed_ns = t_ns
            if allocation.ended_ns is None:
                allocation.take(devices, t_ns)
            else:
                allocation.missing_ns = None
        for key, allocation in self._here.items():
            if key not in there and allocation.missing_ns is None:
                allocation.missing_ns = t_ns
        if not self.heard and (pods or self._cgroups):
            self._late_until_ns = t_ns + RECOVERY_NS
        self.heard = True
        return True

    def silent(self, t_ns: int) -> None:
        """The kubelet did not answer."""
        self._failed_ns = t_ns

    # -- the API server

    def reported(self, info: PodInfo, t_ns: int) -> None:
        """A pod as it is now."""
        self._names.tell(info)
        uid = self._names.uid_of(info)
        if uid in self._unnamed:
            self._ended.append(self._unnamed.pop(uid))
        for allocation in self:
            if allocation.uid == uid and allocation.info != info:
                self._inform(allocation, info, t_ns)

    def unreported(self, uid: str) -> None:
        """A pod was deleted there; it may still be here."""
        self._names.delete(uid)

    def relisted(self, infos: Sequence[PodInfo], t_ns: int) -> None:
        """Receive all current pods."""
        self._names.relist(infos)
        for info in infos:
            self.reported(info, t_ns)

    # -- what it comes to

    def review(self, now_ns: int, *, api_silent: bool = False) -> None:
        """Find names, ends and sharers, and drop what is over.

        `api_silent`: there is an API server, and it does not answer.
        """
        for key, allocation in self._here.items():
            if not allocation.uid:
                self.bind(allocation, self._names.uid(*key, allocation.not_uid), now_ns)
        spare = self._spare()
        self._deduce(spare, now_ns)
        self._renew(spare, now_ns)
        nameless = [r for r in self._here.values() if not r.uid and r.ended_ns is None]
        nameless.sort(key=lambda each: -(each.missing_ns or now_ns))
        # A cgroup that is nobody's may be that of a pod whose uid is not known.
        alive = {id(allocation) for allocation in nameless[: len(spare)]}
        now = Circumstances(now_ns, self._failed_ns, api_silent, self._node_ns)
        for key, allocation in list(self._here.items()):
            if allocation.ended_ns is None:
                cgroup = self.cgroup(allocation.uid)
                lives = partial(_lives, allocation, cgroup, alive)
                over_ns = end_ns(allocation, cgroup, now, lives=lives)
                if over_ns is not None:
                    self._end(allocation, over_ns)
            if allocation.ended_ns is not None and allocation.missing_ns is not None:
                self._ended.append(self._here.pop(key))
        share_claims(list(self), now_ns)
        self._sweep()

    def here(self, namespace: str, name: str) -> PodAllocation | None:
        """Return the pod that the kubelet lists under a name."""
        allocation = self._here.get((namespace, name))
        return allocation if allocation is not None and allocation.missing_ns is None else None

    def of_uid(self, uid: str) -> PodAllocation | None:
        """Return the pod of a uid."""
        return next((r for r in self if r.uid == uid), None)

    def named(self, uid: str) -> tuple[str, str] | None:
        """Namespace and name of a uid."""
        known = self.of_uid(uid) or self._unnamed.get(uid)
        return (known.namespace, known.name) if known is not None else self._names.name(uid)

    def info(self, uid: str) -> PodInfo | None:
        """Return what the API server reported of a pod."""
        return self._names.info(uid)

    def put_away(self, allocations: Iterable[PodAllocation], *, unnamed: bool) -> None:
        """Drop these, except (`unnamed`) for labels that may still be reported."""
        gone = {id(allocation): allocation for allocation in allocations}
        self._ended = [allocation for allocation in self._ended if id(allocation) not in gone]
        for allocation in gone.values() if unnamed else ():
            if allocation.info is None and allocation.uid:
                self._unnamed[allocation.uid] = allocation
        bound(self._unnamed)

    def bind(self, allocation: PodAllocation, uid: str, now_ns: int) -> None:
        """The uid of a pod is known from now on, if it is not empty."""
        if not uid:
            return
        cgroup = self.cgroup(uid)
        allocation.bind(uid, now_ns, cgroup.began_ns if cgroup is not None else None)
        allocation.begin(self._begun_ns.get(workload_id(allocation.name, uid).workload, 0))
        info = self._names.info(uid)
        if info is not None:
            self._inform(allocation, info, now_ns)

    def _inform(self, allocation: PodAllocation, info: PodInfo, t_ns: int) -> None:
        allocation.info, allocation.informed_ns = info, t_ns
        if info.done and allocation.done_ns is None:
            allocation.done_ns = t_ns
        if allocation.was_here and info.started_utc_ns:
            allocation.begin(self._node_ns(info.started_utc_ns))

    def _spare(self) -> list[str]:
        """Return the UIDs of live pods without a name."""
        known = {each.uid for each in self} | self._unnamed.keys() | self.reserved
        return [
            uid
            for uid, cgroup in self._cgroups.items()
            if uid not in known and self._names.info(uid) is None and cgroup.lives(frozenset())
        ]

    def _deduce(self, spare: Sequence[str], now_ns: int) -> None:
        """Of one name without a uid and one uid without a name, each is the other's.

        The kubelet lists all pods, so none is left out; it must stay so for a while, since names
        and cgroups come at different instants, and there must never have been another cgroup whose
        name it may be.
        """
        names = [r for r in self._here.values() if not r.uid]
        for each in names:
            since_ns = each.since_ns - RECOVERY_NS
            strays = (uid for uid, t_ns in self._strays.items() if t_ns >= since_ns)
            each.maybe.update(spare, strays)
        late = any(each.listed_ns < self._late_until_ns for each in names)
        if len(names) != 1 or len(spare) != 1 or self.doubtful or late:
            self._lonely = None
            return
        pair = (f"{names[0].namespace}/{names[0].name}", spare[0])
        if self._lonely is None or self._lonely[:2] != pair:
            self._lonely = (*pair, now_ns)
        elif now_ns - self._lonely[2] >= DEDUCE_NS and names[0].maybe == {spare[0]}:
            self.bind(names[0], spare[0], now_ns)

    def _renew(self, spare: Sequence[str], now_ns: int) -> None:
        """What is over and yet listed is another pod of that name, if it can be one that lives.

        So it is with StatefulSets where the API server cannot be asked. An answer of the kubelet's
        may be late, so it must go on to list it.
        """
        over = [
            key
            for key, each in self._here.items()
            if each.uid
            and each.missing_ns is None
            and each.ended_ns is not None
            and each.listed_ns >= each.ended_ns + RECOVERY_NS
        ]
        nameless = sum(not allocation.uid for allocation in self._here.values())
        if not over or len(spare) < nameless + len(over):
            self._replaced_ns = None
            return
        self._replaced_ns = self._replaced_ns or now_ns
        if now_ns - self._replaced_ns < DEDUCE_NS:
            return
        for namespace, name in over:
            before = self._here[namespace, name]
            self._retire((namespace, name), now_ns)
            replacement = PodAllocation(namespace, name, self._replaced_ns, not_uid=before.uid)
            replacement.take(before.devices, self._replaced_ns)
            self._here[namespace, name] = replacement

    def _retire(self, key: tuple[str, str], t_ns: int) -> None:
        allocation = self._here.pop(key)
        if allocation.ended_ns is None:
            cgroup = self.cgroup(allocation.uid)
            ended_ns = cgroup.ended_ns(allocation.own) if cgroup is not None else None
            allocation.end(t_ns if ended_ns is None else ended_ns)
        self._ended.append(allocation)

    def _end(self, allocation: PodAllocation, t_ns: int) -> None:
        known = allocation.reported is not None or (
            allocation.id is not None and allocation.id.workload in self._begun_ns
        )
        allocation.unseen = allocation.was_here and t_ns <= allocation.since_ns and not known
        allocation.end(t_ns)

    def _sweep(self) -> None:
        here = {allocation.uid for allocation in self}
        for uid, cgroup in list(self._cgroups.items()):
            if cgroup.gone_ns is not None and uid not in here:
                del self._cgroups[uid]
        self._names.forget(here | self._cgroups.keys())
        self._ended = self._ended[-MAX_PODS:]


def _lives(allocation: PodAllocation, cgroup: PodCgroup | None, nameless: set[int]) -> bool:
    if not allocation.uid:
        return id(allocation) in nameless
    return cgroup is not None and cgroup.lives(allocation.own, done=allocation.done_ns is not None)
