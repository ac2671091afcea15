"""What a viewer may see of bills: their own lines, and months beside one another."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from joulebook.errors import InputError
from joulebook.lab import billing
from joulebook.lab.collected import bills
from joulebook.lab.collected.bills import MonthBill, MonthSum, Period
from joulebook.lab.collected.database import Database
from joulebook.lab.collected.schema import BilledOwner
from joulebook.lab.web.viewer import Viewer


class SeenBill(NamedTuple):
    """A bill as far as a viewer sees it.

    Attributes:
        bill: The lines that are in the viewer's scope, and the corrections that they are of.
        measured: Owners for whose GPU time energy is not known throughout, and for which share.
        replayed: Nodes that played a recorded trace.

    """

    bill: MonthBill
    measured: dict[BilledOwner, float]
    replayed: list[str]


class BillView:
    """The questions on bills that a viewer may ask an open database."""

    def __init__(self, database: Database, viewer: Viewer) -> None:
        self._database = database
        self.viewer = viewer
        self._scope = viewer.scope

    def bill(self, month: int, account: str = "") -> MonthBill:
        """Return the viewer's lines of a month's bill."""
        return bills.read(
            self._database, month, account, self._scope.sql("owners.person", "owners.account")
        )

    def whole_bill(self, month: int, account: str = "") -> SeenBill:
        """Return the same with what was measured in part, which takes longer."""
        bill = self.bill(month, account)
        return SeenBill(bill, billing.measured(self._database, bill), self.replayed_nodes())

    def periods(self) -> list[Period]:
        """Return the months that anything of the viewer's is billed in, the latest first."""
        every = bills.periods(self._database)
        if not every:
            return []
        there = self.trend(every[0].month, every[-1].month)
        return [each for each in reversed(every) if each.month in there]

    def trend(self, first: int, last: int) -> dict[int, MonthSum]:
        """Return what each month comes to of all that the viewer may see."""
        return bills.by_month(
            self._database, first, last, self._scope.sql("owners.person", "owners.account")
        )

    def trend_of(self, user: str, first: int, last: int) -> dict[int, MonthSum]:
        """Return the same of one user's, as far as the viewer may see it."""
        where, values = self._scope.sql("owners.person", "owners.account")
        only = (f"{where} AND owners.person = ?", [*values, user])
        return bills.by_month(self._database, first, last, only)

    def trend_of_lab(self, first: int, last: int) -> dict[int, MonthSum]:
        """Return the same of the whole lab. Raises `InputError` (`forbidden`)."""
        self.refuse_without_totals()
        return bills.by_month(self._database, first, last)

    def behind(self, month: int) -> Sequence[tuple[str, int]]:
        """Return the nodes that have not reported all of a month, to administrators."""
        return bills.behind(self._database, month) if self.viewer.admin else ()

    def replayed_nodes(self) -> list[str]:
        """Return the nodes that played a recorded trace, whose figures were not measured there."""
        return sorted({node for node, *_ in bills.replayed_meters(self._database)})

    def refuse_without_totals(self) -> None:
        """Raise `InputError` (`forbidden`) if the lab's totals are not open to the viewer."""
        if not self.viewer.sees_totals:
            raise InputError("the lab's totals are for administrators", reason="forbidden")
