from __future__ import annotations

import os
from pathlib import Path

import pytest

from joulebook.node.workloads.host.cgroup_paths import (
    CgroupReader,
    PodPlace,
    SlurmPlace,
    cgroup_paths,
    pod_place,
    pod_uid,
    slurm_place,
)


@pytest.mark.parametrize(
    ("path", "place"),
    [
        ("/slurm/uid_1000/job_101/step_0/task_3", SlurmPlace("101", "", 1000, "0", "3")),
        ("/slurm_n1/uid_0/job_7/step_batch", SlurmPlace("7", "n1", 0, "batch")),
        ("/slurm_a_b/uid_0/job_7", SlurmPlace("7", "a_b", 0)),
        (
            "/system.slice/slurmstepd.scope/job_101/step_extern/user/task_0",
            SlurmPlace("101", "", None, "extern", "0"),
        ),
        (
            "/system.slice/n1_slurmstepd.scope/job_9/step_0/slurm",
            SlurmPlace("9", "n1", None, "0"),
        ),
        (
            "/system.slice/slurmstepd.scope/s8FXKTA79XAR00/step_batch/user/task_0",
            SlurmPlace("s8FXKTA79XAR00", "", None, "batch", "0"),
        ),
        ("/docker/abc/slurm/uid_5/job_6/step_0/x", SlurmPlace("6", "", 5, "0")),
        ("/system.slice/slurmstepd.scope/system", None),
        ("/slurm/uid_x/job_1", None),
        ("/user.slice/user-1000.slice", None),
        ("/kubepods/burstable/pod1/slurm/uid_1", None),
        ("/system.slice/slurmstepd.scope/s8fxkta79xar0o/step_0", None),
    ],
)
def test_the_path_tells_the_job(path: str, place: SlurmPlace | None) -> None:
    assert slurm_place(path) == place


def test_a_sluid_is_told_from_a_job_id() -> None:
    assert SlurmPlace("s8FXKTA79XAR00").is_sluid
    assert not SlurmPlace("101").is_sluid


def test_hierarchies_of_proc_pid_cgroup() -> None:
    text = "3:cpuset:/\n2:cpu,cpuacct:/slurm/uid_1/job_2/step_0\n0::/a:b\nbroken\n"
    assert cgroup_paths(text) == ("/", "/slurm/uid_1/job_2/step_0", "/a:b")


def test_a_process_is_read_once_until_its_pid_is_anothers(tmp_path: Path) -> None:
    process = tmp_path / "42"
    process.mkdir()
    (process / "cgroup").write_text("1:freezer:/slurm/uid_1/job_2/step_0\n")
    reader = CgroupReader(tmp_path)
    assert reader.slurm(42) == SlurmPlace("2", "", 1, "0")
    (process / "cgroup").write_text("0::/elsewhere\n")
    assert reader.slurm(42) == SlurmPlace("2", "", 1, "0")

    process.rename(tmp_path / "old")
    process.mkdir()
    (process / "cgroup").write_text("0::/elsewhere\n")
    assert reader.slurm(42) is None
    assert reader.paths(43) == ()
    assert CgroupReader().paths(os.getpid())


def test_it_forgets_after_its_time(tmp_path: Path) -> None:
    process = tmp_path / "42"
    process.mkdir()
    (process / "cgroup").write_text("0::/a\n")
    reader = CgroupReader(tmp_path, ttl_s=0.0)
    assert reader.paths(42) == ("/a",)
    (process / "cgroup").write_text("0::/b\n")
    assert reader.paths(42) == ("/b",)


UID = "0a1b2c3d-1111-2222-3333-444455556666"
SLICE = UID.replace("-", "_")
CONTAINER = "ab" * 32


@pytest.mark.parametrize(
    ("path", "container"),
    [
        (f"/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{SLICE}.slice/"
         f"cri-containerd-{CONTAINER}.scope", CONTAINER),
        (f"/kubepods.slice/kubepods-pod{SLICE}.slice/crio-{CONTAINER}.scope/container", CONTAINER),
        (f"/kubepods/besteffort/pod{UID}/{CONTAINER}", CONTAINER),
        (f"/kubepods/pod{UID}/{CONTAINER}/system.slice/slurmstepd.scope/job_1/step_0", CONTAINER),
        (f"/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-burstable.slice/"
         f"kubelet-kubepods-burstable-pod{SLICE}.slice/crio-{CONTAINER}.scope", CONTAINER),
        (f"/system.slice/containerd.service/kubepods-burstable-pod{SLICE}.slice:cri-containerd:"
         f"{CONTAINER}", CONTAINER),
        # From inside a cgroup namespace of another pod.
        (f"/../../pod{UID}/{CONTAINER}", CONTAINER),
        (f"/../../kubepods-burstable-pod{SLICE}.slice/cri-containerd-{CONTAINER}.scope", CONTAINER),
        (f"/kubepods/burstable/pod{UID}", ""),
    ],
)  # fmt: skip
def test_the_path_tells_the_pod(path: str, container: str) -> None:
    assert pod_place(path) == PodPlace(UID, container)


@pytest.mark.parametrize(
    "path",
    ["/", "/user.slice/user-1000.slice", "/kubepods/burstable", f"/libpod-{CONTAINER}.scope",
     "/kubepods/burstable/pod1234/x", f"/kubepods/notpod{UID}/x", f"/home/pod{UID}x/y"],
)  # fmt: skip
def test_the_path_of_no_pod(path: str) -> None:
    assert pod_place(path) is None


def test_a_static_pod_has_a_hash_for_uid() -> None:
    assert pod_uid(f"kubepods-burstable-pod{'cd' * 16}.slice") == "cd" * 16
    assert pod_uid(f"pod{UID}") == UID
    assert pod_uid("podinfo") == ""


def test_the_pod_of_a_process(tmp_path: Path) -> None:
    (tmp_path / "7").mkdir()
    (tmp_path / "7" / "cgroup").write_text(f"3:cpu:/\n0::/kubepods/pod{UID}/{CONTAINER}\n")
    assert CgroupReader(tmp_path).pod(7) == PodPlace(UID, CONTAINER)
    assert CgroupReader(tmp_path).pod(8) is None


HIS = "/user.slice/user-1001.slice/user@1001.service/app.slice"


@pytest.mark.parametrize(
    "above",
    [HIS, "/user.slice/user-1001.slice/session-3.scope", f"/../..{HIS}", "/user-1001.slice",
     "/system.slice/train.service", "/lxc.payload.his", "/machine.slice/machine-his.scope"],
)  # fmt: skip
@pytest.mark.parametrize(
    "below",
    ["slurm/uid_1002/job_7/step_0", "system.slice/slurmstepd.scope/job_7/step_0",
     f"kubepods/burstable/pod{UID}/{CONTAINER}",
     f"kubepods.slice/kubepods-pod{SLICE}.slice/crio-{CONTAINER}.scope"],
)  # fmt: skip
def test_a_name_that_users_can_give_is_no_place(above: str, below: str) -> None:
    assert slurm_place(f"{above}/{below}") is None
    assert pod_place(f"{above}/{below}") is None
    assert slurm_place(f"/{below}") or pod_place(f"/{below}")


def test_inside_a_pod_the_tree_of_slurm_begins_again() -> None:
    pod = f"/kubepods/pod{UID}/{CONTAINER}"
    assert slurm_place(f"{pod}/system.slice/slurmstepd.scope/job_1/step_0") is not None
    nested = f"{pod}/kubepods/pod{'cd' * 16}/{'1' * 64}"
    assert pod_place(nested) == PodPlace(UID, CONTAINER), "the outermost counts"
