"""How many files a value passes through: a reader who follows it need not open more.

A file counts when one of its functions gives the value back while it goes from one end to the
other: as a number or as shown text, alone or in a value made of values. A function that gives back
the very object that it was given is no step, nor is one that only looks at it.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import msgspec

import joulebook

PACKAGE = Path(joulebook.__file__).parent
DEEPEST = 4
"""A number in a posting of a mapping of an entry of a tuple."""


class Walk:
    """The files of the package that a value passed through, in that order."""

    def __init__(self, numbers: Collection[float], texts: Collection[str]) -> None:
        """`numbers` are the value in all units that it takes; `texts` how it is shown."""
        self.numbers = numbers
        self.texts = texts
        self.files: dict[str, str] = {}

    @contextmanager
    def followed(self) -> Iterator[None]:
        """Follow the value in this thread and in those that start meanwhile."""
        threading.setprofile(self._event)
        sys.setprofile(self._event)
        try:
            yield
        finally:
            sys.setprofile(None)
            threading.setprofile(None)

    def _event(self, frame: FrameType, event: str, given: object) -> None:
        path = frame.f_code.co_filename
        if event != "return" or not path.startswith(str(PACKAGE)):
            return
        file = path.removeprefix(f"{PACKAGE}/")
        if file in self.files:
            return
        code = frame.f_code
        names = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
        same = any(given is frame.f_locals.get(name) for name in names)
        if not same and self._carries(given, DEEPEST):
            self.files[file] = frame.f_code.co_qualname

    def _carries(self, value: object, depth: int) -> bool:
        if isinstance(value, int | float):
            return not isinstance(value, bool) and value in self.numbers
        if isinstance(value, bytes):
            value = value.decode("utf-8", "replace")
        if isinstance(value, str):
            return any(text in value for text in self.texts)
        if not depth:
            return False
        if isinstance(value, Mapping):
            return any(self._carries(each, depth - 1) for each in (*value.keys(), *value.values()))
        if isinstance(value, Collection):
            return any(self._carries(each, depth - 1) for each in tuple(value))
        if isinstance(value, msgspec.Struct):
            fields = (getattr(value, name) for name in value.__struct_fields__)
            return any(self._carries(each, depth - 1) for each in fields)
        return False
