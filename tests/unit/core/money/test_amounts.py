"""Exact amounts: what is added up is never rounded, and fits the ledger's 64 bits."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.core.audit import laws

from joulebook.core.money.amounts import NOTHING, Charge, Exact, Item, add, total
from joulebook.core.money.rates import NANO, PER_KWH
from joulebook.units import UJ_PER_KWH

ATOMS = st.integers(-(10**40), 10**40)
EUR = Charge(Item.ELECTRICITY, "EUR")
CO2E = Charge(Item.CO2E)


@laws(200)
@given(st.lists(ATOMS, max_size=20))
def test_a_sum_of_amounts_is_the_amount_of_the_sum(atoms: list[int]) -> None:
    added = NOTHING
    for each in atoms:
        added = added.plus(Exact.of(each))
    assert added == Exact.of(sum(atoms))
    assert added.atoms == sum(atoms)
    assert 0 <= added.nano < NANO
    assert 0 <= added.rest < PER_KWH
    assert added.floor == sum(atoms) // PER_KWH


@pytest.mark.parametrize("power_mw", [1, 123_457, 700_000])
@pytest.mark.parametrize("price", [300_000_000, -17_310_000, 1])
def test_a_day_of_ticks_is_one_day_however_it_is_cut(power_mw: int, price: int) -> None:
    tick_uj, pue_ppm = power_mw * 1000, 1_300_000
    day = NOTHING
    for _ in range(86_400):
        day = day.plus(Exact.of(tick_uj * price * pue_ppm))
    assert day == Exact.of(86_400 * tick_uj * price * pue_ppm)
    exact = Fraction(86_400 * tick_uj * price * 13, UJ_PER_KWH * 10)
    assert 0 <= exact - day.floor < 1, "only what is shown is floored"


def test_an_amount_fits_64_bits_in_a_weak_currency() -> None:
    """A rial buys a millionth of a euro; a cluster may run for a century."""
    century = Exact.of(10**6 * 10**9 * 10**9 * PER_KWH)
    assert max(century) < 1 << 63
    assert PER_KWH * 2 < 1 << 63, "two rests can be added in sqlite"


def test_bills_add_up_by_charge() -> None:
    bill = {EUR: Exact.of(5)}
    assert add(bill, {}) is bill
    assert add(bill, {EUR: Exact.of(7), CO2E: Exact.of(1)}) == {
        EUR: Exact.of(12),
        CO2E: Exact.of(1),
    }
    assert total([bill, bill, {}]) == {EUR: Exact.of(10)}
