"""The workload sources, and how each is built from the configuration.

A new one is one package or file in `node/workloads/`, and one line in `TENANTS`. Their order is
that in which they are asked for the owner of a process.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from joulebook.clock import Clock
from joulebook.config import Config
from joulebook.config.node import Slurm
from joulebook.core.energy.readings import Reading
from joulebook.core.selectors import parse
from joulebook.errors import ConfigError
from joulebook.node.assembly.sensors import chosen, enabled, proc_of_driver
from joulebook.node.workloads.contract import WorkloadSource
from joulebook.node.workloads.host.procfs import in_pid_namespace_of_host, reads_environments
from joulebook.node.workloads.processes.source import ProcessWorkloads
from joulebook.node.workloads.spans.source import SpanWorkloads


def slurm_is_here(config: Config) -> bool:
    """Return whether this machine runs SLURM jobs: slurmd's configuration, or event files.

    Who sets where event files are expects them, also where that place comes after this daemon.
    """
    slurm = config.tenants.slurm
    if slurm.events_dir != Slurm().events_dir:
        return True
    places = (slurm.slurm_conf, "/etc/slurm", "/etc/slurm-llnl", "/run/slurm", slurm.events_dir)
    return any(place and Path(place).exists() for place in places)


def slurm_tenants(config: Config, clock: Clock) -> WorkloadSource:
    """The SLURM jobs of this host."""
    from joulebook.node.workloads.slurm.source import SlurmSite, SlurmWorkloads  # noqa: PLC0415

    slurm = config.tenants.slurm
    site = SlurmSite(
        events_dir=Path(slurm.events_dir),
        cgroup_root=Path(slurm.cgroup_root),
        hpc_job_mapping_dir=_path(slurm.hpc_job_mapping_dir),
        gpustat_dir=_path(slurm.gpustat_dir),
        rules=config.experiments.rules,
        only=slurm.node_name,
        slurm_conf=_path(slurm.slurm_conf),
        gres_conf=_path(slurm.gres_conf),
        gpu_ids=slurm.gpu_ids,
        gpu_indices=Path(f"{config.ledger.path}.gpu-indices"),
        scontrol=None if slurm.scontrol == "auto" else slurm.scontrol,
        # This machine's cards are not those of a trace.
        slurmd="" if config.sensors.replay.enabled else None,
        proc=Path(config.host.proc),
    )
    return SlurmWorkloads(clock, site)


def marks_wanted(config: Config) -> bool:
    """Whether programs may name experiments: a world-writable directory is made only for need."""
    marks = config.marks
    if marks.enabled is True and not driver_pids_are_own(config):
        raise ConfigError(
            "marks.enabled is true, but this daemon has its own PID namespace, in which it "
            "cannot find the owner of a mark: share the host's (hostPID: true, --pid=host), or "
            'set tenants.processes.pid_namespace = "host" if it already is the host\'s'
        )
    return enabled(
        marks.enabled,
        lambda: (
            driver_pids_are_own(config) and (Path(marks.dir).is_dir() or not slurm_is_here(config))
        ),
    )


def kubernetes_is_here(config: Config) -> bool:
    """Return whether this machine runs pods: a kubelet keeps a folder for its sockets."""
    return Path(config.tenants.kubernetes.pod_resources).parent.exists()


def kubernetes_tenants(config: Config, clock: Clock) -> WorkloadSource:
    """The pods of this node."""
    # With an HTTP client of their own.
    from joulebook.kubernetes_api.server import ApiServer  # noqa: PLC0415
    from joulebook.node.workloads.kubernetes.pod_object import Reader  # noqa: PLC0415
    from joulebook.node.workloads.kubernetes.source import (  # noqa: PLC0415
        KubernetesSite,
        KubernetesWorkloads,
    )

    kubernetes = config.tenants.kubernetes
    infrastructure = map(parse, (*config.workloads.infrastructure_selectors, *_own_pods(config)))
    server = None
    if kubernetes.api:
        server = ApiServer(Path(kubernetes.service_account), _path(kubernetes.kubeconfig))
    site = KubernetesSite(
        node=config.kubernetes_node(),
        reader=Reader(config.experiments.rules, tuple(infrastructure), kubernetes.user_key),
        socket=Path(kubernetes.pod_resources),
        server=server,
        resources=kubernetes.resources,
        drivers=kubernetes.drivers,
        cgroup_root=Path(kubernetes.cgroup_root),
        pod_logs=_path(kubernetes.pod_logs),
        poll_interval_s=kubernetes.poll_interval_s,
        proc=Path(config.host.proc),
    )
    return KubernetesWorkloads(clock, site)


def _own_pods(config: Config) -> list[str]:
    """Return the pods of this release, if this is one of them."""
    try:
        namespace = Path(config.tenants.kubernetes.service_account, "namespace").read_text()
    except (OSError, UnicodeDecodeError):
        return []
    return [f"namespace:{namespace.strip()},app.kubernetes.io/name=joulebook"]


OWN_PROC = Path("/proc")


def driver_pids_are_own(config: Config) -> bool:
    """Whether a pid of the driver is that of the same process in this daemon's own namespace.

    Only such may be asked for by a system call, and only then do programs name themselves by them.
    """
    if config.tenants.processes.pid_namespace == "host" and Path(config.host.proc) == OWN_PROC:
        return True
    return in_pid_namespace_of_host()


def unseen(config: Config) -> str:
    """Return a message if no /proc here has the driver's PIDs; else empty."""
    if proc_of_driver(config) is not None or "nvml" not in chosen(config):
        return ""
    return (
        f"this daemon has its own PID namespace, and host.proc ({config.host.proc}) does not "
        "show the host's processes: owners of processes on a GPU are not looked up, and shared "
        "GPUs are split by held share. Mount the host's /proc read-only and set host.proc to "
        "its path (Helm chart: hostProc.enabled), or share the host's PID namespace (hostPID: "
        "true, --pid=host)"
    )


def unnamed(config: Config) -> tuple[tuple[str, str], ...]:
    """Return what is missing for programs outside any scheduler to name experiments.

    In the manner of rates that are not set; empty where no such programs are booked.
    """
    if not processes_wanted(config):
        return ()
    lacking = []
    if not reads_environments():
        rights = "CAP_SYS_PTRACE with CAP_DAC_READ_SEARCH"
        lacking.append((rights, "experiments named by JOULEBOOK_EXPERIMENT and the like"))
    path = Path(config.marks.dir)
    if not path.is_dir() and not os.access(path.parent, os.W_OK):
        lacking.append((config.marks.dir, "experiments named by `with joulebook.experiment(...)`"))
    return tuple(lacking)


def processes_wanted(config: Config) -> bool:
    """Return whether processes outside any scheduler are reported apart. Raises `ConfigError`."""
    wanted = config.tenants.processes.enabled
    if wanted is True and proc_of_driver(config) is None:
        raise ConfigError(
            "tenants.processes.enabled is true, but this daemon has its own PID namespace and "
            f"host.proc ({config.host.proc}) does not show the host's processes: mount the "
            "host's /proc and set host.proc to its path, share the host's PID namespace "
            '(hostPID: true, --pid=host), or set tenants.processes.pid_namespace = "host" if it '
            "already is the host's"
        )
    return enabled(wanted, lambda: proc_of_driver(config) is not None and "nvml" in chosen(config))


def process_tenants(config: Config, clock: Clock) -> ProcessWorkloads:
    """Return the source of processes outside any scheduler that is watched."""
    return ProcessWorkloads(
        clock,
        node=config.node_name(),
        rules=config.experiments.rules,
        infrastructure=config.tenants.processes.infrastructure,
        proc_root=Path(config.host.proc),
        own_pids=driver_pids_are_own(config),
        others=[name for name in ("slurm", "kubernetes") if WORKLOAD_SOURCES[name][0](config)],
    )


def marked(tenants: Sequence[WorkloadSource]) -> Callable[[Reading], Reading]:
    """Return what annotates the processes in a reading: marks, then lives."""
    marks = [each.marked for each in tenants if isinstance(each, SpanWorkloads)]
    lives = [each.lived for each in tenants if isinstance(each, ProcessWorkloads)]

    def said(reading: Reading) -> Reading:
        for say in (*marks, *lives):
            reading = say(reading)
        return reading

    return said


def _path(text: str) -> Path | None:
    return Path(text) if text else None


WORKLOAD_SOURCES: dict[
    str, tuple[Callable[[Config], bool], Callable[[Config, Clock], WorkloadSource]]
] = {
    "slurm": (
        lambda config: enabled(config.tenants.slurm.enabled, lambda: slurm_is_here(config)),
        slurm_tenants,
    ),
    "kubernetes": (
        lambda config: enabled(
            config.tenants.kubernetes.enabled, lambda: kubernetes_is_here(config)
        ),
        kubernetes_tenants,
    ),
    "processes": (processes_wanted, process_tenants),
    "marks": (marks_wanted, lambda config, clock: SpanWorkloads(clock, Path(config.marks.dir))),
}
