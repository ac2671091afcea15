"""Pods that share a card, with the daemon in a pid namespace of its own, as in a container.

The driver tells pids of the host, which mean others there: they are looked up in the host's /proc
where it is mounted, and nowhere else.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.e2e.books import remainder_uj
from tests.e2e.lab import Daemon
from tests.e2e.pod_lab import IDLE_MW, Pod, PodLab, pod_uj
from tests.fakes.nvml.scenario import Gpu

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]

SHARED = "nvidia.com/gpu.shared"
CARD = "GPU-sliced"
BURN_S = 5

CONTAINED = """
set -e
mount --make-rprivate /
mount --rbind /proc "$1"
mount -t proc proc /proc
shift
exec "$@"
"""


@pytest.fixture
def lab(short_tmp_path: Path) -> Iterator[PodLab]:
    """One card of four replicas, and one that nobody asks for."""
    cards = [Gpu(uuid=CARD, idle_mw=IDLE_MW), Gpu(uuid="GPU-open", idle_mw=IDLE_MW)]
    with PodLab(short_tmp_path, gpus=cards) as lab:
        lab.kubelet.advertise(SHARED, *(f"{CARD}::{n}" for n in range(4)))
        yield lab


def contained(lab: PodLab, directory: Path, host_proc: Path, **settings: str) -> Daemon:
    """The daemon in pid and mount namespaces of its own, the host's /proc at `host_proc`."""
    host_proc.mkdir()
    daemon = lab.daemon(directory, **settings)
    unshare = ["unshare", "--mount", "--pid", "--fork", "--kill-child"]
    daemon.before = [*unshare, "sh", "-c", CONTAINED, "sh", str(host_proc)]
    return daemon


def consumed(lab: PodLab, daemon: Daemon) -> tuple[Pod, Pod, Pod]:
    """Two neighbours, one with three times the use of the other, and one that did not ask."""
    with lab.counted(daemon):
        daemon.learn_idle()
        light = lab.start("light", {SHARED: [f"{CARD}::0"]})
        heavy = lab.start("heavy", {SHARED: [f"{CARD}::3"]})
        guest = lab.start("guest")
        lab.burn(light, 0, 40, sm=20)
        lab.burn(heavy, 0, 120, sm=60)
        lab.burn(guest, 1, 100)
        time.sleep(BURN_S)
        for pod in (light, heavy, guest):
            lab.idle(pod)
        for pod in (light, heavy, guest):
            lab.end(pod, listed_s=0)
    return light, heavy, guest


def share_of_light(booked: dict[str, int], light: Pod, heavy: Pod) -> float:
    """Its part of what both pay beyond the idle floor."""
    active = [
        booked[pod.workload] - (pod.ended_ns - pod.began_ns) * IDLE_MW // 10**6 // 4
        for pod in (light, heavy)
    ]
    return active[0] / sum(active)


def test_with_the_hosts_proc_neighbours_pay_by_use(
    lab: PodLab, tmp_path: Path, short_tmp_path: Path
) -> None:
    proc = short_tmp_path / "proc"
    daemon = contained(lab, tmp_path, proc, JOULEBOOK_HOST_PROC=str(proc))
    light, heavy, guest = consumed(lab, daemon)
    booked = pod_uj(daemon)
    assert 0.20 < share_of_light(booked, light, heavy) < 0.31, "a quarter of the busy time"
    assert booked[guest.workload] > 0, "found by its process, though it did not ask"
    remainders = remainder_uj(daemon)
    assert remainders.keys() <= {"unallocated", "unknown_holder"}
    # Somebody's, from the moment it draws power to the list that shows its process.
    assert remainders.get("unknown_holder", 0) < booked[guest.workload] / 4
    assert "pid namespace" not in daemon.log()


def test_without_it_they_pay_by_what_they_hold_and_no_pid_is_looked_up(
    lab: PodLab, tmp_path: Path, short_tmp_path: Path
) -> None:
    daemon = contained(lab, tmp_path, short_tmp_path / "proc")
    light, heavy, guest = consumed(lab, daemon)
    booked = pod_uj(daemon)
    assert 0.45 < share_of_light(booked, light, heavy) < 0.55, "each holds one replica"
    assert guest.workload not in booked
    assert booked.keys() == {light.workload, heavy.workload}
    assert remainder_uj(daemon)["unknown_holder"] > 0, "it is not said whose the guest's use is"
    assert daemon.log().count("its own PID namespace") == 1
