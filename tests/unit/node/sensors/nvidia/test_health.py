"""What GPUs tell of their health, and of the use of their silicon; absent where they do not."""

from __future__ import annotations

import re
from dataclasses import replace

import pynvml
import pytest
from tests.fakes.nvml.layout import A100, HOPPER, V100
from tests.fakes.nvml.scenario import Gpu
from tests.unit.node.sensors.nvidia.nvml_bench import MS, SECOND, Bench, MakeBench

from joulebook.core.energy.readings import DeviceStatus, Reading
from joulebook.core.ledger.state import Books
from joulebook.metrics.catalogue_gpu import DEVICE_COUNTERS, DEVICE_GAUGES
from joulebook.metrics.dcgm import ABSENT, METRICS, collect_dcgm
from joulebook.metrics.exposition import Exposition
from joulebook.metrics.snapshot import Snapshot
from joulebook.node.sensors.nvidia.sensor import NvmlSensor

MIB = 1 << 20

DASHBOARD_12239 = {
    "DCGM_FI_DEV_GPU_TEMP",
    "DCGM_FI_DEV_POWER_USAGE",
    "DCGM_FI_DEV_SM_CLOCK",
    "DCGM_FI_DEV_GPU_UTIL",
    "DCGM_FI_DEV_FB_USED",
    "DCGM_FI_PROF_GR_ENGINE_ACTIVE",
    "DCGM_FI_PROF_PIPE_TENSOR_ACTIVE",
}
"""All that Grafana's dashboard 12239 asks for, in any of its revisions."""

OPENCOST = {"DCGM_FI_PROF_GR_ENGINE_ACTIVE", "DCGM_FI_DEV_DEC_UTIL"}
"""What OpenCost's scraper of DCGM keeps (modules/collector-source/pkg/scrape/dcgm.go)."""

DEFAULT_COUNTERS = {
    *("SM_CLOCK", "MEM_CLOCK", "MEMORY_TEMP", "GPU_TEMP", "POWER_USAGE"),
    *("TOTAL_ENERGY_CONSUMPTION", "PCIE_REPLAY_COUNTER", "GPU_UTIL", "MEM_COPY_UTIL", "ENC_UTIL"),
    *("DEC_UTIL", "XID_ERRORS", "FB_FREE", "FB_USED", "FB_RESERVED", "UNCORRECTABLE_REMAPPED_ROWS"),
    *("CORRECTABLE_REMAPPED_ROWS", "ROW_REMAP_FAILURE"),
}
LEFT_OUT = {"NVLINK_BANDWIDTH_TOTAL", "VGPU_LICENSE_STATUS"}
PROFILED = {
    *("GR_ENGINE_ACTIVE", "PIPE_TENSOR_ACTIVE", "DRAM_ACTIVE", "PCIE_TX_BYTES", "PCIE_RX_BYTES"),
}


def looked(
    bench: MakeBench, gpu: Gpu, seconds: int = 5
) -> tuple[Bench, NvmlSensor, Reading, DeviceStatus]:
    place = bench([gpu])
    sensor = place.sensor()
    sensor.poll(processes=True)
    return (place, sensor, *again(place, sensor, seconds))


def again(place: Bench, sensor: NvmlSensor, seconds: int = 5) -> tuple[Reading, DeviceStatus]:
    place.scenario.advance(seconds * SECOND)
    poll = sensor.poll(processes=True)
    return poll.readings[0], poll.statuses[0]


def test_a_hopper_tells_its_health_and_what_was_at_work(bench: MakeBench) -> None:
    place, sensor, *_ = looked(bench, HOPPER)
    place.scenario.set_gpm(0, m1=90, m2=80, m3=50, m5=40, m10=30, m11=1, m12=2, m13=3)
    place.scenario.set_gpm(0, m20=100, m21=200, m60=300, m61=400)
    reading, status = again(place, sensor)
    assert reading.tensor_ppm == 400_000
    told = {name: status.values[name] for name in status.values if name in DEVICE_GAUGES}
    assert {
        "memory_temperature_celsius": 51,
        "performance_state": 0,
        "pcie_generation": 5,
        "pcie_lanes": 16,
        "remapped_rows_pending": 1,
        "row_remapping_failed": 0,
        "graphics_active_ratio": 0.9,
        "sm_active_ratio": 0.8,
        "sm_occupancy_ratio": 0.5,
        "tensor_active_ratio": 0.4,
        "dram_active_ratio": 0.3,
        "fp64_active_ratio": 0.01,
        "fp32_active_ratio": 0.02,
        "fp16_active_ratio": 0.03,
    }.items() <= told.items()
    assert "retired_pages_pending" not in told
    moved = {key: n for key, n in status.counts.items() if key[0].endswith("_bytes")}
    assert moved == pytest.approx({
        ("pcie_bytes", "transmit"): 500 * MIB,
        ("pcie_bytes", "receive"): 1000 * MIB,
        ("nvlink_bytes", "receive"): 1500 * MIB,
        ("nvlink_bytes", "transmit"): 2000 * MIB,
    }, rel=1e-6)  # fmt: skip
    assert {key: n for key, n in status.counts.items() if key not in moved} == {
        ("ecc_errors", "corrected"): 7,
        ("ecc_errors", "uncorrected"): 1,
        ("remapped_rows", "corrected"): 0,
        ("remapped_rows", "uncorrected"): 2,
        ("nvlink_errors", "crc_flit"): 4,
        ("nvlink_errors", "crc_data"): 0,
        ("nvlink_errors", "replay"): 5,
        ("nvlink_errors", "recovery"): 0,
        ("pcie_replay", ""): 0,
    }
    _, status = again(place, sensor)
    assert status.counts["pcie_bytes", "transmit"] == pytest.approx(1000 * MIB, rel=1e-6)


def test_what_a_card_does_not_tell_is_absent(bench: MakeBench) -> None:
    *_, reading, status = looked(bench, A100)
    assert reading.tensor_ppm is None
    assert not any(name.endswith("_active_ratio") for name in status.values)
    assert ("pcie_bytes", "transmit") not in status.counts
    assert status.values["pcie_generation"] == 4


def test_an_old_card_retires_pages(bench: MakeBench) -> None:
    *_, status = looked(bench, V100)
    assert status.counts == {
        ("ecc_errors", "corrected"): 1,
        ("ecc_errors", "uncorrected"): 0,
        ("retired_pages", "corrected"): 2,
        ("retired_pages", "uncorrected"): 1,
    }
    assert status.values["retired_pages_pending"] == 0
    assert not {"pcie_generation", "remapped_rows_pending"} & status.values.keys()


def test_a_card_without_a_sensor_in_its_memory_says_0(bench: MakeBench) -> None:
    *_, status = looked(bench, Gpu(figures={82: 0}))
    assert status.counts == {} and "memory_temperature_celsius" not in status.values


@pytest.mark.parametrize(
    "function", ["nvmlGpmSampleGet", "nvmlGpmMetricsGet", "nvmlGpmSampleAlloc"]
)
def test_gpm_without_rights_is_absent(bench: MakeBench, function: str) -> None:
    place = bench([HOPPER])
    place.scenario.inject(function, pynvml.NVML_ERROR_NO_PERMISSION)
    sensor = place.sensor()
    sensor.poll(processes=True)
    reading, status = again(place, sensor)
    assert reading.tensor_ppm is None and "tensor_active_ratio" not in status.values
    assert reading.energy_uj is not None


def test_a_card_that_is_cut_tells_no_tensor_activity_of_the_whole(bench: MakeBench) -> None:
    place = bench([HOPPER])
    place.scenario.set_mig_mode(0, True)
    sensor = place.sensor()
    sensor.poll(processes=True)
    assert again(place, sensor)[0].tensor_ppm is None


def test_all_of_it_is_asked_on_the_slow_beat_only(bench: MakeBench) -> None:
    place, sensor, *_ = looked(bench, HOPPER)
    place.scenario.reset_calls()
    for _ in range(5):
        place.scenario.advance(SECOND)
        status = sensor.poll(processes=False).statuses[0]
    calls = place.scenario.calls()
    assert "nvmlGpmSampleGet" not in calls and "nvmlDeviceGetPerformanceState" not in calls
    assert calls["nvmlDeviceGetFieldValues"] == 5
    assert "tensor_active_ratio" in status.values, "what was told last stands"
    for after_s, asked in ((5, 2), (5, 1)):
        place.scenario.reset_calls()
        place.scenario.advance(after_s * SECOND)
        sensor.poll(processes=True)
        calls = place.scenario.calls()
        assert calls["nvmlDeviceGetFieldValues"] == asked
        assert calls["nvmlGpmSampleGet"] == calls["nvmlGpmMetricsGet"] == 1
    place.scenario.reset_calls()
    place.scenario.advance(SECOND)
    sensor.poll(processes=True)
    assert "nvmlGpmSampleGet" not in place.scenario.calls(), "lists of a shared card come faster"


def test_samples_that_are_too_near_are_not_taken(bench: MakeBench) -> None:
    place, sensor, _, before = looked(bench, HOPPER)
    place.scenario.advance(50 * MS)
    poll = sensor.poll(processes=True)
    assert poll.readings[0].tensor_ppm is None
    assert poll.statuses[0].counts == before.counts


def test_xids_are_counted_by_number_and_the_last_is_known(
    bench: MakeBench, caplog: pytest.LogCaptureFixture
) -> None:
    place = bench([HOPPER, A100])
    place.scenario.raise_xid(0, 31)  # before the daemon began
    sensor = place.sensor()
    assert [each.last_xid for each in sensor.poll(processes=False).statuses] == [0, 0]
    for xid in (79, 48, 79):
        place.scenario.raise_xid(1, xid)
    one, other = sensor.poll(processes=False).statuses
    assert one.counts == {}
    assert other.counts == {("xid_errors", "79"): 2, ("xid_errors", "48"): 1}
    assert other.last_xid == 79 and "Xid 48" in caplog.text
    # A counter, not a state that never clears; and a reload of the driver forgets nothing.
    place.scenario.reload()
    place.scenario.advance(20 * SECOND)
    sensor.poll(processes=False)
    place.scenario.raise_xid(1, 48)
    other = sensor.poll(processes=True).statuses[1]
    assert {key: n for key, n in other.counts.items() if key[0] == "xid_errors"} == {
        ("xid_errors", "79"): 2,
        ("xid_errors", "48"): 2,
    }


@pytest.mark.parametrize("function", ["nvmlEventSetCreate", "nvmlDeviceRegisterEvents"])
def test_without_events_there_is_no_xid_at_all(bench: MakeBench, function: str) -> None:
    place = bench([A100])
    place.scenario.inject(function, pynvml.NVML_ERROR_NOT_SUPPORTED)
    sensor = place.sensor()
    place.scenario.raise_xid(0, 79)
    (status,) = sensor.poll(processes=True).statuses
    assert status.last_xid is None
    assert ("xid_errors", "79") not in status.counts


def test_figures_that_cannot_be_are_refused_and_counted(bench: MakeBench) -> None:
    place, sensor, *_ = looked(bench, replace(A100, pstate=32, pcie_width=4096))
    place.scenario.set_figure(0, 5, (1 << 64) - 1)
    place.scenario.set_figure(0, 144, 7)
    _, status = again(place, sensor, 5)
    assert ("ecc_errors", "corrected") not in status.counts
    assert not {"remapped_rows_pending", "performance_state", "pcie_lanes"} & status.values.keys()
    assert sensor.poll(processes=False).rejected["health_implausible"] == 2


def test_a_counter_of_32_bits_is_one(bench: MakeBench) -> None:
    place, sensor, *_ = looked(bench, A100)
    place.scenario.set_figure(0, 94, (7 << 32) + 3, is_32_bits=True)
    assert again(place, sensor, 5)[1].counts["pcie_replay", ""] == 3


def view_of(status: DeviceStatus) -> Snapshot:
    return Snapshot("node-1", Books(), statuses=(status,), now_ns=status.t_ns)


def page(status: DeviceStatus, *compat: str) -> str:
    def well() -> tuple[bool, str]:
        return True, ""

    def fails(family: str, error: Exception) -> None:
        raise AssertionError(family) from error

    shown = Exposition(view_of(status), well, well, compat=compat, on_error=fails)
    return shown.metrics()[0].decode()


def test_a_card_has_at_most_60_series_whatever_it_tells(bench: MakeBench) -> None:
    everything = replace(HOPPER, figures={**HOPPER.figures, 29: 3, 30: 1, 31: 1})
    place, sensor, *_ = looked(bench, everything)
    for xid in (79, 13, 48, 94, *range(100, 140), 79, 48):
        place.scenario.raise_xid(0, xid)
    _, status = again(place, sensor)
    series = [line for line in page(status).splitlines() if line.startswith("joulebook_gpu_")]
    assert 45 < len(series) <= 60
    shown = {line.partition("{")[0] for line in series}
    known = {m.name for m in (*DEVICE_COUNTERS.values(), *DEVICE_GAUGES.values())}
    assert known - shown == {
        # Of a card that remaps rows there are none.
        "joulebook_gpu_retired_pages",
        "joulebook_gpu_retired_pages_pending",
    }
    xids = {label: n for (name, label), n in status.counts.items() if name == "xid_errors"}
    assert xids == {"79": 2, "13": 1, "48": 2, "other": 41}


def names(status: DeviceStatus, *compat: str) -> set[str]:
    return set(re.findall(r"^(DCGM_\w+)\{", page(status, *compat), re.MULTILINE))


def test_dashboard_12239_and_opencost_find_all_their_series(bench: MakeBench) -> None:
    *_, hopper = looked(bench, HOPPER)
    shown = names(hopper, "dcgm")
    assert shown >= DASHBOARD_12239 | OPENCOST
    energy = {"DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION"}  # of the books, of which there are none here
    default = {f"DCGM_FI_DEV_{name}" for name in DEFAULT_COUNTERS}
    profiled = {f"DCGM_FI_PROF_{name}" for name in PROFILED}
    assert shown == (default | profiled) - energy
    assert {metric.name for metric in METRICS} == default | profiled


def test_before_hopper_all_but_what_dcgm_profiles_is_there(bench: MakeBench) -> None:
    *_, a100 = looked(bench, A100)
    shown = names(a100, "dcgm")
    assert (DASHBOARD_12239 | OPENCOST) - shown == {
        "DCGM_FI_PROF_GR_ENGINE_ACTIVE",
        "DCGM_FI_PROF_PIPE_TENSOR_ACTIVE",
    }
    default = {f"DCGM_FI_DEV_{name}" for name in DEFAULT_COUNTERS}
    assert shown == default - {"DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION"}
    assert not {f"DCGM_FI_DEV_{name}" for name in LEFT_OUT} & default
    assert {name for name in ABSENT if "DEV" in name} == {f"DCGM_FI_DEV_{n}" for n in LEFT_OUT}


def test_values_are_those_that_dcgm_means(bench: MakeBench) -> None:
    place, sensor, *_ = looked(bench, HOPPER)
    place.scenario.set_gpm(0, m1=90, m5=40, m10=30, m20=100, m21=200)
    place.scenario.raise_xid(0, 48)
    place.scenario.raise_xid(0, 79)
    _, status = again(place, sensor)
    found = {
        each.metric.name: each.samples[0][1]
        for each in collect_dcgm(view_of(status))
        if each.samples
    }
    assert found["DCGM_FI_PROF_GR_ENGINE_ACTIVE"] == pytest.approx(0.9)
    assert found["DCGM_FI_PROF_PIPE_TENSOR_ACTIVE"] == pytest.approx(0.4)
    assert found["DCGM_FI_PROF_DRAM_ACTIVE"] == pytest.approx(0.3)
    assert found["DCGM_FI_PROF_PCIE_TX_BYTES"] == 100 * MIB
    assert found["DCGM_FI_DEV_XID_ERRORS"] == 79, "the last one"
    assert found["DCGM_FI_DEV_MEMORY_TEMP"] == 51
    assert found["DCGM_FI_DEV_FB_RESERVED"] == 600
    parts = [found[f"DCGM_FI_DEV_FB_{name}"] for name in ("USED", "FREE", "RESERVED")]
    assert sum(parts) == HOPPER.memory_total_bytes // MIB
    assert found["DCGM_FI_DEV_UNCORRECTABLE_REMAPPED_ROWS"] == 2


def test_the_label_of_the_host_is_the_older_or_the_newer(bench: MakeBench) -> None:
    *_, status = looked(bench, A100)
    older, newer = page(status, "dcgm"), page(status, "dcgm-hostname")
    assert 'Hostname="node-1"' in older and 'hostname="node-1"' not in older
    assert 'hostname="node-1"' in newer and 'Hostname="node-1"' not in newer
