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
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

GENERATED = {
    "docs/metrics.md": "joulebook.exposition.docs:markdown",
}
"""A file in the repository, and the function without arguments that returns its text."""


def text_of(function: str) -> str:
    """What `module:name`, imported from the checkout, returns."""
    module, _, name = function.partition(":")
    text = getattr(importlib.import_module(module), name)()
    if not isinstance(text, str):
        raise TypeError(f"{function} returned {type(text).__name__}, not str")
    return text


def main() -> int:
    """Write or check every file of `GENERATED`; the number that differ, in a check."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing")
    check: bool = parser.parse_args().check
    sys.path.insert(0, str(ROOT / "exporter"))
    stale = 0
    for name, function in GENERATED.items():
        path = ROOT / name
        old = path.read_text() if path.exists() else ""
        new = text_of(function)
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
