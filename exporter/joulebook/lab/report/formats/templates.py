"""Templates of statements (`NAME.j2` beside this file), with each format's escaping."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jinja2 import Template

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


def template(name: str, escape: Callable[[str], str], **delimiters: str) -> Template:
    """Return a template; each of its values passes through `escape`."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined  # noqa: PLC0415 - 5.6 MiB

    made = Environment(  # noqa: S701 - `escape` does, for formats that are no HTML too
        loader=FileSystemLoader(_FOLDER),
        finalize=escape,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        **delimiters,  # type: ignore[arg-type]
    )
    return made.get_template(name)
