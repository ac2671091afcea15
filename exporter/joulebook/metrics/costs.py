"""Money and CO2e as they are shown: held at zero like energy, floored, and the rates in force."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping

from joulebook.core.energy.readings import Meter
from joulebook.core.evidence import Remainder
from joulebook.core.money.amounts import IDLE_PARTS, NOTHING, Charge, Charges, Exact, Item
from joulebook.core.money.rates import NANO, PPM, UG_PER_G
from joulebook.core.workloads import Labels, WorkloadId
from joulebook.metrics.derived import Derived, joules

Sample = tuple[tuple[str, ...], float]

COSTS = (Item.ELECTRICITY, Item.HARDWARE)


def money(amount: Exact) -> float:
    """Money as it is shown: in the currency's unit, floored to 2^-20."""
    return (amount.floor << 20) // NANO / (1 << 20)


def grams(amount: Exact) -> float:
    """CO2e as it is shown: grams, floored to 2^-10."""
    return (amount.floor << 10) // UG_PER_G / (1 << 10)


def _live(derived: Derived) -> set[Charge]:
    """Return what everyone is charged for, now or soon; hardware depends on what is held."""
    books = derived.books.charges
    live = {charge for charge in derived.view.charges if charge.item is not Item.HARDWARE}
    for item, currency in list(live):
        credit = Charge(Item.CREDIT, currency)
        if item is Item.ELECTRICITY and credit in books:
            live.add(credit)
    return live


def _hardware(derived: Derived, workload: WorkloadId) -> set[Charge]:
    """Hardware cost, if a device that the workload holds has an hourly rate."""
    return _hourly(derived, derived.held.get(workload, ()))


def _hourly(derived: Derived, held: Iterable[Meter]) -> set[Charge]:
    rates, models = derived.view.rates, derived.books.models
    if rates.hardware and any(
        meter in models and rates.hardware_for(models[meter]) for meter in held
    ):
        return {Charge(Item.HARDWARE, rates.currency)}
    return set()


def _seen(derived: Derived, bill: Charges, charges: Iterable[Charge]) -> dict[Charge, Exact]:
    """Return the charges in a fixed order, each zero while its series are held."""
    states = derived.books.charges
    return {
        charge: NOTHING
        if charge not in states or states[charge].hold_left_ns > 0
        else bill.get(charge, NOTHING)
        for charge in sorted({*bill, *charges, *_idle_parts({*bill, *charges})})
    }


def _idle_parts(charges: Iterable[Charge]) -> Iterator[Charge]:
    """Yield the idle parts of charges: they are seen from zero on, like what they are parts of."""
    for item, currency in charges:
        if item in IDLE_PARTS:
            yield Charge(IDLE_PARTS[item], currency)


def workload_bills(derived: Derived) -> Mapping[WorkloadId, dict[Charge, Exact]]:
    """Return what each workload that is shown is charged, as far as it is shown."""
    if not derived.is_charged:
        return {}
    live = _live(derived)
    shown = {}
    for key in derived.workloads:
        state = derived.books.workloads[key]
        charges = live | _hardware(derived, key) | state.bill.keys()
        shown[key] = _seen(derived, {} if state.hold_left_ns > 0 else state.bill, charges)
    return shown


def experiment_bills(derived: Derived) -> Mapping[Labels, dict[Charge, Exact]]:
    """Return the same for experiments."""
    if not derived.is_charged:
        return {}
    live = _live(derived)
    coming: dict[Labels, set[Charge]] = {}
    for key, workload in derived.books.workloads.items():
        if workload.labels is not None:
            coming.setdefault(workload.labels, set()).update(_hardware(derived, key))
    shown = {}
    for labels, state in derived.books.experiments.items():
        if not state.exposed:
            continue
        bill = state.bill_baseline if state.hold_left_ns > 0 else state.bill
        charges = live | coming.get(labels, set()) | state.bill.keys()
        shown[labels] = _seen(derived, bill, charges)
    return shown


def remainder_bills(derived: Derived) -> Mapping[Remainder, dict[Charge, Exact]]:
    """Return the same for remainders; every reason is there from the start, at zero."""
    live = _live(derived) | _hourly(derived, derived.books.meters)
    bills: dict[Remainder, dict[Charge, Exact]] = {reason: {} for reason in Remainder}
    for (charge, reason), amount in derived.books.remainder_bills.items():
        bills[reason][charge] = amount
    return {reason: _seen(derived, bill, live) for reason, bill in bills.items()}


Bills = Callable[[Derived], Iterator[tuple[tuple[str, ...], dict[Charge, Exact]]]]
"""The labels of whom something is charged to, and what."""


def of_workloads(derived: Derived) -> Iterator[tuple[tuple[str, ...], dict[Charge, Exact]]]:
    """Bills by the labels of workloads."""
    for key, bill in derived.once(workload_bills).items():
        yield derived.workloads[key].identity, bill


def of_experiments(derived: Derived) -> Iterator[tuple[tuple[str, ...], dict[Charge, Exact]]]:
    """Bills by the labels of experiments."""
    yield from derived.once(experiment_bills).items()


def of_remainders(derived: Derived) -> Iterator[tuple[tuple[str, ...], dict[Charge, Exact]]]:
    """Charges by reason of the remainder."""
    for reason, bill in derived.once(remainder_bills).items():
        yield (reason,), bill


def cost(bills: Bills, derived: Derived) -> Iterator[Sample]:
    """Money, by kind and currency."""
    for labels, bill in bills(derived):
        for (item, currency), amount in bill.items():
            if item in COSTS:
                yield (*labels, item, currency), money(amount)


def idle_cost(bills: Bills, derived: Derived) -> Iterator[Sample]:
    """Yield the part of the money that was spent on what was held idle, by kind and currency."""
    for labels, bill in bills(derived):
        for item, part in IDLE_PARTS.items():
            for (what, currency), amount in bill.items():
                if what is part:
                    yield (*labels, item, currency), money(amount)


def credit(bills: Bills, derived: Derived) -> Iterator[Sample]:
    """Money earned while the price was below zero, by currency."""
    for labels, bill in bills(derived):
        for (item, currency), amount in bill.items():
            if item is Item.CREDIT:
                yield (*labels, currency), money(amount)


def co2e(bills: Bills, derived: Derived) -> Iterator[Sample]:
    """Grams of CO2e."""
    for labels, bill in bills(derived):
        for (item, _), amount in bill.items():
            if item is Item.CO2E:
                yield labels, grams(amount)


def unpriced(derived: Derived) -> Iterator[Sample]:
    """Yield energy without a charge because a configured rate was unknown."""
    for item in sorted({c.item for c in _live(derived)} - {Item.CREDIT}):
        yield (item,), joules(derived.books.unpriced_uj.get(item, 0))


def price(derived: Derived) -> Iterator[Sample]:
    """Yield the price in force."""
    rates = derived.view.rates
    if (point := rates.at(int(derived.view.utc_s)).price) is not None:
        yield (rates.currency, point.source), point.value / NANO


def intensity(derived: Derived) -> Iterator[Sample]:
    """Yield the carbon intensity in force."""
    rates = derived.view.rates
    if (point := rates.at(int(derived.view.utc_s)).carbon) is not None:
        yield (rates.zone, point.source), point.value / UG_PER_G


def pue(derived: Derived) -> Iterator[Sample]:
    """Yield the PUE in force."""
    if (point := derived.view.rates.at(int(derived.view.utc_s)).pue) is not None:
        yield (point.source,), point.value / PPM


def feed_up(derived: Derived) -> Iterator[Sample]:
    """Yield whether each source of rates is well."""
    for feed in derived.view.feeds:
        yield (feed.quantity, feed.source), int(feed.up)


def feed_age(derived: Derived) -> Iterator[Sample]:
    """Yield how old each source's last good answer is."""
    for feed in derived.view.feeds:
        if feed.good_utc_s is not None:
            yield (feed.quantity, feed.source), max(round(derived.view.utc_s - feed.good_utc_s), 0)


def feed_errors(derived: Derived) -> Iterator[Sample]:
    """Yield the failures of each source, by reason."""
    for feed in derived.view.feeds:
        for reason, count in feed.errors.items():
            yield (feed.quantity, feed.source, reason), count
