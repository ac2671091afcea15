"""A workplace for tests of NVML: a fake driver in virtual time, and a clock that follows it."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from pathlib import Path

import pynvml
import pytest
from tests.fakes.nvml.build import Layout, build
from tests.fakes.nvml.scenario import Gpu, Scenario

from joulebook.clock import Anchor
from joulebook.node.sensors.nvidia.sensor import NvmlSensor

MS = 1_000_000
SECOND = 1_000 * MS
START_NS = 1_000 * SECOND
SHIFT_NS = 5_000 * SECOND  # node time less CLOCK_BOOTTIME: nothing may confuse the two


class ScenarioClock:
    """Node time as the scenario has it; every question costs a nanosecond."""

    epoch = "boot-1"

    def __init__(self, scenario: Scenario) -> None:
        self._scenario = scenario
        self._asked = 0

    def now_ns(self) -> int:
        self._asked += 1
        return self._scenario.now_ns() + SHIFT_NS + self._asked

    def utc_offset_ns(self) -> int:
        now_ns = self._scenario.now_ns()
        return self._scenario.wall_us(now_ns) * 1000 - now_ns - SHIFT_NS

    def boottime_ns(self, t_ns: int) -> int:
        return t_ns - SHIFT_NS

    def anchor(self, t_ns: int) -> Anchor:
        return Anchor(self.epoch, SHIFT_NS, t_ns, self.utc_offset_ns())


class Bench:
    """One test's scenario and what runs over it."""

    def __init__(
        self, scenario: Scenario, library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.scenario = scenario
        self.clock = ScenarioClock(scenario)
        self.sysfs = tmp_path / "sys"
        self.proc = tmp_path / "proc"
        self.proc.mkdir(exist_ok=True)
        monkeypatch.setenv("FAKE_NVML_SCENARIO", str(scenario.path))
        monkeypatch.setattr(pynvml, "nvmlLib", ctypes.CDLL(str(library)))
        monkeypatch.setattr(pynvml, "_nvmlGetFunctionPointer_cache", {})

    def sensor(self) -> NvmlSensor:
        """An opened sensor; its calls are counted from here on."""
        sensor = NvmlSensor(self.clock, sysfs=self.sysfs, proc=self.proc)
        sensor.open()
        self.scenario.reset_calls()
        return sensor

    def start_process(self, pid: int, ticks: int, name: str = "python") -> None:
        """Make `/proc/<pid>/stat` of a process that started so many clock ticks after the boot."""
        folder = self.proc / str(pid)
        folder.mkdir(exist_ok=True)
        fields = ["S", *("0" for _ in range(18)), str(ticks), "0"]
        (folder / "stat").write_text(f"{pid} ({name}) {' '.join(fields)}\n")


class MakeBench:
    """The fixture's value: call it with the cards of the test."""

    def __init__(self, tmp_path: Path, out_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._places = tmp_path, out_dir, monkeypatch
        self.scenarios: list[Scenario] = []

    def __call__(
        self, gpus: Sequence[Gpu] = (Gpu(),), *, layout: Layout = 24, uptime: bool = True,
        order: Sequence[int] | None = None,
    ) -> Bench:  # fmt: skip
        tmp_path, out_dir, monkeypatch = self._places
        path = tmp_path / "scenario"
        scenario = Scenario.create(path, gpus, virtual_now_ns=START_NS, order=order)
        self.scenarios.append(scenario)
        library = build(out_dir, layout=layout, uptime=uptime)
        return Bench(scenario, library, tmp_path, monkeypatch)
