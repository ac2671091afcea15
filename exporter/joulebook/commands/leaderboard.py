"""Implement `joulebook leaderboard` and `joulebook mlflow`."""

from __future__ import annotations

import functools
import json
import os
from pathlib import Path

import click

from joulebook.commands.report.options import from_where, stretch_of_time
from joulebook.commands.report.source import source, stretch
from joulebook.commands.shared.options import FILE, Options, argument, command, option
from joulebook.commands.shared.text import several
from joulebook.config import Config, load
from joulebook.core.report.dataset import Selection
from joulebook.core.sanitize import one_line
from joulebook.errors import ConfigError
from joulebook.lab.leaderboard import demo
from joulebook.lab.leaderboard.formats import (
    Leaderboard,
    as_csv,
    as_json,
    closing,
    html,
    markdown,
    png,
    svg,
)
from joulebook.lab.leaderboard.mlflow import ENERGY, read_runs, write_back
from joulebook.lab.leaderboard.model_card import read_card
from joulebook.lab.leaderboard.plot import draw
from joulebook.lab.leaderboard.ranked import Asked, ranked
from joulebook.lab.leaderboard.results import Result, read_csv
from joulebook.lab.leaderboard.tables import Sheet
from joulebook.lab.report.wording import listed
from joulebook.terminal import Column, Screen, wrap
from joulebook.untrusted_files import write_named


def main_mlflow(args: Options) -> int:
    """Write the figures, and print what was written."""
    config = load(args.config, os.environ)
    account = source(args, config).account(*stretch(args), Selection())
    written, left = write_back(args.uri, account, args.experiment, dry=args.dry_run)
    screen = Screen()
    if args.json:
        runs = [
            {"experiment": w.result.experiment, "run": w.result.run, "metrics": w.figures,
             "joined_by": w.join.value, "new": w.new}
            for w in written
        ]  # fmt: skip
        none = [{"run": each.result.run, "reason": each.why} for each in left]
        screen.say(json.dumps({"runs": runs, "without_energy": none}, indent=2))
        return 0
    rows = [
        [one_line(w.result.experiment, 60), one_line(w.result.title or w.result.run, 40),
         f"{w.figures[ENERGY]:.6g} kWh",
         w.join.value, "written" if w.new and not args.dry_run else "new" if w.new else "has it"]
        for w in written
    ]  # fmt: skip
    cols = (
        Column("EXPERIMENT", name=True), Column("RUN", name=True), Column("ENERGY", right=True),
        Column("JOINED BY", spare=2), Column("METRICS"),
    )  # fmt: skip
    for line in screen.table(cols, rows) if rows else ["No run has energy."]:
        screen.say(line)
    for each in left[:20]:
        for line in wrap(f"{one_line(each.result.name, 120)}: none ({each.why})", screen.width):
            screen.say(line)
    if len(left) > 20:
        screen.say(f"and {several(len(left) - 20, 'more run')} without energy")
    return 0


FORMATS = ("text", "markdown", "csv", "html", "json")


def main(args: Options) -> int:
    """Print the leaderboards, and write the plot."""
    if args.demo:
        found = Leaderboard(tuple(demo.boards(args.gpu or "")), notes=demo.NOTES, source="demo")
    else:
        found = _joined(args, load(args.config, os.environ))
    if args.plot is not None:
        _plot(found, args.plot)
    form = "json" if args.json else args.format
    screen = Screen()
    if form == "text":
        _say(found, screen)
    else:
        made = {
            "markdown": lambda: markdown(found),
            "csv": lambda: as_csv(found),
            "json": lambda: json.dumps(as_json(found), indent=2) + "\n",
            "html": lambda: html(found, svg(draw(found.boards)) if found.boards else ""),
        }[form]()
        screen.say(made.removesuffix("\n"))
    return 0


def _joined(args: Options, config: Config) -> Leaderboard:
    asked = Asked(tuple(args.experiment), args.metric, args.better or "", args.unit or "",
                  args.by or "")  # fmt: skip
    results = _results(args)
    return ranked(results, asked, lambda: source(args, config).account(*stretch(args), Selection()))


def _results(args: Options) -> list[Result]:
    found: list[Result] = []
    for path in args.results:
        found += (
            read_card(path) if path.suffix.lower() in {".md", ".yaml", ".yml"} else read_csv(path)
        )
    if args.mlflow:
        found += read_runs(args.mlflow, args.experiment)
    if not found:
        raise ConfigError("no results: give a file (CSV or a model card), --mlflow or --demo")
    return found


def _plot(found: Leaderboard, path: Path) -> None:
    if not found.boards:
        raise ConfigError("--plot: no result has energy, nothing to plot")
    picture = draw(found.boards)
    if path.suffix.lower() == ".svg":
        content = svg(picture).encode()
    elif path.suffix.lower() == ".png":
        content = png(picture)
    else:
        raise ConfigError(f"--plot {path}: expected a name ending in .svg or .png")
    try:
        write_named(path, content)
    except OSError as error:
        raise ConfigError(f"--plot {path}: {error.strerror}") from None


def _say(found: Leaderboard, screen: Screen) -> None:
    for board in found.boards:
        for sheet in found.sheets(board):
            _say_sheet(sheet, screen)
            screen.say()
    for note in closing(found):
        for line in wrap(one_line(note, 500), screen.width):
            screen.say(line)


def _say_sheet(sheet: Sheet, screen: Screen) -> None:
    screen.say(screen.paint(one_line(sheet.title, 200), "bold"))
    columns = [
        Column(one_line(name, 40), right=i in sheet.right, name=i not in sheet.right)
        for i, name in enumerate(sheet.columns)
    ]
    rows = [[one_line(cell, 80) for cell in row] for row in sheet.rows]
    for line in screen.table(columns, rows, dim=sheet.dim):
        screen.say(line)
    for note in sheet.notes:
        for line in wrap(one_line(note, 500), screen.width):
            screen.say(line)


_result_option = functools.partial(option, heading="Results")
_output_option = functools.partial(option, heading="Output")
_OF_RESULTS = ("mlflow", "experiment", "metric", "better", "unit", "by")
"""Options for results that are given."""

_EXPERIMENT = option(
    "--experiment", metavar="NAME", multiple=True, help="Only this experiment. Repeatable."
)


@command(epilog="See docs/leaderboard.md for how results are joined to energy, and what is ranked.")
@argument(
    "results",
    nargs=-1,
    type=FILE,
    metavar="[FILE]...",
    help="CSV with experiment,run,metric,value, or a Hugging Face model card (.md).",
)
@_result_option(
    "--mlflow",
    metavar="URI",
    default="",
    help="MLflow tracking store, such as sqlite:///mlflow.db.",
)
@_result_option(
    "--demo",
    is_flag=True,
    help="Use six real training tasks that are shipped with Joulebook.",
)
@_result_option(
    "--gpu",
    type=click.Choice(["v100", "a40"]),
    help="With --demo: only this GPU.",
)
@_EXPERIMENT
@_result_option(
    "--metric",
    metavar="NAME",
    default="",
    help="Metric to rank by, if there are several.",
)
@_result_option(
    "--better",
    type=click.Choice(["higher", "lower"]),
    help="Whether higher or lower values are better, if the metric's name does not imply it.",
)
@_result_option(
    "--unit",
    type=click.Choice(["percent", "ratio", "plain"]),
    help="Unit of the values: a point is 1 (percent), 0.01 (ratio) or 1 (plain).",
)
@_result_option(
    "--by",
    type=click.Choice(["run", "experiment"]),
    help="Rank runs by their own energy, or the best run of each experiment by the energy of all "
    "its runs.",
)
@_output_option(
    "--format",
    type=click.Choice(FORMATS),
    default="text",
    help="Output format: text (default), markdown, csv, html (one self-contained page), json.",
)
@_output_option("--json", is_flag=True, help="Same as --format json.")
@_output_option(
    "--plot",
    type=FILE,
    metavar="FILE",
    help="Plot the leaderboard to FILE.svg or FILE.png.",
)
@from_where()
@stretch_of_time("Time range")
def leaderboard(options: Options) -> int:
    """Rank results by accuracy and measured energy."""
    given = {
        "FILE": options.results,
        **{f"--{name}": getattr(options, name) for name in _OF_RESULTS},
    }
    ignored = [name for name, value in given.items() if value]
    if options.demo and ignored:
        raise click.UsageError(f"--demo has results of its own: it would ignore {listed(ignored)}")
    if options.gpu and not options.demo:
        raise click.UsageError("--gpu selects from the results of --demo: use it with --demo")
    return main(options)


@command()
@argument("uri", metavar="URI", help="Tracking store: sqlite:///mlflow.db, ./mlruns, https://...")
@_EXPERIMENT
@option("--dry-run", is_flag=True, help="Print what would be written, and write nothing.")
@option("--json", is_flag=True, help="Print one JSON object instead of text.")
@from_where()
@stretch_of_time("Time range")
def mlflow(options: Options) -> int:
    """Write measured energy to the runs of an MLflow store."""
    return main_mlflow(options)
