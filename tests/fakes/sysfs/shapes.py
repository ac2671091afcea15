"""The machines of the tests: the sysfs of each as its drivers show it, by name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tests.fakes.sysfs.machine import Machine, gpu_metrics


def intel_two_sockets(root: Path) -> Machine:
    """Two Xeons: packages, their cores and DRAM; psys; the packages once more by MMIO."""
    machine = Machine(root)
    for socket in (0, 1):
        machine.zone(
            f"intel-rapl:{socket}", f"package-{socket}", 1_000_000, max_power_uw=270_000_000
        )
        machine.zone(f"intel-rapl:{socket}:0", "dram", 500_000, range_uj=65_712_999_613)
        machine.zone(f"intel-rapl:{socket}:1", "core", 900_000)
        machine.zone(f"intel-rapl-mmio:{socket}", f"package-{socket}", 7_000_000)
    machine.zone("intel-rapl:2", "psys", 9_000_000)
    return machine


def amd_two_sockets(root: Path) -> Machine:
    """Two EPYCs: packages and cores through the same driver, no DRAM, 65.5 kJ to a wrap."""
    machine = Machine(root)
    for socket in (0, 1):
        machine.zone(
            f"intel-rapl:{socket}", f"package-{socket}", 1_000_000, range_uj=65_532_610_987
        )
        machine.zone(f"intel-rapl:{socket}:0", "core", 600_000, range_uj=65_532_610_987)
    return machine


def grace(root: Path) -> Machine:
    """A Grace CPU superchip: two sockets, each with its rails, and no module's meter."""
    machine = Machine(root)
    machine.chip("nvme", temp1_input=41_000)
    for socket in (0, 1):
        machine.acpi_meter(180, f"Grace Power Socket {socket}")
        machine.acpi_meter(110, f"CPU Power Socket {socket}")
        machine.acpi_meter(30, f"SysIO Power Socket {socket}")
    return machine


def grace_hopper(root: Path) -> Machine:
    """A GH200: the module's meter holds the Grace socket's, and the GPU that NVML reads."""
    machine = Machine(root)
    machine.acpi_meter(620, "Module Power Socket 0")
    machine.acpi_meter(170, "Grace Power Socket 0")
    machine.acpi_meter(100, "CPU Power Socket 0")
    machine.acpi_meter(25, "SysIO Power Socket 0")
    return machine


def mi300(root: Path) -> Machine:
    """A node of MI300X cards, two of its eight, beside EPYCs."""
    machine = amd_two_sockets(root)
    for number, pci in ((1, "0000:05:00.0"), (2, "0000:26:00.0")):
        machine.amd(
            number,
            pci,
            metrics=gpu_metrics(4, 1 << 30, power_w=140 + number, gfx=0),
            watts=140 + number,
            unique_id=f"a1b2c3d4e5f6071{number}",
        )
    return machine


def xe(root: Path) -> Machine:
    """Two Intel cards of the xe driver, with the board's and the package's counters."""
    machine = intel_two_sockets(root)
    for number, pci in ((0, "0000:4d:00.0"), (1, "0000:9a:00.0")):
        machine.intel(number, pci, driver="xe", card_uj=5_000_000, idle_ms=1_000)
    return machine


def i915(root: Path) -> Machine:
    """An Intel card of the older driver, with one counter."""
    machine = Machine(root)
    machine.intel(0, "0000:03:00.0", driver="i915", card_uj=5_000_000, idle_ms=1_000)
    return machine


def virtual_machine(root: Path) -> Machine:
    """A virtual machine: a battery-less board that measures nothing."""
    machine = Machine(root)
    machine.chip("acpitz", temp1_input=20_000)
    (machine.powercap / "intel-rapl").mkdir()
    return machine


SHAPES: dict[str, Callable[[Path], Machine]] = {
    "intel_two_sockets": intel_two_sockets,
    "amd_two_sockets": amd_two_sockets,
    "grace": grace,
    "grace_hopper": grace_hopper,
    "mi300": mi300,
    "xe": xe,
    "i915": i915,
    "virtual_machine": virtual_machine,
}
