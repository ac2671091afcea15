"""`joulebook report` as a statement: ask the source, sacct and the rates, and write the format."""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

from joulebook.commands import report_source
from joulebook.commands.report_names import refuse_unknown
from joulebook.commands.text import Screen
from joulebook.config import Config, load
from joulebook.core.effort import Choice
from joulebook.errors import ConfigError
from joulebook.report import statement, states
from joulebook.report.about import About, read_about
from joulebook.report.experiments import charged_anew
from joulebook.report.figures import Statement
from joulebook.report.formats import renderer


def write(args: argparse.Namespace, config: Config) -> int:
    """Write the statement that the options ask for."""
    render = renderer(args.format or "text")
    text = render(make(args, config))
    if args.output is None:
        for line in text.splitlines():
            Screen().say(line)
        return 0
    _save(args.output, text)
    return 0


def make(args: argparse.Namespace, config: Config) -> Statement:
    """The statement that the options ask for. Raises a `JoulebookError`."""
    about = read_about(args.about)
    source = report_source.source(args, config)
    span, selection = report_source.stretch(args), report_source.selection(args)
    account = source.account(*span, selection)
    refuse_unknown(source, span, selection, account)
    anew = None
    if args.rates is not None:
        recharged = charged_anew(account, load(args.rates, {}).rates, os.environ)
        anew = statement.Anew(str(args.rates), *recharged)
    known, said = states.ask(account.workloads.values(), config.report.sacct)
    zone = (config if args.rates is None else load(args.rates, {})).rates.zone
    told = statement.Told(time.time(), known, said, config.report, zone)
    return statement.make(account, about, _choice(args, about), told, anew)


def _choice(args: argparse.Namespace, about: About) -> Choice:
    excluded = dict(about.exclude)
    for text in args.exclude:
        name, is_told, why = text.partition("=")
        if not name or not is_told or not why.strip():
            raise ConfigError(f"--exclude {text}: expected RUN=WHY, as in 105='wrong data'")
        excluded[name] = why.strip()
    return Choice(args.best or about.best, tuple(args.runs) or about.sweep, excluded)


def _save(path: Path, text: str) -> None:
    """Whole or not at all: what stood there stays until the new text is written."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        draft.write_text(text, encoding="utf-8", newline="")
        draft.replace(path)
    except OSError as error:
        draft.unlink(missing_ok=True)
        raise ConfigError(f"--output {path}: cannot be written: {error.strerror}") from None
    Screen(sys.stderr).say(f"joulebook report: wrote {path}")
