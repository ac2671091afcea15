from __future__ import annotations

import re

import pytest
from tests.unit.metrics.sample import HEALTH

from joulebook.metrics import dcgm
from joulebook.metrics.catalogue import (
    BY_NAME,
    CATALOGUE,
    GAP_REASONS,
    GPU_GAP_REASONS,
    SENSOR_ERROR_REASONS,
)
from joulebook.metrics.catalogue_gpu import DEVICE_GAUGES
from joulebook.metrics.metric import Kind, Metric, Quantum
from joulebook.node.sensors.nvidia.errors import MEANINGS

FORBIDDEN = {"job", "instance", "pod", "namespace", "node", "cluster", "le", "quantile"}
UNITS = {"", "joules", "watts", "seconds", "bytes", "ratio", "celsius", "hertz", "grams"}


@pytest.mark.parametrize("metric", CATALOGUE, ids=lambda m: m.name)
def test_metric_follows_the_conventions(metric: Metric) -> None:
    assert re.fullmatch(r"(joulebook|process)_[a-z][a-z0-9_]*", metric.name)
    assert not FORBIDDEN & set(metric.labels)
    assert len(set(metric.labels)) == len(metric.labels)
    assert all(re.fullmatch(r"[a-z][a-z_]*", label) for label in metric.labels)
    assert metric.unit in UNITS
    stem = metric.name.removesuffix("_total")
    assert not metric.unit or stem.endswith(f"_{metric.unit}")
    assert metric.name.endswith("_total") == (metric.kind is Kind.COUNTER)
    # Neither format would need to escape it, nor would the table of the documentation.
    assert metric.help.endswith(".")
    assert not set('"\\\n|') & set(metric.help)


def test_reasons_that_begin_at_zero_are_real_and_documented() -> None:
    codes = {meaning.reason for meaning in MEANINGS.values()}
    assert set(GPU_GAP_REASONS) | set(SENSOR_ERROR_REASONS["nvml"]) <= codes
    reported = BY_NAME["joulebook_gap_seconds_total"].help
    assert all(reason in reported for reason in (*GAP_REASONS, *GPU_GAP_REASONS))
    assert "is booked once it is read again" in reported
    reported = BY_NAME["joulebook_sensor_errors_total"].help
    assert all(reason in reported for reason in SENSOR_ERROR_REASONS["nvml"])


def test_names_are_unique() -> None:
    assert len(BY_NAME) == len(CATALOGUE)
    assert not BY_NAME.keys() & {metric.name for metric in dcgm.METRICS}


def test_all_energy_is_quantised() -> None:
    for metric in CATALOGUE:
        assert (metric.quantum is Quantum.JOULES) == (metric.unit == "joules")


def test_all_money_and_co2e_is_quantised() -> None:
    for metric in CATALOGUE:
        assert (metric.quantum is Quantum.GRAMS) == (metric.unit == "grams")
        paid = metric.kind is Kind.COUNTER and "currency" in metric.labels
        assert (metric.quantum is Quantum.MONEY) == paid


def test_device_gauges_are_named_for_their_values() -> None:
    assert set(DEVICE_GAUGES) == {
        "power_watts",
        "power_limit_watts",
        "utilization_ratio",
        "memory_utilization_ratio",
        "encoder_utilization_ratio",
        "decoder_utilization_ratio",
        "memory_used_bytes",
        "memory_total_bytes",
        "temperature_celsius",
        "sm_clock_hertz",
        "memory_clock_hertz",
        *HEALTH.keys() - {"pcie_bytes_transmit", "pcie_bytes_receive", "memory_reserved_bytes"},
    }
    for key, metric in DEVICE_GAUGES.items():
        assert metric.name == f"joulebook_gpu_{key}"


def test_owner_stands_on_the_counters() -> None:
    """Joining an `_info` series is slow and breaks when a label changes."""
    for name, metric in BY_NAME.items():
        if name.startswith(("joulebook_workload", "joulebook_experiment")) and metric.unit:
            assert {"user", "account", "experiment"} <= set(metric.labels)
