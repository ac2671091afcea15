"""Pods on a node, the daemon beside them: who held which card, to the microjoule."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.e2e.books import remainder_uj
from tests.e2e.pod_lab import PodLab, pod_uj

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240)]

GPU = "nvidia.com/gpu"


@pytest.fixture(params=["systemd", "cgroupfs"])
def lab(request: pytest.FixtureRequest, short_tmp_path: Path) -> Iterator[PodLab]:
    with PodLab(short_tmp_path, driver=request.param) as lab:
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
        assert booked[pod.workload] == pytest.approx(truth, rel=0.03), pod
    rows = daemon.rows("SELECT workload, account, experiment, evidence FROM workloads")
    known = {workload: rest for workload, *rest in rows}
    assert known[retries[0].workload] == ["team-a", "train", "pod-resources"]
    assert known[retries[1].workload][1] == "train"
    assert known[init.workload][1] == "vit"
    assert known[long.workload][:2] == ["team-b", long.workload]
    assert remainder_uj(daemon).keys() == {"unallocated"}
    # One list and one watch were all that the API server saw.
    assert lab.api.calls == {"list pods": 1, "watch pods": 1}
