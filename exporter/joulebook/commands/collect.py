"""`joulebook collect`: many nodes' ledgers into one, as a service, once, or checked."""

from __future__ import annotations

import argparse
import logging
import os
from pathlib import Path

from joulebook import log
from joulebook.archive.balance import Checked, check
from joulebook.archive.engine import opened
from joulebook.collect.assembly import make_collector
from joulebook.collect.pages import CollectorPages
from joulebook.collect.service import Collector
from joulebook.commands.stopping import stop_asked
from joulebook.commands.text import Screen, shown
from joulebook.config import Config, load
from joulebook.exposition.server import Server

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
