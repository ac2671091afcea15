"""A model says that it is one, and has no number that the site did not give."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.fakes.sysfs.shapes import SHAPES
from tests.unit.node.sensors.still_clock import StillClock

from joulebook.config import load
from joulebook.core.energy.intervals import Interval, between
from joulebook.core.evidence import Method
from joulebook.errors import ConfigError, SensorRetry
from joulebook.node.sensors.estimate import CPU, DRAM, ModelSensor


def test_cpu_by_utilization_and_memory_by_what_is_installed(tmp_path: Path) -> None:
    machine, clock = SHAPES["virtual_machine"](tmp_path), StillClock()
    sensor = ModelSensor(clock, cpu_idle_w=20, cpu_tdp_w=100, dram_w_per_gib=0.5, proc=machine.proc)
    sensor.open()
    first = sensor.poll(processes=False)
    assert [r.meter for r in first.readings] == [DRAM], "no utilization yet"
    assert first.readings[0].power_mw == 32_000
    busy_ns, found = 0, []
    for _ in range(2):
        clock.pass_s(1)
        busy_ns += 4_000_000_000  # of 8 cores
        machine.cpu_time(cores=8, busy_ns=busy_ns)
        found.append(next(r for r in sensor.poll(processes=False).readings if r.meter == CPU))
    assert found[1].power_mw == pytest.approx(60_000, abs=10)
    assert all(reading.modelled for reading in found)
    (part,) = between(*found)
    assert isinstance(part, Interval) and part.method is Method.MODELLED


def test_without_proc_there_is_no_model(tmp_path: Path) -> None:
    sensor = ModelSensor(
        StillClock(), cpu_idle_w=1, cpu_tdp_w=2, dram_w_per_gib=0, proc=tmp_path / "none"
    )
    with pytest.raises(SensorRetry):
        sensor.poll(processes=False)


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("cpu_tdp_w = 100", "sensors.model.source"),
        ("cpu_tdp_w = 10\ncpu_idle_w = 20\nsource = 'x'", "sensors.model.cpu_tdp_w"),
        ("source = 'a data sheet'", "sensors.model.cpu_tdp_w"),
        ("enabled = 'auto'", "sensors.model.enabled"),
    ],
)
def test_a_model_needs_its_constants_and_where_they_are_from(
    tmp_path: Path, text: str, key: str
) -> None:
    file = tmp_path / "joulebook.toml"
    enabled = "" if "enabled" in text else "enabled = true\n"
    file.write_text(f"[sensors.model]\n{enabled}{text}\n")
    with pytest.raises(ConfigError, match=key):
        load(file, {})
