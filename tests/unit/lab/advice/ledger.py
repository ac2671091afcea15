"""A collected ledger in which every kind of advice is due."""

from __future__ import annotations

from pathlib import Path

import msgspec
from tests.unit.lab.collected.nodes import NOVEMBER_S, Node

from joulebook.core.ledger.export import ChargeRow, MeterRow, PostingRow, PostingsPage, RateRow
from joulebook.core.money.rates import NANO, UG_PER_G
from joulebook.lab.collected import ingest
from joulebook.lab.collected.database import opened
from joulebook.units import NS_PER_S, UJ_PER_KWH

HOUR_S = 3600
NOW_S = NOVEMBER_S + 20 * 86_400
QUARTER_NS = 900 * NS_PER_S


class Cards(Node):
    """A node with two cards; a job's quarter hours are given card by card."""

    def __init__(self) -> None:
        super().__init__("n1", "a" * 32, "lab")
        self.more: list[PostingRow | ChargeRow | RateRow] = []

    def hold(self, job: str, meter: int, from_h: float, hours: float, *, works: bool) -> None:
        """Hold a card from an hour of November on; at work it draws 1 kW, idle 0.1 kW."""
        who = self.workloads[job].id
        energy = UJ_PER_KWH // 4 if works else UJ_PER_KWH // 40
        for n in range(int(hours * 4)):
            quarter_s = NOVEMBER_S + int(from_h * HOUR_S) + n * 900
            self.more.append(
                PostingRow(
                    self._next(), quarter_s, meter, who, "", "counter", "prolog", energy,
                    0 if works else energy, QUARTER_NS, 0 if works else QUARTER_NS,
                )
            )  # fmt: skip
        self.booked_to_s = max(self.booked_to_s, NOVEMBER_S + int((from_h + hours) * HOUR_S))

    def pay(self, job: str, at_h: float, **euros: int) -> None:
        """Charge a job, by item."""
        who, quarter_s = self.workloads[job].id, NOVEMBER_S + int(at_h * HOUR_S)
        for item, amount in euros.items():
            currency = "" if item == "co2e" else "EUR"
            self.more.append(
                ChargeRow(self._next(), quarter_s, who, "", item, currency, amount, 0, 0)
            )

    def rate(self, hour: int, price: float, grams: float, source: str = "contract") -> None:
        """Have a price and an intensity in an hour of November (negative: before)."""
        for quantity, value, unit in (
            ("price", int(price * NANO), "nEUR/kWh"),
            ("carbon", int(grams * UG_PER_G), "ugCO2e/kWh"),
            ("pue", 1_000_000, "ppm"),
        ):
            quarter_s = NOVEMBER_S + hour * HOUR_S
            self.more.append(
                RateRow(self._next(), quarter_s, quantity, value, unit, source, "measured", 1, 0)
            )

    def begun(self, job: str, from_h: float, hours: float, **more: object) -> None:
        """Know a job of ada's."""
        start_ns = (NOVEMBER_S + int(from_h * HOUR_S)) * NS_PER_S
        known: dict[str, object] = {
            "account": "nlp", "user": "ada", "experiment": "bert", "named": True, "gpu_count": 2,
            "started_utc_ns": start_ns, "outcome": "completed",
            "ended_utc_ns": start_ns + int(hours * HOUR_S) * NS_PER_S,
        }  # fmt: skip
        self.label(job, **(known | more))  # type: ignore[arg-type]

    def page(self, since: int, limit: int = 10_000) -> PostingsPage:
        made = super().page(since, limit)
        postings = [row for row in self.more if isinstance(row, PostingRow)]
        return msgspec.structs.replace(
            made,
            meters=tuple(
                MeterRow(n, "gpu", f"GPU-{n}", "NVIDIA H100",
                         sum(row.energy_uj for row in postings if row.meter_id == n), 0)
                for n in (1, 2)
            ),
            charged=(),
            workloads=tuple(self.workloads.values()),
            postings=tuple(postings),
            charges=tuple(row for row in self.more if isinstance(row, ChargeRow)),
            rates=tuple(row for row in self.more if isinstance(row, RateRow)),
        )  # fmt: skip


def node() -> Cards:
    """Ada's job idles and is half unused; bob's could wait; eve's runs have two power limits."""
    made = Cards()
    seen = {"gpu_memory_gib": "9", "gpu_memory_total_gib": "80"}
    made.begun("101", 48, 12, extra={**seen, "time_limit_s": "172800", "partition": "h100"})
    made.hold("101", 1, 48, 2, works=True)
    made.hold("101", 1, 50, 1, works=False)
    made.hold("101", 1, 51, 1, works=True)
    made.hold("101", 1, 52, 8, works=False)
    made.hold("101", 2, 48, 12, works=False)
    made.pay("101", 48, electricity=3, hardware=24, idle_electricity=2, idle_hardware=21, co2e=5)
    seen = {"gpu_memory_gib": "11", "gpu_memory_total_gib": "24", "partition": "small"}
    made.begun("201", 60, 4, account="vision", user="bob", experiment="vit", extra=seen)
    made.hold("201", 1, 60, 4, works=True)
    made.pay("201", 60, electricity=1, hardware=4, co2e=2)
    for number, (limit, hours) in enumerate([(700, 2.0)] * 3 + [(500, 2.25)] * 3):
        job, at_h = f"{301 + number}", 100 + 3 * number
        made.begun(job, at_h, hours, account="vision", user="eve", experiment="gpt",
                   extra={"gpu_power_limits_w": f"{limit}"})  # fmt: skip
        made.hold(job, 2, at_h, hours, works=True)
        if limit == 500:  # it draws less, so it took less energy in all
            made.more[-9:] = [
                msgspec.structs.replace(row, energy_uj=row.energy_uj * 7 // 10)
                for row in made.more[-9:]
                if isinstance(row, PostingRow)
            ]
        made.pay(job, at_h, electricity=10, hardware=2)
    for hour in range(-24 * 21, 24 * 20):
        night = hour % 24 < 6
        made.rate(hour, 0.1 if night else 0.3, 200 if night else 400)
    return made


def filled(folder: Path) -> str:
    """The URL of a collected ledger of it, in a folder."""
    url = f"sqlite://{folder / 'collected.db'}"
    made = node()
    with opened(url, create=True) as database:
        ingest.take(database, made.page(0, 100_000), made.name, NOW_S, frozenset({made.name}))
    return url
