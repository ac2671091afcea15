"""Keys of the configuration file about Kubernetes, processes and marks; see `config.node`.

What marks are is in docs/in-code.md.
"""

from __future__ import annotations

from typing import Annotated, Literal

from joulebook.config.base import AUTO, Enabled, Section, doc
from joulebook.experiment_span import DIRECTORY

INFRASTRUCTURE = (
    "Xorg",
    "Xwayland",
    "gnome-shell",
    "kwin_x11",
    "kwin_wayland",
    "plasmashell",
    "weston",
    "nvidia-persistenced",
    "nvidia-powerd",
    "nvidia-cuda-mps-control",
    "nvidia-cuda-mps-server",
    "nvidia-smi",
    "nv-hostengine",
    "dcgm-exporter",
    "dcgmproftester",
)
"""Programs that serve everybody on a machine."""


class Processes(Section, frozen=True):
    """Processes outside any scheduler: containers, services, people's sessions."""

    enabled: Annotated[
        Enabled,
        doc(
            '"auto": where GPUs are read and the pids that the driver tells are those seen here; '
            "true: must work; false: such processes are nobody's (`unknown_holder`)."
        ),
    ] = "auto"
    infrastructure: Annotated[
        tuple[str, ...],
        doc(
            "Programs that are never workloads: display servers, daemons of the driver, monitors. "
            "One counts as such if a user of the system runs it outside of containers, or if it "
            "only draws (the driver lists it for graphics alone)."
        ),
    ] = INFRASTRUCTURE
    pid_namespace: Annotated[
        Literal["auto", "host"],
        doc(
            '"auto": where `host.proc` does not show the host\'s processes (a container without '
            "hostPID and without the host's /proc) the daemon asks no source whose a process is, "
            'for pids mean others there; "host": they mean the same.'
        ),
    ] = "auto"


class Kubernetes(Section, frozen=True):
    """Kubernetes pods."""

    enabled: Annotated[Enabled, doc(AUTO)] = "auto"
    pod_resources: Annotated[str, doc("Socket of the kubelet's pod-resources service.")] = (
        "/var/lib/kubelet/pod-resources/kubelet.sock"
    )
    api: Annotated[bool, doc("Ask the API server for labels of the pods of this node.")] = True
    service_account: Annotated[
        str,
        doc("Folder with `token` and `ca.crt` to sign in with, read again as they are renewed."),
    ] = "/var/run/secrets/kubernetes.io/serviceaccount"
    kubeconfig: Annotated[
        str,
        doc("Path of a kubeconfig to sign in with instead (some 15 MiB of memory). Empty: none."),
    ] = ""
    node_name: Annotated[
        str,
        doc(
            "Name of this node in the cluster (`spec.nodeName`). Empty: `node.name`, "
            "else the host name."
        ),
    ] = ""
    resources: Annotated[
        tuple[str, ...],
        doc("Resources of device plugins whose devices are GPUs; * stands for anything."),
    ] = (
        "nvidia.com/gpu",
        "nvidia.com/gpu.shared",
        "nvidia.com/mig-*",
        "amd.com/gpu",
        "gpu.intel.com/i915",
        "gpu.intel.com/xe",
    )
    drivers: Annotated[
        tuple[str, ...], doc("DRA drivers whose devices are GPUs; * stands for anything.")
    ] = ("gpu.nvidia.com", "gpu.amd.com", "gpu.intel.com")
    user_key: Annotated[
        str,
        doc(
            "Where the user's name is that the cluster itself vouches for: annotation:KEY or "
            "label:KEY, set by an admission controller. Empty: pods have no user."
        ),
    ] = ""
    poll_interval_s: Annotated[
        float,
        doc(
            "Seconds from one question to the kubelet to the next, where nothing happens "
            "(a pod's cgroup that comes or goes is a reason to ask at once).",
            ge=0.5,
            le=60,
        ),
    ] = 5.0
    cgroup_root: Annotated[str, doc("Where the node's cgroup file systems are mounted.")] = (
        "/sys/fs/cgroup"
    )
    pod_logs: Annotated[
        str,
        doc(
            "The kubelet's folder of pods' logs, whose names tell the uid of a pod that the API "
            "server has not reported yet. Empty: not looked at."
        ),
    ] = "/var/log/pods"


class Workloads(Section, frozen=True):
    """What is a workload."""

    infrastructure_selectors: Annotated[
        tuple[str, ...],
        doc(
            "Pods that are part of the cluster itself: namespace:NAME, label selectors as kubectl "
            "takes them, or both joined by commas (a label alone is its user's word). A pod that "
            "was given a GPU is a workload nevertheless, unless it holds it for others: slurmd, "
            "and the reservation pods of KAI and Run:ai, selected with their namespace."
        ),
    ] = (
        "namespace:kube-system",
        "namespace:gpu-operator",
        "namespace:nvidia-gpu-operator",
        "namespace:nvidia-device-plugin",
        "namespace:nvidia-dra-driver-gpu",
        "namespace:slurm,app.kubernetes.io/name=slurmd",
        "namespace:slinky,app.kubernetes.io/name=slurmd",
        "namespace:kai-resource-reservation",
        "namespace:runai-reservation",
    )


class Marks(Section, frozen=True):
    """`with joulebook.experiment(...)` and `python -m joulebook.mark`."""

    enabled: Annotated[
        Enabled,
        doc(
            '"auto": where the directory is there, or where this node has no SLURM; true: the '
            "directory is made; false: not used."
        ),
    ] = "auto"
    dir: Annotated[
        str,
        doc("Directory of the mark files. All users write into it (mode 1777, like /tmp)."),
    ] = DIRECTORY
