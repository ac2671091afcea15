"""Books for the tests of the store: random ones, and ones that a daemon could have written."""

from __future__ import annotations

import sqlite3
import types
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from enum import Enum
from pathlib import Path
from typing import Any, Union, get_args, get_origin, get_type_hints

import msgspec
from hypothesis import strategies as st

from joulebook.clock import Anchor
from joulebook.core.energy.meter import MeterState
from joulebook.core.energy.readings import Component, Meter, Reading
from joulebook.core.evidence import NO_EVIDENCE, Amount, Method, PostingKey, Remainder
from joulebook.core.ledger.state import Books, Entry, WorkloadState
from joulebook.core.workloads import Labels, WorkloadFacts, WorkloadId
from joulebook.ledger.sqlite import SqliteStore
from joulebook.units import NS_PER_S

T0_NS = 1_760_000_400 * NS_PER_S
"""A full quarter hour, in node time and (with no offset) in UTC."""

GPU0 = Meter(Component.GPU, "GPU-0")
GPU1 = Meter(Component.GPU, "GPU-1")
JOB = WorkloadId("slurm", "101")
FACTS = WorkloadFacts(
    JOB,
    name="train",
    labels=Labels("ada", "nlp", "bert"),
    started_ns=T0_NS,
    gpu_count=2,
    evidence="prolog",
    extra={"partition": "a100"},
)


def anything(kind: Any) -> st.SearchStrategy[Any]:
    """Random values of a type that the books are made of; integers fill all of 64 bits."""
    origin, args = get_origin(kind), get_args(kind)
    if kind is int:
        return st.integers(-(2**63), 2**63 - 1) | st.integers(0, 9)
    if kind in (str, bool):
        return st.text(max_size=8) if kind is str else st.booleans()
    if kind is type(None):
        return st.none()
    if origin in (Union, types.UnionType):
        return st.one_of([anything(each) for each in args])
    if origin is tuple and args[-1] is Ellipsis:
        return st.lists(anything(args[0]), max_size=3).map(tuple)
    if origin is tuple:
        return st.tuples(*(anything(each) for each in args))
    if origin in (dict, Mapping):
        return st.dictionaries(anything(args[0]), anything(args[1]), max_size=3)
    if issubclass(kind, Enum):
        return st.sampled_from(list(kind))
    hints = get_type_hints(kind)
    return st.builds(kind, **{name: anything(hints[name]) for name in hints})


BOOKS = anything(Books)


def anchor(books: Books, offset_ns: int = 0) -> Anchor:
    """What goes with the books."""
    return Anchor("boot", 0, books.last_ns, offset_ns)


def tick(
    before: Books, n: int, *, uj: int = 1_000_003, meters: tuple[Meter, ...] = (GPU0, GPU1)
) -> tuple[Books, Entry]:
    """The books a second after `before`, with `uj` on each meter, a part of it unattributed."""
    now_ns = T0_NS + n * NS_PER_S
    quarter_s = now_ns // NS_PER_S // 900 * 900
    postings: dict[PostingKey, Amount] = {}
    states = dict(before.meters)
    held = Amount(0)
    for meter in meters:
        old = states.get(meter)
        booked_uj = (old.booked_uj if old else 0) + uj
        states[meter] = MeterState(
            meter, Reading(meter, now_ns, booked_uj), booked_uj=booked_uj, read_uj=booked_uj
        )
        idle_uj = uj // 10
        own = Amount(uj - idle_uj, 5, NS_PER_S)
        held = held.plus(own)
        key = PostingKey(JOB, meter, quarter_s, Method.COUNTER, "prolog")
        postings[key] = own
        nobody = PostingKey(Remainder.UNALLOCATED, meter, quarter_s, Method.COUNTER, NO_EVIDENCE)
        postings[nobody] = Amount(idle_uj)
    known = before.workloads.get(JOB)
    sofar = known.balance.get(Component.GPU, Amount(0)) if known else Amount(0)
    after = msgspec.structs.replace(
        before,
        meters=states,
        workloads={JOB: WorkloadState(FACTS, {Component.GPU: sofar.plus(held)}, T0_NS)},
        last_ns=now_ns,
    )
    return after, Entry(postings, (), () if known else (FACTS,))


def run(store: SqliteStore, ticks: int, before: Books | None = None, first: int = 0) -> Books:
    """Commit some ticks; gives the last books."""
    books = store.load()[0] if before is None else before
    for n in range(first, first + ticks):
        after, entry = tick(books, n)
        store.commit(books, after, entry, anchor(after))
        books = after
    return books


Open = Callable[..., SqliteStore]
"""Opens a store that the test closes in its end: `open_store(**options)`."""


def ledger_at(folder: Path) -> Path:
    """Where the tests keep their ledger."""
    return folder / "books" / "ledger.db"


@contextmanager
def sql(path: Path) -> Iterator[sqlite3.Connection]:
    """Another program's connection to the ledger."""
    with closing(sqlite3.connect(path, isolation_level=None)) as conn:
        yield conn


def rows(path: Path, query: str, *values: object) -> list[tuple[Any, ...]]:
    """What a query of another program finds."""
    with sql(path) as conn:
        return conn.execute(query, values).fetchall()
