"""The command line: the commands, and the module of `commands` that implements each."""

from __future__ import annotations

import importlib
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import click

from joulebook import __version__, mark
from joulebook.commands.shared.options import CONFIG_HELP, FILE
from joulebook.config import misspelt
from joulebook.config.load import redact
from joulebook.core.sanitize import clean
from joulebook.errors import JoulebookError

FAILED, USAGE, INTERRUPTED = 1, 2, 130
_MOST_CHARS = 20_000
_SURROGATE = re.compile("[\ud800-\udfff]")
"""A byte of the command line that is not UTF-8."""


class Verb(NamedTuple):
    """A command: its module and name below `commands`, and one line of help."""

    place: str
    summary: str


GROUPS = {
    "the daemon of a node": {
        "run": Verb(
            "daemon.run:run", "Run the daemon: read the GPUs, book energy to jobs, serve /metrics."
        ),
        "doctor": Verb(
            "doctor.doctor:doctor",
            "Check what this node can measure, and how to fix what it cannot.",
        ),
        "config": Verb("daemon.control:config", "Print the effective configuration with comments."),
        "hooks": Verb("daemon.hooks:hooks", "Install or remove SLURM Prolog and Epilog hooks."),
        "release": Verb(
            "daemon.control:let_go", "Release the GPU driver for a while (MIG change, upgrade)."
        ),
        "health": Verb("health:health", "Check whether this node's daemon is alive."),
    },
    "energy and what it costs": {
        "top": Verb("top.top:top", "Show what is drawing power on this node."),
        "job": Verb("job.job:job", "Show the energy and cost of a job."),
        "mark": Verb("", "Run a command and book its energy to an experiment."),
        "rates": Verb(
            "rates:rates", "Show the current price and carbon intensity, with their sources."
        ),
    },
    "publish": {
        "report": Verb(
            "report.report:report", "List experiments, or write a statement for a paper."
        ),
        "verify": Verb(
            "verify:verify", "Check a published statement, and recompute it from its rows."
        ),
        "leaderboard": Verb("leaderboard:leaderboard", "Rank results by accuracy and energy."),
        "mlflow": Verb("leaderboard:mlflow", "Write measured energy to MLflow runs."),
    },
    "the lab, from many nodes": {
        "lab": Verb("lab:lab", "Serve pages and an API over the collected ledger; collect."),
        "acct": Verb("acct:acct", "Show the energy and cost of your jobs, from the lab server."),
        "collect": Verb("lab:collect", "Collect the ledgers of many nodes into one."),
        "advise": Verb("advise:advise", "Show where the lab could have saved, with evidence."),
        "bill": Verb("bill:bill", "Show, close or correct the bill of a month."),
        "relabel": Verb("bill:relabel", "Move a workload to another experiment or account."),
    },
    "traces": {
        "record": Verb("trace.record:record", "Record sensor readings to a trace."),
        "calibrate": Verb(
            "trace.calibrate:calibrate", "Fit GPU readings to those of a power meter."
        ),
        "replay": Verb("trace.replay:replay", "Replay a trace and show what is booked."),
    },
}
"""Every command, under its heading in `joulebook --help`."""

COMMANDS = {name: entry for listed in GROUPS.values() for name, entry in listed.items()}


_MARKED: list[click.Parameter] = [
    click.Option(["--wait"], metavar="S", type=float, help="Wait so long for its last line."),
    click.Option(["--estimate"], is_flag=True, help="Model what cannot be measured."),
    click.Argument(["name"]),
    click.Argument(
        ["words"], metavar="COMMAND...", nargs=-1, required=True, type=click.UNPROCESSED
    ),
]
"""The arguments of `joulebook mark`, for the help; `mark` itself parses them."""


class _Lazy(click.Group):
    """A group that imports a command's module when it is first used."""

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
    epilog="Run `joulebook COMMAND --help` for details. To get started, run `joulebook doctor` on "
    "a node with GPUs, or `joulebook run --demo` anywhere.",
)
@click.version_option(__version__, message="joulebook %(version)s")
@click.option("--config", type=FILE, metavar="FILE", help=CONFIG_HELP)
def top(config: Path | None) -> None:
    """Book every joule that a lab's GPUs consume, once, to the experiment that consumed it."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status (0 done, 1 failed, 2 usage or configuration
    error).
    """
    words = list(sys.argv[1:] if argv is None else argv) or ["--help"]
    if words[0] == "mark":
        return mark.main(words[1:])
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
        return _refused(words, str(error))
    except OSError as error:
        if error.filename is None:
            raise
        return _refused(words, f"{error.filename}: {error.strerror}")
    except UnicodeEncodeError:
        odd = next((word for word in words if _SURROGATE.search(word)), None)
        if odd is None:
            raise
        return _refused(words, f"{odd!a}: not UTF-8")


def _refused(words: Sequence[str], why: str) -> int:
    name = next((word for word in words if word in COMMANDS), "")
    print(clean(f"joulebook {name}: {redact(why)}", _MOST_CHARS), file=sys.stderr)
    return USAGE


if __name__ == "__main__":
    sys.exit(main())
