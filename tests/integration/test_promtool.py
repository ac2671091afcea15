"""What Prometheus' own tool says of the exposition."""

from __future__ import annotations

import re
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


def _values_of(name: str, query: str) -> list[str]:
    return re.findall(rf'"{name}", `([^`]*)`', query)


def test_panels_can_be_asked_of_any_name(tmp_path: Path) -> None:
    """Prometheus' own parser takes every question, whatever is chosen: quotes end no text."""
    odd = 'a "quoted" name\'s \\d+ (v1.0) {x}/[y]|$^*?'
    rules: list[object] = []
    for board in dashboards().values():
        for _, target in targets(board):
            variables = board["templating"]["list"]
            odd_ones = {v["name"]: (odd,) for v in variables} | {"step": ("1m",)}
            # What nobody chooses has one of the values that its own question can give.
            given = {
                v["name"]: _values_of(v["name"], str(v["query"]))
                for v in variables
                if v.get("hide")
            }
            for end in (0, -1):
                worked_out = {name: (found[end],) for name, found in given.items() if found}
                asked = filled(target["expr"], odd_ones | worked_out, 3600, 60, 60)
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
