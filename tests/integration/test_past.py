"""The time before Joulebook, from a real Prometheus with another exporter's samples in blocks."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from tests.e2e.lab import get, until
from tests.ports import free_port

from joulebook.cli import main

HOUR_S = 3600
NOON = datetime(2026, 9, 30, 12, tzinfo=UTC)
T0_S = int(NOON.timestamp())
"""Twelve hours before a month ends."""
SPAN_S = 24 * HOUR_S
STEP_S = 60
UUID = "GPU-{:08x}-1111-2222-3333-444455556666"

SACCT = """\
#!/bin/sh
echo "77|ada|nlp|pre|train|n2|billing=8,cpu=8,gres/gpu=2,node=1|{begin}|{end}"
echo "78|bob|nlp|small|n2|billing=8,cpu=8,gres/gpu=1,node=1|{end}|{late}"
"""


def line(name: str, second: float, value: float, **labels: str) -> tuple[str, str]:
    said = ",".join(f'{key}="{text}"' for key, text in labels.items())
    return name, f"{name}{{{said}}} {value} {T0_S + second}"


def dcgm(gpu: int, node: str, **more: str) -> dict[str, str]:
    return {
        "job": "dcgm", "instance": f"{node}:9400", "gpu": str(gpu), "UUID": UUID.format(gpu),
        "modelName": "NVIDIA A100-SXM4-80GB", "Hostname": node, **more,
    }  # fmt: skip


def samples() -> Iterator[tuple[str, str]]:
    energy, power = "DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION", "DCGM_FI_DEV_POWER_USAGE"
    smi = "nvidia_smi_power_draw_watts"
    for second in range(0, SPAN_S + 1, STEP_S):
        # n1: 100 W all day, 7 GJ before; a pod from hour 2 to 4; two targets; the gauge, too.
        pod = {}
        if 2 * HOUR_S <= second <= 4 * HOUR_S:
            pod = {
                "exported_pod": "train-0",
                "exported_namespace": "nlp",
                "exported_container": "c",
            }
        labels = dcgm(1, "n1", pod="dcgm-exporter-x1", namespace="gpu-operator", **pod)
        yield line(energy, second, 7e12 + 100e3 * second, **labels)
        yield line(energy, second + 7, 7e12 + 100e3 * second, **dcgm(1, "n1", job="twice"))
        yield line(power, second, 100, **labels)
        # The same card by another exporter, which calls the node by its address.
        bare = UUID.format(1).removeprefix("GPU-")
        yield line(smi, second, 100, job="smi", instance="10.0.0.1:9835", uuid=bare)
        # n2: two cards of 200 W; no scrape from hour 10 to 12; the driver is reloaded at hour 6.
        for gpu in (2, 3):
            counted = 200e3 * (second if second < 6 * HOUR_S else second - 6 * HOUR_S)
            if not 10 * HOUR_S < second < 12 * HOUR_S:
                yield line(energy, second, 1e9 * (second < 6 * HOUR_S) + counted, **dcgm(gpu, "n2"))
        # n3: a gauge only, 50 W, with the same hole.
        if not 10 * HOUR_S < second < 12 * HOUR_S:
            only = UUID.format(4).removeprefix("GPU-")
            yield line(smi, second, 50, job="smi", instance="n3:9835", uuid=only)
        # n4: Kepler: 300 W of which a pod has 200, the exporter restarted at hour 8.
        at = second if second < 8 * HOUR_S else second - 8 * HOUR_S
        kepler = {"job": "kepler", "instance": "n4:28282", "node_name": "n4"}
        yield line("kepler_node_cpu_joules_total", second, 300 * at, zone="package", **kepler)
        yield line(
            "kepler_pod_cpu_joules_total", second, 200 * at, zone="package", pod_name="web-1",
            pod_namespace="serve", **kepler,
        )  # fmt: skip


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    place = tmp_path_factory.mktemp("prometheus")
    metrics: dict[str, list[str]] = {}
    for name, text in samples():
        metrics.setdefault(name, []).append(text)
    blocks = "".join(
        f"# TYPE {name} unknown\n" + "\n".join(t) + "\n" for name, t in metrics.items()
    )
    (place / "samples.txt").write_text(f"{blocks}# EOF\n")
    subprocess.run(
        ["promtool", "tsdb", "create-blocks-from", "openmetrics", "samples.txt", "data"], cwd=place,
        check=True, capture_output=True, timeout=60,
    )  # fmt: skip
    (place / "prometheus.yml").write_text("scrape_configs: []\n")
    port = free_port()
    with (place / "log").open("wb") as log:
        server = subprocess.Popen(
            ["prometheus", "--config.file=prometheus.yml", "--storage.tsdb.path=data",
             "--storage.tsdb.retention.time=10y", f"--web.listen-address=127.0.0.1:{port}"],
            cwd=place, stdout=log, stderr=log,
        )  # fmt: skip
        try:
            until("Prometheus", lambda: get(f"http://127.0.0.1:{port}/-/ready")[0] == 200)
            yield f"http://127.0.0.1:{port}"
        finally:
            server.terminate()
            server.wait(30)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    sacct = tmp_path / "sacct"
    begin, end, late = (T0_S + hours * HOUR_S for hours in (1, 5, 7))
    sacct.write_text(SACCT.format(begin=begin, end=end, late=late))
    sacct.chmod(0o755)
    path = tmp_path / "joulebook.toml"
    path.write_text(
        f'[report]\nsacct = "{sacct}"\n[rates]\npue = 1.5\n'
        '[rates.price]\nkind = "constant"\nper_kwh = 0.2\n'
        '[rates.carbon]\nkind = "constant"\ngrams_per_kwh = 100\n'
        '[rates.hardware."*A100*"]\nper_gpu_hour = 2.0\n'
    )
    return path


def command(config: Path, url: str, *more: str) -> list[str]:
    end = datetime.fromtimestamp(T0_S + SPAN_S, UTC)
    times = ["--since", NOON.isoformat(), "--until", end.isoformat()]
    return ["--config", str(config), "report", "--past", url, *times, *more]


def past(url: str, config: Path, capsys: pytest.CaptureFixture[str]) -> Any:
    assert main(command(config, url, "--json")) == 0
    return json.loads(capsys.readouterr().out)


def kwh(watts: float, hours: float) -> Any:
    return pytest.approx(watts * hours / 1000, rel=2e-3)


def test_energy_by_node_and_month(
    url: str, config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = past(url, config, capsys)
    assert found["evidence"].startswith("From another exporter's samples")
    months = {(row["node"], row["month"]): row for row in found["months"]}
    assert {key: row["energy_kwh"] for key, row in months.items()} == {
        ("n1", "2026-09"): kwh(100, 12),
        ("n1", "2026-10"): kwh(100, 12),
        # A minute around the reload is what was counted since.
        ("n2", "2026-09"): kwh(400, 12),
        ("n2", "2026-10"): kwh(400, 12),
        ("n3", "2026-09"): kwh(50, 10),
        ("n3", "2026-10"): kwh(50, 12),
        ("n4", "2026-09"): kwh(300, 12),
        ("n4", "2026-10"): kwh(300, 12),
    }
    charged = months["n1", "2026-09"]["charged"]
    assert charged["cost"]["EUR"] == pytest.approx(1.2 * 1.5 * 0.2 + 12 * 2.0, rel=2e-3)
    assert charged["co2e_grams"] == pytest.approx(1.2 * 1.5 * 100, rel=2e-3)
    used = {row["node"]: (row["metric"], row["method"]) for row in found["exporters"]}
    assert used["n1"] == ("DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION", "counter")
    assert used["n3"] == ("nvidia_smi_power_draw_watts", "integrated")
    assert found["resets"] == 4, "two cards, Kepler's node and its pod"
    assert found["scraped_twice"] == 1
    assert found["gap_s"] == {"n3": 2 * HOUR_S}
    assert found["bridged_uj"] == pytest.approx(2 * 200 * 2 * HOUR_S * 1e6)


def test_energy_by_pod_and_by_job_that_had_all_gpus(
    url: str, config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = past(url, config, capsys)
    held = {row.get("workload", row.get("remainder")): row for row in found["held_by"]}
    assert held["nlp/train-0"]["energy_kwh"] == kwh(100, 2)
    assert held["nlp/train-0"]["account"] == "nlp"
    assert held["77"]["energy_kwh"] == kwh(400, 4)
    assert (held["77"]["user"], held["77"]["experiment"]) == ("ada", "pre|train")
    assert "78" not in held, "it had one card of two"
    assert held["serve/web-1"]["energy_kwh"] == kwh(200, 24)
    whole = sum(row["energy_uj"] for row in found["months"])
    assert sum(row["energy_uj"] for row in found["held_by"]) == whole
    rest = whole / 3.6e12 - 0.2 - 1.6 - 4.8
    assert held["unknown_holder"]["energy_kwh"] == pytest.approx(rest, rel=1e-2)


def test_the_list_marks_itself_and_says_what_is_not_in_it(
    url: str, config: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    assert main(command(config, url)) == 0
    text = capsys.readouterr().out
    for said in (
        "From another exporter's samples, not measured by Joulebook",
        "nvidia_smi_power_draw_watts, integrated from a power gauge (n3)",
        "Not attributed:",
        "n3: no energy is known for 2.0 hours of its devices",
        "counters were reset",
    ):
        assert said in text
    assert [words for words in map(str.split, text.splitlines()) if words[:2] == ["n1", "2026-09"]]


def test_a_statement_of_it_is_refused_and_an_empty_one_said(
    url: str, config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command(config, url, "--format", "latex")) == 2
    assert "a statement rests on what Joulebook booked" in capsys.readouterr().err
    none = ["report", "--past", url, "--since", "2001-01-01", "--until", "2001-02-01"]
    assert main(["--config", str(config), *none]) == 2
    assert "has no samples of dcgm-exporter" in capsys.readouterr().err
    assert os.access(config.with_name("sacct"), os.X_OK)
