"""Rows dated by a wrong clock, and correcting their dates once it is set.

Node time is independent of the wall clock, so it is known by how much that was set. Rows booked
since the boot are moved by as much, each time, unless they were exported: then only if their date
is impossible (a collector keeps those aside). An exported row with a possible date never moves, nor
do rows from before the boot. Where more than a day of all these is in the future of a clock that
was set back, it is the clock that is wrong: nothing moves but what it dates, once it is right.
"""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Iterator
from itertools import count

import msgspec

from joulebook.clock import Anchor
from joulebook.core.money.amounts import Exact
from joulebook.units import NS_PER_HOUR, NS_PER_S

_log = logging.getLogger(__name__)

STEP_NS = 60 * NS_PER_S
"""A clock that is set by less moves nothing: rows are of quarter hours."""

STEADY_NS = 600 * NS_PER_S
"""How long a clock must not have been set before old rows are deleted by it."""

_KIND = "dating"
_QUARTER_S = 900
_SOONEST_S = 1_577_836_800
"""2020-01-01: nothing was booked before."""

_AHEAD_S = 2 * 86_400

_SURE_S = 86_400
"""So long a clock is not wrong: rows of a longer time are evidence against another one."""

_TABLES = {
    "postings": (
        ("meter_id", "workload_id", "remainder", "method", "evidence"),
        (
            "energy_uj",
            "idle_uj",
            "held_ns",
            "idle_ns",
            "calibration_uj",
            "tensor_ns",
            "tensor_known_ns",
        ),
    ),
    "charges": (("workload_id", "remainder", "item", "currency"), ("whole", "nano", "rest")),
    "rates_used": (
        ("quantity", "value", "unit", "source", "quality"),
        ("energy_uj", "held_ns"),
    ),
}


class Dating(msgspec.Struct, frozen=True):
    """The state of the wall clock.

    Attributes:
        epoch: The boot.
        from_seq: The last row that was numbered before the boot.
        from_quarter_s: The last quarter hour that had rows before it.
        from_ns: Since when (node time) the clock has not been set.
        offset_ns: What has made UTC of node time since then.
        handed_seq: The number up to which rows were handed on.
        handed_quarter_s: The last quarter hour that had rows then. A row of it, or of one before,
            may have been handed on though its number says that it has changed since.

    """

    epoch: str
    from_seq: int
    from_quarter_s: int
    from_ns: int
    offset_ns: int
    handed_seq: int = 0
    handed_quarter_s: int = 0

    def is_steady(self, now_ns: int) -> bool:
        """Return whether it has not been set for long."""
        return now_ns - self.from_ns >= STEADY_NS


_decode = msgspec.msgpack.Decoder(Dating).decode
_encode = msgspec.msgpack.Encoder().encode


def read(conn: sqlite3.Connection) -> Dating | None:
    """Return the state at the last commit. Raises `sqlite3.Error`, `msgspec.MsgspecError`."""
    found = conn.execute("SELECT value FROM state WHERE kind = ?", (_KIND,)).fetchone()
    return None if found is None else _decode(found[0])


def follow(
    conn: sqlite3.Connection, known: Dating | None, anchor: Anchor, seq: int, handed_seq: int
) -> tuple[Dating, int]:
    """Take note of the clock before the rows of a commit are written, in its transaction.

    `seq` is the last number given, `handed_seq` the last exported. Returns the new `seq`.
    """
    # Who has had a ledger for long, and did not note this, may have handed on all of it.
    handed_seq = max(handed_seq, seq if known is None else known.handed_seq)
    step_ns = 0
    if known is None or known.epoch != anchor.epoch:
        after = _booted(conn, anchor, seq, handed_seq)
    else:
        after = known
        if handed_seq > known.handed_seq:
            after = msgspec.structs.replace(
                known, handed_seq=handed_seq, handed_quarter_s=_last_quarter_s(conn)
            )
        step_ns = anchor.utc_offset_ns - known.offset_ns
        if abs(step_ns) >= STEP_NS:
            if _is_set_back(conn, after, anchor):
                _log.warning(
                    "the wall clock was set by %+.2f hours, to before more than a day of what it "
                    "dated: check it; what it dates is corrected once it is set right",
                    step_ns / NS_PER_HOUR,
                )
                after = msgspec.structs.replace(
                    after, from_seq=seq, from_quarter_s=0, handed_quarter_s=0
                )
            else:
                seq = _move(conn, after, step_ns, anchor, seq)
            after = msgspec.structs.replace(
                after, from_ns=anchor.last_ns, offset_ns=anchor.utc_offset_ns
            )
    if after != known:
        conn.execute(
            "REPLACE INTO state (kind, key, value) VALUES (?, ?, ?)", (_KIND, b"", _encode(after))
        )
    return after, seq


def _booted(conn: sqlite3.Connection, anchor: Anchor, seq: int, handed_seq: int) -> Dating:
    last_s = _last_quarter_s(conn)
    return Dating(anchor.epoch, seq, last_s, anchor.last_ns, anchor.utc_offset_ns, handed_seq)


def _last_quarter_s(conn: sqlite3.Connection) -> int:
    ((last_s,),) = conn.execute("SELECT coalesce(max(quarter_s), 0) FROM postings").fetchall()
    return int(last_s)


def _is_set_back(conn: sqlite3.Connection, known: Dating, anchor: Anchor) -> bool:
    """Return whether a clock was set to before what it dated for more than a day."""
    ((first_s, last_s),) = conn.execute(
        "SELECT coalesce(min(quarter_s), 0), coalesce(max(quarter_s), 0) FROM postings"
        " WHERE quarter_s > ? AND seq <= ?",
        (_latest_s(anchor), max(known.from_seq, known.handed_seq)),
    ).fetchall()
    return bool(last_s - first_s > _SURE_S)


def _latest_s(anchor: Anchor) -> int:
    return (anchor.last_ns + anchor.utc_offset_ns) // NS_PER_S + _AHEAD_S


def _move(conn: sqlite3.Connection, known: Dating, step_ns: int, anchor: Anchor, seq: int) -> int:
    """Correct the dates of rows; return the last number given."""
    numbers = count(seq + 1)
    settled_s = max(known.from_quarter_s, known.handed_quarter_s)
    latest_s = _latest_s(anchor)
    moved = 0
    for table, (keys, sums) in _TABLES.items():
        names = ("quarter_s", *keys, *sums)
        found = conn.execute(
            f"SELECT seq, {', '.join(names)} FROM {table} WHERE quarter_s NOT BETWEEN ? AND ?"  # noqa: S608 - words of ours
            " OR (seq > ? AND quarter_s > ?)",
            (_SOONEST_S, latest_s, max(known.from_seq, known.handed_seq), settled_s),
        ).fetchall()
        for number, quarter_s, *rest in found:
            key, amounts = rest[: len(keys)], rest[len(keys) :]
            middle_s = quarter_s + _QUARTER_S // 2 + step_ns // NS_PER_S
            to_s = middle_s // _QUARTER_S * _QUARTER_S
            can_be = _SOONEST_S <= quarter_s <= latest_s
            earliest_s = max(_SOONEST_S, known.from_quarter_s + 1) if can_be else _SOONEST_S
            if to_s == quarter_s or not earliest_s <= to_s <= latest_s or not any(amounts):
                continue
            moved += 1
            unseen = number > known.handed_seq and quarter_s > known.handed_quarter_s
            _take_away(conn, table, (quarter_s, *key), unseen, numbers)
            _add(conn, table, (to_s, *key), amounts, numbers)
    offset_ns, since = anchor.utc_offset_ns, max(known.from_seq, known.handed_seq)
    conn.execute(
        "UPDATE gaps SET t0_utc_ns = t0_ns + ?, t1_utc_ns = t1_ns + ? WHERE seq > ?",
        (offset_ns, offset_ns, since),
    )
    touched = conn.execute("SELECT id FROM workloads WHERE seq > ?", (known.from_seq,)).fetchall()
    conn.executemany(
        "UPDATE workloads SET started_utc_ns = started_ns + ?, ended_utc_ns = ended_ns + ?,"
        " seq = ? WHERE id = ?",
        [(offset_ns, offset_ns, next(numbers), id_) for (id_,) in touched],
    )
    if moved:
        _log.warning(
            "the wall clock was set by %+.2f hours: %d rows that it had dated are dated anew",
            step_ns / NS_PER_HOUR, moved,
        )  # fmt: skip
    return next(numbers) - 1


def _where(table: str) -> str:
    return " AND ".join(f"{name} = ?" for name in ("quarter_s", *_TABLES[table][0]))


def _take_away(
    conn: sqlite3.Connection,
    table: str,
    key: tuple[object, ...],
    unseen: bool,
    numbers: Iterator[int],
) -> None:
    """An exported row must be reported as zero; others were never there."""
    if unseen:
        conn.execute(f"DELETE FROM {table} WHERE {_where(table)}", key)  # noqa: S608
        return
    zeros = ", ".join(f"{name} = 0" for name in _TABLES[table][1])
    conn.execute(
        f"UPDATE {table} SET {zeros}, seq = ? WHERE {_where(table)}",  # noqa: S608
        (next(numbers), *key),
    )


def _add(
    conn: sqlite3.Connection,
    table: str,
    key: tuple[object, ...],
    amounts: list[int],
    numbers: Iterator[int],
) -> None:
    keys, sums = _TABLES[table]
    there = conn.execute(
        f"SELECT {', '.join(sums)} FROM {table} WHERE {_where(table)}",  # noqa: S608
        key,
    ).fetchone()
    total = amounts if there is None else [a + b for a, b in zip(there, amounts, strict=True)]
    if table == "charges" and there is not None:
        total = [*Exact(*there).plus(Exact(*amounts))]
    names = ("quarter_s", *keys, *sums, "seq")
    conn.execute(
        f"REPLACE INTO {table} ({', '.join(names)}) VALUES ({', '.join('?' * len(names))})",  # noqa: S608
        (*key, *total, next(numbers)),
    )
