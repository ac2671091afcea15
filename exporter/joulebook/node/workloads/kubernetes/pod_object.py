"""Reduce the API server's pod object to what is booked, exposed and used by rules."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

import msgspec

from joulebook.core.experiments import STAGE_RULES, VARIABLES
from joulebook.core.sanitize import clean_label
from joulebook.core.selectors import Selector
from joulebook.core.workloads import WorkloadId
from joulebook.node.workloads.host.cgroup_paths import container_id
from joulebook.units import NS_PER_S

SCHEDULER = "kubernetes"
"""Of the identity of pods."""

_QUEUES = ("kueue.x-k8s.io/queue-name", "volcano.sh/queue-name", "scheduling.volcano.sh/queue-name")
_RUN_OF_CRON = re.compile(r"-\d{8,10}$")
_OF_JOB = {"batch.kubernetes.io/job-name", "job-name"}
_STAND_INS = {"slurmd", "kai-resource-reservation", "runai-reservation"}
"""Pods of these names, by namespace or label, were given GPUs for others to use: for SLURM's jobs,
or for the pods that KAI or Run:ai lets share a card. Any other pod that holds a GPU uses it."""

_STATIC, _MIRROR = "kubernetes.io/config.hash", "kubernetes.io/config.mirror"
_STATIC_UID = re.compile(r"[0-9a-f]{32}")
"""The form of UIDs of static pods, which no other pod's UID has."""


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
    containers: list[Container] | None = None
    init_containers: list[Container] | None = None


class Terminated(msgspec.Struct, frozen=True, gc=False, rename="camel"):
    """The end of a container."""

    finished_at: str | None = None


class ContainerState(msgspec.Struct, frozen=True, gc=False):
    """What a container is doing."""

    terminated: Terminated | None = None


class ContainerStatus(msgspec.Struct, frozen=True, gc=False):
    """The state of a container."""

    containerID: str | None = None
    state: ContainerState | None = None


class PodStatus(msgspec.Struct, frozen=True, gc=False, rename="camel"):
    """A pod's state."""

    phase: str = ""
    reason: str = ""
    start_time: str | None = None
    container_statuses: list[ContainerStatus] | None = None
    init_container_statuses: list[ContainerStatus] | None = None


class PodObject(msgspec.Struct, frozen=True, gc=False):
    """A pod as the API server sends it. Everything else that it sends is skipped unread."""

    metadata: Meta = Meta()
    spec: Spec = Spec()
    status: PodStatus = PodStatus()


class PodInfo(msgspec.Struct, frozen=True, gc=False):
    """A pod as the rest of this package knows it: cleaned, and nothing kept that is not used.

    Attributes:
        sources: What experiment rules go by.
        infrastructure: It is part of the cluster itself.
        stand_in: It holds GPUs for others (slurmd, a reservation of a scheduler).
        done: All of its containers have ended for good.
        outcome: How it ended (`WorkloadFacts.outcome`); empty: not known.
        containers: The ids of its containers (not of its sandbox).
        static_uid: What cgroups call it, if the kubelet made it from a file.
        started_utc_ns: When the kubelet took it, to the second (0: not reported).
        finished_utc_ns: When the last container of a pod that is done ended, to the second.

    """

    uid: str
    namespace: str
    name: str
    sources: dict[str, str] = {}
    user: str = ""
    infrastructure: bool = False
    stand_in: bool = False
    done: bool = False
    outcome: str = ""
    containers: frozenset[str] = frozenset()
    static_uid: str = ""
    created: str = ""
    started_utc_ns: int = 0
    finished_utc_ns: int = 0
    extra: dict[str, str] = {}


class Reader(msgspec.Struct, frozen=True):
    """How pods are read: experiment rules, infrastructure selectors, the user's key."""

    rules: tuple[str, ...] = ()
    infrastructure: tuple[Selector, ...] = ()
    user_key: str = ""

    def is_infrastructure(self, namespace: str, labels: Mapping[str, str] | None) -> bool:
        """Return whether a pod is part of the cluster itself; without labels, by its namespace
        alone.
        """
        return any(each.matches(namespace, labels) for each in self.infrastructure)

    def is_stand_in(self, namespace: str, labels: Mapping[str, str] | None) -> bool:
        """Return whether a pod holds GPUs for others; without labels, by its namespace alone."""
        return any(
            each.namespace == namespace and (labels is None or each.matches(namespace, labels))
            for each in self.infrastructure
            if _STAND_INS & each.names
        )

    def info(self, pod: PodObject) -> PodInfo:
        """Return what is kept of a pod."""
        meta, spec, status = pod.metadata, pod.spec, pod.status
        labels, annotations = meta.labels or {}, meta.annotations or {}
        containers = spec.containers or []
        found = {
            **{f"label:{key}": _by_person(key, value) for key, value in labels.items()},
            **{f"annotation:{key}": value for key, value in annotations.items()},
            **_environment([*containers, *(spec.init_containers or [])]),
            "owner": _owner(meta, labels),
        }
        sources = {
            rule: clean_label(found[rule])
            for rule in (*self.rules, *STAGE_RULES)
            if found.get(rule)
        }
        states = [*(status.container_statuses or []), *(status.init_container_statuses or [])]
        return PodInfo(
            uid=meta.uid,
            namespace=clean_label(meta.namespace),
            name=clean_label(meta.name, 256),
            sources={rule: value for rule, value in sources.items() if value},
            user=clean_label(found.get(self.user_key, "")) if self.user_key else "",
            infrastructure=self.is_infrastructure(meta.namespace, labels),
            stand_in=self.is_stand_in(meta.namespace, labels),
            done=status.phase in {"Succeeded", "Failed"},
            outcome=_outcome(status),
            containers=frozenset(container_id(each.containerID or "") for each in states) - {""},
            static_uid=_static_uid(meta, annotations),
            created=meta.creation_timestamp or "",
            started_utc_ns=_utc_ns(status.start_time),
            finished_utc_ns=max((_finished_utc_ns(each) for each in states), default=0),
            extra=_extra(meta, containers, labels),
        )


def workload_id(name: str, uid: str) -> WorkloadId:
    """Return the identity of a pod."""
    return WorkloadId(SCHEDULER, f"{name}.{uid[:8]}")


def _environment(containers: Iterable[Container]) -> dict[str, str]:
    """Return the literal values of allowed variables; the first container's win."""
    found: dict[str, str] = {}
    for container in containers:
        for variable in container.env or []:
            if variable.name in VARIABLES and variable.value:
                found.setdefault(f"env:{variable.name}", variable.value)
    return found


_EVICTIONS = {"Evicted", "Preempting", "NodeShutdown", "Terminated"}
"""Reasons by which the cluster ended a pod, not the program in it."""


def _outcome(status: PodStatus) -> str:
    if status.phase == "Failed" and status.reason in _EVICTIONS:
        return "preempted"
    return {"Succeeded": "completed", "Failed": "failed"}.get(status.phase, "")


def _static_uid(meta: Meta, annotations: Mapping[str, str]) -> str:
    """Return the uid that the kubelet gave a static pod, of which this is the mirror.

    Users can write the annotations too, but never such a uid of another pod: those of pods that
    the API server made have dashes.
    """
    mirrors = any(owner.kind == "Node" for owner in meta.owner_references or [])
    uid = annotations.get(_STATIC, "")
    return uid if mirrors and _MIRROR in annotations and _STATIC_UID.fullmatch(uid) else ""


def _utc_ns(said: str | None) -> int:
    """Nanoseconds since the epoch of an instant as the API server writes it; 0 if it is none."""
    try:
        return round(datetime.fromisoformat(said or "").timestamp()) * NS_PER_S
    except (ValueError, OverflowError):
        return 0


def _finished_utc_ns(status: ContainerStatus) -> int:
    state = status.state
    return _utc_ns(state.terminated.finished_at) if state and state.terminated else 0


def _controller(meta: Meta) -> OwnerReference | None:
    owners = [owner for owner in meta.owner_references or [] if owner.controller]
    return owners[0] if owners and owners[0].kind != "Node" else None


def _owner(meta: Meta, labels: Mapping[str, str]) -> str:
    """Return the controller's name without what Deployments and CronJobs add."""
    owner = _controller(meta)
    if owner is None:
        return ""
    if owner.kind == "ReplicaSet":
        return owner.name.removesuffix("-" + labels.get("pod-template-hash", "-"))
    if owner.kind == "Job":
        return _RUN_OF_CRON.sub("", owner.name)
    return owner.name


def _by_person(key: str, value: str) -> str:
    """Return a label's value without the number that a CronJob adds to its Jobs."""
    return _RUN_OF_CRON.sub("", value) if key in _OF_JOB else value


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
