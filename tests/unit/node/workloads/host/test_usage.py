"""Who uses the host: totals of cgroups, of either kind, with what ended in them and unseen."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.fakes.sysfs.machine import Machine, put
from tests.unit.node.sensors.still_clock import StillClock

from joulebook.core.energy.host_usage import HostSnapshot
from joulebook.core.workloads import WorkloadId
from joulebook.node.workloads.contract import UsageGroup
from joulebook.node.workloads.host import cgroup_counters
from joulebook.node.workloads.host.usage import HostUsageReader

A, B, C = (WorkloadId("slurm", name) for name in "123")
MS = 1_000_000
GIB = 1 << 30


class Tree:
    """A host with cgroups of its own: v2 below `scope`, v1 below `cpuacct` and `memory`."""

    def __init__(self, root: Path) -> None:
        self.machine = Machine(root / "machine")
        self.machine.cpu_time(cores=8, busy_ns=500 * MS)
        self.scope = root / "cgroup/system.slice/slurmstepd.scope"
        self.v1 = root / "cgroup"
        self.use = HostUsageReader(StillClock(), proc=self.machine.proc)

    def v2(self, name: str, cpu_ms: int, *, anon: int = 0, cpus: str = "0-7") -> Path:
        directory = self.scope / name
        put(directory / "cpu.stat", f"usage_usec {cpu_ms * 1000}\nuser_usec 0")
        put(directory / "memory.stat", f"anon {anon}\nfile 999999\nshmem 7")
        put(directory / "cpuset.cpus.effective", cpus)
        put(directory / "cpu.max", "max 100000")
        return directory

    def total(self, cpu_ms: int) -> None:
        """What the scope has counted in all."""
        put(self.scope / "cpu.stat", f"usage_usec {cpu_ms * 1000}")

    def count(self, *groups: UsageGroup) -> dict[WorkloadId, int]:
        return {use.workload: use.cpu_ns // MS for use in self.snapshot(*groups).uses}

    def snapshot(self, *groups: UsageGroup) -> HostSnapshot:
        found = self.use.snapshot(groups)
        assert found is not None
        return found


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return Tree(tmp_path)


def remove(directory: Path) -> None:
    for path in sorted(directory.rglob("*"), reverse=True):
        path.unlink() if path.is_file() else path.rmdir()
    directory.rmdir()


def test_v2_counts_cpu_memory_and_cores(tree: Tree) -> None:
    job = UsageGroup(A, (tree.v2("job_1", 120, anon=3 * GIB, cpus="0-1,4"),), 1, since_ns=42)
    snapshot = tree.snapshot(job)
    (use,) = snapshot.uses
    assert (use.workload, use.cpu_ns, use.since_ns) == (A, 120 * MS, 42)
    assert use.memory_bytes == 3 * GIB + 7, "shared memory is no page cache"
    assert use.cores_milli == 3_000
    assert (snapshot.cores, snapshot.busy_ns) == (8, 500 * MS)
    assert (snapshot.installed_bytes, snapshot.resident_bytes) == (64 * GIB, 4 * GIB)


def test_who_may_use_all_cores_was_allocated_none(tree: Tree) -> None:
    (use,) = tree.snapshot(UsageGroup(A, (tree.v2("job_1", 1),))).uses
    assert use.cores_milli == 0
    directory = tree.v2("job_2", 1)
    put(directory / "cpu.max", "250000 100000")
    given = UsageGroup(C, (tree.v2("job_3", 1),), cores_milli=4_000)
    uses = {
        use.workload: use.cores_milli
        for use in tree.snapshot(UsageGroup(B, (directory,)), given).uses
    }
    assert (uses[B], uses[C]) == (2_500, 4_000)


def test_v1_has_a_directory_in_each_hierarchy(tree: Tree) -> None:
    job = "slurm_n1/uid_7/job_1"
    put(tree.v1 / "cpuacct" / job / "cpuacct.usage", str(77 * MS))
    put(
        tree.v1 / "memory" / job / "memory.stat",
        "rss 1\ntotal_cache 5\ntotal_rss 600\ntotal_shmem 4",
    )
    put(tree.v1 / "cpuset" / job / "cpuset.cpus", "2-3")
    put(tree.v1 / "freezer" / job / "freezer.state", "THAWED")
    paths = tuple(sorted(tree.v1 / h / job for h in ("cpuacct", "cpuset", "freezer", "memory")))
    (use,) = tree.snapshot(UsageGroup(A, paths, 2)).uses
    assert (use.cpu_ns, use.memory_bytes, use.cores_milli) == (77 * MS, 604, 2_000)


def test_what_was_used_after_the_last_look_goes_to_who_vanished(tree: Tree) -> None:
    stays, goes = tree.v2("job_1", 100), tree.v2("job_2", 50)
    tree.total(150)
    a, b = UsageGroup(A, (stays,), 1), UsageGroup(B, (goes,), 1)
    assert tree.count(a, b) == {A: 100, B: 50}
    remove(goes)
    tree.v2("job_1", 180)
    tree.total(150 + 80 + 35)  # job 2 used 35 ms more before it was gone
    assert tree.count(a, b) == {A: 180, B: 85}
    tree.total(150 + 80 + 35 + 500)  # somebody unknown: not job 2's, which is long gone
    assert tree.count(a, b) == {A: 180, B: 85}
    assert tree.count(a) == {A: 180, B: 85}, "reported of once more when it is no longer listed"
    assert tree.count(a) == {A: 180}


def test_one_that_came_and_went_unseen_is_in_what_outlives_it(tree: Tree) -> None:
    tree.total(1_000)
    a = UsageGroup(A, (tree.v2("job_1", 10),), 1)
    tree.count(a)
    tree.v2("job_1", 20)
    tree.total(1_000 + 10 + 300)
    assert tree.count(a, UsageGroup(B, (tree.scope / "job_2",), 1)) == {A: 20, B: 300}


def test_two_that_vanished_together_share_what_is_left(tree: Tree) -> None:
    tree.total(0)
    gone = [UsageGroup(w, (tree.scope / f"job_{n}",), 1) for n, w in enumerate((B, C))]
    tree.count(UsageGroup(A, (tree.v2("job_a", 0),), 1))
    tree.total(301)
    snapshot = tree.snapshot(UsageGroup(A, (tree.scope / "job_a",), 1), *gone)
    assert sorted(u.cpu_ns for u in snapshot.uses) == [0, 301 * MS // 2, 301 * MS // 2]


def test_a_name_that_is_given_again_begins_anew(tree: Tree) -> None:
    job = UsageGroup(A, (tree.v2("job_1", 400),))
    assert tree.count(job) == {A: 400}
    remove(tree.scope / "job_1")
    (tree.scope / "other").mkdir()  # takes the inode, so that the next one has another
    tree.v2("job_1", 5)
    assert tree.count(job) == {A: 405}


def test_a_job_inside_a_pod_is_not_the_pods(tree: Tree) -> None:
    pod = tree.v2("pod", 100, anon=10)
    inner = tree.v2("pod/job_1", 60, anon=4)
    snapshot = tree.snapshot(UsageGroup(A, (pod,)), UsageGroup(B, (inner,)))
    assert {u.workload: u.cpu_ns // MS for u in snapshot.uses} == {A: 40, B: 60}
    tree.v2("pod", 150)
    tree.v2("pod/job_1", 90)
    assert tree.count(UsageGroup(A, (pod,)), UsageGroup(B, (inner,))) == {A: 60, B: 90}


def test_directories_that_nobody_has_named_yet_are_counted_for_nobody(tree: Tree) -> None:
    assert tree.count(UsageGroup(None, (tree.v2("job_1", 5),), 1)) == {}


def test_without_a_counter_the_processes_and_their_children_are_asked(tree: Tree) -> None:
    code = (
        "import os,subprocess,sys,time\n"
        "subprocess.run([sys.executable,'-c','"
        "import time\\nend=time.process_time()+0.3\\nwhile time.process_time()<end: pass'])\n"
        "print('done',flush=True)\nsys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        assert child.stdout is not None
        child.stdout.readline()
        frozen = tree.v1 / "freezer/slurm/uid_0/job_1/step_0"
        put(frozen / "cgroup.procs", str(child.pid))
        by_cgroup = UsageGroup(A, (frozen.parent,))
        by_pid = UsageGroup(B, pids=(child.pid,))
        snapshot = tree.snapshot(by_cgroup, by_pid)
        child.communicate(b"")
    for use in snapshot.uses:
        assert use.cpu_ns >= 290 * MS, "a child that ended is in its parent's time"
        assert use.memory_bytes > 0


def test_without_proc_there_is_no_census(tmp_path: Path) -> None:
    assert HostUsageReader(StillClock(), proc=tmp_path).snapshot([]) is None


def test_nonsense_in_files_is_nothing(tmp_path: Path) -> None:
    put(tmp_path / "cpu.stat", "usage_usec many\nnr_periods")
    put(tmp_path / "memory.stat", "anon")
    put(tmp_path / "cpuset.cpus", "")
    put(tmp_path / "cpu.cfs_quota_us", "-1")
    put(tmp_path / "cpu.cfs_period_us", "100000")
    assert cgroup_counters.cpu_ns(tmp_path) is None
    assert cgroup_counters.counters(tmp_path).memory_bytes() == 0
    assert cgroup_counters.cores_milli(tmp_path, 8) is None
    assert cgroup_counters.cpus("0-3,8,x,") == 5


def test_the_kernels_own_files_are_read() -> None:
    found = HostUsageReader(StillClock()).snapshot([UsageGroup(A, pids=(os.getpid(),))])
    assert found is not None and found.cores >= 1
    assert 0 < found.resident_bytes < found.installed_bytes
    assert 0 < found.uses[0].cpu_ns < found.busy_ns


def test_a_cgroup_that_is_removed_while_it_is_walked_hides_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, pid in (("step_0", 7), ("step_1", 8)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "cgroup.procs").write_text(f"{pid}\n")
    scandir = os.scandir

    def removed(path: str | Path) -> object:
        if Path(path).name == "step_0":
            raise FileNotFoundError(path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", removed)
    assert list(cgroup_counters.pids(tmp_path)) == [8]
