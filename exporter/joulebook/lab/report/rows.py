"""The rows of a statement as a CSV or Parquet file, from which anyone can recompute it.

One file holds all that `statement.make` takes, so that the same code gives the same figures from
it. Each line is a row of one `table`: what was posted and charged, the workloads, the rates that
were used, the gaps, the GPUs, and first of all the words and settings (`statement`). A column is
empty where a table does not have it; `facts` is JSON.

The digest of the rows leaves out who somebody is: a name can be replaced, and the sums stay proved.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import msgspec

from joulebook.config.lab import ReportSection
from joulebook.core.energy.audit import Audit
from joulebook.core.energy.readings import Component, Meter
from joulebook.core.evidence import Amount, Method, Remainder, Subject
from joulebook.core.money.amounts import Charge, Exact
from joulebook.core.report.dataset import (
    Charged,
    LostStretch,
    Posting,
    ReportData,
    ReportWorkload,
    Unknowable,
    UsedRate,
)
from joulebook.core.report.run_roles import RoleChoice, State
from joulebook.core.workloads import Labels, WorkloadId
from joulebook.errors import ConfigError
from joulebook.lab.report.about import About
from joulebook.lab.report.statement import StatementContext


class Basis(NamedTuple):
    """All that a statement is made of: the arguments of `statement.make`."""

    account: ReportData
    about: About
    choice: RoleChoice
    context: StatementContext


class _Head(msgspec.Struct, frozen=True):
    """What stands once in a file of rows: the words, the settings, and what is not known."""

    source: str
    since_s: int
    until_s: int
    known_until_s: Mapping[str, int]
    unknown: Mapping[Unknowable, str]
    error_ratio: float
    warnings: tuple[str, ...]
    replayed: list[tuple[str, Meter]]
    audits: list[tuple[str, Meter, Audit]]
    cut: list[WorkloadId]
    about: About
    choice: RoleChoice
    made_utc_s: float
    states: list[tuple[WorkloadId, State]]
    states_from: str
    settings: ReportSection
    zone: str


class _Lost(msgspec.Struct, frozen=True):
    reason: str
    t0_utc_ns: int
    t1_utc_ns: int


class Row(NamedTuple):
    """One line of the file: its columns in their order.

    Attributes:
        table: What it is: `statement`, `workload`, `posting`, `charge`, `rate`, `gap` or `model`.
        node: The node that booked it.
        scheduler: The scheduler of the workload; `remainder` where it is nobody's.
        workload: The id of the workload in its scheduler, or the name of the remainder.
        start: The start that tells it from another of its number (UTC seconds; 0: needless).
        component: Of the meter.
        meter: Its name.
        quarter_s: The start of the quarter hour (UTC seconds).
        method: How the energy is known; empty: the source does not say.
        evidence: How the holder is known.
        energy_uj: Energy in microjoules, and so on as in `Amount`.
        item: What was charged for, in which `currency` (empty: CO2e).
        whole: Units of the currency, or kg; `nano` and `rest` as in `Exact`.
        facts: The rest, as JSON.

    """

    table: str
    node: str = ""
    scheduler: str = ""
    workload: str = ""
    start: str = ""
    component: str = ""
    meter: str = ""
    quarter_s: str = ""
    method: str = ""
    evidence: str = ""
    energy_uj: str = ""
    idle_uj: str = ""
    held_ns: str = ""
    idle_ns: str = ""
    calibration_uj: str = ""
    tensor_ns: str = ""
    tensor_known_ns: str = ""
    item: str = ""
    currency: str = ""
    whole: str = ""
    nano: str = ""
    rest: str = ""
    facts: str = ""


_REMAINDER = "remainder"
_UNKNOWN = "?"
"""A method or an evidence that the source cannot know, which is not the same as an empty one."""

_FROM_OUTSIDE = ("node", "workload", "meter", "evidence")
_FORMULA = "'=+-@\t\r"
MOST_BYTES = 1 << 30
csv.field_size_limit(MOST_BYTES)


def write(basis: Basis) -> str:
    """Return the file."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(Row._fields)
    writer.writerows(_each(row, _guarded) for row in table(basis))
    return text.getvalue()


def digest(basis: Basis) -> str:
    """Return the SHA-256 of the rows, in hexadecimal, names left out."""
    account = basis.account
    nameless = msgspec.structs.replace(
        account,
        source="",
        warnings=(),
        workloads={key: _nameless(each) for key, each in account.workloads.items()},
    )
    context = StatementContext(0.0, basis.context.states, settings=basis.context.settings)
    choice = RoleChoice()
    text = write(Basis(nameless, About(), choice, context))
    return hashlib.sha256(text.encode()).hexdigest()


def _nameless(workload: ReportWorkload) -> ReportWorkload:
    return msgspec.structs.replace(workload, display="", name="", labels=Labels(), extra={})


def table(basis: Basis) -> Iterator[Row]:
    """Yield all rows, as they are."""
    account, context = basis.account, basis.context
    head = _Head(
        account.source, account.since_s, account.until_s, account.known_until_s, account.unknown,
        account.error_ratio, account.warnings, sorted(account.replayed),
        [(*key, audit) for key, audit in account.audits.items()], sorted(account.cut),
        basis.about, basis.choice, context.made_utc_s, sorted(context.states.items()),
        context.states_from, context.settings, context.zone,
    )  # fmt: skip
    yield Row("statement", facts=_json(head))
    for key, workload in account.workloads.items():
        yield Row("workload", **_of(key), facts=_json(workload))
    for (node, meter), model in account.models.items():
        yield Row("model", node, **_on(meter), facts=_json(model))
    for row in account.postings:
        figures = dict(zip(Amount._fields, map(str, row.amount), strict=True))
        yield Row(
            "posting",
            row.node,
            **_of(row.subject),
            **_on(row.meter),
            quarter_s=str(row.quarter_s),
            method=_UNKNOWN if row.method is None else row.method.value,
            evidence=_UNKNOWN if row.evidence is None else row.evidence,
            **figures,
        )
    for charged in account.charges:
        yield Row(
            "charge",
            charged.node,
            **_of(charged.subject),
            quarter_s=str(charged.quarter_s),
            item=charged.charge.item.value,
            currency=charged.charge.currency,
            **dict(zip(Exact._fields, map(str, charged.amount), strict=True)),
        )
    for used in account.rates:
        yield Row("rate", used.node, quarter_s=str(used.used.quarter_s), facts=_json(used))
    for gap in account.gaps:
        lost = _Lost(gap.reason, gap.t0_utc_ns, gap.t1_utc_ns)
        yield Row("gap", gap.node, **_on(gap.meter), facts=_json(lost))


def _each(row: Row, change: Callable[[str], str]) -> Row:
    return row._replace(**{name: change(getattr(row, name)) for name in _FROM_OUTSIDE})


def _guarded(cell: str) -> str:
    """Return a cell that a spreadsheet takes for no formula, and one that looks guarded so, too."""
    return f"'{cell}" if cell[:1] in _FORMULA and cell else cell


def _of(subject: Subject) -> dict[str, str]:
    if isinstance(subject, Remainder):
        return {"scheduler": _REMAINDER, "workload": subject.value}
    return dict(zip(WorkloadId._fields, map(str, subject), strict=True))


def _on(meter: Meter) -> dict[str, str]:
    return {"component": meter.component.value, "meter": meter.name}


def _json(value: object) -> str:
    return msgspec.json.encode(value, order="sorted").decode()


def read(text: str, name: str) -> Basis:
    """Read a CSV file of rows. Raises `ConfigError` that names the file and its row."""
    return taken(_parsed(csv.reader(io.StringIO(text), strict=True), name), name)


def _parsed(reader: Iterable[list[str]], name: str) -> Iterator[Row]:
    for line, values in enumerate(reader, 1):
        if line == 1 and tuple(values) != Row._fields:
            columns = ", ".join(Row._fields)
            raise ConfigError(f"{name}: not a file of rows: expected the columns {columns}")
        if len(values) != (wanted := len(Row._fields)):
            raise ConfigError(f"{name}, row {line}: {len(values)} columns, expected {wanted}")
        if line > 1:
            yield _each(Row(*values), lambda cell: cell.removeprefix("'"))


def taken(rows: Iterable[Row], name: str) -> Basis:
    """Return what rows are about. Raises `ConfigError` that names the file and its row."""
    tables: dict[str, list[Any]] = {table: [] for table in _READERS}
    said: list[tuple[object, ...]] = []
    try:
        for row in rows:
            if row.table not in tables:
                raise ValueError(f"table {row.table!r}: expected one of {', '.join(tables)}")
            tables[row.table].append(_READERS[row.table](row))
            said.append(_plain(row))
    except (csv.Error, ValueError, TypeError, RecursionError, msgspec.MsgspecError) as error:
        raise ConfigError(f"{name}, row {len(said) + 2}: {error}") from None
    if (heads := len(tables["statement"])) != 1:
        raise ConfigError(f"{name}: {heads} rows of the table statement, expected one")
    basis = _basis(tables)
    left = Counter(map(_plain, table(basis)))
    for line, each in enumerate(said, 2):
        if not left[each]:
            raise ConfigError(f"{name}, row {line}: twice, or not as `report --rows` writes it")
        left[each] -= 1
    return basis


def _plain(row: Row) -> tuple[object, ...]:
    """The row, however its JSON is laid out. Raises as `json.loads` does."""
    return (*row[:-1], repr(json.loads(row.facts or "null", object_pairs_hook=sorted)))


def _basis(tables: Mapping[str, list[Any]]) -> Basis:
    head: _Head = tables["statement"][0]
    account = ReportData(
        head.source,
        head.since_s,
        head.until_s,
        postings=tuple(tables["posting"]),
        charges=tuple(tables["charge"]),
        workloads={each.id: each for each in tables["workload"]},
        rates=tuple(tables["rate"]),
        gaps=tuple(tables["gap"]),
        models=dict(tables["model"]),
        known_until_s=head.known_until_s,
        unknown=head.unknown,
        error_ratio=head.error_ratio,
        warnings=head.warnings,
        replayed=frozenset(head.replayed),
        audits={(node, meter): audit for node, meter, audit in head.audits},
        cut=frozenset(head.cut),
    )
    context = StatementContext(
        head.made_utc_s, dict(head.states), head.states_from, head.settings, head.zone
    )
    return Basis(account, head.about, head.choice, context)


_HEAD = msgspec.json.Decoder(_Head)
_WORKLOAD = msgspec.json.Decoder(ReportWorkload)
_RATE = msgspec.json.Decoder(UsedRate)
_LOST = msgspec.json.Decoder(_Lost)
_MODEL = msgspec.json.Decoder(str)


def _subject(row: Row) -> Subject:
    if row.scheduler == _REMAINDER:
        return Remainder(row.workload)
    return WorkloadId(row.scheduler, row.workload, int(row.start))


def _meter(row: Row) -> Meter:
    return Meter(Component(row.component), row.meter)


def _posting(row: Row) -> Posting:
    return Posting(
        row.node,
        _subject(row),
        _meter(row),
        int(row.quarter_s),
        Amount(*(int(getattr(row, name)) for name in Amount._fields)),
        None if row.method == _UNKNOWN else Method(row.method),
        None if row.evidence == _UNKNOWN else row.evidence,
    )


def _charge(row: Row) -> Charged:
    charge = Charge.read(row.item, row.currency)
    exact = Exact(int(row.whole), int(row.nano), int(row.rest))
    return Charged(row.node, _subject(row), int(row.quarter_s), charge, exact)


def _gap(row: Row) -> LostStretch:
    lost = _LOST.decode(row.facts)
    return LostStretch(row.node, _meter(row), lost.reason, lost.t0_utc_ns, lost.t1_utc_ns)


_READERS: Mapping[str, Callable[[Row], Any]] = {
    "statement": lambda row: _HEAD.decode(row.facts),
    "workload": lambda row: _WORKLOAD.decode(row.facts),
    "model": lambda row: ((row.node, _meter(row)), _MODEL.decode(row.facts)),
    "posting": _posting,
    "charge": _charge,
    "rate": lambda row: _RATE.decode(row.facts),
    "gap": _gap,
}
