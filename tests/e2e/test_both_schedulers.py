"""SLURM's jobs, pods and what people run by hand, side by side on the cards of one node."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.e2e.lab import MINORS, Lab, until
from tests.e2e.pod_lab import PodLab, pod_uj
from tests.e2e.test_pods import near
from tests.e2e.test_workstation import ADA, Program

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240)]


def test_each_gets_its_own_and_all_together_are_the_cards(
    lab: Lab, short_tmp_path: Path, home: Path
) -> None:
    with PodLab(short_tmp_path, scenario=lab.scenario) as pods:
        daemon = lab.daemon(
            home / "daemon",
            0,
            JOULEBOOK_TENANTS_PROCESSES_ENABLED="true",
            JOULEBOOK_TENANTS_PROCESSES_PID_NAMESPACE="host",
            JOULEBOOK_MARKS_ENABLED="false",
            **pods.settings(),
        )
        with pods.counted(daemon):
            job = lab.slurm.sbatch("--gres=gpu:1", script=f"{lab.burn} 150 5000")
            (busy,) = until("the job to be given its card", lambda: lab.slots(job))
            # Nothing but the site keeps two schedulers off one another's cards.
            mine, theirs, free = (slot for slot in range(len(MINORS)) if slot != busy)
            pod = pods.start("serve", {"nvidia.com/gpu": [pods.cards[theirs]]})
            pods.burn(pod, theirs, 100)
            program = Program(lab.scenario, mine, uid=ADA, experiment="by-hand")
            program.burn(80)
            lab.slurm.wait_done(job)
            program.end()
            pods.end(pod)
        truth = {each.job_id: lab.true_uj(each) for each in lab.held()}
        booked = pod_uj(daemon)
        assert booked[job] == near(truth[job])
        assert booked[pod.workload] == near(pods.true_uj(pod, theirs))
        ((by_hand,),) = daemon.rows(
            "SELECT workload FROM workloads WHERE scheduler = 'process' AND experiment = 'by-hand'"
        )
        assert booked[by_hand] == near(program.true_uj())
        (whose,) = daemon.rows(
            "SELECT group_concat(DISTINCT coalesce(workload, remainder)) FROM postings "
            "JOIN meters ON meters.id = meter_id "
            "LEFT JOIN workloads ON workloads.id = workload_id WHERE meters.name = ? "
            "AND energy_uj > 1000000",
            pods.cards[free],
        )
        assert whose == ("unallocated",)
