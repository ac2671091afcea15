"""Fixtures of the sensor tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pynvml
import pytest
from tests.unit.node.sensors.nvidia.nvml_bench import MakeBench


@pytest.fixture(scope="session")
def fake_nvml_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the fake driver is built, once for all tests of a run."""
    return tmp_path_factory.getbasetemp() / "fake-nvml"


@pytest.fixture
def bench(
    tmp_path: Path, fake_nvml_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[MakeBench]:
    """Make a fake driver with given cards, in virtual time, and load it into the binding."""
    make = MakeBench(tmp_path, fake_nvml_dir, monkeypatch)
    yield make
    for scenario in make.scenarios:
        scenario.clear()
        while True:
            try:
                pynvml.nvmlShutdown()
            except pynvml.NVMLError_Uninitialized:
                break
