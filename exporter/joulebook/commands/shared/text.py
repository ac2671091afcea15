"""Text output of commands: human-readable figures, tables that fit, safe text.

Names of jobs and users come from outside and go through `shown` before they reach a terminal: an
escape sequence in a job name must not move the cursor, retitle a window or alter other figures.
"""

from __future__ import annotations

import os
import sys
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import NamedTuple, TextIO

from joulebook.core import units_text
from joulebook.units import (
    MW_PER_W,
    NS_PER_HOUR,
    NS_PER_MS,
    NS_PER_S,
    PJ_PER_UJ,
    UJ_PER_J,
    kwh_from_uj,
    s_from_ns,
)

UNKNOWN = "not known"
NOTHING = "-"
REPLAYED = (
    "Warning: this energy is from a recorded trace (demo or replay): it was not measured on this "
    "machine, and the jobs may be simulated."
)

_CUT = "…"
_UNFIT = "\ufffd"
_LEAST_WIDTH = 40
"""The least width of a table; a narrower terminal wraps it."""

_NO_LIMIT = 10_000

_USUAL_SIZE = os.terminal_size((80, 24))

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")

_STYLES = {"bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33", "inverse": "7"}


def shown(text: str, limit: int = 200) -> str:
    """Return text from outside on one line, without control, format and unassigned characters."""
    joined = " ".join(text[: 4 * limit].split())
    return cut("".join(_UNFIT if unicodedata.category(c)[0] == "C" else c for c in joined), limit)


def columns(text: str) -> int:
    """Return the number of terminal columns that the text takes."""
    if text.isascii():
        return len(text)
    return sum(
        0
        if unicodedata.category(c) in {"Mn", "Me"}
        else 1 + (unicodedata.east_asian_width(c) in "WF")
        for c in text
    )


def cut(text: str, width: int) -> str:
    """Cut the text to at most `width` columns, with an ellipsis if it was longer."""
    if columns(text) <= width:
        return text
    return _head(text, width - 1).rstrip() + _CUT if width > 0 else ""


def _head(text: str, width: int) -> str:
    """Return as much of the start of a text as fits."""
    used = 0
    for at, c in enumerate(text):
        used += columns(c)
        if used > width:
            return text[:at]
    return text


def pad(text: str, width: int, *, right: bool = False) -> str:
    """Pad the text with spaces to `width` columns, on the left if `right`."""
    fill = " " * (width - columns(text))
    return fill + text if right else text + fill


def wrap(text: str, width: int) -> list[str]:
    """Wrap the text to lines of at most `width` columns; return at least one line.

    A word that is too long, such as a path, continues on the next line.
    """
    lines, line = [], ""
    for word in text.split(" "):
        if line and columns(line) + 1 + columns(word) > width:
            lines.append(line)
            line = ""
        line = f"{line} {word}" if line else word
        while columns(line) > width:
            head = _head(line, width)
            lines.append(head)
            line = line[len(head) :]
    return [*lines, line]


def energy(energy_uj: int) -> str:
    """Format energy to three digits: `812 J`, `1.44 Wh`, `12.4 kWh`."""
    return _spaced(units_text.energy(energy_uj))


def exact_energy(energy_uj: int) -> str:
    """Format energy to the microjoule, and in kWh: `4,320,000.000001 J = 1.2000 kWh`."""
    kwh = kwh_from_uj(energy_uj)
    digits = 4 if abs(energy_uj) >= 36_000 * UJ_PER_J else 7
    return f"{_spaced(units_text.exact(energy_uj))} = {kwh:,.{digits}f} kWh"


def power(power_w: float) -> str:
    """Format power: `87 W`, `2,431 W`."""
    return _spaced(units_text.watts(power_w))


def mean_power_w(energy_uj: int, held_ns: int) -> float | None:
    """Return the mean power of an energy over a time; `None` for no time."""
    return energy_uj * PJ_PER_UJ / held_ns / MW_PER_W if held_ns else None


def gpu_hours(held_ns: int) -> str:
    """Format held time: `12.50 GPU-hours`, `0.0083 GPU-hours (30.0 GPU-seconds)`."""
    hours = held_ns / NS_PER_HOUR
    if hours >= 1:
        return f"{hours:,.2f} GPU-hours"
    return f"{hours:.4f} GPU-hours ({s_from_ns(held_ns):,.1f} GPU-seconds)"


def lasted(duration_ns: int) -> str:
    """Format a duration to the second, or to the millisecond below a minute: `2 h 05 min 09 s`,
    `0.300 s`.
    """
    whole_s, rest_ns = divmod(max(duration_ns, 0), NS_PER_S)
    minutes, s = divmod(whole_s, 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours:,} h {minutes:02d} min {s:02d} s"
    return f"{minutes} min {s:02d} s" if minutes else f"{s}.{rest_ns // NS_PER_MS:03d} s"


def duration(duration_ns: int) -> str:
    """Format a duration in one unit: `0.3 s`, `42 s`, `12 min`, `3.27 h`."""
    return _spaced(units_text.duration(duration_ns))


def seconds(duration_s: float) -> str:
    """Format a duration in seconds likewise."""
    return duration(round(duration_s * NS_PER_S))


def percent(part: int, whole: int) -> str:
    """Format a share: `0 %`, `0.4 %`, `37 %`; 0 and 100 only if exact."""
    return _spaced(units_text.percent(part / whole)) if whole else NOTHING


def size(count: float) -> str:
    """Format a number of bytes: `812 B`, `3.4 GiB`."""
    number, unit = _scaled(count, count)
    return f"{number} {unit}"


def size_of(part: float, whole: float) -> str:
    """Format a part of a number of bytes, in its unit: `3.4/80.0 GiB`."""
    return f"{_scaled(part, whole)[0]}/{size(whole)}"


def _scaled(count: float, like: float) -> tuple[str, str]:
    """Return a count in the unit that suits another, and that unit."""
    power = 0
    while abs(like) >= 1024 and power < len(_UNITS) - 1:
        like, count, power = like / 1024, count / 1024, power + 1
    return f"{count:.1f}" if power and abs(like) < 100 else f"{count:.0f}", _UNITS[power]


def moment(utc_s: float) -> str:
    """Format an instant: `2026-01-31 13:05:09 UTC`."""
    try:
        return datetime.fromtimestamp(utc_s, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    except (OverflowError, ValueError, OSError):
        return UNKNOWN


def several(count: int, one: str, many: str = "") -> str:
    """Format a number and its noun: `1 job`, `1,200 jobs`."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def _spaced(figure: str) -> str:
    # Many terminals show the narrow space of the status page as a gap or a question mark.
    return figure.replace("\u202f", " ")


class Column(NamedTuple):
    """A column of a table.

    Attributes:
        title: Its heading.
        right: Whether it is right-aligned, as figures are.
        least: The least width that its cells may be shortened to; 0: never.
        spare: If above 0, the column is left out if there is no room, highest number first.

    """

    title: str
    right: bool = False
    least: int = 0
    spare: int = 0


_LEGIBLE = 24
"""The width that names are shortened to before a column is left out."""


def table(cols: Sequence[Column], rows: Sequence[Sequence[str]], width: int) -> list[str]:
    """Return the titles and the rows as lines of at most `width` columns.

    Figures are never cut: names are shortened and spare columns left out instead, and if that is
    not enough the lines are wider.
    """
    natural = [
        max([columns(col.title), *(columns(row[i]) for row in rows)]) for i, col in enumerate(cols)
    ]
    used = list(range(len(cols)))

    def tightest(i: int, down_to: int) -> int:
        if not cols[i].least:
            return natural[i]
        return min(natural[i], max(cols[i].least, down_to, columns(cols[i].title)))

    def spread(widths: Iterable[int]) -> int:
        return sum(widths) + 2 * (len(used) - 1)

    while spread(tightest(i, _LEGIBLE) for i in used) > width:
        spare = [i for i in used if cols[i].spare]
        if not spare:
            break
        used.remove(max(spare, key=lambda i: cols[i].spare))
    widths = {i: natural[i] for i in used}
    while spread(widths.values()) > width:
        loose = [i for i in used if widths[i] > tightest(i, 0)]
        if not loose:
            break
        widths[max(loose, key=lambda i: widths[i])] -= 1
    lines = []
    for row in ([col.title for col in cols], *rows):
        cells = [pad(shorten(row[i], widths[i]), widths[i], right=cols[i].right) for i in used]
        lines.append("  ".join(cells).rstrip())
    return lines


def shorten(text: str, width: int) -> str:
    """Shorten the text to `width` columns in its middle, since names of a sweep differ at the
    end.
    """
    if columns(text) <= width:
        return text
    tail_columns = width // 3
    tail = text[::-1]
    tail = _head(tail, tail_columns)[::-1]
    if not tail or unicodedata.combining(tail[0]):
        return cut(text, width)
    return f"{_head(text, width - 1 - columns(tail)).rstrip()}{_CUT}{tail.lstrip()}"


class Screen:
    """The output of a command: its width, and whether it supports color."""

    def __init__(
        self, stream: TextIO | None = None, environ: Mapping[str, str] | None = None
    ) -> None:
        self.stream = sys.stdout if stream is None else stream
        self._environ = os.environ if environ is None else environ
        self.is_terminal = self.stream.isatty()
        # https://no-color.org: any value but an empty one.
        self.colour = (
            self.is_terminal
            and not self._environ.get("NO_COLOR")
            and self._environ.get("TERM") != "dumb"
        )

    @property
    def width(self) -> int:
        """Return the current number of columns; without a terminal, the requested one."""
        if not self.is_terminal:
            reported = self._environ.get("COLUMNS", "")
            return (
                max(int(reported), _LEAST_WIDTH) if reported.isdecimal() and int(reported) else 120
            )
        return max(self._size().columns, _LEAST_WIDTH)

    @property
    def table_width(self) -> int:
        """Return the columns that a table may take: unlimited if not on a terminal."""
        if self.is_terminal or self._environ.get("COLUMNS"):
            return self.width
        return _NO_LIMIT

    @property
    def height(self) -> int:
        """Return the current number of lines."""
        return max(self._size().lines, 4)

    def _size(self) -> os.terminal_size:
        # Ask the terminal: COLUMNS and LINES do not change when it is resized.
        try:
            size = os.get_terminal_size(self.stream.fileno())
        except (OSError, ValueError):
            return _USUAL_SIZE
        # A serial line does not know its size.
        return size if size.columns and size.lines else _USUAL_SIZE

    def paint(self, text: str, style: str) -> str:
        """Return the text in a style (`bold`, `dim`, `red`, ...), if color is enabled."""
        return f"\x1b[{_STYLES[style]}m{text}\x1b[0m" if self.colour and text else text

    def say(self, text: str = "") -> None:
        """Print a line. Characters that the terminal cannot show become question marks."""
        try:
            self.stream.write(f"{text}\n")
        except UnicodeEncodeError:
            charset = self.stream.encoding or "ascii"
            self.stream.write(f"{text.encode(charset, 'replace').decode(charset)}\n")
