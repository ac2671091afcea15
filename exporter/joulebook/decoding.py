"""Decoding that any thread may be the first to use.

msgspec builds its description of a type when it first meets that type, and other threads then see
it half built: a segmentation fault. Therefore decoders are made where their module is imported
(`_PAGE = msgspec.json.Decoder(Page)`), and a function of `converter` takes the place of
`msgspec.convert`. `tests/unit/test_decoding.py` holds the code to it.
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
