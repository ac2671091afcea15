"""One page of a node into the collected ledger: rows, bills and position in one transaction.

Rows are totals, so bills get the difference to the stored rows: nothing for a page written before.
Amounts for a closed month go to the open one.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import NamedTuple

import msgspec

from joulebook.core.evidence import ZERO, Amount
from joulebook.core.ledger.export import OLDEST, PostingsPage
from joulebook.core.money.amounts import Exact
from joulebook.errors import InputError
from joulebook.lab.collected import compact, forget, owners, renames
from joulebook.lab.collected.database import Database, one_by_some
from joulebook.lab.collected.rollup import Rollup, closed_to
from joulebook.lab.collected.schema import (
    HOW,
    KIND,
    OWNER,
    POSTING_COLUMNS,
    RATE,
    BilledOwner,
    numbered,
)


class Progress(NamedTuple):
    """The position of a ledger's collection."""

    ledger_id: str
    position: int


_SOONEST_S = 1_577_836_800
"""2020-01-01: nothing was booked before."""

_AHEAD_S = 2 * 86_400


class Ingested(NamedTuple):
    """What a page brought.

    Attributes:
        rows: All of its rows.
        late: How many amounts came late for a month that is closed.
        undated: The quarter hours that cannot be when it was, of rows that are kept apart.

    """

    rows: int
    late: int
    undated: frozenset[int] = frozenset()


def places(database: Database) -> dict[tuple[str, str], list[Progress]]:
    """The ledgers of each (cluster, node) and how far each is collected, the oldest first."""
    found: dict[tuple[str, str], list[Progress]] = {}
    for cluster, node, *place in database.rows(
        "SELECT cluster, node, ledger_id, position FROM ledgers ORDER BY id"
    ):
        found.setdefault((cluster, node), []).append(Progress(*place))
    return found


def targets(database: Database) -> dict[str, str]:
    """Return which ledger was found last at each target."""
    return dict(database.rows("SELECT target, ledger_id FROM ledgers ORDER BY seen_s, id"))


def take(
    database: Database,
    page: PostingsPage,
    target: str,
    now_s: int,
    targets: Collection[str] = (),
) -> Ingested | None:
    """Write a page in one transaction; `None` if another collector was faster.

    `targets` are all targets. Raises `InputError` (`wrong_ledger`) if the ledger is another node's,
    and `LedgerError`.
    """
    with database.transaction():
        closed = closed_to(database)
        page = forget.pseudonymised(database, page)
        ledger = _ledger(database, page, target, now_s, targets)
        if ledger is None:
            return None
        rollup = Rollup(database, ledger, closed, tells_idle=page.v > OLDEST)
        undated = _undated(page, now_s)
        database.have_months(
            {row.quarter_s for rows in (page.postings, page.charges, page.rates) for row in rows
             if _SOONEST_S <= row.quarter_s <= now_s + _AHEAD_S}
        )  # fmt: skip
        meters = _meters(database, ledger, page)
        workloads = owners.learn(database, ledger, page, closed, now_s)
        by_day = compact.late(database, ledger, page, undated)
        _postings(database, ledger, page, meters, workloads, rollup, undated, by_day)
        if page.next == page.last:
            _refuse_other_past(database, ledger, page)
        _charges(database, ledger, page, workloads, rollup, undated, by_day)
        _rates(database, ledger, page)
        _gaps(database, ledger, page, meters)
        rollup.write()
        database.rows(
            "UPDATE ledgers SET position = ?, last_seq = ?, booked_to_s = ?, seen_s = ?,"
            " target = ?, writer = ? WHERE id = ?",
            [page.next, page.last, page.booked_to_s, now_s, target, page.next_writer, ledger],
        )
        return Ingested(page.rows, rollup.late, undated)


def _undated(page: PostingsPage, now_s: int) -> frozenset[int]:
    """Return the quarter hours of the page that are impossible."""
    quarters = {row.quarter_s for row in page.postings} | {row.quarter_s for row in page.charges}
    return frozenset(q for q in quarters if not _SOONEST_S <= q <= now_s + _AHEAD_S)


def _ledger(
    database: Database, page: PostingsPage, target: str, now_s: int, targets: Collection[str]
) -> int | None:
    found = database.rows(
        "SELECT id, cluster, node, position, writer FROM ledgers WHERE ledger_id = ?",
        [page.ledger_id],
    )
    if not found:
        if page.since:
            return None
        ((number,),) = database.rows("SELECT coalesce(max(id), 0) + 1 FROM ledgers")
        database.rows(
            "INSERT INTO ledgers VALUES (?, ?, ?, ?, ?, 0, 0, 0, ?, ?, '')",
            [number, page.ledger_id, page.cluster, page.node, page.created_s, now_s, target],
        )
        return int(number)
    ((number, cluster, node, position, writer),) = found
    if position != page.since:
        return None
    if "" not in {writer, page.since_writer} and writer != page.since_writer:
        raise _went_back(page, f"rows up to number {position} are not those that were collected")
    if (cluster, node) != (page.cluster, page.node):
        renames.follow(database, number, page, target, now_s, targets)
    return int(number)


def _meters(database: Database, ledger: int, page: PostingsPage) -> dict[int, int]:
    ((last,),) = database.rows("SELECT coalesce(max(id), 0) FROM meters")
    known: dict[int, int] = {}
    booked: dict[int, int] = {}
    for local_id, number, booked_uj in database.rows(
        "SELECT local_id, id, booked_uj FROM meters WHERE ledger = ?", [ledger]
    ):
        known[local_id], booked[local_id] = number, booked_uj
    new = [meter for meter in page.meters if meter.id not in known]
    known |= {meter.id: last + i for i, meter in enumerate(new, start=1)}
    for meter in page.meters:
        if meter.booked_uj < booked.get(meter.id, 0):
            raise _went_back(
                page, f"meter {meter.name} fell from {booked[meter.id]} to {meter.booked_uj} uJ"
            )
    database.upsert(
        "meters",
        [
            (known[each.id], ledger, *msgspec.to_builtins(each)[:-1], int(each.replayed))
            for each in page.meters
        ],
        "id, ledger, local_id, component, name, model, booked_uj, expired_uj, replayed",
    )
    database.upsert(
        "charged",
        [(ledger, row.item, row.currency, *row.booked, *row.expired) for row in page.charged],
    )
    return known


def _postings(
    database: Database,
    ledger: int,
    page: PostingsPage,
    meters: Mapping[int, int],
    workloads: Mapping[int, owners.KnownWorkload],
    rollup: Rollup,
    undated: frozenset[int],
    by_day: frozenset[int],
) -> None:
    if not page.postings:
        return
    hows = numbered(
        database, HOW, {(row.remainder, row.method, row.evidence) for row in page.postings}
    )
    nobody = _nobody(database, {row.remainder for row in page.postings} - {""})
    components = {meters[row.id]: row.component for row in page.meters}
    old = {
        row[:4]: (Amount(*row[4:-1]), bool(row[-1]))
        for row in one_by_some(
            database,
            "SELECT quarter_s, meter, workload, how, energy_uj, idle_uj, held_ns, idle_ns,"
            " calibration_uj, tensor_ns, tensor_known_ns, undated FROM postings"
            " WHERE ledger = ? AND quarter_s IN (*)",
            [ledger],
            sorted({row.quarter_s for row in page.postings}),
        )
    }
    new: dict[tuple[int, ...], tuple[Amount, bool]] = {}
    posted_uj: dict[int, int] = {}
    for row in page.postings:
        who = workloads[row.workload_id] if row.workload_id else nobody[row.remainder]
        meter = meters[row.meter_id]
        key = (row.quarter_s, meter, who.workload,
               hows[row.remainder, row.method, row.evidence])  # fmt: skip
        amount = Amount(row.energy_uj, row.idle_uj, row.held_ns, row.idle_ns, row.calibration_uj,
                        row.tensor_ns, row.tensor_known_ns)  # fmt: skip
        before, apart = new.get(key, old.get(key, (ZERO, row.quarter_s in undated)))
        if row.quarter_s in by_day and not apart:
            amount = before.plus(amount)
        new[key] = (amount, apart)
        more = Amount(*(a - b for a, b in zip(amount, before, strict=True)))
        if not apart and min(more._replace(calibration_uj=0)) < 0:
            raise _fell(page, row.quarter_s, f"{before.energy_uj} uJ", f"{amount.energy_uj} uJ")
        if not apart:
            rollup.use(row.quarter_s, who.workload, who.owner, components[meter], more)
        posted_uj[meter] = posted_uj.get(meter, 0) + more.energy_uj
    database.many(
        "UPDATE meters SET posted_uj = posted_uj + ? WHERE id = ?",
        [(more_uj, meter) for meter, more_uj in posted_uj.items()],
    )
    database.upsert(
        "postings",
        [(ledger, *key, *amount, int(apart)) for key, (amount, apart) in new.items()],
        POSTING_COLUMNS,
    )


def _refuse_other_past(database: Database, ledger: int, page: PostingsPage) -> None:
    """Raise `InputError` if the rows here are not those that the node's books were made of.

    A ledger restored from a copy has lost rows that are here; once it has consumed more than it
    lost, all its numbers have grown and nothing else shows it.
    """
    for name, booked_uj, expired_uj, posted_uj in database.rows(
        "SELECT name, booked_uj, expired_uj, posted_uj FROM meters WHERE ledger = ?", [ledger]
    ):
        if not 0 <= booked_uj - posted_uj <= expired_uj:
            raise _went_back(
                page, f"meter {name} has a total of {booked_uj} uJ, but rows of {posted_uj} uJ"
            )


def _charges(
    database: Database,
    ledger: int,
    page: PostingsPage,
    workloads: Mapping[int, owners.KnownWorkload],
    rollup: Rollup,
    undated: frozenset[int],
    by_day: frozenset[int],
) -> None:
    if not page.charges:
        return
    kinds = numbered(
        database, KIND, {(row.remainder, row.item, row.currency) for row in page.charges}
    )
    nobody = _nobody(database, {row.remainder for row in page.charges} - {""})
    old = {
        row[:3]: (Exact(*row[3:-1]), bool(row[-1]))
        for row in one_by_some(
            database,
            "SELECT quarter_s, workload, kind, whole, nano, rest, undated FROM charges"
            " WHERE ledger = ? AND quarter_s IN (*)",
            [ledger],
            sorted({row.quarter_s for row in page.charges}),
        )
    }
    new: dict[tuple[int, ...], tuple[Exact, bool]] = {}
    for row in page.charges:
        who = workloads[row.workload_id] if row.workload_id else nobody[row.remainder]
        key = (row.quarter_s, who.workload, kinds[row.remainder, row.item, row.currency])
        amount = Exact(row.whole, row.nano, row.rest)
        before, apart = new.get(key, old.get(key, (Exact(), row.quarter_s in undated)))
        if row.quarter_s in by_day and not apart:
            amount = before.plus(amount)
        new[key] = (amount, apart)
        more = Exact.of(amount.atoms - before.atoms)
        if apart:
            continue
        if more.whole < 0:
            raise _fell(page, row.quarter_s, f"{before.floor} nano", f"{amount.floor} nano")
        rollup.bill(*key[:2], who.owner, row.item, row.currency, more)
    database.upsert(
        "charges",
        [(ledger, *key, *amount, int(apart)) for key, (amount, apart) in new.items()],
    )


def _went_back(page: PostingsPage, what: str) -> InputError:
    return InputError(
        f"{page.node}: {what} (a ledger restored from a copy?): move the ledger away on the node "
        "to start a new one",
        reason="went_back",
    )


def _fell(page: PostingsPage, quarter_s: int, before: str, now: str) -> InputError:
    return InputError(
        f"{page.node}: reports {now} for the quarter hour {quarter_s}, after {before} before: "
        "totals never decrease; the page was rejected",
        reason="fell",
    )


def _nobody(database: Database, remainders: set[str]) -> dict[str, owners.KnownWorkload]:
    numbers = numbered(database, OWNER, {BilledOwner(name) for name in remainders})
    return {name: owners.KnownWorkload(0, numbers[BilledOwner(name)]) for name in remainders}


def _rates(database: Database, ledger: int, page: PostingsPage) -> None:
    if not page.rates:
        return
    names = numbered(
        database,
        RATE,
        {(row.quantity, row.value, row.unit, row.source, row.quality) for row in page.rates},
    )
    database.upsert(
        "rates_used",
        [
            (
                ledger,
                row.quarter_s,
                names[row.quantity, row.value, row.unit, row.source, row.quality],
                row.energy_uj,
                row.held_ns,
            )
            for row in page.rates
        ],
    )


def _gaps(database: Database, ledger: int, page: PostingsPage, meters: Mapping[int, int]) -> None:
    # Not by the node's row numbers: sqlite gives those of deleted rows again.
    database.upsert(
        "gaps",
        [
            (ledger, meters[row.meter_id], row.reason, row.t0_utc_ns, row.t1_utc_ns)
            for row in page.gaps
        ],
    )
