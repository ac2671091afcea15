"""Pods on a node, the daemon beside them: who held which card, to the microjoule."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from benchmarks.machine import memory
from tests.e2e.books import MOMENT_UJ, assert_nobodys, remainder_uj
from tests.e2e.lab import Daemon, until
from tests.e2e.pod_lab import IDLE_MW, NODE, Pod, PodLab, pod_uj
from tests.fakes.nvml.scenario import Architecture, Gpu, Instance

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240)]

GPU = "nvidia.com/gpu"

TICK_UJ = 25 * 10**6
"""What a busy card consumes in one tick of its counter: on a busy machine a boundary may be read so
much too late."""


def near(truth_uj: int, slack_uj: int = TICK_UJ) -> object:
    """Within 3 %, and one tick of a counter."""
    return pytest.approx(truth_uj, abs=0.03 * truth_uj + slack_uj)


@pytest.fixture
def lab(request: pytest.FixtureRequest, short_tmp_path: Path) -> Iterator[PodLab]:
    """Four cards; a parameter names the kubelet's cgroup driver."""
    with PodLab(short_tmp_path, driver=getattr(request, "param", "systemd")) as lab:
        yield lab


def test_short_pods_retries_and_init_containers(lab: PodLab, tmp_path: Path) -> None:
    cards = lab.cards
    with lab.counted(daemon := lab.daemon(tmp_path)):
        long = lab.start("long", {GPU: [cards[0], cards[1]]}, namespace="team-b")
        lab.burn(long, 0, 200)
        lab.burn(long, 1, 100)
        short = lab.start("blink", {GPU: [cards[2]]})
        lab.burn(short, 2, 250)
        time.sleep(0.4)
        lab.end(short, listed_s=1.0)
        retries = []
        for attempt in ("fx2bd", "q9zzt"):
            job = lab.start(
                f"train-{attempt}", {GPU: [cards[3]]}, owner=("Job", "train"),
                labels={"batch.kubernetes.io/job-name": "train"},
            )  # fmt: skip
            lab.burn(job, 3, 150)
            time.sleep(1.2)
            lab.end(job, phase="Failed")
            retries.append(job)
        init = lab.start("with-init", {GPU: [cards[2]]}, init_s=1.0, env={"WANDB_PROJECT": "vit"})
        lab.burn(init, 2, 200)
        time.sleep(1.5)
        lab.end(init)
        lab.end(long)
    booked = pod_uj(daemon)
    for pod, slots in ((long, (0, 1)), (short, (2,)), (init, (2,)), *((p, (3,)) for p in retries)):
        truth = sum(lab.true_uj(pod, slot) for slot in slots)
        # Where readings at a boundary come late, on a busy machine, a moment goes to a neighbour.
        assert booked[pod.workload] == near(truth, MOMENT_UJ), pod
    rows = daemon.rows("SELECT workload, account, experiment, evidence FROM workloads")
    known = {workload: rest for workload, *rest in rows}
    assert known[retries[0].workload] == ["team-a", "train", "pod-resources"]
    assert known[retries[1].workload][1] == "train"
    assert known[init.workload][1] == "vit"
    assert known[long.workload][:2] == ["team-b", "long"]
    assert_nobodys(remainder_uj(daemon))
    # One list and one watch were all that the API server saw.
    assert lab.api.calls == {"list pods": 1, "watch pods": 1}


@pytest.mark.parametrize("lab", ["cgroupfs"], indirect=True)
def test_a_kubelet_restart_claims_of_dra_and_uninvited_guests(lab: PodLab, tmp_path: Path) -> None:
    lab.api.put_slice(
        NODE, "gpu.nvidia.com", {"gpu-2": {"uuid": lab.cards[2], "type": "gpu"}}
    )  # fmt: skip
    with lab.counted(daemon := lab.daemon(tmp_path)):
        held = lab.start("held", {GPU: [lab.cards[0]]}, image="example.org/vit:2")
        lab.burn(held, 0, 150)
        # Nobody asked for this card, but the pod sees all of them.
        guest = lab.start("guest", labels={"app": "notebook"})
        lab.burn(guest, 1, 120)
        monitor = lab.start("dcgm", namespace="gpu-operator", restart="Always")
        lab.burn(monitor, 3, 30)
        claimed = lab.start("claimed", claims=[("gpu.nvidia.com", NODE, "gpu-2")])
        lab.burn(claimed, 2, 90)
        twin = None
        time.sleep(2)
        lab.kubelet.restart(down_s=0.3, empty_s=0.4)
        time.sleep(3)
        # A second pod joins the claim: from now on each has one half of the card.
        twin = lab.start("twin", claims=[("gpu.nvidia.com", NODE, "gpu-2")])
        joined_ns = twin.began_ns
        time.sleep(2)
        for pod in (held, guest, monitor, twin, claimed):
            lab.end(pod, listed_s=0)
    booked, left = pod_uj(daemon), remainder_uj(daemon)
    assert booked[held.workload] == near(lab.true_uj(held, 0))
    # Process lists are read every two seconds, and prove nothing of the time after the last one.
    guest_uj, last_uj = lab.true_uj(guest, 1), 3 * 180 * 10**6
    assert guest_uj - last_uj < booked[guest.workload] < 1.03 * guest_uj
    alone_uj = lab.scenario.true_energy_uj(2, claimed.began_ns, joined_ns)
    together_uj = lab.scenario.true_energy_uj(2, joined_ns, claimed.ended_ns)
    assert booked[claimed.workload] + booked[twin.workload] == near(alone_uj + together_uj)
    # Above the floor the one pays that worked.
    assert booked[claimed.workload] > alone_uj
    assert 0 < booked[twin.workload] < 0.3 * together_uj
    assert monitor.workload not in booked, "infrastructure is no workload"
    assert_nobodys(left)
    how = main_evidence(daemon)
    assert how[guest.workload] == ("counter", "processes")
    assert how[held.workload] == ("counter", "pod-resources")
    assert how[claimed.workload] == ("counter", "pod-resources")
    assert how[twin.workload] == ("apportioned", "pod-resources")
    # The restart ended nothing: of the held card nothing is nobody's while the pod ran.
    ((unheld_uj,),) = daemon.rows(
        "SELECT sum(energy_uj) FROM postings JOIN meters ON meters.id = meter_id "
        "WHERE name = ? AND remainder <> ''", lab.cards[0],
    )  # fmt: skip
    outside_uj = lab.scenario.true_energy_uj(0, lab.scenario.start_ns(0), lab.scenario.now_ns())
    assert unheld_uj < outside_uj - lab.true_uj(held, 0) + TICK_UJ
    calls = lab.api.calls
    assert calls == {"list pods": 1, "watch pods": 1, "list resourceslices": 1,
                     "watch resourceslices": 1}  # fmt: skip


def test_while_the_api_server_is_gone_attribution_goes_on(lab: PodLab, tmp_path: Path) -> None:
    with lab.counted(daemon := lab.daemon(tmp_path)):
        lab.api.stop()
        pod = lab.start("train-7xk2p", {GPU: [lab.cards[0]]}, owner=("Job", "train"))
        lab.burn(pod, 0, 200)

        def shown() -> list[str]:
            return [
                dict(labels)["experiment"]
                for (name, labels), _ in daemon.metrics().items()
                if name == "joulebook_workload_energy_joules_total"
                and dict(labels)["workload"] == pod.workload
            ]

        # Labels are waited for ten seconds, and then the series appears without.
        assert until("the series to appear", shown, 30) == [pod.name]
        lab.api.start()

        def recorded() -> bool:
            rows = daemon.rows("SELECT experiment FROM workloads WHERE workload = ?", pod.workload)
            return rows == [("train",)]

        until("the ledger to learn the experiment", recorded, 60)
        assert shown() == [pod.name], "labels on series do not change"
        lab.end(pod, listed_s=0)
        info = [
            dict(labels)
            for (name, labels), _ in daemon.metrics().items()
            if name == "joulebook_workload_info"
        ]
    assert pod_uj(daemon) == {pod.workload: near(lab.true_uj(pod, 0))}
    assert [each["account"] for each in info if "account" in each] in ([], ["team-a"])


def test_a_restart_without_the_api_server_goes_on_from_the_ledger(
    lab: PodLab, tmp_path: Path
) -> None:
    started = "SELECT workload, started_ns FROM workloads"
    with lab.counted(daemon := lab.daemon(tmp_path, JOULEBOOK_TENANTS_KUBERNETES_POD_LOGS="")):
        pods = [lab.start(f"w{n}", {GPU: [lab.cards[n]]}) for n in range(2)]
        for slot, pod in enumerate(pods):
            lab.burn(pod, slot, 100 * (slot + 1))
        until("both to be known", lambda: len(daemon.rows(started)) == 2)
        begun = daemon.rows(started)
        time.sleep(3)
        lab.api.stop()
        daemon.kill()
        time.sleep(2)
        daemon.start()
        time.sleep(8)
        for pod in pods:
            lab.end(pod, listed_s=0)
    booked = pod_uj(daemon)
    for slot, pod in enumerate(pods):
        assert booked[pod.workload] > 0.9 * lab.true_uj(pod, slot)
    assert daemon.rows(started) == begun


def test_without_the_api_server_names_come_from_the_node(lab: PodLab, tmp_path: Path) -> None:
    with lab.counted(daemon := lab.daemon(tmp_path, JOULEBOOK_TENANTS_KUBERNETES_API="false")):
        first = lab.start("first", {GPU: [lab.cards[0]]})
        lab.burn(first, 0, 100)
        known = "SELECT 1 FROM workloads WHERE workload = ?"
        until("the first pod to be known", lambda: daemon.rows(known, first.workload))
        # Not even a folder of logs: of one name and one uid each is the other's.
        second = lab.start("second", {GPU: [lab.cards[1]]})
        (lab.logs / f"team-a_second_{second.uid}").rmdir()
        lab.burn(second, 1, 100)
        time.sleep(5)
        lab.end(first)
        lab.end(second)
    booked = pod_uj(daemon)
    assert booked[first.workload] == near(lab.true_uj(first, 0))
    assert booked[second.workload] == near(lab.true_uj(second, 1))
    assert not lab.api.calls


def test_shared_and_cut_up_cards_are_paid_for_by_use(short_tmp_path: Path, tmp_path: Path) -> None:
    cards = [
        Gpu(uuid="GPU-ampere", idle_mw=70_000),
        Gpu(uuid="GPU-hopper", idle_mw=70_000, architecture=Architecture.HOPPER,
            compute_capability=(9, 0), name="NVIDIA H100 80GB HBM3"),
        Gpu(uuid="GPU-sliced", idle_mw=IDLE_MW),
    ]  # fmt: skip
    with PodLab(short_tmp_path, gpus=cards) as lab:
        cut = {}
        for slot, kind in enumerate(("a", "h")):
            lab.scenario.set_mig_mode(slot, True)
            for gi, slices in ((1, 3), (2, 2), (3, 2)):
                made = Instance(
                    uuid=f"MIG-{kind}{gi}", gpu_instance=gi, profile=f"{slices}g.10gb",
                    gpu_slices=slices, compute_slices=slices,
                )  # fmt: skip
                cut[kind, gi] = (slot, lab.scenario.create_instance(slot, made))
        shared = "nvidia.com/gpu.shared"
        lab.kubelet.advertise(shared, *(f"GPU-sliced::{n}" for n in range(4)))
        with lab.counted(daemon := lab.daemon(tmp_path)):
            daemon.learn_idle()
            light = lab.start("light", {shared: ["GPU-sliced::0"]})
            heavy = lab.start("heavy", {shared: ["GPU-sliced::3"]})
            lab.burn(light, 2, 40, sm=20)
            lab.burn(heavy, 2, 120, sm=60)
            mig = {}
            for slot, kind in enumerate(("a", "h")):
                # The small one works three times as hard.
                for name, gi, slices, watts, sm in (
                    ("big", 1, 3, 60, 30),
                    ("small", 2, 2, 120, 90),
                ):
                    profile = f"nvidia.com/mig-{slices}g.10gb"
                    pod = lab.start(f"{kind}-{name}", {profile: [f"MIG-{kind}{gi}"]})
                    lab.scenario.set_instance_activity(*cut[kind, gi], sm)
                    lab.burn(pod, slot, watts, at=gi)
                    mig[kind, name] = pod
            time.sleep(8)
            for instance in cut.values():
                lab.scenario.set_instance_activity(*instance, 0)
            pods = [light, heavy, *mig.values()]
            for pod in pods:
                lab.idle(pod)
            for pod in pods:
                lab.end(pod, listed_s=0)
    booked = pod_uj(daemon)

    def active_uj(pod: Pod, idle_mw: int, parts: int, of: int) -> int:
        """What a pod pays beyond its part of the idle floor."""
        return booked[pod.workload] - (pod.ended_ns - pod.began_ns) * idle_mw // 10**6 * parts // of

    active = [active_uj(pod, IDLE_MW, 1, 4) for pod in (light, heavy)]
    assert 0.21 < active[0] / sum(active) < 0.30, "a quarter of the busy time"
    # Two of four replicas were nobody's, and two of seven slices.
    for card, free in (("sliced", 60_000 * 2 // 4), ("ampere", 20_000), ("hopper", 20_000)):
        ((free_uj,),) = daemon.rows(
            "SELECT sum(energy_uj) FROM postings JOIN meters ON meters.id = meter_id WHERE "
            "name = ? AND remainder = 'unallocated' AND method = 'apportioned'", f"GPU-{card}",
        )  # fmt: skip
        assert free_uj == pytest.approx(free * (heavy.ended_ns - heavy.began_ns) // 10**6, rel=0.25)
    ratio = {}
    for kind in "ah":
        big, small = mig[kind, "big"], mig[kind, "small"]
        ratio[kind] = active_uj(small, 70_000, 2, 7) / active_uj(big, 70_000, 3, 7)
    # By slices held, 2 to 3; by what they did, 2 x 90 to 3 x 30.
    assert ratio["a"] == pytest.approx(2 / 3, rel=0.15)
    assert ratio["h"] == pytest.approx(2.0, rel=0.2)
    assert set(main_evidence(daemon).values()) == {("apportioned", "pod-resources")}


def test_slurm_in_a_pod_beside_a_pod(lab: PodLab, tmp_path: Path) -> None:
    daemon = lab.daemon(
        tmp_path,
        JOULEBOOK_TENANTS_SLURM_ENABLED="true",
        JOULEBOOK_TENANTS_SLURM_SCONTROL="",
        JOULEBOOK_TENANTS_SLURM_GPU_IDS="uuid",
    )
    with lab.counted(daemon):
        slurmd = lab.start(
            "slurm-worker-0", {GPU: lab.cards[:2]}, namespace="slurm", restart="Always",
            labels={"app.kubernetes.io/name": "slurmd", "app.kubernetes.io/component": "worker"},
        )  # fmt: skip
        pod = lab.start("serve", {GPU: [lab.cards[2]]})
        lab.burn(pod, 2, 100)
        time.sleep(1.5)
        began_ns = lab.scenario.now_ns()
        write_event(daemon.events_dir, "101", [lab.cards[0]])
        lab.burn(slurmd, 0, 200)
        time.sleep(3)
        lab.idle(slurmd)
        ended_ns = lab.scenario.now_ns()
        (daemon.events_dir / "101.0.json").unlink()
        time.sleep(1)
        lab.end(pod, listed_s=0)
        lab.end(slurmd, listed_s=0)
    booked = pod_uj(daemon)
    job_uj = lab.scenario.true_energy_uj(0, began_ns, ended_ns)
    assert booked == {
        "101": near(job_uj),
        pod.workload: near(lab.true_uj(pod, 2)),
    }
    assert_nobodys(remainder_uj(daemon))


def test_the_footprint_of_a_node(short_tmp_path: Path, tmp_path: Path) -> None:
    with PodLab(short_tmp_path, gpus=8) as lab, lab.daemon(tmp_path) as daemon:
        shared = "nvidia.com/gpu.shared"
        lab.kubelet.advertise(shared, *(f"{card}::{n}" for card in lab.cards for n in range(2)))
        for n in range(30):
            devices = {shared: [f"{lab.cards[n // 2]}::{n % 2}"]} if n < 16 else None
            lab.start(f"pod-{n}", devices)
        held = "SELECT count(*) FROM workloads WHERE evidence = 'pod-resources'"
        until("all pods to be known", lambda: daemon.rows(held) == [(16,)])
        for _ in range(3):
            daemon.metrics()
            time.sleep(1)
        assert daemon.process is not None
        used = memory(daemon.process.pid, [lab.scenario.path])
        print("resident:", used)
        assert used.rss < 70  # compiled anew, where no bytecode is kept, it is some MiB more
        # One list and one watch; neither a tick nor a scrape asks for anything.
        assert lab.api.calls == {"list pods": 1, "watch pods": 1}


def main_evidence(daemon: Daemon) -> dict[str, tuple[str, str]]:
    """Method and evidence of nearly all energy of each workload.

    (The start of a process is known to 10 ms: what a card consumed just before a pod's cgroup was
    made may count as use.)
    """
    rows = daemon.rows(
        "SELECT workload, method, postings.evidence, sum(energy_uj) FROM postings "
        "JOIN workloads ON workloads.id = workload_id GROUP BY 1, 2, 3 ORDER BY 4"
    )
    found = {workload: (method, evidence) for workload, method, evidence, _ in rows}
    booked = pod_uj(daemon)
    for workload, method, evidence, energy_uj in rows:
        if found[workload] == (method, evidence):
            assert energy_uj > 0.7 * booked[workload], rows
    return found


def write_event(folder: Path, job: str, gpus: list[str]) -> None:
    """What the Prolog leaves for a job."""
    new = folder / ".new"
    new.write_text(
        json.dumps(
            {"v": 1, "scheduler": "slurm", "job_id": job, "restart_count": 0, "gpus": gpus,
             "gpu_ids": "uuid", "start_ns": time.time_ns(), "user": "ada", "uid": 1000,
             "account": "nlp"}
        )
    )  # fmt: skip
    new.rename(folder / f"{job}.0.json")


def test_a_pod_that_is_given_to_another_experiment_keeps_what_it_has(
    lab: PodLab, tmp_path: Path
) -> None:
    """And over a restart of the daemon; ledger and metrics say the same."""
    key = "joulebook.io/experiment"
    daemon = lab.daemon(tmp_path, JOULEBOOK_EXPOSITION_ZERO_HOLD_S="0")
    with lab.counted(daemon):
        pod = lab.start("work", {GPU: [lab.cards[0]]}, annotations={key: "bert"})
        lab.burn(pod, 0, 200)
        time.sleep(3)
        changed_ns = lab.scenario.now_ns()
        lab._tell(pod, annotations={key: "gpt"})
        lab.burn(pod, 0, 100)
        until("the change to be on record", lambda: len(experiments_uj(daemon)) == 2)
        daemon.kill()
        daemon.start()
        time.sleep(2)
        lab.end(pod)
        until("ledger and metrics to agree", lambda: shown_j(daemon) == [
            pytest.approx(uj / 1e6, abs=1) for _, uj in sorted(experiments_uj(daemon).items())
        ])  # fmt: skip
    booked = experiments_uj(daemon)
    rows = daemon.rows("SELECT experiment, started_utc_ns, ended_utc_ns FROM workloads ORDER BY 2")
    (first, _, ended_ns), (later, began_ns, _) = rows
    assert (first, later) == ("bert", "gpt")
    assert abs(ended_ns - began_ns) < 10**6
    heard_ns = began_ns - time.time_ns() + lab.scenario.now_ns()
    assert changed_ns <= heard_ns + 10**7
    first_uj = lab.scenario.true_energy_uj(0, pod.began_ns, heard_ns)
    assert booked == {"bert": near(first_uj), "gpt": near(lab.true_uj(pod, 0) - first_uj)}


def shown_j(daemon: Daemon) -> list[float]:
    """What metrics show of each experiment, by name."""
    return [
        value
        for _, value in sorted(
            (dict(labels)["experiment"], value)
            for (name, labels), value in daemon.metrics().items()
            if name == "joulebook_experiment_energy_joules_total"
        )
    ]


def experiments_uj(daemon: Daemon) -> dict[str, int]:
    """Energy booked to each experiment."""
    return dict(
        daemon.rows(
            "SELECT experiment, sum(energy_uj) FROM postings JOIN workloads"
            " ON workloads.id = workload_id GROUP BY 1 HAVING sum(energy_uj) > 0"
        )
    )
