"""`scontrol show job -d`: asked at most once for each job start, one at a time, with a time-out.

The output is lines of `Key=Value`, and some values are the user's own words (job name, comment,
paths), with newlines if he likes. So nothing that decides on the bill is taken from a place where
two answers stand: an owner named twice, differently, is no owner.
"""

from __future__ import annotations

import contextlib
import os
import queue
import re
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import msgspec

from joulebook.core.sanitize import clean_label
from joulebook.node.workloads.slurm.hostlist import expand

_BLOCK = re.compile(r"^JobId=(\d+)\b", re.MULTILINE)
_GRES_LINE = re.compile(r"^ +Nodes=(\S+) CPU_IDs=\S* Mem=\S* GRES=(\S*)", re.MULTILINE)
_GRES_ITEM = re.compile(r"(gpu|shard)(?::[^:,()]+)?:(\d+)\(IDX:([^()]*(?:\([^()]*\)[^()]*)*)\)")
_INDEX = re.compile(r"(\d+)(?:-(\d+))?(?:\((\d+)/\d+\))?")


GONE = "GONE"


class HeldGpu(NamedTuple):
    """One GPU of a job on one node: gres position, and the shards of it (`None`: all of it)."""

    node: str
    position: str
    shards: int | None


class JobAnswer(msgspec.Struct, frozen=True):
    """What the controller knows of one job; empty where it did not say or was not credible."""

    job_id: str
    state: str = ""
    """`RUNNING`, ...; `GONE` for a job that the controller does not know (any more)."""
    restart_count: int | None = None
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
    gpus: tuple[HeldGpu, ...] = ()
    doubtful: bool = False
    """Somebody tried to pass for somebody else: owner and GPUs were left out."""


def parse_job(text: str, job_id: str) -> JobAnswer | None:
    """The answer about `job_id` (for the first task of an array others may follow it)."""
    starts = [(m.start(), m[1]) for m in _BLOCK.finditer(text)]
    own = [n for n, (_, number) in enumerate(starts) if number == job_id]
    if not own:
        return None
    ends = [start for start, _ in starts[1:]] + [len(text)]
    block = text[starts[own[0]][0] : ends[own[0]]]
    owners = set(re.findall(r"^ +UserId=(\S+)", text, re.MULTILINE))
    accounts = set(re.findall(r"(?:^| )Account=(\S+)", text, re.MULTILINE))
    restarts = set(re.findall(r"(?:^| )Restarts=(\d+)", block, re.MULTILINE))
    if len(own) > 1 or len(owners) != 1 or len(accounts) > 1 or len(restarts) > 1:
        return JobAnswer(job_id=job_id, doubtful=True)
    user, _, uid = owners.pop().partition("(")
    account = accounts.pop() if accounts else ""
    return JobAnswer(
        job_id=job_id,
        state=_word(block, "JobState"),
        restart_count=int(restarts.pop()) if restarts else None,
        name=_rest(block, "JobName"),
        user=clean_label(user),
        uid=int(uid[:-1]) if uid[:-1].isdecimal() else None,
        account="" if account == "(null)" else clean_label(account),
        partition=_word(block, "Partition"),
        qos=_word(block, "QOS"),
        comment=_rest(block, "Comment"),
        wckey=_word(block, "WCKey").lstrip("*"),
        array_job_id=_word(block, "ArrayJobId"),
        array_task_id=_word(block, "ArrayTaskId"),
        gpus=tuple(_gpus(block)),
    )


def _word(block: str, key: str) -> str:
    found = re.search(rf"(?:^| ){key}=(\S*)", block, re.MULTILINE)
    return "" if found is None or found[1] in {"(null)", "N/A"} else clean_label(found[1])


def _rest(block: str, key: str) -> str:
    found = re.search(rf"(?:^| ){key}=(.*)$", block, re.MULTILINE)
    return "" if found is None or found[1] == "(null)" else clean_label(found[1], 2048)


def _gpus(block: str) -> list[HeldGpu]:
    held = []
    for nodes, gres in _GRES_LINE.findall(block):
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


Answered = Callable[[JobAnswer | None], None]
"""Called from the asking thread; `None` when the controller gave no answer in time."""


class Asker:
    """Runs `scontrol show job -d` in one thread of its own, one job at a time."""

    def __init__(self, scontrol: str, slurm_conf: Path, *, timeout_s: float) -> None:
        self._scontrol = scontrol
        self._timeout_s = timeout_s
        self._environment = {**os.environ, "LC_ALL": "C"}
        if slurm_conf.exists():
            self._environment["SLURM_CONF"] = str(slurm_conf)
        # Larger than the number of jobs that one node can start while the controller is silent.
        self._waiting: queue.Queue[tuple[str, Answered] | None] = queue.Queue(maxsize=1024)
        self._thread = threading.Thread(target=self._run, name="slurm-ask", daemon=True)
        self._stopping = False

    def start(self) -> None:
        """Begin to answer."""
        self._thread.start()

    def ask(self, job_id: str, answered: Answered) -> bool:
        """Ask for one job; `False` if too many wait already."""
        try:
            self._waiting.put_nowait((job_id, answered))
        except queue.Full:
            return False
        return True

    def stop(self) -> None:
        """End the thread, or leave it to its time-out if it waits for an answer just now."""
        self._stopping = True
        with contextlib.suppress(queue.Full):
            self._waiting.put_nowait(None)
        if self._thread.is_alive():
            self._thread.join(0.5)

    def _run(self) -> None:
        while not self._stopping:
            question = self._waiting.get()
            if question is not None and not self._stopping:
                job_id, answered = question
                answered(self._show(job_id))

    def _show(self, job_id: str) -> JobAnswer | None:
        if not self._scontrol:
            return None
        try:
            done = subprocess.run(
                [self._scontrol, "show", "job", "-d", job_id],
                env=self._environment,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=self._timeout_s,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired):
            return None
        if done.returncode != 0:
            return JobAnswer(job_id, GONE) if b"Invalid job id" in done.stderr else None
        return parse_job(done.stdout.decode("utf-8", "replace"), job_id)
