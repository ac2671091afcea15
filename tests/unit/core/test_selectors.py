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
    ],
)
def test_what_a_selector_means(text: str, matches: bool) -> None:
    assert parse(text).matches("team-a", LABELS) is matches


def test_without_labels_only_a_namespace_can_be_told() -> None:
    assert parse("namespace:team-a").matches("team-a", None)
    assert not parse("!app").matches("team-a", None)
    assert not parse("app=web").matches("team-a", None)


@pytest.mark.parametrize(
    "text", ["", "a=b,", "in (a)", "a in b", "a in (b", "=b", "a=b=c", "a>1", "namespace:", "a=b c"]
)
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
