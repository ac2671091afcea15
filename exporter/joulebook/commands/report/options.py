"""The options of reports: where the figures are from, which of them, and how they are written."""

from __future__ import annotations

import argparse
from pathlib import Path

FORMATS = ("text", "markdown", "latex", "json", "csv", "hf", "boamps", "html")


def add(report: argparse.ArgumentParser) -> None:
    """All options of `joulebook report`."""
    report.epilog = (
        "Without --format, --experiment and the like it lists all experiments. With them it writes "
        "a statement: the energy, cost and CO2e of what is selected, and how they are known."
    )
    add_source(report)
    add_selection(report)
    statement = report.add_argument_group("the statement")
    statement.add_argument(
        "--format",
        choices=FORMATS,
        help="text (default), markdown, latex, json (docs/schema), csv (a line for each run), hf "
        "(model card metadata), boamps, html (one page that loads nothing)",
    )
    statement.add_argument("--output", type=Path, metavar="FILE", help="write it there")
    statement.add_argument(
        "--best", metavar="RUN", default="", help="the run whose result is reported (E_best)"
    )
    statement.add_argument(
        "--runs",
        metavar="RUN",
        action="extend",
        nargs="+",
        default=[],
        help="the runs it was chosen from (E_sweep; `*` is anything; default: all)",
    )
    statement.add_argument(
        "--exclude",
        metavar="RUN=WHY",
        action="append",
        default=[],
        help="a run that is no part of the sweep; it is counted in E_project, and named",
    )
    statement.add_argument(
        "--about",
        type=Path,
        metavar="FILE",
        help="TOML with what no meter measures: title, region, params, flops, metric, value ...",
    )
    statement.add_argument(
        "--rates",
        type=Path,
        metavar="FILE",
        help="charge the energy again at the [rates] of this file, and show the difference",
    )
    listed = report.add_argument_group("the list")
    listed.add_argument(
        "--by",
        choices=("experiment", "user", "account", "lab"),
        default="experiment",
        help="what a line is: an experiment (default), or all of a user, an account, the lab",
    )
    listed.add_argument("--json", action="store_true", help="the list as one JSON object")


def add_selection(parser: argparse.ArgumentParser) -> None:
    """Which runs. Each option may be given several times."""
    which = parser.add_argument_group("which runs")
    which.add_argument("--since", metavar="TIME", help="ISO 8601; a date is 00:00 UTC")
    which.add_argument("--until", metavar="TIME", help="the same; the end is not included")
    for name, what in (
        ("experiment", "of this experiment"),
        ("user", "of this user"),
        ("account", "of this account or namespace"),
        ("workload", "this job or pod: 1234, 1234_7, 1234.r1"),
        ("cluster", "of this cluster, where the source has several"),
    ):
        which.add_argument(
            f"--{name}",
            metavar="NAME",
            action="append",
            default=[],
            help=f"only {what}; may be repeated",
        )


def add_lab(top: argparse.ArgumentParser) -> None:
    """For `joulebook top --users`: the whole lab instead of this node."""
    lab = top.add_argument_group("with --users, of the whole lab")
    _add_places(lab)
    # What a person waits for before his eyes.
    top.set_defaults(timeout=20.0)


def add_source(parser: argparse.ArgumentParser) -> None:
    """Where the figures are from; this node's ledger if nothing is said."""
    where = parser.add_argument_group("where from (default: this node's ledger)")
    _add_places(where)
    where.add_argument("--ca", type=Path, metavar="FILE", help="authorities to trust (PEM)")
    where.add_argument("--insecure", action="store_true", help="accept any certificate of it")
    where.add_argument(
        "--timeout", type=float, default=60.0, metavar="S", help="seconds for each of its answers"
    )


def add_ledgers(job: argparse.ArgumentParser) -> None:
    """For `joulebook job`: of more nodes than this one."""
    _add_ledgers(job.add_argument_group("where from (default: this node's ledger)"))


def _add_ledgers(where: argparse._ArgumentGroup) -> None:
    where.add_argument(
        "--ledger",
        metavar="[[CLUSTER/]NODE=]FILE",
        action="append",
        default=[],
        help="a copy of a node's ledger; may be repeated, one for each node",
    )
    where.add_argument(
        "--collected",
        metavar="URL",
        nargs="?",
        const="",
        help="the collected ledger of many nodes: sqlite:///... or postgresql://...; without URL, "
        "and where the node has no ledger, that of collect.url",
    )


def _add_places(where: argparse._ArgumentGroup) -> None:
    _add_ledgers(where)
    where.add_argument(
        "--prometheus",
        metavar="URL",
        help="Prometheus, VictoriaMetrics, Thanos or Mimir (needs --since); the default is "
        "report.prometheus, where the node has no ledger",
    )
    where.add_argument(
        "--header",
        metavar="'NAME: VALUE'",
        action="append",
        default=[],
        help="a header for it, such as 'X-Scope-OrgID: lab'; may be repeated",
    )
    where.add_argument(
        "--token-file", type=Path, metavar="FILE", help="its bearer token, or user:password"
    )
