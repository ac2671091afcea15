"""What a table of the configuration file is made of; the tables are in `config.node`."""

from __future__ import annotations

from typing import Any, Literal

from msgspec import Meta, Struct


def doc(text: str, **bounds: float) -> Meta:
    """What a key means (with its unit), and the least and greatest value that it may have."""
    fields: dict[str, Any] = {"description": text, **bounds}
    return Meta(**fields)


Enabled = Literal["auto"] | bool
"""Whether a part of Joulebook is used; `AUTO` says what the values mean."""

AUTO = '"auto": must work where this machine has such a thing; true: must work; false: not used.'


class Section(Struct, frozen=True, forbid_unknown_fields=True):
    """A table of the configuration file."""
