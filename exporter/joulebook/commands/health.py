"""`joulebook health`: whether the daemon here lives, for the health checks of engines."""

from __future__ import annotations

import os
import sys

from joulebook.commands.daemon.client import Unreachable
from joulebook.commands.doctor.daemon import daemon_here
from joulebook.commands.shared.options import Options, command
from joulebook.config import load


def main(args: Options) -> int:
    """Print what /healthz answers; 0 if it is well."""
    try:
        answer = daemon_here(load(args.config, os.environ)).get("/healthz")
    except Unreachable as error:
        print(error, file=sys.stderr)
        return 1
    print(answer.text.strip())
    return 0 if answer.status == 200 else 1


@command()
def health(options: Options) -> int:
    """Say whether the daemon of this node is alive: what its /healthz answers."""
    return main(options)
