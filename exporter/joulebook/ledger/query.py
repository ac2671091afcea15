"""Read-only queries of the ledger, also while the daemon writes."""

from __future__ import annotations

import errno
import os
import sqlite3
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

import msgspec

from joulebook.core.energy.meter import MeterState
from joulebook.core.energy.node_meter import NodeMeter
from joulebook.core.energy.readings import REPLAYED, Component, Meter
from joulebook.core.evidence import Remainder
from joulebook.core.ledger.export import MAX_ROWS, PostingsPage
from joulebook.core.money.amounts import NOTHING, Charge, Charges, Exact
from joulebook.core.report.dataset import ReportWorkload
from joulebook.core.workloads import Labels
from joulebook.decoding import converter
from joulebook.errors import LedgerError
from joulebook.ledger import charges, export, retention, schema, state
from joulebook.units import NS_PER_S, QUARTER_NS

_QUARTER_S = QUARTER_NS // NS_PER_S

_FOREVER_S = 1 << 62

WORKLOADS = """
SELECT id, scheduler, workload, display, name, user, account, experiment, started_utc_ns,
       ended_utc_ns, gpu_count, evidence, extra, start, scheduler_start_s, named, stage, outcome
FROM workloads
"""

_as_workload = converter(ReportWorkload)

_MATCHING = f"{WORKLOADS} WHERE workload GLOB ? OR display GLOB ?"


_BALANCES = """
SELECT component, name, expired_uj, coalesce(posted_uj, 0)
FROM meters LEFT JOIN (
    SELECT meter_id, sum(energy_uj) AS posted_uj FROM postings GROUP BY meter_id
) ON meter_id = meters.id
"""

_SINCE = """
SELECT remainder, user, account, experiment, sum(energy_uj)
FROM postings LEFT JOIN workloads ON workloads.id = workload_id
WHERE quarter_s >= ?
GROUP BY remainder, user, account, experiment
"""


class MeterBalance(msgspec.Struct, frozen=True):
    """One meter's books against its postings (law 1); `expired_uj` are postings deleted by age."""

    meter: Meter
    booked_uj: int
    postings_uj: int
    expired_uj: int

    @property
    def difference_uj(self) -> int:
        """Return the total minus the postings: 0, or the ledger is wrong."""
        return self.booked_uj - self.postings_uj - self.expired_uj


class ChargeBalance(NamedTuple):
    """The total of one kind of charge, and the sum of its rows."""

    charge: Charge
    booked: Exact
    rows: Exact


class LedgerReader:
    """Opens the ledger at `path` for reading; a context manager.

    Every answer is one consistent view, and none keeps the daemon from writing. Raises
    `LedgerError` if there is no ledger or it may not be read, `LedgerTooNew`, `LedgerCorrupt`, or
    `LedgerUnavailable`; so do all methods.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path).absolute()
        try:
            if not self.path.stat().st_size:
                raise FileNotFoundError
            # Asked, not tried: closing a descriptor of the file would drop the locks that another
            # connection in this process (the daemon's own) has on it.
            if not os.access(self.path, os.R_OK):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        except FileNotFoundError as exc:
            raise LedgerError(
                f"no ledger at {self.path}: check ledger.path; has the daemon run here?"
            ) from exc
        except OSError as exc:
            raise LedgerError(
                f"ledger {self.path} cannot be read ({exc.strerror}): run as root, or as a "
                "member of its group"
            ) from exc
        try:
            self._conn = schema.connect(self.path, "ro")
        except sqlite3.Error as exc:
            raise retention.explain(exc, self.path, writing=False) from exc
        try:
            self._refuse_old()
        except BaseException:
            self._conn.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._conn.close()

    def jobs(self, pattern: str, limit: int = 1_000) -> tuple[ReportWorkload, ...]:
        """The workloads whose id or displayed name matches, the latest first, at most `limit`.

        `*` stands for any text and `?` for any character. Without either, `101` also finds the
        tasks of the array (`101_7`) and the requeues (`101.r1`) of job 101.
        """
        glob = pattern.replace("[", "[[]")
        globs = [glob] if "*" in glob or "?" in glob else [glob, f"{glob}_*", f"{glob}.r[0-9]*"]
        found: dict[int, ReportWorkload] = {}
        with self.view() as conn:
            for each in globs:
                for row in conn.execute(
                    f"{_MATCHING} ORDER BY id DESC LIMIT ?", (each, each, limit)
                ):
                    found[row[0]] = workload(row)
        return tuple(found[key] for key in sorted(found, reverse=True)[:limit])

    def booked_to_utc_ns(self, meters: Collection[Meter]) -> int:
        """Up to when (UTC ns) all that these meters read is booked; 0 if one is not known.

        Without any: up to when anything is.
        """
        with self.view() as conn:
            anchor = state.read_anchor(conn)
            bases = {each.meter: each.base.t_ns for each in state.read_meters(conn)}
        if anchor is None or not bases or not bases.keys() >= set(meters):
            return 0
        booked_ns = min((bases[meter] for meter in meters), default=max(bases.values()))
        return booked_ns + anchor.utc_offset_ns

    def balance_check(self) -> tuple[MeterBalance, ...]:
        """Return each meter's books against the sum of its postings; reads all of the ledger."""
        with self.view() as conn:
            rows = conn.execute(_BALANCES).fetchall()
            booked = {each.meter: each.booked_uj for each in state.read_meters(conn)}
            posted = {
                Meter(Component(component), name): (postings_uj, expired_uj)
                for component, name, expired_uj, postings_uj in rows
            }
        return tuple(
            MeterBalance(meter, booked.get(meter, 0), *posted.get(meter, (0, 0)))
            for meter in sorted(booked.keys() | posted.keys())
        )

    def since_by_owner(self, since_s: int) -> dict[Labels | Remainder, int]:
        """Return microjoules booked since `since_s` (UTC; a full quarter hour), by owner.

        Workloads go by the labels that the ledger knows now. Every time zone's midnight lies on
        a quarter hour.
        """
        with self.view() as conn:
            return {
                Remainder(remainder) if remainder else Labels(*labels): energy_uj
                for remainder, *labels, energy_uj in conn.execute(_SINCE, (since_s,))
            }

    def bills_by_owner(self, since_s: int) -> dict[Labels | Remainder, Charges]:
        """Return what was charged since `since_s`, like `since_by_owner`."""
        with self.view() as conn:
            return charges.by_owner(conn, since_s, _FOREVER_S)

    def ledger_id(self) -> str:
        """Return the id of this ledger and its copies."""
        with self.view() as conn:
            ((found,),) = conn.execute("SELECT ledger_id FROM ledger").fetchall()
            return str(found)

    def charge_check(self) -> tuple[ChargeBalance, ...]:
        """Return the totals of charges against the rows on record, which must be equal."""
        with self.view() as conn:
            booked, rows = state.read_charges(conn), charges.totals(conn)
        return tuple(
            ChargeBalance(charge, booked.get(charge, NOTHING), rows.get(charge, NOTHING))
            for charge in sorted(booked.keys() | rows.keys())
        )

    def page(
        self, node: str, cluster: str, since: int, ledger_id: str = "", limit: int = MAX_ROWS
    ) -> PostingsPage:
        """Return the rows numbered after `since`, for a collector; see `core/handover`."""
        with self.view() as conn:
            return export.page(conn, node, cluster, since, ledger_id, limit)

    def meters(self) -> tuple[MeterState, ...]:
        """Return all meters as they are booked."""
        with self.view() as conn:
            return state.read_meters(conn)

    def node_meters(self) -> dict[Meter, NodeMeter]:
        """Return the meters of the whole node, and what became of them."""
        with self.view() as conn:
            return state.read_node_meters(conn)

    def models(self) -> dict[Meter, str]:
        """Return the model of each device, if known."""
        with self.view() as conn:
            return state.read_models(conn)

    def _refuse_old(self) -> None:
        with self.view() as conn:
            found, known = schema.version(conn, self.path), len(schema.steps(schema.MIGRATIONS))
        if found < known:
            raise LedgerError(
                f"ledger {self.path} has schema {found}, but this version needs {known}: start "
                "the daemon of this version once to upgrade it"
            )

    @contextmanager
    def view(self) -> Iterator[sqlite3.Connection]:
        """Begin a transaction of reads. Raises `LedgerError`, also for values that cannot be."""
        try:
            self._conn.execute("BEGIN")
            yield self._conn
        except sqlite3.Error as exc:
            raise retention.explain(exc, self.path, writing=False) from exc
        except (msgspec.MsgspecError, ValueError, TypeError, RecursionError) as exc:
            raise retention.corrupt(self.path, str(exc)) from exc
        finally:
            # At once: an old view holds back the write-ahead log.
            schema.roll_back(self._conn)


def played(conn: sqlite3.Connection) -> frozenset[Meter]:
    """Return the meters that were played from a recorded trace."""
    return frozenset(m.meter for m in state.read_meters(conn) if m.base.epoch == REPLAYED)


def workload(row: Iterable[object]) -> ReportWorkload:
    """Return a row of `WORKLOADS`. Raises `msgspec.MsgspecError` for one that cannot be."""
    _, scheduler, name, display, called, user, account, experiment, *rest = row
    started_utc_ns, ended_utc_ns, gpu_count, evidence, extra, start, *rest = rest
    scheduler_start_s, named, stage, outcome = rest
    return _as_workload(
        {
            "id": (scheduler, name, start),
            "display": display,
            "name": called,
            "labels": (user, account, experiment),
            "started_utc_ns": started_utc_ns,
            "ended_utc_ns": ended_utc_ns,
            "gpu_count": gpu_count,
            "evidence": evidence,
            "extra": msgspec.json.decode(str(extra)),
            "scheduler_start_s": scheduler_start_s,
            "named": bool(named),
            "stage": stage,
            "outcome": outcome,
        }
    )
