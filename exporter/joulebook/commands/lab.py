"""Implement `joulebook collect` and `lab`: copy many nodes' ledgers into one, and serve it.

Defines the options of `collect` and `lab`, which share that ledger.
"""

from __future__ import annotations

import functools
import logging
import os
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack

import click

from joulebook import log
from joulebook.commands.access import forgotten, granted
from joulebook.commands.shared.options import FILE, Options, argument, command, option
from joulebook.commands.shared.stopping import stop_asked
from joulebook.config import Config, load
from joulebook.core.sanitize import one_line
from joulebook.errors import ConfigError
from joulebook.lab.admin_comment import CommentWriter
from joulebook.lab.advice.metrics import AdviceGauges
from joulebook.lab.collect.collector import Collector
from joulebook.lab.collect.metrics import CollectorPages, CollectorServer, make_collector
from joulebook.lab.collected import archive, compact, months, renames
from joulebook.lab.collected.check import Checked, check
from joulebook.lab.collected.database import connect, opened
from joulebook.lab.rates_service import RatesPages
from joulebook.lab.serving.reader import ServingReader
from joulebook.lab.web.grants import Grants
from joulebook.lab.web.slurm import SlurmCoordinators
from joulebook.rates.build import make_poller
from joulebook.server.server import Server
from joulebook.terminal import Screen

logger = logging.getLogger(__name__)


def main(args: Options) -> int:
    """Collect; return 1 if a node fails (`--once`) or something does not balance (`--check`)."""
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
                f"(cluster {one_line(each.cluster) or 'none'}); --undo-rename {each.number} if it "
                "is another node"
            )
        return 0 if found.good else 1
    if args.export is not None or args.compact:
        return _by_month(args, config)
    log.setup(config.log.level, config.log.format)
    collector = make_collector(config.collect)
    if args.once:
        return 0 if _once(collector) else 1
    return _serve(config, collector)


def _by_month(args: Options, config: Config) -> int:
    now_s = int(time.time())
    with opened(config.collect.url) as database:
        written = archive.export(database, args.export, now_s) if args.export else ()
        for month, rows in written:
            counts = ", ".join(f"{count:,} {name}" for name, count in rows.items())
            Screen().say(f"{months.shown(month)}: {counts}")
        for month, ledgers, waiting in compact.compact(database, now_s) if args.compact else ():
            Screen().say(f"{months.shown(month)}: {ledgers} ledgers are compacted to days")
            if waiting:
                nodes = ", ".join(map(one_line, waiting[:5])) + ", ..." * (len(waiting) > 5)
                Screen().say(f"{len(waiting)} wait until all of the month is collected: {nodes}")
    return 0


def _once(collector: Collector) -> bool:
    good = collector.once()
    standings = collector.states.targets
    logger.info(
        "%d of %d targets collected, %d rows",
        sum(not each.problem for each in standings.values()),
        len(standings),
        collector.taken["rows"],
    )
    return good


def _serve(config: Config, collector: Collector) -> int:
    return _run(collector, stop_asked(), [CollectorServer(config, CollectorPages(collector))])


def _run(collector: Collector, stop: threading.Event, servers: Sequence[Server]) -> int:
    """Collect and serve until told to stop."""
    with ExitStack() as started:
        for server in servers:
            server.start()
            started.callback(server.stop)
        ports = " and ".join(str(server.port) for server in servers)
        logger.info("collecting; serving on port %s", ports)
        collector.run(stop)
    return 0


def serve_lab(config: Config) -> int:
    """Collect, serve pages, API and rates, until told to stop."""
    try:
        from joulebook.lab.notices.send import NoticeSender  # noqa: PLC0415 - of an extra
        from joulebook.lab.web.server import LabServer, make_lab  # noqa: PLC0415 - of an extra
    except ImportError as error:
        raise ConfigError(
            f"joulebook lab needs {error.name}: pip install 'joulebook[lab]'"
        ) from None
    log.setup(config.log.level, config.log.format)
    collector, stop = make_collector(config.collect), stop_asked()
    poller = make_poller(config, os.environ)
    # The tables are there before the first page is asked for.
    with opened(config.collect.url, create=True):
        pass
    coordinators = SlurmCoordinators()
    rates, lab = RatesPages(poller), make_lab(config, poller, coordinators)
    connected = functools.partial(connect, config.collect.url)
    reader = ServingReader(config.serving, connected) if config.serving.reads else None
    advice, served = AdviceGauges(connected, lab.to_come), lab.serving(reader)
    pages = CollectorPages(collector, lambda: (*rates.families(), *served(), *advice.families()))
    servers: list[Server] = [LabServer(lab, pages, rates)]
    if config.collect.listen:
        servers.append(CollectorServer(config, pages))
    tasks: dict[str, Callable[[], None]] = {"advice": functools.partial(advice.run, stop)}
    alone = (stop, config.collect.every_s, lambda: collector.leads)
    if reader is not None:
        tasks["serving"] = functools.partial(reader.run, stop, lambda: collector.leads)
    if config.lab.slurm_coordinators:
        tasks["coordinators"] = functools.partial(coordinators.run, stop)
    if config.lab.admin_comment:
        tasks["admin-comment"] = functools.partial(CommentWriter(connected).run, *alone)
    if config.lab.notices.users or config.lab.notices.accounts:
        tasks["notices"] = functools.partial(NoticeSender(config, connected).run, *alone)
    for name, task in tasks.items():
        threading.Thread(target=task, name=name, daemon=True).start()
    poller.start()
    try:
        return _run(collector, stop, servers)
    finally:
        poller.stop()


def _show_notices(config: Config, screen: Screen) -> int:
    from joulebook.lab.notices.send import NoticeSender  # noqa: PLC0415 - of an extra

    found = NoticeSender(config, functools.partial(connect, config.collect.url)).pending()
    for notice in found:
        screen.say(f"to {', '.join(notice.to)}: {notice.subject}\n\n{notice.text}")
    screen.say(f"{len(found)} to send")
    return 0


def _show(found: Checked, screen: Screen) -> None:
    for node, ledger_id, lacking in found.behind:
        screen.say(f"{one_line(node)}, ledger {ledger_id[:8]}: {lacking} changes not collected yet")
    for each in found.balances:
        if not each.holds:
            screen.say(
                f"{one_line(each.node)}, ledger {each.ledger_id[:8]}, {one_line(each.what)}: its "
                f"ledger has {each.booked}, collected {each.here}, difference {each.missed}"
            )
        elif each.missed:
            screen.say(
                f"{one_line(each.node)}, ledger {each.ledger_id[:8]}, {one_line(each.what)}: "
                f"{each.missed} expired on the node before it was collected"
            )
    for text in found.bills:
        screen.say(one_line(text, 300))
    held = sum(each.holds for each in found.balances)
    screen.say(f"{held} of {len(found.balances)} balances are exact")


@command()
@option("--once", is_flag=True, help="Collect from each node once, then exit (for cron).")
@option(
    "--check",
    is_flag=True,
    help="Compare the collected ledger and the bills with the nodes' own totals.",
)
@option(
    "--compact",
    is_flag=True,
    help="Keep closed months by workload and day, in an eighth of the space. Bills and statements "
    "stay to the unit; hours and other rates of these months then need an export.",
)
@option(
    "--export",
    type=FILE,
    metavar="DIR",
    help="Write the quarter hours of each month to Parquet files in DIR (with --compact: first).",
)
@option(
    "--undo-rename",
    type=int,
    default=0,
    metavar="NUMBER",
    help="Treat a node that was taken for a renamed one (see --check) as a separate node.",
)
def collect(options: Options) -> int:
    """Collect the ledgers of many nodes into one SQLite or PostgreSQL database."""
    apart = {
        "--once": options.once,
        "--check": options.check,
        "--undo-rename": options.undo_rename,
        "--compact or --export": options.compact or options.export is not None,
    }
    if len(both := [name for name, given in apart.items() if given]) > 1:
        raise click.UsageError(f"{both[0]} and {both[1]}: use only one of them")
    return main(options)


@command()
@argument(
    "action",
    type=click.Choice(["forget"]),
    required=False,
    metavar="[forget",
    help="forget: replace the name of a user by a pseudonym, everywhere and for ever.",
)
@argument("name", required=False, metavar="USER]", help="The user to forget.")
@option(
    "--link",
    is_flag=True,
    help="Print a link that lets a browser in once, as the user who runs this, and exit.",
)
@option(
    "--add-token",
    metavar="NAME",
    default="",
    help="Print a new token for a program, and exit: it acts as --user.",
)
@option("--revoke-token", metavar="NAME", default="", help="End the tokens of that name, and exit.")
@option("--user", metavar="NAME", default="", help="With --add-token: the user that it acts as.")
@option(
    "--days",
    type=click.IntRange(1, 3650),
    default=365,
    show_default=True,
    help="With --add-token: how long the token is good.",
)
@option(
    "--notices",
    is_flag=True,
    help="Print the statements and notices that would go out now, and exit.",
)
def lab(options: Options) -> int:
    """Serve pages and an API over the collected ledger, and collect from the nodes."""
    config = load(options.config, os.environ)
    if options.notices:
        return _show_notices(config, Screen())
    if options.action:
        if not options.name:
            raise click.UsageError("forget needs a USER")
        with opened(config.collect.url, create=True) as database:
            return forgotten(database, config, options.name, Screen())
    if options.add_token and not options.user:
        raise click.UsageError("--add-token needs --user NAME")
    if not (options.link or options.add_token or options.revoke_token):
        return serve_lab(config)
    with opened(config.collect.url, create=True) as database:
        return granted(Grants(database), config, options, Screen())
