# SPDX-License-Identifier: Apache-2.0
"""Make the shipped traces from the CSV files of GPU_Power_Benchmark (MIT, Zeyu Yang).

    python tests/data/make_traces.py gpb_a100_power_12ms.csv gpb_v100_power_12ms.csv

The A100 gets an energy counter as NVML would show it: the trapezoid integral of the measured
instantaneous power, exact in integers, seen in ticks of 100 ms and floored to millijoules. The
V100 keeps power only. Rows that share a millisecond are merged into the last of them.
"""

from __future__ import annotations

import csv
import gzip
import sys
from collections.abc import Iterator
from datetime import datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import msgspec

from joulebook.node.sensors.trace.format import KIND, VERSION, Header, TraceDevice, TraceRecord
from joulebook.node.sensors.trace.player import SHIPPED

SOURCE = "https://github.com/JimZeyuYang/GPU_Power_Benchmark"
LICENCE = "MIT, (c) 2023 Zeyu Yang"
TICK_NS = 100_000_000
COUNTER_BASE_UJ = 1_000_000_000_000  # any counter has a past


class Row(NamedTuple):
    t_ns: int
    power_mw: int
    values: dict[str, float]


def rows(path: Path) -> Iterator[Row]:
    with path.open(newline="") as file:
        reader = csv.reader(file, skipinitialspace=True)
        names = next(reader)
        begun: datetime | None = None
        for fields in reader:
            cell = dict(zip(names, fields, strict=True))
            t = datetime.strptime(cell["timestamp"], "%Y/%m/%d %H:%M:%S.%f")
            begun = begun or t
            yield Row(
                (t - begun) // timedelta(milliseconds=1) * 1_000_000,
                round(float(cell["power.draw.instant [W]"]) * 1000),
                {
                    "utilization_ratio": int(cell["utilization.gpu [%]"]) / 100,
                    "temperature_celsius": int(cell["temperature.gpu"]),
                    "sm_clock_hertz": int(cell["clocks.current.sm [MHz]"]) * 1e6,
                },
            )


def with_counter(measured: list[Row]) -> Iterator[TraceRecord]:
    twice_pj = shown_uj = 0  # twice the integral: trapezoids without halves
    last_tick = -1
    for before, row in pairwise([measured[0], *measured]):
        twice_pj += (before.power_mw + row.power_mw) * (row.t_ns - before.t_ns)
        if row.t_ns // TICK_NS > last_tick:
            last_tick = row.t_ns // TICK_NS
            shown_uj = COUNTER_BASE_UJ + twice_pj // 2_000_000_000 * 1000
        yield TraceRecord(row.t_ns, 0, shown_uj, row.power_mw, values=row.values)


def power_only(measured: list[Row]) -> Iterator[TraceRecord]:
    for row in measured:
        yield TraceRecord(row.t_ns, 0, power_mw=row.power_mw, values=row.values)


def write(name: str, device: TraceDevice, records: Iterator[TraceRecord]) -> None:
    encoder = msgspec.json.Encoder()
    lines = [Header(VERSION, KIND, (device,), SOURCE, LICENCE), *records]
    text = b"".join(encoder.encode(line) + b"\n" for line in lines)
    # No time stamp: the same input gives the same file.
    (SHIPPED / f"{name}.jsonl.gz").write_bytes(gzip.compress(text, 9, mtime=0))


def main(a100: Path, v100: Path) -> None:
    for name, path, device, make in (
        (
            "a100",
            a100,
            TraceDevice(
                "GPU-00000a10-0000-4000-8000-000000000000",
                vendor="nvidia",
                model="NVIDIA A100",
                max_power_mw=800_000,
                note="square-wave load; power measured every ~12 ms by nvidia-smi; energy "
                "integrated from measured power, shown in ticks of 100 ms",
            ),
            with_counter,
        ),
        (
            "v100",
            v100,
            TraceDevice(
                "GPU-00000f10-0000-4000-8000-000000000000",
                vendor="nvidia",
                model="NVIDIA V100",
                max_power_mw=600_000,
                note="square-wave load; power measured every ~10 ms by nvidia-smi; no energy "
                "counter was recorded",
            ),
            power_only,
        ),
    ):
        merged = {row.t_ns: row for row in rows(path)}
        write(name, device, make([merged[t_ns] for t_ns in sorted(merged)]))


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:3]))
