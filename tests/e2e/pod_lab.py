"""A Kubernetes node without Kubernetes: a kubelet and an API server that speak the protocols, real
cgroups with real (idle) processes in them, and fake cards that burn what the pods are reported to.

When a pod held a card is what this lab did to its cgroups; what the cards consumed is the
scenario's.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.e2e.books import meter_uj, remainder_uj, rest
from tests.e2e.lab import Daemon, until
from tests.fakes.kube_api.server import FakeApi
from tests.fakes.kubelet.kubelet import FakeKubelet
from tests.fakes.nvml.scenario import Gpu, Process, Scenario

NODE = "gpu-node-1"
IDLE_MW = 60_000

PER_POD = """
    SELECT workload, sum(energy_uj) FROM postings JOIN workloads ON workloads.id = workload_id
    GROUP BY workload
"""

CGROUP2 = [Path("/sys/fs/cgroup"), Path("/sys/fs/cgroup/unified")]
CGROUP1 = [Path("/sys/fs/cgroup/pids"), Path("/sys/fs/cgroup/devices"), *CGROUP2]


class Cgroups:
    """A root of our own in a hierarchy of this machine, named as a driver of the kubelet does.

    `systemd` is cgroup v2 with the systemd driver, `cgroupfs` v1 (where there is one) with the
    other.
    """

    def __init__(self, driver: str) -> None:
        self.driver = driver
        self.root = self._made(CGROUP2 if driver == "systemd" else CGROUP1)

    def _made(self, places: Sequence[Path]) -> Path:
        for place in places:
            if (place / "cgroup.procs").exists():
                root = place / f"joulebook-test-{os.getpid()}-{uuid.uuid4().hex[:6]}"
                with contextlib.suppress(OSError):
                    root.mkdir()
                    return root
        raise AssertionError("no cgroup hierarchy of this machine can be written to: not root?")

    def pod(self, uid: str) -> Path:
        """Where a pod's directory is."""
        if self.driver == "systemd":
            qos = self.root / "kubepods.slice" / "kubepods-burstable.slice"
            return qos / f"kubepods-burstable-pod{uid.replace('-', '_')}.slice"
        return self.root / "kubepods" / "burstable" / f"pod{uid}"

    def container(self, uid: str, container: str) -> Path:
        """Where a container's directory is."""
        name = f"cri-containerd-{container}.scope" if self.driver == "systemd" else container
        return self.pod(uid) / name

    def remove(self) -> None:
        """Remove all; what still runs in there is in the way."""
        for folder in sorted(self.root.rglob("*"), key=lambda p: -len(p.parts)):
            if folder.is_dir():
                folder.rmdir()
        self.root.rmdir()


@dataclass
class Pod:
    """A pod of the lab, and what really happened."""

    namespace: str
    name: str
    devices: Mapping[str, Sequence[str]]
    uid: str = field(default_factory=lambda: str(uuid.uuid4()))
    began_ns: int = 0
    ended_ns: int = 0
    containers: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    burning: dict[int, int] = field(default_factory=dict)
    """Power that it adds, in mW, by the card's slot."""
    said: dict[str, object] = field(default_factory=dict)
    """What the API server was reported of it."""

    @property
    def workload(self) -> str:
        return f"{self.name}.{self.uid[:8]}"


class PodLab:
    """One node; pods are started and ended by hand."""

    def __init__(
        self, directory: Path, *, gpus: Sequence[Gpu] | int = 4, driver: str = "systemd",
        dra: str = "v1", scenario: Scenario | None = None,
    ) -> None:  # fmt: skip
        """With `scenario` the cards are those of another lab on the same machine."""
        self.directory = directory
        cards = gpus if not isinstance(gpus, int) else [
            Gpu(uuid=f"GPU-{slot:08d}-1111-2222-3333-444444444444", minor=(slot + 1) % gpus,
                idle_mw=IDLE_MW, tick_phase_ns=slot * 23_000_000)
            for slot in range(gpus)
        ]  # fmt: skip
        self.scenario = scenario or Scenario.create(directory / "scenario", cards)
        self.cards = self.scenario.uuids
        self.idle_mw = (
            [gpu.idle_mw for gpu in cards] if scenario is None else [IDLE_MW] * len(self.cards)
        )
        self.kubelet = FakeKubelet(directory / "pod-resources" / "kubelet.sock")
        self.api = FakeApi(directory / "account", dra=dra)
        self.cgroups = Cgroups(driver)
        self.logs = directory / "logs"
        self.logs.mkdir()
        self.pods: list[Pod] = []
        self._exits = contextlib.ExitStack()

    def __enter__(self) -> PodLab:
        self._exits.callback(self.cgroups.remove)
        self._exits.callback(self._kill)
        self._exits.enter_context(self.kubelet)
        self._exits.enter_context(self.api)
        return self

    def __exit__(self, *exception: object) -> None:
        self._exits.close()

    def _kill(self) -> None:
        for pod in self.pods:
            for process in pod.containers.values():
                process.kill()
                process.wait()
        until("all processes to have left their cgroups", self._is_empty)

    def _is_empty(self) -> bool:
        return not any(file.read_text().strip() for file in self.cgroups.root.rglob("cgroup.procs"))

    # -- the daemon

    def daemon(self, directory: Path, **settings: str) -> Daemon:
        """The daemon of the node (not started)."""
        return Daemon(
            directory,
            self.scenario,
            directory / "events",
            {
                "JOULEBOOK_NODE_NAME": NODE,
                "JOULEBOOK_TENANTS_SLURM_ENABLED": "false",
                "JOULEBOOK_TENANTS_PROCESSES_ENABLED": "false",
                "JOULEBOOK_MARKS_ENABLED": "false",
                **self.settings(),
                **settings,
            },
        )

    def settings(self) -> dict[str, str]:
        """What a daemon must be reported to book this lab's pods."""
        return {
            "JOULEBOOK_TENANTS_KUBERNETES_ENABLED": "true",
            "JOULEBOOK_TENANTS_KUBERNETES_NODE_NAME": NODE,
            "JOULEBOOK_TENANTS_KUBERNETES_POD_RESOURCES": str(self.kubelet.socket),
            "JOULEBOOK_TENANTS_KUBERNETES_SERVICE_ACCOUNT": str(self.api.service_account),
            "JOULEBOOK_TENANTS_KUBERNETES_CGROUP_ROOT": str(self.cgroups.root),
            "JOULEBOOK_TENANTS_KUBERNETES_POD_LOGS": str(self.logs),
            **self.api.environment(),
        }

    # -- pods

    def start(
        self,
        name: str,
        devices: Mapping[str, Sequence[str]] | None = None,
        *,
        namespace: str = "team-a",
        claims: Sequence[tuple[str, str, str]] = (),
        init_s: float = 0,
        **said: object,
    ) -> Pod:
        """Admit a pod and start its container, as a kubelet does. `said`: see `FakeApi.put_pod`.

        With `init_s` an init container runs first, for so long.
        """
        pod = Pod(namespace, name, devices or {})
        self.pods.append(pod)
        self._tell(pod, **{**said, "phase": "Pending"})
        self.kubelet.admit(namespace, name, pod.devices, claims=claims)
        (self.logs / f"{namespace}_{name}_{pod.uid}").mkdir()
        pod.began_ns = self.scenario.now_ns()
        self.cgroups.pod(pod.uid).mkdir(parents=True)
        if init_s:
            self.run(pod, "init")
            time.sleep(init_s)
            self.leave(pod, "init")
        self.run(pod, "main")
        self._tell(pod, phase="Running", containers=[self._id(pod, "main")])
        return pod

    def _tell(self, pod: Pod, **said: object) -> None:
        pod.said |= said
        arguments = {"uid": pod.uid, "node": NODE, **pod.said}
        self.api.put_pod(pod.namespace, pod.name, **arguments)  # type: ignore[arg-type]

    @staticmethod
    def _id(pod: Pod, container: str) -> str:
        return (uuid.uuid5(uuid.UUID(pod.uid), container).hex * 2)[:64]

    def run(self, pod: Pod, container: str) -> int:
        """Start a container: a directory and a process in it; its pid."""
        folder = self.cgroups.container(pod.uid, self._id(pod, container))
        folder.mkdir()
        process = subprocess.Popen(["sleep", "600"])
        (folder / "cgroup.procs").write_text(str(process.pid))
        pod.containers[container] = process
        return process.pid

    def leave(self, pod: Pod, container: str) -> int:
        """End a container; when that was."""
        process = pod.containers.pop(container)
        process.kill()
        process.wait()
        folder = self.cgroups.container(pod.uid, self._id(pod, container))
        until("the cgroup to be empty", lambda: self._removed(folder))
        return self.scenario.now_ns()

    @staticmethod
    def _removed(folder: Path) -> bool:
        with contextlib.suppress(OSError):
            folder.rmdir()
        return not folder.exists()

    def burn(self, pod: Pod, slot: int, watts: int, *, sm: int = 90, at: int = -1) -> None:
        """The pod's process works on a card, and makes it draw so much more."""
        pid = pod.containers["main"].pid
        pod.burning[slot] = pod.burning.get(slot, 0) + 1000 * watts
        self.scenario.add_power(slot, 1000 * watts)
        where = {"gpu_instance": at, "compute_instance": 0} if at >= 0 else {}
        self.scenario.set_process(slot, Process(pid=pid, sm_pct=sm, memory_bytes=1 << 30, **where))
        self._busy(slot)

    def idle(self, pod: Pod) -> None:
        """The pod works no more."""
        for slot, power_mw in pod.burning.items():
            self.scenario.add_power(slot, -power_mw)
            self.scenario.remove_process(slot, pod.containers["main"].pid)
            self._busy(slot)
        pod.burning = {}

    def _busy(self, slot: int) -> None:
        busy = any(pod.burning.get(slot) for pod in self.pods)
        self.scenario.set_utilisation(slot, gpu_pct=90 if busy else 0)

    def end(self, pod: Pod, *, listed_s: float = 0.5, phase: str = "Succeeded") -> None:
        """The container ends; the kubelet notices, and lists the pod for some time yet."""
        self.idle(pod)
        pod.ended_ns = self.leave(pod, "main")
        self._tell(pod, phase=phase, containers=[self._id(pod, "main")])
        time.sleep(listed_s)
        self.kubelet.end(pod.namespace, pod.name)
        folder = self.cgroups.pod(pod.uid)
        until("the pod's cgroup to be gone", lambda: self._removed(folder))

    def delete(self, pod: Pod) -> None:
        """Forget it at the API server too."""
        self.api.delete("pods", pod.uid)

    # -- the truth, and the books

    def true_uj(self, pod: Pod, slot: int) -> int:
        """What a card consumed while the pod ran."""
        return self.scenario.true_energy_uj(slot, pod.began_ns, pod.ended_ns)

    @contextlib.contextmanager
    def counted(self, daemon: Daemon) -> Iterator[None]:
        """Start the daemon with all cards standing still; at the end everything is booked, and
        pods and remainders are what the cards counted, to the microjoule."""
        for slot in range(len(self.cards)):
            # Standing still must not be taken for the idle floor (a card cut up by MIG tells no
            # utilisation, so there is a process on it).
            self.scenario.set_utilisation(slot, gpu_pct=1)
            self.scenario.set_process(slot, Process(pid=os.getpid()))
        before = rest(self.scenario)
        with daemon:
            time.sleep(1.5)
            for slot in range(len(self.cards)):
                self.scenario.set_power(slot, self.idle_mw[slot])
                self.scenario.set_utilisation(slot)
                self.scenario.remove_process(slot, os.getpid())
            yield
            after = rest(self.scenario)
            until("everything to be booked", lambda: _nothing_pending(daemon), 60)
            counted = {uuid: after[uuid] - before[uuid] for uuid in after}
            booked = meter_uj(daemon)
            assert {uuid: booked.get(uuid, 0) for uuid in counted} == counted
            total = sum(pod_uj(daemon).values()) + sum(remainder_uj(daemon).values())
            assert total == sum(counted.values())


def pod_uj(daemon: Daemon) -> dict[str, int]:
    """Energy booked to each workload."""
    return dict(daemon.rows(PER_POD))


def _nothing_pending(daemon: Daemon) -> bool:
    pending = [
        value
        for (name, _), value in daemon.metrics().items()
        if name == "joulebook_pending_energy_joules"
    ]
    return bool(pending) and sum(pending) == 0
