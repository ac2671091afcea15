"""What the audit of the counters costs, the integration of power beside them included: its share
of a core, and of recording a reading.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from unittest.mock import patch

import msgspec

from benchmarks.table import Table, median
from joulebook.core.energy import meter
from joulebook.core.energy.meter import MeterState, begin, take
from joulebook.core.energy.readings import Component, Meter, Reading
from joulebook.units import NS_PER_S

GPU = Meter(Component.GPU, "GPU-0")
SECONDS, CARDS = 2_000, 8
LIMIT_PERCENT = 0.02


def run(args: argparse.Namespace) -> list[Table]:
    """The same readings with both and without, in turn, in one process."""
    readings = _readings()
    full, bare = [], []
    for _ in range(3 if args.quick else 9):
        full.append(_cost_ns(readings))
        with (
            patch.object(meter.auditing, "heard", lambda known, _: known),
            patch.object(meter, "summed", lambda _, reading, **__: reading),
        ):
            bare.append(_cost_ns(readings))
    costs = [max(a - b, 0) for a, b in zip(full, bare, strict=True)]
    table = Table(
        f"The audit of {CARDS} cards, read each second",
        ["us a reading", "% of a core", f"of {LIMIT_PERCENT} %", "of recording a reading"],
    )
    each_ns = median([float(cost) for cost in costs])
    percent = 100 * CARDS * each_ns / NS_PER_S
    table.add(
        each_ns / 1_000, percent, percent / LIMIT_PERCENT,
        each_ns / median([float(cost) for cost in full]),
    )  # fmt: skip
    return [table]


def _cost_ns(readings: Sequence[Reading]) -> int:
    """CPU time to record a reading."""
    state: MeterState = begin(readings[0])
    began = time.thread_time_ns()
    for reading in readings[1:]:
        state = take(state, reading).state
        state = msgspec.structs.replace(state, base=state.last, pending=())
    return (time.thread_time_ns() - began) // (len(readings) - 1)


def _readings() -> list[Reading]:
    """Those of a card that rests and works by turns."""
    found, joules = [], 5_000_000
    for second in range(SECONDS):
        busy = second // 400 % 2
        watts = 300 if busy else 60
        joules += watts
        found.append(Reading(
            GPU, (1_000 + second) * NS_PER_S, joules * 1_000_000, watts * 1_000,
            busy=bool(busy), utilization_pct=100 * busy, max_power_mw=1_400_000,
        ))  # fmt: skip
    return found
