"""The loop with rates: charged, committed and shown; nothing lost when commits fail."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from tests.unit.node.stand_ins import JOB, METER, Shelf
from tests.unit.node.test_daemon import Node

from joulebook.config.rates import CarbonSection, Hardware, Price, Rates
from joulebook.core.evidence import Remainder
from joulebook.core.money.amounts import Charge, Item, total
from joulebook.core.money.rates import PPM
from joulebook.core.workloads import Labels
from joulebook.metrics.snapshot import Snapshot
from joulebook.node.day_totals import Charging
from joulebook.rates.build import charges
from joulebook.rates.cache import Cache
from joulebook.rates.poller import Poller
from joulebook.rates.sources import basis, feeds

EUR = Charge(Item.ELECTRICITY, "EUR")
CO2E = Charge(Item.CO2E)
HARDWARE = Charge(Item.HARDWARE, "EUR")
RATES = Rates(
    currency="EUR",
    pue=1.25,
    price=Price(kind="constant", per_kwh=0.2),
    carbon=CarbonSection(kind="constant", grams_per_kwh=400),
    hardware={"NVIDIA*": Hardware(per_gpu_hour=1.5)},
)


def money(directory: Path, rates: Rates = RATES) -> Charging:
    poller = Poller(feeds(rates, {}), basis(rates), Cache(directory / "rates"))
    return Charging(poller, charges(rates))


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    node = Node(tmp_path, Shelf(), money=money(tmp_path))
    yield node
    node.cards.hang.set()
    node.worker.stop()


def booked_uj(view: Snapshot) -> int:
    return sum(state.booked_uj for state in view.books.meters.values())


def test_what_is_booked_is_charged_committed_and_shown(node: Node) -> None:
    node.hold()
    view = node.tick(20)
    bill = view.books.workloads[JOB].bill
    assert bill[EUR].atoms > 0
    assert bill[CO2E].atoms == bill[EUR].atoms * 2  # 400 g against 0.2: 4e8 ug, 2e8 nano-units
    assert view.books.charges[EUR].total.atoms == booked_uj(view) * 200_000_000 * 1_250_000
    assert view.charges == {EUR, CO2E, HARDWARE}
    assert [(feed.quantity, feed.up) for feed in view.feeds] == [("price", True), ("carbon", True)]
    assert view.rates.currency == "EUR"
    total_today = total(view.today_bills.values())
    assert total_today[EUR] == view.books.charges[EUR].total
    assert view.today_bills.keys() <= {Labels("ada", "nlp", "bert"), *Remainder}


def test_commits_that_failed_are_made_up_for(node: Node) -> None:
    node.hold()
    node.tick(5)
    node.shelf.full = True
    node.tick(8)
    node.shelf.full = False
    view = node.tick(5)
    rows = total(
        {key.charge: amount}
        for entry in node.shelf.entries
        for key, amount in entry.charges.items()
    )
    assert rows[EUR] == view.books.charges[EUR].total
    used = sum(
        amount.energy_uj
        for entry in node.shelf.entries
        for rate, amount in entry.rates.items()
        if rate.quantity == "price"
    )
    assert used * 200_000_000 * 1_250_000 == rows[EUR].atoms


def test_hardware_is_charged_by_the_model_that_the_device_says(node: Node) -> None:
    node.hold()
    node.tick(3)
    assert not node.views[-1].books.models, "the card of the test does not say what it is"
    node.daemon._books = msgspec.structs.replace(node.daemon._books, models={METER: "NVIDIA H100"})
    view = node.tick(20)
    workload = view.books.workloads[JOB]
    held_ns = workload.balance[METER.component].held_ns
    got = workload.bill[HARDWARE].atoms
    assert 0 < got <= held_ns * 1_500_000_000 * PPM


@pytest.mark.parametrize(
    ("rates", "expected"),
    [
        (Rates(), frozenset()),
        (Rates(currency="EUR", price=RATES.price), frozenset()),
        (Rates(currency="EUR", price=RATES.price, pue=1.0), {EUR}),
        (Rates(carbon=RATES.carbon, pue=1.0), {CO2E}),
        (Rates(currency="EUR", hardware=RATES.hardware), {HARDWARE}),
    ],
)
def test_only_what_every_setting_is_made_for_is_charged(
    rates: Rates, expected: frozenset[Charge]
) -> None:
    assert charges(rates) == expected
