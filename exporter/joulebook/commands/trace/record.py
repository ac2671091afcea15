"""Implement `joulebook record`: write the sensors' readings to a trace."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from joulebook.clock import NodeClock
from joulebook.commands.shared.options import FILE, Duration, Options, argument, command, option
from joulebook.commands.shared.text import seconds, several, size
from joulebook.errors import ConfigError, SensorError
from joulebook.node.sensors.contract import PollResult, Sensor
from joulebook.node.sensors.nvidia.sensor import NvmlSensor
from joulebook.node.sensors.trace.recorder import TraceWriter
from joulebook.terminal import Screen

FAILED = 1
LEAST_EVERY_S = 0.001
_PROGRESS_S = 0.5


def main(args: Options) -> int:
    """Record until the time is over or Ctrl-C; the trace is complete in either case."""
    if args.trace.exists():
        raise ConfigError(f"{args.trace} exists and will not be overwritten: give another file")
    errors = Screen(sys.stderr)
    sensor = NvmlSensor(NodeClock())
    try:
        sensor.open()
        first = sensor.poll(processes=False)
    except SensorError as error:
        errors.say(f"joulebook record: {error}. {error.remedy}")
        return FAILED
    try:
        if not first.readings:
            reasons = sorted({failure.reason for failure in first.failures})
            why = f" ({', '.join(reasons)})" if reasons else ""
            errors.say(f"joulebook record: no GPU returned a reading{why}; see `joulebook doctor`")
            return FAILED
        return _record(sensor, first, args, errors)
    finally:
        sensor.close()


def _record(sensor: Sensor, first: PollResult, args: Options, errors: Screen) -> int:
    began = time.monotonic()
    lost = ""
    with TraceWriter(args.trace, source="joulebook record") as trace:
        try:
            lost = _polls(sensor, trace, first, began, args, errors)
        except KeyboardInterrupt:
            pass  # enough was recorded
        finally:
            if errors.is_terminal:
                errors.stream.write("\r\x1b[K")
        lines = trace.records
        late = len(trace.left_out)
    Screen().say(
        f"{args.trace}: {several(lines, 'line')} of {several(len(first.readings), 'GPU')} in "
        f"{seconds(time.monotonic() - began)}, {size(_size(args.trace))}. Replay it with "
        f"`joulebook replay {args.trace}`."
    )
    if late:
        errors.say(
            f"joulebook record: {several(late, 'GPU')} left out: no reading at first, or a "
            "change of the way of measuring"
        )
    if lost:
        errors.say(f"joulebook record: ended early: {lost}")
    return FAILED if lost else 0


def _polls(
    sensor: Sensor,
    trace: TraceWriter,
    poll: PollResult,
    began: float,
    args: Options,
    errors: Screen,
) -> str:
    """Poll and write at even intervals; return why it ended early, if it did."""
    due, reported = began, began
    every_s = max(args.every, LEAST_EVERY_S)
    while True:
        trace.append(poll)
        now = time.monotonic()
        if errors.is_terminal and now - reported >= _PROGRESS_S:
            reported = now
            done = f"{seconds(now - began)} of {seconds(args.duration)}"
            errors.stream.write(f"\r{done}, {several(trace.records, 'line')}\x1b[K")
            errors.stream.flush()
        due = max(due + every_s, now)
        if due > began + args.duration:
            return ""
        time.sleep(due - now)
        try:
            poll = sensor.poll(processes=False)
        except SensorError as error:
            return f"{error}. {error.remedy}"


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


@command()
@argument("trace", type=FILE, help="File to write, compressed if it ends in .gz.")
@option(
    "--for",
    "duration",
    type=Duration(),
    default=60.0,
    metavar="TIME",
    help="How long to record (default: 60s).",
)
@option(
    "--every",
    type=Duration(),
    default=0.1,
    metavar="TIME",
    help="Time between readings (default: 0.1s).",
)
def record(options: Options) -> int:
    """Record this node's sensor readings to a trace."""
    return main(options)
