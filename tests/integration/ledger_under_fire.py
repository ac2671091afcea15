"""A program that works on ledgers while its disk fails under it, or while it is killed.

`disk_faults.c` must be preloaded. `python -m tests.integration.ledger_under_fire MODE FOLDER`
prints, as JSON, what it saw; it fails where a ledger is not as it was before or after a commit.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import shutil
import signal
import sqlite3
import sys
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from itertools import count
from pathlib import Path
from typing import Any

import msgspec
from tests.unit.ledger.samples import anchor, tick

from joulebook.core.ledger.state import Books, Entry
from joulebook.errors import LedgerUnavailable
from joulebook.ledger import schema
from joulebook.ledger.query import LedgerReader
from joulebook.ledger.sqlite import SqliteStore
from joulebook.units import NS_PER_S

TICKS: list[tuple[Books, Entry]] = [(Books(), Entry())]
for _n in range(4):
    TICKS.append(tick(TICKS[-1][0], _n * 500))  # quarters change

_FAULTS = ctypes.CDLL(None)
_FAULTS.faults_arm.argtypes = (ctypes.c_int, ctypes.c_long)
_FAULTS.faults_calls.restype = ctypes.c_long


def arm(code: int, start: int) -> None:
    """From the `start`-th call on, calls that change files fail with `code`, or (0) kill."""
    _FAULTS.faults_arm(code, start)


def open_store(path: Path) -> SqliteStore:
    return SqliteStore(path, allow_volatile=True)


WRONG_NS: dict[int, int] = {}
"""By how much the wall clock is wrong at a tick."""


def commit(store: SqliteStore, n: int) -> None:
    after, entry = TICKS[n]
    wrong_ns = WRONG_NS.get(n, 0)
    moved = {
        key._replace(quarter_s=key.quarter_s + wrong_ns // NS_PER_S): amount
        for key, amount in entry.postings.items()
    }
    entry = msgspec.structs.replace(entry, postings=moved)
    store.commit(TICKS[n - 1][0], after, entry, anchor(after, wrong_ns))


def dated(path: Path) -> dict[int, int]:
    """The energy of each quarter hour. (What was moved, and perhaps handed on, is left at 0.)"""
    with closing(sqlite3.connect(path)) as conn:
        sums = "SELECT quarter_s, sum(energy_uj) FROM postings GROUP BY 1 HAVING sum(energy_uj)"
        return dict(conn.execute(sums))


def right_dates(at: int) -> dict[int, int]:
    """The energy of each quarter hour at a tick, by the clock of that tick."""
    found: Counter[int] = Counter()
    for _, entry in TICKS[: at + 1]:
        for key, amount in entry.postings.items():
            found[key.quarter_s + WRONG_NS.get(at, 0) // NS_PER_S] += amount.energy_uj
    return dict(found)


def assert_dates(found: dict[int, int], at: int) -> None:
    """All energy is there, dated by the clock of that tick.

    After a kill any row may have been handed on: one whose date can be then keeps it.
    """
    right = right_dates(at)
    kept = {key.quarter_s for _, entry in TICKS[: at + 1] for key in entry.postings}
    assert sum(found.values()) == sum(right.values())
    assert found.keys() <= right.keys() | (kept if WRONG_NS else set()), (at, found, right)


def verify(path: Path) -> int:
    """Which tick the ledger stands at. All of it must say the same."""
    with closing(open_store(path)) as store:
        books, last = store.load()
        at = [state for state, _ in TICKS].index(books)
        assert last == (anchor(books, WRONG_NS.get(at, 0)) if at else None)
        assert_dates(dated(path), at)
        with LedgerReader(path) as reader:
            assert all(each.difference_uj == 0 for each in reader.balance_check())
            assert len(reader.jobs("*")) == (1 if at else 0)
        if at + 1 < len(TICKS):  # and it goes on
            commit(store, at + 1)
            assert store.load()[0] == TICKS[at + 1][0]
            assert_dates(dated(path), at + 1)
    return at


def in_child(work: Callable[[Callable[[int], None]], None]) -> tuple[bool, int]:
    """Do the work in a fork: whether it was killed, and the last tick it said was committed."""
    said, say = os.pipe()
    pid = os.fork()
    if pid == 0:

        def committed(tick: int) -> None:
            os.write(say, bytes([tick]))

        try:
            work(committed)
        except BaseException as exc:
            os.write(2, repr(exc).encode())
            os._exit(70)
        os._exit(0)
    os.close(say)
    with os.fdopen(said, "rb") as pipe:
        heard = pipe.read()
    _, status = os.waitpid(pid, 0)
    killed = os.WIFSIGNALED(status)
    assert killed or os.WEXITSTATUS(status) == 0
    assert not killed or os.WTERMSIG(status) == signal.SIGKILL
    return killed, heard[-1] if heard else 0


def template(folder: Path) -> Path:
    """A ledger at tick 1 whose daemon was killed: its log is still to be recovered."""
    path = folder / "template" / "ledger.db"

    def work(done: Callable[[int], None]) -> None:
        store = open_store(path)
        commit(store, 1)
        done(1)
        os.kill(os.getpid(), signal.SIGKILL)

    assert in_child(work) == (True, 1)
    return path.parent


def kill_everywhere(
    folder: Path, begin: Path | None, prime: Callable[[int], None]
) -> dict[str, Any]:
    """Kill the work at its first, second, ... point (see `prime`) until it gets through."""
    first = 1 if begin is None else 2
    stood: dict[str, int] = {}
    for point in count(1):
        place = folder / f"at-{point}"
        if begin is not None:
            shutil.copytree(begin, place)
        path = place / "ledger.db"

        def work(done: Callable[[int], None], path: Path = path, point: int = point) -> None:
            prime(point)
            store = open_store(path)
            store.load()
            for n in range(first, 4):
                commit(store, n)
                done(n)
            store.close()

        killed, said = in_child(work)
        at = verify(path)
        assert at in (max(said, first - 1), said + 1 if said else first), (point, said, at)
        stood[str(at)] = stood.get(str(at), 0) + 1
        shutil.rmtree(place)
        if not killed:
            assert at == 3
            return {"points": point - 1, "stood": stood}
    raise AssertionError


def at_statement(point: int) -> None:
    """Die before the `point`-th statement that sqlite begins."""
    begun = count(1)
    connect = schema.connect

    def traced(path: Path, mode: str) -> sqlite3.Connection:
        conn = connect(path, mode)
        conn.set_trace_callback(
            lambda _: os.kill(os.getpid(), signal.SIGKILL) if next(begun) == point else None
        )
        return conn

    schema.connect = traced


def fail_everywhere(folder: Path, code: int) -> dict[str, Any]:
    """Let the disk fail from the first, second, ... call of a commit on, until it gets through."""
    messages = set()
    for point in count(1):
        path = folder / f"at-{point}" / "ledger.db"

        def work(done: Callable[[int], None], path: Path = path, point: int = point) -> None:
            store = open_store(path)
            commit(store, 1)
            arm(code, point)
            try:
                commit(store, 2)
            finally:
                os.kill(os.getpid(), signal.SIGKILL)

        in_child(work)
        assert verify(path) in (1, 2)
        shutil.rmtree(path.parent)

        with closing(open_store(path)) as store:
            commit(store, 1)
            # So that the commit also copies the log into the ledger.
            store._conn.execute("PRAGMA wal_autocheckpoint = 1")
            failed = False
            for _ in range(3):
                arm(code, point)
                try:
                    commit(store, 2)
                except LedgerUnavailable as exc:
                    failed = True
                    messages.add(str(exc).replace(str(path.parent), "FOLDER"))
                    assert store.load()[0] == TICKS[1][0]
                else:
                    break
                finally:
                    hit = _FAULTS.faults_calls() >= point
                    arm(0, 0)
            if failed:
                commit(store, 2)
            commit(store, 3)
        assert verify(path) == 3
        shutil.rmtree(path.parent)
        if not hit:
            return {"points": point - 1, "messages": sorted(messages)}
    raise AssertionError


def main(mode: str, folder: Path) -> None:
    match mode:
        case "kill-fresh":
            seen = kill_everywhere(folder, None, lambda point: arm(0, point))
        case "kill":
            seen = kill_everywhere(folder, template(folder), lambda point: arm(0, point))
        case "kill-statement":
            seen = kill_everywhere(folder, template(folder), at_statement)
        case "kill-clock":  # for the second tick the clock is 400 days ahead
            begin = template(folder)
            WRONG_NS[2] = 400 * 86_400 * NS_PER_S
            seen = kill_everywhere(folder, begin, at_statement)
        case _:
            seen = fail_everywhere(folder, getattr(errno, mode))
    print(json.dumps(seen))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
