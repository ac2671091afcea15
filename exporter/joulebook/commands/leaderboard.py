"""`joulebook leaderboard` and `mlflow`: what results cost, and figures written back to MLflow."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from joulebook.commands.report import options
from joulebook.commands.report.source import source, stretch
from joulebook.commands.shared.text import Column, Screen, several, shown, table, wrap
from joulebook.config import Config, load
from joulebook.core.report.dataset import ReportData, Selection
from joulebook.core.report.leaderboard import (
    ComparedMetric,
    Entrant,
    Expected,
    Join,
    against_budget,
    boards,
)
from joulebook.errors import ConfigError
from joulebook.lab.leaderboard import demo
from joulebook.lab.leaderboard.formats import Leaderboard, as_csv, as_json, closing, html, markdown
from joulebook.lab.leaderboard.join import Joined, by_experiment, by_run
from joulebook.lab.leaderboard.mlflow import ENERGY, read_runs, write_back
from joulebook.lab.leaderboard.model_card import read_card
from joulebook.lab.leaderboard.plot import draw
from joulebook.lab.leaderboard.png import png
from joulebook.lab.leaderboard.results import Result, metric_of, pick, read_csv
from joulebook.lab.leaderboard.svg import svg
from joulebook.lab.leaderboard.tables import SAME_HARDWARE, Sheet
from joulebook.lab.report.sources import FOREVER_S
from joulebook.lab.report.wording import nearest


def main_mlflow(args: argparse.Namespace) -> int:
    """Write, and say what was written."""
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
        [shown(w.result.experiment, 60), shown(w.result.title or w.result.run, 40),
         f"{w.figures[ENERGY]:.6g} kWh",
         w.join.value, "written" if w.new and not args.dry_run else "new" if w.new else "has it"]
        for w in written
    ]  # fmt: skip
    cols = (
        Column("EXPERIMENT", least=10), Column("RUN", least=8), Column("ENERGY", right=True),
        Column("JOINED BY", spare=1), Column("METRICS"),
    )  # fmt: skip
    for line in table(cols, rows, screen.table_width) if rows else ["No run has energy."]:
        screen.say(line)
    for each in left[:20]:
        for line in wrap(f"{shown(each.result.name, 120)}: none ({each.why})", screen.width):
            screen.say(line)
    if len(left) > 20:
        screen.say(f"and {several(len(left) - 20, 'more run')} without energy")
    return 0


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
    options.add_source(parser)
    when = parser.add_argument_group("of which time")
    when.add_argument("--since", metavar="TIME", help="ISO 8601; a date is 00:00 UTC")
    when.add_argument("--until", metavar="TIME", help="the same; the end is not included")


def main(args: argparse.Namespace) -> int:
    """Print the boards, and write the plot."""
    if args.demo:
        found = Leaderboard(tuple(demo.boards(args.gpu)), notes=demo.NOTES, source="demo")
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


def _joined(args: argparse.Namespace, config: Config) -> Leaderboard:
    results = _results(args)
    if args.experiment:
        there = {r.experiment for r in results} - {""}
        for name in sorted(set(args.experiment) - there):
            has = nearest(name, there) or "none at all"
            raise ConfigError(f"--experiment {shown(name, 60)}: no result is of it; there is {has}")
        results = [r for r in results if r.experiment in args.experiment]
    results = pick(results, args.metric)
    usable = [r for r in results if not r.problem]
    if not usable:
        raise ConfigError(f"{results[0].problem}: no result has a value")
    metric, notes = metric_of(usable[0].metric, (r.value for r in usable), args.better, args.unit)
    account = ReportData("the results' own files", 0, FOREVER_S)
    if any(r.energy_uj is None for r in usable):
        account = source(args, config).account(*stretch(args), Selection())
    how = args.by or ("run" if all(r.run for r in results) else "experiment")
    runs = by_run([r for r in results if r.run or r.energy_uj is not None], account)
    joined = runs if how == "run" else by_experiment(metric, results, account)
    made = boards("", metric, joined.entrants)
    said = [f"{metric.name}: {note}" for note in notes]
    if len(made) > 1:
        said.append(SAME_HARDWARE)
    said += [f"not known from {account.source}: {m.value}" for m in account.unknown]
    return Leaderboard(
        tuple(made),
        _expected(metric, runs),
        tuple(joined.left),
        (*said, *_sources(joined.entrants, account), *account.warnings),
        account.source,
    )


def _sources(entrants: Sequence[Entrant], account: ReportData) -> Iterator[str]:
    """Whose figures the energies are."""
    given = sum(each.join is Join.GIVEN for each in entrants)
    if given < len(entrants) or not entrants:
        yield f"Energy: {account.source}"
    if given:
        yield (
            f"Energy of {several(given, 'result')}: as it stands in the authors' files, not "
            "measured here"
        )


def _results(args: argparse.Namespace) -> list[Result]:
    found: list[Result] = []
    for path in args.results:
        found += (
            read_card(path) if path.suffix.lower() in {".md", ".yaml", ".yml"} else read_csv(path)
        )
    if args.mlflow:
        found += read_runs(args.mlflow, args.experiment)
    if not found:
        raise ConfigError("no results: name a file (CSV or a model card), or --mlflow; or --demo")
    return found


def _expected(metric: ComparedMetric, runs: Joined) -> dict[str, dict[str, list[Expected]]]:
    """By GPU model and experiment, from the runs that have all of their energy."""
    found: dict[str, dict[str, list[Expected]]] = {}
    for gpu in {entrant.gpu for entrant in runs.entrants}:
        groups: dict[str, list[Entrant]] = {}
        for entrant in runs.entrants:
            if entrant.gpu == gpu and not entrant.partial:
                groups.setdefault(entrant.experiment, []).append(entrant)
        made = {
            name: against_budget(metric, group)
            for name, group in sorted(groups.items())
            if name and len(group) > 1
        }
        if made:
            found[gpu] = made
    return found


def _plot(found: Leaderboard, path: Path) -> None:
    if not found.boards:
        raise ConfigError("--plot: no result has energy, there is nothing to draw")
    picture = draw(found.boards)
    if path.suffix.lower() == ".svg":
        content = svg(picture).encode()
    elif path.suffix.lower() == ".png":
        content = png(picture)
    else:
        raise ConfigError(f"--plot {path}: expected a name that ends in .svg or .png")
    try:
        path.write_bytes(content)
    except OSError as error:
        raise ConfigError(f"--plot {path}: {error.strerror}") from None


def _say(found: Leaderboard, screen: Screen) -> None:
    for board in found.boards:
        for sheet in found.sheets(board):
            _say_sheet(sheet, screen)
            screen.say()
    for note in closing(found):
        for line in wrap(shown(note, 500), screen.width):
            screen.say(line)


def _say_sheet(sheet: Sheet, screen: Screen) -> None:
    screen.say(screen.paint(shown(sheet.title, 200), "bold"))
    columns = [
        Column(shown(name, 40), right=i in sheet.right, least=0 if i in sheet.right else 12)
        for i, name in enumerate(sheet.columns)
    ]
    rows = [[shown(cell, 80) for cell in row] for row in sheet.rows]
    head, *lines = table(columns, rows, screen.table_width)
    screen.say(screen.paint(head, "dim"))
    for n, line in enumerate(lines):
        screen.say(screen.paint(line, "dim") if n in sheet.dim else line)
    for note in sheet.notes:
        for line in wrap(shown(note, 500), screen.width):
            screen.say(line)
