"""`joulebook config`: the configuration in force, every key explained."""

from __future__ import annotations

import argparse
import os

from joulebook.commands.text import Screen
from joulebook.config import load


def main(args: argparse.Namespace) -> int:
    """Print it as a TOML file."""
    Screen().say(load(args.config, os.environ).describe().rstrip("\n"))
    return 0
