"""A node's ledger as its pages show it, kept in memory: for tests that need thousands of them."""

from __future__ import annotations

from itertools import count

import msgspec

from joulebook.core.ledger.export import (
    VERSION,
    ChargedRow,
    ChargeRow,
    MeterRow,
    PostingRow,
    PostingsPage,
    RateRow,
    WorkloadRow,
)
from joulebook.core.money.amounts import NOTHING, Exact

DAY_S = 86_400
OCTOBER_S = 1_790_812_800
"""2026-10-01T00:00Z."""
NOVEMBER_S = OCTOBER_S + 31 * DAY_S
DECEMBER_S = NOVEMBER_S + 30 * DAY_S


class Node:
    """Books as a daemon does: rows hold totals, and get a new number when they change."""

    def __init__(self, name: str = "n1", ledger_id: str = "a" * 32, cluster: str = "") -> None:
        self.name, self.ledger_id, self.cluster = name, ledger_id, cluster
        self._numbers = count(1)
        self.last = 0
        self.booked_to_s = 0
        self.workloads: dict[str, WorkloadRow] = {}
        self.postings: dict[tuple[int, int, str], PostingRow] = {}
        self.charges: dict[tuple[int, int, str, str], ChargeRow] = {}
        self.rates: dict[int, RateRow] = {}

    def _next(self) -> int:
        self.last = next(self._numbers)
        return self.last

    def label(
        self, workload: str, account: str = "", user: str = "", experiment: str = "", **more: object
    ) -> None:
        """Learn whose a workload is."""
        known = self.workloads.get(workload)
        row = WorkloadRow(
            known.id if known else len(self.workloads) + 1, self._next(), "slurm", workload,
            workload, "train", user, account, experiment, None, None, False, 1, "prolog", {},
        )  # fmt: skip
        self.workloads[workload] = msgspec.structs.replace(row, **more)

    def burn(
        self,
        when_s: int,
        energy_uj: int,
        workload: str = "",
        paid: Exact = NOTHING,
        held_ns: int = 0,
    ) -> None:
        """Book energy and what was charged for it to a workload, or (`""`) to nobody."""
        if workload and workload not in self.workloads:
            self.label(workload)
        who = self.workloads[workload].id if workload else 0
        remainder = "" if workload else "unallocated"
        quarter_s = when_s // 900 * 900
        key = (quarter_s, who, remainder)
        old = self.postings.get(key)
        was = (old.energy_uj, old.held_ns) if old else (0, 0)
        self.postings[key] = PostingRow(
            self._next(), quarter_s, 1, who, remainder, "counter", "prolog" if who else "none",
            was[0] + energy_uj, 0, was[1] + held_ns,
        )  # fmt: skip
        if paid != NOTHING:
            before = self.charges.get((*key, "EUR"))
            sofar = Exact(before.whole, before.nano, before.rest) if before else NOTHING
            self.charges[*key, "EUR"] = ChargeRow(
                self._next(), quarter_s, who, remainder, "electricity", "EUR", *sofar.plus(paid)
            )
        self.rates[quarter_s] = RateRow(
            self._next(), quarter_s, "price", 200, "nEUR/kWh", "contract", "measured", energy_uj, 0
        )
        self.booked_to_s = max(self.booked_to_s, when_s)

    def emit(self, when_s: int, emitted: Exact, workload: str = "") -> None:
        """Charge CO2e (kg) to a workload that is known, or to nobody, for energy it consumed
        then.
        """
        who = self.workloads[workload].id if workload else 0
        remainder = "" if workload else "unallocated"
        quarter_s = when_s // 900 * 900
        self.charges[quarter_s, who, remainder, "co2e"] = ChargeRow(
            self._next(), quarter_s, who, remainder, "co2e", "", *emitted
        )

    def move(self, quarter_s: int, to_s: int) -> None:
        """Date the rows of a quarter hour anew; the old ones come to nothing."""
        for (when_s, who, remainder), row in list(self.postings.items()):
            if when_s == quarter_s:
                name = next((n for n, w in self.workloads.items() if w.id == who), "")
                paid = self.charges.get((when_s, who, remainder, "EUR"))
                money = NOTHING if paid is None else Exact(paid.whole, paid.nano, paid.rest)
                self.burn(to_s, row.energy_uj, name, money, row.held_ns)
                self.postings[when_s, who, remainder] = msgspec.structs.replace(
                    row, seq=self._next(), energy_uj=0, held_ns=0
                )
                if paid is not None:
                    self.charges[when_s, who, remainder, "EUR"] = msgspec.structs.replace(
                        paid, seq=self._next(), whole=0, nano=0, rest=0
                    )

    @property
    def energy_uj(self) -> int:
        """All that it booked."""
        return sum(row.energy_uj for row in self.postings.values())

    @property
    def paid(self) -> Exact:
        """All that it charged."""
        money = [row for row in self.charges.values() if row.currency]
        return Exact.of(sum(Exact(r.whole, r.nano, r.rest).atoms for r in money))

    def page(self, since: int, limit: int = 10_000) -> PostingsPage:
        """What it would answer."""
        rows: list[WorkloadRow | PostingRow | ChargeRow | RateRow] = [
            *self.workloads.values(), *self.postings.values(), *self.charges.values(),
            *self.rates.values(),
        ]  # fmt: skip
        changed = sorted((row for row in rows if row.seq > since), key=lambda row: row.seq)[:limit]
        upto = changed[-1].seq if len(changed) == limit else self.last
        there = [row for row in changed if row.seq <= upto]
        postings = tuple(row for row in there if isinstance(row, PostingRow))
        charges = tuple(row for row in there if isinstance(row, ChargeRow))
        named = {row.workload_id for row in postings} | {row.workload_id for row in charges}
        return PostingsPage(
            VERSION,
            self.name,
            self.cluster,
            self.ledger_id,
            0,
            since,
            upto,
            self.last,
            self.booked_to_s,
            (MeterRow(1, "gpu", "GPU-0", "NVIDIA H100", self.energy_uj, 0),),
            (ChargedRow("electricity", "EUR", self.paid, NOTHING),) if self.charges else (),
            tuple(
                row for row in self.workloads.values() if row.id in named or since < row.seq <= upto
            ),
            postings,
            charges,
            tuple(row for row in there if isinstance(row, RateRow)),
        )
