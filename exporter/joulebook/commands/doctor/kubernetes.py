"""Checks of Kubernetes: whether pods' devices and names are known."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from joulebook.commands.doctor.checks import Check, Finding, Site, fail, nothing, ok, warn
from joulebook.commands.shared.text import several
from joulebook.core.selectors import parse
from joulebook.kubernetes_api.server import ApiError, ApiServer, body
from joulebook.kubernetes_api.watch import LIST_READ_S
from joulebook.node.workloads.kubernetes.cgroups import log_folders
from joulebook.node.workloads.kubernetes.device_ids import KubeletError
from joulebook.node.workloads.kubernetes.informer import REMEDIES, pods_of

_NODE = "JOULEBOOK_NODE_NAME"


def is_here(site: Site) -> bool:
    """Return whether pods should be booked here: configured, or there is a kubelet."""
    kubernetes = site.config.tenants.kubernetes
    if kubernetes.enabled != "auto":
        return bool(kubernetes.enabled)
    return site.at(kubernetes.pod_resources).parent.exists()


def kubelet(site: Site) -> Iterator[Finding]:
    """Check that the kubelet reports which pod holds which device."""
    kubernetes = site.config.tenants.kubernetes
    if not is_here(site):
        yield nothing("no Kubernetes here (no pod-resources directory)")
        return
    # Ten megabytes that only nodes with a kubelet should pay.
    from joulebook.node.workloads.kubernetes.kubelet import Kubelet  # noqa: PLC0415

    client = Kubelet(site.at(kubernetes.pod_resources), timeout_s=min(10.0, site.patience_s))
    try:
        pods = client.pods()
        held = sum(len(pod.devices) for pod in pods)
        yield ok(
            f"kubelet: {kubernetes.pod_resources} answers: {several(len(pods), 'pod')}, "
            f"{several(held, 'device')} held"
        )
        offered = client.advertised()
    except KubeletError as error:
        yield fail(f"kubelet: {error}: unknown which pod holds which GPU", error.remedy)
        return
    finally:
        client.close()
    resources = sorted({device.resource for device in offered})
    if resources:
        yield ok(f"device plugins offer {', '.join(resources)}")
    else:
        yield warn(
            "no device plugin offers anything on this node",
            "If pods should get GPUs, install NVIDIA's device plugin or DRA driver.",
        )


def cgroups(site: Site) -> Iterator[Finding]:
    """Check that pod cgroups are visible, which show starts and ends at once."""
    if not is_here(site):
        return
    root = site.at(site.config.tenants.kubernetes.cgroup_root)
    patterns = ("kubepods*", "*/kubepods*", "kubelet*/*kubepods*", "*/kubelet*/*kubepods*")
    found = sorted({path for pattern in patterns for path in root.glob(pattern)})
    if found:
        yield ok(f"cgroups of pods: {found[0]}")
    else:
        yield warn(
            f"cgroups of pods: no kubepods below {root}: starts and ends of pods are only known "
            f"to within {site.config.tenants.kubernetes.poll_interval_s:g} s, and processes "
            "cannot be matched to pods",
            "Mount the node's /sys/fs/cgroup into the daemon's pod (read-only), or set "
            "tenants.kubernetes.cgroup_root.",
        )


def names(site: Site) -> Iterator[Finding]:
    """Check that pods get their names and labels."""
    kubernetes = site.config.tenants.kubernetes
    if not is_here(site):
        return
    node = site.config.kubernetes_node()
    if not kubernetes.node_name and not site.config.node.name:
        yield warn(
            f"node name: {_NODE} is not set; using the host name {node}",
            f"Set {_NODE} from spec.nodeName (downward API), as the Helm chart does.",
        )
    folders = log_folders(site.at(kubernetes.pod_logs)) if kubernetes.pod_logs else []
    if folders:
        yield ok(f"log directories: {several(len(folders), 'pod')} named in {kubernetes.pod_logs}")
    if not kubernetes.api:
        said = "API server: off by configuration: experiments are the pods' own names"
        if folders:
            yield nothing(said)
        else:
            yield fail(
                f"{said}, and nothing gives their UIDs",
                f"Mount {kubernetes.pod_logs or '/var/log/pods'} into the daemon's pod "
                "(read-only).",
            )
        return
    yield from _api(site, node, Path(kubernetes.service_account), kubernetes.kubeconfig)


def selectors(site: Site) -> Iterator[Finding]:
    """Check that infrastructure is not selected by labels alone, which any user can set."""
    if not is_here(site):
        return
    for text in site.config.workloads.infrastructure_selectors:
        if not parse(text).namespace:
            yield warn(
                f"workloads.infrastructure_selectors: {text!r} names no namespace: any user can "
                "hide a pod's host energy by setting that label",
                f"Use namespace:NAME,{text}, once per namespace.",
            )


def _api(site: Site, node: str, account: Path, kubeconfig: str) -> Iterator[Finding]:
    server = ApiServer(site.at(account), Path(kubeconfig) if kubeconfig else None)
    collection = pods_of(node)
    path = collection.paths[0]
    query = {**collection.query, "resourceVersion": "0", "limit": "1"}
    try:
        answer = server.get(path, query, read_s=min(LIST_READ_S, site.patience_s))
        size = len(body(path, answer))
    except ApiError as error:
        yield fail(
            f"API server: {error}: pods have neither labels nor experiments",
            REMEDIES.get(error.reason, "See the API server's log."),
        )
        return
    yield ok(f"API server: lists the pods of {node} ({size} bytes)")


CHECKS: tuple[Check, ...] = (kubelet, cgroups, names, selectors)
