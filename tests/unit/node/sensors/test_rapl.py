"""RAPL: each joule of packages and DRAM once, and what cannot be read is said with its remedy."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import pytest
from tests.fakes.sysfs.machine import Machine
from tests.fakes.sysfs.shapes import SHAPES
from tests.unit.node.sensors.still_clock import StillClock

from joulebook.core.energy.readings import Component, Meter
from joulebook.errors import SensorMissing
from joulebook.node.sensors.rapl import DEFAULT_MAX_MW, RaplSensor, zones


def cpu(name: str) -> Meter:
    return Meter(Component.CPU, name)


def dram(name: str) -> Meter:
    return Meter(Component.DRAM, name)


def names(machine: Machine) -> set[Meter]:
    return {zone.meter for zone in zones(machine.powercap)}


def opened(machine: Machine, clock: StillClock | None = None) -> RaplSensor:
    sensor = RaplSensor(clock or StillClock(), machine.powercap)
    sensor.open()
    return sensor


def test_an_intel_server_has_packages_and_dram_and_nothing_twice(tmp_path: Path) -> None:
    machine = SHAPES["intel_two_sockets"](tmp_path)
    poll = opened(machine).poll(processes=False)
    assert {r.meter: r.energy_uj for r in poll.readings} == {
        cpu("package-0"): 1_000_000,
        cpu("package-1"): 1_000_000,
        dram("dram-0"): 500_000,
        dram("dram-1"): 500_000,
    }  # no psys, no cores, and the packages not once more by MMIO
    assert poll.failures == ()
    assert {r.epoch for r in poll.readings} == {"boot"}


def test_an_amd_server_has_packages(tmp_path: Path) -> None:
    machine = SHAPES["amd_two_sockets"](tmp_path)
    assert names(machine) == {cpu("package-0"), cpu("package-1")}
    assert {r.wrap_uj for r in opened(machine).poll(processes=False).readings} == {65_532_610_987}


class Dies:
    """A socket whose dies are zones; each shows its own counter, or that of the socket."""

    def __init__(self, root: Path, names: Sequence[str], watts: Sequence[float]) -> None:
        self.machine, self.names, self.watts = Machine(root), names, watts
        self.counted = [1_000_000 + int(watts[i] * 1e6) for i in range(len(names))]
        self.burn(0)

    def burn(self, seconds: float) -> None:
        for i, name in enumerate(self.names):
            self.counted[i] += round(self.watts[i] * seconds * 1e6)
            self.machine.zone(f"intel-rapl:{i}", name, self.counted[i])


def consumed(dies: Dies) -> dict[str, float]:
    """Joules by zone over ten seconds, as looks tell them."""
    sensor = opened(dies.machine)
    first: dict[str, int] = {}
    last: dict[str, int] = {}
    for _ in range(11):
        for reading in sensor.poll(processes=False).readings:
            first.setdefault(reading.meter.name, reading.energy_uj or 0)
            last[reading.meter.name] = reading.energy_uj or 0
        dies.burn(1)
    return {name: (last[name] - first[name]) / 1e6 for name in last}


@pytest.mark.parametrize(
    ("names", "watts"),
    [
        (["package-0-die-0", "package-0-die-1"], 68),
        ([f"package-0-die-{n}" for n in range(4)], 90),
        (["package-0", "package-1"], 68),
    ],
)
def test_zones_that_mirror_one_counter_are_booked_once(
    tmp_path: Path, names: Sequence[str], watts: float
) -> None:
    found = consumed(Dies(tmp_path, names, [watts] * len(names)))
    assert sum(found.values()) == pytest.approx(10 * watts)


def test_distinct_dies_stay_distinct(tmp_path: Path) -> None:
    found = consumed(Dies(tmp_path, ["package-0-die-0", "package-0-die-1"], [68, 70]))
    assert found == {"package-0-die-0": 680, "package-0-die-1": 700}


def test_a_memory_zone_that_mirrors_its_package_is_left_out(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    machine.zone("intel-rapl:0", "package-0", 500)
    machine.zone("intel-rapl:0:0", "dram", 500)
    sensor = opened(machine)
    machine.zone("intel-rapl:0", "package-0", 900)
    machine.zone("intel-rapl:0:0", "dram", 900)
    assert [r.meter for r in sensor.poll(processes=False).readings] == [cpu("package-0")]


@pytest.mark.parametrize("shape", ["grace", "grace_hopper", "virtual_machine"])
def test_other_machines_have_no_rapl(tmp_path: Path, shape: str) -> None:
    machine = SHAPES[shape](tmp_path)
    assert zones(machine.powercap) == []
    with pytest.raises(SensorMissing) as missing:
        opened(machine)
    assert "sensors.rapl.root" in missing.value.remedy


def test_a_package_of_several_dies_is_each_of_them(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    for n, die in enumerate((0, 1)):
        machine.zone(f"intel-rapl:{n}", f"package-0-die-{die}", 5)
        machine.zone(f"intel-rapl:{n}:0", "dram", 5)
    assert names(machine) == {
        cpu("package-0-die-0"),
        cpu("package-0-die-1"),
        dram("dram-0-die-0"),
        dram("dram-0-die-1"),
    }


def test_where_only_mmio_tells_it_is_taken(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    machine.zone("intel-rapl-mmio:0", "package-0", 42)
    assert names(machine) == {cpu("package-0")}


def test_the_sensor_is_looked_at_in_time_for_its_smallest_range(tmp_path: Path) -> None:
    # 65.5 kJ at 1 kW, which no package exceeds that does not tell its limit: 65.5 s.
    slowest = opened(SHAPES["amd_two_sockets"](tmp_path)).pace.most_s
    assert slowest is not None and slowest == pytest.approx(65.5326 / 4, rel=1e-3)


def test_a_limit_that_is_told_bounds_the_power(tmp_path: Path) -> None:
    by_meter = {z.meter: z for z in zones(SHAPES["intel_two_sockets"](tmp_path).powercap)}
    assert by_meter[cpu("package-0")].max_power_mw == 2 * 270_000
    assert by_meter[dram("dram-0")].max_power_mw == DEFAULT_MAX_MW


def test_what_cannot_be_read_is_a_failure_and_said_once_with_its_remedy(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    machine = SHAPES["intel_two_sockets"](tmp_path)
    sensor = opened(machine)
    broken = machine.powercap / "intel-rapl:0/energy_uj"
    broken.unlink()
    broken.mkdir()  # root reads every file: a directory is what even root cannot
    with caplog.at_level(logging.INFO):
        for _ in range(3):
            poll = sensor.poll(processes=False)
            assert [(f.meter, f.reason) for f in poll.failures] == [
                (cpu("package-0"), "unreadable")
            ]
            assert len(poll.readings) == 3
    assert len(caplog.records) == 1 and "CAP_DAC_READ_SEARCH" in caplog.text
    assert sensor.poll_energy([cpu("package-0")]) == []
    broken.rmdir()
    broken.write_text("7\n")
    assert sensor.poll(processes=False).failures == ()


def test_nonsense_in_a_counter_is_no_zero(tmp_path: Path) -> None:
    machine = SHAPES["amd_two_sockets"](tmp_path)
    (machine.powercap / "intel-rapl:0/energy_uj").write_text("\n")
    poll = opened(machine).poll(processes=False)
    assert [f.reason for f in poll.failures] == ["unreadable"]
    assert [r.meter for r in poll.readings] == [cpu("package-1")]


def test_a_glance_reads_only_what_is_asked_for(tmp_path: Path) -> None:
    sensor = opened(SHAPES["intel_two_sockets"](tmp_path))
    assert [r.meter for r in sensor.poll_energy([dram("dram-1")])] == [dram("dram-1")]
