"""Nodes for the source alone.

`World` has a kubelet that speaks the protocol, a tree of directories, and real time. `Still` has
none of them: what the source would hear is said by hand, and time passes when it is reported to.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import pytest
from tests.fakes.kubelet.kubelet import FakeKubelet

from joulebook.clock import NodeClock
from joulebook.core.attribution.claims import Claim
from joulebook.core.energy.readings import Component, DeviceStatus, Instance, Meter
from joulebook.core.experiments import DEFAULT_RULES
from joulebook.core.selectors import parse
from joulebook.core.workloads import WorkloadFacts, merged
from joulebook.kubernetes_api.server import ApiError, ApiServer
from joulebook.kubernetes_api.watch import Watch
from joulebook.node.workloads.contract import NOTHING_HELD, Before, Holdings
from joulebook.node.workloads.kubernetes import allocation, source
from joulebook.node.workloads.kubernetes.cgroups import PodDirectory, PodLevel, PodTree
from joulebook.node.workloads.kubernetes.device_ids import KubeletDevice, KubeletError, ListedPod
from joulebook.node.workloads.kubernetes.kubelet_poller import KubeletPoller
from joulebook.node.workloads.kubernetes.pod_object import (
    Container,
    ContainerState,
    ContainerStatus,
    Meta,
    PodObject,
    PodStatus,
    Reader,
    Spec,
    Terminated,
)
from joulebook.node.workloads.kubernetes.source import KubernetesSite, KubernetesWorkloads
from joulebook.units import NS_PER_S

GPU = "nvidia.com/gpu"


def card(index: int, **given: object) -> DeviceStatus:
    """A card; its minor number is not its index."""
    known: dict[str, object] = {
        "index": index,
        "minor": 3 - index,
        "model": "NVIDIA A100",
        "t_ns": 0,
    }
    return DeviceStatus(Meter(Component.GPU, f"GPU-{index}"), **{**known, **given})  # type: ignore[arg-type]


CARDS = tuple(card(index) for index in range(4))

MIG = card(
    0,
    mig=True,
    slices=7,
    instances=(
        Instance("MIG-a", 1, 0, 3, "3g.20gb"),
        Instance("MIG-b", 2, 0, 3, "3g.20gb"),
        Instance("MIG-GPU-0/7/0", 7, 0, 1, "1g.5gb"),
    ),
)


class World:
    """Pods come and go as a kubelet would have it."""

    def __init__(
        self, folder: Path, *, server: ApiServer | None = None, driver: str = "systemd"
    ) -> None:
        self.kubelet = FakeKubelet(folder / "kubelet.sock").start()
        self.root = folder / "cgroup"
        self.logs = folder / "logs"
        self.root.mkdir()
        self.logs.mkdir()
        (self.root / "cgroup.controllers").touch()
        self.driver = driver
        self.clock = NodeClock()
        self.boundaries: list[int] = []
        self.source = KubernetesWorkloads(
            self.clock,
            KubernetesSite(
                node="n1",
                reader=Reader(
                    DEFAULT_RULES, (parse("app=monitor"), parse("namespace:kube-system"))
                ),
                socket=self.kubelet.socket,
                server=server,
                resources=(GPU, "nvidia.com/gpu.shared", "nvidia.com/mig-*", "example.org/card"),
                cgroup_root=self.root,
                pod_logs=self.logs,
                poll_interval_s=0.5,
            ),
        )

    def open(self) -> World:
        self.source.open(self.boundaries.append)
        return self

    def close(self) -> None:
        self.source.close()
        self.kubelet.stop()

    def pod_folder(self, uid: str) -> Path:
        if self.driver == "systemd":
            qos = self.root / "kubepods.slice/kubepods-besteffort.slice"
            return qos / f"kubepods-besteffort-pod{uid.replace('-', '_')}.slice"
        return self.root / "kubepods/besteffort" / f"pod{uid}"

    def start(
        self, name: str, devices: dict[str, Sequence[str]] | None = None, *, namespace: str = "a",
        logs: bool = True, cgroup: bool = True, uid: str = "",
    ) -> str:  # fmt: skip
        """Admit a pod and make its cgroups; its uid."""
        uid = uid or str(uuid.uuid4())
        self.kubelet.admit(namespace, name, devices)
        if logs:
            (self.logs / f"{namespace}_{name}_{uid}").mkdir()
        if cgroup:
            self.pod_folder(uid).mkdir(parents=True)
            self.run(uid, "main")
        return uid

    def run(self, uid: str, container: str) -> None:
        (self.pod_folder(uid) / container).mkdir()

    def leave(self, uid: str, container: str) -> None:
        (self.pod_folder(uid) / container).rmdir()

    def remove(self, uid: str) -> None:
        for folder in self.pod_folder(uid).iterdir():
            folder.rmdir()
        self.pod_folder(uid).rmdir()

    def holdings(self, cards: Sequence[DeviceStatus] = CARDS) -> Holdings:
        return self.source.holdings(cards)

    def claims(self, cards: Sequence[DeviceStatus] = CARDS) -> tuple[Claim, ...]:
        return self.holdings(cards).claims

    def until(
        self,
        what: Callable[[Holdings], object],
        cards: Sequence[DeviceStatus] = CARDS,
        *,
        settle: bool = False,
    ) -> Holdings:
        """Ask for holdings as the daemon does until they are as they should be."""
        deadline = time.monotonic() + 30
        while True:
            found = self.holdings(cards)
            if what(found):
                return found
            if settle:
                self.source.settled()
            assert time.monotonic() < deadline, found
            time.sleep(0.05)


class StillClock:
    """Stands still until it is reported to go on."""

    epoch = "boot"

    def __init__(self) -> None:
        self.t_ns = 1000 * NS_PER_S

    def now_ns(self) -> int:
        return self.t_ns

    def utc_offset_ns(self) -> int:
        return UTC_NS

    def boottime_ns(self, t_ns: int) -> int:
        return t_ns


UTC_NS = 1_700_000_000 * NS_PER_S
"""What makes UTC of the node time of a `StillClock`."""


def of(name: str, *devices: str, namespace: str = "a", resource: str = GPU) -> ListedPod:
    """A pod as the kubelet lists it."""
    return ListedPod(namespace, name, tuple(KubeletDevice(resource, each) for each in devices))


class Still:
    """A source whose threads stand still, and what the daemon makes of it."""

    def __init__(
        self,
        folder: Path,
        monkeypatch: pytest.MonkeyPatch,
        *,
        before: Before = NOTHING_HELD,
        clock: StillClock | None = None,
        running: Iterable[str] = (),
        api: bool = True,
        selectors: Sequence[str] = (),
        cgroups: bool = True,
    ) -> None:
        """`running` are the uids of pods whose cgroups are there when the daemon starts."""
        monkeypatch.setattr(KubeletPoller, "start", lambda _: None)
        monkeypatch.setattr(Watch, "start", lambda _: None)
        monkeypatch.setattr(source, "_RETRY_S", 86_400.0)  # no scan by the clock of the machine
        monkeypatch.setattr(allocation, "has_processes", lambda path: path in self.populated)
        self.clock = clock or StillClock()
        self.before = before
        self.populated: set[Path] = set()
        self.cards: Sequence[DeviceStatus] = CARDS
        site = KubernetesSite(
            node="n1", reader=Reader(DEFAULT_RULES, tuple(map(parse, selectors))),
            socket=folder / "kubelet.sock", server=ApiServer(folder) if api else None,
            cgroup_root=folder, pod_logs=folder / "logs",
        )  # fmt: skip
        self.source = KubernetesWorkloads(self.clock, site)
        monkeypatch.setattr(PodTree, "present", cgroups)
        monkeypatch.setattr(PodTree, "scan", lambda tree: self._scan(tree, running))
        self.source.open(lambda _: None, before)
        self.open_claims: tuple[Claim, ...] = ()
        self.closed: dict[str, list[Claim]] = {}
        self.facts: dict[str, WorkloadFacts] = {}
        self.kept: list[int] = []

    def _scan(self, tree: PodTree, running: Iterable[str]) -> set[Path]:
        for uid in running:
            self._make(uid, "c", live=False)
        return set()

    # -- what happens on the node

    def run(self, uid: str, container: str = "c") -> None:
        """A container is made, and its pod's cgroup if need be; processes run in it."""
        self._make(uid, container, live=True)

    def _make(self, uid: str, container: str, *, live: bool) -> None:
        for spot in (
            PodDirectory(Path(f"/{uid}"), PodLevel.POD, uid),
            PodDirectory(Path(f"/{uid}/{container}"), PodLevel.CONTAINER, uid, container),
        ):
            self.source.cgroup_made(spot, live)
            self.populated.add(spot.path)

    def empty(self, uid: str) -> None:
        """All processes of a pod end; its directories are left."""
        self.populated -= {path for path in self.populated if uid in path.parts}

    def remove(self, uid: str) -> None:
        """A pod's cgroups go."""
        body = self.source._table.cgroup(uid)
        for container, paths in list(body.containers.items()) if body is not None else ():
            for path in list(paths):
                self.source.cgroup_gone(PodDirectory(path, PodLevel.CONTAINER, uid, container))
        self.empty(uid)
        self.source.cgroup_gone(PodDirectory(Path(f"/{uid}"), PodLevel.POD, uid))

    # -- who says what

    def hear(self, *pods: ListedPod, after_s: float = 1.0) -> None:
        """The kubelet answers after a while, and the daemon books."""
        self.wait(after_s)
        self.source._heard(pods, self.clock.t_ns)
        self.book()

    def hear_for(self, seconds: int, *pods: ListedPod) -> None:
        """The kubelet answers each second."""
        for _ in range(seconds):
            self.hear(*pods)

    def silent(self, after_s: float = 1.0) -> None:
        """The kubelet does not answer."""
        self.wait(after_s)
        self.source._silent(KubeletError("gone", reason="unavailable"), self.clock.t_ns)
        self.book()

    def offer(self, *ids: str, resource: str = GPU) -> None:
        """Plugins offer these devices."""
        self.source._offered([KubeletDevice(resource, each) for each in ids])

    @property
    def watch(self) -> Watch[PodObject]:
        """Of pods at the API server."""
        watch = self.source._cluster._pods
        assert watch is not None
        return watch

    def api_lists(self, *pods: PodObject) -> None:
        """The API server answers with these pods, and is heard from then on."""
        self.watch._listener.listed(list(pods))
        self.watch.problem = ""

    def api_tells(self, pod: PodObject) -> None:
        """A pod is new there, or has changed."""
        self.watch._listener.changed(pod)

    def api_fails(self) -> None:
        """The API server does not answer any more."""
        self.watch._after(ApiError("GET /: gone", reason="busy"))

    # -- the daemon

    def wait(self, seconds: float) -> None:
        self.clock.t_ns += round(seconds * NS_PER_S)

    def book(self) -> Holdings:
        """Ask for holdings as the daemon does in each tick, and make them durable."""
        found = self.source.holdings(self.cards)
        self.open_claims = tuple(claim for claim in found.claims if claim.t1_ns is None)
        for claim in found.claims:
            if claim.t1_ns is not None and claim.workload is not None:
                self.closed.setdefault(claim.workload.workload, []).append(claim)
        for fact in found.facts:
            known = self.facts.get(fact.id.workload)
            self.facts[fact.id.workload] = merged(known, fact) if known is not None else fact
        self.complete = bool(found.complete)
        self.source.settled()
        self.kept.append(len(list(self.source._table)))
        return found

    def holders(self) -> dict[str, str]:
        """Who holds each card now, by the pod's name (`?`: somebody); several by commas."""
        found: dict[str, list[str]] = {}
        for claim in self.open_claims:
            name = claim.workload.workload.partition(".")[0] if claim.workload else "?"
            found.setdefault(claim.meter.name, []).append(name)
        return {meter: ",".join(sorted(names)) for meter, names in found.items()}

    def ledger(self) -> Before:
        """What the ledger holds if the daemon stops now."""
        running = (fact for fact in self.facts.values() if fact.ended_ns is None)
        return Before(tuple(running), self.open_claims, self.clock.t_ns)


def uid_of(n: int) -> str:
    return str(uuid.UUID(int=(n + 1) << 96))


def pod(
    name: str,
    uid: str,
    *,
    namespace: str = "a",
    phase: str = "Running",
    containers: Sequence[str] = ("c",),
    start: str | None = None,
    finished: str | None = None,
    **labels: str,
) -> PodObject:
    """A pod as the API server has it; `__` in the name of a label stands for a slash."""
    named = {key.replace("__", "/").replace("_", "."): value for key, value in labels.items()}
    state = ContainerState(Terminated(finished)) if finished else None
    statuses = [ContainerStatus(each, state) for each in containers]
    return PodObject(
        Meta(name, namespace, uid, named),
        Spec("n1", containers=[Container("main", "image")]),
        PodStatus(phase, start_time=start, container_statuses=statuses),
    )
