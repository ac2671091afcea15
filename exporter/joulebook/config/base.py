"""The building blocks of a table of the configuration file; `config.node` has the tables."""

from __future__ import annotations

from typing import Any, Literal

from msgspec import Meta, Struct


def doc(text: str, **bounds: float) -> Meta:
    """Document a key: its meaning, with the unit, and the bounds of its value."""
    fields: dict[str, Any] = {"description": text, **bounds}
    return Meta(**fields)


Enabled = Literal["auto"] | bool
"""Whether a part of Joulebook is used; `AUTO` explains the values."""

AUTO = '"auto": used where this machine has it; true: required; false: off.'


class Section(Struct, frozen=True, forbid_unknown_fields=True):
    """A table of the configuration file."""
