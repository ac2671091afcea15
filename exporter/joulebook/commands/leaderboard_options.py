"""The options of `joulebook leaderboard` and `joulebook mlflow`."""

from __future__ import annotations

import argparse
from pathlib import Path

from joulebook.commands import report_options

FORMATS = ("text", "markdown", "csv", "html", "json")


def add(board: argparse.ArgumentParser) -> None:
    """All options of `joulebook leaderboard`."""
    board.epilog = "docs/leaderboard.md says how results are joined to energy, and what is ranked."
    what = board.add_argument_group("results")
    what.add_argument(
        "results",
        nargs="*",
        type=Path,
        metavar="FILE",
        help="CSV with experiment,run,metric,value, or a Hugging Face model card (.md)",
    )
    what.add_argument(
        "--mlflow",
        metavar="URI",
        default="",
        help="an MLflow tracking store, such as sqlite:///mlflow.db",
    )
    what.add_argument(
        "--demo", action="store_true", help="six real training tasks that are shipped with it"
    )
    what.add_argument(
        "--gpu", choices=["v100", "a40"], default="", help="only this GPU of the demo"
    )
    what.add_argument(
        "--experiment",
        metavar="NAME",
        action="append",
        default=[],
        help="only this one; may be repeated",
    )
    what.add_argument(
        "--metric", metavar="NAME", default="", help="which metric, where there are several"
    )
    what.add_argument(
        "--better", choices=["higher", "lower"], default="", help="where its name does not say it"
    )
    what.add_argument(
        "--unit",
        choices=["percent", "ratio", "plain"],
        default="",
        help="what its values are: a point is 1 percent, 0.01, or 1",
    )
    what.add_argument(
        "--by",
        choices=["run", "experiment"],
        default="",
        help="rank runs by their own energy, or the best of each experiment by all that it took",
    )
    how = board.add_argument_group("how it is written")
    how.add_argument(
        "--format",
        choices=FORMATS,
        default="text",
        help="text (default), markdown, csv, html (one page that loads nothing), json",
    )
    how.add_argument("--json", action="store_true", help="the same as --format json")
    how.add_argument("--plot", type=Path, metavar="FILE", help="draw it: FILE.svg or FILE.png")
    _add_source(board)


def add_mlflow(mlflow: argparse.ArgumentParser) -> None:
    """All options of `joulebook mlflow`."""
    mlflow.add_argument(
        "uri", metavar="URI", help="the tracking store: sqlite:///mlflow.db, ./mlruns, https://..."
    )
    mlflow.add_argument(
        "--experiment",
        metavar="NAME",
        action="append",
        default=[],
        help="only this one; may be repeated",
    )
    mlflow.add_argument("--dry-run", action="store_true", help="write nothing, only say it")
    mlflow.add_argument("--json", action="store_true", help="one JSON object instead of text")
    _add_source(mlflow)


def _add_source(parser: argparse.ArgumentParser) -> None:
    report_options.add_source(parser)
    when = parser.add_argument_group("of which time")
    when.add_argument("--since", metavar="TIME", help="ISO 8601; a date is 00:00 UTC")
    when.add_argument("--until", metavar="TIME", help="the same; the end is not included")
