"""The formats of a statement, one file each: a function from a statement to text.

Names come from outside (users, jobs, labels, files). Each format escapes in one function of its
own, and all that it prints goes through that.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from importlib import import_module

from joulebook.lab.report.model import Statement

FOR_PEOPLE = ("text", "markdown", "latex", "html")
"""Formats with a length."""

FORMS = ("hf", "boamps", "eu-gpai", "cyclonedx", "spdx", "sci")
"""Forms of others."""

FORMATS = (*FOR_PEOPLE, "json", "csv", *FORMS)
"""What `--format` takes."""

LENGTHS = ("sentence", "short", "full")

_MODULES = {"csv": "runs_csv", "hf": "model_card", "eu-gpai": "eu_gpai"}

Render = Callable[[Statement], str]


def renderer(name: str, length: str = "full") -> Render:
    """Return the function that writes a format; only its own module is loaded."""
    module = import_module(f"joulebook.lab.report.formats.{_MODULES.get(name, name)}")
    if name in FOR_PEOPLE:
        return partial(module.render, length=length)
    render: Render = module.render
    return render
