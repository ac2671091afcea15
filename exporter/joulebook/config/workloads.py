"""Keys for Kubernetes, processes and marks (docs/in-code.md)."""

from typing import Annotated, Literal

from joulebook.config.load import AUTO, Enabled, Section, doc
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
"""Programs that serve everyone on a machine."""


class Processes(Section, frozen=True):
    """Processes outside any scheduler: containers, services, login sessions."""

    enabled: Annotated[
        Enabled,
        doc(
            '"auto": used where GPUs are read and the driver\'s PIDs are those visible here; '
            "true: required; false: such processes are booked to `unknown_holder`."
        ),
    ] = "auto"
    infrastructure: Annotated[
        tuple[str, ...],
        doc(
            "Programs that are never workloads: display servers, driver daemons, monitoring. A "
            "program counts as one if a system user runs it outside containers, or if the driver "
            "lists it for graphics only."
        ),
    ] = INFRASTRUCTURE
    pid_namespace: Annotated[
        Literal["auto", "host"],
        doc(
            '"auto": if `host.proc` does not show the host\'s processes (a container without '
            "hostPID and without the host's /proc), the daemon does not look up the owners of "
            'processes, since PIDs differ there; "host": treat PIDs as the host\'s.'
        ),
    ] = "auto"


class Kubernetes(Section, frozen=True):
    """Kubernetes pods."""

    enabled: Annotated[Enabled, doc(AUTO)] = "auto"
    pod_resources: Annotated[str, doc("Socket of the kubelet's PodResources API.")] = (
        "/var/lib/kubelet/pod-resources/kubelet.sock"
    )
    api: Annotated[bool, doc("Get the labels of this node's pods from the API server.")] = True
    service_account: Annotated[
        str,
        doc("Directory with `token` and `ca.crt` for the API server, re-read when renewed."),
    ] = "/var/run/secrets/kubernetes.io/serviceaccount"
    kubeconfig: Annotated[
        str,
        doc("Path of a kubeconfig to use instead (costs about 15 MiB of memory). Empty: none."),
    ] = ""
    node_name: Annotated[
        str,
        doc(
            "This node's name in the cluster (`spec.nodeName`). Empty: `node.name`, else the "
            "host name."
        ),
    ] = ""
    resources: Annotated[
        tuple[str, ...],
        doc("Device plugin resources that are GPUs; * matches anything."),
    ] = (
        "nvidia.com/gpu",
        "nvidia.com/gpu.shared",
        "nvidia.com/mig-*",
        "amd.com/gpu",
        "gpu.intel.com/i915",
        "gpu.intel.com/xe",
    )
    drivers: Annotated[
        tuple[str, ...], doc("DRA drivers whose devices are GPUs; * matches anything.")
    ] = ("gpu.nvidia.com", "gpu.amd.com", "gpu.intel.com")
    user_key: Annotated[
        str,
        doc(
            "Where pods carry a trusted user name: annotation:KEY or label:KEY, set by an "
            "admission controller. Empty: pods have no user."
        ),
    ] = ""
    poll_interval_s: Annotated[
        float,
        doc(
            "Seconds between polls of the kubelet while nothing happens; a pod cgroup that "
            "appears or disappears triggers one at once.",
            ge=0.5,
            le=60,
        ),
    ] = 5.0
    cgroup_root: Annotated[str, doc("Mount point of the node's cgroup file systems.")] = (
        "/sys/fs/cgroup"
    )
    pod_logs: Annotated[
        str,
        doc(
            "The kubelet's directory of pod logs; its entries name the UID of a pod that the API "
            "server has not reported yet. Empty: not used."
        ),
    ] = "/var/log/pods"


class Workloads(Section, frozen=True):
    """What counts as a workload."""

    infrastructure_selectors: Annotated[
        tuple[str, ...],
        doc(
            "Pods that belong to the cluster itself: namespace:NAME, a label selector in "
            "kubectl's syntax, or both joined by commas (a label alone can be set by any user). "
            "A pod with an allocated GPU is still a workload, unless it holds the GPU for "
            "others: slurmd and the reservation pods of KAI and Run:ai, selected with their "
            "namespace."
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
            '"auto": used where the directory exists, or where this node has no SLURM; true: the '
            "directory is created; false: off."
        ),
    ] = "auto"
    dir: Annotated[
        str,
        doc("Directory of the mark files. All users write to it (mode 1777, like /tmp)."),
    ] = DIRECTORY
