"""The books as rows of the table `state`: one row for each item of a mapping.

Which fields there are, and the types of their keys and values, comes from `Books` itself: a new
field is stored from then on, and one that an older ledger does not have keeps its default.

A commit every few seconds for years wears out a disk, so of a workload that merely goes on only
what grows is written (`running`), and long values are packed.
"""

from __future__ import annotations

import sqlite3
import zlib
from collections.abc import Mapping
from typing import Any, NamedTuple, get_args, get_origin

import msgspec

from joulebook.clock import Anchor
from joulebook.core.energy.meter import MeterState
from joulebook.core.energy.node_meter import NodeMeter
from joulebook.core.energy.readings import Meter
from joulebook.core.evidence import Balance
from joulebook.core.ledger.state import Books, WorkloadState
from joulebook.core.money.amounts import Charge, Charges, Exact
from joulebook.core.workloads import WorkloadId
from joulebook.units import NS_PER_S

_WHOLE = b""
"""The key of a field that is stored in one piece."""

_ANCHOR = "anchor"
_SEQ = "seq"

_WRITERS = "writers"

_MOST_WRITERS = 1_000
"""Restarts of the daemon after which it is no longer on record who gave a number."""

_RUNNING = "running"
_WORKLOADS = "workloads"

_LONG = 512
"""A value of more bytes is packed: sqlite gives one of a thousand a page of its own."""

_MOST_BYTES = 256 << 20
_PACKED = b"\x78\x01"
"""How packed values begin (zlib, RFC 1950); in msgpack the first byte alone is the number 120."""

_encode = msgspec.msgpack.Encoder().encode


class _Running(NamedTuple):
    """What changes of a workload from commit to commit; over what its own row says."""

    balance: Balance
    bill: Charges
    final_ns: int
    hold_left_ns: int

    @classmethod
    def of(cls, workload: WorkloadState) -> _Running:
        return cls(*(getattr(workload, name) for name in cls._fields))

    def over(self, workload: WorkloadState) -> WorkloadState:
        return msgspec.structs.replace(workload, **self._asdict())


_running = msgspec.msgpack.Decoder(_Running)


class Field(NamedTuple):
    """How a field of the books is stored.

    Attributes:
        name: Its name in `Books`.
        key: How its keys are read; `None`: it is stored in one piece.
        value: How its values are read.

    """

    name: str
    key: msgspec.msgpack.Decoder[Any] | None
    value: msgspec.msgpack.Decoder[Any]


def _fields() -> dict[str, Field]:
    fields = {}
    for field in msgspec.structs.fields(Books):
        key = None
        value = field.type
        if get_origin(field.type) is Mapping:
            key_type, value = get_args(field.type)
            key = msgspec.msgpack.Decoder(key_type)
        fields[field.encode_name] = Field(field.name, key, msgspec.msgpack.Decoder(value))
    return fields


FIELDS = _fields()
_anchor = msgspec.msgpack.Decoder(Anchor)
_seq = msgspec.msgpack.Decoder(int)
_workload_key = msgspec.msgpack.Decoder(WorkloadId)


class Changes(NamedTuple):
    """Rows of `state` to write and keys of rows to delete."""

    written: list[tuple[str, bytes, bytes]]
    deleted: list[tuple[str, bytes]]


def changes(before: Books, after: Books, anchor: Anchor) -> Changes:
    """Return what must be written to turn `before` into `after`: only what has another identity.

    Raises `OverflowError` and `UnicodeError` for values that cannot be stored.
    """
    written: list[tuple[str, bytes, bytes]] = []
    deleted: list[tuple[str, bytes]] = []
    for kind, field in FIELDS.items():
        old, new = getattr(before, field.name), getattr(after, field.name)
        if old is new:
            continue
        if field.key is None:
            written.append((kind, _WHOLE, _packed(new)))
            continue
        for key, value in new.items():
            known = old.get(key)
            if known is value:
                continue
            if kind != _WORKLOADS:
                written.append((kind, _encode(key), _packed(value)))
            elif known is not None and _Running.of(known).over(value) == known:
                written.append((_RUNNING, _encode(key), _encode(_Running.of(value))))
            else:
                written.append((kind, _encode(key), _packed(value)))
                deleted.append((_RUNNING, _encode(key)))
        gone = [_encode(key) for key in old if key not in new]
        kinds = (kind, _RUNNING) if kind == _WORKLOADS else (kind,)
        deleted.extend((each, key) for each in kinds for key in gone)
    written.append((_ANCHOR, _WHOLE, _encode(anchor)))
    return Changes(written, deleted)


def _packed(value: object) -> bytes:
    encoded = _encode(value)
    return encoded if len(encoded) < _LONG else zlib.compress(encoded, 1)


def _plain(value: bytes) -> bytes:
    """A stored value as it was encoded. Raises `msgspec.DecodeError`."""
    if not isinstance(value, bytes):  # sqlite keeps any type in any column
        raise msgspec.DecodeError(f"a value of the type {type(value).__name__}")
    if not value.startswith(_PACKED):
        return value
    packed = zlib.decompressobj()
    try:
        plain = packed.decompress(value, _MOST_BYTES)
    except zlib.error as error:
        raise msgspec.DecodeError(f"packed: {error}") from None
    if not packed.eof:
        raise msgspec.DecodeError("packed: cut off, or too large")
    return plain


def write(conn: sqlite3.Connection, rows: Changes, seq: int) -> None:
    """Put the changes and the last number given into the table, in the caller's transaction."""
    rows.written.append((_SEQ, _WHOLE, _encode(seq)))
    conn.executemany("REPLACE INTO state (kind, key, value) VALUES (?, ?, ?)", rows.written)
    if rows.deleted:
        conn.executemany("DELETE FROM state WHERE kind = ? AND key = ?", rows.deleted)


def rekey(conn: sqlite3.Connection) -> None:
    """Write the keys of an older ledger as they are written now, in the caller's transaction.

    A key that has got another part would else be another key. Raises as `read` does.
    """
    decoders = {kind: field.key for kind, field in FIELDS.items()} | {_RUNNING: _workload_key}
    for kind, key in conn.execute("SELECT kind, key FROM state").fetchall():
        if (decoder := decoders.get(kind)) is not None:
            now = (_encode(decoder.decode(key)), kind, key)
            conn.execute("UPDATE state SET key = ? WHERE kind = ? AND key = ?", now)


class StoredState(NamedTuple):
    """What the table holds; `anchor` is `None` in a fresh ledger, `seq` the last one given."""

    books: Books
    anchor: Anchor | None
    seq: int


def read(conn: sqlite3.Connection) -> StoredState:
    """Return the books in the table.

    Raises `sqlite3.Error`, and `msgspec.MsgspecError` if a value does not have its type.
    """
    found: dict[str, Any] = {}
    running: dict[WorkloadId, _Running] = {}
    anchor: Anchor | None = None
    seq = 0
    for kind, key, value in conn.execute("SELECT kind, key, value FROM state"):
        if kind == _ANCHOR:
            anchor = _anchor.decode(value)
        elif kind == _SEQ:
            seq = _seq.decode(value)
        elif kind == _RUNNING:
            running[_workload_key.decode(key)] = _running.decode(value)
        elif kind in FIELDS:  # one that this version does not know is left alone
            field = FIELDS[kind]
            if field.key is None:
                found[field.name] = field.value.decode(_plain(value))
            else:
                item = field.value.decode(_plain(value))
                found.setdefault(field.name, {})[field.key.decode(key)] = item
    for id_, workload in found.get(_WORKLOADS, {}).items():
        if id_ in running:
            found[_WORKLOADS][id_] = running[id_].over(workload)
    return StoredState(Books(**found), anchor, seq)


def read_anchor(conn: sqlite3.Connection) -> Anchor | None:
    """Return the clock at the last commit; `None` in a new ledger. Raises as `read` does."""
    rows = conn.execute("SELECT value FROM state WHERE kind = ?", (_ANCHOR,)).fetchall()
    return _anchor.decode(rows[0][0]) if rows else None


def _mapping(conn: sqlite3.Connection, kind: str) -> dict[Any, Any]:
    """Return one mapping of the books, by key. Raises as `read` does."""
    field = FIELDS[kind]
    assert field.key is not None
    rows = conn.execute("SELECT key, value FROM state WHERE kind = ? ORDER BY key", (kind,))
    return {field.key.decode(key): field.value.decode(_plain(value)) for key, value in rows}


def read_meters(conn: sqlite3.Connection) -> tuple[MeterState, ...]:
    """Return the meters alone. Raises as `read` does."""
    return tuple(_mapping(conn, "meters").values())


def read_booked_to_s(conn: sqlite3.Connection) -> int:
    """Return the UTC second up to which readings are booked (0: none). Raises as `read` does.

    That of the meter which is furthest: one that is not read does not hold up the books.
    """
    anchor = read_anchor(conn)
    edges = [each.base.t_ns for each in read_meters(conn)]
    return 0 if anchor is None or not edges else (max(edges) + anchor.utc_offset_ns) // NS_PER_S


def read_charges(conn: sqlite3.Connection) -> dict[Charge, Exact]:
    """Return the total charges. Raises as `read` does."""
    return {charge: state.total for charge, state in _mapping(conn, "charges").items()}


def read_models(conn: sqlite3.Connection) -> dict[Meter, str]:
    """Return the models of devices. Raises as `read` does."""
    return _mapping(conn, "models")


def read_seq(conn: sqlite3.Connection) -> int:
    """Return the last number given. Raises as `read` does."""
    found = conn.execute("SELECT value FROM state WHERE kind = ?", (_SEQ,)).fetchone()
    return 0 if found is None else _seq.decode(found[0])


def sign(conn: sqlite3.Connection, seq: int) -> None:
    """Draw an id for whoever gives the numbers after `seq`, in the caller's transaction.

    Rows of a ledger that was restored from a copy get numbers that were given before: only who
    gave them tells the two apart.
    """
    writers = [first for first, _ in _writers(conn)]
    gone = [first for first in writers if first >= seq] + writers[: 1 - _MOST_WRITERS]
    conn.executemany(
        "DELETE FROM state WHERE kind = ? AND key = ?",
        [(_WRITERS, _encode(first)) for first in gone],
    )
    conn.execute("INSERT INTO state VALUES (?, ?, randomblob(8))", (_WRITERS, _encode(seq)))


def read_writer(conn: sqlite3.Connection, seq: int) -> str:
    """Return the id of who gave a number (`""`: not on record). Raises as `read` does."""
    return next((id_ for first, id_ in reversed(_writers(conn)) if first < seq), "")


def _writers(conn: sqlite3.Connection) -> list[tuple[int, str]]:
    """Return the numbers after which each writer began, ascending, and their ids."""
    rows = conn.execute("SELECT key, hex(value) FROM state WHERE kind = ?", (_WRITERS,))
    return sorted((_seq.decode(key), id_.lower()) for key, id_ in rows)


def read_node_meters(conn: sqlite3.Connection) -> dict[Meter, NodeMeter]:
    """Return the meters of the whole node. Raises as `read` does."""
    return _mapping(conn, "supplies")
