"""`joulebook leaderboard`: what results cost, and what each increment cost."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Sequence
from pathlib import Path

from joulebook.commands.report_source import source, stretch
from joulebook.commands.text import Column, Screen, shown, table, wrap
from joulebook.config import Config, load
from joulebook.core.account import Selection
from joulebook.core.leaderboard import Entrant, Expected, Metric, against_budget, boards
from joulebook.errors import ConfigError
from joulebook.report.leaderboard import demo
from joulebook.report.leaderboard.card import read_card
from joulebook.report.leaderboard.joining import Joined, by_experiment, by_run
from joulebook.report.leaderboard.picture import draw
from joulebook.report.leaderboard.png import png
from joulebook.report.leaderboard.results import Result, metric_of, pick, read_csv
from joulebook.report.leaderboard.sheet import SAME_HARDWARE, Sheet
from joulebook.report.leaderboard.svg import svg
from joulebook.report.leaderboard.tracking import read_runs
from joulebook.report.leaderboard.written import (
    Leaderboard,
    as_csv,
    as_json,
    closing,
    html,
    markdown,
)
from joulebook.report.wording import nearest


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
    metric, notes = metric_of(results[0].metric, (r.value for r in results), args.better, args.unit)
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
        _expected(metric, results, runs),
        tuple(joined.left),
        (*said, f"Energy: {account.source}", *account.warnings),
        account.source,
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


def _expected(
    metric: Metric, results: Sequence[Result], runs: Joined
) -> dict[str, dict[str, list[Expected]]]:
    """By GPU model and experiment, from the runs that have energy."""
    of_run = {result.name: result.experiment for result in results}
    found: dict[str, dict[str, list[Expected]]] = {}
    for gpu in {entrant.gpu for entrant in runs.entrants}:
        groups: dict[str, list[Entrant]] = {}
        for entrant in runs.entrants:
            if entrant.gpu == gpu:
                groups.setdefault(of_run[entrant.name], []).append(entrant)
        several = {
            name: against_budget(metric, group)
            for name, group in sorted(groups.items())
            if name and len(group) > 1
        }
        if several:
            found[gpu] = several
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
    head, *lines = table(columns, rows, screen.width)
    screen.say(screen.paint(head, "dim"))
    for n, line in enumerate(lines):
        screen.say(screen.paint(line, "dim") if n in sheet.dim else line)
    for note in sheet.notes:
        for line in wrap(shown(note, 500), screen.width):
            screen.say(line)
