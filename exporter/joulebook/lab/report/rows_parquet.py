"""Parquet: the rows of a statement, figures as whole numbers, and its runs as in its CSV."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from types import ModuleType
from typing import TYPE_CHECKING, Any

from joulebook.core.evidence import Amount
from joulebook.core.money.amounts import Exact
from joulebook.errors import ConfigError
from joulebook.lab.report import rows
from joulebook.lab.report.model import RunRow, Statement
from joulebook.lab.report.rows import Basis, Row

if TYPE_CHECKING:
    from pyarrow.parquet import ParquetFile

SUFFIX = ".parquet"
MAGIC = b"PAR1"

_WHOLE = {"start", "quarter_s", *Amount._fields, *Exact._fields}
_AT_ONCE = 65_536


def _library() -> ModuleType:
    """Return pyarrow. Raises `ConfigError` where it is not installed."""
    try:
        import pyarrow  # noqa: PLC0415 - an extra, and 0.1 s to import
        import pyarrow.parquet  # noqa: PLC0415
    except ImportError:
        raise ConfigError(
            "Parquet needs pyarrow: pip install 'joulebook[parquet]', or take CSV (--format csv; "
            f"for rows a name that does not end in {SUFFIX})"
        ) from None
    library: ModuleType = pyarrow
    return library


def write(basis: Basis) -> bytes:
    """Return the file. Raises `ConfigError` without pyarrow."""
    arrow = _library()
    schema = arrow.schema(
        [(name, arrow.int64() if name in _WHOLE else arrow.string()) for name in Row._fields]
    )
    columns: list[list[object]] = [[] for _ in Row._fields]
    for row in rows.table(basis):
        for name, cell, column in zip(Row._fields, row, columns, strict=True):
            column.append((int(cell) if cell else None) if name in _WHOLE else cell)
    return _packed(arrow, schema, columns)


def write_runs(statement: Statement) -> bytes:
    """Return the runs of a statement, the columns of its CSV. Raises `ConfigError` without pyarrow.

    Text is as it came: a reader of Parquet takes none of it for a formula.
    """
    arrow = _library()
    text = arrow.string()
    types = {
        "str": text, "str | None": text, "list[str]": arrow.list_(text),
        "bool": arrow.bool_(), "bool | None": arrow.bool_(), "int": arrow.int64(),
        "float": arrow.float64(), "float | None": arrow.float64(),
    }  # fmt: skip
    kinds = sorted({kind for run in statement.runs for kind in run.cost})
    told = {name: kind for name, kind in RunRow.__annotations__.items() if name != "cost"}
    fields = [(name, types[kind]) for name, kind in told.items()]
    fields += [(f"cost_{kind}", arrow.float64()) for kind in kinds]
    columns: list[list[object]] = [[getattr(run, name) for run in statement.runs] for name in told]
    columns += [[run.cost.get(kind) for run in statement.runs] for kind in kinds]
    return _packed(arrow, arrow.schema(fields), columns)


def _packed(arrow: ModuleType, schema: Iterable[Any], columns: list[list[object]]) -> bytes:
    out = io.BytesIO()
    made = arrow.Table.from_arrays(
        [arrow.array(c, field.type) for c, field in zip(columns, schema, strict=True)],
        schema=schema,
    )
    arrow.parquet.write_table(made, out, compression="zstd")
    return out.getvalue()


def read(data: bytes, name: str) -> Basis:
    """Read a file of rows. Raises `ConfigError` that names the file."""
    arrow = _library()
    try:
        file = arrow.parquet.ParquetFile(io.BytesIO(data))
        groups = range(file.metadata.num_row_groups)
        if sum(file.metadata.row_group(n).total_byte_size for n in groups) > rows.MOST_BYTES:
            raise ConfigError(f"{name}: more than {rows.MOST_BYTES >> 30} GiB")
        if tuple(file.schema_arrow.names) != Row._fields:
            raise ConfigError(
                f"{name}: not a file of rows: expected the columns {', '.join(Row._fields)}"
            )
        return rows.taken(_rows(file), name)
    except (arrow.ArrowException, OSError) as error:
        raise ConfigError(f"{name}: cannot be read as Parquet: {error}") from None


def _rows(file: ParquetFile) -> Iterator[Row]:
    for batch in file.iter_batches(_AT_ONCE):
        for values in zip(*(column.to_pylist() for column in batch.columns), strict=True):
            yield Row(*("" if value is None else str(value) for value in values))
