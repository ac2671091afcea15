"""`joulebook calibrate`: what a GPU says against what a power meter says, as a gain and an offset.

The trace is of `joulebook record`; the meter's CSV has a line for each reading, its time in seconds
since the trace began and its power:

    t_s,watts
    0.0,71.2
    0.5,71.4

Both are taken as means over windows, so that neither steps of the counter nor the noise of a sensor
weigh, and a line is fitted through them (`core.energy.calibration`).
"""

from __future__ import annotations

import csv
import io
import math
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path

import click

from joulebook.commands.shared.options import FILE, Options, argument, command, option
from joulebook.config.describe import quoted
from joulebook.core.energy.calibration import Fit, fit
from joulebook.core.sanitize import one_line
from joulebook.errors import ConfigError
from joulebook.node.sensors.trace.format import Trace, TraceRecord, read_trace
from joulebook.node.sensors.trace.player import find_trace
from joulebook.terminal import Screen
from joulebook.units import MW_PER_W, NS_PER_S, UJ_PER_J
from joulebook.untrusted_files import read_named_text

WINDOW_S = 10.0
MAX_HOLE_S = 5.0
"""Neither is interpolated over a longer hole."""

_MOST_W = 100_000.0
_MOST_BYTES = 64 << 20

Curve = Sequence[tuple[float, float]]
"""Energy in joules since the first point, by seconds."""


def main(args: Options) -> int:
    """Fit and print. Raises `ConfigError` for what cannot be fitted, and says why."""
    if not math.isfinite(args.shift):
        raise ConfigError(f"--shift {args.shift}: expected seconds")
    trace = read_trace(find_trace(str(args.trace)))
    number = _device(trace, args.gpu)
    read, metered = _read(trace.records[number]), _metered(args.meter, args.shift)
    points = list(_windows(read, metered, args.window))
    try:
        found = fit(points)
    except ValueError as error:
        raise ConfigError(f"{args.meter}: {error}") from None
    screen = Screen()
    for line in _lines(trace.header.devices[number].name, args, found):
        screen.say(line)
    return 0


def _lines(name: str, args: Options, found: Fit) -> Iterator[str]:
    whole = found.uncertainty_ratio + args.meter_error
    yield (
        f"# {found.windows} windows of {args.window:g} s: gain {found.gain:.4f} ± "
        f"{2 * found.gain_error:.4f}, offset {found.offset_w:.2f} ± "
        f"{2 * found.offset_error_w:.2f} W (two standard errors)"
    )
    yield f"# the meter's own error is taken as {args.meter_error:.2%} (--meter-error)"
    yield f"[calibration.{_quoted(name)}]"
    yield f"gain = {found.gain:.5f}"
    yield f"offset_w = {found.offset_w:.3f}"
    yield f"uncertainty_ratio = {whole:.5f}"
    source = args.source or f"{args.meter.name} against {args.trace.name}"
    yield f"source = {_quoted(source)}"


def _quoted(text: str) -> str:
    """A TOML basic string: printable, on one line."""
    clean = "".join(each if each.isprintable() else " " for each in text)
    return quoted(clean)


def _device(trace: Trace, wanted: str) -> int:
    names = [device.name for device in trace.header.devices]
    if not wanted and len(names) == 1:
        return 0
    if wanted in names:
        return names.index(wanted)
    if wanted.isdecimal() and len(wanted) < 10 and int(wanted) < len(names):
        return int(wanted)
    raise ConfigError(
        f"--gpu {wanted!r}: expected 0 to {len(names) - 1}, or one of "
        f"{', '.join(map(one_line, names))}: the device whose power the meter shows"
    )


def _read(records: Sequence[TraceRecord]) -> list[Curve]:
    """The energy of a device by its own word, in stretches without a hole or a failed look."""
    stretches: list[list[tuple[float, float]]] = [[]]
    for before, now in pairwise(records):
        t0, t1 = before.t_ns / NS_PER_S, now.t_ns / NS_PER_S
        joules = None
        if before.energy_uj is not None and now.energy_uj is not None:
            joules = (now.energy_uj - before.energy_uj) / UJ_PER_J
        elif before.power_mw is not None and now.power_mw is not None:
            joules = (before.power_mw + now.power_mw) / 2 / MW_PER_W * (t1 - t0)
        # A counter that was reset, or jumped, tells nothing of this time.
        is_sane = joules is not None and 0 <= joules <= _MOST_W * (t1 - t0)
        if not is_sane or joules is None or before.failed or now.failed or t1 - t0 > MAX_HOLE_S:
            stretches.append([])
            continue
        if not stretches[-1]:
            stretches[-1].append((t0, 0.0))
        stretches[-1].append((t1, stretches[-1][-1][1] + joules))
    return [each for each in stretches if each]


def _metered(path: Path, shift_s: float) -> list[Curve]:
    """The same of the meter. Raises `ConfigError` that names file and line."""
    stretches: list[list[tuple[float, float]]] = []
    last: tuple[float, float] | None = None
    reader = csv.DictReader(io.StringIO(read_named_text(path, _MOST_BYTES), newline=""))
    try:
        if missing := {"t_s", "watts"} - set(reader.fieldnames or ()):
            lacking = ", ".join(sorted(missing))
            raise ConfigError(f"{path}:1: no column {lacking}; expected t_s,watts")
        for row in reader:
            where = f"{path}:{reader.line_num}"
            t_s = _number(row, "t_s", where, -1e9, 1e9) + shift_s
            watts = _number(row, "watts", where, 0.0, _MOST_W)
            if last is not None and t_s <= last[0]:
                raise ConfigError(f"{where}: t_s {t_s:g} is not after {last[0]:g}")
            if last is None or t_s - last[0] > MAX_HOLE_S:
                stretches.append([(t_s, 0.0)])
            else:
                joules = (watts + last[1]) / 2 * (t_s - last[0])
                stretches[-1].append((t_s, stretches[-1][-1][1] + joules))
            last = (t_s, watts)
    except csv.Error as error:
        raise ConfigError(f"{path}: not CSV: {error}") from None
    return list(stretches)


def _number(row: dict[str, str | None], name: str, where: str, least: float, most: float) -> float:
    try:
        value = float(row.get(name) or "")
    except ValueError:
        value = math.nan
    if not least <= value <= most:
        raise ConfigError(
            f"{where}: {name} = {row.get(name)!r:.40}: expected {least:g} to {most:g}"
        )
    return value


def _windows(
    read: Sequence[Curve], metered: Sequence[Curve], window_s: float
) -> Iterator[tuple[float, float]]:
    """The mean power of both, in watts, in each window that both cover."""
    for ours in read:
        for theirs in metered:
            t0 = max(ours[0][0], theirs[0][0])
            end = min(ours[-1][0], theirs[-1][0])
            while t0 + window_s <= end:
                t1 = t0 + window_s
                mean_w = ((_at(curve, t1) - _at(curve, t0)) / window_s for curve in (ours, theirs))
                yield next(mean_w), next(mean_w)
                t0 = t1


def _at(curve: Curve, t_s: float) -> float:
    """Energy at an instant that the curve covers."""
    i = min(max(bisect_left(curve, (t_s, -math.inf)), 1), len(curve) - 1)
    (t0, e0), (t1, e1) = curve[i - 1], curve[i]
    return e0 + (e1 - e0) * (t_s - t0) / (t1 - t0)


@command()
@argument("trace", type=FILE, help="A trace of `joulebook record`.")
@argument("meter", type=FILE, help="Readings of the power meter: CSV with t_s,watts.")
@option(
    "--gpu",
    default="",
    metavar="GPU",
    help="The measured GPU: its index in the trace, or its name.",
)
@option(
    "--shift",
    type=float,
    default=0.0,
    metavar="SECONDS",
    help="Seconds to add to the meter's times, so that 0 is the start of the trace.",
)
@option(
    "--window",
    type=click.FloatRange(1, 3600),
    default=WINDOW_S,
    show_default=True,
    metavar="SECONDS",
    help="Seconds over which the means are compared.",
)
@option(
    "--meter-error",
    type=click.FloatRange(0, 1),
    default=0.01,
    show_default=True,
    metavar="RATIO",
    help="The meter's own error, from its data sheet; added to the remaining error of the fit.",
)
@option("--source", default="", metavar="TEXT", help="Who measured it, with what, and when.")
def calibrate(options: Options) -> int:
    """Fit a GPU's readings to a power meter, and print the resulting [calibration]."""
    return main(options)
