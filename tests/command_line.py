"""Read a command line as `joulebook` would, without running it."""

from __future__ import annotations

from unittest.mock import patch

import click

from joulebook import cli
from joulebook.commands.shared.options import Options


def parsed(*words: str) -> Options:
    """The options of a command line, `command` among them. Raises `click.UsageError`."""

    def kept(_: click.Command, ctx: click.Context) -> Options:
        return Options(**ctx.params, command=ctx.info_name)

    with patch.object(click.Command, "invoke", kept):
        found = cli.top.main(list(words), prog_name="joulebook", standalone_mode=False)
    if not isinstance(found, Options):
        assert "--help" in words
        return Options()
    return found
