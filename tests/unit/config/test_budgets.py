"""`[budgets]`: from the file to what is shown."""

from __future__ import annotations

import pytest

from joulebook.config.lab import Budget, allowances, budget_conflicts, split
from joulebook.core.workloads import Allowance


def test_budgets_of_experiments_and_accounts() -> None:
    budgets = {
        "vision": Budget(cost=12_000),
        "nlp/bert": Budget(kwh=500),
        "nlp/a/b": Budget(cost=0.5),
    }
    assert list(budget_conflicts(budgets)) == []
    assert allowances(budgets, "USD") == (
        Allowance("nlp", "a/b", "USD", 0.5),
        Allowance("nlp", "bert", "kwh", 500),
        Allowance("vision", "", "USD", 12_000),
    )


@pytest.mark.parametrize("name", ["", "/bert", "nlp/"])
def test_a_name_that_is_neither_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match='expected "account/experiment"'):
        split(name)
    ((key, what),) = budget_conflicts({name: Budget(kwh=1)})
    assert key == f'budgets."{name}"'
    assert "account" in what


@pytest.mark.parametrize("budget", [Budget(), Budget(kwh=1, cost=1)])
def test_either_energy_or_money(budget: Budget) -> None:
    assert list(budget_conflicts({"a": budget})) == [('budgets."a"', "expected either kwh or cost")]
