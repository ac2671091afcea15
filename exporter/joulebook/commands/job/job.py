"""Implement `joulebook job`: the energy and cost of a job, from this node's ledger or others."""

from __future__ import annotations

import difflib
import json
import os
import re
import sys
import time
from collections.abc import Sequence
from typing import NamedTuple

from joulebook.commands.job import summary as job_output
from joulebook.commands.job.summary import (
    Found,
    as_text,
    find,
    latest_run,
    lines,
    look,
    wait,
)
from joulebook.commands.job.text import as_json, as_list, as_statement
from joulebook.commands.report.options import ledgers as ledger_options
from joulebook.commands.report.source import ledgers
from joulebook.commands.shared.options import Duration, Options, argument, command, option
from joulebook.commands.shared.text import several
from joulebook.config import Config, load
from joulebook.core.report.dataset import Selection
from joulebook.core.report.runs import WorkloadTotals, totals
from joulebook.core.sanitize import one_line
from joulebook.core.workloads import WorkloadId
from joulebook.errors import InputError
from joulebook.lab.report.sources import FOREVER_S, LedgerSource, ReportSource
from joulebook.ledger.query import LedgerReader
from joulebook.node.workloads.slurm.gres_conf import find_program
from joulebook.terminal import Screen

FAILED, USAGE = 1, 2

MOST = 10_000
"""The most tasks of an array that are listed; SLURM's own limit is a thousand unless raised."""
_COMPARED = 5_000
_NEAREST = 3

_SLURM = r"\d{1,12}(?:[_+]\d{1,10})?(?:\.r\d{1,6})?"
_POD = r"[a-z0-9](?:[-a-z0-9.]{0,251}[a-z0-9])?\.[0-9a-f]{8}"
# Workloads without a scheduler: `span-...`, `run-...`, `session-...`, `docker-...`,
# `train.service@...`
_PROCESS = r"(?=[A-Za-z][^@]*-|[^@]*(?:@|\.service))\w[\w.:@+\\-]{0,511}|mark\.\w{1,64}"
_ID = re.compile(
    rf"(?:(?P<scheduler>slurm|kubernetes|process)/)?"
    rf"(?P<name>{_SLURM}|{_POD}|{_PROCESS}|(?<=process/)\S{{1,512}})",
    re.ASCII,
)


class JobId(NamedTuple):
    """The requested job; if `scheduler` is given, it is exactly one workload."""

    scheduler: str
    name: str


def parse_id(text: str) -> JobId | None:
    """Parse `1234`, `1234_7`, `1234.r1`, `pod.1a2b3c4d` or `slurm/1234`; `None` if it is no job
    id.
    """
    found = _ID.fullmatch(text)
    if found is None:
        return None
    return JobId(found["scheduler"] or "", found["name"])


def main(args: Options) -> int:
    """Print the statement of a job, or a list of the tasks of an array or the runs of a requeued
    job.
    """
    wanted = parse_id(args.id)
    if wanted is None:
        _complain(
            f"{one_line(args.id, 60)!r} is not a job id: expected 1234, 1234_7 (a task of an "
            "array), 1234+1 (a component), 1234.r1 (its run after a requeue), the name of a pod "
            "with the first 8 characters of its UID, or a name as shown by `joulebook top` "
            "(span-..., run-...)"
        )
        return USAGE
    config = load(args.config, os.environ)
    if args.append:
        return _append(args, config, wanted)
    origin = ledgers(args, config)
    found = _totals(origin, wanted)
    if not found:
        return _not_found(args, config, origin, wanted)
    nodes = sorted({node for each in found for node in each.nodes})
    own = not args.ledger and isinstance(origin, LedgerSource)
    node = nodes[0] if len(nodes) == 1 else None
    where = f"node {one_line(nodes[0])}" if node else several(len(nodes), "node")
    now_s, screen = time.time(), Screen()
    if args.summary:
        for each in found:
            for line in _summary(each, config, nodes, own=own):
                screen.say(line)
    elif args.json:
        screen.say(json.dumps(as_json(args.id, node, found, now_s), indent=2))
    elif len(found) == 1:
        for line in as_statement(found[0], where, screen, now_s, alone=own):
            screen.say(line)
    else:
        for line in as_list(args.id, found, where, screen, now_s):
            screen.say(line)
        if len(found) == MOST:
            _complain(f"only the latest {MOST:,} are listed and totaled")
    return 0


def _summary(
    totals: WorkloadTotals, config: Config, nodes: Sequence[str], *, own: bool
) -> list[str]:
    """Print the summary; from this node's own ledger with whether all is booked yet."""
    if not own:
        booked = totals.workload.ended_utc_ns is not None
        return lines(Found(totals, booked), ", ".join(totals.nodes), len(totals.nodes) or 1)
    with LedgerReader(config.ledger.path) as ledger:
        return lines(look(ledger, totals), nodes[0] if nodes else "")


def _totals(origin: ReportSource, wanted: JobId) -> list[WorkloadTotals]:
    """Return the totals of the latest `MOST` workloads, even if nothing was booked to them yet."""
    selection = (
        Selection(workloads=frozenset({"/".join(wanted)}))
        if wanted.scheduler
        else Selection(jobs=frozenset({wanted.name}))
    )
    found = totals(origin.account(0, FOREVER_S, selection))[-MOST:]
    if not found and isinstance(origin, LedgerSource):
        found = origin.unbooked(selection)
    return sorted(found, key=lambda each: (_natural(each.workload.shown), each.workload.id.start))


def _append(args: Options, config: Config, wanted: JobId) -> int:
    """Wait until the job is booked, and append the summary to its output as its user."""
    if args.uid is None:
        _complain("--append needs --uid UID, the job's user, as known in the Epilog")
        return USAGE
    scontrol = config.tenants.slurm.scontrol
    program = find_program("scontrol") if scontrol == "auto" else scontrol
    output = job_output.ask(program, wanted.name)
    if output is None:
        _complain(f"scontrol does not report the output path of job {wanted.name}")
        return FAILED
    if args.node and output.batch_host and args.node != output.batch_host:
        return 0  # one node is enough: the one that ran the script
    node = config.node_name()
    with LedgerReader(config.ledger.path) as ledger:
        workload = WorkloadId(wanted.scheduler or "slurm", wanted.name)
        found = wait(lambda: find(ledger, latest_run(ledger, workload)), args.wait)
    if found is None or not found.totals.total.energy_uj:
        return 0  # it had no GPU here
    content = as_text(lines(found, node, output.nodes))
    try:
        job_output.become(args.uid)
        job_output.append(output.path, content, args.uid)
    except (InputError, OSError) as error:
        _complain(f"nothing appended: {error}")
        return FAILED
    return 0


def _not_found(args: Options, config: Config, origin: ReportSource, wanted: JobId) -> int:
    named = "/".join(filter(None, wanted))
    if args.ledger or not isinstance(origin, LedgerSource):
        _complain(f"job {named} is not in the {origin.name}")
        return FAILED
    with LedgerReader(config.ledger.path) as ledger:
        known = [job.shown for job in ledger.jobs("*", _COMPARED)]
    _complain(f"job {named} is not in this node's ledger ({config.ledger.path})")
    if not known:
        _complain("the ledger has no job yet")
        return FAILED
    _complain(
        f"{several(len(known), 'job')} searched"
        + (" (the latest)" if len(known) == _COMPARED else "")
        + f"; most similar: {', '.join(one_line(name, 60) for name in nearest(wanted.name, known))}"
    )
    _complain("jobs of other nodes are in their ledgers and in the collected one")
    return FAILED


def nearest(name: str, known: Sequence[str]) -> list[str]:
    """Return up to three known names most similar to `name`, by number if both are numbers."""
    if name.partition("_")[0].partition(".")[0].isdecimal():
        numbered = [each for each in known if each[:1].isdecimal()]
        if numbered:
            number = _natural(name)[0]
            return sorted(numbered, key=lambda each: (abs(_natural(each)[0] - number), each))[
                :_NEAREST
            ]
    return difflib.get_close_matches(name, known, _NEAREST, cutoff=0.3) or list(known[:_NEAREST])


def _natural(name: str) -> tuple[int, ...]:
    """Sorts `101_9` before `101_10`."""
    return tuple(int(digits[:18]) for digits in re.findall(r"\d+", name)) or (0,)


def _complain(text: str) -> None:
    Screen(sys.stderr).say(f"joulebook job: {text}")


@command()
@argument(
    "id",
    metavar="ID",
    help="Job id as shown by the scheduler: 1234, 1234_7, 1234+1, 1234.r1. The id of an array "
    "lists its tasks.",
)
@ledger_options()
@option("--json", is_flag=True, help="Print one JSON object instead of text.")
@option(
    "--summary", is_flag=True, help="Print the three-line summary that jobs get in their output."
)
@option(
    "--append",
    is_flag=True,
    help="Wait until the job is booked, then append the summary to its output file, as its user. "
    "For hooks/job_summary.sh.",
)
@option("--uid", type=int, metavar="UID", help="With --append: the job's user.")
@option(
    "--node",
    metavar="NAME",
    help="With --append: this node; do nothing unless the job's script ran here.",
)
@option(
    "--wait",
    type=Duration(),
    default=60.0,
    metavar="TIME",
    help="With --append: how long to wait for the last energy (default: 60s).",
)
def job(options: Options) -> int:
    """Show the energy and cost of a job, from this node's ledger, the collected one or the lab
    server.
    """
    return main(options)
