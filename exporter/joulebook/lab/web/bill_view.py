"""What a viewer may see of bills: their own lines, months beside one another, and the audit log."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from joulebook.core.report.serving import ServedModel
from joulebook.errors import InputError
from joulebook.lab import billing
from joulebook.lab.advice.advise import (
    NOTHING_TO_COME,
    KnownToCome,
    MonthAdvice,
    MonthAdviceOut,
    answer,
    of_month,
)
from joulebook.lab.advice.later import WINDOW_H
from joulebook.lab.advice.read import Rows
from joulebook.lab.collected import audit, bills, months, served_query
from joulebook.lab.collected.audit import AuditEntry
from joulebook.lab.collected.bills import MonthBill, Period, PeriodSum
from joulebook.lab.collected.database import Database
from joulebook.lab.collected.schema import BilledOwner, MonthSum
from joulebook.lab.web.kept import Kept
from joulebook.lab.web.viewer import Viewer

ADVICE_S = 3600
"""Advice of a month is worked out again after so long, and after any change in the audit log."""


class SeenBill(NamedTuple):
    """A bill as far as a viewer sees it.

    Attributes:
        bill: The lines that are in the viewer's scope, and the corrections that they are of.
        measured: Owners for whose GPU time energy is not known throughout, and for which share.
        replayed: Nodes that played a recorded trace.
        advice: Where its jobs could have saved.
        served: Models that its workloads served.

    """

    bill: MonthBill
    measured: dict[BilledOwner, float]
    replayed: list[str]
    advice: MonthAdviceOut
    served: list[ServedModel] = []


class BillView:
    """The questions on bills that a viewer may ask an open database."""

    def __init__(
        self, database: Database, viewer: Viewer, kept: Kept[MonthAdvice] | None = None
    ) -> None:
        self._database = database
        self.viewer = viewer
        self._scope = viewer.scope
        self._kept = kept or Kept(1)

    @property
    def _only(self) -> tuple[str, list[object]]:
        return self._scope.sql("owners.person", "owners.account")

    def bill(self, month: int, account: str = "") -> MonthBill:
        """Return the viewer's lines of a month's bill."""
        return bills.read(self._database, month, account, self._only)

    def whole_bill(self, month: int, now_s: int, account: str = "") -> SeenBill:
        """Return the same with what was measured in part and advice, which takes longer."""
        bill = self.bill(month, account)
        return SeenBill(
            bill,
            billing.measured(self._database, bill),
            self.replayed_nodes(),
            answer(self.advice(month, now_s, account), "money"),
            [each for each in self.serving(month) if account in {"", each.account}],
        )

    def periods(self) -> list[PeriodSum]:
        """Return the months that anything of the viewer's is billed in."""
        found = bills.with_sums(self._database, self._only)
        return [each for each in found if self._scope.everything or each.total != MonthSum({}, {})]

    def trend(
        self, first: int, last: int, user: str = "", account: str = ""
    ) -> dict[int, MonthSum]:
        """Return what each month comes to of all that the viewer may see, or of some of it."""
        where, values = self._only
        for column, name in (("person", user), ("account", account)):
            if name:
                where, values = f"{where} AND owners.{column} = ?", [*values, name]
        return bills.by_month(self._database, first, last, (where, values))

    def trend_of_lab(self, first: int, last: int) -> dict[int, MonthSum]:
        """Return the same of the whole lab. Raises `InputError` (`forbidden`)."""
        self.refuse_without_totals()
        return bills.by_month(self._database, first, last)

    def advice(
        self,
        month: int,
        now_s: int,
        account: str = "",
        to_come: KnownToCome = NOTHING_TO_COME,
        window_h: int = WINDOW_H,
    ) -> MonthAdvice:
        """Return where the viewer's jobs of a month could have saved, in all or one account.

        It is up to an hour old; a correction, or a person who was forgotten, is in it at once.
        """
        where, values = self._scope.sql("o.person", "o.account")
        if account:
            where, values = f"{where} AND o.account = ?", [*values, account]
        asked = (self._scope, month, account, window_h, now_s // ADVICE_S, to_come.price_kind)
        return self._kept.get(
            (*asked, audit.last(self._database)),
            lambda: of_month(self._database, month, now_s, Rows(where, values), to_come, window_h),
        )

    def serving(self, month: int) -> list[ServedModel]:
        """Return the models that the viewer's workloads served in a month."""
        span = (months.begin_s(month), months.begin_s(months.after(month)))
        return served_query.models(self._database, span, *self._scope.sql("o.person", "o.account"))

    def has_account(self, account: str) -> bool:
        """Return whether anything of the viewer's was ever booked to an account."""
        where, values = self._only
        return bool(
            self._database.rows(
                f"SELECT 1 FROM owners WHERE account = ? AND {where} LIMIT 1",  # noqa: S608
                [account, *values],
            )
        )

    def behind(self, month: int) -> Sequence[tuple[str, int]]:
        """Return the nodes that have not reported all of a month, to administrators."""
        return bills.behind(self._database, month) if self.viewer.admin else ()

    def audit(self, most: int) -> list[AuditEntry]:
        """Return who changed what, the latest first. Raises `InputError` (`forbidden`)."""
        if not self.viewer.admin:
            raise InputError("the audit log is for administrators", reason="forbidden")
        return audit.entries(self._database, most)

    def replayed_nodes(self) -> list[str]:
        """Return the nodes that played a recorded trace, whose figures were not measured there."""
        return sorted({node for node, *_ in bills.replayed_meters(self._database)})

    def refuse_without_totals(self) -> None:
        """Raise `InputError` (`forbidden`) if the lab's totals are not open to the viewer."""
        if not self.viewer.sees_totals:
            raise InputError("the lab's totals are for administrators", reason="forbidden")

    def months(self) -> list[Period]:
        """Return the months in which the viewer has anything, the latest first."""
        return [each.period for each in reversed(self.periods())]

    def collected_to_s(self) -> int:
        """Return up to when the last node is collected (UTC seconds; 0: nothing is)."""
        ((latest,),) = self._database.rows("SELECT coalesce(max(booked_to_s), 0) FROM ledgers")
        return int(latest)
