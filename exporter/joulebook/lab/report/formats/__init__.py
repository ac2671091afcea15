"""The formats of a statement, one file each: a function from a statement to text.

Names come from outside (users, jobs, labels, files). Each format escapes in one function of its
own, and all that it prints goes through that.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module

from joulebook.lab.report.model import Statement

FORMATS = ("text", "markdown", "latex", "json", "csv", "hf", "boamps", "html")
"""What `--format` takes."""

_MODULES = {"csv": "runs_csv", "hf": "model_card"}

Render = Callable[[Statement], str]


def renderer(name: str) -> Render:
    """Return the function that writes a format; only its own module is loaded."""
    module = import_module(f"joulebook.lab.report.formats.{_MODULES.get(name, name)}")
    render: Render = module.render
    return render
