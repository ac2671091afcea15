"""AMD's and Intel's cards: energy, power, use and users out of the kernel's own files."""

from __future__ import annotations

import sys
import types
from pathlib import Path

import pytest
from tests.fakes.sysfs.machine import Machine, gpu_metrics, put
from tests.fakes.sysfs.shapes import SHAPES
from tests.unit.core.audit import Auditor
from tests.unit.core.world import Run
from tests.unit.node.sensors.still_clock import StillClock

from joulebook.core.energy.readings import Component, Meter, Reading
from joulebook.core.evidence import Method
from joulebook.core.ledger.advance import BookingPolicy, Tick
from joulebook.errors import SensorMissing
from joulebook.node.sensors.drm import amd
from joulebook.node.sensors.drm.amd import WRAP_32_UJ, parse
from joulebook.node.sensors.drm.intel import REGISTER_UJ
from joulebook.node.sensors.drm.sensor import DrmSensor, metered

PCI = "0000:05:00.0"


def opened(machine: Machine, clock: StillClock) -> DrmSensor:
    sensor = DrmSensor(clock, machine.drm, proc=machine.proc)
    sensor.open()
    return sensor


@pytest.mark.parametrize("revision", range(9))
def test_each_revision_of_gpu_metrics(revision: int) -> None:
    reported = parse(gpu_metrics(revision, 1 << 20, power_w=321, gfx=87))
    assert reported is not None
    assert reported.energy_uj == 16_000_000  # 2^20 of 2^-16 J
    assert (reported.power_mw, reported.gfx_percent) == (321_000, 87)
    assert reported.wrap_uj == (WRAP_32_UJ if revision == 0 else None)


def test_an_early_table_of_revision_6_is_laid_out_like_the_one_before() -> None:
    reported = parse(gpu_metrics(6, 1 << 20, power_w=321, gfx=87, is_early=True))
    assert reported is not None
    assert (reported.energy_uj, reported.power_mw) == (16_000_000, 321_000)
    assert reported.partition_percent == ()


@pytest.mark.parametrize(
    "table",
    [b"", b"\x01", gpu_metrics(4, 1)[:20], b"\x10\x00\x01\x04" + b"\0" * 12, b"\x60\x00\x02\x01"],
)
def test_a_table_that_is_cut_short_or_unknown_tells_nothing(table: bytes) -> None:
    assert parse(table) is None


def test_what_firmware_does_not_tell_is_not_zero() -> None:
    reported = parse(gpu_metrics(4, (1 << 64) - 1, power_w=0xFFFF, gfx=0xFFFF))
    assert reported is not None
    assert reported.energy_uj is None and reported.power_mw is None and reported.gfx_percent is None
    assert parse(gpu_metrics(4, 0)) is not None and parse(gpu_metrics(4, 0)).energy_uj is None  # type: ignore[union-attr]


def test_an_mi300_counts_energy(tmp_path: Path) -> None:
    machine, clock = SHAPES["mi300"](tmp_path), StillClock()
    poll = opened(machine, clock).poll(processes=False)
    first, second = poll.readings
    assert first.meter == Meter(Component.GPU, "AMD-a1b2c3d4e5f60711")
    assert first.energy_uj == (1 << 30) * 15_625 // 1_024
    assert (first.power_mw, first.busy) == (141_000, False)
    status = poll.statuses[0]
    assert (status.vendor, status.model, status.driver) == ("amd", "AMD Instinct MI300X", "amdgpu")
    assert (status.pci, status.files) == (PCI, ("dri/renderD129", "dri/card1"))
    assert status.values == {
        "power_watts": 141.0,
        "power_limit_watts": 750.0,
        "utilization_ratio": 0.0,
        "memory_utilization_ratio": 0.0,
        "memory_used_bytes": 17 << 30,
        "memory_total_bytes": 192 << 30,
        "temperature_celsius": 48.0,
        "sm_clock_hertz": 2.1e9,
        "memory_clock_hertz": 1.3e9,
    }
    assert second.meter != first.meter


def test_a_card_without_an_accumulator_has_its_power_integrated(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    machine.amd(0, PCI, metrics=None, watts=55, busy=30)
    (reading,) = opened(machine, StillClock()).poll(processes=False).readings
    assert (reading.energy_uj, reading.power_mw, reading.busy) == (None, 55_000, True)
    assert reading.meter.name == f"AMD-{PCI}"


def test_an_xe_card_is_its_board_not_board_and_package(tmp_path: Path) -> None:
    machine, clock = SHAPES["xe"](tmp_path), StillClock()
    sensor = opened(machine, clock)
    sensor.poll(processes=False)
    clock.pass_s(2)
    device = machine.root / "sys/devices/0000:4d:00.0"
    hwmon = next(device.glob("hwmon/hwmon*"))
    put(hwmon / "energy1_input", str(5_000_000 + 500_000_000))
    put(device / "tile0/gt0/gtidle/idle_residency_ms", str(1_500))
    poll = sensor.poll(processes=False)
    reading, status = poll.readings[0], poll.statuses[0]
    assert reading.meter == Meter(Component.GPU, "INTEL-0000:4d:00.0")
    assert (reading.energy_uj, reading.wrap_uj, reading.busy) == (505_000_000, REGISTER_UJ, True)
    assert status.vendor == "intel" and status.driver == "xe"
    assert status.values["power_watts"] == pytest.approx(250.0)
    assert status.values["utilization_ratio"] == pytest.approx(0.75)
    assert status.values["memory_total_bytes"] == 48 << 30
    assert status.values["power_limit_watts"] == 300.0


def test_an_i915_card(tmp_path: Path) -> None:
    machine, clock = SHAPES["i915"](tmp_path), StillClock()
    sensor = opened(machine, clock)
    sensor.poll(processes=False)
    clock.pass_s(1)
    poll = sensor.poll(processes=False)
    assert poll.readings[0].energy_uj == 5_000_000
    assert poll.statuses[0].values["utilization_ratio"] == pytest.approx(1.0)
    assert sensor.pace.most_s is not None
    # The register holds 262 kJ: 4.4 minutes at 1 kW.
    assert 1_000 * sensor.pace.most_s < REGISTER_UJ // 1_000_000


def test_cards_of_others_and_without_a_meter_are_none(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    nvidia = machine._card(0, "0000:01:00.0", "0x10de", "0x2330", "nvidia")
    assert nvidia.exists()
    machine._card(1, "0000:00:02.0", "0x8086", "0x9bc8", "i915")  # in the CPU: no hwmon
    assert metered(machine.drm) == []
    with pytest.raises(SensorMissing):
        opened(machine, StillClock())


def test_who_uses_a_card_and_for_how_long(tmp_path: Path) -> None:
    machine, clock = SHAPES["xe"](tmp_path), StillClock()
    card = "0000:4d:00.0"
    machine.client(77, card, 1, "ccs", 1_000, "vram0: 2048 KiB")
    machine.client(77, card, 2, "rcs", 500, "vram0: 1 MiB")
    put(machine.proc / "78/stat", "78 (sh) S")
    sensor = opened(machine, clock)

    def processes() -> dict[int, tuple[int | None, int | None]]:
        reading: Reading = sensor.poll(processes=True).readings[0]
        assert reading.processes is not None
        return {p.pid: (p.sm_time_ns, p.memory_bytes) for p in reading.processes}

    assert processes() == {77: (1_500, 3 << 20)}
    machine.client(77, card, 1, "ccs", 9_000, "vram0: 2048 KiB")
    assert processes() == {77: (8_000, 3 << 20)}
    poll = sensor.poll(processes=False)
    assert poll.readings[0].processes is None, "not asked"
    assert poll.statuses[0].values["memory_used_bytes"] == 3 << 20
    (use,) = sensor.poll(processes=True).readings[0].processes or ()
    assert use.started_ns == 42_420_000_000 - clock.boottime_ns(0)


def test_a_card_that_falls_silent_is_a_failure_and_comes_back(tmp_path: Path) -> None:
    machine, clock = SHAPES["xe"](tmp_path), StillClock()
    sensor = opened(machine, clock)
    file = next((machine.root / "sys/devices/0000:4d:00.0").glob("hwmon/hwmon*/energy1_input"))
    text = file.read_text()
    file.unlink()
    poll = sensor.poll(processes=False)
    assert [f.reason for f in poll.failures] == ["missing"] and len(poll.readings) == 1
    assert len(poll.statuses) == 2, "the card is still there"
    file.write_text(text)
    assert len(sensor.poll(processes=False).readings) == 2


def test_amdsmi_is_only_imported_where_rocm_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def loaded() -> None:
        raise KeyError("ROCM_PATH")  # as the real one does

    monkeypatch.setitem(sys.modules, "amdsmi", None)
    assert amd.load(tmp_path / "rocm") is None
    library = types.ModuleType("amdsmi")
    library.amdsmi_init = loaded  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "amdsmi", library)
    assert amd.load(tmp_path) is None, "it is there, and does not work"
    library.amdsmi_init = lambda: None  # type: ignore[attr-defined]
    library.amdsmi_get_processor_handles = lambda: ["a handle"]  # type: ignore[attr-defined]
    library.amdsmi_get_gpu_device_bdf = lambda _: PCI.upper()  # type: ignore[attr-defined]
    library.amdsmi_get_energy_count = lambda _: {  # type: ignore[attr-defined]
        "energy_accumulator": 1 << 20,
        "counter_resolution": 15.2587890625,
    }
    smi = amd.load(tmp_path)
    assert smi is not None
    assert smi.energy_uj(PCI) == 16_000_000
    assert smi.energy_uj("0000:ff:00.0") is None


def test_errors_of_all_blocks_of_an_amd_card_are_counted(tmp_path: Path) -> None:
    machine, clock = Machine(tmp_path), StillClock()
    device = machine.amd(0, PCI, metrics=None, watts=55)
    sensor = opened(machine, clock)
    assert sensor.poll(processes=False).statuses[0].counts == {}, "the kernel counts none"
    put(device / "ras/umc_err_count", "ue: 1\nce: 20\n")
    put(device / "ras/gfx_err_count", "ue: 0\nce: 3\n")
    put(device / "ras/sdma_err_count", "ue: x\nde: 5\n")
    put(device / "ras/features", "feature mask: 0x1")
    assert sensor.poll(processes=False).statuses[0].counts == {}, "it is asked seldom"
    clock.pass_s(60)
    assert sensor.poll(processes=False).statuses[0].counts == {
        ("ecc_errors", "corrected"): 23,
        ("ecc_errors", "uncorrected"): 1,
    }


@pytest.mark.parametrize("watts", [15, 290])
def test_an_accumulator_that_stands_at_one_value_is_told_by_power(
    tmp_path: Path, watts: int
) -> None:
    machine, clock = Machine(tmp_path), StillClock()
    frozen = gpu_metrics(1, 65_628, power_w=watts, gfx=100)
    machine.amd(0, PCI, metrics=frozen, watts=watts, busy=100, unique_id="x")
    sensor, run, audit = opened(machine, clock), Run(), Auditor()
    for _ in range(150):
        clock.pass_s(1)
        before = run.books
        readings = sensor.poll(processes=True).readings
        run.take(Tick(clock.now_ns(), readings=readings), BookingPolicy())
        audit(before, run.books, run.entries[-1])
    (state,) = run.books.meters.values()
    assert state.stalled and {key.method for key in run.postings} == {Method.INTEGRATED}
    assert state.read_uj == pytest.approx(149 * watts * 1e6, rel=0.02)
