"""What is printed for people: lines of a terminal's width, tables that fit, colour where wanted.

rich lays out and paints. It is loaded once something is, so that neither a daemon nor
`joulebook job --summary` at the end of a job ever has it.
"""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Container, Mapping, Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple, TextIO

if TYPE_CHECKING:
    from rich.console import Console, OverflowMethod

_LEAST_WIDTH = 40
"""No table fits in less; a narrower terminal wraps."""

_NO_LIMIT = 10_000

_USUAL_SIZE = os.terminal_size((80, 24))


@functools.cache
def _console(width: int, *, colour: bool = False) -> Console:
    from rich.console import Console  # noqa: PLC0415 - late, see above

    system: Literal["standard"] | None = "standard" if colour else None
    return Console(width=width, color_system=system, force_terminal=colour, _environ={})


def columns(text: str) -> int:
    """How many columns of a terminal the text takes."""
    from rich.cells import cell_len  # noqa: PLC0415

    return cell_len(text)


def pad(text: str, width: int) -> str:
    """The text filled up with spaces to `width` columns."""
    return text + " " * (width - columns(text))


def cut(text: str, width: int) -> str:
    """The text in at most `width` columns; what was cut off is an ellipsis."""
    from rich.text import Text  # noqa: PLC0415

    made = Text(text)
    made.truncate(max(width, 0), overflow="ellipsis")
    return made.plain if width > 0 else ""


def wrap(text: str, width: int, head: str = "") -> list[str]:
    """`head`, and the text beside it in lines of at most `width` columns; at least one line.

    Lines are broken between words, and nothing is lost: a word that is too long, such as a path,
    goes on in the next line.
    """
    from rich.text import Text  # noqa: PLC0415

    margin = columns(head)
    room = max(width - margin, 1)
    lines = Text(text).wrap(_console(room), room, overflow="fold")
    shown = (line.plain.strip() for line in lines)
    return [f"{' ' * margin if n else head}{each}".rstrip() for n, each in enumerate(shown)]


class Column(NamedTuple):
    """A column of a table.

    Attributes:
        title: What stands over it.
        right: Whether it holds figures, which stand right.
        name: Whether it holds names, which go on in the next line where there is no room.
        spare: Above 0 for a column that is left out where there is no room, the one with the
            highest number first; 1 only where the narrowest of names do not help.

    """

    title: str
    right: bool = False
    name: bool = False
    spare: int = 0


_LEGIBLE, _LEAST = 24, 12
"""Names have so many columns before others are left out for them; and at the least."""


class Screen:
    """Where a command prints: how wide it is, and whether it takes colour."""

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
        """Columns, now: a window may be resized. What is no terminal is as wide as is asked for."""
        if not self.is_terminal:
            reported = self._environ.get("COLUMNS", "")
            asked = int(reported) if reported.isdecimal() and len(reported) < 5 else 0
            return max(asked, _LEAST_WIDTH) if asked else 120
        return max(self._size().columns, _LEAST_WIDTH)

    @property
    def table_width(self) -> int:
        """Columns that a table may take: all that it needs where a program reads it."""
        if self.is_terminal or self._environ.get("COLUMNS"):
            return self.width
        return _NO_LIMIT

    @property
    def height(self) -> int:
        """Lines, now."""
        return max(self._size().lines, 4)

    def _size(self) -> os.terminal_size:
        # The terminal itself, not COLUMNS and LINES: those stay as they were when it is resized.
        try:
            size = os.get_terminal_size(self.stream.fileno())
        except (OSError, ValueError):
            return _USUAL_SIZE
        # A serial line does not know its size.
        return size if size.columns and size.lines else _USUAL_SIZE

    def paint(self, text: str, style: str) -> str:
        """The text in a style (`bold`, `dim`, `red`, ...), if colour is wanted here."""
        if not self.colour:
            return text
        from rich.color import ColorSystem  # noqa: PLC0415
        from rich.style import Style  # noqa: PLC0415

        return Style.parse(style).render(text, color_system=ColorSystem.STANDARD)

    def table(
        self,
        cols: Sequence[Column],
        rows: Sequence[Sequence[str]],
        *,
        width: int = 0,
        fold: bool = True,
        dim: Container[int] = (),
    ) -> list[str]:
        """Return the titles and the rows as lines of at most `width` columns (`table_width`).

        Figures are never cut: where there is no room, names take more lines (without `fold` they
        are cut) and spare columns are left out; where that is not enough, the lines are wider.
        `dim` are rows of lesser weight.
        """
        from rich.table import Table  # noqa: PLC0415
        from rich.text import Text  # noqa: PLC0415

        width = width or self.table_width
        natural = [
            max(columns(text) for text in (col.title, *(row[i] for row in rows)))
            for i, col in enumerate(cols)
        ]
        used = list(range(len(cols)))

        def takes(of_names: int) -> int:
            """How wide the table is if names have so many columns."""
            widths = (min(natural[i], of_names) if cols[i].name else natural[i] for i in used)
            return sum(widths) + 2 * (len(used) - 1)

        for of_names, kept in ((_LEGIBLE, 1), (_LEAST, 0)):
            while takes(of_names) > width and any(cols[i].spare > kept for i in used):
                used.remove(max(used, key=lambda i: cols[i].spare))
        made = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim")
        for name, right, is_name, _ in (cols[i] for i in used):
            made.add_column(Text(name), justify="right" if right else "left", no_wrap=not is_name)
        overflow: OverflowMethod = "fold" if fold else "ellipsis"
        for n, row in enumerate(rows):
            cells = (Text(row[i], no_wrap=not fold, overflow=overflow) for i in used)
            made.add_row(*cells, style="dim" if n in dim else None)
        console = _console(max(width, takes(_LEAST)), colour=self.colour)
        with console.capture() as shown:
            console.print(made)
        return [line.rstrip() for line in shown.get().splitlines()]

    def say(self, text: str = "") -> None:
        """Print a line. What this terminal's character set lacks becomes a question mark."""
        try:
            self.stream.write(f"{text}\n")
        except UnicodeEncodeError:
            charset = self.stream.encoding or "ascii"
            self.stream.write(f"{text.encode(charset, 'replace').decode(charset)}\n")
