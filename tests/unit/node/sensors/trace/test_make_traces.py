"""The tool that makes the shipped traces."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.data import make_traces

from joulebook.node.sensors.trace.format import read_trace

CSV = """\
timestamp, utilization.gpu [%], pstate, temperature.gpu, clocks.current.sm [MHz], \
power.draw [W], power.draw.instant [W]
2023/07/30 17:28:02.900, 0, P0, 53, 1410, 78.66, 100.00
2023/07/30 17:28:02.900, 0, P0, 53, 1410, 78.66, 200.00
2023/07/30 17:28:02.999, 50, P0, 53, 1410, 78.66, 200.00
2023/07/30 17:28:03.000, 50, P0, 54, 1410, 78.66, 300.00
2023/07/30 17:28:03.010, 50, P0, 54, 1410, 78.66, 300.00
2023/07/30 17:28:03.110, 50, P0, 54, 1410, 78.66, 300.00
"""


def test_energy_is_the_integral_seen_in_ticks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    csv = tmp_path / "power.csv"
    csv.write_text(CSV)
    monkeypatch.setattr(make_traces, "SHIPPED", tmp_path)
    make_traces.main(csv, csv)
    (records,) = read_trace(tmp_path / "a100.jsonl.gz").records
    assert [record.t_ns // 10**6 for record in records] == [0, 99, 100, 110, 210]
    base_uj = make_traces.COUNTER_BASE_UJ
    joules = [((record.energy_uj or 0) - base_uj) / 1e6 for record in records]
    assert joules == [0, 0, 20.05, 20.05, 53.05]
    assert [record.power_mw for record in records] == [200_000] * 2 + [300_000] * 3
    assert records[1].values == {
        "utilization_ratio": 0.5,
        "temperature_celsius": 53,
        "sm_clock_hertz": 1.41e9,
    }
    (records,) = read_trace(tmp_path / "v100.jsonl.gz").records
    assert {record.energy_uj for record in records} == {None}
    before = (tmp_path / "a100.jsonl.gz").read_bytes()
    make_traces.main(csv, csv)
    assert (tmp_path / "a100.jsonl.gz").read_bytes() == before
