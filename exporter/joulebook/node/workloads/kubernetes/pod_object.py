"""What the API server says of a pod, boiled down to what is booked, shown and ruled by."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from joulebook.core.experiments import ENVIRONMENT
from joulebook.core.sanitize import clean_label
from joulebook.core.selectors import Selector
from joulebook.core.workloads import WorkloadId
from joulebook.node.workloads.host.cgroup_paths import container_id

_QUEUES = ("kueue.x-k8s.io/queue-name", "volcano.sh/queue-name", "scheduling.volcano.sh/queue-name")
_RUN_OF_CRON = re.compile(r"-\d{8,10}$")
_STATIC = "kubernetes.io/config.hash"


class OwnerReference(msgspec.Struct, frozen=True, gc=False):
    """An ownerReference."""

    kind: str = ""
    name: str = ""
    controller: bool | None = None


class Meta(msgspec.Struct, frozen=True, gc=False, rename="camel"):
    """The metadata of an object, as far as it is read."""

    name: str = ""
    namespace: str = ""
    uid: str = ""
    labels: dict[str, str] | None = None
    annotations: dict[str, str] | None = None
    owner_references: list[OwnerReference] | None = None
    creation_timestamp: str | None = None
    resource_version: str = ""


class Variable(msgspec.Struct, frozen=True, gc=False):
    """A variable of a container; one from a Secret or the like has no literal value."""

    name: str = ""
    value: str | None = None


class Container(msgspec.Struct, frozen=True, gc=False):
    """A container of a pod's specification."""

    name: str = ""
    image: str = ""
    env: list[Variable] | None = None


class Spec(msgspec.Struct, frozen=True, gc=False, rename="camel"):
    """A pod's specification, as far as it is read."""

    node_name: str = ""
    restart_policy: str = ""
    containers: list[Container] | None = None
    init_containers: list[Container] | None = None


class ContainerStatus(msgspec.Struct, frozen=True, gc=False):
    """The state of a container."""

    containerID: str | None = None


class PodStatus(msgspec.Struct, frozen=True, gc=False, rename="camel"):
    """A pod's state."""

    phase: str = ""
    container_statuses: list[ContainerStatus] | None = None
    init_container_statuses: list[ContainerStatus] | None = None


class PodObject(msgspec.Struct, frozen=True, gc=False):
    """A pod as the API server sends it. Everything else that it sends is skipped unread."""

    metadata: Meta = Meta()
    spec: Spec = Spec()
    status: PodStatus = PodStatus()


class PodInfo(msgspec.Struct, frozen=True, gc=False):
    """A pod as the rest of this package knows it: cleaned, and nothing kept that is not used.

    `sources` is what experiment rules go by. `infrastructure`: never a workload. `done`: all of
    its containers have ended for good. `restarts`: a container that ends may be started again.
    `containers` are the ids of its containers (not of its sandbox). `static_uid` is what cgroups
    call a pod that the kubelet made from a file.
    """

    uid: str
    namespace: str
    name: str
    sources: dict[str, str] = {}
    user: str = ""
    infrastructure: bool = False
    done: bool = False
    restarts: bool = False
    containers: frozenset[str] = frozenset()
    static_uid: str = ""
    created: str = ""
    extra: dict[str, str] = {}


class Reader(msgspec.Struct, frozen=True):
    """How pods are read: the experiment rules, what is infrastructure, where a user's name is."""

    rules: tuple[str, ...] = ()
    infrastructure: tuple[Selector, ...] = ()
    user_key: str = ""

    def is_infrastructure(self, namespace: str, labels: Mapping[str, str] | None) -> bool:
        """Whether a pod is part of the cluster itself; without labels its namespace alone tells."""
        return any(each.matches(namespace, labels) for each in self.infrastructure)

    def info(self, pod: PodObject) -> PodInfo:
        """What is kept of a pod."""
        meta, spec, status = pod.metadata, pod.spec, pod.status
        labels, annotations = meta.labels or {}, meta.annotations or {}
        containers = spec.containers or []
        found = {
            **{f"label:{key}": value for key, value in labels.items()},
            **{f"annotation:{key}": value for key, value in annotations.items()},
            **_environment([*containers, *(spec.init_containers or [])]),
            "owner": _owner(meta, labels),
        }
        sources = {rule: clean_label(found[rule]) for rule in self.rules if found.get(rule)}
        states = [*(status.container_statuses or []), *(status.init_container_statuses or [])]
        return PodInfo(
            uid=meta.uid,
            namespace=clean_label(meta.namespace),
            name=clean_label(meta.name, 256),
            sources={rule: value for rule, value in sources.items() if value},
            user=clean_label(found.get(self.user_key, "")) if self.user_key else "",
            infrastructure=self.is_infrastructure(meta.namespace, labels),
            done=status.phase in {"Succeeded", "Failed"},
            restarts=spec.restart_policy in {"Always", "OnFailure"},
            containers=frozenset(container_id(each.containerID or "") for each in states) - {""},
            static_uid=annotations.get(_STATIC, ""),
            created=meta.creation_timestamp or "",
            extra=_extra(meta, containers, labels),
        )


def workload_id(name: str, uid: str) -> WorkloadId:
    """The identity of a pod."""
    return WorkloadId("kubernetes", f"{name}.{uid[:8]}")


def _environment(containers: Iterable[Container]) -> dict[str, str]:
    """The literal values of variables on the allow-list; the first container's stands."""
    found: dict[str, str] = {}
    for container in containers:
        for variable in container.env or []:
            if variable.name in ENVIRONMENT and variable.value:
                found.setdefault(f"env:{variable.name}", variable.value)
    return found


def _controller(meta: Meta) -> OwnerReference | None:
    owners = [owner for owner in meta.owner_references or [] if owner.controller]
    return owners[0] if owners and owners[0].kind != "Node" else None


def _owner(meta: Meta, labels: Mapping[str, str]) -> str:
    """The controller's name, as a person gave it: without what Deployments and CronJobs add."""
    owner = _controller(meta)
    if owner is None:
        return ""
    if owner.kind == "ReplicaSet":
        return owner.name.removesuffix("-" + labels.get("pod-template-hash", "-"))
    if owner.kind == "Job":
        return _RUN_OF_CRON.sub("", owner.name)
    return owner.name


def _extra(
    meta: Meta, containers: Sequence[Container], labels: Mapping[str, str]
) -> dict[str, str]:
    owner = _controller(meta)
    said: dict[str, Any] = {
        "image": containers[0].image if containers else "",
        "owner": f"{owner.kind}/{owner.name}" if owner else "",
        "partition": next((labels[key] for key in _QUEUES if labels.get(key)), ""),
    }
    return {name: clean_label(value, 256) for name, value in said.items() if value}
