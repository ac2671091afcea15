"""Label selectors: what kubectl takes, and what is refused."""

from __future__ import annotations

import pytest

from joulebook.config.node import Workloads
from joulebook.core.selectors import parse

LABELS = {"app": "web", "tier": "a", "app.kubernetes.io/name": "slurmd", "empty": ""}


@pytest.mark.parametrize(
    ("text", "matches"),
    [
        ("app=web", True),
        ("app==web", True),
        ("app = web, tier=a", True),
        ("app=web,tier=b", False),
        ("app!=web", False),
        ("missing!=web", True),
        ("app in (db, web)", True),
        ("app in (db)", False),
        ("app notin (db, web)", False),
        ("missing notin (db)", True),
        ("missing in (db)", False),
        ("app.kubernetes.io/name", True),
        ("!app", False),
        ("!missing", True),
        ("empty=", True),
        ("app in (db, web),tier notin (b),!missing", True),
        ("namespace:team-a", True),
        ("namespace:team-b", False),
        ("namespace:team-a,app=web", True),
        ("app=web, namespace:team-a", True),
        ("namespace:team-a,app=db", False),
        ("namespace:team-b,app=web", False),
    ],
)
def test_what_a_selector_means(text: str, matches: bool) -> None:
    assert parse(text).matches("team-a", LABELS) is matches


def test_without_labels_only_a_namespace_can_be_told() -> None:
    assert parse("namespace:team-a").matches("team-a", None)
    assert not parse("!app").matches("team-a", None)
    assert not parse("app=web").matches("team-a", None)
    assert not parse("namespace:team-a,app=web").matches("team-a", None)


@pytest.mark.parametrize(
    "text",
    [
        "", "a=b,", "in (a)", "a in b", "a in (b", "=b", "a=b=c", "a>1", "namespace:", "a=b c",
        "namespace:a,", "namespace:A,app=b",
    ],
)  # fmt: skip
def test_what_is_none(text: str) -> None:
    with pytest.raises(ValueError, match="expected"):
        parse(text)


def test_the_defaults_know_what_runs_beside_workloads() -> None:
    selectors = [parse(text) for text in Workloads().infrastructure_selectors]

    def never(namespace: str, **labels: str) -> bool:
        named = {key.replace("__", "/").replace("_", "."): value for key, value in labels.items()}
        return any(selector.matches(namespace, named) for selector in selectors)

    assert never("kube-system")
    assert never("slurm", app_kubernetes_io__name="slurmd")
    assert never("gpu-operator", app="nvidia-dcgm-exporter")
    assert not never("team-a", app="train", app_kubernetes_io__name="pytorch")


@pytest.mark.parametrize("name", ["nvidia-dcgm", "slurmd", "dcgm-exporter", "joulebook"])
def test_no_label_alone_makes_a_users_pod_part_of_the_cluster(name: str) -> None:
    selectors = [parse(text) for text in Workloads().infrastructure_selectors]
    labels = {"app": name, "app.kubernetes.io/name": name}
    assert not any(selector.matches("team-a", labels) for selector in selectors)


def test_a_pod_is_in_one_namespace() -> None:
    with pytest.raises(ValueError, match="one namespace only"):
        parse("namespace:a,namespace:b")
