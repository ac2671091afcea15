"""Watch one node's pods at the API server, and its ResourceSlices once needed."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from joulebook.clock import Clock
from joulebook.core.sanitize import clean_label
from joulebook.kubernetes_api.server import ApiServer
from joulebook.kubernetes_api.watch import Collection, Decoders, Item, Watch, WatchListener
from joulebook.node.workloads.contract import Rejections
from joulebook.node.workloads.kubernetes.device_ids import Described
from joulebook.node.workloads.kubernetes.pod_object import PodObject, Reader
from joulebook.node.workloads.kubernetes.pods import PodTable

MAX_DEVICES = 4096


_PCI = ("resource.kubernetes.io/pciBusID", "pciBusID", "pciAddr", "pciAddress")
"""Attributes with the PCI address: the standard one, and older names."""


class Attribute(msgspec.Struct, frozen=True, gc=False):
    """A device's attribute; of its kinds only text is read."""

    string: str | None = None


class Basic(msgspec.Struct, frozen=True, gc=False):
    """Where v1beta1 keeps a device's attributes."""

    attributes: dict[str, Attribute] | None = None


class SliceDevice(msgspec.Struct, frozen=True, gc=False):
    """One device of a slice."""

    name: str = ""
    attributes: dict[str, Attribute] | None = None
    basic: Basic | None = None


class Pool(msgspec.Struct, frozen=True, gc=False):
    """The pool a slice belongs to; a slice of an older generation is out of date."""

    name: str = ""
    generation: int = 0


class SliceSpec(msgspec.Struct, frozen=True, gc=False):
    """What a slice describes."""

    driver: str = ""
    pool: Pool = Pool()
    devices: list[SliceDevice] | None = None


class SliceMeta(msgspec.Struct, frozen=True, gc=False):
    """The metadata of a slice."""

    name: str = ""


class ResourceSlice(msgspec.Struct, frozen=True, gc=False):
    """A ResourceSlice of resource.k8s.io, v1 or v1beta1."""

    metadata: SliceMeta = SliceMeta()
    spec: SliceSpec = SliceSpec()


_SLICES = Decoders(ResourceSlice)


def slices_of(node: str) -> Collection[ResourceSlice]:
    """Return the slices of a node, in whatever version the API server has them."""
    return Collection(
        "resourceslices",
        tuple(f"/apis/resource.k8s.io/{v}/resourceslices" for v in ("v1", "v1beta2", "v1beta1")),
        {"fieldSelector": f"spec.nodeName={node}"},
        _SLICES,
    )


class SliceTable:
    """The devices of all slices, by `driver/pool/name`; calls come from one thread."""

    def __init__(self, changed: Callable[[], None] = lambda: None) -> None:
        self._slices: dict[str, ResourceSlice] = {}
        self._changed = changed
        self.described: dict[str, Described] = {}
        """Replaced and never changed, so it may be read from any thread."""

    def listed(self, items: list[ResourceSlice]) -> None:
        """Receive all current slices."""
        self._slices = {item.metadata.name: item for item in items}
        self._describe()

    def changed(self, item: ResourceSlice) -> None:
        """One is new, or is not as it was."""
        self._slices[item.metadata.name] = item
        self._describe()

    def deleted(self, item: ResourceSlice) -> None:
        """One is no more."""
        self._slices.pop(item.metadata.name, None)
        self._describe()

    def _describe(self) -> None:
        found: dict[str, Described] = {}
        newest: dict[tuple[str, str], int] = {}
        for each in self._slices.values():
            key = (each.spec.driver, each.spec.pool.name)
            newest[key] = max(newest.get(key, 0), each.spec.pool.generation)
        for each in self._slices.values():
            pool = each.spec.pool
            if pool.generation < newest[each.spec.driver, pool.name]:
                continue
            for device in each.spec.devices or []:
                if len(found) < MAX_DEVICES:
                    name = "/".join((each.spec.driver, pool.name, device.name))
                    found[clean_label(name, 256)] = _described(device, each.spec.driver)
        self.described = found
        self._changed()


def _described(device: SliceDevice, driver: str) -> Described:
    attributes = device.attributes or (device.basic.attributes if device.basic else None) or {}

    def text(name: str) -> str:
        said: Any = attributes.get(name) or attributes.get(f"{driver}/{name}")
        return clean_label(said.string or "") if said is not None else ""

    pci = next((reported for name in _PCI if (reported := text(name))), "")
    return Described(text("uuid"), text("parentUUID"), text("profile"), pci)


_PODS = Decoders(PodObject)

REMEDIES = {
    "forbidden": "Give the daemon's service account a ClusterRole with get, list and watch on pods "
    "(and on resourceslices of resource.k8s.io), as the Helm chart does, or set "
    "tenants.kubernetes.api = false.",
    "unauthorized": "The service account's token was rejected; it is re-read.",
    "no_account": "Run the daemon in a pod with a service account, set "
    "tenants.kubernetes.kubeconfig, or set tenants.kubernetes.api = false.",
    "unreachable": "Known pods are still booked; new pods without a known UID are unknown_holder "
    "until it responds, and labels wait for it.",
}
"""What can be done, by the reason of an `ApiError`."""

_SLICES_WAIT_S = 10.0
"""How long to wait for a slice before a DRA device is `unknown_holder`."""


def pods_of(node: str) -> Collection[PodObject]:
    """Return the pods of one node only."""
    query = {"fieldSelector": f"spec.nodeName={node}"}
    return Collection("pods", ("/api/v1/pods",), query, _PODS)


class PodTracker:
    """Writes pod events to the table, which `lock` guards.

    `boundary` is called when the API server says that a pod is over, or is named otherwise.
    """

    def __init__(
        self,
        table: PodTable,
        reader: Reader,
        lock: threading.RLock,
        clock: Clock,
        boundary: Callable[[int], None],
    ) -> None:
        self._table = table
        self._reader = reader
        self._lock = lock
        self._clock = clock
        self._boundary = boundary

    def listed(self, items: list[PodObject]) -> None:
        """All pods of this node."""
        infos = [self._reader.info(pod) for pod in items]
        with self._lock:
            self._table.relisted(infos, self._clock.now_ns())

    def changed(self, item: PodObject) -> None:
        """One of them is new, or is not as it was."""
        info = self._reader.info(item)
        with self._lock:
            t_ns = self._clock.now_ns()
            before = self._table.info(info.uid)
            self._table.reported(info, t_ns)
        ended = info.done and (before is None or not before.done)
        if ended or (before is not None and before.sources != info.sources):
            self._boundary(t_ns)

    def deleted(self, item: PodObject) -> None:
        """One is deleted."""
        with self._lock:
            self._table.unreported(item.metadata.uid)


class Cluster:
    """Runs the watches; `server` is `None` if the API server is not used."""

    def __init__(
        self,
        server: ApiServer | None,
        node: str,
        tracker: PodTracker,
        slices_changed: Callable[[], None],
        refuse: Rejections,
    ) -> None:
        self._server = server
        self._node = node
        self._fault = refuse.fault
        self._slices = SliceTable(slices_changed)
        self._slices_since = 0.0
        self._pods = self._watch(pods_of(node), tracker) if server else None
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
        watch = self._watch(slices_of(self._node), self._slices)
        self._watches.append(watch)
        watch.start()

    def _watch(self, what: Collection[Item], listener: WatchListener[Item]) -> Watch[Item]:
        assert self._server is not None
        return Watch(self._server, what, listener, self._fault, REMEDIES)

    @property
    def described(self) -> Mapping[str, Described]:
        """The devices of DRA on this node, by `driver/pool/name`."""
        return self._slices.described

    def is_pending(self, dra_id: str) -> bool:
        """Return whether a slice that describes this device may soon come."""
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
