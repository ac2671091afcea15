"""The options of reports: where the figures are from, which of them, and how they are written."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import click

from joulebook.commands.shared.options import FILE, all_of, option

F = TypeVar("F", bound=Callable[..., object])

FORMATS = ("text", "markdown", "latex", "json", "csv", "hf", "boamps", "html")


def ledgers(heading: str = "Where from (default: this node's ledger)") -> Callable[[F], F]:
    """Which ledgers figures are from."""
    return all_of(
        option(
            "--ledger",
            heading=heading,
            metavar="[[CLUSTER/]NODE=]FILE",
            multiple=True,
            help="A copy of a node's ledger; may be repeated, one for each node.",
        ),
        option(
            "--collected",
            heading=heading,
            metavar="[URL]",
            is_flag=False,
            flag_value="",
            help="The collected ledger of many nodes: sqlite:///... or postgresql://...; without "
            "URL, and where the node has no ledger, that of collect.url.",
        ),
    )


def places(heading: str) -> Callable[[F], F]:
    """Where figures are from."""
    return all_of(
        ledgers(heading),
        option(
            "--prometheus",
            heading=heading,
            metavar="URL",
            help="Prometheus, VictoriaMetrics, Thanos or Mimir (needs --since); the default is "
            "report.prometheus, where the node has no ledger.",
        ),
        option(
            "--header",
            heading=heading,
            metavar="'NAME: VALUE'",
            multiple=True,
            help="A header for it, such as 'X-Scope-OrgID: lab'; may be repeated.",
        ),
        option(
            "--token-file",
            heading=heading,
            type=FILE,
            metavar="FILE",
            help="Its bearer token, or user:password.",
        ),
    )


def from_where() -> Callable[[F], F]:
    """Where the figures are from; this node's ledger if nothing is said."""
    heading = "Where from (default: this node's ledger)"
    return all_of(
        places(heading),
        option(
            "--ca", heading=heading, type=FILE, metavar="FILE", help="Authorities to trust (PEM)."
        ),
        option("--insecure", heading=heading, is_flag=True, help="Accept any certificate of it."),
        option(
            "--timeout",
            heading=heading,
            type=float,
            default=60.0,
            metavar="S",
            help="Seconds for each of its answers.",
        ),
    )


def stretch_of_time(heading: str) -> Callable[[F], F]:
    """From when to when."""
    return all_of(
        option("--since", heading=heading, metavar="TIME", help="ISO 8601; a date is 00:00 UTC."),
        option(
            "--until", heading=heading, metavar="TIME", help="The same; the end is not included."
        ),
    )


def which_runs() -> Callable[[F], F]:
    """Which runs. Each option may be given several times."""
    heading = "Which runs"
    names = (
        ("experiment", "of this experiment"),
        ("user", "of this user"),
        ("account", "of this account or namespace"),
        ("workload", "this job or pod: 1234, 1234_7, 1234.r1"),
        ("cluster", "of this cluster, where the source has several"),
    )
    return all_of(
        stretch_of_time(heading),
        *(
            option(
                f"--{name}",
                heading=heading,
                metavar="NAME",
                multiple=True,
                help=f"Only {what}; may be repeated.",
            )
            for name, what in names
        ),
    )


def statement() -> Callable[[F], F]:
    """How a statement is written, and which run is which."""
    heading = "The statement"
    return all_of(
        option(
            "--format",
            heading=heading,
            type=click.Choice(FORMATS),
            help="text (default), markdown, latex, json (docs/schema), csv (a line for each run), "
            "hf (model card metadata), boamps, html (one page that loads nothing).",
        ),
        option("--output", heading=heading, type=FILE, metavar="FILE", help="Write it there."),
        option(
            "--best",
            heading=heading,
            metavar="RUN",
            default="",
            help="The run whose result is reported (E_best).",
        ),
        option(
            "--runs",
            heading=heading,
            metavar="RUN...",
            multiple=True,
            help="The runs it was chosen from (E_sweep; `*` is anything; default: all).",
        ),
        option(
            "--exclude",
            heading=heading,
            metavar="RUN=WHY",
            multiple=True,
            help="A run that is no part of the sweep; it is counted in E_project, and named.",
        ),
        option(
            "--about",
            heading=heading,
            type=FILE,
            metavar="FILE",
            help="TOML with what no meter measures: title, region, params, flops, metric, ...",
        ),
        option(
            "--rates",
            heading=heading,
            type=FILE,
            metavar="FILE",
            help="Charge the energy again at the [rates] of this file, and show the difference.",
        ),
    )
