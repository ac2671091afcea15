"""What the API server tells of one node: its pods, and its ResourceSlices once they are wanted."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from joulebook.node.workloads.kubernetes.api import ApiServer
from joulebook.node.workloads.kubernetes.device_ids import Described
from joulebook.node.workloads.kubernetes.pod_object import PodObject, Reader
from joulebook.node.workloads.kubernetes.pods import PodTable
from joulebook.node.workloads.kubernetes.resource_slices import SliceTable, slices_of
from joulebook.node.workloads.kubernetes.watch import Collection, Decoders, Watch
from joulebook.node.workloads.rejections import Rejections

_PODS = Decoders(PodObject)

_SLICES_WAIT_S = 10.0
"""So long it is waited for a slice before a device of DRA is somebody's."""


def pods_of(node: str) -> Collection[PodObject]:
    """The pods of one node, whatever the cluster has beside them."""
    query = {"fieldSelector": f"spec.nodeName={node}"}
    return Collection("pods", ("/api/v1/pods",), query, _PODS)


class PodTracker:
    """Brings what is heard of pods into the table; `lock` is the one that guards it."""

    def __init__(self, table: PodTable, reader: Reader, lock: threading.RLock) -> None:
        self._table = table
        self._reader = reader
        self._lock = lock

    def listed(self, items: list[PodObject]) -> None:
        """All pods of this node."""
        infos = [self._reader.info(pod) for pod in items]
        with self._lock:
            self._table.relisted(infos)

    def changed(self, item: PodObject) -> None:
        """One of them is new, or is not as it was."""
        info = self._reader.info(item)
        with self._lock:
            self._table.reported(info)

    def deleted(self, item: PodObject) -> None:
        """One is deleted."""
        with self._lock:
            self._table.unreported(item.metadata.uid)


class Cluster:
    """Watches what there is to watch; `server` is `None` where nobody is to be asked."""

    def __init__(
        self,
        server: ApiServer | None,
        node: str,
        news: PodTracker,
        slices_changed: Callable[[], None],
        refuse: Rejections,
    ) -> None:
        self._server = server
        self._node = node
        self._refuse = refuse
        self._slices = SliceTable(slices_changed)
        self._slices_since = 0.0
        self._pods = Watch(server, pods_of(node), news, refuse) if server else None
        self._watches: list[Watch[Any]] = []

    def start(self) -> None:
        """Begin with the pods."""
        if self._pods is not None:
            self._watches = [self._pods]
            self._pods.start()

    def want_slices(self) -> None:
        """A pod holds a device of DRA: from now on slices are watched too."""
        if self._server is None or self._slices_since:
            return
        self._slices_since = time.monotonic()
        watch = Watch(self._server, slices_of(self._node), self._slices, self._refuse)
        self._watches.append(watch)
        watch.start()

    @property
    def described(self) -> Mapping[str, Described]:
        """The devices of DRA on this node, by `driver/pool/name`."""
        return self._slices.described

    def is_pending(self, dra_id: str) -> bool:
        """Whether a slice that describes this device may soon come."""
        if self._server is None or dra_id in self.described:
            return False
        return not self._slices_since or time.monotonic() - self._slices_since < _SLICES_WAIT_S

    @property
    def synced(self) -> bool:
        """Whether it has reported all that it knows of pods, or will soon."""
        return self._pods is not None and (self._pods.synced or self._pods.starting)

    def stop(self) -> None:
        """Watch no more."""
        for watch in self._watches:
            watch.stop()
