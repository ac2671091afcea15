"""Checks of collection: this node's /v1/postings, and the ledger that this machine collects
into.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

from joulebook.commands.doctor.checks import Check, Finding, Site, fail, nothing, ok, warn
from joulebook.commands.shared.text import seconds
from joulebook.config.lab import Collect
from joulebook.errors import ConfigError, LedgerError
from joulebook.lab.collect.client import NodeClient
from joulebook.lab.collected.bills import reported
from joulebook.lab.collected.database import opened
from joulebook.server.auth import Tokens

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


CHECKS: tuple[Check, ...] = (page, collector)
