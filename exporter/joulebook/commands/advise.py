"""Implement `joulebook advise`: where a lab could have saved in a month. It changes nothing."""

from __future__ import annotations

import json
import os
import sys
import time
from dataclasses import asdict

import click
import msgspec

from joulebook.commands.shared.advice_text import show_advice, show_missing
from joulebook.commands.shared.lab_client import lab_client
from joulebook.commands.shared.options import AT_LAB, Duration, Options, argument, command, option
from joulebook.config import Config, load
from joulebook.decoding import converter
from joulebook.errors import ConfigError
from joulebook.lab.advice.advise import KnownToCome, MonthAdviceOut, answer, of_month
from joulebook.lab.advice.later import WINDOW_H
from joulebook.lab.advice.read import EVERYBODY, Rows
from joulebook.lab.collected import months
from joulebook.lab.collected.database import opened
from joulebook.rates.build import make_poller
from joulebook.terminal import Screen

_LEAST_H, _MOST_H = 2, 72


def main(args: Options) -> int:
    """Print the advice of a month."""
    config = load(args.config, os.environ)
    found = _advice(config, args)
    screen = Screen()
    if args.json:
        screen.say(json.dumps(asdict(found), indent=2))
        return 0
    whose = f", account {args.account}" if args.account else ""
    screen.say(f"Where to save in {found.month}{whose}")
    screen.say()
    show_advice(found, screen)
    if not found.advice:
        Screen(sys.stderr).say(f"joulebook advise: nothing to save was found in {found.month}")
    show_missing(found, screen)
    return 0


def to_come(config: Config) -> KnownToCome:
    """Return what the rates that are cached on this machine say of the hours to come."""
    poller = make_poller(config, os.environ, read_only=True)
    return KnownToCome(poller.current, config.rates.price.kind)


_ANSWER = converter(MonthAdviceOut)


def _advice(config: Config, args: Options) -> MonthAdviceOut:
    month = _month(args)
    window_h = int(args.window // 3600)
    if not _LEAST_H <= window_h <= _MOST_H:
        raise ConfigError(f"--window: expected {_LEAST_H} h to {_MOST_H} h, as in 24h")
    if args.lab is not None or (config.lab.url and not config.collect.url):
        fields = {"sort": args.sort, "account": args.account, "window": f"{window_h}"}
        found = lab_client(args.lab, config).get(f"/api/v1/advice/{months.shown(month)}", fields)
        try:
            return _ANSWER(found)
        except msgspec.ValidationError as error:
            raise ConfigError(f"the lab server answers otherwise than expected: {error}") from None
    rows = Rows("o.account = ?", [args.account]) if args.account else EVERYBODY
    now_s = int(time.time())
    with opened(config.collect.url) as database, database.transaction(writes=False):
        made = of_month(database, month, now_s, rows, to_come(config), window_h)
    return answer(made, args.sort)


def _month(args: Options) -> int:
    now = months.month_of(int(time.time()))
    if args.month is None:
        return months.before(now) if args.last else now
    if args.last:
        raise ConfigError(f"--last and {args.month}: use only one of them")
    try:
        return months.parsed(args.month)
    except ValueError as error:
        raise ConfigError(str(error)) from None


@command()
@argument("month", required=False)
@option("--last", is_flag=True, help="The month before this one.")
@option("--lab", **AT_LAB, help="What you may see, from the lab server (default: lab.url).")
@option("--account", metavar="NAME", default="", help="Only of this account.")
@option(
    "--sort",
    type=click.Choice(["money", "kwh", "co2e"]),
    default="money",
    show_default=True,
    help="What the greatest saving is of.",
)
@option(
    "--window",
    type=Duration(),
    default=f"{WINDOW_H}h",
    show_default=True,
    help="From when a job could start until it must have ended, if it can wait.",
)
@option("--json", is_flag=True, help="Print one JSON object instead of text.")
def advise(options: Options) -> int:
    """Show where a lab could have saved in a month (default: this one), with the evidence.

    Reads the collected ledger or asks the lab server, and changes nothing.
    """
    return main(options)
