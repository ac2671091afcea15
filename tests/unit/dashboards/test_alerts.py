"""What the tests of promtool hold of each alert: it fires, it ends, and normal life is silent."""

from __future__ import annotations

import re
from typing import Any

import pytest
import yaml
from tests.lab.grafana import ROOT

RULES = ROOT / "dashboards/rules"
ALERTS = {
    rule["alert"]: rule["expr"]
    for group in yaml.safe_load((RULES / "alerts.rules.yaml").read_text())["groups"]
    for rule in group["rules"]
}
TESTS = {
    test["name"].partition(",")[0]: test
    for test in yaml.safe_load((RULES / "tests/alerts.test.yaml").read_text())["tests"]
}
ALERT = pytest.mark.parametrize("name", sorted(ALERTS))


def _minutes(text: str) -> int:
    return int(text[:-1]) * {"m": 1, "h": 60}[text[-1]]


def _asked(name: str) -> list[dict[str, Any]]:
    """What is expected of the alert while it is not only pending, by name."""
    firing = f'ALERTS{{alertname="{name}",alertstate="firing"}}'
    asked = [each for each in TESTS[name]["promql_expr_test"] if firing in each["expr"]]
    assert all(each["exp_samples"] for each in asked)
    return [each for each in asked if "count(" not in each["expr"]]  # a count has no labels


def test_each_alert_has_a_test_and_each_test_an_alert() -> None:
    assert TESTS.keys() == ALERTS.keys()


@ALERT
def test_it_fires_in_its_own_case_and_beside_it_not(name: str) -> None:
    assert any("good" in given["series"] for given in TESTS[name]["input_series"])
    asked = _asked(name)
    assert asked
    for each in asked:
        assert all("bad" in sample["labels"] for sample in each["exp_samples"])


@ALERT
def test_it_ends_when_its_cause_does(name: str) -> None:
    """Nothing of it is left then, not even pending."""
    fired = [_minutes(each["eval_time"]) for each in _asked(name)]
    over = [
        _minutes(each["eval_time"])
        for each in TESTS[name]["promql_expr_test"]
        if f'ALERTS{{alertname="{name}"}}' in each["expr"] and not each["exp_samples"]
    ]
    assert over
    assert max(over) > max(fired)


@ALERT
def test_normal_life_has_all_that_it_reads(name: str) -> None:
    """Else it would be silent for want of data."""
    (life,) = yaml.safe_load((RULES / "tests/normal_life.test.yaml").read_text())["tests"]
    (asked,) = life["promql_expr_test"]
    assert (asked["expr"], asked["exp_samples"]) == (
        'count by (alertname) (count_over_time(ALERTS{alertstate="firing"}[8h]))', [],
    )  # fmt: skip
    there = {given["series"].partition("{")[0] for given in life["input_series"]}
    patterns = re.findall(r'__name__=~"([^"]+)"', ALERTS[name])
    patterns += re.findall(
        r"\b(?:joulebook_|budget:|kube_|DCGM_)[\w:]+\b(?![(|])|\bup\b", ALERTS[name]
    )
    assert patterns
    for pattern in patterns:
        assert any(re.fullmatch(pattern, metric) for metric in there), pattern
