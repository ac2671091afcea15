"""The options of reports: where the data is from, which runs, and how they are written."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import click

from joulebook.commands.shared.options import AT_LAB, FILE, all_of, option
from joulebook.lab.report.formats import FORMATS, LENGTHS

PARQUET = "parquet"
"""The format that is no text, and so needs a file."""

F = TypeVar("F", bound=Callable[..., object])


def ledgers(heading: str = "Data source (default: this node's ledger)") -> Callable[[F], F]:
    """Add the options that choose ledgers."""
    return all_of(
        option(
            "--ledger",
            heading=heading,
            metavar="[[CLUSTER/]NODE=]FILE",
            multiple=True,
            help="Copy of a node's ledger. Repeatable, once per node.",
        ),
        option(
            "--collected",
            heading=heading,
            metavar="[URL]",
            is_flag=False,
            flag_value="",
            help="Collected ledger of many nodes: sqlite:///... or postgresql://... Without URL: "
            "collect.url, which is also the default if this node has no ledger.",
        ),
        option(
            "--lab",
            heading=heading,
            **AT_LAB,
            help="Lab server: what you may see there, without a right on any file. Without URL: "
            "lab.url, which is also the default if there is no ledger here that you may read.",
        ),
    )


def places(heading: str) -> Callable[[F], F]:
    """Add the options that choose a data source."""
    return all_of(
        ledgers(heading),
        option(
            "--prometheus",
            heading=heading,
            metavar="URL",
            help="Prometheus, VictoriaMetrics, Thanos or Mimir (needs --since). Default, if this "
            "node has no ledger: report.prometheus.",
        ),
        option(
            "--header",
            heading=heading,
            metavar="'NAME: VALUE'",
            multiple=True,
            help="HTTP header for Prometheus, such as 'X-Scope-OrgID: lab'. Repeatable.",
        ),
        option(
            "--token-file",
            heading=heading,
            type=FILE,
            metavar="FILE",
            help="File with a bearer token or user:password for Prometheus.",
        ),
    )


def past() -> Callable[[F], F]:
    """Add the option of a site's first day."""
    return option(
        "--past",
        heading="Before Joulebook",
        metavar="URL",
        help="List what a Prometheus has of dcgm-exporter, nvidia_gpu_exporter or Kepler (needs "
        "--since): energy, cost and CO2e by node and month, by pod, and by SLURM job that held all "
        "GPUs of its nodes. Rates are those of --rates, or this configuration.",
    )


def from_where() -> Callable[[F], F]:
    """Add the options that choose a data source, and how to connect to it."""
    heading = "Data source (default: this node's ledger)"
    return all_of(
        places(heading),
        option(
            "--ca",
            heading=heading,
            type=FILE,
            metavar="FILE",
            help="CA certificates to trust (PEM).",
        ),
        option(
            "--insecure",
            heading=heading,
            is_flag=True,
            help="Do not verify the server's certificate.",
        ),
        option(
            "--timeout",
            heading=heading,
            type=float,
            default=60.0,
            metavar="S",
            help="Timeout of each request, in seconds.",
        ),
    )


def stretch_of_time(heading: str) -> Callable[[F], F]:
    """Add --since and --until."""
    return all_of(
        option(
            "--since",
            heading=heading,
            metavar="TIME",
            help="Start, ISO 8601. A date means 00:00 UTC.",
        ),
        option(
            "--until",
            heading=heading,
            metavar="TIME",
            help="End (exclusive), ISO 8601. A date means 00:00 UTC.",
        ),
    )


def which_runs() -> Callable[[F], F]:
    """Add the options that select runs; each may be repeated."""
    heading = "Which runs"
    names = (
        ("experiment", "Only this experiment"),
        ("user", "Only this user"),
        ("account", "Only this account or namespace"),
        ("workload", "Only this job or pod: 1234, 1234_7, 1234.r1"),
        ("cluster", "Only this cluster, if the source has several"),
    )
    return all_of(
        stretch_of_time(heading),
        *(
            option(
                f"--{name}",
                heading=heading,
                metavar="NAME",
                multiple=True,
                help=f"{what}. Repeatable.",
            )
            for name, what in names
        ),
    )


def statement() -> Callable[[F], F]:
    """Add the options of a statement: its format, and the roles of runs."""
    heading = "The statement"
    return all_of(
        option(
            "--format",
            heading=heading,
            type=click.Choice((*FORMATS, PARQUET)),
            help="Output format: text (default), markdown, latex, json (see docs/schema), csv and "
            "parquet (one line per run), html (one self-contained page); and the forms hf (model "
            "card metadata), boamps, eu-gpai (Model Documentation Form), cyclonedx, spdx, sci.",
        ),
        option(
            "--length",
            heading=heading,
            type=click.Choice(LENGTHS),
            help="For text, markdown, latex and html: a sentence for an abstract, a short "
            "paragraph with one table for an appendix, or the full statement (default).",
        ),
        option(
            "--output",
            heading=heading,
            type=FILE,
            metavar="FILE",
            help="Write to FILE instead of standard output.",
        ),
        option(
            "--wait",
            heading=heading,
            is_flag=True,
            help="First wait (60 s at most) until this node's daemon has booked everything up to "
            "now; with --collected, collect from all nodes now.",
        ),
        option(
            "--rows",
            heading=heading,
            type=FILE,
            metavar="FILE",
            help="Also write the rows behind it, as CSV or (FILE.parquet) as Parquet, for "
            "`joulebook verify` to recompute every figure. They contain names of users and jobs.",
        ),
        option(
            "--sign",
            heading=heading,
            type=FILE,
            metavar="KEY",
            help="Sign the output with this SSH key (such as Ed25519): FILE.sig next to --output "
            "FILE.",
        ),
        option(
            "--project",
            heading=heading,
            metavar="NAME",
            default="",
            help="Name of the project that the selected experiments belong to; the statement's "
            "title.",
        ),
        option(
            "--final",
            heading=heading,
            metavar="RUN...",
            multiple=True,
            help="Runs whose models were published; all others are development. `*` matches "
            "anything. Default: the --best run, else every run with a stage other than "
            "development.",
        ),
        option(
            "--best",
            heading=heading,
            metavar="RUN",
            default="",
            help="Run whose result is reported (E_best).",
        ),
        option(
            "--runs",
            heading=heading,
            metavar="RUN...",
            multiple=True,
            help="Runs it was chosen from (E_sweep). `*` matches anything. Default: all.",
        ),
        option(
            "--exclude",
            heading=heading,
            metavar="RUN=WHY",
            multiple=True,
            help="Run that is not part of the sweep, and the reason. It still counts in E_project.",
        ),
        option(
            "--about",
            heading=heading,
            type=FILE,
            metavar="FILE",
            help="TOML file with what meters cannot know: title, region, params, flops, metric, "
            "...",
        ),
        option(
            "--rates",
            heading=heading,
            type=FILE,
            metavar="FILE",
            help="Recompute cost and CO2e with the [rates] of this file, and show the difference.",
        ),
    )
