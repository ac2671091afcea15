"""The collected ledger as a source of reports: many nodes' postings, charges and facts.

Corrections are applied where possible: a workload is listed under its last experiment. Every
correction that affects the report is listed, with author and reason.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import msgspec

from joulebook.core.energy.readings import Component, Meter
from joulebook.core.evidence import Amount, Method, Subject
from joulebook.core.money.amounts import Charge, Exact
from joulebook.core.report.dataset import (
    Charged,
    LostStretch,
    Posting,
    ReportData,
    ReportWorkload,
    Selection,
    Unknowable,
    family_patterns,
    replay_warning,
    subject_of,
)
from joulebook.core.report.parts import Part, put_together
from joulebook.core.report.serving import ServedMonth
from joulebook.core.workloads import Labels, WorkloadId
from joulebook.lab.collected.bills import replayed_meters
from joulebook.lab.collected.database import Database, Row, one_by_some, opened
from joulebook.lab.collected.months import after, month_of
from joulebook.lab.collected.quarters import QuarterHours
from joulebook.lab.collected.schema import BilledOwner
from joulebook.lab.collected.served_query import by_month
from joulebook.units import NS_PER_S

_EXTRA = msgspec.json.Decoder(dict[str, str])

_LATEST_S = 1 << 33
_CORRECTIONS = 50
"""The most corrections listed one by one."""

_WORKLOADS = """
SELECT w.id, w.cluster, w.scheduler, w.workload, w.start, o.person, o.account, o.experiment
FROM workloads w JOIN owners o ON o.id = w.owner
"""

_FACTS = """
SELECT workload, ledger, display, name, started_utc_ns, ended_utc_ns, gpu_count, evidence, extra,
       scheduler_start_s, named, stage, outcome
FROM facts WHERE workload IN (*) ORDER BY workload, ledger
"""

_GAPS = """
SELECT l.node, m.component, m.name, g.reason, g.t0_utc_ns, g.t1_utc_ns
FROM gaps g JOIN ledgers l ON l.id = g.ledger JOIN meters m ON m.id = g.meter
WHERE g.t1_utc_ns > ? AND g.t0_utc_ns < ?
"""

_CORRECTED = """
SELECT c.id, c.made_s, c.kind, c.who, c.why, t.workload, a.remainder, a.account, a.person,
       a.experiment, b.remainder, b.account, b.person, b.experiment
FROM transfers t JOIN corrections c ON c.id = t.correction
JOIN owners a ON a.id = t.from_owner JOIN owners b ON b.id = t.to_owner
WHERE t.line = 1 AND (t.workload > 0 OR (c.month >= ? AND c.month < ?)) ORDER BY c.id
"""


NAME = "collected ledger"


class CollectedSource:
    """The collected ledger at a URL, as a source of reports.

    `hourly` says what needs quarter hours, as other rates do; else days will do for closed months.
    """

    def __init__(self, url: str, hourly: str = "") -> None:
        self._url = url
        self._hourly = hourly

    @property
    def name(self) -> str:
        """What people are shown."""
        return NAME

    def account(self, since_s: int, until_s: int, selection: Selection) -> ReportData:
        """Return what all nodes booked. Raises `ConfigError`, `LedgerError`, and `InputError` for
        quarter hours that are days here and in no export.
        """
        with opened(self._url) as database, database.transaction(writes=False):
            return account(database, since_s, until_s, selection, self._hourly)


def account(
    database: Database, since_s: int, until_s: int, wanted: Selection, hourly: str = ""
) -> ReportData:
    """Return what all nodes booked."""
    known = _workloads(database, wanted)
    numbers = None if wanted.everything else sorted(known)
    span = (min(max(since_s, 0), _LATEST_S), min(until_s, _LATEST_S))
    quarters = QuarterHours(database, span, numbers, hourly)
    meters: dict[tuple[str, str], Meter] = {}
    postings = []
    for (
        number,
        quarter_s,
        *amount,
        node,
        component,
        name,
        remainder,
        method,
        evidence,
    ) in quarters.postings():
        meter = meters.get((component, name)) or meters.setdefault(
            (component, name), Meter(Component(component), name)
        )
        subject = subject_of(number, remainder, known)
        postings.append(
            Posting(node, subject, meter, quarter_s, Amount(*amount), Method(method), evidence)
        )
    charged = tuple(
        Charged(
            node,
            subject_of(number, remainder, known),
            quarter_s,
            Charge.read(item, currency),
            Exact(*parts),
        )
        for number, quarter_s, *parts, node, remainder, item, currency in quarters.charges()
    )
    places = {(row.node, row.quarter_s) for row in postings}
    there = {row.subject for row in postings} | {row.subject for row in charged}
    replayed = frozenset(
        (node, Meter(Component(component), name))
        for node, component, name in replayed_meters(database)
    )
    booked = {(row.node, row.meter) for row in postings}
    nodes = database.rows(
        "SELECT node, max(booked_to_s) FROM ledgers GROUP BY cluster, node ORDER BY node"
    )
    return ReportData(
        NAME,
        since_s,
        until_s,
        tuple(postings),
        charged,
        {
            each.id: each
            for each in known.values()
            if each.id in there or (there and each.held_within(since_s, until_s))
        },
        tuple(quarters.rates(places)),
        tuple(
            LostStretch.of_row(node, row)
            for node, *row in database.rows(_GAPS, [edge_s * NS_PER_S for edge_s in span])
        ),
        {
            (node, Meter(Component(component), name)): model
            for node, component, name, model in database.rows(
                "SELECT node, component, name, model FROM meters"
                " JOIN ledgers ON ledgers.id = ledger WHERE model <> ''"
            )
        },
        known_until_s=dict(nodes),
        unknown={} if nodes else {Unknowable.COVERAGE: "nothing collected yet"},
        warnings=(
            *replay_warning(NAME, {meter for _, meter in booked & replayed}),
            *_corrections(database, known, there, span, wanted),
            *_late(nodes, postings, until_s),
        ),
        replayed=replayed,
        served=_served(database, span, wanted),
    )


def _of_owners(wanted: Selection) -> tuple[list[str], list[object]]:
    """Return the conditions on owners `o` and workloads `w` (SQL)."""
    parts: list[str] = []
    values: list[object] = []
    for column, names in (
        ("o.experiment", wanted.experiments),
        ("o.person", wanted.users),
        ("o.account", wanted.accounts),
        ("w.cluster", wanted.clusters),
    ):
        if names:
            parts.append(f"{column} IN ({_marks(names)})")
            values += sorted(names)
    return parts, values


def _served(
    database: Database, span: tuple[int, int], wanted: Selection
) -> tuple[ServedMonth, ...]:
    """Return the models that the selected owners served; of single runs that is not kept apart."""
    if wanted.workloads or wanted.jobs:
        return ()
    parts, values = _of_owners(wanted)
    return tuple(by_month(database, span, " AND ".join(parts) or "1 = 1", values))


def _workloads(database: Database, wanted: Selection) -> dict[int, ReportWorkload]:
    """Return the selected workloads, with their current labels."""
    parts, values = _of_owners(wanted)
    if wanted.workloads:
        marks, names = _marks(wanted.workloads), wanted.workloads
        parts.append(
            f"(w.workload IN ({marks}) OR w.scheduler || '/' || w.workload IN ({marks})"  # noqa: S608
            f" OR w.id IN (SELECT workload FROM facts WHERE display IN ({marks})))"
        )
        values += sorted(names) * 3
    patterns = [pattern for job in sorted(wanted.jobs) for pattern in family_patterns(job)]
    if patterns:
        own = " OR ".join(["w.workload LIKE ? ESCAPE '\\'"] * len(patterns))
        shown = " OR ".join(["display LIKE ? ESCAPE '\\'"] * len(patterns))
        parts.append(f"({own} OR w.id IN (SELECT workload FROM facts WHERE {shown}))")  # noqa: S608
        values += [*patterns, *patterns]
    where = f" WHERE {' AND '.join(parts)}" if parts else ""
    chosen = database.rows(_WORKLOADS + where, values)
    rows = {row[0]: row for row in chosen}
    if parts:
        # Another node's part of the same run may stand under a name that was made up meanwhile.
        same = sorted({row[3] for row in chosen})
        for row in one_by_some(database, f"{_WORKLOADS} WHERE w.workload IN (*)", [], same):
            rows.setdefault(row[0], row)
    told = _told(database, rows.values())
    runs = put_together(told)
    mine = {row[0] for row in chosen}
    return {n: run for n, run in runs.items() if n in mine or (parts and wanted.takes(run))}


def parts(database: Database, numbers: Sequence[int]) -> dict[int, Part]:
    """Return what is known of workloads, by their numbers."""
    rows = one_by_some(database, f"{_WORKLOADS} WHERE w.id IN (*)", [], numbers)
    return _told(database, list(rows))


def _told(database: Database, rows: Iterable[Row]) -> dict[int, Part]:
    told = {
        number: Part(
            number,
            ReportWorkload(
                WorkloadId(scheduler, workload, start), labels=Labels(*labels), cluster=cluster
            ),
        )
        for number, cluster, scheduler, workload, start, *labels in rows
    }
    for number, ledger, *facts in one_by_some(database, _FACTS, [], sorted(told)):
        before = told[number].workload
        part = msgspec.structs.replace(before, **_reported(facts))
        told[number] = Part(ledger, part if not before.display else before.and_of(part))
    return told


_TOLD = (
    "display", "name", "started_utc_ns", "ended_utc_ns", "gpu_count", "evidence", "extra",
    "scheduler_start_s", "named", "stage", "outcome",
)  # fmt: skip


def _reported(facts: Sequence[object]) -> dict[str, Any]:
    """Return a row of facts as fields of a workload."""
    values = dict(zip(_TOLD, facts, strict=True))
    return {**values, "extra": _EXTRA.decode(str(values["extra"])), "named": bool(values["named"])}


def _marks(names: frozenset[str]) -> str:
    return ", ".join("?" * len(names))


def _corrections(
    database: Database,
    known: Mapping[int, ReportWorkload],
    there: set[Subject],
    span: Sequence[int],
    wanted: Selection,
) -> Iterator[str]:
    """Yield descriptions of the corrections that affect the report."""
    said = 0
    # A month is as fine as a bill knows when an amount was moved that is of no workload.
    first, last = month_of(span[0]), month_of(span[1])
    for number, _, kind, who, why, workload, *owners in database.rows(
        _CORRECTED, [first, after(last)]
    ):
        giver, taker = BilledOwner(*owners[:4]), BilledOwner(*owners[4:])
        if not workload and (_concerns(giver, wanted) or _concerns(taker, wanted)):
            what = f"an amount was moved from {giver} to {taker}: it is in the bill, but not here"
        elif workload in known and known[workload].id in there:
            what = f"{known[workload].shown} is counted under {taker}, was {giver}"
        else:
            continue
        said += 1
        if said > _CORRECTIONS:
            yield "more corrections: joulebook bill shows all"
            return
        yield f"correction {number} ({kind}; {who}: {why}): {what}"


def _concerns(owner: BilledOwner, wanted: Selection) -> bool:
    """Return whether an owner is selected."""
    return wanted.everything or wanted.takes(
        ReportWorkload(
            WorkloadId("", ""), labels=Labels(owner.person, owner.account, owner.experiment)
        )
    )


def _late(nodes: Sequence[Row], postings: Sequence[Posting], until_s: int) -> Iterator[str]:
    """Yield which nodes that are in the report have not been collected to its end."""
    named = {row.node for row in postings}
    end_s = min(until_s, max((told_s for _, told_s in nodes), default=0))
    late = [node for node, told_s in nodes if node in named and told_s < end_s - 3600]
    if late:
        yield (
            f"data of {len(late)} nodes ends more than an hour before the end: "
            f"{', '.join(late[:10])}{' ...' if len(late) > 10 else ''}"
        )
