"""What only a real NVIDIA GPU can show, and the tests' fake driver cannot: `make gpu`.

Counter against power at rest and under a load, the steps in which the counter moves, how long a
burst at a boundary takes, and whether GPM and Xid events come without rights of an administrator.
A trace of it is written for `tests/data`. Ends with 1 if something is not as `docs/` say.
"""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import NamedTuple

import msgspec

from joulebook.clock import Clock, NodeClock
from joulebook.core.energy.audit import Verdict
from joulebook.core.energy.meter import MeterState, begin, take
from joulebook.core.energy.readings import DeviceStatus, Meter
from joulebook.errors import SensorError
from joulebook.node.sensors.nvidia.sensor import NvmlSensor
from joulebook.node.sensors.trace.recorder import TraceWriter
from joulebook.units import NS_PER_MS, NS_PER_S

ADMINISTRATOR = 1 << 21
"""CAP_SYS_ADMIN in the mask of capabilities."""

BURST_S, BURST_EVERY_S = 3.0, 0.002
MOST_STEP_MS = 150.0
"""Counters advance every 20 to 100 ms; with their jitter and ours, no step is longer."""


class Found(NamedTuple):
    """A line of the result; `as_documented` is `None` where nothing is documented."""

    what: str
    value: str
    as_documented: bool | None = None


class Phase(NamedTuple):
    """The meters and the last status of each GPU after some time under one load."""

    meters: dict[Meter, MeterState]
    statuses: dict[Meter, DeviceStatus]
    look_us: float


def watch(
    sensor: NvmlSensor, seconds: int, sleep: Callable[[float], None], trace: TraceWriter | None
) -> Phase:
    """Poll every second as the daemon does, processes every other time."""
    meters: dict[Meter, MeterState] = {}
    statuses: dict[Meter, DeviceStatus] = {}
    costs = []
    for second in range(seconds):
        began = time.thread_time_ns()
        look = sensor.poll(processes=second % 2 == 0)
        costs.append((time.thread_time_ns() - began) / 1_000)
        if trace is not None:
            trace.append(look)
        for reading in look.readings:
            known = meters.get(reading.meter)
            state = begin(reading) if known is None else take(known, reading).state
            # What is pending would be booked by the daemon.
            meters[reading.meter] = msgspec.structs.replace(state, base=state.last, pending=())
        statuses |= {status.meter: status for status in look.statuses}
        sleep(1.0)
    return Phase(meters, statuses, median(costs))


def steps_ms(
    sensor: NvmlSensor, meters: Sequence[Meter], sleep: Callable[[float], None]
) -> dict[Meter, list[float]]:
    """How long each counter stood, in a burst of a few seconds."""
    seen: dict[Meter, list[tuple[int, int]]] = {meter: [] for meter in meters}
    for _ in range(round(BURST_S / BURST_EVERY_S)):
        for reading in sensor.poll_energy(meters):
            steps = seen[reading.meter]
            if reading.energy_uj is not None and (not steps or steps[-1][1] != reading.energy_uj):
                steps.append((reading.t_ns, reading.energy_uj))
        sleep(BURST_EVERY_S)
    # The first is where the burst began, not a step.
    return {
        meter: [(b - a) / NS_PER_MS for (a, _), (b, _) in pairwise(steps[1:])]
        for meter, steps in seen.items()
    }


def findings(
    name: str, phases: dict[str, Phase], meter: Meter, steps: Sequence[float], administrator: bool
) -> Iterator[Found]:
    """What was found of one GPU."""
    status = next(iter(phases.values())).statuses[meter]
    yield Found(f"{name} model", f"{status.model}, driver {status.driver}")
    for load, phase in phases.items():
        state = phase.meters[meter]
        has_counter = state.newest.energy_uj is not None
        audit = state.audit
        yield Found(
            f"{name} counter against power, {load}",
            audit.said if has_counter else "no energy counter",
            audit.verdict is not Verdict.WRONG and not state.stalled,
        )
    if steps:
        longest = max(steps)
        yield Found(
            f"{name} step of the counter",
            f"median {median(steps):.1f} ms, {min(steps):.1f} to {longest:.1f} ms, so a boundary "
            f"takes at most {2 * longest:.0f} ms of burst",
            longest <= MOST_STEP_MS,
        )
    gpm = "tensor_active_ratio" in list(phases.values())[-1].statuses[meter].values
    rights = "with" if administrator else "without"
    yield Found(f"{name} GPM {rights} CAP_SYS_ADMIN", "reported" if gpm else "not reported")
    yield Found(
        f"{name} Xid events {rights} CAP_SYS_ADMIN",
        "registered" if status.last_xid is not None else "not registered",
        status.last_xid is not None,
    )


def check(
    sensor: NvmlSensor,
    clock: Clock,
    *,
    seconds: int,
    load: str = "",
    trace: TraceWriter | None = None,
    sleep: Callable[[float], None] = time.sleep,
    administrator: bool = False,
) -> list[Found]:
    """Watch at rest, then under `load` (a command) if there is one."""
    phases = {"at rest": watch(sensor, seconds, sleep, trace)}
    steps: dict[Meter, list[float]] = {}
    meters = sorted(phases["at rest"].meters)
    if load:
        with subprocess.Popen(shlex.split(load)) as process:
            try:
                sleep(5.0)
                phases["under load"] = watch(sensor, seconds, sleep, trace)
                steps = steps_ms(sensor, meters, sleep)
            finally:
                process.terminate()
    else:
        steps = steps_ms(sensor, meters, sleep)
    found = [Found("node time", f"{clock.now_ns() / NS_PER_S:.0f} s, boot {clock.epoch}")]
    for number, meter in enumerate(meters):
        found += findings(f"GPU {number}", phases, meter, steps[meter], administrator)
    cost_us = max(phase.look_us for phase in phases.values())
    found.append(Found("a look at all GPUs", f"{cost_us:.0f} us of CPU time"))
    return found


def _administrator() -> bool:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("CapEff:"):
            return bool(int(line.split()[1], 16) & ADMINISTRATOR)
    return False


def main() -> int:
    """Check this machine, and print what was found."""
    parser = argparse.ArgumentParser(prog="make gpu ARGS=...", description=__doc__)
    parser.add_argument("--seconds", type=int, default=90, help="of each load (default: 90)")
    parser.add_argument("--load", default="", help="a command that keeps the GPUs busy")
    parser.add_argument("--trace", type=Path, help="where to write the trace (.jsonl.gz)")
    args = parser.parse_args()
    clock = NodeClock()
    sensor = NvmlSensor(clock)
    try:
        sensor.open()
    except SensorError as error:
        print(f"no GPU to check: {error}. {error.remedy}", file=sys.stderr)
        return 2
    try:
        if args.trace is None:
            found = check(sensor, clock, seconds=args.seconds, load=args.load,
                          administrator=_administrator())  # fmt: skip
        else:
            with TraceWriter(args.trace, source="make gpu") as trace:
                found = check(sensor, clock, seconds=args.seconds, load=args.load, trace=trace,
                              administrator=_administrator())  # fmt: skip
    finally:
        sensor.close()
    marks = {True: "ok", False: "DIFFERS", None: ""}
    for each in found:
        print(f"{each.what:48} {each.value:60} {marks[each.as_documented]}".rstrip())
    return int(any(each.as_documented is False for each in found))


if __name__ == "__main__":
    sys.exit(main())
