"""`joulebook mlflow`: measured figures written back to the runs of an MLflow tracking store."""

from __future__ import annotations

import argparse
import json
import os

from joulebook.commands.report_source import source, stretch
from joulebook.commands.text import Column, Screen, several, shown, table, wrap
from joulebook.config import load
from joulebook.core.account import Selection
from joulebook.report.writeback import ENERGY, write_back


def main(args: argparse.Namespace) -> int:
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
        [shown(w.result.experiment, 60), shown(w.result.run, 40), f"{w.figures[ENERGY]:.6g} kWh",
         w.join.value, "written" if w.new and not args.dry_run else "new" if w.new else "has it"]
        for w in written
    ]  # fmt: skip
    cols = (
        Column("EXPERIMENT", least=10), Column("RUN", least=8), Column("ENERGY", right=True),
        Column("JOINED BY", spare=1), Column("METRICS"),
    )  # fmt: skip
    for line in table(cols, rows, screen.width) if rows else ["No run has energy."]:
        screen.say(line)
    for each in left[:20]:
        for line in wrap(f"{shown(each.result.name, 120)}: none ({each.why})", screen.width):
            screen.say(line)
    if len(left) > 20:
        screen.say(f"and {several(len(left) - 20, 'more run')} without energy")
    return 0
