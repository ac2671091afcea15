"""Answers that take long to work out, kept for an hour."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

_Answer = TypeVar("_Answer")


class Kept(Generic[_Answer]):
    """The latest answers by what they depend on: the scope of who may see them, above all.

    An answer that several ask for at once is worked out once; nothing is kept of one that fails.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._lock = threading.Lock()
        self._found: OrderedDict[Hashable, tuple[threading.Lock, list[_Answer]]] = OrderedDict()

    def get(self, key: Hashable, make: Callable[[], _Answer]) -> _Answer:
        """Return the answer to `key`; `make` works it out if it is not there."""
        with self._lock:
            asked, found = self._found.setdefault(key, (threading.Lock(), []))
            self._found.move_to_end(key)
            if len(self._found) > self._most:
                self._found.popitem(last=False)
        with asked:
            if not found:
                found.append(make())
            return found[0]
