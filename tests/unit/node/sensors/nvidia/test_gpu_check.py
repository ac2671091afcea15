"""The check of a real GPU, tried on the fake driver: `benchmarks/gpu.py`."""

from __future__ import annotations

from pathlib import Path

import pynvml
import pytest
from benchmarks import gpu as gpu_check
from benchmarks.gpu import Found
from tests.fakes.nvml.layout import A100, HOPPER
from tests.fakes.nvml.scenario import Gpu
from tests.unit.node.sensors.nvidia.nvml_bench import SECOND, MakeBench

from joulebook.node.sensors.trace.format import read_trace
from joulebook.node.sensors.trace.recorder import TraceWriter


def checked(make: MakeBench, gpu: Gpu, *faults: str, trace: Path | None = None) -> list[Found]:
    place = make([gpu])
    for function in faults:
        place.scenario.inject(function, pynvml.NVML_ERROR_NO_PERMISSION)

    def sleep(seconds: float) -> None:
        place.scenario.advance(round(seconds * SECOND))

    sensor = place.sensor()
    if trace is None:
        return gpu_check.check(sensor, place.clock, seconds=60, load="sleep 60", sleep=sleep)
    with TraceWriter(trace, source="test") as writer:
        return gpu_check.check(sensor, place.clock, seconds=60, sleep=sleep, trace=writer)


def told(found: list[Found]) -> dict[str, Found]:
    return {each.what.removeprefix("GPU 0 "): each for each in found}


def test_a_hopper_as_the_documents_say(make_trace: Path, bench: MakeBench) -> None:
    found = told(checked(bench, HOPPER, trace=make_trace))
    assert not [each for each in found.values() if each.as_documented is False]
    assert found["model"].value.startswith("NVIDIA H100 80GB HBM3, driver")
    assert found["counter against power, at rest"].value.startswith("agrees with power")
    assert found["GPM without CAP_SYS_ADMIN"].value == "reported"
    assert found["Xid events without CAP_SYS_ADMIN"].value == "registered"
    assert found["step of the counter"].value.startswith("median 100") or (
        found["step of the counter"].value.startswith("median 9")
    )
    trace = read_trace(make_trace)
    assert len(trace.records[0]) == 60 and trace.header.devices[0].model == HOPPER.name


@pytest.fixture
def make_trace(tmp_path: Path) -> Path:
    return tmp_path / "h100.jsonl.gz"


def test_what_differs_is_said(bench: MakeBench) -> None:
    found = told(checked(bench, A100, "nvmlDeviceRegisterEvents"))
    assert found["counter against power, under load"].as_documented
    assert found["GPM without CAP_SYS_ADMIN"].value == "not reported"
    assert found["Xid events without CAP_SYS_ADMIN"] == (
        "GPU 0 Xid events without CAP_SYS_ADMIN", "not registered", False,
    )  # fmt: skip


def test_a_slow_counter_differs(bench: MakeBench) -> None:
    slow = Gpu(idle_mw=300_000, tick_period_ns=400_000_000, tick_jitter_ns=0)
    found = told(checked(bench, slow))
    assert found["step of the counter"].as_documented is False
