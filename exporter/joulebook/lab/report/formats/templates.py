"""Fill the templates of statements, with each format's own escaping on every value."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jinja2 import Environment

_FOLDER = Path(__file__).parent

LATEX: Mapping[str, str] = {
    "block_start_string": "<%",
    "block_end_string": "%>",
    "variable_start_string": "<<",
    "variable_end_string": ">>",
    "comment_start_string": "<#",
    "comment_end_string": "#>",
}
"""Delimiters for LaTeX, where braces are taken."""


class Safe(str):
    """Text that is escaped already."""

    __slots__ = ()


def filled(
    name: str, escape: Callable[[str], str], values: Mapping[str, object], **delimiters: str
) -> str:
    """Return the template with its values, each of them escaped unless it is `Safe`."""
    text = _environment(escape, delimiters).get_template(name).render(values)
    return text.rstrip("\n") + "\n"


def _environment(escape: Callable[[str], str], delimiters: Mapping[str, str]) -> Environment:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined  # noqa: PLC0415 - 5.6 MiB

    def finalize(value: object) -> str:
        return value if isinstance(value, Safe) else escape(str(value))

    made = Environment(  # noqa: S701 - `finalize` escapes, for formats that are no HTML too
        loader=FileSystemLoader(_FOLDER),
        finalize=finalize,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        **delimiters,  # type: ignore[arg-type]
    )
    # A macro gives plain text, whose values are escaped.
    made.filters["done"] = Safe
    return made
