"""Charging anew: at the same rates it comes to what was booked, and parts are still the whole."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from tests.unit.core.audit import laws
from tests.unit.core.test_accrual import (
    CO2E,
    CREDIT,
    EUR,
    H100,
    HARDWARE,
    T0_S,
    WANTED,
    hourly,
    metered,
    rates_of,
)
from tests.unit.core.world import Run, S, gpu

from joulebook.core.bills import Exact, total
from joulebook.core.books import Amount, Remainder
from joulebook.core.rates import PER_KWH, UG_PER_G
from joulebook.core.statement import Posted, lines, net, restate, whole
from joulebook.core.workloads import Labels
from joulebook.units import UJ_PER_KWH

ADA = Labels("ada", "nlp", "bert")
GRACE = Labels("grace", "vision", "vit")
MODELS = {gpu(): H100}


def posted(run: Run) -> list[Posted]:
    return [
        Posted(key.subject if isinstance(key.subject, Remainder) else ADA, *key[1:3], amount)
        for key, amount in run.postings.items()
    ]


@laws(40)
@given(
    st.lists(st.integers(0, 3_000_000), min_size=1, max_size=6),
    st.lists(st.integers(-(10**9), 10**9), min_size=1, max_size=6),
    st.integers(10**6, 2 * 10**6),
)
def test_the_same_rates_come_to_what_was_booked(
    power_mw: list[int], prices: list[int], pue: int
) -> None:
    rates = rates_of(hourly(*prices), hourly(*map(abs, prices)), pue, 1_250_000_007)
    run = metered(power_mw, rates=rates)
    anew = restate(posted(run), rates, MODELS, WANTED)
    (bill,) = anew.bills.values()
    booked = next(iter(run.books.workloads.values())).bill
    assert {c: a for c, a in bill.items() if a.atoms} == {
        c: a for c, a in booked.items() if a.atoms
    }
    assert anew.unpriced_uj == {}


def test_other_rates_and_the_difference() -> None:
    """The worked example of the field: 10.5 kg by the hour, 12.0 kg at a flat 400 g."""
    hours = hourly(300 * UG_PER_G, 500 * UG_PER_G, 400 * UG_PER_G)
    run = metered([16_000_000, 4_000_000, 4_000_000], rates=rates_of(carbon=hours, pue=1_250_000))
    flat = rates_of(carbon=[(0, 400 * UG_PER_G)], pue=1_250_000)
    anew = restate(posted(run), flat, {}, WANTED)
    booked = {ADA: next(iter(run.books.workloads.values())).bill}
    (line,) = lines(posted(run), booked, anew.bills)
    assert line.booked == {CO2E: Exact(10, 500_000_000)}
    assert line.restated == {CO2E: Exact(12)}
    assert line.amount.energy_uj == 24 * UJ_PER_KWH
    assert anew.unpriced_uj == {"electricity": 24 * UJ_PER_KWH}


def test_a_line_for_everybody_and_the_whole() -> None:
    quarter = [
        Posted(ADA, gpu(), T0_S, Amount(UJ_PER_KWH, 0, 900 * S)),
        Posted(GRACE, gpu("GPU-1"), T0_S, Amount(3 * UJ_PER_KWH, 0, 900 * S)),
        Posted(Remainder.UNALLOCATED, gpu(), T0_S + 900, Amount(9 * UJ_PER_KWH)),
    ]
    rates = rates_of([(0, 200_000_000), (T0_S + 900, -100_000_000)], per_gpu_hour=4_000_000_000)
    anew = restate(quarter, rates, MODELS, WANTED)
    assert anew.bills == {
        ADA: {EUR: Exact.of(200_000_000 * PER_KWH), HARDWARE: Exact(1)},
        GRACE: {EUR: Exact.of(600_000_000 * PER_KWH)},
        Remainder.UNALLOCATED: {CREDIT: Exact.of(900_000_000 * PER_KWH)},
    }
    found = lines(quarter, {}, anew.bills)
    assert [line.owner for line in found] == [GRACE, ADA, Remainder.UNALLOCATED]
    assert whole(found).restated == total(anew.bills.values())
    assert net(whole(found).restated or {}) == {"EUR": Exact(0, 900_000_000)}
