"""Months of the collected ledger as Parquet files, for other programs, and for reports on quarter
hours that are days here since.

Each month has three files (`postings-2026-10.parquet`, `charges-...`, `rates-...`); amounts are the
integers of the ledger (uJ, ns, and `whole`, `nano` and `rest` of an exact amount).
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from joulebook.errors import ConfigError, InputError, LedgerError
from joulebook.lab.collected import compact
from joulebook.lab.collected.database import Database, Row
from joulebook.lab.collected.months import after, begin_s, shown

if TYPE_CHECKING:
    import pyarrow as pa

SQL = {
    "postings": """
SELECT p.ledger, p.workload, p.quarter_s, p.energy_uj, p.idle_uj, p.held_ns, p.idle_ns,
       p.calibration_uj, p.tensor_ns, p.tensor_known_ns, l.node, m.component, m.name, h.remainder,
       h.method, h.evidence
FROM postings p JOIN ledgers l ON l.id = p.ledger JOIN meters m ON m.id = p.meter
JOIN hows h ON h.id = p.how
WHERE p.undated = 0 AND p.quarter_s >= ? AND p.quarter_s < ?
""",
    "charges": """
SELECT c.ledger, c.workload, c.quarter_s, c.whole, c.nano, c.rest, l.node, k.remainder, k.item,
       k.currency
FROM charges c JOIN ledgers l ON l.id = c.ledger JOIN kinds k ON k.id = c.kind
WHERE c.undated = 0 AND c.quarter_s >= ? AND c.quarter_s < ?
""",
    "rates": """
SELECT u.ledger, u.quarter_s, r.value, u.energy_uj, u.held_ns, l.node, r.quantity, r.unit, r.source,
       r.quality
FROM rates_used u JOIN rates r ON r.id = u.rate JOIN ledgers l ON l.id = u.ledger
WHERE u.quarter_s >= ? AND u.quarter_s < ?
""",
}
"""The rows of quarter hours in [from, to): their ledger first, numbers before texts."""

_NUMBERS = {
    "postings": "ledger workload quarter_s energy_uj idle_uj held_ns idle_ns calibration_uj"
    " tensor_ns tensor_known_ns",
    "charges": "ledger workload quarter_s whole nano rest",
    "rates": "ledger quarter_s value energy_uj held_ns",
}
_TEXTS = {
    "postings": "node component meter remainder method evidence",
    "charges": "node remainder item currency",
    "rates": "node quantity unit source quality",
}
_WHOSE = "account person experiment cluster scheduler name start"


def _with_owner(name: str) -> str:
    """Return the question with whose the rows are now."""
    if name == "rates":
        return SQL[name]
    columns = ", o.account, o.person, o.experiment, w.cluster, w.scheduler, w.workload, w.start"
    join = (
        f" LEFT JOIN workloads w ON w.id = {name[0]}.workload LEFT JOIN owners o ON o.id = w.owner"
    )
    return SQL[name].replace("\nFROM", f"{columns}\nFROM").replace("\nWHERE", f"{join}\nWHERE")


class Exported(NamedTuple):
    """A month that was exported: how many rows of each kind."""

    month: int
    rows: Mapping[str, int]


def _schema(name: str) -> pa.Schema:
    import pyarrow as pa  # noqa: PLC0415 - an extra

    numbers, texts = _NUMBERS[name].split(), _TEXTS[name].split()
    texts += _WHOSE.split() if name != "rates" else []
    return pa.schema(
        [pa.field(column, pa.int64()) for column in numbers]
        + [pa.field(column, pa.int64() if column == "start" else pa.string()) for column in texts]
    )


def export(database: Database, folder: Path, now_s: int) -> Iterator[Exported]:
    """Write each month that has quarter hours, and is over or was never written, to `folder`.

    Raises `ConfigError` without pyarrow or for the folder, `LedgerError`.
    """
    try:
        import pyarrow  # noqa: PLC0415
        import pyarrow.parquet  # noqa: F401, PLC0415
    except ImportError:
        raise ConfigError(
            "--export: pyarrow is not installed: pip install 'joulebook[parquet]'"
        ) from None
    gone = compact.months(database)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for month in compact.consumed(database):
            if month not in gone:
                yield _month(database, month, folder.absolute(), now_s)
    except OSError as error:
        raise ConfigError(f"--export {folder}: cannot be written: {error.strerror}") from None


def _month(database: Database, month: int, folder: Path, now_s: int) -> Exported:
    """One view of the month, which is on record once its files are there."""
    with database.transaction(writes=False):
        ledgers = [number for (number,) in database.rows("SELECT id FROM ledgers ORDER BY id")]
        states = {number: compact.state_of(database, month, number) for number in ledgers}
        written = {name: _write(database, month, folder, name, ledgers) for name in SQL}
    with database.transaction():
        database.upsert(
            "exported",
            [(month, number, now_s, str(folder), state) for number, state in states.items()],
        )
    return Exported(month, written)


def _write(database: Database, month: int, folder: Path, name: str, ledgers: list[int]) -> int:
    import pyarrow as pa  # noqa: PLC0415
    from pyarrow import parquet  # noqa: PLC0415

    path, schema, rows = file(folder, name, month), _schema(name), 0
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with parquet.ParquetWriter(draft, schema, compression="zstd") as writer:
            for ledger in ledgers:
                found = database.rows(
                    f"{_with_owner(name)} AND l.id = ?",
                    [begin_s(month), begin_s(after(month)), ledger],
                )
                if found:
                    columns = zip(*found, strict=True)
                    arrays = [pa.array(c, f.type) for c, f in zip(columns, schema, strict=True)]
                    writer.write_table(pa.Table.from_arrays(arrays, schema=schema))
                    rows += len(found)
        with draft.open("rb") as done:
            os.fsync(done.fileno())
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
    return rows


def file(folder: Path, name: str, month: int) -> Path:
    """Return the path of a month's file."""
    return folder / f"{name}-{shown(month)}.parquet"


def quarters(
    database: Database, month: int, name: str, wanted: Sequence[int] | None, why: str
) -> list[Row]:
    """Return the exported rows of a month: numbers first, then texts, as in its file.

    `wanted` are workloads (`None`: all). Raises `InputError` if not all of it was exported.
    """
    found = database.rows(
        "SELECT c.ledger, e.directory, c.late FROM compacted c LEFT JOIN exported e"
        " ON e.month = c.month AND e.ledger = c.ledger WHERE c.month = ?",
        [month],
    )
    said = f"{why}: {shown(month)} is compacted to days"
    if any(directory is None for _, directory, _ in found):
        raise InputError(f"{said}, and its quarter hours were not exported first", reason="by_day")
    if any(late for _, _, late in found):
        raise InputError(f"{said}, and rows came after its export", reason="by_day")
    ledgers = [ledger for ledger, _, _ in found]
    path = file(Path(found[0][1]), name, month)
    try:
        from pyarrow import parquet  # noqa: PLC0415

        chosen = [("ledger", "in", ledgers)]
        if wanted is not None and name != "rates":
            chosen.append(("workload", "in", [*wanted]))
        columns = [*_NUMBERS[name].split(), *_TEXTS[name].split()]
        table = parquet.read_table(path, columns=columns, filters=chosen)
    except ImportError:
        raise ConfigError(
            f"{said}: to read its export needs pip install 'joulebook[parquet]'"
        ) from None
    except (OSError, ValueError) as error:
        raise LedgerError(f"{said}, and {path} cannot be read: {error}") from None
    return [*zip(*(column.to_pylist() for column in table.columns), strict=True)]
