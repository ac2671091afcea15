"""Forget a person: a pseudonym takes the place of their name, and every sum stays.

Bills refer to owners by number, so that a name is in few rows. What a node sends later is treated
the same way as it is read, by a keyed hash of the name; the name itself is kept nowhere.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import msgspec

from joulebook.core.ledger.export import PostingsPage, WorkloadRow
from joulebook.errors import InputError
from joulebook.lab.collected import audit
from joulebook.lab.collected.database import Database
from joulebook.lab.collected.rollup import closed_to

Words = Callable[[str], str]
"""Replaces names in a text."""

_KEY, _PERSON, _ACCOUNT = "key", "person", "account"

_GUARDED = {
    "periods": (("closed_by",), "periods_update", "periods_kept"),
    "corrections": (("who", "why"), "corrections_update", "corrections_kept"),
}
"""Tables that nobody may change: texts, and what forbids it on sqlite and on PostgreSQL."""


class Forgotten(NamedTuple):
    """What became of a name.

    Attributes:
        pseudonym: What stands in its place.
        rows: In how many rows.
        nodes: Nodes whose own ledgers have the person's jobs.
        exports: Directories of exported months.
        jobs: How many of the person's jobs have a comment in SLURM's accounting.
        elsewhere: Where the name still is as a word, in rows of others: table, column, how often.

    """

    pseudonym: str
    rows: int
    nodes: tuple[str, ...]
    exports: tuple[str, ...]
    jobs: int
    elsewhere: tuple[tuple[str, str, int], ...]


def forget(database: Database, name: str, who: str, now_s: int) -> Forgotten:
    """Replace a person's name by a pseudonym, now and in what nodes send later.

    What it found besides is told as well. Raises `InputError` if there is no such person, and
    `LedgerError`.
    """
    if not name.strip():
        raise InputError("expected the name of a user", reason="missing")
    with database.transaction():
        closed_to(database)  # The lock of all who write bills.
        digest = _digest(_key(database), _PERSON, name)
        again = database.rows("SELECT alias FROM lab_forgotten WHERE digest = ?", [digest])
        if not again and not _is_known(database, name):
            raise InputError(f"no user {name!r} is in {database.name}", reason="missing")
        pseudonym = str(again[0][0]) if again else f"forgotten-{secrets.token_hex(6)}"
        remains = _remains(database, [name, pseudonym])
        database.upsert("lab_forgotten", [(digest, _PERSON, pseudonym)])
        replacement = _Replacement(database, name, pseudonym)
        replacement.everywhere()
        words = replacing(name, pseudonym)
        audit.note(database, now_s, words(who), audit.COMMAND, f"{pseudonym} was forgotten")
    changed = +replacement.changed
    _erase(database, changed)
    with database.transaction(writes=False):
        elsewhere = tuple(_elsewhere(database, words, name))
    return Forgotten(pseudonym, changed.total(), *remains, elsewhere)


def pseudonymised(database: Database, page: PostingsPage) -> PostingsPage:
    """Return a page without the names of people who were forgotten."""
    known = {
        (kind, digest): str(stands)
        for digest, kind, stands in database.rows("SELECT digest, kind, alias FROM lab_forgotten")
    }
    if not known or not page.workloads:
        return page
    key = _key(database)
    rows = tuple(_without(row, key, known) for row in page.workloads)
    return msgspec.structs.replace(page, workloads=rows)


def _without(row: WorkloadRow, key: bytes, known: Mapping[tuple[str, str], str]) -> WorkloadRow:
    account = known.get((_ACCOUNT, _digest(key, _ACCOUNT, row.account)))
    if account is not None:
        row = msgspec.structs.replace(row, account=account)
    pseudonym = known.get((_PERSON, _digest(key, _PERSON, row.user)))
    if pseudonym is None:
        return row
    words = replacing(row.user, pseudonym)
    texts = ("workload", "display", "name", "experiment", "stage", "outcome")
    return msgspec.structs.replace(
        row,
        user=pseudonym,
        extra={words(name): words(value) for name, value in row.extra.items()},
        **{text: words(getattr(row, text)) for text in texts},
    )


def replacing(name: str, pseudonym: str) -> Words:
    """Return what replaces a name where it is a word: between others' letters it is none."""
    word = re.compile(rf"(?<![^\W_]){re.escape(name)}(?![^\W_])")
    return lambda text: word.sub(pseudonym, text)


def _key(database: Database) -> bytes:
    """Return the key of the digests, made on first use."""
    found = database.rows("SELECT digest FROM lab_forgotten WHERE kind = ?", [_KEY])
    if not found:
        found = [(secrets.token_hex(32),)]
        database.upsert("lab_forgotten", [(*found[0], _KEY, "")])
    return bytes.fromhex(found[0][0])


def _digest(key: bytes, kind: str, name: str) -> str:
    text = f"{kind}\0{name}".encode("utf-8", "surrogatepass")
    return hmac.new(key, text, hashlib.sha256).hexdigest()


def _is_known(database: Database, name: str) -> bool:
    return any(
        database.rows(f"SELECT 1 FROM {table} WHERE {column} = ? LIMIT 1", [name])  # noqa: S608
        for table, column in (
            ("owners", "person"), ("facts", "person"), ("lab_grants", "person"),
            ("lab_audit", "who"), ("corrections", "who"), ("periods", "closed_by"),
        )
    )  # fmt: skip


def _remains(
    database: Database, names: list[object]
) -> tuple[tuple[str, ...], tuple[str, ...], int]:
    """Return the nodes that know a person, the exports, and how many jobs have a comment."""
    nodes = database.rows(
        "SELECT DISTINCT l.node FROM facts f JOIN ledgers l ON l.id = f.ledger"
        " WHERE f.person IN (?, ?) ORDER BY 1",
        names,
    )
    exports = database.rows("SELECT DISTINCT directory FROM exported ORDER BY 1")
    ((jobs,),) = database.rows(
        "SELECT count(DISTINCT c.job) FROM lab_commented c WHERE c.what = 'written' AND c.job IN"
        " (SELECT w.workload FROM workloads w JOIN facts f ON f.workload = w.id"
        "  WHERE f.person IN (?, ?))",
        names,
    )
    return tuple(node for (node,) in nodes), tuple(path for (path,) in exports), int(jobs)


class _Replacement:
    """Puts a pseudonym in the place of a name; `changed` counts rows by table."""

    def __init__(self, database: Database, name: str, pseudonym: str) -> None:
        self._database = database
        self._name = name
        self._words = replacing(name, pseudonym)
        self.changed: Counter[str] = Counter()

    def everywhere(self) -> None:
        """Replace it in the person's rows, and as a word in what is said of changes."""
        # Nobody is let in any more by what the person was given.
        gone = "DELETE FROM lab_grants WHERE person = ? RETURNING 1"
        self.changed["lab_grants"] += len(self._database.rows(gone, [self._name]))
        for account, new in self._own("account"):
            key = _digest(_key(self._database), _ACCOUNT, account)
            self._database.upsert("lab_forgotten", [(key, _ACCOUNT, new)])
            self._set("account", new, account=account)
        for account, experiment, new in self._own("account", "experiment"):
            self._set("experiment", new, account=account, experiment=experiment)
        of_person = "id IN (SELECT workload FROM facts WHERE person = ?)"
        self._reword("workloads", ("workload",), of_person, self._name)
        for table, columns in self._database.texts().items():
            if "person" in columns:
                texts = [each for each in columns if each != "account"]
                self._reword(table, texts, "person = ?", self._name)
        self._reword("lab_grants", ("name",))
        self._reword("lab_audit", ("who", "what"))
        for table, (texts_, on_sqlite, on_postgresql) in _GUARDED.items():
            trigger = on_postgresql if self._database.lock else on_sqlite
            with _unguarded(self._database, table, trigger):
                self._reword(table, texts_)

    def _own(self, *columns: str) -> Iterator[tuple[str, ...]]:
        """Yield values that are this person's alone, and what the last of them becomes."""
        names = ", ".join(columns)
        for values in self._database.rows(
            f"SELECT {names} FROM owners WHERE {columns[-1]} <> '' GROUP BY {names}"  # noqa: S608
            " HAVING min(person) = ? AND max(person) = ?",
            [self._name, self._name],
        ):
            if (new := self._words(values[-1])) != values[-1]:
                yield (*values, new)

    def _set(self, column: str, new: str, **values: str) -> None:
        """Set a column wherever a table has these values."""
        where = " AND ".join(f"{name} = ?" for name in values)
        for table, columns in self._database.texts().items():
            if values.keys() <= {*columns}:
                sql = f"UPDATE {table} SET {column} = ? WHERE {where} RETURNING 1"  # noqa: S608
                self.changed[table] += len(self._database.rows(sql, [new, *values.values()]))

    def _reword(
        self, table: str, texts: Sequence[str], where: str = "1 = 1", *values: object
    ) -> None:
        """Replace the name as a word in texts of a table."""
        key = self._database.key(table)
        changed = [
            (*new, *row[: len(key)])
            for row in self._database.rows(
                f"SELECT {', '.join((*key, *texts))} FROM {table} WHERE {where}",  # noqa: S608
                values,
            )
            if (new := [*map(self._words, row[len(key) :])]) != [*row[len(key) :]]
        ]
        said, found = (", ".join(f"{n} = ?" for n in texts), " AND ".join(f"{n} = ?" for n in key))
        self._database.many(f"UPDATE {table} SET {said} WHERE {found}", changed)  # noqa: S608
        self.changed[table] += len(changed)


@contextmanager
def _unguarded(database: Database, table: str, trigger: str) -> Iterator[None]:
    """Let a table be changed that nobody may change else; in the caller's transaction."""
    if database.lock:
        database.rows(f"ALTER TABLE {table} DISABLE TRIGGER {trigger}")
        yield
        database.rows(f"ALTER TABLE {table} ENABLE TRIGGER {trigger}")
        return
    ((made,),) = database.rows("SELECT sql FROM sqlite_master WHERE name = ?", [trigger])
    database.rows(f"DROP TRIGGER {trigger}")
    yield
    database.rows(made)


def _elsewhere(database: Database, words: Words, name: str) -> Iterator[tuple[str, str, int]]:
    """Yield where the name is still a word: in what is others', too."""
    pattern = re.sub(r"([\\%_])", r"\\\1", name)
    for table, columns in database.texts().items():
        for column in columns:
            texts = database.rows(
                f"SELECT {column} FROM {table} WHERE {column} LIKE ? ESCAPE '\\'",  # noqa: S608
                [f"%{pattern}%"],
            )
            if count := sum(words(text) != text for (text,) in texts):
                yield table, column, count


def _erase(database: Database, changed: Iterable[str]) -> None:
    """Rewrite tables, so that the disk does not keep what was in them."""
    if not database.lock:
        database.rows("VACUUM")
        database.rows("PRAGMA wal_checkpoint(TRUNCATE)")
        return
    for table in changed:
        database.rows(f"VACUUM (FULL, ANALYZE) {table}")
