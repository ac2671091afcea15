"""The ledger in an sqlite file: one transaction a tick, durable when `commit` returns."""

from __future__ import annotations

import logging
import sqlite3
from contextlib import suppress
from pathlib import Path

import msgspec

from joulebook.clock import Anchor
from joulebook.core.ledger.state import Books, Entry
from joulebook.errors import ConfigError, LedgerError, LedgerUnavailable
from joulebook.ledger import dating, location, retention, schema, state
from joulebook.ledger.location import LedgerLock
from joulebook.ledger.write import EntryWriter
from joulebook.units import NS_PER_S

_log = logging.getLogger(__name__)

_WAL_LIMIT = 256 * 1024 * 1024
"""Bytes of write-ahead log beyond which nothing more is written until it could be cut.

sqlite reuses it at 4 MB, unless another program holds on to an old view of the ledger.
"""


class SqliteStore:
    """The `Store` in the sqlite file `path`, made if it is missing, held until `close`.

    Postings, gaps and facts older than `retention_days` are deleted bit by bit; the books never.
    Raises `ConfigError` if the place will not do, `LedgerBusy` if another daemon holds the
    ledger, `LedgerTooNew`, `LedgerCorrupt`, `LedgerUnavailable` or plain `LedgerError` otherwise.
    Its methods may be called from any thread, but by one at a time.
    """

    def __init__(
        self,
        path: Path | str,
        *,
        retention_days: int = 400,
        allow_volatile: bool = False,
        node: str = "",
        cluster: str = "",
    ) -> None:
        """`node` and `cluster` are what the node calls itself now (empty: as it did before)."""
        if retention_days < 1:
            raise ConfigError(f"ledger.retention_days = {retention_days}: must be 1 or more")
        self._retention_days = retention_days
        self._next_retention_ns = 0
        self._path = location.prepare(Path(path), allow_volatile=allow_volatile)
        self._wal = self._path.with_name(self._path.name + "-wal")
        self._lock = LedgerLock(self._path)
        try:
            self._conn = schema.open_ledger(self._path)
            self._name(node, cluster)
            self._dating = self._known_dating()
        except BaseException:
            self._lock.release()
            raise
        self._file = self._identity()
        self._record = EntryWriter(self._conn)
        self._seq: int | None = None
        self._handed_seq = 0
        self._signed = False

    def load(self) -> tuple[Books, Anchor | None]:
        """Return the books as last committed (empty books and no anchor: a fresh ledger).

        Raises `LedgerCorrupt` if they cannot be made out, else as `commit` does.
        """
        kept = self._read()
        self._seq = kept.seq
        # Who was killed may have handed on what it had not noted as handed on.
        self._handed_seq = max(self._handed_seq, kept.seq)
        return kept.books, kept.anchor

    def commit(self, before: Books, after: Books, entry: Entry, anchor: Anchor) -> None:
        """Make one tick durable, whole or not at all.

        Writes what differs by identity between `before`, the books last loaded or committed, and
        `after`, and adds the entry. Raises `LedgerUnavailable` if nothing was written and the same
        call may succeed later, `LedgerCorrupt` if the file is damaged, and plain `LedgerError` if
        the values can never be stored; nothing is written then either.
        """
        if self._seq is None:
            self._seq = self._read().seq
        try:
            rows = state.changes(before, after, anchor)
        except (OverflowError, UnicodeError) as exc:
            raise retention.explain(exc, self._path) from exc
        self._refuse_stray_file()
        self._bound_wal()
        try:
            with schema.transaction(self._conn, self._path):
                if not self._signed:
                    state.sign(self._conn, self._seq)
                clock, seq = dating.follow(
                    self._conn, self._dating, anchor, self._seq, self._handed_seq
                )
                seq = self._record.write(entry, seq, anchor.last_ns, anchor.utc_offset_ns)
                state.write(self._conn, rows, seq)
        except BaseException:
            # Rows that were new are gone again, and so are their numbers.
            self._record.forget()
            raise
        self._seq, self._dating, self._signed = seq, clock, True
        if clock.is_steady(anchor.last_ns):
            self._retain(anchor)

    def handed(self, seq: int) -> None:
        """Record that rows up to this number were exported. Thread-safe."""
        self._handed_seq = max(self._handed_seq, seq)

    def close(self) -> None:
        """Close the ledger. Committed data stays; a second call does nothing."""
        # At rest the ledger is one plain file, which a user who may not write beside it can read.
        # Not possible now (a reader, a full disk) only means that the next start does the rest.
        with suppress(sqlite3.Error):
            self._conn.execute("PRAGMA journal_mode = DELETE")
        self._conn.close()
        self._lock.release()

    def _name(self, node: str, cluster: str) -> None:
        """Record the node's name; log a change."""
        try:
            before = self._conn.execute("SELECT node, cluster FROM ledger").fetchone()
            if not node or before == (node, cluster):
                return
            with schema.transaction(self._conn, self._path):
                self._conn.execute("UPDATE ledger SET node = ?, cluster = ?", (node, cluster))
        except sqlite3.Error as exc:
            raise retention.explain(exc, self._path) from exc
        if before[0]:
            _log.warning(
                "this ledger was of node %r (cluster %r), and is of node %r (cluster %r) from "
                "now on: the collector treats this as a rename if the old name is gone",
                *before, node, cluster,
            )  # fmt: skip

    def _known_dating(self) -> dating.Dating | None:
        try:
            return dating.read(self._conn)
        except sqlite3.Error as exc:
            raise retention.explain(exc, self._path) from exc
        except (msgspec.MsgspecError, RecursionError) as exc:
            raise retention.corrupt(self._path, f"the clock cannot be read: {exc}") from exc

    def _read(self) -> state.StoredState:
        try:
            return state.read(self._conn)
        except sqlite3.Error as exc:
            raise retention.explain(exc, self._path) from exc
        except (msgspec.MsgspecError, RecursionError) as exc:
            raise retention.corrupt(self._path, f"the books cannot be read: {exc}") from exc

    def _identity(self) -> tuple[int, int] | None:
        try:
            found = self._path.stat()
        except OSError:
            return None
        return found.st_dev, found.st_ino

    def _refuse_stray_file(self) -> None:
        # sqlite would go on writing to a file that has been deleted, and never say so.
        if self._identity() != self._file:
            raise LedgerUnavailable(
                f"ledger {self._path} was moved, deleted or replaced while in use: restore it "
                "with its -wal file, or restart Joulebook to start with what is there now; "
                "until then, nothing is booked"
            )

    def _bound_wal(self) -> None:
        try:
            if self._wal.stat().st_size <= _WAL_LIMIT:
                return
            (held, _, _) = self._conn.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        except FileNotFoundError:
            return
        except OSError as exc:
            raise LedgerUnavailable(f"ledger {self._path}: {exc}") from exc
        except sqlite3.Error as exc:
            raise retention.explain(exc, self._path) from exc
        if held:
            raise LedgerUnavailable(
                f"ledger {self._path}: its write-ahead log has outgrown {_WAL_LIMIT >> 20} MiB, "
                f"because another program has been reading for too long: `fuser {self._path}` "
                "shows which; nothing is lost: booking resumes by itself once it ends"
            )

    def _retain(self, anchor: Anchor) -> None:
        if anchor.last_ns < self._next_retention_ns:
            return
        self._next_retention_ns = anchor.last_ns + retention.PERIOD_NS
        # A wall clock that leaps ahead must not make everything look old: node time does not leap.
        now_s = (anchor.last_ns + min(0, anchor.utc_offset_ns)) // NS_PER_S
        try:
            with schema.transaction(self._conn, self._path):
                retention.drop_old(self._conn, self._retention_days, now_s)
        except LedgerError as exc:
            # The tick itself is safe; if the cause stays, the next commit says so.
            _log.warning("old rows were not deleted, retrying in an hour: %s", exc)
        self._record.forget()
