"""Two nodes with accounting: a job has one identity on both, and every joule one of its nodes."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from tests.e2e.books import assert_balanced, at_rest, errors, job_uj, rest, true_uj, wake
from tests.e2e.lab import Lab, Prometheus, get, until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240)]

HOSTILE = 'a"b\\c{d}\nUserId=root(0) Account=x $(reboot) \x1b[2J' + "\u00e9" * 300


LAB = {"nodes": 2, "accounting": True}


def test_multi_node_uneven_het_requeued_cancelled_and_hostile_jobs(lab: Lab, home: Path) -> None:
    slurm = lab.slurm
    before = [rest(scenario) for scenario in lab.scenarios.values()]
    with (
        lab.daemon(home / "one", 0) as one,
        lab.daemon(home / "two", 1) as two,
        Prometheus(home / "prometheus", one.port, two.port) as prometheus,
    ):
        for scenario in lab.scenarios.values():
            wake(scenario)
        burn = f"srun {lab.burn} 200 2000"
        both = slurm.sbatch("-N2", "--gres=gpu:2", "--comment=experiment=both", script=burn)
        tasks = slurm.sbatch("-n2", "-N1", "--gpus-per-task=1", script=burn)
        slurm.wait_done(both, tasks)
        slurm.run("srun", "--gres=gpu:1", str(lab.burn), "150", "700")
        het = slurm.sbatch(
            "--gres=gpu:1", ":", "--gres=gpu:2", script=f"srun --het-group=0,1 {lab.burn} 120 1500"
        )
        hostile = slurm.sbatch(
            "--gres=gpu:1", f"--comment=experiment={HOSTILE}", f"--job-name={HOSTILE}",
            script=f"{lab.burn} 99 600",
        )  # fmt: skip
        again = slurm.sbatch("--gres=gpu:1", "--requeue", script=f"{lab.burn} 180 4000")
        slurm.wait_state(again, "RUNNING")
        until("its Prolog", lambda: any(again == note[0] for note in lab._noted("prolog")))
        slurm.run("scontrol", "requeue", again)
        gone = slurm.sbatch("--gres=gpu:1", script=f"{lab.burn} 80 60000")
        slurm.wait_state(gone, "RUNNING")
        slurm.run("scancel", gone)
        slurm.wait_done(het, hostile, gone, timeout_s=60)
        slurm.start_anew(again)
        slurm.wait_done(again, timeout_s=200)
        until("all Epilogs", lambda: len(lab._noted("epilog")) == len(lab._noted("prolog")))
        after = [at_rest(daemon) for daemon in (one, two)]
        for daemon, was, now in zip((one, two), before, after, strict=True):
            assert_balanced(daemon, {name: now[name] - was[name] for name in now})
        assert both in job_uj(one)
        assert both in job_uj(two)
        for daemon in (one, two):
            checked = subprocess.run(
                ["promtool", "check", "metrics"],
                input=get(f"{daemon.url}/metrics")[1],
                capture_output=True,
                text=True,
                check=False,
            )
            assert checked.returncode == 0, checked.stdout + checked.stderr
        owners = one.rows("SELECT DISTINCT user FROM workloads") + two.rows(
            "SELECT DISTINCT user FROM workloads"
        )
        assert set(owners) == {("root",)}, "no comment or name makes somebody else pay"
        runs = {
            workload
            for daemon in (one, two)
            for (workload,) in daemon.rows("SELECT workload FROM workloads")
            if workload.partition(".")[0] == again
        }
        assert runs == {again, f"{again}.r1"}, "a requeued job is two workloads"
        booked: dict[str, float] = {}
        for daemon in (one, two):
            for workload, uj in job_uj(daemon).items():
                job = workload.partition(".")[0]
                booked[job] = booked.get(job, 0) + uj
        truth = true_uj(lab, lab.held())
        assert set(booked) == set(truth)
        assert errors(booked, truth).p95 < 24
        total = prometheus.value("sum(joulebook_meter_energy_joules_total)")
        consumed = sum(now[n] - was[n] for was, now in zip(before, after, strict=True) for n in now)
        assert total == pytest.approx(consumed / 1e6, abs=8)
