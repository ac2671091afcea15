"""The workload source for Kubernetes: the kubelet, cgroups, and the API server for names.

Three threads: one polls the kubelet (`poller`), one follows cgroups by inotify, one watches the
node's pods at the API server (a fourth the node's ResourceSlices, once a pod holds a DRA device).
`pods` combines their data, and `claims` turns it into claims.
"""

from __future__ import annotations

import fnmatch
import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from joulebook.clock import Clock
from joulebook.core.attribution.claims import Claim, Evidence
from joulebook.core.energy.readings import DeviceStatus
from joulebook.core.workloads import INFRASTRUCTURE, WorkloadFacts, WorkloadId
from joulebook.kubernetes_api.server import ApiServer
from joulebook.node.workloads.contract import (
    NOTHING_HELD,
    Before,
    Boundary,
    Holdings,
    Rejections,
    UsageGroup,
    joined,
)
from joulebook.node.workloads.host.cgroup_paths import CgroupReader
from joulebook.node.workloads.host.inotify import Event, Inotify, InotifyThread
from joulebook.node.workloads.kubernetes.allocation import PodAllocation
from joulebook.node.workloads.kubernetes.cgroups import LogFolders, PodDirectory, PodTree
from joulebook.node.workloads.kubernetes.claims import DeviceView, claims_of, facts_of, find_parts
from joulebook.node.workloads.kubernetes.device_ids import (
    KubeletDevice,
    KubeletError,
    ListedPod,
    Offers,
    card_names,
    is_gpu_id,
)
from joulebook.node.workloads.kubernetes.informer import Cluster, PodTracker
from joulebook.node.workloads.kubernetes.kubelet_poller import KubeletPoller
from joulebook.node.workloads.kubernetes.pod_object import PodInfo, Reader, workload_id
from joulebook.node.workloads.kubernetes.pods import PodTable
from joulebook.node.workloads.kubernetes.resume import Resumption
from joulebook.units import NS_PER_S

_RESCAN_S, _RETRY_S = 60.0, 5.0
"""Time between scans of all cgroups, with or without events; shorter if there is no tree yet."""

_RESCAN_PAUSE_S = 0.2
_LATE_NS = 2 * NS_PER_S
"""So long after its end the labels of a short pod are still waited for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KubernetesSite:
    """The settings for Kubernetes on this node.

    Attributes:
        node: This node's name in the cluster.
        socket: The kubelet's PodResources socket.
        server: The API server; `None`: not used.
        resources: Device plugin resources that are GPUs; `*` matches anything.
        drivers: DRA drivers whose devices are GPUs.
        pod_logs: The kubelet's log directories of pods; `None`: not used.
        poll_interval_s: Time between polls of the kubelet while nothing happens.

    """

    node: str
    reader: Reader
    socket: Path
    server: ApiServer | None = None
    resources: Sequence[str] = ("nvidia.com/gpu",)
    drivers: Sequence[str] = ("gpu.nvidia.com",)
    cgroup_root: Path = Path("/sys/fs/cgroup")
    pod_logs: Path | None = None
    poll_interval_s: float = 5.0
    proc: Path = Path("/proc")


class KubernetesWorkloads:
    """The pods on this node."""

    name = "kubernetes"

    def __init__(self, clock: Clock, site: KubernetesSite) -> None:
        self._clock = clock
        self._site = site
        self._pods = site.reader
        self._lock = threading.RLock()
        self._rejections = Rejections()
        self._reader = CgroupReader(site.proc)
        self._thread: InotifyThread | None = None

    # -- TenantSource

    def open(self, boundary: Boundary, before: Before = NOTHING_HELD) -> None:
        """Scan what exists and start watching. Raises `OSError` without inotify."""
        self._boundary = boundary
        self._table = PodTable(
            self._is_gpu,
            LogFolders(self._site.pod_logs),
            node_ns=lambda utc_ns: utc_ns - self._clock.utc_offset_ns(),
            begun_ns={fact.id.workload: fact.started_ns for fact in before.facts},
        )
        self._resumption = Resumption(before)
        self._offers = Offers()
        self._answered = False
        self._handed: list[tuple[PodAllocation, WorkloadFacts | None, PodInfo | None]] = []
        self._times: list[int] = []
        tracker = PodTracker(self._table, self._pods, self._lock, self._clock, boundary)
        self._cluster = Cluster(
            self._site.server, self._site.node, tracker, self._now_is_a_boundary, self._rejections
        )
        self._inotify = Inotify()
        self._tree = PodTree(self._site.cgroup_root, self._inotify, self._rejections, self)
        with self._lock:
            self._tree.scan()
            self._resumption.review(self._table, self._clock.now_ns(), self._tree.present)
        self._rescan_at = time.monotonic() + _RETRY_S
        self._poller = KubeletPoller(
            self._site.socket, self._clock, self._site.poll_interval_s,
            heard=self._heard, silent=self._silent, offered=self._offered,
            faulty=self._faulty, restless=self._restless,
        )  # fmt: skip
        self._thread = InotifyThread("kubernetes-watch", self._inotify, self._handle, self._wait_s)
        self._thread.start()
        self._poller.start()
        self._cluster.start()

    def holdings(self, devices: Sequence[DeviceStatus]) -> Holdings:
        """Return the current view."""
        claims: list[Claim] = []
        facts: list[WorkloadFacts] = []
        with self._lock:
            now_ns = self._clock.now_ns()
            self._review(now_ns)
            offers, described = self._offers, self._cluster.described
            offers.names = card_names(devices)
            view = DeviceView(devices, offers.names, offers.last, described, self._is_pending)
            whole = bool(devices) and find_parts(list(self._table), view, now_ns, self._rejections)
            self._resumption.review(self._table, now_ns, self._tree.present)
            if devices:
                claims += self._resumption.claims()
                facts += self._resumption.facts()
            synced = self._cluster.synced
            self._handed = []
            for allocation in [r for r in self._table if not self._is_infrastructure(r)]:
                found = claims_of(allocation, now_ns, awaited=synced) if devices else None
                if found is None:
                    whole = False
                else:
                    claims += found
                awaited = self._awaited(allocation, now_ns)
                fact = facts_of(allocation, self._pods.rules, now_ns, awaited=awaited)
                if fact is not None and fact != allocation.reported:
                    facts.append(fact)
                self._handed.append((allocation, fact, allocation.info))
            sure = whole and self._answered and not self._table.doubtful
        complete = frozenset({Evidence.POD_RESOURCES} if sure else ())
        return Holdings(joined(claims), complete, tuple(facts), self._rejections.counts())

    def settled(self) -> None:
        """Confirm that the last `holdings` are durable."""
        with self._lock:
            over = [r for r in self._table if r.ended_ns and self._is_infrastructure(r)]
            now_ns = self._clock.now_ns()
            for allocation, fact, info in self._handed:
                allocation.settle(fact, now_ns)
                waits = self._cluster.synced and allocation.awaits_outcome(now_ns)
                if allocation.all_is_said and allocation.info is info and not waits:
                    over.append(allocation)
            self._handed = []
            self._resumption.settled()
            self._table.put_away(over, unnamed=self._site.server is not None)

    def identify(self, pid: int) -> WorkloadId | None:
        """Return the owner of a process by its cgroup; `INFRASTRUCTURE` if it is the cluster's
        own.
        """
        place = self._reader.pod(pid)
        if place is None:
            return None
        with self._lock:
            allocation = self._table.of_uid(place.uid)
            if allocation is not None:
                return INFRASTRUCTURE if self._is_infrastructure(allocation) else allocation.id
            info = self._table.info(place.uid)
            if info is not None:
                return INFRASTRUCTURE if info.infrastructure else workload_id(info.name, place.uid)
            named = self._table.named(place.uid)
        if named is None:
            return None
        namespace, name = named
        if self._pods.is_infrastructure(namespace, None):
            return INFRASTRUCTURE
        return workload_id(name, place.uid)

    def groups(self) -> Sequence[UsageGroup]:
        """Return the cgroups of all pods that run now."""
        with self._lock:
            found = []
            for allocation in self._table:
                cgroup = self._table.cgroup(allocation.uid)
                if cgroup is not None and cgroup.paths and not self._is_infrastructure(allocation):
                    since_ns = cgroup.began_ns or 0
                    paths = tuple(sorted(cgroup.paths))
                    found.append(UsageGroup(allocation.id, paths, outlived_by=1, since_ns=since_ns))
            return found

    def close(self) -> None:
        """Stop watching; `open` may be called again."""
        with self._lock:
            thread, self._thread = self._thread, None
        if thread is None:
            return
        self._cluster.stop()
        self._poller.stop()
        thread.stop()
        self._inotify.close()

    # -- cgroups (the watching thread)

    def cgroup_made(self, spot: PodDirectory, live: bool) -> None:
        """See `PodListener`."""
        t_ns = self._clock.now_ns()
        self._table.cgroup_made(spot, t_ns, live=live)
        self._note(spot, t_ns)

    def cgroup_gone(self, spot: PodDirectory) -> None:
        """See `PodListener`."""
        t_ns = self._clock.now_ns()
        self._note(spot, t_ns)
        self._table.cgroup_gone(spot, t_ns)

    def _note(self, spot: PodDirectory, t_ns: int) -> None:
        if self._table.matters(spot.uid):
            self._times.append(t_ns)

    def _handle(self, events: Sequence[Event]) -> None:
        now = time.monotonic()
        try:
            with self._lock:
                for event in events:
                    if event.overflow:
                        self._rescan_at = min(self._rescan_at, now + _RESCAN_PAUSE_S)
                    else:
                        self._tree.handle(event)
                if now >= self._rescan_at:
                    self._tree.scan()
                    self._rescan_at = now + (_RESCAN_S if self._tree.present else _RETRY_S)
            self._tell()
        except Exception:
            # Not at once: what made it fail may well be there still.
            self._rescan_at = now + _RETRY_S
            self._rejections.fault(
                "following pod cgroups failed: ends may be seen late; rescanning all of them"
            )

    def _wait_s(self) -> float | None:
        return max(0.0, self._rescan_at - time.monotonic())

    def _tell(self) -> None:
        # Outside the lock: who is reported may ask for holdings from another thread and wait for
        # it.
        with self._lock:
            times, self._times = self._times, []
        for t_ns in times[-1:]:
            self._boundary(t_ns)
        if times:
            self._poller.soon()

    # -- the kubelet (its thread)

    def _heard(self, pods: Sequence[ListedPod], t_ns: int) -> None:
        with self._lock:
            before = {id(r): len(r.grants) for r in self._table}
            self._answered = self._table.listed(pods, t_ns)
            self._review(self._clock.now_ns())
            news = {id(r): len(r.grants) for r in self._table} != before
            held = {d for r in self._table for d in r.devices}
            dra = any(device.is_dra for device in held)
            ask = self._offers.ask(held)
        if ask:
            self._poller.ask_offer()
        if dra:
            self._cluster.want_slices()
        if news:
            self._boundary(t_ns)

    def _silent(self, _error: KubeletError, t_ns: int) -> None:
        with self._lock:
            self._answered = False
            self._table.silent(t_ns)

    def _faulty(self) -> None:
        # What the kubelet said is lost, so nothing is known to be complete.
        self._rejections.fault(
            "polling the kubelet failed: pods may hold other devices than known; retrying"
        )
        with self._lock:
            self._answered = False

    def _offered(self, devices: Iterable[KubeletDevice] | None) -> None:
        with self._lock:
            self._offers.answered(devices)

    def _now_is_a_boundary(self) -> None:
        self._boundary(self._clock.now_ns())

    def _restless(self) -> bool:
        with self._lock:
            return self._table.doubtful or not self._answered

    def _is_gpu(self, device: KubeletDevice) -> bool:
        if device.is_dra:
            driver = device.id.split("/", 1)[0]
            return any(fnmatch.fnmatchcase(driver, each) for each in self._site.drivers)
        named = any(fnmatch.fnmatchcase(device.resource, each) for each in self._site.resources)
        return named or is_gpu_id(device.id)

    def _awaited(self, allocation: PodAllocation, now_ns: int) -> bool:
        """Whether labels may yet come in time for a pod's series."""
        if self._site.server is None:
            return False
        if allocation.ended_ns is None:
            return True
        return self._cluster.synced and now_ns - allocation.ended_ns < _LATE_NS

    def _is_pending(self, device: KubeletDevice) -> bool:
        """Return whether what a device is may soon be known that is not known now."""
        source = self._cluster if device.is_dra else self._offers
        return source.is_pending(device.id)

    def _review(self, now_ns: int) -> None:
        silent = self._site.server is not None and not self._cluster.synced
        self._table.review(now_ns, api_silent=silent)

    def _is_infrastructure(self, allocation: PodAllocation) -> bool:
        """Return whether it is the cluster's own; labels alone do not hide a pod with a GPU."""
        info, namespace = allocation.info, allocation.namespace
        if allocation.held:
            return info.stand_in if info else self._pods.is_stand_in(namespace, None)
        return info.infrastructure if info else self._pods.is_infrastructure(namespace, None)
