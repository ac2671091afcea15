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
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
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
_LATELY_S = 7_200
"""Passes between look at jobs that ended so lately only."""
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


class ClusterJob(NamedTuple):
    """A job number in a cluster as the site names it; `""`: the site names none."""

    cluster: str
    number: str


class DueJobs(NamedTuple):
    """Jobs that can be written, with their names in the ledger, and jobs that miss a part."""

    ready: dict[ClusterJob, list[str]]
    waiting: set[ClusterJob]


class CommentWriter:
    """Writes what jobs consumed into SLURM's accounting; `counts` says what became of them."""

    def __init__(
        self,
        connect: Callable[[], Database],
        environ: Mapping[str, str] = os.environ,
        now_s: Callable[[], float] = time.time,
        pause: Callable[[float], object] = time.sleep,
    ) -> None:
        """`pause` waits so many seconds after each write."""
        self._connect = connect
        self._environ = environ
        self._now_s = now_s
        self._pause = pause
        self._all_at = 0.0
        """When to look at all jobs again, and not at new ones only."""
        self._waiting: set[ClusterJob] = set()
        self.counts: Counter[str] = Counter()
        """`written`, `foreign` (another tool's comment), `other` (another job of that number)."""
        self._exact: bool | None = None
        """Whether sacctmgr writes what it is given; `None`: not tried yet."""

    def run(self, stop: threading.Event, every_s: float, leads: Callable[[], bool]) -> None:
        """Write now and then until told to stop, while this server `leads`."""
        while not stop.is_set():
            if leads():
                self._pass(stop)
            stop.wait(every_s)

    def _pass(self, stop: threading.Event) -> None:
        try:
            self.once(stop)
            _once.recovered("admin_comment", "AdminComment is written again")
        except (InputError, LedgerError) as error:
            _once.failed("admin_comment", "AdminComment is not written: %s", error)

    def once(self, stop: threading.Event | None = None) -> None:
        """Look at all jobs that are due. Raises `InputError` if SLURM is of no help."""
        database = self._connect()
        try:
            ready = self._due(database)
            wanted = sorted(ready, key=lambda job: (int(job.number), job.cluster))[:_MOST]
            for start in range(0, len(wanted), _AT_ONCE):
                known = self._accounted({job.number for job in wanted[start : start + _AT_ONCE]})
                for job in wanted[start : start + _AT_ONCE]:
                    if stop is not None and stop.is_set():
                        return
                    self._write(database, job, ready[job], known.get(job.number, ()))
        finally:
            database.close()

    def _due(self, database: Database) -> dict[ClusterJob, list[str]]:
        """Return the jobs to look at: those that ended lately or wait, and now and then all."""
        now_s = self._now_s()
        every = now_s >= self._all_at
        since_s = int(now_s - (_BACK_S if every else _LATELY_S))
        found = due(database, since_s, () if every else self._waiting)
        if every:
            self._all_at = now_s + _LATELY_S / 2
        self._waiting = {*found.waiting, *found.ready}
        return found.ready

    def _write(
        self,
        database: Database,
        job: ClusterJob,
        names: Sequence[str],
        there: Sequence[AccountedJob],
    ) -> None:
        wanted = Selection(workloads=frozenset(f"slurm/{name}" for name in names))
        with database.transaction(writes=False):
            found = totals(report_query.account(database, 0, FOREVER_S, wanted))
        runs = _of_one_job([each for each in found if each.workload.cluster == job.cluster])
        if runs and (what := self._write_one(job.number, runs, there)):
            self.counts[what] += 1
            self._waiting.discard(job)
            rows = [(job.cluster, name, 0, int(self._now_s()), what) for name in names]
            with database.transaction():
                database.upsert("lab_commented", rows)

    def _write_one(
        self, number: str, runs: Sequence[WorkloadTotals], there: Sequence[AccountedJob]
    ) -> str:
        """Return what became of a job; empty: it waits."""
        last_s = max(each.workload.started_utc_ns or 0 for each in runs) / NS_PER_S
        there = [one for one in there if _is_in(runs[0].workload.of_cluster, one)]
        its = [one for one in there if one.start_s - _SLACK_S <= last_s <= one.end_s + _SLACK_S]
        if not its:
            return "other" if there else ""
        job = its[0]
        nodes = {node for each in runs for node in each.nodes}
        if len(nodes) < job.nodes and self._now_s() < job.end_s + _MISSING_S:
            return ""
        said = _said(runs, len(nodes), job.nodes)
        known = as_object(job.comment)
        if known is None or (known.keys() - {KEY} and self._exact is False):
            return "foreign"
        if known.keys() - {KEY} and self._exact is None:
            return ""  # The next pass knows.
        if known.get(KEY) != said:
            self._modify(number, job.cluster, as_text({**known, KEY: said}))
            if self._exact is None:
                self._exact = self._comes_back(number, job.cluster)
            self._pause(_PAUSE_S)
        return "written"

    def _comes_back(self, number: str, cluster: str) -> bool:
        """Return whether SLURM has the comment as it was written."""
        stored = [
            each.comment
            for each in self._accounted({number}).get(number, ())
            if each.cluster == cluster
        ]
        return bool(stored) and as_object(stored[-1]) is not None and "`" not in stored[-1]

    def _accounted(self, numbers: Iterable[str]) -> dict[str, list[AccountedJob]]:
        text = self._ran(
            "sacct", "-n", "-P", "-X", "--allclusters", f"--delimiter={_FIELD}",
            f"--format={_FIELDS}", "-S", "1970-01-02", "-E", "now", "-j", ",".join(sorted(numbers)),
        )  # fmt: skip
        found: dict[str, list[AccountedJob]] = {}
        for number, job in _records(text):
            found.setdefault(number, []).append(job)
        return found

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


def _is_in(mine: str, job: AccountedJob) -> bool:
    return not mine or mine.lower() == job.cluster.lower()


_ENDED = """
SELECT DISTINCT w.cluster, w.workload FROM facts f JOIN workloads w ON w.id = f.workload
WHERE f.ended_utc_ns > ? AND w.scheduler = 'slurm' AND NOT EXISTS (
 SELECT 1 FROM lab_commented c WHERE c.job = w.workload AND c.cluster = w.cluster
 AND (c.made_s + 1) * 1000000000 > f.ended_utc_ns)
"""

_PARTS = """
SELECT w.cluster, w.workload, min(f.complete), min(coalesce(f.ended_utc_ns, 0)),
 min(CASE WHEN l.position = l.last_seq THEN 1 ELSE 0 END)
FROM workloads w JOIN facts f ON f.workload = w.id JOIN ledgers l ON l.id = f.ledger
WHERE w.scheduler = 'slurm' AND w.workload IN (*) GROUP BY w.cluster, w.workload
"""


def due(database: Database, since_s: int, more: Iterable[ClusterJob] = ()) -> DueJobs:
    """Return the jobs that ended since and were not looked at after that, and those of `more`.

    A job that was put back has a name for each run; the last one that ended brings those before.
    """
    runs = {job: 0 for job in more}
    for cluster, name in database.rows(_ENDED, [since_s * NS_PER_S]):
        if run := _RUN.fullmatch(name):
            job = ClusterJob(cluster, run[1])
            runs[job] = max(runs.get(job, 0), int(run[2] or 0))
    names = {
        name: number
        for (_, number), last in runs.items()
        for name in (number, *(f"{number}.r{restart}" for restart in range(1, last + 1)))
    }
    ready: dict[ClusterJob, list[str]] = {}
    waiting: set[ClusterJob] = set()
    for cluster, name, complete, ended_ns, current in one_by_some(
        database, _PARTS, [], sorted(names)
    ):
        job = ClusterJob(cluster, names[name])
        if job in runs:
            ready.setdefault(job, []).append(name)
            if not (complete and ended_ns and current):
                waiting.add(job)
    return DueJobs({job: mine for job, mine in ready.items() if job not in waiting}, waiting)


def _records(text: str) -> Iterator[tuple[str, AccountedJob]]:
    """Yield jobs that have ended; a comment may hold line breaks and anything else."""
    for record in _RECORD.split(text):
        cells = record.removesuffix("\n").split(_FIELD, 5)
        if len(cells) != 6:
            continue
        number, cluster, start, end, nodes, comment = cells
        if start.isdecimal() and end.isdecimal() and nodes.isdecimal():
            yield number, AccountedJob(cluster, int(start), int(end), int(nodes), comment)
