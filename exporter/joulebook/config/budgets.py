"""Keys of `[budgets]`: what an experiment, or a whole account, may use.

A budget changes nothing that is booked. It is shown as `joulebook_budget`, and an alert compares
it with what the counters have come to since they began.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated

from joulebook.config.sections import Section, doc
from joulebook.core.budgets import Allowance


class Budget(Section, frozen=True):
    """What an experiment may use; `kwh` or `cost`."""

    kwh: Annotated[float, doc("Kilowatt-hours, as the meters read them (no PUE).", gt=0)] | None = (
        None
    )
    cost: Annotated[float, doc("Money, in `rates.currency`.", gt=0)] | None = None


def split(name: str) -> tuple[str, str]:
    """`account/experiment` or `account`, in its parts; an experiment may have slashes of its own.

    Raises `ValueError` saying what would be right.
    """
    account, slash, experiment = name.partition("/")
    if not account or (slash and not experiment):
        raise ValueError('expected "account/experiment", or "account" for all of an account')
    return account, experiment


def conflicts(budgets: Mapping[str, Budget]) -> Iterator[tuple[str, str]]:
    """What the type of each key alone cannot tell: the key, and what is wrong with it."""
    for name, budget in budgets.items():
        try:
            split(name)
        except ValueError as error:
            yield f'budgets."{name}"', str(error)
        if (budget.kwh is None) == (budget.cost is None):
            yield f'budgets."{name}"', "expected either kwh or cost"


def allowances(budgets: Mapping[str, Budget], currency: str) -> tuple[Allowance, ...]:
    """The budgets as they are shown."""
    return tuple(
        Allowance(*split(name), "kwh", budget.kwh)
        if budget.kwh is not None
        else Allowance(*split(name), currency, budget.cost or 0.0)
        for name, budget in sorted(budgets.items())
    )
