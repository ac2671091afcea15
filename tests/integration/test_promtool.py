"""What Prometheus' own tool says of the exposition."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
import yaml
from tests.lab.grafana import dashboards, filled, targets
from tests.unit.metrics.hostile import NAMES, hostile_view
from tests.unit.metrics.sample import PROCESS, busy_view, small_view

from joulebook.metrics.collector import collect
from joulebook.metrics.exposition import Format, Renderer, body
from joulebook.metrics.snapshot import Snapshot

_RATIO_OF_A_COUNTER = "joulebook_counter_power_ratio metric name should not include type 'counter'"
"""What promtool takes for a type is what the ratio is of: an energy counter's."""


def check(view: Snapshot) -> str:
    """The verdict of `promtool check metrics`; empty if it has nothing to say."""
    renderer = Renderer(view.node, view.cluster)
    families = collect(view, PROCESS, {"joulebook_gpu_info": 1}).families
    text = body([renderer.block(family) for family in families], Format.TEXT)
    done = subprocess.run(
        ["promtool", "check", "metrics"], input=text, capture_output=True, check=False, timeout=60
    )
    said = (done.stdout + done.stderr).decode().splitlines()
    found = [line for line in said if line != _RATIO_OF_A_COUNTER]
    # It fails for the one remark that is none, too.
    failed = done.returncode != 0 and _RATIO_OF_A_COUNTER not in said
    return "\n".join([*found, *(["failed"] if failed else [])])


@pytest.mark.parametrize("view", [small_view(), busy_view()], ids=["small", "busy"])
def test_exposition_has_no_faults(view: Snapshot) -> None:
    assert check(view) == ""


@pytest.mark.parametrize("name", NAMES, ids=range(len(NAMES)))
def test_hostile_names_have_no_faults(name: str) -> None:
    assert check(hostile_view(name)) == ""


def test_panels_can_be_asked_of_any_name(tmp_path: Path) -> None:
    """Prometheus' own parser takes every question, whatever is chosen: quotes end no text."""
    odd = 'a "quoted" name\'s \\d+ (v1.0) {x}/[y]|$^*?'
    rules: list[object] = []
    for board in dashboards().values():
        for _, target in targets(board):
            names = [v["name"] for v in board["templating"]["list"]]
            values = {name: (odd,) for name in names} | {"use": ("total",), "step": ("1m",)}
            asked = filled(target["expr"], values, 3600, 60, 60)
            rules.append({"record": "asked", "expr": asked, "labels": {"n": str(len(rules))}})
    path = tmp_path / "asked.yaml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "asked", "rules": rules}]}))
    done = subprocess.run(
        ["promtool", "check", "rules", path],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
