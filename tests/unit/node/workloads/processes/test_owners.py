"""Cgroup paths as they are found on machines, and what they come to."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from joulebook.node.workloads.processes.owners import Facts, Place, place_of

ID = "3f2a91bc0d12" + "e5" * 26
OTHER = "aaaaaaaaaaaa" + "0" * 52


def place(*paths: str, uid: int = 1000, session: int = 4242) -> Place:
    return place_of(Facts(paths, uid, session))


@pytest.mark.parametrize(
    ("path", "name", "uid"),
    [
        (f"/system.slice/docker-{ID}.scope", "docker-3f2a91bc0d12", None),
        (f"/docker/{ID}", "docker-3f2a91bc0d12", None),
        (f"/machine.slice/libpod-{ID}.scope/container", "libpod-3f2a91bc0d12", None),
        (f"/libpod_parent/libpod-{ID}", "libpod-3f2a91bc0d12", None),
        (
            f"/user.slice/user-1001.slice/user@1001.service/user.slice/libpod-{ID}.scope/container",
            "libpod-3f2a91bc0d12",
            1001,
        ),
        (f"/machine.slice/libpod-payload-{ID}.scope", "libpod-3f2a91bc0d12", None),
        (f"/system.slice/nerdctl-{ID}.scope", "nerdctl-3f2a91bc0d12", None),
        (f"/kubepods.slice/kubepods-pod1.slice/cri-containerd-{ID}.scope",
         "cri-containerd-3f2a91bc0d12", None),
        (f"/kubepods/burstable/pod1/crio-{ID}", "crio-3f2a91bc0d12", None),
        (f"/default/{ID}", "container-3f2a91bc0d12", None),
        (f"/system.slice/docker-{OTHER}.scope/docker/{ID}", "docker-3f2a91bc0d12", None),
        (f"/system.slice/docker-{ID}.scope/system.slice/nginx.service", "docker-3f2a91bc0d12",
         None),
    ],
)  # fmt: skip
def test_containers(path: str, name: str, uid: int | None) -> None:
    assert place(path, uid=0) == Place("container", name, uid, unique=True)


def test_a_container_that_runs_as_a_user_is_his() -> None:
    assert place(f"/docker/{ID}", uid=1007).uid == 1007


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/lxc.payload.web/system.slice/x.service", "web"),
        ("/lxc/web", "web"),
        ("/machine.slice/machine-web.scope/payload", "web"),
        ("/machine.slice/systemd-nspawn@web.service/payload", "web"),
    ],
)
def test_system_containers(path: str, name: str) -> None:
    assert place(path, uid=0) == Place("container", name, None)


def test_what_watches_a_container_is_not_in_it() -> None:
    assert place(f"/machine.slice/libpod-conmon-{ID}.scope", uid=0).kind == "session"


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/system.slice/jupyterhub.service", "jupyterhub.service"),
        ("/system.slice/system-llm.slice/llm@bert.service", "llm@bert.service"),
        (
            "/user.slice/user-1000.slice/user@1000.service/app.slice/train.service",
            "train.service.u1000",
        ),
    ],
)
def test_units(path: str, name: str) -> None:
    assert place(path) == Place("unit", name, 1000)


def test_another_users_service_of_that_name_is_another() -> None:
    mine = "/user.slice/user-1000.slice/user@1000.service/app.slice/jupyterhub.service"
    assert place(mine) != place("/system.slice/jupyterhub.service")


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/user.slice/user-1000.slice/session-3.scope",
        "/user.slice/user-1000.slice/user@1000.service/init.scope",
        "/user.slice/user-1000.slice/user@1000.service/tmux-spawn-1.scope",
        "/system.slice/ssh.service",
        "/system.slice/sshd.service",
        "/system.slice/sshd@1-10.0.0.1:22-10.0.0.2:5.service",
        "/system.slice/cron.service",
        "/system.slice/gdm3.service",
        "/system.slice/vncserver@:1.service",
        "/custom/group",
    ],
)
def test_what_people_start_is_in_sessions(path: str) -> None:
    assert place(path) == Place("session", "session-4242.u1000", 1000)


def test_sessions_of_two_users_and_of_one_are_apart() -> None:
    assert len({place("/", uid=u, session=s) for u in (1, 2) for s in (3, 4)}) == 4


def test_any_hierarchy_may_tell() -> None:
    v1 = ["/", "/user.slice", f"/docker/{ID}"]
    assert place(*v1).kind == "container"
    assert place("/", "/system.slice/hub.service").kind == "unit"


@given(st.text(max_size=200), st.integers(0, 2**31), st.integers(0, 2**22))
def test_hostile_paths_make_names_that_print_on_one_short_line(
    text: str, uid: int, session: int
) -> None:
    found = place(f"/system.slice/{text}.service", f"/lxc/{text}", uid=uid, session=session)
    assert found.name.isprintable()
    assert 0 < len(found.name) <= 90
