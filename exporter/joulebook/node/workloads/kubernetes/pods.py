"""The pods of this node: what the kubelet, cgroups and the API server say of them, put together.

The kubelet knows namespace, name and devices, cgroups know a uid and instants, the API server
knows both, and labels. The caller serialises access and says what time it is (node time).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from joulebook.node.workloads.kubernetes.allocation import PodAllocation, PodCgroup
from joulebook.node.workloads.kubernetes.cgroups import LogFolder, PodDirectory, PodLevel
from joulebook.node.workloads.kubernetes.listing import KubeletDevice, ListedPod
from joulebook.node.workloads.kubernetes.pod_object import PodInfo
from joulebook.units import NS_PER_S

MISSING_NS = 3 * NS_PER_S // 2
"""A pod that the kubelet does not list for so long has ended (below `settle_s`, so in time)."""

RECOVERY_NS = 10 * NS_PER_S
"""So long after it did not answer a kubelet may list less than there is, and takes longer."""

MISSING_RECOVERING_NS = 5 * NS_PER_S
DEDUCE_NS = NS_PER_S
MAX_PODS = 4096
"""Of pods that ended, and of what the API server reported of pods that never came, so many are
kept: the newest."""


class PodTable:
    """All pods that are or lately were here. `folders` lists the kubelet's log folders."""

    def __init__(
        self,
        is_gpu: Callable[[KubeletDevice], bool],
        folders: Callable[[], Sequence[LogFolder]] = list,
    ) -> None:
        self._is_gpu = is_gpu
        self._folders = folders
        self._here: dict[tuple[str, str], PodAllocation] = {}
        self._ended: list[PodAllocation] = []
        self._unnamed: dict[str, PodAllocation] = {}
        """Over and booked, but for what the API server may yet tell of them."""
        self._bodies: dict[str, PodCgroup] = {}
        self._told: dict[str, PodInfo] = {}
        self._untold: set[str] = set()
        self._static: dict[str, str] = {}
        self._failed_ns: int | None = None
        self._lonely: tuple[str, str, int] | None = None
        self._empty_ns: int | None = None

    def __iter__(self) -> Iterator[PodAllocation]:
        yield from self._here.values()
        yield from self._ended

    @property
    def doubtful(self) -> bool:
        """Whether a pod is missing of which it is not clear that it has ended."""
        return any(r.missing_ns is not None for r in self._here.values() if r.ended_ns is None)

    # -- cgroups

    def cgroup_made(self, spot: PodDirectory, t_ns: int, *, live: bool) -> None:
        """A directory of a pod or a container was made."""
        uid = self._static.get(spot.uid, spot.uid)
        body = self._bodies.setdefault(uid, PodCgroup(uid))
        body.made(spot, t_ns, live=live)
        if spot.level is PodLevel.CONTAINER and live:
            for resident in self._here.values():
                if resident.uid == uid and resident.ended_ns is not None:
                    resident.revive(t_ns)

    def cgroup_gone(self, spot: PodDirectory, t_ns: int) -> None:
        """A directory is no more."""
        body = self._bodies.get(self._static.get(spot.uid, spot.uid))
        if body is not None:
            body.gone(spot, t_ns)

    def body(self, uid: str) -> PodCgroup | None:
        """The cgroups of a pod."""
        return self._bodies.get(uid)

    def matters(self, uid: str) -> bool:
        """Whether a pod may hold or use a card: only of one that is known is it clear that not."""
        resident = self.of_uid(self._static.get(uid, uid))
        return resident is None or bool(resident.devices)

    # -- the kubelet

    def listed(self, pods: Sequence[ListedPod], t_ns: int) -> bool:
        """The kubelet's answer to a question asked at `t_ns`; whether it is believed.

        One that has just started says for a moment that there are no pods. That is not believed
        while containers run.
        """
        if pods or not any(body.containers for body in self._bodies.values()):
            self._empty_ns = None
        else:
            self._empty_ns = self._empty_ns or t_ns
            if t_ns - self._empty_ns < RECOVERY_NS:
                self._failed_ns = t_ns
                return False
        there = set()
        for pod in pods:
            key = (pod.namespace, pod.name)
            there.add(key)
            devices = tuple(device for device in pod.devices if self._is_gpu(device))
            resident = self._here.get(key)
            uid = self._uid_of(*key)
            if resident is not None and uid and resident.uid and uid != resident.uid:
                self._retire(key, t_ns)  # Made again under the same name, as StatefulSets do.
                resident = None
            if resident is None:
                resident = self._here[key] = PodAllocation(pod.namespace, pod.name, t_ns)
            if resident.ended_ns is None:
                resident.take(devices, t_ns)
        for key, resident in self._here.items():
            if key not in there and resident.missing_ns is None:
                resident.missing_ns = t_ns
        return True

    def silent(self, t_ns: int) -> None:
        """The kubelet did not answer."""
        self._failed_ns = t_ns

    # -- the API server

    def reported(self, info: PodInfo) -> None:
        """A pod as it is now."""
        self._told[info.uid] = info
        self._untold.discard(info.uid)
        if info.static_uid:
            self._static[info.static_uid] = info.uid
            if info.static_uid in self._bodies:
                self._bodies[info.uid] = self._bodies.pop(info.static_uid)
        if info.uid in self._unnamed:
            self._ended.append(self._unnamed.pop(info.uid))
        for resident in self:
            if resident.uid == info.uid and resident.info != info:
                resident.info = info

    def unreported(self, uid: str) -> None:
        """A pod was deleted there; it may still be here."""
        self._untold.add(uid)

    def relisted(self, infos: Iterable[PodInfo]) -> None:
        """All pods that there are now."""
        seen = set()
        for info in infos:
            seen.add(info.uid)
            self.reported(info)
        self._untold |= self._told.keys() - seen

    # -- what it comes to

    def review(self, now_ns: int) -> None:
        """Find names, ends and sharers, and forget what is over."""
        for key, resident in list(self._here.items()):
            if not resident.uid:
                self._bind(resident, self._uid_of(*key), now_ns)
        self._deduce(now_ns)
        for key, resident in list(self._here.items()):
            end_ns = self._end_ns(resident, now_ns)
            if end_ns is not None and resident.ended_ns is None:
                resident.end(end_ns)
            if resident.ended_ns is not None and resident.missing_ns is not None:
                self._ended.append(self._here.pop(key))
        self._share(now_ns)
        self._sweep()

    def of_uid(self, uid: str) -> PodAllocation | None:
        """The pod of a uid."""
        return next((r for r in self if r.uid == uid), None)

    def named(self, uid: str) -> tuple[str, str] | None:
        """Namespace and name of a uid in a cgroup's path."""
        uid = self._static.get(uid, uid)
        known = self.of_uid(uid) or self._unnamed.get(uid) or self._told.get(uid)
        if known is not None:
            return known.namespace, known.name
        return next(((f.namespace, f.name) for f in self._folders() if f.uid == uid), None)

    def info(self, uid: str) -> PodInfo | None:
        """What the API server reported of a pod, by the uid in a cgroup's path."""
        return self._told.get(self._static.get(uid, uid))

    def put_away(self, residents: Iterable[PodAllocation], *, unnamed: bool) -> None:
        """Nothing more is to be said of these, but (`unnamed`) for labels that may yet be
        reported.
        """
        gone = {id(resident): resident for resident in residents}
        self._ended = [resident for resident in self._ended if id(resident) not in gone]
        for resident in gone.values() if unnamed else ():
            if resident.info is None and resident.uid:
                self._unnamed[resident.uid] = resident
        _bound(self._unnamed)

    def _uid_of(self, namespace: str, name: str) -> str:
        """The uid of the newest pod of that name that is still there."""
        reported = [
            info for info in self._told.values() if (info.namespace, info.name) == (namespace, name)
        ]
        living = [info for info in reported if info.uid not in self._untold]
        if living:
            return max(living, key=lambda info: (not info.done, info.created)).uid
        folders = [f for f in self._folders() if (f.namespace, f.name) == (namespace, name)]
        if folders:
            return self._static.get(folders[-1].uid, folders[-1].uid)
        return max(reported, key=lambda info: info.created).uid if reported else ""

    def _bind(self, resident: PodAllocation, uid: str, now_ns: int) -> None:
        if uid:
            body = self._bodies.get(uid)
            resident.bind(uid, now_ns, body.began_ns if body is not None else None)
            resident.info = self._told.get(uid)

    def _deduce(self, now_ns: int) -> None:
        """Of one name without a uid and one uid without a name, each is the other's.

        The kubelet lists all pods, so none is left out; it must stay so for a while, since names
        and cgroups come at different instants.
        """
        names = [r for r in self._here.values() if not r.uid]
        known = {r.uid for r in self} | self._unnamed.keys() | self._told.keys()
        uids = [u for u, b in self._bodies.items() if b.containers and u not in known]
        if len(names) != 1 or len(uids) != 1 or self.doubtful:
            self._lonely = None
            return
        pair = (f"{names[0].namespace}/{names[0].name}", uids[0])
        if self._lonely is None or self._lonely[:2] != pair:
            self._lonely = (*pair, now_ns)
        elif now_ns - self._lonely[2] >= DEDUCE_NS:
            self._bind(names[0], uids[0], now_ns)

    def _retire(self, key: tuple[str, str], t_ns: int) -> None:
        resident = self._here.pop(key)
        if resident.ended_ns is None:
            body = self._bodies.get(resident.uid)
            ended_ns = body.ended_ns(resident.own) if body is not None else None
            resident.end(t_ns if ended_ns is None else ended_ns)
        self._ended.append(resident)

    def _end_ns(self, resident: PodAllocation, now_ns: int) -> int | None:
        """When a pod ended, if that is certain."""
        body = self._bodies.get(resident.uid) if resident.uid else None
        left_ns = body.left_ns(resident.own) if body is not None else None
        if body is not None and body.gone_ns is not None:
            return body.ended_ns(resident.own)
        info = resident.info
        over = info.done if info is not None else body is not None and not body.containers
        if left_ns is not None and over and now_ns - left_ns >= MISSING_NS:
            return left_ns  # Still listed for a while, but nothing of it will run any more.
        if resident.missing_ns is None:
            return None
        failed = self._failed_ns is not None and now_ns - self._failed_ns < RECOVERY_NS
        patience_ns = MISSING_RECOVERING_NS if failed else MISSING_NS
        if now_ns - resident.missing_ns < patience_ns:
            return None
        return min(left_ns or resident.missing_ns, resident.missing_ns)

    def _share(self, now_ns: int) -> None:
        """Pods that hold a device together by one claim of DRA share it evenly."""
        holders = Counter(
            grant.device
            for resident in self
            for grant in resident.grants
            if grant.t1_ns is None and grant.device.is_dra
        )
        for resident in self._here.values():
            for device in resident.devices:
                if device.is_dra and holders[device]:
                    resident.share(device, holders[device], now_ns)

    def _sweep(self) -> None:
        here = {resident.uid for resident in self}
        for uid, body in list(self._bodies.items()):
            if body.gone_ns is not None and uid not in here:
                del self._bodies[uid]
        for uid in [u for u in self._untold if u not in here and u not in self._bodies]:
            self._untold.discard(uid)
            info = self._told.pop(uid, None)
            if info is not None:
                self._static.pop(info.static_uid, None)
        _bound(self._told)
        _bound(self._static)
        self._ended = self._ended[-MAX_PODS:]


def _bound(known: dict[str, Any]) -> None:
    while len(known) > MAX_PODS:
        known.pop(next(iter(known)))
