"""Implement `joulebook acct`: the jobs of a user, from the lab server, as sacct lists them."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import click

from joulebook.commands.shared.lab_client import LabClient, lab_client
from joulebook.commands.shared.options import F, Options, command, option
from joulebook.config import load
from joulebook.core.sanitize import one_line
from joulebook.errors import ConfigError
from joulebook.terminal import Column, Screen
from joulebook.units import UJ_PER_KWH

FIELDS = (
    "JobID", "JobName", "User", "Account", "Experiment", "Cluster", "Start", "End", "GPUs",
    "GPUHours", "EnergyKWh", "IdleKWh", "Cost", "CO2eKg", "Outcome",
)  # fmt: skip
USUAL = (
    "JobID", "JobName", "User", "Experiment", "Start", "GPUHours", "EnergyKWh", "Cost", "CO2eKg",
)  # fmt: skip
_FIGURES = frozenset({"GPUs", "GPUHours", "EnergyKWh", "IdleKWh", "Cost", "CO2eKg"})
_PAGE = 1_000


def main(args: Options) -> int:
    """List jobs, or print a link for the browser."""
    config = load(args.config, os.environ)
    client, screen = lab_client(args.lab, config), Screen()
    if args.web:
        screen.say(client.link())
        return 0
    rows = list(_jobs(client, args))
    if args.json:
        screen.say(json.dumps(rows, indent=2))
        return 0
    names = _names(args.format)
    cells = [[_cell(row, name) for name in names] for row in rows]
    if args.parsable2:
        for line in (names, *cells):
            screen.say("|".join(text.replace("|", "/") for text in line))
        return 0
    titles = [Column(name, right=name in _FIGURES, name=name not in _FIGURES) for name in names]
    for text in screen.table(titles, cells):
        screen.say(text)
    if not rows:
        Screen(sys.stderr).say("joulebook acct: no job used energy on these days")
    return 0


def _jobs(client: LabClient, args: Options) -> Iterator[dict[str, Any]]:
    """Yield all jobs of the asked days, the latest first."""
    fields = {
        "since": args.starttime.strftime("%Y-%m-%d"),
        "until": (args.endtime + timedelta(days=1)).strftime("%Y-%m-%d"),
        "user": args.user, "account": args.account, "experiment": args.experiment,
        "limit": f"{_PAGE}",
    }  # fmt: skip
    after = ""
    while True:
        answer = client.get("/api/v1/jobs", {**fields, "after": after})
        yield from answer["jobs"]
        after = answer["next"]
        if not after:
            return


def _names(asked: str) -> list[str]:
    known = {name.lower(): name for name in FIELDS}
    if not asked:
        return list(USUAL)
    wanted = [name.strip().lower() for name in asked.split(",")]
    if unknown := [name for name in wanted if name not in known]:
        raise ConfigError(f"--format {', '.join(unknown)}: expected some of {','.join(FIELDS)}")
    return [known[name] for name in wanted]


def _cell(job: Mapping[str, Any], name: str) -> str:
    """Return one field of a job."""
    told = job["figures"]
    plain = {
        "JobID": job["id"], "JobName": job["name"], "User": job["user"],
        "Account": job["account"], "Experiment": job["experiment"], "Cluster": job["cluster"],
        "Start": _moment(job["started_utc_s"]), "End": _moment(job["ended_utc_s"]),
        "GPUs": str(job["gpu_count"]), "GPUHours": f"{float(told['gpu_hours']):.4f}",
        "EnergyKWh": f"{float(told['energy_kwh']):.6f}",
        "IdleKWh": f"{told['idle_uj'] / UJ_PER_KWH:.6f}",
        "Cost": ", ".join(f"{float(v):.4f} {c}" for c, v in told["cost"].items()),
        "CO2eKg": "" if told["co2e_kg"] is None else f"{float(told['co2e_kg']):.4f}",
        "Outcome": job["outcome"],
    }  # fmt: skip
    return one_line(plain[name], 100)


def _moment(utc_s: float | None) -> str:
    if utc_s is None:
        return "Unknown"
    return datetime.fromtimestamp(utc_s, UTC).strftime("%Y-%m-%dT%H:%M:%S")


def _day(*names: str, help: str) -> Callable[[F], F]:
    """Return the option of a day, which is today if it is not given."""
    return option(
        *names,
        type=click.DateTime(["%Y-%m-%d"]),
        metavar="DAY",
        default=lambda: datetime.now(UTC).strftime("%Y-%m-%d"),
        help=help,
    )


@command()
@option("--lab", metavar="URL", default="", help="Address of the lab server (default: lab.url).")
@option("--web", is_flag=True, help="Print a link that opens the lab's pages in a browser, once.")
@option("--user", metavar="NAME", default="", help="Jobs of this user (default: all you may see).")
@option("--account", metavar="NAME", default="", help="Jobs of this account.")
@option("--experiment", metavar="NAME", default="", help="Jobs of this experiment.")
@_day("-S", "--starttime", help="First day, as in 2026-11-30, UTC (default: today).")
@_day("-E", "--endtime", help="Last day (default: today).")
@option("-o", "--format", metavar="FIELDS", default="", help=f"Fields, of {','.join(FIELDS)}.")
@option("-P", "--parsable2", is_flag=True, help="Separate fields by | and do not align them.")
@option("--json", is_flag=True, help="Print one JSON array.")
def acct(options: Options) -> int:
    """List the jobs that you may see, with energy, cost and CO2e, from the lab server."""
    return main(options)
