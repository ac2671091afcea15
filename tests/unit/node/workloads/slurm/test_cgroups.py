"""The cgroup tree of SLURM by recorded layouts: v1 as directories, v2 on a real cgroup2 mount."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.scale import scaled

from joulebook.node.workloads.contract import Rejections
from joulebook.node.workloads.host.cgroup_paths import SlurmPlace
from joulebook.node.workloads.host.inotify import Inotify
from joulebook.node.workloads.slurm.cgroups import SlurmTree

V2 = next(
    (p for p in (Path("/sys/fs/cgroup/unified"), Path("/sys/fs/cgroup"))
     if (p / "cgroup.controllers").exists()),
    Path("/none"),
)  # fmt: skip


class Heard:
    def __init__(self, root: Path, *only: str) -> None:
        self.root = root
        self.inotify = Inotify()
        self.tree = SlurmTree(root, self.inotify, Rejections(), self, frozenset(only))
        self.said: list[str] = []

    def job_seen(self, place: SlurmPlace, path: Path, live: bool) -> None:
        assert path.is_relative_to(self.root)
        self.said.append(f"{'new' if live else 'old'} {place.node}/{place.uid}/{place.job}")

    def step_seen(self, path: Path) -> None:
        self.said.append(f"step of {path.name}")

    def job_gone(self, path: Path) -> None:
        self.said.append(f"gone {path.name}")

    def listen(self) -> list[str]:
        for event in self.inotify.read():
            assert not event.overflow
            self.tree.handle(event)
        said, self.said = self.said, []
        return said


@pytest.fixture
def v1(tmp_path: Path) -> Path:
    for name in ("freezer", "memory"):
        (tmp_path / name).mkdir()
    (tmp_path / "cpu").symlink_to("freezer")
    return tmp_path


def test_v1_jobs_come_and_go_in_every_hierarchy(v1: Path) -> None:
    heard = Heard(v1)
    heard.tree.scan()
    assert heard.listen() == []
    for name in ("freezer", "memory"):
        (v1 / name / "slurm_n1" / "uid_5" / "job_7" / "step_0").mkdir(parents=True)
    assert heard.listen() == ["new n1/5/7", "step of job_7"] * 2
    (v1 / "freezer/slurm_n1/uid_5/job_7/step_extern").mkdir()
    (v1 / "freezer/slurm_n1/uid_5/job_8").mkdir()
    (v1 / "freezer/other/uid_5/job_9").mkdir(parents=True)
    assert heard.listen() == ["step of job_7", "new n1/5/8"]
    for path in ("job_7/step_0", "job_7/step_extern", "job_7", "job_8"):
        (v1 / "freezer/slurm_n1/uid_5" / path).rmdir()
    assert heard.listen() == ["gone job_7", "gone job_8"]
    heard.inotify.close()


def test_only_the_nodes_that_are_ours(v1: Path) -> None:
    heard = Heard(v1, "n1")
    heard.tree.scan()
    for node in ("slurm_n1", "slurm_n2", "slurm"):
        (v1 / "freezer" / node / "uid_5" / "job_7").mkdir(parents=True)
    assert heard.listen() == ["new n1/5/7", "new /5/7"]
    heard.inotify.close()


def test_leftovers_of_a_reboot_are_no_jobs_until_a_step_comes(v1: Path) -> None:
    job = v1 / "freezer/slurm/uid_5/job_7"
    (job / "step_batch").mkdir(parents=True)
    for path in (job, job / "step_batch"):
        (path / "cgroup.procs").touch()
    alive = v1 / "freezer/slurm/uid_5/job_8"
    (alive / "step_0").mkdir(parents=True)
    (alive / "step_0" / "cgroup.procs").write_text(f"{os.getpid()}\n")
    heard = Heard(v1)
    heard.tree.scan()
    assert heard.listen() == ["old /5/8"]
    heard.tree.scan()
    assert heard.listen() == [], "a second scan says nothing new"
    (job / "step_1").mkdir()
    assert heard.listen() == ["new /5/7", "step of job_7"]
    heard.inotify.close()


def test_a_rescan_finds_what_events_did_not_tell(v1: Path) -> None:
    heard = Heard(v1)
    heard.tree.scan()
    old = v1 / "freezer/slurm/uid_5/job_7"
    old.mkdir(parents=True)
    heard.listen()
    new = v1 / "freezer/slurm/uid_5/job_8"
    new.mkdir()
    old.rmdir()
    heard.inotify.read()  # lost
    heard.tree.scan()
    assert heard.listen() == ["old /5/8", "gone job_7"]
    new.rmdir()
    assert heard.listen() == ["gone job_8"]
    heard.inotify.close()


def test_many_jobs_leave_nothing_behind(v1: Path) -> None:
    top = v1 / "freezer/slurm/uid_5"
    top.mkdir(parents=True)
    heard = Heard(v1)
    heard.tree.scan()
    reported = 0
    many = scaled(2000)
    for n in range(1, many + 1):
        (top / f"job_{n}").mkdir()
        (top / f"job_{n}").rmdir()
        if n % 500 == 0:
            reported += len(heard.listen())
    assert reported == 2 * many
    heard.listen()
    assert len(heard.tree._watches) == 5, "root, two hierarchies, slurm, uid_5"
    assert not heard.tree._there
    heard.inotify.close()


@pytest.fixture
def v2() -> Iterator[Path]:
    """A place on the real cgroup2 mount; everything made in it is removed again."""
    top = V2 / f"jb-test-{os.getpid()}"
    top.mkdir()
    yield top
    for path in sorted(top.rglob("*/"), reverse=True):
        with contextlib.suppress(OSError):
            path.rmdir()
    top.rmdir()


@pytest.mark.parametrize(
    ("scope", "job", "place"),
    [
        ("slurmstepd.scope", "job_101", "/None/101"),
        ("n1_slurmstepd.scope", "job_101", "n1/None/101"),
        ("slurmstepd.scope", "s8FXKTA79XAR00", "/None/s8FXKTA79XAR00"),
    ],
)
def test_v2_with_several_slurmd_and_sluids(v2: Path, scope: str, job: str, place: str) -> None:
    heard = Heard(v2)
    heard.tree.scan()
    at = v2 / "system.slice" / scope
    (at / "system").mkdir(parents=True)
    (at / job / "step_batch" / "user" / "task_0").mkdir(parents=True)
    said = heard.listen()
    assert said == [f"new {place}", f"step of {job}"]

    (at / job / "step_extern").mkdir()
    with subprocess.Popen(["sleep", "60"]) as process:
        (at / job / "step_batch/user/task_0/cgroup.procs").write_text(str(process.pid))
        again = Heard(v2)
        again.tree.scan()
        assert again.listen() == [f"old {place}"]
        again.inotify.close()
        process.kill()
    assert heard.listen() == [f"step of {job}"]
    for path in sorted((at / job).rglob("*/"), reverse=True):
        path.rmdir()
    (at / job).rmdir()
    assert heard.listen() == [f"gone {job}"]
    heard.inotify.close()
