"""`joulebook collect`: many nodes' ledgers into one, as a service, once, or checked.

Defines the options of `collect`, `bill` and `relabel`, which share that ledger.
"""

from __future__ import annotations

import argparse
import logging
import os
from collections.abc import Callable
from pathlib import Path

from joulebook import log
from joulebook.commands.daemon.run import stop_asked
from joulebook.commands.shared.text import Screen, shown
from joulebook.config import Config, load
from joulebook.lab.collect.collector import Collector
from joulebook.lab.collect.metrics import CollectorPages, make_collector
from joulebook.lab.collected.check import Checked, check
from joulebook.lab.collected.database import opened
from joulebook.server.server import Server

Command = Callable[..., argparse.ArgumentParser]


def add(command: Command) -> None:
    """Add the three commands."""
    collect = command("collect", "many nodes' ledgers into one: sqlite or PostgreSQL")
    way = collect.add_mutually_exclusive_group()
    way.add_argument("--once", action="store_true", help="each node once, then end (for cron)")
    way.add_argument(
        "--check",
        action="store_true",
        help="compare what is collected with what the nodes' books say, and bills with both",
    )
    _bills(command)


def _bills(command: Command) -> None:
    """`bill` and `relabel`, which work on the collected ledger."""
    bill = command("bill", "what a month comes to by account, from the collected ledger")
    bill.add_argument(
        "action",
        nargs="?",
        choices=BILL_ACTIONS,
        metavar="ACTION",
        default="show",
        help="show a month (default); list the months (also: open); close one for ever; correct: "
        "take an amount from one owner and give it to another",
    )
    bill.add_argument(
        "month", nargs="?", metavar="MONTH",
        help="2026-11 (default: this month; of a correction: the one that is open)",
    )  # fmt: skip
    bill.add_argument("--last", action="store_true", help="the month before this one")
    bill.add_argument("--account", metavar="NAME", default="", help="only this one")
    bill.add_argument(
        "--format", choices=["text", "csv", "json"], default="text", help="default: text"
    )
    bill.add_argument(
        "--anyway",
        action="store_true",
        help="close: though nodes have not reported all of the month; "
        "correct: though the owner or the currency is a new one",
    )
    owner = "ACCOUNT, ACCOUNT/USER/EXPERIMENT or a remainder: '(unallocated)'"
    bill.add_argument("--from", dest="giver", default="", metavar="OWNER", help=f"correct: {owner}")
    bill.add_argument("--to", dest="taker", default="", metavar="OWNER", help="correct: the same")
    bill.add_argument("--cost", metavar="AMOUNT", help="correct: money, like 12.50")
    bill.add_argument(
        "--currency", metavar="CODE", default="", help="default: the one that is billed"
    )
    bill.add_argument(
        "--item", choices=["electricity", "hardware"], default="electricity", help="of the money"
    )
    bill.add_argument("--kwh", metavar="KWH", help="correct: energy")
    bill.add_argument("--gpu-hours", metavar="HOURS", help="correct: held time")
    bill.add_argument("--co2e-kg", metavar="KG", help="correct: CO2e")
    relabel = command("relabel", "give a workload to another experiment, as an entry of the bill")
    relabel.add_argument("workload", metavar="ID", help="job id or displayed name")
    relabel.add_argument("--experiment", metavar="NAME", help="the experiment that it is of")
    relabel.add_argument("--account", metavar="NAME", help="the account that pays for it")
    relabel.add_argument("--anyway", action="store_true", help="though the account is a new one")
    relabel.add_argument("--cluster", metavar="NAME", default="", help="where ids are not unique")
    for sub in (bill, relabel):
        sub.add_argument("--by", metavar="NAME", help="who does it (default: you)")
    bill.add_argument("--why", metavar="TEXT", help="correct: the reason, kept for ever")
    relabel.add_argument("--why", metavar="TEXT", required=True, help="the reason, kept for ever")


BILL_ACTIONS = ("show", "list", "open", "close", "correct")

logger = logging.getLogger(__name__)


def main(args: argparse.Namespace) -> int:
    """Collect; 1 if something could not be collected (`--once`) or does not balance (`--check`)."""
    config = load(args.config, os.environ)
    if args.check:
        with opened(config.collect.url) as database:
            found = check(database)
        _show(found, Screen())
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
        screen.say(f"{shown(node)}, ledger {ledger_id[:8]}: {lacking} changes not collected yet")
    for each in found.balances:
        if not each.holds:
            screen.say(
                f"{shown(each.node)}, ledger {each.ledger_id[:8]}, {shown(each.what)}: its books "
                f"say {each.booked}, here are {each.here}, difference {each.missed}"
            )
        elif each.missed:
            screen.say(
                f"{shown(each.node)}, ledger {each.ledger_id[:8]}, {shown(each.what)}: "
                f"{each.missed} had left the node for its age before it was asked"
            )
    for text in found.bills:
        screen.say(shown(text, 300))
    held = sum(each.holds for each in found.balances)
    screen.say(f"{held} of {len(found.balances)} balances hold, to the last unit")
