"""Warnings of what runs in users' programs: they never raise, and do not repeat themselves."""

from __future__ import annotations

import contextlib
import functools
import sys
import warnings


def warn(text: str) -> None:
    """Issue a warning; whatever the program's filters are, it does not raise."""
    try:
        warnings.warn(f"joulebook: {text}", stacklevel=3)
    except Warning:
        with contextlib.suppress(Exception):
            sys.stderr.write(f"joulebook: {text}\n")


@functools.cache
def say_once(text: str) -> None:
    """Warn of something once in the life of the process."""
    warn(text)
