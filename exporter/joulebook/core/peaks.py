"""Peak arithmetic rates of GPU models, from their makers' datasheets.

For the compute a lab *could* have done (PFLOP/s-days: peak x time, as in OpenAI's "AI and
Compute"), never for energy. All figures are dense: where a datasheet states them with 2:4
sparsity, they are halved. A model that is not in the table has no peak, and none is guessed.
"""

from __future__ import annotations

import functools
from fnmatch import fnmatchcase
from typing import NamedTuple

TERA = 10**12


class Peak(NamedTuple):
    """The peak of one GPU in one precision, in FLOP per second, and where the figure is from."""

    precision: str
    flops: int
    source: str


class _Model(NamedTuple):
    """GPUs by the name the driver gives them, and TFLOP/s (dense) as the datasheet has them.

    `half` counts for fp16 and bf16, whose rates are the same on all of these; before Ampere there
    is no bf16. 0: the datasheet states none.
    """

    patterns: tuple[str, ...]
    source: str
    fp64: float
    fp32: float
    tf32: float
    half: float
    fp8: float = 0
    bf16: bool = True

    def peaks(self) -> tuple[Peak, ...]:
        rates = {
            "fp64": self.fp64,
            "fp32": self.fp32,
            "tf32": self.tf32,
            "fp16": self.half,
            "bf16": self.half if self.bf16 else 0,
            "fp8": self.fp8,
        }
        return tuple(
            Peak(precision, round(tflops * TERA), self.source)
            for precision, tflops in rates.items()
            if tflops
        )


_MODELS = (
    _Model(("*B200*",), "NVIDIA HGX B200 datasheet", 37, 75, 1125, 2250, 4500),
    _Model(("*GH200*",), "NVIDIA GH200 datasheet", 34, 67, 494.5, 989.5, 1979),
    _Model(("*H200 NVL*",), "NVIDIA H200 datasheet", 30, 60, 417.5, 835.5, 1670.5),
    _Model(("*H200*",), "NVIDIA H200 datasheet", 34, 67, 494.5, 989.5, 1979),
    _Model(("*H100 NVL*",), "NVIDIA H100 datasheet", 30, 60, 417.5, 835.5, 1670.5),
    _Model(("*H100 PCIe*",), "NVIDIA H100 PCIe datasheet", 26, 51, 378, 756, 1513),
    _Model(("*H100*",), "NVIDIA H100 datasheet", 34, 67, 494.5, 989.5, 1979),
    _Model(("*A100*",), "NVIDIA A100 datasheet", 9.7, 19.5, 156, 312),
    _Model(("*A30",), "NVIDIA A30 datasheet", 5.2, 10.3, 82, 165),
    _Model(("*A40",), "NVIDIA A40 datasheet", 0, 37.4, 74.8, 149.7),
    _Model(("*A10",), "NVIDIA A10 datasheet", 0, 31.2, 62.5, 125),
    _Model(("*RTX A6000*",), "NVIDIA RTX A6000 datasheet", 0, 38.7, 77.4, 154.8),
    _Model(("*L4",), "NVIDIA L4 datasheet", 0, 30.3, 60, 121, 242.5),
    _Model(("*L40",), "NVIDIA L40 datasheet", 0, 90.5, 90.5, 181, 362),
    _Model(("*L40S",), "NVIDIA L40S datasheet", 0, 91.6, 183, 362, 733),
    _Model(("*RTX 4090*",), "NVIDIA Ada whitepaper", 0, 82.6, 82.6, 165.2, 330.3),
    _Model(("*RTX 3090",), "NVIDIA GA102 whitepaper", 0, 35.6, 35.6, 71),
    _Model(("*V100-SXM*",), "NVIDIA V100 datasheet", 7.8, 15.7, 0, 125, bf16=False),
    _Model(("*V100-PCIE*",), "NVIDIA V100 datasheet", 7, 14, 0, 112, bf16=False),
    _Model(("*V100S*",), "NVIDIA V100 datasheet", 8.2, 16.4, 0, 130, bf16=False),
    _Model(("*Tesla T4", "NVIDIA T4"), "NVIDIA T4 datasheet", 0, 8.1, 0, 65, bf16=False),
    _Model(("*P100-SXM*",), "NVIDIA P100 datasheet", 5.3, 10.6, 0, 21.2, bf16=False),
    _Model(("*P100-PCIE*",), "NVIDIA P100 datasheet", 4.7, 9.3, 0, 18.7, bf16=False),
    _Model(("*MI300X*",), "AMD MI300X datasheet", 81.7, 163.4, 653.7, 1307.4, 2614.9),
    _Model(("*MI250X*",), "AMD MI250X datasheet", 47.9, 47.9, 0, 383),
    _Model(("*MI210*",), "AMD MI210 datasheet", 22.6, 22.6, 0, 181),
)
"""The first that fits counts. fp64 and fp32 are those of the vector units, the rest of the matrix
units ("tensor cores"), which is what training uses."""


@functools.cache
def peaks_of(model: str) -> tuple[Peak, ...]:
    """The peaks of a GPU model by the name its driver gives it; none, if it is not known."""
    for known in _MODELS:
        if any(fnmatchcase(model, pattern) for pattern in known.patterns):
            return known.peaks()
    return ()
