"""Datasheet peaks: the right row for the names that drivers give."""

from __future__ import annotations

import pytest

from joulebook.core.report.footprint import peaks_of


@pytest.mark.parametrize(
    ("model", "fp16_tflops", "source"),
    [
        ("NVIDIA H100 80GB HBM3", 989.5, "NVIDIA H100 datasheet"),
        ("NVIDIA H100 PCIe", 756, "NVIDIA H100 PCIe datasheet"),
        ("NVIDIA H100 NVL", 835.5, "NVIDIA H100 datasheet"),
        ("NVIDIA H200 NVL", 835.5, "NVIDIA H200 datasheet"),
        ("NVIDIA GH200 480GB", 989.5, "NVIDIA GH200 datasheet"),
        ("NVIDIA A100-SXM4-40GB", 312, "NVIDIA A100 datasheet"),
        ("NVIDIA A100 80GB PCIe", 312, "NVIDIA A100 datasheet"),
        ("Tesla V100-SXM2-16GB", 125, "NVIDIA V100 datasheet"),
        ("Tesla V100-PCIE-32GB", 112, "NVIDIA V100 datasheet"),
        ("NVIDIA L4", 121, "NVIDIA L4 datasheet"),
        ("NVIDIA L40S", 362, "NVIDIA L40S datasheet"),
        ("NVIDIA L40", 181, "NVIDIA L40 datasheet"),
        ("Tesla T4", 65, "NVIDIA T4 datasheet"),
    ],
)
def test_the_peak_of_a_model(model: str, fp16_tflops: float, source: str) -> None:
    peaks = {peak.precision: peak for peak in peaks_of(model)}
    assert peaks["fp16"].flops == fp16_tflops * 10**12
    assert peaks["fp16"].source == source
    assert peaks["fp32"].flops < peaks["fp16"].flops


def test_before_ampere_there_is_no_bf16() -> None:
    assert "bf16" not in {peak.precision for peak in peaks_of("Tesla V100-SXM2-16GB")}
    assert "bf16" in {peak.precision for peak in peaks_of("NVIDIA A100-SXM4-40GB")}


@pytest.mark.parametrize("model", ["", "NVIDIA H9000", "NVIDIA RTX A4000", "Tesla K80"])
def test_no_peak_is_guessed(model: str) -> None:
    assert peaks_of(model) == ()
