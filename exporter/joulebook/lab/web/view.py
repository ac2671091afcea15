"""The one way from a request to the collected ledger: what a viewer may see of it, and no more.

Every question carries the viewer's scope into its SQL. Totals over what others have are grouped by
account or by nothing, so that they name nobody.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from joulebook.core.evidence import Amount, summed
from joulebook.core.money.amounts import Charge, Charges, Item, add
from joulebook.core.report.dataset import ReportData, ReportWorkload, Selection, replay_warning
from joulebook.core.report.parts import put_together
from joulebook.core.report.rollup import own_rates
from joulebook.core.report.runs import WorkloadTotals, totals
from joulebook.errors import InputError, JoulebookError
from joulebook.lab.collected import compact, months, report_query
from joulebook.lab.collected.bills import BY_OWNER_BILLED, BY_OWNER_USED, exact, halves, wholes
from joulebook.lab.collected.schema import BilledOwner
from joulebook.lab.figures import added
from joulebook.lab.report.sources import FOREVER_S
from joulebook.lab.web.bill_view import BillView
from joulebook.lab.web.viewer import Scope
from joulebook.units import NS_PER_S, QUARTER_NS

DAY_S = months.DAY_S

QUARTER_S = QUARTER_NS // NS_PER_S

MOST_JOBS = 50_000
"""The most parts of jobs of one question; more ask for a shorter time."""

_TOO_MANY = (
    f"more than {MOST_JOBS:,} jobs: ask for fewer days, or for one user, account or experiment"
)

_AMOUNT = ("energy_uj", "idle_uj", "held_ns", "idle_ns")

OWNER = BilledOwner._fields


class Booked(msgspec.Struct, frozen=True, kw_only=True):
    """Energy and money.

    Attributes:
        by_component: Energy and GPU time by component (`gpu`, `cpu`, `dram`, `other`).
        charges: Money and CO2e, exact.

    """

    by_component: Mapping[str, Amount] = {}
    charges: Charges = {}

    @property
    def amount(self) -> Amount:
        """Return the sum over all components."""
        return added(self.by_component)


class OwnerUsage(Booked, frozen=True):
    """What one owner used; fields of the owner that were not asked for are empty."""

    owner: BilledOwner


class JobLine(Booked, frozen=True):
    """One job in a list: what is known of it, and what it used."""

    job: ReportWorkload

    @property
    def usage(self) -> OwnerUsage:
        """Return what it used, as of nobody in particular."""
        return OwnerUsage(BilledOwner(), by_component=self.by_component, charges=self.charges)

    @classmethod
    def of(cls, run: WorkloadTotals) -> JobLine:
        """Return the line of a run whose rows were read."""
        of_meters = ((meter.component.value, each) for meter, each in run.by_meter.items())
        return cls(run.workload, by_component=summed(of_meters, {}), charges=run.bill)


class JobFilter(msgspec.Struct, frozen=True):
    """Which jobs are asked for; an empty name selects all. Days are UTC, `until_s` excluded."""

    since_s: int
    until_s: int
    user: str = ""
    account: str = ""
    experiment: str = ""


class NodeLine(NamedTuple):
    """The collection of one ledger: how far it is booked, and how many changes are missing."""

    cluster: str
    node: str
    booked_to_s: int
    seen_s: int
    missing: int
    target: str


def of_experiment(name: str, account: str) -> Selection:
    """Return the runs of an experiment, in all accounts or in one."""
    return Selection(experiments=frozenset({name}), accounts=frozenset({account} - {""}))


def of_job(job: str, cluster: str) -> Selection:
    """Return the runs of a job, in all clusters or in one."""
    return Selection(jobs=frozenset({job}), clusters=frozenset({cluster} - {""}))


class LabView(BillView):
    """What one viewer sees of one open database."""

    def usage(self, month: int, by: Sequence[str] = OWNER) -> list[OwnerUsage]:
        """Return what a month holds for the viewer, grouped by fields of the owner."""
        return self._usage(month, by, *self._scope.sql("person", "account"))

    def accounts(self, month: int) -> list[OwnerUsage]:
        """Return the totals of the viewer's accounts, which name nobody."""
        if self._scope.everything:
            return self._usage(month, ("account",), "remainder = ''", [])
        mine = [str(account) for (account,) in self._own_accounts()]
        if not mine:
            return []
        where = f"account IN ({', '.join('?' * len(mine))})"
        return self._usage(month, ("account",), where, [*mine])

    def totals(self, month: int) -> list[OwnerUsage]:
        """Return the lab's totals by remainder (empty: used by somebody).

        Raises `InputError` (`forbidden`) if these are not open to the viewer.
        """
        self.refuse_without_totals()
        return self._usage(month, ("remainder",), "1 = 1", [])

    def jobs(self, wanted: JobFilter) -> list[JobLine]:
        """Return the jobs with energy in those days, the latest first.

        Raises `InputError` (`too_many`) for more than can be listed.
        """
        where, values = self._scope.sql("o.person", "o.account")
        for column, name in (("person", wanted.user), ("account", wanted.account),
                             ("experiment", wanted.experiment)):  # fmt: skip
            if name:
                where += f" AND o.{column} = ?"
                values.append(name)
        days: list[object] = [wanted.since_s // DAY_S * DAY_S, wanted.until_s]
        chosen = (
            "FROM {table} u JOIN workloads w ON w.id = u.workload JOIN owners o ON o.id = w.owner"
            f" WHERE u.day_s >= ? AND u.day_s < ? AND {where}"
        )
        of: dict[int, dict[str, Amount]] = {}
        for number, component, *sums in self._database.rows(
            f"SELECT w.id, u.component, {halves(*_AMOUNT)} {chosen.format(table='used')}"
            f" GROUP BY w.id, u.component LIMIT {MOST_JOBS + 1}",
            [*days, *values],
        ):
            of.setdefault(number, {})[component] = Amount(*wholes(sums))
        if len(of) > MOST_JOBS or sum(map(len, of.values())) > MOST_JOBS:
            raise InputError(_TOO_MANY, reason="too_many")
        paid: dict[int, Charges] = {}
        billed = chosen.format(table="billed")
        for number, item, currency, *sums in self._database.rows(
            f"SELECT w.id, u.item, u.currency, {halves('whole', 'nano', 'rest')} {billed}"  # noqa: S608
            " GROUP BY w.id, u.item, u.currency"
            # On days that were billed before bills had the part for idle time.
            f" UNION ALL SELECT DISTINCT w.id, '{Item.IDLE_UNKNOWN}', u.currency, 0, 0, 0, 0, 0, 0"
            f" {billed} AND u.item <> 'co2e' AND u.day_s < (SELECT idle_from_s FROM closing)",
            [*days, *values, *days, *values],
        ):
            more: Charges = {Charge(Item(item), currency): exact(sums)}
            paid[number] = add(paid.get(number, {}), more)
        return self._put_together(of, paid)

    def _put_together(
        self, of: Mapping[int, Mapping[str, Amount]], paid: Mapping[int, Charges]
    ) -> list[JobLine]:
        """Join the parts of jobs on several nodes."""
        runs = put_together(report_query.parts(self._database, sorted({*of, *paid})))
        lines: dict[object, JobLine] = {}
        for number, run in runs.items():
            line = lines.get(run.id) or JobLine(run)
            lines[run.id] = JobLine(
                run,
                by_component=summed(of.get(number, {}).items(), line.by_component),
                charges=add(line.charges, paid.get(number, {})),
            )
        return sorted(
            lines.values(), key=lambda line: (-(line.job.started_utc_ns or 0), str(line.job.id))
        )

    def runs(self, wanted: Selection) -> list[JobLine]:
        """Return the selected runs, from all that is booked, in the order of their start."""
        return [JobLine.of(each) for each in totals(self.dataset(0, FOREVER_S, wanted))]

    def as_booked(self, lines: Sequence[JobLine]) -> list[JobLine]:
        """Return jobs with all that is booked to them, idle cost too, in the same order."""
        ids = frozenset(str(line.job.id) for line in lines)
        found = self.runs(Selection(workloads=ids)) if ids else []
        whole = {each.job.id: each for each in found}
        return [whole.get(line.job.id, line) for line in lines]

    def of_experiment(self, name: str, account: str) -> ReportData:
        """Return the data of an experiment. Raises `InputError` if the viewer has none of it."""
        data = self.dataset(0, FOREVER_S, of_experiment(name, account))
        if not data.workloads:
            raise InputError(f"no experiment {name!r} of yours is in the ledger", reason="missing")
        return data

    def dataset(
        self, since_s: int, until_s: int, wanted: Selection, hourly: str = ""
    ) -> ReportData:
        """Return the data of a report on what the viewer may see of a selection.

        `hourly` says what needs quarter hours, where days of compacted months will not do. Raises
        `InputError` (`too_many`) for more than one answer can hold.
        """
        if not (wanted.experiments or wanted.workloads or wanted.jobs):
            self._refuse_too_many(since_s, until_s)
        asked = self._narrowed(wanted)
        found = report_query.account(self._database, since_s, until_s, asked, hourly)
        return found if self._scope.everything else restricted(found, self._scope)

    def drawn(self, wanted: Selection, data: ReportData) -> tuple[ReportData, int]:
        """Return `data` for a picture of power, and the seconds that a row stands for at most.

        Months that are kept by day are drawn by day if their quarter hours cannot be had.
        """
        months_ = {months.month_of(row.quarter_s) for row in data.postings}
        if not months_.intersection(compact.months(self._database)):
            return data, QUARTER_S
        try:
            return self.dataset(0, FOREVER_S, wanted, "a picture of power"), QUARTER_S
        except JoulebookError:
            return data, DAY_S

    def _narrowed(self, wanted: Selection) -> Selection:
        """Return a selection that leaves out most of what `restricted` would leave out anyway."""
        if self._scope.everything or wanted.accounts:
            return wanted
        if self._scope.accounts:
            mine = {str(account) for (account,) in self._own_accounts()}
            return msgspec.structs.replace(wanted, accounts=frozenset({"", *mine}))
        users = wanted.users or {self._scope.user}
        return msgspec.structs.replace(wanted, users=frozenset(users))

    def _refuse_too_many(self, since_s: int, until_s: int) -> None:
        where, values = self._scope.sql("o.person", "o.account")
        ((count,),) = self._database.rows(
            "SELECT count(1) FROM (SELECT DISTINCT u.workload FROM used u"  # noqa: S608
            " JOIN owners o ON o.id = u.owner WHERE u.workload > 0 AND u.day_s >= ?"
            f" AND u.day_s < ? AND {where} LIMIT {MOST_JOBS + 1}) many",
            [since_s // DAY_S * DAY_S, until_s, *values],
        )
        if count > MOST_JOBS:
            raise InputError(_TOO_MANY, reason="too_many")

    def nodes(self) -> list[NodeLine]:
        """Return the state of collection. Raises `InputError` (`forbidden`) for non-admins."""
        if not self.viewer.admin:
            raise InputError("the nodes are for administrators", reason="forbidden")
        return [
            NodeLine(cluster, node, booked_to_s, seen_s, last_seq - position, target)
            for cluster, node, booked_to_s, seen_s, last_seq, position, target in
            self._database.rows(
                "SELECT cluster, node, booked_to_s, seen_s, last_seq, position, target"
                " FROM ledgers ORDER BY cluster, node"
            )
        ]  # fmt: skip

    def _own_accounts(self) -> Sequence[tuple[Any, ...]]:
        where, values = self._scope.sql("person", "account")
        return self._database.rows(
            f"SELECT DISTINCT account FROM owners WHERE account <> '' AND {where}",  # noqa: S608
            values,
        )

    def _usage(
        self, month: int, by: Sequence[str], where: str, values: Sequence[object]
    ) -> list[OwnerUsage]:
        if set(by) - set(OWNER):
            raise ValueError(f"not fields of an owner: {by}")
        names = ", ".join(by)
        used: dict[BilledOwner, dict[str, Amount]] = {}
        paid: dict[BilledOwner, Charges] = {}
        for *who, component, e1, e2, i1, i2, h1, h2, n1, n2 in self._database.rows(
            f"SELECT {names}, component, {halves(*_AMOUNT)} FROM {BY_OWNER_USED}"  # noqa: S608
            f" JOIN owners ON owners.id = owner WHERE month = ? AND {where}"
            f" GROUP BY {names}, component",
            [month, *values],
        ):
            owner = BilledOwner(**dict(zip(by, who, strict=True)))
            amount = Amount(*wholes((e1, e2, i1, i2, h1, h2, n1, n2)))
            used.setdefault(owner, {})[component] = amount
        for *who, item, currency, w1, w2, n1, n2, r1, r2 in self._database.rows(
            f"SELECT {names}, item, currency, {halves('whole', 'nano', 'rest')}"  # noqa: S608
            f" FROM {BY_OWNER_BILLED} JOIN owners ON owners.id = owner WHERE month = ? AND {where}"
            f" GROUP BY {names}, item, currency",
            [month, *values],
        ):
            owner = BilledOwner(**dict(zip(by, who, strict=True)))
            more: Charges = {Charge(Item(item), currency): exact((w1, w2, n1, n2, r1, r2))}
            paid[owner] = add(paid.get(owner, {}), more)
        return [
            OwnerUsage(owner, by_component=used.get(owner, {}), charges=paid.get(owner, {}))
            for owner in sorted({*used, *paid})
        ]


def restricted(data: ReportData, scope: Scope) -> ReportData:
    """Return the part of a report's data that is within a scope, and nothing of anybody else.

    Warnings of others' corrections go; rates weigh what is left.
    """
    mine = {
        id_: each
        for id_, each in data.workloads.items()
        if scope.takes(each.labels.user, each.labels.account)
    }
    left = msgspec.structs.replace(
        data,
        workloads=mine,
        postings=tuple(row for row in data.postings if row.subject in mine),
        charges=tuple(row for row in data.charges if row.subject in mine),
        cut=data.cut & mine.keys(),
    )
    nodes, meters = set(left.nodes), {(row.node, row.meter) for row in left.postings}
    replayed = data.replayed & meters
    left = msgspec.structs.replace(
        left,
        gaps=tuple(gap for gap in data.gaps if (gap.node, gap.meter) in meters),
        models={key: model for key, model in data.models.items() if key in meters},
        known_until_s={node: s for node, s in data.known_until_s.items() if node in nodes},
        rates=tuple(rate for rate in data.rates if rate.node in nodes),
        replayed=replayed,
        warnings=replay_warning(data.source, {meter for _, meter in replayed}),
        audits={key: audit for key, audit in data.audits.items() if key in meters},
        served=tuple(s for s in data.served if scope.takes(s.model.person, s.model.account)),
    )
    return msgspec.structs.replace(left, rates=own_rates(left))
