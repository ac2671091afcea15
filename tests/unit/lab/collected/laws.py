"""The laws of bills, as a machine that does what nodes, collectors and people do, in any order."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from tests.unit.lab.collected.nodes import DAY_S, DECEMBER_S, OCTOBER_S, Node

from joulebook.core.evidence import Amount
from joulebook.core.money.amounts import Exact
from joulebook.errors import InputError, LedgerError
from joulebook.lab.collected import bills, check, corrections, ingest
from joulebook.lab.collected.corrections import Reason, Transfer
from joulebook.lab.collected.database import Database
from joulebook.lab.collected.schema import BilledOwner

NOW_S = DECEMBER_S + 40 * DAY_S
WHEN = st.integers(OCTOBER_S, DECEMBER_S + 30 * DAY_S)
JOBS = st.sampled_from(["", "1", "2", "3"])
NAMES = st.sampled_from(["a", "b", "'; DROP TABLE used; --", 'ä"\\'])
MONEY = st.builds(
    Exact, st.integers(0, 10**10), st.integers(0, 10**9 - 1), st.integers(0, 36 * 10**17 - 1)
)


def money(database: Database, month: int) -> int:
    """What a month comes to, in atoms."""
    _, paid = bills.total(bills.bill(database, month).lines)
    return sum(amount.atoms for amount in paid.values())


class Laws(RuleBasedStateMachine):
    """One database, two nodes, any number of pages, labels, corrections and closed months."""

    def open(self) -> Database:
        """A fresh collected ledger."""
        raise NotImplementedError

    @initialize()
    def begin(self) -> None:
        self.database = self.open()
        self.nodes = [Node("n1", "a" * 32), Node("n2", "b" * 32)]
        self.closed: dict[int, Any] = {}

    @rule(
        which=st.integers(0, 1),
        when_s=WHEN,
        energy_uj=st.integers(0, 2**58),
        job=JOBS,
        paid=MONEY,
    )
    def burn(self, which: int, when_s: int, energy_uj: int, job: str, paid: Exact) -> None:
        self.nodes[which].burn(when_s, energy_uj % 2**52, job, paid, held_ns=energy_uj % 10**12)

    @rule(which=st.integers(0, 1), job=JOBS.filter(bool), account=NAMES, experiment=NAMES)
    def label(self, which: int, job: str, account: str, experiment: str) -> None:
        self.nodes[which].label(job, account, "ada", experiment)

    @rule(which=st.integers(0, 1), limit=st.integers(1, 9), pages=st.integers(1, 4))
    def collect(self, which: int, limit: int, pages: int) -> None:
        node = self.nodes[which]
        for _ in range(pages):
            page = node.page(self.position(node), limit)
            taken = ingest.take(self.database, page, "t", NOW_S)
            assert taken is not None
            # Again, as after an answer that was lost: nothing happens.
            if page.next != page.since:
                assert ingest.take(self.database, page, "t", NOW_S) is None

    @rule(month=st.sampled_from([202610, 202611, 202612]))
    def close(self, month: int) -> None:
        try:
            bills.close(self.database, month, "grace", NOW_S)
        except InputError as error:
            assert error.reason in {"closed", "order"}
        else:
            self.closed[month] = bills.bill(self.database, month)

    @rule(job=JOBS.filter(bool), account=NAMES, experiment=NAMES)
    def relabel(self, job: str, account: str, experiment: str) -> None:
        reason = Reason("relabel", "grace", "wrong wckey", NOW_S)
        try:
            corrections.relabel(self.database, job, (account, experiment), reason)
        except InputError as error:
            assert error.reason == "nothing"
        except LedgerError as error:
            assert "no workload" in str(error) or "is ambiguous" in str(error)

    @rule(giver=NAMES, taker=NAMES, amount=MONEY)
    def correct(self, giver: str, taker: str, amount: Exact) -> None:
        lines = [
            Transfer(item="electricity", currency="EUR", billed=amount),
            Transfer("gpu", Amount(7, 0, 3)),
        ]
        try:
            corrections.correct(
                self.database, BilledOwner("", giver), BilledOwner("", taker), lines,
                Reason("correction", "grace", "agreed", NOW_S),
            )  # fmt: skip
        except InputError as error:
            assert giver == taker, error

    @invariant()
    def what_is_closed_stays(self) -> None:
        if hasattr(self, "closed"):
            for month, bill in self.closed.items():
                assert bills.bill(self.database, month) == bill

    def position(self, node: Node) -> int:
        for places in ingest.places(self.database).values():
            for place in places:
                if place.ledger_id == node.ledger_id:
                    return place.position
        return 0

    def teardown(self) -> None:
        if not hasattr(self, "database"):
            return
        for which in (0, 1):
            while self.position(self.nodes[which]) < self.nodes[which].last:
                self.collect(which, 9, 1)
        found = check.check(self.database)
        assert found.bills == []
        assert found.behind == []
        assert all(each.missed == 0 for each in found.balances), found
        every = [bills.bill(self.database, period.month) for period in bills.periods(self.database)]
        energy_uj = sum(bills.total(bill.lines)[0].energy_uj for bill in every)
        assert energy_uj == sum(node.energy_uj for node in self.nodes)
        paid = sum(money(self.database, bill.month) for bill in every)
        assert paid == sum(node.paid.atoms for node in self.nodes)
        # Only what is of a closed month is late.
        for bill in every:
            assert all(line.late_for <= max(self.closed, default=0) for line in bill.lines)
        self.database.close()
