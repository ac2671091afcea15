"""`joulebook collect`: many nodes' ledgers into one, as a service, once, or checked.

Defines the options of `collect`, `bill` and `relabel`, which share that ledger.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path

import click

from joulebook import log
from joulebook.commands.bill import main as bill_main
from joulebook.commands.bill import main_relabel
from joulebook.commands.daemon.run import stop_asked
from joulebook.commands.shared.options import Options, argument, command, option
from joulebook.config import Config, load
from joulebook.core.sanitize import one_line
from joulebook.lab.collect.collector import Collector
from joulebook.lab.collect.metrics import CollectorPages, make_collector
from joulebook.lab.collected import renames
from joulebook.lab.collected.check import Checked, check
from joulebook.lab.collected.database import opened
from joulebook.server.server import Server
from joulebook.terminal import Screen

BILL_ACTIONS = ("show", "list", "open", "close", "correct")

logger = logging.getLogger(__name__)


def main(args: Options) -> int:
    """Collect; 1 if something could not be collected (`--once`) or does not balance (`--check`)."""
    config = load(args.config, os.environ)
    if args.undo_rename:
        with opened(config.collect.url) as database:
            renames.undo(database, args.undo_rename)
        return 0
    if args.check:
        with opened(config.collect.url) as database:
            found, renamed = check(database), renames.known(database)
        _show(found, Screen())
        for each in renamed:
            Screen().say(
                f"rename {each.number}, ledger {each.ledger_id[:8]}: {one_line(each.new_node)} "
                f"(cluster {one_line(each.new_cluster) or 'none'}) was {one_line(each.node)} "
                f"(cluster {one_line(each.cluster) or 'none'}); --undo-rename {each.number} if "
                "it is another"
            )
        return 0 if found.good else 1
    log.setup(config.log.level, config.log.format)
    collector = make_collector(config.collect)
    if args.once:
        return 0 if _once(collector) else 1
    return _serve(config, collector)


def _once(collector: Collector) -> bool:
    good = collector.once()
    standings = collector.roll.targets
    logger.info(
        "%d of %d targets collected, %d rows",
        sum(not each.problem for each in standings.values()),
        len(standings),
        collector.taken["rows"],
    )
    return good


def _serve(config: Config, collector: Collector) -> int:
    stop = stop_asked()
    web_config = Path(config.server.web_config) if config.server.web_config else None
    server = CollectorServer(config.collect.listen, CollectorPages(collector), web_config)
    server.start()
    logger.info("collecting; /metrics on port %d", server.port)
    try:
        collector.run(stop)
    finally:
        server.stop()
    return 0


class CollectorServer(Server):
    """The daemon's server: what it shows here are addresses of nodes."""

    reveals = "addresses of nodes"


def _show(found: Checked, screen: Screen) -> None:
    for node, ledger_id, lacking in found.behind:
        screen.say(f"{one_line(node)}, ledger {ledger_id[:8]}: {lacking} changes not collected yet")
    for each in found.balances:
        if not each.holds:
            screen.say(
                f"{one_line(each.node)}, ledger {each.ledger_id[:8]}, {one_line(each.what)}: its "
                f"books say {each.booked}, here are {each.here}, difference {each.missed}"
            )
        elif each.missed:
            screen.say(
                f"{one_line(each.node)}, ledger {each.ledger_id[:8]}, {one_line(each.what)}: "
                f"{each.missed} had left the node for its age before it was asked"
            )
    for text in found.bills:
        screen.say(one_line(text, 300))
    held = sum(each.holds for each in found.balances)
    screen.say(f"{held} of {len(found.balances)} balances hold, to the last unit")


_BY = option("--by", metavar="NAME", help="Who does it (default: you).")


@command()
@option("--once", is_flag=True, help="Each node once, then end (for cron).")
@option(
    "--check",
    is_flag=True,
    help="Compare what is collected with what the nodes' books say, and bills with both.",
)
@option(
    "--undo-rename",
    type=int,
    default=0,
    metavar="NUMBER",
    help="Say that a node that was taken for a renamed one (see --check) is another one.",
)
def collect(options: Options) -> int:
    """Bring many nodes' ledgers into one: sqlite or PostgreSQL."""
    if options.once and options.check:
        raise click.UsageError("--once and --check: expected one of them")
    return main(options)


@command()
@argument(
    "action",
    type=click.Choice(BILL_ACTIONS),
    default="show",
    metavar="[ACTION]",
    help="Show a month (default); list the months (also: open); close one for ever; correct: take "
    "an amount from one owner and give it to another.",
)
@argument(
    "month",
    required=False,
    metavar="[MONTH]",
    help="2026-11 (default: this month; of a correction: the one that is open).",
)
@option("--last", is_flag=True, help="The month before this one.")
@option("--account", metavar="NAME", default="", help="Only this one.")
@option("--format", type=click.Choice(["text", "csv", "json"]), default="text", show_default=True)
@option(
    "--anyway",
    is_flag=True,
    help="close: though nodes have not reported all of the month; correct: though the owner or "
    "the currency is a new one.",
)
@option(
    "--from",
    "giver",
    default="",
    metavar="OWNER",
    help="correct: ACCOUNT, ACCOUNT/USER/EXPERIMENT or a remainder: '(unallocated)'.",
)
@option("--to", "taker", default="", metavar="OWNER", help="correct: the same.")
@option("--cost", metavar="AMOUNT", help="correct: money, like 12.50.")
@option("--currency", metavar="CODE", default="", help="Default: the one that is billed.")
@option(
    "--item",
    type=click.Choice(["electricity", "hardware"]),
    default="electricity",
    help="Of the money.",
)
@option("--kwh", metavar="KWH", help="correct: energy.")
@option("--gpu-hours", metavar="HOURS", help="correct: held time.")
@option("--co2e-kg", metavar="KG", help="correct: CO2e.")
@_BY
@option("--why", metavar="TEXT", help="correct: the reason, kept for ever.")
def bill(options: Options) -> int:
    """Say what a month comes to by account, from the collected ledger."""
    return bill_main(options)


@command()
@argument("workload", metavar="ID", help="Job id or displayed name.")
@option("--experiment", metavar="NAME", help="The experiment that it is of.")
@option("--account", metavar="NAME", help="The account that pays for it.")
@option("--anyway", is_flag=True, help="Though the account is a new one.")
@option("--cluster", metavar="NAME", default="", help="Where ids are not unique.")
@_BY
@option("--why", metavar="TEXT", required=True, help="The reason, kept for ever.")
def relabel(options: Options) -> int:
    """Give a workload to another experiment, as an entry of the bill."""
    return main_relabel(options)
