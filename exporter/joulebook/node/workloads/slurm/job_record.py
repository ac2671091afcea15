"""A record of `scontrol show job -d`, read line by line where the controller wrote it.

The output is lines of `Key=Value`, and some values are the user's own words (job name, comment,
paths), with line breaks if he likes. What decides on the bill is read from the lines that the
controller writes between the job's name and its command.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Collection, Iterable
from datetime import UTC, datetime
from typing import NamedTuple

import msgspec

from joulebook.core.sanitize import clean_label
from joulebook.node.workloads.slurm.hostlist import expand

_RECORD = re.compile(r"^JobId=(\d+) ", re.MULTILINE)
_FIRST = re.compile(r"JobId=\d+ (?P<keys>(?:(?!JobName=)\w+=\S* )*)JobName=")
_ARRAY = re.compile(r"\bArrayJobId=(?P<array>\d+) ArrayTaskId=(?P<task>\S+) ")
_HET = re.compile(r"\bHetJobId=(?P<het>\d+) HetJobOffset=(?P<offset>\d+) ")
_HET_SET = re.compile(r"\n   HetJobIdSet=[^\n]*")
_USER = re.compile(r"^   UserId=(?P<user>.*)\((?P<uid>\d{1,10})\) GroupId=", re.MULTILINE)
_ACCOUNT = re.compile(
    r"^   (?:Priority=\S+ )?Nice=\S+ Account=(?P<account>.*?) QOS=(?P<qos>\S*)"
    r"(?: WCKey=(?P<wckey>.*))?$",
    re.MULTILINE,
)
_STATE = re.compile(r"^   JobState=(\S+)", re.MULTILINE)
_RESTARTS = re.compile(r"^   Requeue=\d+ Restarts=(\d{1,9})\b", re.MULTILINE)
_LIMIT = re.compile(
    r"^   RunTime=\S+ TimeLimit=(?:(\d+)-)?(\d\d):(\d\d):(\d\d) TimeMin=", re.MULTILINE
)
_TIMES = re.compile(r"^   StartTime=(\S+) EndTime=(\S+)", re.MULTILINE)
_PARTITION = re.compile(r"^   Partition=(\S+)", re.MULTILINE)
_WHOLE = re.compile(r"^   JOB_GRES=(\S*)", re.MULTILINE)
_NODE = re.compile(r"^ {4,6}Nodes=(\S+) CPU_IDs=\S* Mem=\S* GRES=(\S*)$", re.MULTILINE)
_NODES = re.compile(
    r"(?:^   JOB_GRES=\S*\n)?(?:^ {4,6}Nodes=\S+ CPU_IDs=\S* Mem=\S* GRES=\S*$\n?)+", re.MULTILINE
)
_AFTER_GPUS = re.compile(r"^   MinCPUsNode=", re.MULTILINE)
_ONCE = (
    _USER,
    _ACCOUNT,
    _STATE,
    _RESTARTS,
    _LIMIT,
    _TIMES,
    _PARTITION,
    _WHOLE,
    _NODES,
    _AFTER_GPUS,
)
_FREE_TEXT = re.compile(r"^   (?:Command|WorkDir|Comment)=", re.MULTILINE)
_COMMENT = re.compile(r"^   Comment=(.*)$", re.MULTILINE)
_GRES_ITEM = re.compile(r"(gpu|shard)(?::[^:,()]+)?:(\d{1,6})\(IDX:([^()]*(?:\([^()]*\)[^()]*)*)\)")
_GPUS = re.compile(r"\bgpu(?::[^:,()]+)?:(\d{1,4})")
_INDEX = re.compile(r"(?<![\d/])(\d{1,4})(?:-(\d{1,4}))?(?:\((\d{1,6})/\d{1,6}\))?(?![\d/-])")

GONE = "GONE"
ON_NODE = frozenset(
    {"RUNNING", "SUSPENDED", "COMPLETING", "CONFIGURING", "STAGE_OUT", "STOPPED", "SIGNALING"}
)
"""The states of a job in which it may hold its GPUs."""

WAITING = frozenset(
    {"PENDING", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "SPECIAL_EXIT", "RESV_DEL_HOLD"}
)
"""The states of a job that is to run (again): its count of restarts is raised already."""


class HeldGpu(NamedTuple):
    """One GPU of a job on one node: gres position, and the shards of it (`None`: all of it)."""

    node: str
    position: str
    shards: int | None


class JobAnswer(msgspec.Struct, frozen=True):
    """The controller's record of one job; empty if missing or not credible.

    Attributes:
        job_id: The number of the job.
        state: `RUNNING`, ...; `GONE` for a job that the controller does not know (any more).
        hidden: Of a job that is `GONE`: it may as well be kept from this user (`PrivateData`).
        restart_count: How often it was requeued.
        start_s: When it started (UTC seconds; 0: not known).
        end_s: When it ended (0: it has not, or not known).
        limit_s: For how long it may run (0: without a limit, or not known).
        gpus: The GPUs that it holds. Empty once it has ended.
        nodes: The nodes of it that have any.
        het_job_id, het_offset: Of a component of a heterogeneous job: the job, and which it is.
        gpu_count: How many GPUs it was given on all of its nodes.
        doubtful: Its name passes for more than a name: owner and GPUs were left out.

    """

    job_id: str
    state: str = ""
    hidden: bool = False
    restart_count: int | None = None
    start_s: int = 0
    end_s: int = 0
    limit_s: int = 0
    name: str = ""
    user: str = ""
    uid: int | None = None
    account: str = ""
    partition: str = ""
    qos: str = ""
    comment: str = ""
    wckey: str = ""
    array_job_id: str = ""
    array_task_id: str = ""
    het_job_id: str = ""
    het_offset: str = ""
    gpus: tuple[HeldGpu, ...] = ()
    nodes: tuple[str, ...] = ()
    gpu_count: int = 0
    doubtful: bool = False

    @property
    def over(self) -> bool:
        """Whether the job holds nothing any more: it has ended, or waits to run again."""
        return bool(self.state) and self.state != GONE and self.state not in ON_NODE

    @property
    def run(self) -> int | None:
        """Which run of the job it speaks of: of one that waits to run again, the one before."""
        if self.restart_count is None or self.state not in WAITING:
            return self.restart_count
        return max(0, self.restart_count - 1)


def parse_job(text: str, job_id: str, name: str | None = None) -> JobAnswer | None:
    """Return the answer about `job_id`; `None` if the text has none.

    Without `name`, the exact name of the job, a record that could be read in two ways is doubtful.
    """
    if name is None:
        return parse_jobs(text, {job_id}).get(job_id)
    found = [m.start() for m in _RECORD.finditer(text) if m[1] == job_id]
    return _credible(job_id, [_read(text[at:], job_id, name) for at in found]) if found else None


def parse_jobs(text: str, wanted: Collection[str]) -> dict[str, JobAnswer]:
    """Return the answers about jobs, in one pass: there may be ten thousand others."""
    starts = [(m.start(), m[1]) for m in _RECORD.finditer(text)]
    records: dict[str, list[JobAnswer | None]] = {}
    for (at, number), (end, _) in itertools.pairwise([*starts, (len(text), "")]):
        if number in wanted:
            records.setdefault(number, []).append(_read(text[at:end], number))
    return {
        number: _credible(number, found if len(found) == 1 else [])
        for number, found in records.items()
    }


def _credible(job_id: str, found: Iterable[JobAnswer | None]) -> JobAnswer:
    credible = [record for record in found if record is not None]
    return credible[0] if len(credible) == 1 else JobAnswer(job_id, doubtful=True)


def _read(record: str, job_id: str, name: str | None = None) -> JobAnswer | None:
    first = _FIRST.match(record)
    if first is None:
        return None
    array, het = _ARRAY.search(first["keys"]), _HET.search(first["keys"])
    rest = record[first.end() :]
    if name is None:
        owners = list(_USER.finditer(rest))
        if len(owners) != 1:
            return None
        end = max(0, owners[0].start() - 1)
        name = rest[:end]
        if het is not None:
            sets = list(_HET_SET.finditer(name))
            name = name[: sets[-1].start()] if sets and sets[-1].end() == end else name
    elif (end := _end_of(name, rest, het is not None)) < 0:
        return None
    rest = rest[end + 1 :]
    free = _FREE_TEXT.search(rest)
    reported, words = (rest, "") if free is None else (rest[: free.start()], rest[free.start() :])
    # A line break in a wckey, say, would let its owner add lines of his own.
    if any(len(pattern.findall(reported)) > 1 for pattern in _ONCE):
        return None
    user, account, times = (pattern.search(reported) for pattern in (_USER, _ACCOUNT, _TIMES))
    restarts, whole, lines = (pattern.search(reported) for pattern in (_RESTARTS, _WHOLE, _NODES))
    if user is None or (whole and lines and whole.start() != lines.start()):
        return None
    # Of a job without a GPU they are not there: a wckey or a feature must not add them.
    before, after = times, _AFTER_GPUS.search(reported)
    for gpus in filter(None, (whole, lines)):
        if (before and gpus.start() < before.end()) or (after and gpus.start() > after.start()):
            return None
    state = _value(_STATE.search(reported))
    by_nodes = _NODE.findall(lines[0]) if lines else []
    return JobAnswer(
        job_id=job_id,
        state=state,
        restart_count=int(restarts[1]) if restarts else None,
        start_s=_time_s(times[1]) if times and state not in WAITING else 0,
        end_s=_time_s(times[2]) if times and state not in ON_NODE | WAITING else 0,
        limit_s=_limit_s(_LIMIT.search(reported)),
        name=_words(name, 2048),
        user=clean_label(user["user"]),
        uid=int(user["uid"]),
        account=_words(account["account"]) if account else "",
        partition=_value(_PARTITION.search(reported)),
        qos=_words(account["qos"]) if account else "",
        comment=_value(_COMMENT.search(words), 2048),
        wckey=_words(account["wckey"] or "").lstrip("*") if account else "",
        array_job_id=array["array"] if array else "",
        array_task_id=array["task"] if array else "",
        het_job_id=het["het"] if het else "",
        het_offset=het["offset"] if het else "",
        gpus=tuple(gpu for nodes, gres in by_nodes for gpu in _held(nodes, gres)),
        nodes=tuple(node for nodes, _ in by_nodes for node in expand(nodes)),
        gpu_count=sum(map(int, _GPUS.findall(whole[1]))) if whole else 0,
    )


def _end_of(name: str, rest: str, is_het: bool) -> int:
    """Return where the line before the owner's ends, if `name` comes first; else -1."""
    if not rest.startswith(name):
        return -1
    line = _HET_SET.match(rest, len(name)) if is_het else None
    end = len(name) if line is None else line.end()
    return end if rest.startswith("\n   UserId=", end) else -1


def _value(found: re.Match[str] | None, limit: int = 128) -> str:
    return "" if found is None else _words(found[1], limit)


def _words(text: str, limit: int = 128) -> str:
    return "" if text in {"(null)", "N/A"} else clean_label(text, limit)


def _limit_s(found: re.Match[str] | None) -> int:
    if found is None:
        return 0
    days, hours, minutes, seconds = (int(part or 0) for part in found.groups())
    return ((days * 24 + hours) * 60 + minutes) * 60 + seconds


def _time_s(text: str) -> int:
    try:
        return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp())
    except ValueError:
        return 0  # `Unknown`, `None`


def _held(nodes: str, gres: str) -> list[HeldGpu]:
    held = []
    for name, count, indexes in _GRES_ITEM.findall(gres):
        found = [
            (str(n), int(shards) if shards else None)
            for first, last, shards in _INDEX.findall(indexes)
            for n in range(int(first), min(int(last or first), int(first) + 63) + 1)
        ]
        for position, reported in found:
            shards = None
            if name == "shard":
                # Without "(1/4)" behind it an index says nothing of how many: even parts.
                shards = reported if reported is not None else max(1, int(count) // len(found))
            held += [HeldGpu(node, position, shards) for node in expand(nodes)]
    return held
