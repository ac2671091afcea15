"""Decoders that any thread may be the first to use.

msgspec builds its description of a type when it first sees the type, and other threads may see it
half built: a segmentation fault. Therefore decoders are made when their module is imported (`_PAGE
= msgspec.json.Decoder(Page)`), and `converter` replaces `msgspec.convert`.
`tests/unit/test_decoding.py` enforces it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import msgspec

T = TypeVar("T")


def converter(cls: type[T]) -> Callable[[object], T]:
    """Return a function that converts builtin values to `cls`.

    The function raises `msgspec.ValidationError`.
    """
    msgspec.json.Decoder(cls)  # Builds the description, which stays with the type.

    def convert(value: object) -> T:
        return msgspec.convert(value, cls)

    return convert
