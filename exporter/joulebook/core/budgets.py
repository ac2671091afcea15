"""What an account or an experiment may use, as the configuration allows it."""

from __future__ import annotations

from typing import NamedTuple


class Allowance(NamedTuple):
    """An amount that an experiment may use in all; of the whole account, if that is empty.

    `unit` says of what: `kwh`, as the meters read them, or the code of a currency.
    """

    account: str
    experiment: str
    unit: str
    amount: float
