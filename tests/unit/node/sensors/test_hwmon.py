"""hwmon: a tree of meters of which only leaves are booked, and supplies that are reconciled."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.fakes.sysfs.machine import Machine
from tests.fakes.sysfs.shapes import SHAPES
from tests.unit.node.sensors.still_clock import StillClock

from joulebook.core.energy.readings import Component, Meter
from joulebook.errors import SensorMissing
from joulebook.node.sensors.contract import PollResult
from joulebook.node.sensors.hwmon import EVERYTHING, MODULES, NODE, HwmonSensor, sources


def poll(machine: Machine, *, cpu: bool = True, supply: bool = True) -> PollResult:
    sensor = HwmonSensor(StillClock(), machine.hwmon, cpu=cpu, supply=supply)
    sensor.open()
    return sensor.poll(processes=False)


def powers(found: PollResult) -> dict[str, int | None]:
    return {r.meter.name: r.power_mw for r in found.readings}


def test_a_grace_superchip_is_its_sockets_without_their_rails(tmp_path: Path) -> None:
    found = poll(SHAPES["grace"](tmp_path))
    assert powers(found) == {"grace-0": 180_000, "grace-1": 180_000}
    assert {r.meter.component for r in found.readings} == {Component.CPU}
    assert all(r.energy_uj is None and not r.covers for r in found.readings)


def test_a_gh200_module_is_never_added_to_what_is_in_it(tmp_path: Path) -> None:
    found = poll(SHAPES["grace_hopper"](tmp_path))
    assert powers(found) == {"grace-0": 170_000, "modules": 620_000}
    by_meter = {r.meter: r for r in found.readings}
    # The module is no leaf: it holds the Grace socket and the GPU, and only the rest is booked.
    assert by_meter[MODULES].covers == EVERYTHING
    assert by_meter[Meter(Component.CPU, "grace-0")].covers == ()


def test_the_rails_stand_for_a_socket_without_a_meter(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    machine.acpi_meter(100, "CPU Power Socket 0")
    machine.acpi_meter(25, "SysIO Power Socket 0")
    assert powers(poll(machine)) == {"grace-rails-0": 125_000}


def test_modules_are_one_supply(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    for socket in range(4):
        machine.acpi_meter(600, f"Module Power Socket {socket}")
        machine.acpi_meter(100, f"Grace Power Socket {socket}")
    assert powers(poll(machine))["modules"] == 2_400_000


def test_a_meter_without_such_a_name_is_the_node(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    machine.acpi_meter(410)
    machine.acpi_meter(300, "Module Power Socket 0")  # inside it: not reconciled beside it
    (reading,) = poll(machine).readings
    assert (reading.meter, reading.power_mw, reading.covers) == (NODE, 410_000, EVERYTHING)


def test_beside_a_bmc_no_supply_and_beside_rapl_no_package_is_read(tmp_path: Path) -> None:
    machine = SHAPES["grace_hopper"](tmp_path)
    machine.chip("amd_energy", energy1_label="Esocket0", energy1_input=77, energy2_label="Ecore000")
    assert powers(poll(machine, supply=False)).keys() == {"grace-0", "amd-energy-0"}
    assert "amd-energy-0" not in powers(poll(machine, cpu=False))
    reading = next(r for r in poll(machine).readings if r.meter.name == "amd-energy-0")
    assert reading.energy_uj == 77


def test_a_meter_that_fails_is_a_failure(tmp_path: Path) -> None:
    machine = SHAPES["grace"](tmp_path)
    sensor = HwmonSensor(StillClock(), machine.hwmon)
    sensor.open()
    for path in machine.hwmon.glob("*/power1_average"):
        path.unlink()
    found = sensor.poll(processes=False)
    assert found.readings == () and {f.reason for f in found.failures} == {"missing"}


@pytest.mark.parametrize("shape", ["virtual_machine", "intel_two_sockets", "mi300", "xe"])
def test_machines_without_a_meter_in_hwmon(tmp_path: Path, shape: str) -> None:
    machine = SHAPES[shape](tmp_path)
    assert sources(machine.hwmon) == []
    with pytest.raises(SensorMissing):
        poll(machine)
