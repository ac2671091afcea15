"""Implement what `joulebook lab` does of people: let somebody in, and forget somebody."""

from __future__ import annotations

import getpass
import time
from collections.abc import Iterator

import msgspec

from joulebook.commands.shared.options import Options
from joulebook.config import Config
from joulebook.core.sanitize import one_line
from joulebook.lab.collected import audit
from joulebook.lab.collected.database import Database
from joulebook.lab.collected.forget import forget
from joulebook.lab.web.grants import LINK_S, GrantKind, Grants
from joulebook.terminal import Screen


def forgotten(database: Database, config: Config, name: str, screen: Screen) -> int:
    """Forget a person, and say what a person must see to elsewhere."""
    found = forget(database, name, getpass.getuser(), int(time.time()))
    screen.say(f"{found.pseudonym} stands in {found.rows} rows; every sum is as it was")
    remains = [
        *(f"ledger of node {one_line(node)}, until it expires there" for node in found.nodes),
        *(f"exported months in {one_line(path, 300)}" for path in found.exports),
        *(f"configuration: {key}" for key in _naming(config, name)),
        *(f"{table}.{column}: {count} rows of others" for table, column, count in found.elsewhere),
    ]
    if found.jobs:
        remains.append(f"AdminComment of {found.jobs} jobs: figures, in SLURM's own accounting")
    remains.append("backups of the database, logs, Prometheus, and whoever had mails or reports")
    screen.say("What remains elsewhere:")
    for each in remains:
        screen.say(f"  {each}")
    return 0


def _naming(config: Config, name: str) -> Iterator[str]:
    """Yield the keys of the configuration whose values have a name in them, or that are it."""

    def walk(key: str, value: object) -> Iterator[str]:
        if isinstance(value, dict):
            for inner, each in value.items():
                if inner == name:
                    yield f"{key}.{inner}"
                yield from walk(f"{key}.{inner}" if key else str(inner), each)
        elif isinstance(value, list | tuple):
            if any(str(each).partition("@")[0] == name or each == name for each in value):
                yield key
        elif value == name:
            yield key

    yield from walk("", msgspec.to_builtins(config))


def granted(grants: Grants, config: Config, options: Options, screen: Screen) -> int:
    """Make or end what lets somebody in; who may write the ledger may do so."""
    who = getpass.getuser()
    if options.link:
        base = config.lab.public_url or f"http://{config.lab.listen}"
        screen.say(
            f"{base.rstrip('/')}/enter/{grants.make(GrantKind.LINK, who, 'command', LINK_S)}"
        )
        return 0
    if options.revoke_token:
        ended = grants.revoke(options.revoke_token)
        if ended:
            grants.note(who, audit.COMMAND, f"token {options.revoke_token} revoked")
        screen.say(f"{ended} tokens of that name have ended")
        return 0 if ended else 1
    screen.say(
        grants.make(
            GrantKind.TOKEN, options.user, "token", options.days * 86_400, options.add_token
        )
    )
    grants.note(who, audit.COMMAND, f"token {options.add_token} for {options.user}")
    return 0
