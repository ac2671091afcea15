"""Cgroup paths as they are found on machines, and what they come to."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from joulebook.node.workloads.processes.owners import Facts, Place, ProcessRun, place_of, run_place

ID = "3f2a91bc0d12" + "e5" * 26
OTHER = "aaaaaaaaaaaa" + "0" * 52
SHORT = "docker-3f2a91bc0d12"


def place(*paths: str, uid: int = 1000) -> Place | None:
    return place_of(Facts(paths, uid))


def identity(*paths: str, uid: int = 1000) -> str:
    found = place(*paths, uid=uid)
    return "" if found is None else found.identity("ws1")


@pytest.mark.parametrize(
    ("path", "name"),
    [
        (f"/system.slice/docker-{ID}.scope", SHORT),
        (f"/docker/{ID}", SHORT),
        (f"/machine.slice/libpod-{ID}.scope/container", "libpod-3f2a91bc0d12"),
        (f"/libpod_parent/libpod-{ID}", "libpod-3f2a91bc0d12"),
        (f"/machine.slice/libpod-payload-{ID}.scope", "libpod-3f2a91bc0d12"),
        (f"/system.slice/nerdctl-{ID}.scope", "nerdctl-3f2a91bc0d12"),
        (f"/system.slice/runc-{ID}.scope", "runc-3f2a91bc0d12"),
        (f"/kubepods.slice/kubepods-pod1.slice/cri-containerd-{ID}.scope",
         "cri-containerd-3f2a91bc0d12"),
        (f"/kubepods/burstable/pod1/crio-{ID}", "crio-3f2a91bc0d12"),
        (f"/default/{ID}", "container-3f2a91bc0d12"),
        (f"/system.slice/{ID}", "container-3f2a91bc0d12"),
        # Whoever is root in a container names what is below it.
        (f"/system.slice/docker-{ID}.scope/docker/{OTHER}", SHORT),
        (f"/system.slice/docker-{ID}.scope/system.slice/nginx.service", SHORT),
        # From inside a cgroup namespace.
        (f"/../docker-{ID}.scope", SHORT),
    ],
)  # fmt: skip
def test_containers(path: str, name: str) -> None:
    assert place(path, uid=0) == Place("container", name, None, True, "containers")
    assert identity(path, uid=0) == name, "nobody can say who started it"
    assert identity(path, uid=1007) == f"{name}.u1007", "and each user's part is his"


@pytest.mark.parametrize(
    "path",
    [
        f"/user.slice/user-1001.slice/user@1001.service/user.slice/libpod-{ID}.scope/container",
        f"/../../user.slice/user-1001.slice/user@1001.service/user.slice/docker-{ID}.scope",
        f"/user.slice/user-1001.slice/user@1001.service/app.slice/docker-{ID[:12]}{OTHER[12:]}.scope",
        f"/user.slice/user-1001.slice/session-3.scope/system.slice/docker-{ID}.scope",
        "/user.slice/user-1001.slice/my-runc",
        "/user.slice/user-1001.slice/user@1001.service/lxc.payload.web",
    ],
)
def test_what_is_below_a_users_slice_is_his_whatever_it_is_called(path: str) -> None:
    for uid in (0, 1001, 100_999):
        found = place(path, uid=uid)
        assert found is not None and (found.kind, found.uid) == ("container", 1001)
        assert identity(path, uid=uid) not in {SHORT, f"{SHORT}.u1002"}
    assert ".u1001" in identity(path)


def test_what_is_below_a_service_that_was_handed_a_part_of_the_tree_is_the_service() -> None:
    found = place(f"/system.slice/train.service/docker-{ID}.scope", uid=1001)
    assert found == Place("unit", "train.service", 1001, experiment="train")
    found = place(f"/system.slice/train.service/kubepods/pod1/{ID}", uid=1001)
    assert found is not None and found.kind == "unit"


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/lxc.payload.web/system.slice/x.service", "web"),
        ("/lxc/web", "web"),
        ("/machine.slice/machine-web.scope/payload", "web"),
        ("/machine.slice/systemd-nspawn@web.service/payload", "web"),
        ("/default/web", "web"),
        ("/system.slice/runc-web.scope", "web"),
        ("/system.slice/web", "web"),
    ],
)
def test_containers_that_have_a_name(path: str, name: str) -> None:
    assert place(path, uid=0) == Place("container", name, None, experiment=name)
    assert identity(path, uid=5) == f"{name}.u5@ws1"


def test_what_watches_a_container_is_not_in_it() -> None:
    assert place(f"/machine.slice/libpod-conmon-{ID}.scope", uid=0) is None


@pytest.mark.parametrize(
    ("path", "name", "experiment"),
    [
        ("/system.slice/jupyterhub.service", "jupyterhub.service", "jupyterhub"),
        ("/system.slice/system-llm.slice/llm@bert.service", "llm@bert.service", "llm"),
        ("/user.slice/user-1000.slice/user@1000.service/app.slice/train.service",
         "train.service", "train"),
        ("/system.slice/run-r3f2a91bc0d124e5fa7b1c2d3e4f50617.service",
         "run-r3f2a91bc0d124e5fa7b1c2d3e4f50617.service", "sessions"),
        ("/system.slice/run-u42.service", "run-u42.service", "sessions"),
        ("/system.slice/run-p12-i7.service", "run-p12-i7.service", "sessions"),
        ("/system.slice/run-bert.service", "run-bert.service", "run-bert"),
    ],
)  # fmt: skip
def test_units(path: str, name: str, experiment: str) -> None:
    assert place(path) == Place("unit", name, 1000, experiment=experiment)
    assert identity(path, uid=64001) == f"{name}.u64001@ws1", "each user's part is a workload"
    assert identity(path, uid=0) == f"{name}@ws1"


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/user.slice/user-1000.slice/session-3.scope",
        "/user.slice/user-1000.slice/user@1000.service/init.scope",
        "/user.slice/user-1000.slice/user@1000.service/tmux-spawn-1.scope",
        "/user.slice/user-1000.slice/user@1000.service/app.slice/app-org.kde.konsole@3f.service",
        "/user.slice/user-1000.slice/user@1000.service/app.slice/gnome-terminal-server.service",
        "/system.slice/ssh.service",
        "/system.slice/sshd.service",
        "/system.slice/sshd@1-10.0.0.1:22-10.0.0.2:5.service",
        "/system.slice/cron.service",
        "/system.slice/gdm3.service",
        "/system.slice/vncserver@:1.service",
        "/system.slice/run-r3f2.scope",
        "/custom/group",
    ],
)
def test_what_people_start_is_a_run(path: str) -> None:
    assert place(path) is None


def test_runs_of_two_users_and_of_one_are_apart() -> None:
    runs = [run_place(ProcessRun(pid, t), uid) for pid in (4, 5) for t in (7, 8) for uid in (0, 1)]
    assert len({run.identity("ws1") for run in runs}) == 8
    assert run_place(ProcessRun(4, 7), 1000).identity("ws1") == "run-4-7.u1000@ws1"


def test_what_runs_under_another_name_is_another_workload_and_does_not_show_the_name() -> None:
    run = run_place(ProcessRun(4, 7), 1000)
    names = {run.identity("ws1", name) for name in ("", "bert", "vit")}
    assert len(names) == 3
    assert not any("bert" in name for name in names)


def test_any_hierarchy_may_tell() -> None:
    v1 = ["/", "/user.slice", f"/docker/{ID}"]
    assert identity(*v1, uid=0) == SHORT
    assert identity("/", "/system.slice/hub.service", uid=0) == "hub.service@ws1"


@given(st.text(max_size=200), st.integers(0, 2**31))
def test_hostile_paths_make_names_that_print_on_one_short_line(text: str, uid: int) -> None:
    for path in (f"/system.slice/{text}.service", f"/lxc/{text}", f"/default/{text}"):
        found = place(path, uid=uid)
        if found is not None:
            assert found.identity("ws1").isprintable() and found.experiment.isprintable()
            assert 0 < len(found.name) <= 64 and found.experiment
