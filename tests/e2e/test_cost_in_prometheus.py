"""A day of 24 prices, from readings to PromQL: what Prometheus adds up is what was consumed x
price.

Time is virtual, all else is real: the ledger and its store, the exposition as it is scraped, blocks
made by promtool, and a Prometheus that answers. The truth is integrated by hand from the cards' own
power. The daemon is killed once, over a change of price.
"""

from __future__ import annotations

import subprocess
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import NamedTuple

import msgspec
import pytest
from tests.e2e.lab import Prometheus

from joulebook.clock import Anchor
from joulebook.core.attribution.claims import Claim, Evidence
from joulebook.core.energy.readings import Component, Meter, Reading
from joulebook.core.ledger.advance import BookingPolicy, Tick, advance
from joulebook.core.ledger.state import Books
from joulebook.core.money.amounts import Charge, Item
from joulebook.core.money.rates import (
    NANO,
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
from joulebook.core.workloads import Labels, WorkloadFacts, WorkloadId
from joulebook.ledger.query import LedgerReader
from joulebook.ledger.sqlite import SqliteStore
from joulebook.metrics.exposition import Exposition
from joulebook.metrics.snapshot import Snapshot
from joulebook.units import NS_PER_S

CENT = 0.01
HOUR_S, DAY_S = 3600, 86_400
T0_S = 1_772_323_200
"""2026-03-01 00:00 UTC."""
STEP_S, SCRAPE_S = 5, 15
AFTER_S = 600
IDLE_W = 60

PRICES = (
    0.21, 0.20, 0.19, 0.18, 0.19, 0.22, 0.29, 0.35, 0.38, 0.31, 0.22, 0.08,
    -0.02, -0.11, -0.04, 0.09, 0.24, 0.37, 0.46, 0.52, 0.41, 0.33, 0.27, 0.23,
)  # fmt: skip
GRAMS = tuple(250 + 20 * ((7 * hour) % 24) for hour in range(24))
PUE = Fraction(5, 4)
PER_HOUR = Fraction(5, 4)
DOWN = (7 * HOUR_S - 300, 7 * HOUR_S + 300)
"""The daemon is dead while the price goes from 0.29 to 0.35."""

CARDS = tuple(Meter(Component.GPU, f"GPU-{n}") for n in range(4))


class Job(NamedTuple):
    """What held one card, in seconds of the day, and the power that it drew."""

    name: str
    experiment: str
    card: int
    t0_s: int
    t1_s: int
    watts: int


JOBS = (
    Job("1", "bert", 0, 600, DAY_S - 900, 690),
    *(Job(f"2{n}", "sweep", 1, 1800 * n + 500, 1800 * n + 2195, 400 + n) for n in range(40)),
    *(
        Job(f"3{n}", "tests", 2, 600 * n + 35, 600 * n + 40, 500)
        for n in range(140)
        if not DOWN[0] - 60 < 600 * n < DOWN[1]
    ),
    Job("4", "notebook", 3, 5 * HOUR_S, 20 * HOUR_S, 65),
)


def curve(unit: str, values: tuple[float, ...], per: int) -> StepCurve:
    return StepCurve(
        tuple(
            Point(T0_S + HOUR_S * n, round(value * per), unit, "market", Quality.MEASURED)
            for n, value in enumerate(values)
        )
    )


RATES = RateSet(
    "EUR",
    "DE",
    curve(nano_per_kwh("EUR"), PRICES, NANO),
    curve(UG_PER_KWH, GRAMS, UG_PER_G),
    StepCurve((Point(0, int(PUE * PPM), RATIO_PPM, "room", Quality.MEASURED),)),
    (HardwareRate("NVIDIA*", int(PER_HOUR * NANO), "lease"),),
)
WANTED = frozenset(
    {Charge(Item.ELECTRICITY, "EUR"), Charge(Item.CO2E), Charge(Item.HARDWARE, "EUR")}
)


class Truth:
    """Energy, money and CO2e by experiment (`""`: nobody), from power and price alone."""

    def __init__(self) -> None:
        self.cost: dict[str, Fraction] = defaultdict(Fraction)
        self.grams: dict[str, Fraction] = defaultdict(Fraction)
        self.hardware: dict[str, Fraction] = defaultdict(Fraction)
        for job in JOBS:
            self._burn(job.experiment, job.t0_s, job.t1_s, job.watts)
            self.hardware[job.experiment] += Fraction(job.t1_s - job.t0_s, HOUR_S) * PER_HOUR
        for card in range(len(CARDS)):
            free_s = 0
            for job in (job for job in JOBS if job.card == card):
                self._burn("", free_s, job.t0_s, IDLE_W)
                free_s = job.t1_s
            self._burn("", free_s, DAY_S, IDLE_W)

    def _burn(self, whose: str, t0_s: int, t1_s: int, watts: int) -> None:
        for hour in range(24):
            seconds = min(t1_s, HOUR_S * (hour + 1)) - max(t0_s, HOUR_S * hour)
            if seconds > 0:
                facility_kwh = Fraction(watts * seconds, 3_600_000) * PUE
                self.cost[whose] += facility_kwh * Fraction(str(PRICES[hour]))
                self.grams[whose] += facility_kwh * GRAMS[hour]


def watts_at(card: int, second: int) -> int:
    if second >= DAY_S:
        return 0
    busy = (j.watts for j in JOBS if j.card == card and j.t0_s <= second < j.t1_s)
    return next(busy, IDLE_W)


def ticks() -> Iterator[Tick]:
    """All that the daemon sees of the day; nothing while it is down."""
    burnt_j = [10**6] * len(CARDS)
    resumed = False
    for second in range(0, DAY_S + AFTER_S + 1, STEP_S):
        now_ns = (T0_S + second) * NS_PER_S
        if not DOWN[0] < second < DOWN[1]:
            live = [j for j in JOBS if j.t0_s <= second <= j.t1_s + 30]
            yield Tick(
                now_ns,
                readings=tuple(
                    Reading(card, now_ns, burnt_j[n] * 10**6, epoch="boot", busy=True)
                    for n, card in enumerate(CARDS)
                ),
                claims=tuple(
                    Claim(
                        WorkloadId("slurm", j.name),
                        CARDS[j.card],
                        (T0_S + j.t0_s) * NS_PER_S,
                        (T0_S + j.t1_s) * NS_PER_S if second >= j.t1_s else None,
                        Evidence.PROLOG,
                    )
                    for j in live
                ),
                complete=frozenset({Evidence.PROLOG}),
                facts=tuple(
                    WorkloadFacts(
                        WorkloadId("slurm", j.name),
                        labels=Labels("ada", "nlp", j.experiment),
                        complete=True,
                    )
                    for j in live
                ),
                resumed=resumed,
                rates=RATES,
                wanted=WANTED,
                models=dict.fromkeys(CARDS, "NVIDIA H100"),
            )
            resumed = False
        else:
            resumed = True
        for n in range(len(CARDS)):
            burnt_j[n] += watts_at(n, second) * STEP_S


def shown(view: Snapshot, exposition: Exposition, samples: dict[str, list[str]]) -> None:
    """One scrape, with its time."""
    exposition.publish(partial(msgspec.structs.replace, view))
    text, _ = exposition.metrics("application/openmetrics-text")
    for line in text.decode().splitlines():
        if line.startswith("# EOF"):
            continue
        about = line.split()[2] if line[0] == "#" else line.partition("{")[0]
        family = about.removesuffix("_total")
        if any(word in family for word in ("_cost", "_credit", "_co2e_grams")):
            rows = samples.setdefault(family, [])
            if line[0] == "#":
                if len(rows) < 3 and line not in rows:
                    rows.append(line)
            else:
                rows.append(f"{line} {view.now_ns // NS_PER_S}")


def a_day(path: Path) -> dict[str, list[str]]:
    """Send the day through ledger, store and exposition; every scrape, by family."""
    samples: dict[str, list[str]] = {}
    with ExitStack() as stack:
        store = stack.enter_context(closing(SqliteStore(path, allow_volatile=True)))
        books, _ = store.load()
        exposition = Exposition(
            Snapshot("n1", books), lambda: (True, ""), lambda: (True, ""), on_error=fail
        )
        for tick in ticks():
            if tick.resumed:  # killed: only what was committed is there again
                store.close()
                store = stack.enter_context(closing(SqliteStore(path, allow_volatile=True)))
                books, _ = store.load()
            after, entry = advance(books, tick, BookingPolicy())
            store.commit(books, after, entry, Anchor("boot", 0, tick.now_ns))
            books = after
            if tick.now_ns // NS_PER_S % SCRAPE_S == 0:
                view = Snapshot("n1", books, now_ns=tick.now_ns, rates=RATES, charges=WANTED)
                shown(view, exposition, samples)
    check_books(books)
    return samples


def fail(family: str, error: Exception) -> None:
    raise AssertionError(f"{family}: {error!r}")


def check_books(books: Books) -> None:
    consumed_uj = sum(watts_at(n, s) for n in range(len(CARDS)) for s in range(0, DAY_S, STEP_S))
    assert sum(m.booked_uj for m in books.meters.values()) == consumed_uj * STEP_S * 10**6


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    home = tmp_path_factory.mktemp("day")
    samples = a_day(home / "ledger.db")
    text = "\n".join(line for lines in samples.values() for line in lines) + "\n# EOF\n"
    (home / "day.om").write_text(text)
    (home / "prom").mkdir()
    subprocess.run(
        [
            "promtool",
            "tsdb",
            "create-blocks-from",
            "openmetrics",
            home / "day.om",
            home / "prom/data",
        ],
        check=True,
        capture_output=True,
        timeout=120,
    )
    with LedgerReader(home / "ledger.db") as ledger:
        assert all(check.booked == check.rows for check in ledger.charge_check())
    with Prometheus(home / "prom") as prometheus:
        yield prometheus


AT = f"[{DAY_S + AFTER_S}s] @ {T0_S + DAY_S + AFTER_S}"
"""The whole day, as seen ten minutes after its end."""


def by_experiment(prometheus: Prometheus, expression: str) -> dict[str, float]:
    return {
        row["metric"].get("experiment", ""): float(row["value"][1])
        for row in prometheus.query(expression)
    }


def near(found: Mapping[str, float], truth: Mapping[str, Fraction], within: float) -> None:
    assert found.keys() == truth.keys()
    for name, value in truth.items():
        assert abs(found[name] - float(value)) < within, (name, found[name], float(value))
    assert abs(sum(found.values()) - float(sum(truth.values()))) < within


def test_increase_over_the_day_is_the_truth_to_a_cent(prometheus: Prometheus) -> None:
    truth = Truth()
    cost = by_experiment(
        prometheus,
        "sum by (experiment) (increase({"
        f'__name__=~"joulebook_(experiment|remainder)_cost_total",kind="electricity"}}{AT}))',
    )
    credit = by_experiment(
        prometheus,
        "sum by (experiment) (increase({"
        f'__name__=~"joulebook_(experiment|remainder)_credit_total"}}{AT}))',
    )
    near({name: cost[name] - credit[name] for name in cost}, truth.cost, CENT)
    assert min(credit.values()) > 0
    assert sum(cost.values()) > 7
    hardware = by_experiment(
        prometheus,
        f'sum by (experiment) (increase(joulebook_experiment_cost_total{{kind="hardware"}}{AT}))',
    )
    # 46 EUR: increase() carries a slope on for up to half a scrape at the ends.
    near(hardware, truth.hardware, 2 * CENT)
    grams = by_experiment(
        prometheus,
        "sum by (experiment) (increase({"
        f'__name__=~"joulebook_(experiment|remainder)_co2e_grams_total"}}{AT}))',
    )
    assert abs(sum(grams.values()) / float(sum(truth.grams.values())) - 1) < 5e-4


def test_the_last_values_are_the_truth_to_the_quantum(prometheus: Prometheus) -> None:
    truth = Truth()
    last = "sum by (experiment) (last_over_time"
    cost = by_experiment(
        prometheus, f'{last}(joulebook_workload_cost_total{{kind="electricity"}}{AT}))'
    )
    credit = by_experiment(prometheus, f"{last}(joulebook_workload_credit_total{AT}))")
    whose = {name: value for name, value in truth.cost.items() if name}
    # Each of 182 workloads is floored by less than 2^-20, twice.
    near({name: cost[name] - credit.get(name, 0) for name in cost}, whose, 182 * 2**-19)
    grams = by_experiment(prometheus, f"{last}(joulebook_workload_co2e_grams_total{AT}))")
    near(grams, {n: v for n, v in truth.grams.items() if n}, 182 * 2**-10)
    hardware = by_experiment(
        prometheus, f'{last}(joulebook_workload_cost_total{{kind="hardware"}}{AT}))'
    )
    near(hardware, truth.hardware, 182 * 2**-20)


def test_energy_times_the_mean_price_would_be_far_off() -> None:
    """Why the daemon accrues: what a dashboard could work out afterwards is wrong by this much."""
    kwh = sum(
        Fraction(watts_at(n, s) * STEP_S, 3_600_000)
        for n in range(len(CARDS))
        for s in range(0, DAY_S, STEP_S)
    )
    true = sum(Truth().cost.values())
    mean = kwh * PUE * sum(Fraction(str(p)) for p in PRICES) / 24
    assert abs(mean / true - 1) > Fraction(1, 200)
