"""Which workload a process outside any scheduler belongs to: a container, a unit, or a run.

    container   docker, podman, containerd, CRI-O, nerdctl    .../docker-<64 hex>.scope
                the same with the cgroupfs driver             /docker/<64 hex>
                runc, ctr                                     runc-NAME.scope, /default/NAME
                LXC, Incus, systemd-nspawn                    /lxc.payload.NAME, machine-NAME.scope
    unit        a service of the system or of a user          /system.slice/jupyterhub.service
    run         all else: a process group, with when its leader started; a launcher's tree is one

The outermost container, else the outermost service counts: what is below may be named by whoever
runs in it. Each user's part of it is a workload of its own. A service through which people log in
(sshd, cron, a display manager) is none; what they start is a run. Pure; `proc` reads what goes in.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from typing import NamedTuple

from joulebook.core.sanitize import clean_label
from joulebook.node.workloads.host.cgroup_paths import from_namespace, given_by_root

_CONTAINER = re.compile(
    r"/(?:(?P<runtime>docker|libpod-payload|libpod|cri-containerd|crio|nerdctl|containerd|runc)[-:])?"
    r"(?P<id>[0-9a-f]{64})(?:\.scope)?(?=/|$)"
)
_NAMED = re.compile(
    r"/(?:lxc\.payload\.|lxc/|machine-|systemd-nspawn@|runc-)(?P<name>[^/]+?)"
    r"(?:\.scope|\.service)?(?=/|$)"
    r"|^/default/(?P<ctr>[^/]+)"
    # runc by itself makes its cgroup beside that of the session which it is called from.
    r"|^/(?:user\.slice/user-\d+|system)\.slice/(?P<runc>(?![^/]*\.(?:scope|service|slice|mount"
    r"|socket|swap)(?:/|$))[^/]+)"
)
_SERVICE = re.compile(r"/(?P<name>[^/]+\.service)(?=/|$)")
_USER_SLICE = re.compile(r"^(?:/user\.slice)?/user-(?P<uid>\d+)\.slice(?=/|$)")

_LOGINS = re.compile(
    r"^(?:user@\d+|sshd?(?:@.*)?|dropbear|crond?|anacron|atd|getty@.*|serial-getty@.*|console-getty"
    r"|gdm3?|lightdm|sddm|xdm|display-manager|xrdp(?:-sesman)?|x2goserver|vncserver.*"
    r"|app-.*|gnome-terminal.*|dbus.*|tmux.*|screen.*|emacs.*)\.service$"
)
"""Services through which people log in, and those that hold what they start from a desktop."""

_TRANSIENT = re.compile(r"^run-[rupi0-9][0-9a-f-]*(?:-i[0-9]+)?\.service$")
"""A service to which systemd-run gave a name, since nobody else did."""

FIRST_USER = 1000
"""Uids below are of the system (login.defs(5), UID_MIN)."""

RUNS, CONTAINERS = "sessions", "containers"
"""The experiments of what a user runs, by itself or in containers, without naming one."""

_NAME_CHARS = 64


class Run(NamedTuple):
    """A process group of one launcher, for all time of a boot.

    Attributes:
        pid: Of the process that leads it.
        ticks: When that process started, in clock ticks since boot.

    """

    pid: int
    ticks: int


class Facts(NamedTuple):
    """What the kernel says of a process: its cgroup paths and its real user id."""

    paths: Sequence[str]
    uid: int


class Place(NamedTuple):
    """What a process belongs to on this machine.

    Attributes:
        kind: `container`, `unit` or `run`.
        name: What it is called; one for all time only if `unique`, else while the machine is up.
        uid: Whose it is; `None` where nobody can say: root's containers are started by a service
            for whomever.
        unique: See `name`.
        experiment: What it counts for if nobody names an experiment.

    """

    kind: str
    name: str
    uid: int | None
    unique: bool = False
    experiment: str = RUNS

    def identity(self, machine: str, experiment: str = "") -> str:
        """Return the name of the part of `uid` in it that runs under a name that was given.

        `machine` is this node in this boot. Never the name of a user or an experiment: these are
        in labels of their own, which can be masked and cleaned.
        """
        owner = "" if not self.uid and self.kind != "run" else f".u{self.uid}"
        given = f".{hashlib.sha256(experiment.encode()).hexdigest()[:8]}" if experiment else ""
        return f"{self.name}{owner}{given}" + ("" if self.unique else f"@{machine}")


def place_of(process: Facts) -> Place | None:
    """Return the container or unit that a process is in; `None` if it is in neither."""
    paths = [from_namespace(path) for path in process.paths]
    found = (find(process.uid, path) for find in (_container, _unit) for path in paths)
    return next((place for place in found if place is not None), None)


def run_place(run: Run, uid: int) -> Place:
    """Return the workload of a process that is in no container and no unit."""
    return Place("run", f"run-{run.pid}-{run.ticks}", uid)


def _container(uid: int, path: str) -> Place | None:
    slice_ = _USER_SLICE.search(path)
    owner = int(slice_["uid"]) if slice_ is not None else uid or None
    found = min(
        filter(None, (_CONTAINER.search(path), _NAMED.search(path))),
        key=lambda match: match.end(),  # the outermost
        default=None,
    )
    if found is None or not (slice_ is not None or given_by_root(path, found.start())):
        return None
    if found.re is _NAMED:
        name = _name(found["name"] or found["ctr"] or found["runc"])
        return Place("container", name, owner, experiment=name)
    runtime = found["runtime"] or ("docker" if "/docker/" in path else "container")
    name = f"{runtime.removesuffix('-payload')}-{found['id'][:12]}"
    return Place("container", name, owner, unique=True, experiment=CONTAINERS)


def _unit(uid: int, path: str) -> Place | None:
    services = [found["name"] for found in _SERVICE.finditer(path)]
    if services and services[0].startswith("user@"):
        services = services[1:]
    if not services or _LOGINS.match(services[0]):
        return None
    name = _name(services[0])
    if _TRANSIENT.match(name):
        return Place("unit", name, uid)
    # All instances of a template are one experiment.
    experiment = name.removesuffix(".service").partition("@")[0]
    return Place("unit", name, uid, experiment=experiment or name)


def _name(name: str) -> str:
    return clean_label(name, _NAME_CHARS) or "unnamed"
