"""How runs ended, asked of a real sacct over a real slurmdbd; and of one that is of no help."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from tests.integration.slurm_cluster import SlurmCluster

from joulebook.core.report.dataset import ReportWorkload
from joulebook.core.report.run_roles import State
from joulebook.core.workloads import WorkloadId
from joulebook.lab.report import sacct


def job(name: str) -> WorkloadId:
    return WorkloadId("slurm", name)


def asked(*names: WorkloadId) -> list[ReportWorkload]:
    return [ReportWorkload(name) for name in names]


def test_ends_of_real_jobs(short_tmp_path: Path) -> None:
    with SlurmCluster(short_tmp_path, nodes=2, gpus_per_node=1, accounting=True) as cluster:
        good = cluster.sbatch(script="exit 0")
        bad = cluster.sbatch(script="exit 3")
        stopped = cluster.sbatch(script="sleep 600")
        cluster.wait_state(stopped, "RUNNING")
        cluster.run("scancel", stopped)
        array = cluster.sbatch("--array=1-2", script="exit $((SLURM_ARRAY_TASK_ID - 1))")
        # Gives a node back while it runs: two rows of accounting, one run.
        smaller = cluster.sbatch(
            "--nodes=2", script="scontrol update jobid=$SLURM_JOB_ID numnodes=1"
        )
        # Is put back, and then succeeds: two runs of one job.
        again = cluster.sbatch(
            "--requeue", script='[ "${SLURM_RESTART_COUNT:-0}" -gt 0 ] || sleep 600'
        )
        cluster.wait_state(again, "RUNNING")
        cluster.run("scontrol", "requeue", again)
        cluster.start_anew(again)
        cluster.wait_done(good, bad, stopped, array, smaller, again, timeout_s=100)
        wanted = {
            job(good): State.COMPLETED,
            job(bad): State.FAILED,
            job(stopped): State.CANCELLED,
            job(f"{array}_1"): State.COMPLETED,
            job(f"{array}_2"): State.FAILED,
            job(smaller): State.COMPLETED,
            job(again): State.FAILED,
            job(f"{again}.r1"): State.COMPLETED,
        }
        every = asked(*wanted, job("999999"), WorkloadId("kubernetes", "pod.0a1b2c3d"))
        deadline = time.monotonic() + 60
        while True:  # slurmdbd hears of an end a moment later
            found, said = sacct.ask(every, "auto", cluster.env)
            if found == wanted or time.monotonic() > deadline:
                break
            time.sleep(0.5)
        assert found == wanted
        assert said == "ends of runs from sacct"


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("sleep 60", "timed out after 0.5 s"),
        ("echo 'sacct: error: slurmdbd is down' >&2; exit 1", "slurmdbd is down"),
        ("exit 7", "exit status 7"),
    ],
)
def test_a_sacct_that_is_of_no_help(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, said: str
) -> None:
    monkeypatch.setattr(sacct, "_TIMEOUT_S", 0.5)
    program = tmp_path / "sacct"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    found, why = sacct.ask(asked(job("1")), str(program))
    assert found == {}
    assert why.startswith("how runs ended: not known from sacct")
    assert said in why


def test_no_sacct_and_none_wanted(tmp_path: Path) -> None:
    assert sacct.ask(asked(job("1")), "auto", {"PATH": str(tmp_path)})[1].endswith("no sacct here")
    assert sacct.ask(asked(job("1")), "", {})[0] == {}
    assert sacct.ask(asked(WorkloadId("process", "user-1000.slice")), "auto") == ({}, "")
