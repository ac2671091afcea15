"""The command line: what can be asked for, and which module of `commands` answers."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import click

from joulebook import __version__, mark
from joulebook.commands.shared.options import CONFIG_HELP, FILE
from joulebook.config import misspelt
from joulebook.errors import JoulebookError

FAILED, USAGE, INTERRUPTED = 1, 2, 130


class Entry(NamedTuple):
    """A command: the name of its value in its module of `commands`, and one line of help."""

    place: str
    summary: str


GROUPS = {
    "the daemon of a node": {
        "run": Entry("daemon.run:run", "Read the GPUs, book to jobs, serve /metrics."),
        "doctor": Entry("doctor.doctor:doctor", "Say what this node can read, and what to do."),
        "config": Entry("daemon.control:config", "Print the configuration in force, explained."),
        "hooks": Entry("daemon.hooks:hooks", "Put SLURM's Prolog and Epilog beside a site's."),
        "release": Entry("daemon.control:let_go", "Let go of the driver (MIG change, upgrade)."),
        "health": Entry("health:health", "Say whether the daemon of this node is alive."),
    },
    "energy and what it costs": {
        "top": Entry("top.top:top", "Show what draws power on this node now."),
        "job": Entry("job.job:job", "Say what one job cost."),
        "mark": Entry("", "Run a command, booked to an experiment: mark NAME -- COMMAND."),
        "rates": Entry("rates:rates", "Say what a kWh costs and emits now, and by whose word."),
    },
    "publish": {
        "report": Entry("report.report:report", "List experiments, or write a statement."),
        "leaderboard": Entry("leaderboard:leaderboard", "Rank results by accuracy and energy."),
        "mlflow": Entry("leaderboard:mlflow", "Write measured figures to runs of MLflow."),
    },
    "the lab, from many nodes": {
        "collect": Entry("lab:collect", "Bring many nodes' ledgers into one."),
        "bill": Entry("lab:bill", "Say what a month comes to by account."),
        "relabel": Entry("lab:relabel", "Give a workload to another experiment."),
    },
    "traces": {
        "record": Entry("trace.record:record", "Write what sensors say into a trace."),
        "calibrate": Entry("trace.calibrate:calibrate", "Fit a GPU's readings to a power meter."),
        "replay": Entry("trace.replay:replay", "Play a trace through the same pipeline."),
    },
}
"""Every command, under its heading in `joulebook --help`."""

COMMANDS = {name: entry for listed in GROUPS.values() for name, entry in listed.items()}


_MARKED: list[click.Parameter] = [
    click.Argument(["name"]),
    click.Argument(
        ["words"], metavar="COMMAND...", nargs=-1, required=True, type=click.UNPROCESSED
    ),
]
"""What `joulebook mark` takes, for its help; it is parsed by `mark`, for it needs none of this."""


class _Lazy(click.Group):
    """Loads the module of a command when it is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        entry = COMMANDS.get(cmd_name)
        if entry is None:
            return None
        if not entry.place:
            return click.Command(cmd_name, params=_MARKED, help=entry.summary)
        module, _, name = entry.place.partition(":")
        found = getattr(importlib.import_module(f"joulebook.commands.{module}"), name)
        assert isinstance(found, click.Command)
        return found

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for heading, listed in GROUPS.items():
            with formatter.section(heading.capitalize()):
                formatter.write_dl([(name, entry.summary) for name, entry in listed.items()])


@click.group(
    cls=_Lazy,
    epilog="joulebook COMMAND --help says more. To begin: `joulebook doctor` on a node with GPUs, "
    "`joulebook run --demo` and `joulebook leaderboard --demo` anywhere.",
)
@click.version_option(__version__, message="joulebook %(version)s")
@click.option("--config", type=FILE, metavar="FILE", help=CONFIG_HELP)
def top(config: Path | None) -> None:
    """Book every joule that a lab's GPUs consume, once, to the experiment that consumed it."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status (0 done, 1 failed, 2 wrong use or setting)."""
    words = list(sys.argv[1:] if argv is None else argv) or ["--help"]
    if words[0] == "mark":
        return mark.main(words[1:])  # all that follows is somebody's command
    for text in misspelt(os.environ):
        print(f"joulebook: {text}", file=sys.stderr)
    try:
        status = top.main(words, prog_name="joulebook", standalone_mode=False)
        return status if isinstance(status, int) else 0
    except click.ClickException as error:
        error.show()
        return USAGE
    except click.Abort:
        return INTERRUPTED
    except JoulebookError as error:
        name = next((word for word in words if word in COMMANDS), "")
        print(f"joulebook {name}: {error}", file=sys.stderr)
        return USAGE


if __name__ == "__main__":
    sys.exit(main())
