"""What is kept of a pod as the API server sends it."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from joulebook.core.experiments import DEFAULT_RULES, choose
from joulebook.core.selectors import parse
from joulebook.core.workloads import WorkloadId
from joulebook.node.workloads.kubernetes.pod_object import PodInfo, PodObject, Reader, workload_id

READER = Reader(DEFAULT_RULES, (parse("app=monitor"),), "annotation:example.org/user")


def info(reader: Reader = READER, **given: dict[str, Any]) -> PodInfo:
    meta = {"name": "p", "namespace": "team-a", "uid": "0a1b2c3d-x", **given.pop("metadata", {})}
    spec = {
        "nodeName": "n1",
        "containers": [{"name": "c", "image": "i:1"}],
        **given.pop("spec", {}),
    }
    raw = {"metadata": meta, "spec": spec, "status": {"phase": "Running"}, "ignored": 1, **given}
    return reader.info(msgspec.json.decode(json.dumps(raw).encode(), type=PodObject))


def experiment(**given: Any) -> str:
    return choose(DEFAULT_RULES, info(**given).sources)


def owned(kind: str, name: str, **labels: str) -> dict[str, Any]:
    owners = [
        {"kind": "Other", "name": "not-the-controller"},
        {"kind": kind, "name": name, "controller": True},
    ]
    return {"metadata": {"ownerReferences": owners, "labels": labels}}


def test_identity() -> None:
    assert workload_id("train", "0a1b2c3d-9999") == WorkloadId("kubernetes", "train.0a1b2c3d")


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ({"batch.kubernetes.io/job-name": "train"}, "train"),
        ({"job-name": "old-train"}, "old-train"),
        ({"batch.kubernetes.io/job-name": "nightly-eval-29933747"}, "nightly-eval"),
        ({"job-name": "nightly-eval-29933747"}, "nightly-eval"),
        ({"jobset.sigs.k8s.io/jobset-name": "set", "batch.kubernetes.io/job-name": "set-w-0"},
         "set"),
        ({"training.kubeflow.org/job-name": "ddp"}, "ddp"),
        ({"ray.io/cluster": "tune-raycluster-x", "app.kubernetes.io/part-of": "p"},
         "tune-raycluster-x"),
        ({"ray.io/originated-from-cr-name": "tune", "ray.io/cluster": "tune-x7k"}, "tune"),
        ({"volcano.sh/job-name": "v"}, "v"),
        ({"kueue.x-k8s.io/queue-name": "gpu-queue", "batch.kubernetes.io/job-name": "j"}, "j"),
        ({"kueue.x-k8s.io/queue-name": "gpu-queue"}, "gpu-queue"),
        ({"joulebook.io/experiment": "mine", "batch.kubernetes.io/job-name": "j"}, "mine"),
        ({}, ""),
    ],
)  # fmt: skip
def test_operators_name_experiments_by_labels(labels: dict[str, str], expected: str) -> None:
    assert experiment(metadata={"labels": labels}) == expected


def test_an_annotation_goes_before_a_label_and_both_before_the_environment() -> None:
    env = [{"name": "JOULEBOOK_EXPERIMENT", "value": "e"}, {"name": "WANDB_PROJECT", "value": "w"}]
    spec = {"containers": [{"name": "c", "env": env}]}
    key = "joulebook.io/experiment"
    assert experiment(spec=spec) == "e"
    assert experiment(spec=spec, metadata={"labels": {key: "l"}}) == "l"
    both = {"labels": {key: "l"}, "annotations": {key: "a"}}
    assert experiment(spec=spec, metadata=both) == "a"


def test_only_literal_variables_of_the_list_are_read() -> None:
    env = [
        {"name": "PASSWORD", "value": "hunter2"},
        {"name": "WANDB_API_KEY", "value": "secret"},
        {"name": "MLFLOW_EXPERIMENT_NAME", "valueFrom": {"secretKeyRef": {"name": "s"}}},
    ]
    found = info(spec={"containers": [{"name": "c", "env": env}]})
    assert found.sources == {}
    assert "hunter2" not in repr(found)
    assert "secret" not in repr(found)


@pytest.mark.parametrize(
    ("owner", "expected"),
    [
        (owned("StatefulSet", "db"), "db"),
        (owned("ReplicaSet", "web-7d9c8b6f5", **{"pod-template-hash": "7d9c8b6f5"}), "web"),
        (owned("Job", "nightly-29384756"), "nightly"),
        (owned("Job", "train-2"), "train-2"),
        (owned("Node", "n1"), ""),
    ],
)
def test_the_owner_by_the_name_that_a_person_gave(owner: dict[str, Any], expected: str) -> None:
    assert experiment(**owner) == expected


def test_a_user_comes_from_the_configured_key_alone() -> None:
    said = {"annotations": {"example.org/user": "ada"}, "labels": {"user": "eve"}}
    assert info(metadata=said).user == "ada"
    assert info(Reader(DEFAULT_RULES), metadata=said).user == ""


def test_what_else_is_kept() -> None:
    status = {
        "phase": "Succeeded",
        "containerStatuses": [{"containerID": "containerd://" + "ab" * 32}],
        "initContainerStatuses": [{"containerID": None}, {}],
    }
    found = info(
        status=status,
        metadata={
            "labels": {"app": "monitor", "kueue.x-k8s.io/queue-name": "q"},
            "annotations": {
                "kubernetes.io/config.hash": "cd" * 16,
                "kubernetes.io/config.mirror": "cd" * 16,
            },
            "ownerReferences": [{"kind": "Node", "name": "n1", "controller": True}],
        },
    )
    assert found.done
    assert found.infrastructure
    assert found.containers == {"ab" * 32}
    assert found.static_uid == "cd" * 16
    assert found.extra == {"image": "i:1", "partition": "q"}


def test_hostile_names_are_cleaned() -> None:
    found = info(metadata={"labels": {"joulebook.io/experiment": 'a"b\n\x00\u202e' + "x" * 500}})
    said = found.sources["label:joulebook.io/experiment"]
    assert said.startswith('a"b x')
    assert len(said) == 128


def test_an_empty_object_is_no_error() -> None:
    assert READER.info(msgspec.json.decode(b"{}", type=PodObject)).uid == ""


def test_a_stage_is_kept_whatever_the_rules_of_experiments() -> None:
    key = "joulebook.io/stage"
    env = [{"name": "JOULEBOOK_STAGE", "value": "SFT"}]
    found = info(Reader(), metadata={"labels": {key: "RL"}}, spec={"containers": [{"env": env}]})
    assert found.sources == {f"label:{key}": "RL", "env:JOULEBOOK_STAGE": "SFT"}


@pytest.mark.parametrize(
    ("status", "outcome"),
    [
        ({"phase": "Running"}, ""),
        ({"phase": "Succeeded"}, "completed"),
        ({"phase": "Failed"}, "failed"),
        ({"phase": "Failed", "reason": "Evicted"}, "preempted"),
    ],
)
def test_how_a_pod_ended(status: dict[str, Any], outcome: str) -> None:
    assert info(status=status).outcome == outcome
