"""A report from a real Prometheus: series that stand twice, late, or under names that came again.

The samples are written into its storage as blocks; its own engine answers the report's queries.
"""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from tests.e2e.lab import get, until
from tests.ports import free_port

from joulebook.cli import main

HOUR_S = 3600
T0_S = (int(time.time()) // HOUR_S - 30) * HOUR_S
SPAN_S = 2 * HOUR_S
STEP_S = 60
LATE_S = 1800
"""So long after the begin of the range the storage first has the late node."""


def series(name: str, values: dict[int, float], **labels: str) -> Iterator[tuple[str, str]]:
    said = ",".join(f'{key}="{value}"' for key, value in labels.items())
    for second, value in values.items():
        yield name, f"{name}{{{said}}} {value} {T0_S + second}"


def steps(t0_s: int, t1_s: int, begin_j: float, end_j: float) -> dict[int, float]:
    """A counter that rises evenly, by scrapes."""
    return {
        second: begin_j + (end_j - begin_j) * (second - t0_s) / (t1_s - t0_s)
        for second in range(t0_s, t1_s + 1, STEP_S)
    }


def run(
    experiment: str, workload: str, values: dict[int, float], **more: str
) -> Iterator[tuple[str, str]]:
    labels = {
        "job": "joulebook", "instance": "10.0.0.1:9816", "node": "n1", "scheduler": "slurm",
        "workload": workload, "user": "ada", "account": "nlp", "experiment": experiment,
        "component": "gpu", **more,
    }  # fmt: skip
    return series("joulebook_workload_energy_joules_total", values, **labels)


WHOLE = steps(600, 6000, 0, 36_000)
"""10 Wh in the range."""


def samples() -> Iterator[tuple[str, str]]:
    # Scraped by two jobs, and by two replicas that write to one storage.
    yield from run("twice", "100", WHOLE)
    yield from run("twice", "100", WHOLE, job="other", instance="n1:9816")
    yield from run("replicas", "101", WHOLE, replica="a")
    yield from run("replicas", "101", WHOLE, replica="b")
    # A pod of the daemon is replaced: its counters go on at another address.
    yield from run("moved", "102", steps(600, 3000, 0, 16_000))
    yield from run("moved", "102", steps(3060, 6000, 16_000, 36_000), instance="10.0.0.9:9816")
    # The daemon had counted 10 Wh when this Prometheus began.
    yield from run("late", "103", steps(LATE_S, 6000, 36_000, 95_040), node="n2")
    yield from run(
        "late", "104", {**steps(3000, 3180, 0, 0), **steps(3240, 6000, 36, 3600)}, node="n2"
    )
    for cluster, joules in (("east", 2000), ("west", 3004)):
        yield from run("clusters", "500", steps(600, 6000, 0, joules), cluster=cluster)
    for user, t0_s, joules in (("ada", 600, 1600), ("bob", 4200, 2400)):
        yield from run("again", "501", steps(t0_s, t0_s + 1200, 0, joules), user=user)
    for node, cluster, t0_s in (
        ("n1", "", -600),
        ("n1", "east", -600),
        ("n1", "west", -600),
        ("n2", "", LATE_S),
    ):
        alive = dict.fromkeys(range(t0_s, SPAN_S + 1, STEP_S), 1.0)
        yield from series(
            "joulebook_build_info", alive, node=node, cluster=cluster, job="joulebook"
        )
    for uuid in ("GPU-a", "GPU-b"):
        info = dict.fromkeys(range(0, SPAN_S + 1, STEP_S), 1.0)
        yield from series("joulebook_gpu_info", info, node="n7", gpu="0", uuid=uuid)


def _kind(name: str) -> str:
    return "counter" if name.endswith("_total") else "gauge"


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    place = tmp_path_factory.mktemp("prometheus")
    metrics: dict[str, list[str]] = {}
    for name, line in samples():
        metrics.setdefault(name, []).append(line)
    text = "".join(
        f"# TYPE {name.removesuffix('_total')} {_kind(name)}\n"
        + "\n".join(lines) + "\n"
        for name, lines in metrics.items()
    )  # fmt: skip
    (place / "samples.txt").write_text(text + "# EOF\n")
    subprocess.run(
        ["promtool", "tsdb", "create-blocks-from", "openmetrics", "samples.txt", "data"], cwd=place,
        check=True, capture_output=True, timeout=60,
    )  # fmt: skip
    (place / "prometheus.yml").write_text("scrape_configs: []\n")
    port = free_port()
    with (place / "log").open("wb") as log:
        server = subprocess.Popen(
            ["prometheus", "--config.file=prometheus.yml", "--storage.tsdb.path=data",
             f"--web.listen-address=127.0.0.1:{port}"],
            cwd=place, stdout=log, stderr=log,
        )  # fmt: skip
        try:
            until("Prometheus", lambda: get(f"http://127.0.0.1:{port}/-/ready")[0] == 200)
            yield f"http://127.0.0.1:{port}"
        finally:
            server.terminate()
            server.wait(30)


def reported(url: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, *more: str) -> Any:
    config = tmp_path / "joulebook.toml"
    config.write_text('[report]\nsacct = ""\n')
    ends = (datetime.fromtimestamp(T0_S + t, UTC).isoformat() for t in (0, SPAN_S))
    command = ["--config", str(config), "report", "--prometheus", url, "--since", next(ends),
               "--until", next(ends), *more]  # fmt: skip
    assert main(command) == 0
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize("experiment", ["twice", "replicas", "moved"])
def test_a_counter_that_is_stored_more_than_once_is_one(
    url: str, experiment: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    found = reported(url, capsys, tmp_path, "--format", "json", "--experiment", experiment)
    assert found["counts"]["total"] == 1
    assert found["energy"]["gpu"]["value"] == pytest.approx(0.010)


def test_what_was_counted_before_the_first_sample_is_left_out_and_said(
    url: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    found = reported(url, capsys, tmp_path, "--format", "json", "--experiment", "late")
    runs = {each["id"]: each["energy_kwh"] for each in found["runs"]}
    # A run that began at its zero later on is whole.
    assert runs == {"103": pytest.approx(0.0164), "104": pytest.approx(0.001)}
    assert any("the first samples of n2 are from" in text for text in found["warnings"])
    listed = reported(url, capsys, tmp_path, "--json")
    assert any("earlier consumption is not included" in text for text in listed["warnings"])
    assert {
        line["experiment"]: line["energy_uj"] for line in listed["lines"]
    }["late"] == pytest.approx(17.4 * 3.6e9)  # fmt: skip


def test_two_nodes_of_one_name_are_said(
    url: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    listed = reported(url, capsys, tmp_path, "--json")
    assert any("more than one node is called n7" in text for text in listed["warnings"])


@pytest.mark.parametrize(
    ("experiment", "joules"), [("clusters", [2000, 3004]), ("again", [1600, 2400])]
)
def test_a_number_in_two_clusters_or_of_two_users_is_two_runs(
    url: str, experiment: str, joules: list[int], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    both = ("--cluster", "east", "--cluster", "west") if experiment == "clusters" else ()
    found = reported(url, capsys, tmp_path, "--format", "json", "--experiment", experiment, *both)
    assert sorted(each["energy_uj"] for each in found["runs"]) == [
        pytest.approx(j * 1e6) for j in joules
    ]
    assert {each["id"] for each in found["runs"]} == {"500" if experiment == "clusters" else "501"}
