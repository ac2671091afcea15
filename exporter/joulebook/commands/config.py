"""`joulebook config`: the configuration in force, every key explained."""

from __future__ import annotations

import argparse
import os
import sys

from joulebook.commands.text import Screen
from joulebook.config import load


def main(args: argparse.Namespace) -> int:
    """Print it as a TOML file, and what of it this version cannot do to standard error."""
    config = load(args.config, os.environ)
    Screen().say(config.describe().rstrip("\n"))
    errors = Screen(sys.stderr)
    for line in config.not_built():
        errors.say(f"joulebook config: {line}")
    return 0
