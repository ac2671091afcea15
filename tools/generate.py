#!/usr/bin/env python3
"""Writes the files that are generated from code, or says with `--check` which are out of date.

tools/generate.py            write them
tools/generate.py --check    exit 1 if one differs from what the code gives
"""

from __future__ import annotations

import argparse
import difflib
import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent

GENERATED = {
    "docs/metrics.md": "tools.metrics_page:markdown",
    "docs/commands.md": "tools.command_pages:markdown",
    "docs/configuration.md": "tools.command_pages:configuration",
    "packaging/man/joulebook.1": "tools.command_pages:manual",
    "docs/openapi.json": "joulebook.lab.web.app:openapi",
    "docs/schema/report.schema.json": "joulebook.lab.report.formats.json:schema",
    "docs/images/leaderboard.svg": "joulebook.lab.leaderboard.demo:picture",
}
"""A file in the repository, and the function without arguments that returns its text."""

GENERATED_SETS = ("dashboards.generator.shelf:files", "tools.command_pages:completion")
"""Functions that return many files at once: path in the repository to text."""


def generated() -> Iterator[tuple[str, str, str]]:
    """Each file, its text as it should be, and the function that it is from."""
    for file, function in GENERATED.items():
        yield file, _imported(function)(), function
    for function in GENERATED_SETS:
        for file, text in sorted(_imported(function)().items()):
            yield file, text, function


def _imported(function: str) -> Callable[[], Any]:
    """The function `module:name`, from the checkout."""
    module, _, name = function.partition(":")
    found: Callable[[], Any] = getattr(importlib.import_module(module), name)
    return found


def main() -> int:
    """Write or check every generated file; the number that differ, in a check."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing")
    check: bool = parser.parse_args().check
    sys.path[:0] = [str(ROOT / "exporter"), str(ROOT)]
    stale = 0
    for name, new, function in generated():
        path = ROOT / name
        old = path.read_text() if path.exists() else ""
        if old == new:
            print(f"{name}: up to date")
        elif check:
            stale += 1
            diff = difflib.unified_diff(old.splitlines(), new.splitlines(), name, function, n=1)
            print("\n".join([f"{name}: out of date, run `make docs`", *list(diff)[:20]]))
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(new)
            print(f"{name}: written")
    return stale


if __name__ == "__main__":
    sys.exit(main())
