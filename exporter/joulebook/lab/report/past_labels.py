"""Which device, node, pod and target a series of another exporter's is of, by its labels.

They are as the exporter writes them, or as a Prometheus that lets its own labels win renames them
(`exported_pod`); nodes are called as the first of several labels says.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from joulebook.core.energy.readings import Component
from joulebook.core.report.past import Device, ForeignMetric
from joulebook.core.sanitize import clean

_CHARS = 200
_NODES = (
    "node",
    "Node",
    "kubernetes_node",
    "node_name",
    "nodename",
    "Hostname",
    "exported_instance",
)
_DEVICES = ("UUID", "uuid", "gpu_uuid", "gpu", "index", "path")
_ZONES = {"package": Component.CPU, "dram": Component.DRAM}
_OF_DEVICE = frozenset(
    {"__name__", *_NODES, *_DEVICES, "device", "modelName", "name", "gpu_name", "pci_bus_id",
     "pod", "namespace", "container", "exported_pod", "exported_namespace", "exported_container",
     "pod_name", "pod_namespace", "pod_id", "container_name", "container_namespace",
     "container_id", "GPU_I_ID", "GPU_I_PROFILE", "zone", "mode", "state", "pod_uid", "vendor"}
)  # fmt: skip
"""Labels that do not tell targets apart, with `DCGM_FI_*`."""
_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-", re.IGNORECASE)
_EXPORTERS = re.compile(r"(dcgm|gpu)-?exporter|kepler", re.IGNORECASE)


def device_of(labels: Mapping[str, str], kind: ForeignMetric) -> Device | None:
    """Return what a series is of; `None`: of a part that is within another one."""
    component = kind.component
    if "zone" in labels:
        zone = _ZONES.get(labels["zone"].partition("-")[0])
        if zone is None or (kind.by_pod and zone is not component):
            return None
        component = zone
    name = next((labels[each] for each in _DEVICES if labels.get(each)), "*")
    if kind.exporter == "Kepler":
        name = "/".join(filter(None, (name, labels.get("mode", ""))))
    if kind.by_pod:
        name = "/".join((name, holder_of(labels), labels.get("container_name", "")))
    if component is Component.GPU and _UUID.search(name):
        # dcgm-exporter writes `GPU-...`, nvidia_gpu_exporter without that.
        name = f"GPU-{name.removeprefix('GPU-').lower()}"
    return Device(_node(labels), component, clean(name, _CHARS))


def homes(
    series: Iterable[tuple[Device, Mapping[str, str]]],
) -> dict[str, str]:
    """Return the node of each UUID: targets may call one node differently, the best name counts."""
    found: dict[str, tuple[int, str]] = {}
    for device, labels in series:
        if _UUID.search(device.name):
            rank = next((n for n, each in enumerate(_NODES) if labels.get(each)), len(_NODES))
            found[device.name] = min(
                found.get(device.name, (rank, device.node)), (rank, device.node)
            )
    return {name: node for name, (_, node) in found.items()}


def _node(labels: Mapping[str, str]) -> str:
    name = next((labels[each] for each in _NODES if labels.get(each)), "")
    if not name:
        host, colon, port = labels.get("instance", "").rpartition(":")
        name = host if colon and port.isdecimal() else labels.get("instance", "")
    cluster = labels.get("cluster", "")
    return clean(f"{cluster}/{name}" if cluster else name, _CHARS)


def short(node: str) -> str:
    """Return a node's name as SLURM has it: without cluster and domain."""
    name = node.rpartition("/")[2]
    return name if name.replace(".", "").isdecimal() else name.partition(".")[0]


def holder_of(labels: Mapping[str, str]) -> str:
    """Return `namespace/pod` where a series names the pod that held its device."""
    for namespace, pod in (
        ("exported_namespace", "exported_pod"),
        ("pod_namespace", "pod_name"),
        ("container_namespace", "pod_name"),
        ("namespace", "pod"),
    ):
        name = labels.get(pod, "")
        # Where labels of the target win, `pod` is the exporter's own.
        if name and namespace in labels and not _EXPORTERS.search(name):
            return clean(f"{labels[namespace]}/{name}", _CHARS)
    return ""


def target_of(labels: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """Return what tells apart the targets that scrape one device, by job, instance or replica."""
    return tuple(
        sorted(
            (name, value)
            for name, value in labels.items()
            if name not in _OF_DEVICE and not name.startswith("DCGM_FI_")
        )
    )
