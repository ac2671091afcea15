"""A node for the source alone: a kubelet that speaks the protocol, and a tree of directories."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.fakes.kubelet.kubelet import FakeKubelet

from joulebook.clock import NodeClock
from joulebook.core.attribution.claims import Claim
from joulebook.core.energy.devices import DeviceStatus, Instance
from joulebook.core.energy.readings import Component, Meter
from joulebook.core.experiments import DEFAULT_RULES
from joulebook.core.selectors import parse
from joulebook.node.workloads.contract import Holdings
from joulebook.node.workloads.kubernetes.api import ApiServer
from joulebook.node.workloads.kubernetes.pod_object import Reader
from joulebook.node.workloads.kubernetes.source import KubernetesWorkloads

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
            node="n1",
            reader=Reader(DEFAULT_RULES, (parse("app=monitor"), parse("namespace:kube-system"))),
            socket=self.kubelet.socket,
            server=server,
            resources=(GPU, "nvidia.com/gpu.shared", "nvidia.com/mig-*", "example.org/card"),
            cgroup_root=self.root,
            pod_logs=self.logs,
            poll_interval_s=0.5,
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
