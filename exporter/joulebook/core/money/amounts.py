"""Exact amounts of money and CO2e, and their kinds.

Nothing is rounded when it is accrued. An amount is an integer number of *atoms*, of which there are
`PER_KWH` to a nano-unit of money or a microgram of CO2e: one microjoule at one nano-unit per kWh
and a PUE of one millionth. An hourly rate times nanoseconds is a whole number of them, too. So
amounts add up like energy does, however it was cut, apportioned or carried from tick to tick.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import NamedTuple

from joulebook.core.evidence import Subject, summed
from joulebook.core.money.rates import NANO, PER_HOUR, PER_KWH, Quality


class ChargeKey(NamedTuple):
    """The recipient, quarter hour and kind of an amount of money or CO2e."""

    subject: Subject
    quarter_s: int
    charge: Charge


class RateUsed(NamedTuple):
    """A rate that something was charged at, and its quarter hour; see `rates.Point`.

    `quantity` is `price`, `carbon`, `pue` or `hardware`. It may be the calibration of a meter, too
    (`calibration_of`): `value` is then the error that is left, in millionths.
    """

    quarter_s: int
    quantity: str
    value: int
    unit: str
    source: str
    quality: Quality


CALIBRATION = "calibration "


def calibration_of(meter: str) -> str:
    """The `quantity` of the calibration that was applied to a meter."""
    return f"{CALIBRATION}{meter}"


ATOMS_PER_HELD = PER_KWH // PER_HOUR
"""Atoms in one nanosecond held at one nano-unit per hour."""


class Item(StrEnum):
    """What is accrued."""

    ELECTRICITY = "electricity"
    CREDIT = "credit"
    """Credit for electricity at a price below zero. A counter must never decrease, so this one
    increases instead; the net electricity cost is the difference of the two.
    """
    HARDWARE = "hardware"
    CO2E = "co2e"
    IDLE_ELECTRICITY = "idle_electricity"
    IDLE_HARDWARE = "idle_hardware"
    """The part of electricity or hardware cost for idle holding. It is included in these: never add
    it to them.
    """
    IDLE_UNKNOWN = "idle_unknown"
    """No amount: bills that were made before they had that part do not know it."""


IDLE_PARTS = {Item.ELECTRICITY: Item.IDLE_ELECTRICITY, Item.HARDWARE: Item.IDLE_HARDWARE}
"""The items whose idle part is accrued, too, and the item of that part."""

INCLUDED = frozenset({*IDLE_PARTS.values(), Item.IDLE_UNKNOWN})
"""The items that are included in others: never add them to these."""


class Charge(NamedTuple):
    """The kind of an amount: item and currency (empty: CO2e)."""

    item: Item
    currency: str = ""

    @classmethod
    def read(cls, item: str, currency: str) -> Charge:
        """Return one from outside. Raises `ValueError` for what is no item or currency."""
        if currency and not is_currency(currency):
            raise ValueError(f"currency {str(currency)[:20]!r}: expected three letters")
        return cls(Item(item), currency)


def is_currency(text: object) -> bool:
    """Return whether it is a code like `EUR` (ISO 4217)."""
    return isinstance(text, str) and len(text) == 3 and text.isascii() and text.isupper()


class Exact(NamedTuple):
    """An unrounded amount, in three integers that fit 64 bits in any currency.

    `whole` are units of the currency, or kg of CO2e; `nano` billionths of one (nano-units, ug);
    `rest` atoms. `nano` and `rest` are never negative and less than one of the next.
    """

    whole: int = 0
    nano: int = 0
    rest: int = 0

    @staticmethod
    def of(atoms: int) -> Exact:
        """Make an amount of atoms."""
        nano, rest = divmod(atoms, PER_KWH)
        return Exact(*divmod(nano, NANO), rest)

    @property
    def atoms(self) -> int:
        """Return the amount in atoms."""
        return self.floor * PER_KWH + self.rest

    @property
    def floor(self) -> int:
        """Return nano-units or micrograms, floored."""
        return self.whole * NANO + self.nano

    def plus(self, other: Exact) -> Exact:
        """Return the sum, exact."""
        carry, rest = divmod(self.rest + other.rest, PER_KWH)
        carry, nano = divmod(self.nano + other.nano + carry, NANO)
        return Exact(self.whole + other.whole + carry, nano, rest)


NOTHING = Exact()

Charges = Mapping[Charge, Exact]
"""What someone is charged."""


def add(bill: Charges, more: Charges) -> Charges:
    """Return the sum of two bills; `bill` itself if there is nothing to add."""
    return summed(more.items(), bill)


def total(bills: Iterable[Charges]) -> Charges:
    """Return the sum of bills."""
    return summed(item for bill in bills for item in bill.items())
