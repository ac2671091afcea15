from __future__ import annotations

import itertools
import os
import subprocess
from pathlib import Path

import pytest

from joulebook.errors import InputError
from joulebook.node.workloads.slurm.cgroups import holds_processes
from joulebook.node.workloads.slurm.job import Job
from joulebook.node.workloads.slurm.labels import (
    FAST_S,
    SETTLED_S,
    SLOW_S,
    LabelReader,
    next_poll_s,
    read_environment,
)


def test_looks_are_fast_until_there_is_a_name_and_then_ever_slower() -> None:
    count = 0
    times: list[float] = []
    while not times or times[-1] < 1e7:
        count, at_s = next_poll_s(count, named=False)
        times.append(at_s)
    settled = [at_s for at_s in times if at_s < SETTLED_S]
    assert settled == sorted(settled) == [*FAST_S[1:], *SLOW_S]
    assert max(b - a for a, b in itertools.pairwise(FAST_S)) <= 0.021
    assert times[len(settled) :][:3] == [16.0, 32.0, 64.0], "a name exported late is seen"
    assert times == sorted(set(times)), "each look is later than the one before, for months"
    assert next_poll_s(3, named=True) == (len(FAST_S), 1.0)


def test_only_allowed_names_leave_the_environment(tmp_path: Path) -> None:
    (tmp_path / "step_0").mkdir()
    (tmp_path / "cgroup.procs").touch()
    assert not holds_processes(tmp_path)
    assert read_environment(tmp_path) is None
    first = subprocess.Popen(
        ["sleep", "60"],
        env={"SLURM_JOB_ID": "7", "SLURM_JOB_NAME": "a\nb", "SLURM_RESTART_COUNT": "2",
             "SLURM_SHARDS_ON_NODE": "3", "HF_TOKEN": "s3cret", "SLURM_JOB_QOS": ""},
    )  # fmt: skip
    second = subprocess.Popen(
        ["sleep", "60"],
        env={"SLURM_JOB_ID": "7", "SLURM_JOB_NAME": "other", "WANDB_PROJECT": "w\udcff"},
    )
    stepd = subprocess.Popen(["sleep", "60"], env={"SLURM_JOB_NAME": "of slurmd itself"})
    try:
        pids = "".join(f"{p.pid}\n" for p in (stepd, first, second))
        (tmp_path / "step_0" / "cgroup.procs").write_text(pids + "999999999\n")
        assert holds_processes(tmp_path)
        found = read_environment(tmp_path)
        assert found is not None
        assert found.labels == {"SLURM_JOB_NAME": "a b", "WANDB_PROJECT": "w"}
        assert (found.job_id, found.shards) == ("7", 3)
        assert found.uid == os.getuid()
        assert "s3cret" not in repr(found)
        brief = read_environment(tmp_path, processes=1)
        assert brief is not None and brief.labels == {"SLURM_JOB_NAME": "a b"}
    finally:
        for process in (first, second, stepd):
            process.kill()
            process.wait()


def test_label_files(tmp_path: Path) -> None:
    rejected: list[InputError] = []
    reader = LabelReader(tmp_path, rejected.append)
    path = tmp_path / "7.12345.json"
    path.write_text('{"SLURM_JOB_NAME":"x"}')
    assert reader.label_file(Job("7", 0)) == {}, "nobody knows whose job it is"
    assert reader.label_file(Job("7", 0, uid=12345)) == {}
    assert [e.reason for e in rejected] == ["foreign_owner"]
    os.chown(path, 12345, 12345)
    assert reader.label_file(Job("7", 0, uid=12345)) == {"SLURM_JOB_NAME": "x"}
    reader.forget("7", 12345)
    reader.forget("7", 12345)
    assert not path.exists()


def test_no_right_to_delete_is_no_fault(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def denied(*_: object, **__: object) -> None:
        raise PermissionError

    monkeypatch.setattr(Path, "unlink", denied)
    LabelReader(tmp_path, lambda _: None).forget("7", 1)
