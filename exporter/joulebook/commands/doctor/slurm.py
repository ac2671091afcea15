"""Checks of SLURM: without evidence, the holders of GPUs are unknown."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Iterator
from pathlib import Path

from joulebook.commands.daemon.hooks import SlurmConf, hook_files, is_ours, read_slurm_conf
from joulebook.commands.doctor.checks import Check, Finding, Site, fail, nothing, ok, warn
from joulebook.commands.shared.text import several
from joulebook.core.energy.readings import Component, DeviceStatus, Meter
from joulebook.errors import ConfigError, InputError
from joulebook.node.workloads.slurm.event_file import event_stem
from joulebook.node.workloads.slurm.gres import GresMap, Unmappable, find_part
from joulebook.node.workloads.slurm.gres_conf import find_program, find_slurm_conf, load_gres
from joulebook.node.workloads.slurm.hostlist import expand
from joulebook.untrusted_files import open_directory, trusted_owners

_HOOKS = {"Prolog": "prolog.sh", "Epilog": "epilog.sh"}
_WHERE = "/usr/lib/joulebook/hooks"
_OLD_S = 3600.0


def conf_path(site: Site) -> Path:
    """Return the path of slurm.conf."""
    return site.at(site.config.tenants.slurm.slurm_conf or find_slurm_conf())


def is_here(site: Site) -> bool:
    """Return whether SLURM jobs should be booked here: configured, or present."""
    slurm = site.config.tenants.slurm
    if slurm.enabled != "auto":
        return bool(slurm.enabled)
    return conf_path(site).exists() or site.at(slurm.events_dir).exists()


def read_conf(site: Site) -> SlurmConf | None:
    """Return slurm.conf, or `None` if it cannot be read."""
    try:
        return read_slurm_conf(conf_path(site))
    except ConfigError:
        return None


def node_names(site: Site) -> list[str]:
    """Return the SLURM nodes of this host that are booked here."""
    only = site.config.tenants.slurm.node_name
    conf = read_conf(site)
    if only:
        return list(expand(only))
    return (conf.nodes_of(site.hostname) if conf else []) or [site.hostname]


def configuration(site: Site) -> Iterator[Finding]:
    """Check slurm.conf, and which of its nodes this is."""
    if not is_here(site):
        yield nothing("no SLURM here (no slurm.conf, no events_dir)")
        return
    conf = read_conf(site)
    if conf is None:
        yield warn(
            f"{conf_path(site)} cannot be read (configless, or elsewhere?)",
            "Set tenants.slurm.slurm_conf; without it, GRES indices come from `slurmd -G`.",
        )
        return
    yield ok(f"slurm.conf: {conf.path}")
    names = node_names(site)
    unknown = [name for name in names if name not in conf.nodes]
    if unknown and "DEFAULT" not in conf.nodes:
        yield warn(
            f"{conf.path} has no NodeName {', '.join(unknown)}",
            "Set tenants.slurm.node_name to this host's NodeName (dynamic nodes have none).",
        )
    else:
        yield ok(f"this host is node {', '.join(names)}")


def hooks(site: Site) -> Iterator[Finding]:
    """Check that Prolog and Epilog write event files, the best evidence."""
    conf = read_conf(site) if is_here(site) else None
    if conf is None:
        return
    hooked = any(is_ours(file) for file in hook_files(conf, "Prolog"))
    for key, script in _HOOKS.items():
        files = hook_files(conf, key)
        ours = [file for file in files if is_ours(file)]
        if not ours:
            also = f" (it runs {', '.join(str(file) for file in files)})" if files else ""
            yield warn(
                f"{key} in {conf.path} is not Joulebook's{also}",
                f"`joulebook hooks install`, or set {key}={_WHERE}/{script}; without event "
                "files, jobs are found by their cgroups, and the controller is queried once per "
                "job.",
            )
            continue
        yield from _runnable(key, ours)
    flags = conf.first("PrologFlags").lower()
    if "contain" not in flags and "x11" not in flags and not hooked:
        yield fail(
            "PrologFlags has no Contain, and the Prolog is not ours: a job without a step, such "
            "as a waiting salloc, is not detected, and the energy of its GPUs is unattributed",
            "`joulebook hooks install`, or set PrologFlags=Contain.",
        )
    elif "alloc" not in flags and "contain" not in flags and "x11" not in flags:
        yield warn(
            "PrologFlags has no Alloc: the Prolog runs with a job's first step, and the energy "
            "of its GPUs before that is unattributed",
            "Set PrologFlags=Alloc (Contain implies it).",
        )


def _runnable(key: str, files: list[Path]) -> Iterator[Finding]:
    for file in files:
        try:
            mode = file.stat().st_mode
        except OSError as error:
            yield fail(f"{key}: {file}: {error.strerror}", "SLURM drains nodes whose Prolog fails.")
            continue
        if mode & stat.S_IXUSR:
            yield ok(f"{key}: {file}")
        else:
            yield fail(f"{key}: {file} is not executable", f"chmod 755 {file}")


def events(site: Site) -> Iterator[Finding]:
    """Check the directory of event files: owned by root, closed to others."""
    if not is_here(site):
        return
    path = site.at(site.config.tenants.slurm.events_dir)
    try:
        os.close(open_directory(path, trusted_owners() | _daemon_users(site)))
        names = sorted(entry.name for entry in path.iterdir())
    except InputError as error:
        yield fail(
            f"events_dir: {error}: its files are rejected",
            f"chown root:root {path}; chmod 755 {path}",
        )
        return
    except FileNotFoundError:
        say = warn if site.daemon else nothing
        yield say(
            f"events_dir: {path} does not exist yet: the first Prolog or the daemon creates it"
        )
        return
    except OSError as error:
        yield warn(f"events_dir: {path}: {error.strerror}", "Run the doctor as root.")
        return
    ends = [name for name in names if (event_stem(name) or ("", False))[1]]
    running = sum(event_stem(name) is not None for name in names) - len(ends)
    yield ok(f"events_dir: {path}, {several(running, 'job')} running, {len(ends)} to be booked")
    old = [name for name in ends if _age_s(path / name) > _OLD_S]
    if old:
        yield warn(
            f"events_dir: {several(len(old), 'ended job')} not booked for over an hour ({old[0]})",
            "Start the daemon, or see its log for what it rejects.",
        )


def _daemon_users(site: Site) -> frozenset[int]:
    """Return the daemon's user: the owner of the ledger's directory, which need not be us."""
    try:
        return frozenset({site.ledger.parent.stat().st_uid})
    except OSError:
        return frozenset()


def _age_s(path: Path) -> float:
    try:
        return time.time() - path.stat().st_mtime
    except OSError:
        return 0.0


def gpu_order(site: Site) -> Iterator[Finding]:
    """Check which card each of SLURM's GPU numbers means."""
    slurm = site.config.tenants.slurm
    if not is_here(site):
        return
    if slurm.gpu_ids != "gres":
        yield ok(f"GPU numbers in event files are {slurm.gpu_ids}s, by configuration")
        return
    devices = [
        DeviceStatus(
            Meter(Component.GPU, gpu.uuid),
            gpu.index,
            0,
            minor=gpu.minor,
            mig=gpu.mig,
            instances=gpu.instances,
            slices=gpu.slices,
        )
        for gpu in site.survey.gpus
    ]
    listed = site.at(slurm.gres_conf) if slurm.gres_conf else None
    for node in node_names(site):
        gres = load_gres(node, conf_path(site), listed, slurmd=find_program("slurmd"))
        if gres is None:
            say = fail if devices else warn
            yield say(
                f"gres of {node}: neither gres.conf nor `slurmd -G` gives the device file of "
                "each GPU",
                "Give File= in gres.conf, or let the doctor and the daemon run slurmd (as root); "
                "until then, the holders of some GPUs are unknown.",
            )
        elif not gres.positions:
            say_none = _unshared if devices else nothing
            yield say_none(f"gres of {node}: no GPUs")
        else:
            yield from _positions(node, gres, devices)


def _unshared(found: str) -> Finding:
    return warn(
        f"{found}, but NVML shows some: SLURM does not allocate them to jobs",
        "Add them to gres.conf and to Gres= in slurm.conf, or set tenants.slurm.node_name.",
    )


def _positions(node: str, gres: GresMap, devices: list[DeviceStatus]) -> Iterator[Finding]:
    for at, position in enumerate(gres.positions):
        name = f"gres of {node}: index {at} is {position.file}"
        try:
            part = find_part(str(at), "gres", gres, devices)
        except Unmappable as error:
            part = None
            if error.meter is not None:
                yield warn(
                    f"{name}, an instance of {error.meter.name}, but unknown which: its energy "
                    "is booked to unknown_holder",
                    "Give MultipleFiles= with the instance's capability files in gres.conf, and "
                    "let the daemon read /proc/driver/nvidia-caps/mig-minors.",
                )
                continue
        if part is not None:
            share = f", {part.instance} ({part.parts} of {part.of})" if part.instance else ""
            yield ok(f"{name}, {part.meter.name}{share}")
        elif devices:
            yield fail(
                f"{name}, but NVML shows no such GPU: jobs on it are not booked",
                "Correct gres.conf, or check that the card is still there.",
            )
        else:
            yield warn(f"{name}; without NVML it is unknown which card that is")


def cgroups(site: Site) -> Iterator[Finding]:
    """Check that job cgroups are visible, which show starts and ends at once."""
    if not is_here(site):
        return
    root = site.at(site.config.tenants.slurm.cgroup_root)
    v2 = (root / "cgroup.controllers").exists()
    patterns = ("system.slice/*slurmstepd.scope",) if v2 else ("*/slurm*", "slurm*")
    seen = sorted({path.name for pattern in patterns for path in root.glob(pattern)})
    conf = read_conf(site)
    tracking = conf.first("ProctrackType") if conf else ""
    if tracking and "cgroup" not in tracking:
        yield warn(
            f"ProctrackType={tracking}: SLURM makes no cgroups, so jobs are only known from "
            "event files",
            "Set ProctrackType=proctrack/cgroup.",
        )
    elif not root.is_dir():
        yield fail(f"no cgroup file system at {root}", "Set tenants.slurm.cgroup_root.")
    elif seen:
        yield ok(f"cgroup v{2 if v2 else 1} at {root}: {', '.join(seen)}")
    else:
        yield nothing(
            f"cgroup v{2 if v2 else 1} at {root}: nothing of SLURM's before its first job"
        )


def controller(site: Site) -> Iterator[Finding]:
    """Check that scontrol works, for jobs that no file describes."""
    slurm = site.config.tenants.slurm
    if not is_here(site):
        return
    conf = read_conf(site)
    path = find_program("scontrol") if slurm.scontrol == "auto" else slurm.scontrol
    if path and os.access(path, os.X_OK):
        yield ok(f"scontrol: {path}, called for each job until it answers")
        private = conf.first("PrivateData").lower() if conf is not None else ""
        if "jobs" in private.split(","):
            yield warn(
                "PrivateData=jobs: the controller hides other users' jobs from unprivileged users",
                "Let the daemon's user see them: SlurmUser, or an operator (sacctmgr add user "
                "joulebook account=ACCOUNT adminlevel=operator); otherwise names, arrays and "
                "requeues stay unknown, and without our hooks so do the holders of GPUs.",
            )
        return
    hooked = conf is not None and any(is_ours(file) for file in hook_files(conf, "Prolog"))
    missing = "never called (tenants.slurm.scontrol is empty)" if not path else f"{path} cannot run"
    if path == "" and slurm.scontrol == "auto":
        missing = "not found"
    say = warn if hooked else fail
    yield say(
        f"scontrol: {missing}; job names and array ids stay unknown"
        + ("" if hooked else ", and without our Prolog so do the holders of GPUs"),
        "Install SLURM's client commands, or set tenants.slurm.scontrol.",
    )


CHECKS: tuple[Check, ...] = (configuration, hooks, events, gpu_order, cgroups, controller)
