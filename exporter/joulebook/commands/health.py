"""Implement `joulebook health`, for the health checks of container engines."""

from __future__ import annotations

import os
import sys

from joulebook.commands.daemon.client import Unreachable, daemon_here
from joulebook.commands.shared.options import Options, command
from joulebook.config import load
from joulebook.core.sanitize import one_line


def main(args: Options) -> int:
    """Print the response of /healthz; return 0 if it is healthy."""
    try:
        answer = daemon_here(load(args.config, os.environ)).get("/healthz")
    except Unreachable as error:
        print(one_line(str(error)), file=sys.stderr)
        return 1
    print(one_line(answer.text))
    return 0 if answer.status == 200 else 1


@command()
def health(options: Options) -> int:
    """Check whether this node's daemon is alive, by its /healthz."""
    return main(options)
