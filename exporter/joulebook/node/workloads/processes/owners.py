"""Which workload a process outside any scheduler belongs to: a container, a unit, or a session.

    container   docker, podman, containerd, CRI-O, nerdctl    .../docker-<64 hex>.scope
                the same with the cgroupfs driver             /docker/<64 hex>
                LXC, Incus, systemd-nspawn                    /lxc.payload.NAME, machine-NAME.scope
    unit        a service of the system or of a user          /system.slice/jupyterhub.service
    session     all else: what a user started from one login, terminal or notebook kernel: the
                processes of one user in one session of the kernel's (setsid(2))

The innermost container, else the innermost service counts. A service through which people log in
(sshd, cron, a display manager) is no workload of its own; their processes are in sessions. Pure;
`proc` reads what goes in.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from joulebook.core.sanitize import clean_label

_CONTAINER = re.compile(
    r"/(?:(?P<runtime>docker|libpod-payload|libpod|cri-containerd|crio|nerdctl|containerd)[-:])?"
    r"(?P<id>[0-9a-f]{64})(?:\.scope)?(?=/|$)"
)
_MACHINE = re.compile(
    r"/(?:lxc\.payload\.|lxc/|machine-|systemd-nspawn@)(?P<name>[^/]+?)"
    r"(?:\.scope|\.service)?(?=/|$)"
)
_SERVICE = re.compile(r"/(?P<name>[^/]+\.service)(?=/|$)")
_USER_SLICE = re.compile(r"/user-(?P<uid>\d+)\.slice(?=/|$)")

LOGINS = re.compile(
    r"^(?:user@\d+|sshd?(?:@.*)?|dropbear|crond?|anacron|atd|getty@.*|serial-getty@.*|console-getty"
    r"|gdm3?|lightdm|sddm|xdm|display-manager|xrdp(?:-sesman)?|x2goserver|vncserver.*)\.service$"
)
"""Services through which people log in."""

FIRST_USER = 1000
"""Uids below are of the system (login.defs(5), UID_MIN)."""

_NAME_CHARS = 64


class Facts(NamedTuple):
    """What the kernel says of a process: its cgroup paths, real user id and session id."""

    paths: Sequence[str]
    uid: int
    session: int


class Place(NamedTuple):
    """The workload of a process on this machine. `kind` is `container`, `unit` or `session`.

    `uid` is whose it is, `None` where nobody can say: root's containers are started by a service
    for whomever. `name` is one for all time only if `unique`, else as long as the machine is up.
    """

    kind: str
    name: str
    uid: int | None
    unique: bool = False


def place_of(process: Facts) -> Place:
    """Where a process belongs."""
    return _container(process) or _unit(process) or _session(process)


def _container(process: Facts) -> Place | None:
    for path in process.paths:
        found = _last(_CONTAINER, path)
        if found is not None:
            runtime = found["runtime"] or ("docker" if "/docker/" in path else "container")
            name = f"{runtime.removesuffix('-payload')}-{found['id'][:12]}"
            return Place("container", name, _owner(process, path), unique=True)
    for path in process.paths:
        found = _last(_MACHINE, path)
        if found is not None:
            return Place("container", _clean(found["name"]), _owner(process, path))
    return None


def _unit(process: Facts) -> Place | None:
    for path in process.paths:
        services = [found["name"] for found in _SERVICE.finditer(path)]
        if services and not (LOGINS.match(services[-1])):
            name = _clean(services[-1])
            if _USER_SLICE.search(path) or services[0].startswith("user@"):
                # Users may give their own services any name, also that of another's.
                name = f"{name}.u{process.uid}"
            return Place("unit", name, process.uid)
    return None


def _session(process: Facts) -> Place:
    return Place("session", f"session-{process.session}.u{process.uid}", process.uid)


def _owner(process: Facts, path: str) -> int | None:
    """Who started a container: he in whose slice it runs, else whom it runs as, if not root."""
    slice_ = _USER_SLICE.search(path)
    if slice_ is not None:
        return int(slice_["uid"])
    return process.uid or None


def _clean(name: str) -> str:
    return clean_label(name, _NAME_CHARS) or "unnamed"


def _last(pattern: re.Pattern[str], path: str) -> re.Match[str] | None:
    found = list(pattern.finditer(path))
    return found[-1] if found else None
