"""Checks of the daemon on this node, over HTTP, and of the collection of its postings."""

from __future__ import annotations

import time
from collections.abc import Iterator

from joulebook import __version__
from joulebook.commands.daemon.client import Unreachable, daemon_here, described, url_of
from joulebook.commands.doctor.checks import Check, Finding, Site, fail, nothing, ok, warn
from joulebook.commands.shared.text import seconds, several
from joulebook.commands.top.scrape import NodeScrape, read_board
from joulebook.config import Config, parse_listen
from joulebook.config.lab import Collect
from joulebook.errors import ConfigError, InputError, LedgerError
from joulebook.lab.collect.client import NodeClient
from joulebook.lab.collected.bills import reported
from joulebook.lab.collected.database import opened
from joulebook.node.assembly.node import can_measure
from joulebook.server.auth import Tokens

_UNAUTHORIZED = 401


def process(site: Site) -> Iterator[Finding]:
    """Check that a daemon holds the ledger; if not, whether one could."""
    if site.daemon is not None:
        yield ok(f"{described(site.daemon)} holds the ledger")
    elif base := _elsewhere(site.config):
        yield ok(f"the daemon at {base} uses a ledger other than {site.ledger}: a demo?")
    elif site.config_problem or can_measure(site.config, site.sysfs / "bus/pci/devices"):
        yield warn(
            f"no daemon is running on {site.ledger}: nothing is measured",
            f"Start it: {_how_to_start(site)}.",
        )
    else:
        yield fail(
            "no daemon is running, and `joulebook run` would not start: nothing to measure (no "
            "NVIDIA GPU, no driver library, no other sensor enabled)",
            "Install the driver if there is a GPU; `joulebook run --demo` replays a recorded "
            "trace.",
        )


def _elsewhere(config: Config) -> str:
    """Return the URL of a daemon with another ledger; empty if there is none."""
    daemon = daemon_here(config)
    try:
        return daemon.base if daemon.get("/healthz").status == 200 else ""
    except Unreachable:
        return ""


def _how_to_start(site: Site) -> str:
    unit = "lib/systemd/system/joulebook.service"
    if any(
        site.at(place).exists()
        for place in (f"/usr/{unit}", "/etc/systemd/system/joulebook.service")
    ):
        return "`systemctl enable --now joulebook`"
    return "`joulebook run`, as root"


def reach(site: Site) -> Iterator[Finding]:
    """Check who can scrape the daemon, and what protects the user names it exposes."""
    server = site.config.server
    host = parse_listen(server.listen).host
    if host == "localhost" or host.startswith("127.") or host == "::1":
        yield nothing(
            f"server.listen = {server.listen!r}: only this machine can scrape it; to allow "
            'others, set listen = ":9816"'
        )
    elif not server.web_config and site.config.privacy.users == "plain":
        yield warn(
            f"server.listen = {server.listen!r}: anyone who can reach it can read user names",
            "Protect it with server.web_config (TLS, passwords), a firewall, or [privacy].",
        )


def ready(site: Site) -> Iterator[Finding]:
    """Check /readyz."""
    daemon = daemon_here(site.config)
    try:
        answer = daemon.get("/readyz")
    except Unreachable as error:
        if site.daemon is None:
            yield nothing(str(error))
        else:
            yield fail(str(error), "See its log, and server.listen.")
        return
    said = answer.text.strip()
    if answer.status == 200 and said == "ready":
        yield ok(f"{daemon.base}/readyz: ready")
    elif answer.status == 200:  # it is configured to wait for sensors
        yield warn(
            f"{daemon.base}/readyz: {said}", "Nothing to do if this node has no meter at all."
        )
    else:
        for line in said.splitlines() or [f"status {answer.status}"]:
            yield fail(f"{daemon.base}/readyz: {line}", "See its log.")


def measuring(site: Site) -> Iterator[Finding]:
    """Check sensors, gaps and balances in /metrics."""
    try:
        answer = daemon_here(site.config).get("/metrics")
        if answer.status == _UNAUTHORIZED:
            yield nothing("/metrics requires a password: sensors are not checked")
            return
        if answer.status != 200:
            yield fail(f"/metrics returned status {answer.status}", "See the daemon's log.")
            return
        board = read_board(answer.text)
    except Unreachable:
        return  # reported by `ready`
    except InputError as error:
        yield fail(f"{url_of(site.config)}: {error}", "Another program is using this port.")
        return
    yield from _told(board, waiting=site.config.daemon.wait_for_sensors)


def _told(board: NodeScrape, *, waiting: bool) -> Iterator[Finding]:
    if board.version != __version__:
        yield warn(
            f"the daemon is version {board.version}, this is {__version__}",
            "Restart the daemon after an upgrade.",
        )
    if not board.sensors and not waiting:
        yield fail("the daemon has no sensor", "Enable one in [sensors].")
    for sensor, up in board.sensors.items():
        yield (
            ok(f"sensor {sensor} is up")
            if up
            else fail(f"sensor {sensor} is down", "See the daemon's log for the reason.")
        )
    if board.gaps_s > 0:
        yield nothing(
            f"{seconds(board.gaps_s)} of gaps over {several(len(board.gpus), 'GPU')} since the "
            "ledger began (joulebook_gap_seconds_total has the reasons)"
        )
    if board.sums.balanced:
        yield ok("exposed metrics balance")
    else:
        yield fail(
            f"exposed metrics are off by {board.sums.difference_j:,.2f} J",
            "Report this as a bug, with the text of /metrics.",
        )


CHECKS: tuple[Check, ...] = (process, reach, ready, measuring)


_LATE_S = 86_400
_SHOWN = 10


def page(site: Site) -> Iterator[Finding]:
    """Check that collectors can read this node's ledger."""
    if not site.config.server.token_file:
        yield nothing("server.token_file is not set: nobody can collect from this node")
        return
    try:
        Tokens(site.at(site.config.server.token_file))
    except ConfigError as error:
        yield fail(str(error), "Create a token with: openssl rand -hex 32")
        return
    local = site.config.server.listen.startswith(("127.", "localhost", "[::1]"))
    if local:
        yield warn(
            f"/v1/postings is on, but server.listen = {site.config.server.listen} is reachable "
            "from this machine only",
            'Set server.listen = ":9816", or run the collector here.',
        )
    else:
        yield ok("/v1/postings is on, for collectors with the token")


def collector(site: Site) -> Iterator[Finding]:
    """Check that the collected ledger is usable and has recent data of every node."""
    settings = site.config.collect
    if settings == Collect():
        return
    if settings.token_file:
        try:
            NodeClient(settings)
        except ConfigError as error:
            yield fail(str(error))
    try:
        with opened(settings.url) as database:
            nodes = reported(database)
            name = database.name
    except (ConfigError, LedgerError) as error:
        yield fail(str(error))
        return
    yield ok(f"{name}: {len(nodes)} nodes")
    now_s = int(time.time())
    late = [(node, told_s) for node, told_s in nodes if now_s - told_s > _LATE_S]
    for node, told_s in late[:_SHOWN]:
        ago = (
            "nothing complete yet"
            if not told_s
            else f"collected up to {seconds(now_s - told_s)} ago"
        )
        yield warn(f"node {node}: {ago}", "See /metrics and the log of the collector.")
    if len(late) > _SHOWN:
        yield warn(f"and {len(late) - _SHOWN} more such nodes")


COLLECTION_CHECKS: tuple[Check, ...] = (page, collector)
