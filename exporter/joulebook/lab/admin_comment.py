"""A job's energy, cost and CO2e in SLURM's own accounting: `AdminComment`, as JSON.

Written once a job is booked on all of its nodes, where the comment is empty, ours, or a JSON
object, which keeps its other keys. Another tool's comment (Jobstats' `JS1:...`) is never touched.

Older versions of sacctmgr (22.05 for one) write small letters, and ` for quotes. So the first
comment is read back; keys of others are written again only where that leaves them as they are.
"""

from __future__ import annotations

import json
import logging
import os
import re
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import reduce
from typing import Any, NamedTuple

from joulebook.core.evidence import Amount
from joulebook.core.money.amounts import total
from joulebook.core.report.dataset import Selection
from joulebook.core.report.runs import WorkloadTotals, totals
from joulebook.core.sanitize import one_line
from joulebook.core.units_text import decimal
from joulebook.errors import InputError, LedgerError
from joulebook.lab.collected import report_query
from joulebook.lab.collected.database import Database, one_by_some
from joulebook.lab.figures import CO2E, figures
from joulebook.lab.report.sources import FOREVER_S
from joulebook.log import LogOnce
from joulebook.units import NS_PER_S, UJ_PER_KWH

logger = logging.getLogger(__name__)
_once = LogOnce(logger)

KEY = "joulebook"
"""Our key in the object."""

_AT_ONCE = 200
_MOST = 2_000
"""Jobs in one pass; the rest is for the next one."""
_BACK_S = 14 * 86_400
"""Jobs that ended longer ago are left alone."""
_MISSING_S = 86_400
"""So long after its end a job is written although a node of it was never collected."""
_PAUSE_S = 0.34
"""Between writes: slurmdbd has other things to do."""
_TIMEOUT_S = 60.0
_SLACK_S = 5
_FIELD = "\x1f"
_FIELDS = "JobIDRaw,Cluster,Start,End,NNodes,AdminComment"
_RECORD = re.compile(rf"^(?=\d{{1,12}}{_FIELD})", re.MULTILINE | re.ASCII)
_RUN = re.compile(r"(\d{1,12})(?:\.r(\d{1,6}))?", re.ASCII)


class AccountedJob(NamedTuple):
    """A job as accounting has it; times are UTC seconds."""

    cluster: str
    start_s: int
    end_s: int
    nodes: int
    comment: str


class CommentWriter:
    """Writes what jobs consumed into SLURM's accounting; `counts` says what became of them."""

    def __init__(
        self,
        connect: Callable[[], Database],
        environ: Mapping[str, str] = os.environ,
        now_s: Callable[[], float] = time.time,
    ) -> None:
        self._connect = connect
        self._environ = environ
        self._now_s = now_s
        self.counts: Counter[str] = Counter()
        """`written`, `foreign` (another tool's comment), `other` (another job of that number)."""
        self._exact: bool | None = None
        """Whether sacctmgr writes what it is given; `None`: not tried yet."""

    def run(self, stop: threading.Event, every_s: float) -> None:
        """Write now and then until told to stop."""
        while not stop.is_set():
            try:
                self.once(stop)
                _once.recovered("admin_comment", "AdminComment is written again")
            except (InputError, LedgerError) as error:
                _once.failed("admin_comment", "AdminComment is not written: %s", error)
            stop.wait(every_s)

    def once(self, stop: threading.Event | None = None) -> None:
        """Look at all jobs that are due. Raises `InputError` if SLURM is of no help."""
        database = self._connect()
        try:
            due = _due(database, int(self._now_s()))
            numbers = sorted(due, key=int)[:_MOST]
            for start in range(0, len(numbers), _AT_ONCE):
                known = self._accounted(numbers[start : start + _AT_ONCE])
                for number in numbers[start : start + _AT_ONCE]:
                    if stop is not None and stop.is_set():
                        return
                    if number in known:
                        self._write(database, number, due[number], known[number])
        finally:
            database.close()

    def _write(
        self, database: Database, number: str, names: Sequence[str], job: AccountedJob
    ) -> None:
        wanted = Selection(workloads=frozenset(f"slurm/{name}" for name in names))
        with database.transaction(writes=False):
            found = totals(report_query.account(database, 0, FOREVER_S, wanted))
        runs = _of_one_job(
            [each for each in found if _is_in(each.workload.of_cluster, job.cluster)]
        )
        began_s = min((each.workload.started_utc_ns or 0 for each in runs), default=0) / NS_PER_S
        last_s = max((each.workload.started_utc_ns or 0 for each in runs), default=0) / NS_PER_S
        if not runs or not job.start_s - _SLACK_S <= last_s <= job.end_s + _SLACK_S:
            self._done(database, number, job, int(began_s), "other")
            return
        nodes = {node for each in runs for node in each.nodes}
        if len(nodes) < job.nodes and self._now_s() < job.end_s + _MISSING_S:
            return
        said = _said(runs, len(nodes), job.nodes)
        known = as_object(job.comment)
        if known is None or (known.keys() - {KEY} and self._exact is False):
            self._done(database, number, job, int(began_s), "foreign")
            return
        if known.keys() - {KEY} and self._exact is None:
            return  # The next pass knows.
        if known.get(KEY) != said:
            self._modify(number, job.cluster, as_text({**known, KEY: said}))
            if self._exact is None:
                stored = self._accounted([number]).get(number)
                self._exact = (
                    stored is not None
                    and as_object(stored.comment) is not None
                    and ("`" not in stored.comment)
                )
            time.sleep(_PAUSE_S)
        self._done(database, number, job, int(began_s), "written")

    def _done(
        self, database: Database, number: str, job: AccountedJob, start_s: int, what: str
    ) -> None:
        self.counts[what] += 1
        with database.transaction():
            database.upsert(
                "lab_commented", [(job.cluster, number, start_s, int(self._now_s()), what)]
            )

    def _accounted(self, numbers: Sequence[str]) -> dict[str, AccountedJob]:
        text = self._ran(
            "sacct", "-n", "-P", "-X", f"--delimiter={_FIELD}", f"--format={_FIELDS}",
            "-S", "1970-01-02", "-E", "now", "-j", ",".join(numbers),
        )  # fmt: skip
        return dict(_records(text))

    def _modify(self, number: str, cluster: str, comment: str) -> None:
        self._ran(
            "sacctmgr", "-i", "modify", "job", "where", f"jobid={number}", f"cluster={cluster}",
            "set", f"admincomment='{comment}'",
        )  # fmt: skip

    def _ran(self, *words: str) -> str:
        try:
            done = subprocess.run(
                words,
                env={**self._environ, "LC_ALL": "C", "SLURM_TIME_FORMAT": "%s"},
                stdin=subprocess.DEVNULL, capture_output=True, timeout=_TIMEOUT_S, check=False,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            raise InputError(f"{words[0]}: no answer in {_TIMEOUT_S:g} s", reason="down") from None
        except OSError as error:
            raise InputError(f"{words[0]}: {error.strerror}", reason="missing") from None
        if done.returncode:
            said = done.stderr.decode("utf-8", "replace").strip() or f"status {done.returncode}"
            raise InputError(f"{words[0]}: {one_line(said)}", reason="refused")
        return done.stdout.decode("utf-8", "replace")


def as_object(comment: str) -> dict[str, Any] | None:
    """Return a comment as an object, empty if there is none; `None`: it is another tool's."""
    for text in (comment, comment.replace("`", '"')):
        try:
            found = json.loads(text) if text.strip() else {}
        except (ValueError, RecursionError):
            continue
        return found if isinstance(found, dict) else None
    return None


def as_text(comment: Mapping[str, object]) -> str:
    """Return a comment as it is given to sacctmgr, which takes single quotes for its own."""
    return json.dumps(comment, separators=(",", ":")).replace("'", "\\u0027")


def _said(runs: Sequence[WorkloadTotals], nodes: int, of: int) -> dict[str, object]:
    """Return what a job consumed, all of its runs and nodes together."""
    amount = reduce(Amount.plus, (each.total for each in runs))
    told = figures({"all": amount}, total(each.bill for each in runs))
    found: dict[str, object] = {
        "v": 1,
        "energy_kwh": _short(told.energy_kwh),
        "idle_kwh": _short(decimal(told.idle_uj, UJ_PER_KWH)),
        "gpu_hours": _short(told.gpu_hours),
    }
    if told.cost:
        # In small letters, as old versions of sacctmgr write them.
        found["cost"] = {c.lower(): _short(value) for c, value in told.cost.items()}
    if told.co2e_kg is not None and all(CO2E in each.bill for each in runs):
        found["co2e_kg"] = _short(told.co2e_kg)
    if nodes < of:
        found["nodes"] = f"{nodes} of {of}"
    return found


def _short(text: str) -> float:
    return float(f"{float(text):.6g}")


def _of_one_job(runs: Sequence[WorkloadTotals]) -> list[WorkloadTotals]:
    """Return the last job of a number that came again: its last run, and those it was put back
    after.
    """
    last_first = sorted(runs, key=lambda each: -(each.workload.started_utc_ns or 0))
    found: list[WorkloadTotals] = []
    count = 1 << 30
    for each in last_first:
        restarts = _RUN.fullmatch(each.workload.id.workload.rpartition(":")[2])
        number = int((restarts and restarts[2]) or 0)
        if number >= count:
            break
        found.append(each)
        count = number
    return found


def _is_in(mine: str, cluster: str) -> bool:
    return not mine or mine.lower() == cluster.lower()


def _due(database: Database, now_s: int) -> dict[str, list[str]]:
    """Return the names in the ledger of jobs that are booked and not looked at, by job number."""
    every = database.rows(
        "SELECT w.workload, min(f.complete), min(coalesce(f.ended_utc_ns, 0)),"
        " min(CASE WHEN l.position = l.last_seq THEN 1 ELSE 0 END)"
        " FROM workloads w JOIN facts f ON f.workload = w.id JOIN ledgers l ON l.id = f.ledger"
        " WHERE w.scheduler = 'slurm' AND (f.ended_utc_ns IS NULL OR f.ended_utc_ns > ?)"
        " GROUP BY w.workload",
        [(now_s - _BACK_S) * NS_PER_S],
    )
    names: dict[str, list[str]] = {}
    waiting: set[str] = set()
    for name, complete, ended_ns, current in every:
        run = _RUN.fullmatch(name)
        if run is None:
            continue
        names.setdefault(run[1], []).append(name)
        if not (complete and ended_ns and current):
            waiting.add(run[1])
    seen: dict[str, int] = dict(
        one_by_some(
            database,
            "SELECT job, max(made_s) FROM lab_commented WHERE job IN (*) GROUP BY job",
            [],
            sorted(names),
        )
    )
    ended = {name: ended_ns // NS_PER_S for name, _, ended_ns, _ in every}
    return {
        number: mine
        for number, mine in names.items()
        if number not in waiting and max(ended[name] for name in mine) > seen.get(number, 0)
    }


def _records(text: str) -> Iterator[tuple[str, AccountedJob]]:
    """Yield jobs that have ended; a comment may hold line breaks and anything else."""
    for record in _RECORD.split(text):
        cells = record.removesuffix("\n").split(_FIELD, 5)
        if len(cells) != 6:
            continue
        number, cluster, start, end, nodes, comment = cells
        if start.isdecimal() and end.isdecimal() and nodes.isdecimal():
            yield number, AccountedJob(cluster, int(start), int(end), int(nodes), comment)
