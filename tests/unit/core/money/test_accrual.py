"""Money and CO2e in the ledger: conserved after every tick, and equal to what hands compute."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from datetime import date, datetime, time, timedelta
from zoneinfo import ZoneInfo

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.core.audit import laws
from tests.unit.core.world import Run, S, World, at, gpu, job_id, play
from tests.unit.core.worlds import worlds

from joulebook.core.attribution.claims import Claim, Evidence
from joulebook.core.energy.readings import Component, Meter, Reading
from joulebook.core.evidence import Remainder
from joulebook.core.ledger import series
from joulebook.core.ledger.advance import BookingPolicy, Tick
from joulebook.core.ledger.state import Books, Entry, ExperimentState
from joulebook.core.money.accrual import ChargeState
from joulebook.core.money.amounts import (
    ATOMS_PER_HELD,
    IDLE_PARTS,
    Charge,
    Charges,
    Exact,
    Item,
    total,
)
from joulebook.core.money.rates import (
    NANO,
    PER_KWH,
    PPM,
    RATIO_PPM,
    UG_PER_G,
    UG_PER_KWH,
    HardwareRate,
    Point,
    Quality,
    RateSet,
    StepCurve,
    nano_per_kwh,
)
from joulebook.core.report.rollup import net
from joulebook.core.workloads import Labels, WorkloadFacts, WorkloadId
from joulebook.rates.tariff import Schedule, TariffWindow
from joulebook.units import NS_PER_HOUR, UJ_PER_KWH

EUR = Charge(Item.ELECTRICITY, "EUR")
CREDIT = Charge(Item.CREDIT, "EUR")
HARDWARE = Charge(Item.HARDWARE, "EUR")
CO2E = Charge(Item.CO2E)
WANTED = frozenset({EUR, HARDWARE, CO2E})
H100 = "NVIDIA H100 80GB HBM3"
T0_S = 1_760_000_400
"""A full quarter hour."""


def points(unit: str, *steps: tuple[int, int]) -> StepCurve:
    return StepCurve(tuple(Point(t, value, unit, "test", Quality.MEASURED) for t, value in steps))


def rates_of(
    price: Iterable[tuple[int, int]] = (),
    carbon: Iterable[tuple[int, int]] = (),
    pue: int | None = PPM,
    per_gpu_hour: int | None = None,
) -> RateSet:
    return RateSet(
        "EUR",
        "DE",
        points(nano_per_kwh("EUR"), *price),
        points(UG_PER_KWH, *carbon),
        points(RATIO_PPM, *([] if pue is None else [(0, pue)])),
        () if per_gpu_hour is None else (HardwareRate("NVIDIA H100*", per_gpu_hour, "test"),),
    )


def priced(ticks: Iterable[Tick], rates: RateSet, model: str = H100) -> Iterator[Tick]:
    for tick in ticks:
        yield msgspec.structs.replace(
            tick,
            rates=rates,
            wanted=WANTED,
            models={reading.meter: model for reading in tick.readings},
        )


# --- conservation ------------------------------------------------------------------------------


def shown(state: ExperimentState) -> Charges:
    return state.bill_baseline if state.hold_left_ns else state.bill


class Cashier:
    """After every tick: parts are the whole, exactly, in every roll-up; and nothing falls."""

    def __init__(self) -> None:
        self.charged: Counter[Charge] = Counter()
        self.earned: Counter[Charge] = Counter()

    def __call__(self, before: Books, after: Books, entry: Entry) -> None:
        for key, amount in entry.charges.items():
            assert amount.whole >= 0
            self.charged[key.charge] += amount.atoms
            if isinstance(key.subject, WorkloadId):
                self.earned[key.charge] += amount.atoms
        whole = {charge: state.total.atoms for charge, state in after.charges.items()}
        assert +Counter(whole) == +self.charged
        rest: Counter[Charge] = Counter()
        for (charge, _), amount in after.remainder_bills.items():
            rest[charge] += amount.atoms
        assert +(self.earned + rest) == +Counter(whole)
        unsettled = [w.bill for w in after.workloads.values() if w.labels is None]
        rolled = total([*(e.bill for e in after.experiments.values()), *unsettled])
        assert +Counter({c: a.atoms for c, a in rolled.items()}) == +self.earned
        for labels, old in before.experiments.items():
            if (new := after.experiments.get(labels)) is not None:
                for charge, amount in shown(old).items():
                    assert shown(new)[charge].atoms >= amount.atoms
        for id_, workload in before.workloads.items():
            if (now := after.workloads.get(id_)) is not None:
                for charge, amount in workload.bill.items():
                    assert now.bill[charge].atoms >= amount.atoms


def capacity_ns(run: Run) -> int:
    """The GPU time from the first reading of each card to where its books stand."""
    began: dict[Meter, int] = {}
    for books in run.history:
        for meter, state in books.meters.items():
            began.setdefault(meter, state.base.t_ns)
    return sum(
        max(state.base.t_ns, state.unread_ns) - began[meter]
        for meter, state in run.books.meters.items()
        if meter.component is Component.GPU
    )


STEPS = st.lists(
    st.tuples(st.integers(-5, 60), st.integers(-(10**9), 10**9)),
    max_size=8,
    unique_by=lambda step: step[0],
).map(lambda steps: [(at(0) // S + t, value) for t, value in sorted(steps)])


@laws(60)
@given(worlds(), STEPS, STEPS, st.integers(10**6, 2 * 10**6), st.booleans())
def test_the_parts_are_the_whole_after_every_tick_of_any_world(
    world: World,
    price: list[tuple[int, int]],
    carbon: list[tuple[int, int]],
    pue: int,
    crowded: bool,
) -> None:
    rates = rates_of(price, [(t, abs(value)) for t, value in carbon], pue, 1_250_000_007)
    cramped = series.SeriesPolicy(max_workloads=1, max_experiments=1, expire_ns=5 * S, linger_ns=S)
    policy = BookingPolicy(series=cramped if crowded else series.SeriesPolicy())
    run = play(priced(world.ticks(), rates), policy, Cashier())
    plain = play(world)
    if not price and not carbon:
        assert run.postings == plain.postings, "rates that do not step cut nothing"
    for meter, state in plain.books.meters.items():
        assert run.books.meters[meter].booked_uj == state.booked_uj
    # Each rate was used for all that was consumed while it was known.
    used: Counter[str] = Counter()
    for entry in run.entries:
        for rate, amount in entry.rates.items():
            used[rate.quantity] += amount.energy_uj
    unpriced = run.books.unpriced_uj
    booked = sum(state.booked_uj for state in run.books.meters.values())
    assert used["price"] + unpriced.get("electricity", 0) == booked
    assert used["carbon"] + unpriced.get("co2e", 0) == booked
    assert used["pue"] == booked
    # Every hour of a card is somebody's or nobody's, also in a gap, and costs the same: capacity.
    assert run.books.charges[HARDWARE].total.atoms == (
        capacity_ns(run) * 1_250_000_007 * ATOMS_PER_HELD
    )
    for item, part in IDLE_PARTS.items():
        idle = run.books.charges.get(Charge(part, "EUR"), ChargeState())
        assert idle.total.atoms <= run.books.charges[Charge(item, "EUR")].total.atoms


@laws(30)
@given(worlds(), st.integers(1, 10**12), st.integers(10**6, 3 * 10**6))
def test_at_one_price_the_whole_is_energy_times_price(world: World, price: int, pue: int) -> None:
    run = play(priced(world.ticks(), rates_of([(0, price)], pue=pue)))
    assert run.books.charges[EUR].total.atoms == run.booked_uj() * price * pue


def test_a_holder_of_ten_milliwatts_pays_for_ten_milliwatts() -> None:
    """Rounded by the tick, half an hour of 0.8 nano a tick would cost nothing, or 1,800."""
    rates = rates_of([(0, 300_000_000)])
    run = metered([10] * 1800, step_s=1, rates=rates)
    bill = run.books.workloads[job_id("1")].bill[EUR]
    assert bill == Exact.of(10 * 1000 * 1800 * 300_000_000 * PPM)
    assert bill.floor == 1500  # 5 mWh at 0.30 per kWh


# --- by hand -----------------------------------------------------------------------------------


def metered(
    power_mw: list[int],
    *,
    rates: RateSet,
    step_s: int = 3600,
    gpus: int = 1,
    t0_s: int = T0_S,
    held: bool = True,
    model: str = H100,
    busy: bool = True,
) -> Run:
    """GPUs that draw `power_mw` in one step after the other, all held by job 1, read each step."""
    policy = BookingPolicy(settle_ns=0)

    def ticks() -> Iterator[Tick]:
        counter_uj = 5_000_000
        meters = [gpu(f"GPU-{n}") for n in range(gpus)]
        for n in range(len(power_mw) + 1):
            now_ns = (t0_s + n * step_s) * S
            if n:
                counter_uj += power_mw[n - 1] * step_s * 1000
            end_ns = None if n < len(power_mw) else now_ns
            yield Tick(
                now_ns,
                readings=tuple(
                    Reading(m, now_ns, counter_uj, epoch="b", max_power_mw=10**13, busy=busy)
                    for m in meters
                ),
                claims=tuple(
                    Claim(job_id("1"), m, t0_s * S, end_ns, Evidence.PROLOG) for m in meters if held
                ),
                complete=frozenset({Evidence.PROLOG}),
                facts=(WorkloadFacts(job_id("1"), labels=Labels("a", "b", "c"), complete=True),),
            )

    return play(priced(ticks(), rates, model), policy, Cashier())


def hourly(*values: int) -> list[tuple[int, int]]:
    return [(T0_S + 3600 * n, value) for n, value in enumerate(values)]


def test_the_worked_example_of_the_documentation() -> None:
    """24 kWh of IT at PUE 1.25, hourly 20/5/5 kWh at 300/500/400 g; 40 GPU-hours at 1.25."""
    rates = rates_of(
        [(0, 200_000_000)],
        hourly(300 * UG_PER_G, 500 * UG_PER_G, 400 * UG_PER_G),
        1_250_000,
        1_250_000_000,
    )
    run = metered([2_000_000, 500_000, 500_000, 0, 0], gpus=8, rates=rates)
    assert run.books.workloads[job_id("1")].bill == {
        EUR: Exact(6),
        CO2E: Exact(10, 500_000_000),  # 10.5 kg; a flat 400 g would say 12.0
        HARDWARE: Exact(50),
    }
    assert run.books.remainder_bills == {}
    assert run.by_subject() == {job_id("1"): 24 * UJ_PER_KWH}


def test_gpt_3_and_bloom() -> None:
    """10,000 x 330 W x 14.8 d x PUE 1.10 x 429 g; 433,196 kWh x 57 g. See the field's papers."""
    hours = 355  # and a fifth, in the last step
    run = metered(
        [3_300_000_000] * (hours * 5 + 1),
        step_s=720,
        rates=rates_of(carbon=[(0, 429 * UG_PER_G)], pue=1_100_000),
    )
    assert run.booked_uj() == 1_172_160 * UJ_PER_KWH  # 1,289 MWh of the facility
    assert run.books.workloads[job_id("1")].bill[CO2E] == Exact(553_142, 304_000_000)
    bloom = metered([433_196_000_000], rates=rates_of(carbon=[(0, 57 * UG_PER_G)]))
    assert bloom.books.workloads[job_id("1")].bill[CO2E] == Exact(24_692, 172_000_000)


def test_a_price_that_changes_inside_an_interval() -> None:
    """One reading an hour, the price steps after 20 minutes: no quarter hour ends there."""
    rates = rates_of([(0, 100_000_000), (T0_S + 1200, 400_000_000)])
    run = metered([3_000_000], rates=rates)
    assert run.books.workloads[job_id("1")].bill == {EUR: Exact.of(900_000_000 * PER_KWH)}
    assert sorted(
        (r.quarter_s - T0_S, r.value, a.energy_uj)
        for entry in run.entries
        for r, a in entry.rates.items()
        if r.quantity == "price"
    ) == [
        (0, 100_000_000, 3 * UJ_PER_KWH // 4),
        (900, 100_000_000, UJ_PER_KWH // 4),
        (900, 400_000_000, UJ_PER_KWH // 2),
        (1800, 400_000_000, 3 * UJ_PER_KWH // 4),
        (2700, 400_000_000, 3 * UJ_PER_KWH // 4),
    ]


@pytest.mark.parametrize(
    ("day", "hours", "nights"),
    [
        (date(2026, 3, 29), 23, 5),
        (date(2026, 10, 25), 25, 7),
        (date(2026, 7, 1), 24, 6),
        (date(2016, 12, 31), 24, 6),  # ended with a leap second, which Unix does not count
    ],
)
def test_days_of_23_and_25_hours(day: date, hours: int, nights: int) -> None:
    """1 kW through a local day; midnight to six costs 0.10, the rest 0.30."""
    zone = ZoneInfo("Europe/Berlin")
    t0_s, t1_s = (
        int(datetime.combine(d, time(), zone).timestamp()) for d in (day, day + timedelta(1))
    )
    windows = [TariffWindow(frozenset(range(7)), 0, 360, 100_000_000)]
    tariff = Schedule(zone, 300_000_000, windows, nano_per_kwh("EUR"), "tariff")
    curve = StepCurve(tariff.fetch(t0_s - 86_400, t1_s + 86_400))
    rates = with_price(rates_of(), curve)
    run = metered([1_000_000] * ((t1_s - t0_s) // 600), step_s=600, rates=rates, t0_s=t0_s)
    assert run.booked_uj() == hours * UJ_PER_KWH
    cost = run.books.workloads[job_id("1")].bill[EUR]
    assert cost == Exact.of((nights * 100_000_000 + (hours - nights) * 300_000_000) * PER_KWH)


def with_price(rates: RateSet, price: StepCurve) -> RateSet:
    return RateSet(rates.currency, rates.zone, price, rates.carbon, rates.pue, rates.hardware)


# --- what is not known, and what is below zero -------------------------------------------------


def test_below_zero_money_is_a_credit_and_no_counter_falls() -> None:
    rates = rates_of(hourly(300_000_000, -100_000_000, 300_000_000))
    run = metered([1_000_000] * 3, rates=rates)
    bill = run.books.workloads[job_id("1")].bill
    assert bill[EUR] == Exact.of(600_000_000 * PER_KWH)
    assert bill[CREDIT] == Exact.of(100_000_000 * PER_KWH)


def test_a_rate_that_is_not_known_charges_nothing_and_says_so() -> None:
    rates = rates_of([(T0_S + 3600, 200_000_000)], pue=PPM)
    run = metered([1_000_000] * 3, rates=rates)
    assert run.books.workloads[job_id("1")].bill == {EUR: Exact.of(400_000_000 * PER_KWH)}
    assert run.books.unpriced_uj == {"electricity": UJ_PER_KWH, "co2e": 3 * UJ_PER_KWH}
    without_pue = metered([1_000_000], rates=rates_of([(0, 1)], [(0, 1)], pue=None))
    assert without_pue.books.workloads[job_id("1")].bill == {}


def test_energy_of_nobody_is_charged_to_the_remainder() -> None:
    rates = rates_of([(0, 200_000_000)], [(0, 500 * UG_PER_G)], per_gpu_hour=NANO)
    run = metered([1_000_000], rates=rates, held=False)
    assert run.books.remainder_bills == {
        (EUR, Remainder.UNALLOCATED): Exact(0, 200_000_000),
        (CO2E, Remainder.UNALLOCATED): Exact(0, 500_000_000),
        (HARDWARE, Remainder.UNALLOCATED): Exact(1),
    }, "an hour of a card that nobody holds costs what any hour does"


def test_the_cost_of_what_is_held_idle_is_a_part_of_the_cost() -> None:
    rates = rates_of([(0, 200_000_000)], per_gpu_hour=NANO)
    run = metered([1_000_000] * 2, rates=rates, busy=False)
    bill = run.books.workloads[job_id("1")].bill
    assert bill[Charge(Item.IDLE_ELECTRICITY, "EUR")] == bill[EUR] == Exact(0, 400_000_000)
    assert bill[Charge(Item.IDLE_HARDWARE, "EUR")] == bill[HARDWARE] == Exact(2)
    assert net(bill) == {"EUR": Exact(2, 400_000_000)}
    busy = metered([1_000_000] * 2, rates=rates).books.workloads[job_id("1")].bill
    assert busy.keys() == {EUR, HARDWARE}


def test_a_gpu_that_fits_no_pattern_has_no_hardware_cost() -> None:
    run = metered([1_000_000], rates=rates_of(per_gpu_hour=NANO), model="Tesla V100")
    assert run.books.workloads[job_id("1")].bill == {}


def test_a_lost_gpu_still_has_its_hourly_rate() -> None:
    rates = rates_of(per_gpu_hour=1_250_000_000)
    meter: Meter = gpu()

    def ticks() -> Iterator[Tick]:
        for n in (0, 1, 2):
            now_ns = T0_S * S + n * NS_PER_HOUR
            yield Tick(
                now_ns,
                readings=(Reading(meter, now_ns, n * 1_000_000, epoch="b"),),
                claims=(Claim(job_id("1"), meter, T0_S * S, None, Evidence.PROLOG),),
                rates=rates,
                wanted=WANTED,
                models={meter: H100} if not n else {},
            )

    run = play(ticks(), BookingPolicy(settle_ns=0), Cashier())
    assert run.books.models == {meter: H100}
    assert run.books.workloads[job_id("1")].bill == {HARDWARE: Exact.of(2_500_000_000 * PER_KWH)}


def test_a_charge_that_is_new_is_held_at_zero_for_as_long_as_a_series() -> None:
    hold_ns = series.SeriesPolicy().zero_hold_ns
    steps = 60
    run = metered([1_000] * steps, step_s=1, rates=rates_of([(0, 1_000_000_000)]))
    assert run.history[1].charges[EUR].hold_left_ns == hold_ns
    assert run.history[20].charges[EUR].hold_left_ns == hold_ns - 19 * S
    assert run.books.charges[EUR].hold_left_ns == 0
    assert run.books.charges[EUR].total.atoms == steps * 1_000_000 * PPM * 1_000_000_000
