"""Jobs that share cards by shards: marked as apportioned, by use, and still exact in sum."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.e2e.books import IDLE_MW, assert_balanced, at_rest, job_uj, meter_uj, wake
from tests.e2e.lab import Lab

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240)]


LAB = {"shards": 16}


def test_two_jobs_on_one_card_pay_by_use_and_nobody_pays_for_free_shards(
    lab: Lab, home: Path
) -> None:
    wake(lab.scenario)
    with lab.daemon(home / "daemon") as daemon:
        daemon.learn_idle()
        light, heavy = (
            lab.slurm.sbatch(
                "--gres=shard:1", f"--comment=experiment={name}",
                script=f"{lab.burn} {watts} 9000 {sm}",
            )
            for name, watts, sm in (("light", 40, 20), ("heavy", 120, 60))
        )  # fmt: skip
        lab.slurm.wait_done(light, heavy)
        at_rest(daemon)
        assert_balanced(daemon, meter_uj(daemon))
        held = {each.job_id: each for each in lab.held()}
        assert held[light].gpu == held[heavy].gpu, "SLURM packs shards on one card"
        methods = daemon.rows(
            "SELECT DISTINCT workload, method, postings.evidence FROM postings "
            "JOIN workloads ON workloads.id = workload_id"
        )
        assert set(methods) == {
            (light, "apportioned", "prolog"),
            (heavy, "apportioned", "prolog"),
        }
        jobs = job_uj(daemon)
        card = lab.scenario.uuids[held[light].gpu]
        unallocated = daemon.rows(
            "SELECT sum(energy_uj) FROM postings JOIN meters ON meters.id = meter_id "
            "WHERE name = ? AND remainder = 'unallocated' AND method = 'apportioned'",
            card,
        )[0][0]
        # Of the idle floor each job has one shard of four while it runs, and the free ones are
        # nobody's. Above the floor the light job used a quarter of the busy time.
        windows = {job: each.t1_ns - each.t0_ns for job, each in held.items()}
        begun = min(each.t0_ns for each in held.values())
        over = max(each.t1_ns for each in held.values())
        shard_uj = {job: window * IDLE_MW // 4 // 10**6 for job, window in windows.items()}
        free_uj = (over - begun) * IDLE_MW // 10**6 - sum(shard_uj.values())
        active_uj = sum(jobs.values()) - sum(shard_uj.values())
        assert unallocated == pytest.approx(free_uj, rel=0.05)
        # (A little more: while only one of them has begun to work, that one pays for it all.)
        assert 0.22 < (jobs[light] - shard_uj[light]) / active_uj < 0.31
