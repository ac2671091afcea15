"""`joulebook relabel`: a workload goes to another experiment, as an entry, never as an edit."""

from __future__ import annotations

import argparse
import os

from joulebook.archive.engine import opened
from joulebook.commands.bill import relabel
from joulebook.commands.text import Screen
from joulebook.config import load


def main(args: argparse.Namespace) -> int:
    """Relabel one workload in the collected ledger."""
    config = load(args.config, os.environ)
    with opened(config.collect.url) as database:
        return relabel(database, args, Screen())
