"""What stands in the ledger, on the page and in the collected ledger, asked in SQL and added up."""

from __future__ import annotations

import re
import sqlite3
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from fractions import Fraction
from functools import cache
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from tests.unit.oracle.account import Account, Fault
from tests.unit.oracle.scenario import RateStep

from joulebook.core.energy.readings import Meter
from joulebook.core.evidence import Remainder
from joulebook.core.money.amounts import Charge, Item
from joulebook.core.money.rates import HardwareRate, Point, Quality, RateSet, StepCurve
from joulebook.core.workloads import WorkloadId
from joulebook.lab.collected.database import opened
from joulebook.ledger.sqlite import SqliteStore

MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None
LEDGER_ID = "0123456789abcdef0123456789abcdef"
CHARGES = frozenset(
    {Charge(Item.ELECTRICITY, "EUR"), Charge(Item.CO2E), Charge(Item.HARDWARE, "EUR")}
)
HOURLY = {"NVIDIA A100": 900_000_000, "NVIDIA H100": 2_100_000_000}
UJ_PER_KWH = 3_600_000_000_000


@cache
def _templates() -> tuple[bytes, bytes]:
    """An empty ledger and an empty collected one: to make them takes longer than a scenario."""
    with TemporaryDirectory(dir=MEMORY) as folder:
        ledger, collected = Path(folder, "ledger.db"), Path(folder, "collected.db")
        SqliteStore(ledger, allow_volatile=True, node="n1").close()
        with sqlite3.connect(ledger) as conn:
            conn.execute("UPDATE ledger SET ledger_id = ?", (LEDGER_ID,))
        conn.close()
        with opened(f"sqlite://{collected}", create=True) as database:
            database.rows("PRAGMA journal_mode = DELETE")
        return ledger.read_bytes(), collected.read_bytes()


def fresh(path: Path) -> None:
    path.parent.mkdir(mode=0o750)
    path.write_bytes(_templates()[0])
    path.chmod(0o640)


def fresh_collection(folder: Path) -> Path:
    path = folder / "collected.db"
    path.write_bytes(_templates()[1])
    return path


@cache
def rate_set(steps: Sequence[RateStep]) -> RateSet:
    """The rates as joulebook has them."""

    def curve(which: str, unit: str) -> StepCurve:
        ends = [b.from_s for _, b in pairwise(steps)]
        return StepCurve(
            tuple(
                Point(step.from_s, value, unit, "plan", Quality.MEASURED, end)
                for step, end in zip(steps, [*ends, None][: len(steps)], strict=True)
                if (value := getattr(step, which)) is not None
            )
        )

    hardware = tuple(HardwareRate(model, nano, "plan") for model, nano in HOURLY.items())
    return RateSet(
        "EUR", "DE", curve("price", "nEUR/kWh"), curve("carbon", "ugCO2e/kWh"),
        curve("pue", "ppm"), hardware,
    )  # fmt: skip


# ---- energy --------------------------------------------------------------------------------------


class Posting(NamedTuple):
    """A row, with the names of what it points to."""

    meter: str
    scheduler: str
    workload: str
    start: int
    remainder: str
    workload_id: int
    quarter_s: int
    energy_uj: int
    idle_uj: int
    held_ns: int
    idle_ns: int

    @property
    def subject(self) -> WorkloadId | Remainder:
        if self.remainder:
            return Remainder(self.remainder)
        return WorkloadId(self.scheduler, self.workload, self.start)


def _postings(conn: sqlite3.Connection) -> Iterator[Posting]:
    rows = conn.execute(
        "SELECT m.name, w.scheduler, w.workload, w.start, p.remainder, p.workload_id, p.quarter_s,"
        " p.energy_uj, p.idle_uj, p.held_ns, p.idle_ns FROM postings p"
        " JOIN meters m ON m.id = p.meter_id LEFT JOIN workloads w ON w.id = p.workload_id"
    )
    return (Posting(*row) for row in rows)


def check_sums(conn: sqlite3.Connection, account: Account) -> None:
    """The rows are the entries that were committed, each once."""
    meters = {meter.name: meter for meter in account.seen}
    found: Counter[tuple[Meter, WorkloadId | Remainder]] = Counter()
    for row in _postings(conn):
        found[meters[row.meter], row.subject] += row.energy_uj
    if +found != +Counter(account.posted):
        raise Fault(f"the rows of the ledger come to {+found}, committed were {+account.posted}")


def check_rows(conn: sqlite3.Connection, account: Account) -> None:
    """No row ends before it begins, no begin moved, no time is twice or nowhere."""
    for id_, *times in conn.execute("SELECT workload, started_ns, ended_ns FROM workloads"):
        if None not in times and times[1] < times[0]:
            raise Fault(f"workload {id_} ends before it begins: {times}")
    for *key, began in conn.execute("SELECT scheduler, workload, start, started_ns FROM workloads"):
        first = account.begun.get(WorkloadId(*key))
        if first is not None and began != first:
            raise Fault(f"workload {key} began at {first}, and now at {began}")
    gaps = conn.execute(
        "SELECT m.name, t0_ns, t1_ns FROM gaps JOIN meters m ON m.id = meter_id"
    ).fetchall()
    held: Counter[str] = Counter()
    for row in _postings(conn):
        if not 0 <= row.idle_ns <= row.held_ns:
            raise Fault(f"{row.meter}: {row.idle_ns} ns idle of {row.held_ns} held")
        held[row.meter] += row.held_ns
    lost: Counter[str] = Counter()
    for name, t0_ns, t1_ns in gaps:
        if t1_ns < t0_ns:
            raise Fault(f"{name}: a gap ends before it begins")
        lost[name] += t1_ns - t0_ns
    for meter, seen in account.seen.items():
        valid = [each.reading.t_ns for each in seen if not each.garbage]
        if not valid:
            continue
        capacity_ns, slack_ns = account.edge(meter) - valid[0], 200_000_000
        if not held[meter.name] - slack_ns <= capacity_ns:
            raise Fault(f"{meter.name}: held {held[meter.name]} ns of {capacity_ns}")
        if capacity_ns > held[meter.name] + lost[meter.name] + slack_ns:
            raise Fault(
                f"{meter.name}: {capacity_ns} ns went by, {held[meter.name]} are held or nobody's, "
                f"{lost[meter.name]} in gaps"
            )


# ---- money ---------------------------------------------------------------------------------------


def check_money(
    conn: sqlite3.Connection, rates: Sequence[Sequence[RateStep]], *, steady: bool
) -> None:
    """What is charged is what the rates make of the postings: exactly, where they did not change.

    `rates` are the curves that were in force one after the other; `steady`: no clock was set.
    """
    energy: Counter[tuple[Who, int, str]] = Counter()
    for row in _postings(conn):
        who = (row.workload_id, row.remainder)
        energy[who, row.quarter_s, "energy"] += row.energy_uj
        energy[who, row.quarter_s, "idle"] += row.idle_uj
    charged: dict[tuple[Who, int, str], Fraction] = defaultdict(Fraction)
    for id_, remainder, quarter_s, item, whole, nano, rest in conn.execute(
        "SELECT workload_id, remainder, quarter_s, item, whole, nano, rest FROM charges"
    ):
        amount = whole * 10**9 + nano + Fraction(rest, UJ_PER_KWH * 10**6)
        if amount < 0:
            raise Fault(f"{item} of {remainder or id_} is {amount}")
        charged[(id_, remainder), quarter_s, item] += amount
    whos = {(who, quarter_s) for who, quarter_s, _ in energy}
    for item, of, which, sign in (
        ("electricity", "energy", "price", 1),
        ("credit", "energy", "price", -1),
        ("co2e", "energy", "carbon", 1),
        ("idle_electricity", "idle", "price", 1),
    ):
        least = most = all_ = Fraction(0)
        for who, quarter_s in whos:
            amount_uj = energy[who, quarter_s, of]
            low, high = _span(rates, which, sign, quarter_s if steady else None)
            low, high = low * amount_uj, high * amount_uj
            paid = charged[who, quarter_s, item]
            if steady and not low <= paid <= high:
                raise Fault(
                    f"{item} of {who} at {quarter_s}: {float(paid)}, not {float(low)} to "
                    f"{float(high)}"
                )
            least, most, all_ = least + low, most + high, all_ + paid
        if not least <= all_ <= most:
            raise Fault(f"{item}: {float(all_)}, not {float(least)} to {float(most)}")
    totals = {
        item: Fraction(0) + sum(v for (_, _, what), v in charged.items() if what == item)
        for item in {what for _, _, what in charged}
    }
    if any(totals.get(part, 0) > totals.get(of, 0) for part, of in PARTS):
        raise Fault(f"a part is more than the whole: {totals}")


Who = tuple[int, str]
PARTS = (("idle_electricity", "electricity"), ("idle_hardware", "hardware"))


def _span(
    curves: Sequence[Sequence[RateStep]], which: str, sign: int, quarter_s: int | None
) -> tuple[Fraction, Fraction]:
    """The least and the most that a microjoule may have cost in a quarter hour (`None`: ever)."""
    found: list[Fraction] = []
    for steps in curves:
        t0_s, t1_s = (0, 1 << 40) if quarter_s is None else (quarter_s, quarter_s + 900)
        if not steps or steps[0].from_s > t0_s:
            found.append(Fraction(0))
        ends = [step.from_s for step in steps[1:]]
        for step, end_s in zip(steps, [*ends, 1 << 40][: len(steps)], strict=True):
            if step.from_s < t1_s and end_s > t0_s:
                value = getattr(step, which)
                per_kwh = 0 if value is None else max(value * sign, 0) * step.pue
                found.append(Fraction(per_kwh, 10**6 * UJ_PER_KWH))
    return min(found), max(found)


# ---- the page, the collected ledger --------------------------------------------------------------


_SAMPLE = re.compile(r"^(joulebook_\w+)\{?([^}]*)\}? (\S+)$")


def check_page(text: str) -> None:
    """The page adds up: meters = experiments + unexposed + remainders + pending."""
    sums: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for line in text.splitlines():
        if (match := _SAMPLE.match(line)) and (found := re.search(r'component="(\w+)"', match[2])):
            sums[match[1].removeprefix("joulebook_")][found[1]].append(float(match[3]))
    parts = ("experiment_energy_joules_total", "unexposed_energy_joules",
             "remainder_energy_joules_total", "pending_energy_joules")  # fmt: skip
    for component, meters in sums["meter_energy_joules_total"].items():
        values = [value for part in parts for value in sums[part][component]]
        slack = sum(1 if abs(each) >= 1_000 else 1 / 64 for each in (*values, *meters))
        if abs(sum(meters) - sum(values)) > slack:
            raise Fault(f"{component}: meters show {sum(meters)} J, all the rest {sum(values)}")


def check_collected(path: Path, ledger: Path, *, put_back: bool) -> None:
    """The collected ledger says what the ledger says; of one that was put back, its energy alone.

    An older ledger that has booked the same energy anew is not told from the one before.
    """
    with sqlite3.connect(path) as lab, sqlite3.connect(ledger) as node:
        theirs = lab.execute(
            "SELECT sum(energy_uj), sum(idle_uj), sum(held_ns), count(*) FROM postings"
        ).fetchall()
        ours = node.execute(
            "SELECT sum(energy_uj), sum(idle_uj), sum(held_ns), count(*) FROM postings"
        ).fetchall()
        paid = [
            conn.execute("SELECT sum(whole), sum(nano), count(*) FROM charges").fetchall()
            for conn in (lab, node)
        ]
    lab.close()
    node.close()
    if put_back and theirs[0][0] == ours[0][0]:
        return
    if theirs != ours or paid[0] != paid[1]:
        raise Fault(f"collected: {theirs} and {paid[0]}; in the ledger: {ours} and {paid[1]}")
