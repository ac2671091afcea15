"""Map pods to UIDs and back, from the API server and the log directories."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from typing import TypeVar

from joulebook.node.workloads.kubernetes.cgroups import LogFolder
from joulebook.node.workloads.kubernetes.pod_object import PodInfo

MAX_PODS = 4096
"""The most pods remembered of those that ended, or were reported and never came: the newest."""

Known = TypeVar("Known")


class PodNames:
    """Names and uids of pods. `folders` lists the kubelet's log folders."""

    def __init__(self, folders: Callable[[], Sequence[LogFolder]]) -> None:
        self._folders = folders
        self._told: dict[str, PodInfo] = {}
        self._deleted: set[str] = set()
        self._static: dict[str, str] = {}
        self._real: set[str] = set()
        self._over: dict[str, tuple[str, str]] = {}

    def tell(self, info: PodInfo) -> None:
        """Note a pod as the API server has it now."""
        self._told[info.uid] = info
        self._deleted.discard(info.uid)
        static = info.static_uid
        if not static or static in self._told or info.uid in self._real:
            return
        mirror = self._told.get(self._static.get(static, ""))
        if mirror is None or mirror.uid in self._deleted or info.created < mirror.created:
            self._static[static] = info.uid

    def real(self, uid: str) -> None:
        """Note that a pod has a cgroup of that uid: it is no mirror of a static one."""
        self._real.add(uid)
        self._over.pop(self.api_uid(uid), None)
        for static in [static for static, mirror in self._static.items() if mirror == uid]:
            del self._static[static]

    def delete(self, uid: str) -> None:
        """Note that the API server has a pod no more; it may still be here."""
        self._deleted.add(uid)

    def relist(self, infos: Iterable[PodInfo]) -> None:
        """Note all pods that the API server has."""
        seen = set()
        for info in infos:
            seen.add(info.uid)
            self.tell(info)
        self._deleted |= self._told.keys() - seen

    def gone(self, uid: str, name: tuple[str, str]) -> None:
        """Note that the cgroups of a pod went: it is none that is there."""
        self._over[uid] = name
        bound(self._over)

    def was_here(self, namespace: str, name: str) -> bool:
        """Return whether a pod of that name is known to be over."""
        return (namespace, name) in self._over.values()

    def api_uid(self, uid: str) -> str:
        """Return the API server's uid of the one in a cgroup's path: static pods have two."""
        return self._static.get(uid, uid)

    def cgroup_uid(self, uid: str) -> str:
        """Return the uid in a cgroup's path of the API server's: the other way round."""
        info = self._told.get(uid)
        static = info.static_uid if info is not None else ""
        return static if self._static.get(static) == uid else uid

    def info(self, uid: str) -> PodInfo | None:
        """Return what the API server reported of a pod."""
        return self._told.get(uid)

    def name(self, uid: str) -> tuple[str, str] | None:
        """Return the namespace and name of a pod."""
        info = self._told.get(uid)
        if info is not None:
            return info.namespace, info.name
        return next(((f.namespace, f.name) for f in self._folders() if f.uid == uid), None)

    def knows(self, uid: str) -> bool:
        """Return whether the API server has reported of a pod."""
        return uid in self._told

    def uid(self, namespace: str, name: str, but: str = "") -> str:
        """Return the uid of the newest pod of that name that is still there; empty: not known.

        `but` is one that it is not; nor is it one that is known to be over.
        """
        not_these = {but, *self._over}
        reported = [
            info
            for info in self._told.values()
            if (info.namespace, info.name) == (namespace, name) and info.uid not in not_these
        ]
        living = [info for info in reported if info.uid not in self._deleted]
        if living:
            return max(living, key=lambda info: (not info.done, info.created)).uid
        uids = [
            self.api_uid(folder.uid)
            for folder in self._folders()
            if (folder.namespace, folder.name) == (namespace, name)
        ]
        for uid in reversed(uids):
            if uid not in not_these:
                return uid
        return max(reported, key=lambda info: info.created).uid if reported else ""

    def forget(self, here: Collection[str]) -> None:
        """Forget the deleted pods that are not `here` any more."""
        self._real &= set(here)
        for uid in self._deleted - set(here):
            self._deleted.discard(uid)
            info = self._told.pop(uid, None)
            if info is not None and self._static.get(info.static_uid) == uid:
                del self._static[info.static_uid]
        bound(self._told)
        bound(self._static)


def bound(known: dict[str, Known]) -> None:
    """Keep the newest `MAX_PODS`."""
    while len(known) > MAX_PODS:
        known.pop(next(iter(known)))
