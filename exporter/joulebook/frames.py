"""Tables for notebooks: `joulebook.frame(...)` gives Arrow, and its `to_pandas()` pandas.

joulebook.frame(experiment="bert-base").to_pandas()
joulebook.frame(postings=True, ledger=["n1.db", "n2.db"]).group_by("experiment").aggregate(...)
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from joulebook.core.report.dataset import Posting, ReportData, Selection
from joulebook.core.workloads import WorkloadId
from joulebook.errors import ConfigError
from joulebook.ledger import report_query
from joulebook.ledger.query import LedgerReader
from joulebook.runs import found_runs, named_ledger

if TYPE_CHECKING:
    from pyarrow import Table

_FOREVER_S = 1 << 40


def frame(
    *,
    job: str = "",
    experiment: str = "",
    user: str = "",
    account: str = "",
    ledger: str | Path | Sequence[str | Path] = (),
    lab: str = "",
    postings: bool = False,
) -> Table:
    """Return a table of the runs of a job or experiment, or of their postings.

    Runs are from the daemon, the lab server or a ledger, as `joulebook.runs.figures` takes them: a
    line for each, with its figures by name. Postings need the ledgers of the nodes: a line for the
    energy of one meter in a quarter hour to one workload, or to nobody, in whole microjoules.

    Raises `ConfigError` without pyarrow (`pip install 'joulebook[parquet]'`), and a
    `JoulebookError` for what cannot be read.
    """
    try:
        import pyarrow  # noqa: PLC0415 - an extra
    except ImportError:
        raise ConfigError(
            "joulebook.frame needs pyarrow: pip install 'joulebook[parquet]'"
        ) from None
    ledgers = [ledger] if isinstance(ledger, str | Path) else list(ledger)
    query = {"job": job, "experiment": experiment, "user": user, "account": account}
    lines: list[dict[str, Any]]
    if postings:
        if not ledgers:
            raise ConfigError("postings=True: give ledger=, the ledgers of the nodes")
        lines = [line for each in ledgers for line in _postings(str(each), query)]
    else:
        lines = [
            {"run": run.name, "owner": run.owner, **run.as_dict(), "known": run.known,
             "nodes": list(run.nodes)}
            for each in ledgers or [""]
            for run in found_runs(query, str(each), lab)
        ]  # fmt: skip
    # Figures that are not known of the first run are columns, too.
    names = dict.fromkeys(name for line in lines for name in line)
    return pyarrow.Table.from_pydict({n: [line.get(n) for line in lines] for n in names})


def _postings(ledger: str, query: dict[str, str]) -> list[dict[str, Any]]:
    path, node = named_ledger(ledger)
    wanted = Selection(
        **{f"{field}s": frozenset({name} - {""}) for field, name in query.items()},
    )
    with LedgerReader(path) as reader:
        data = report_query.account(reader, 0, _FOREVER_S, wanted, node)
    return [_line(row, data) for row in data.postings]


def _line(row: Posting, data: ReportData) -> dict[str, Any]:
    workload = data.workloads.get(row.subject) if isinstance(row.subject, WorkloadId) else None
    user, account, experiment = ("", "", "") if workload is None else workload.labels
    return {
        "node": row.node,
        "workload": "" if workload is None else workload.shown,
        "remainder": "" if isinstance(row.subject, WorkloadId) else str(row.subject),
        "user": user,
        "account": account,
        "experiment": experiment,
        "component": str(row.meter.component),
        "meter": row.meter.name,
        "quarter_utc_s": row.quarter_s,
        "energy_uj": row.amount.energy_uj,
        "idle_uj": row.amount.idle_uj,
        "held_ns": row.amount.held_ns,
        "idle_ns": row.amount.idle_ns,
        "method": str(row.method or ""),
        "evidence": row.evidence or "",
    }
