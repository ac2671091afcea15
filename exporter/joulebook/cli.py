"""The command line: what can be asked for, and which module of `commands` answers."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from joulebook import __version__, mark
from joulebook.commands import lab, leaderboard
from joulebook.commands.report import options
from joulebook.config import DEFAULT_PATH
from joulebook.errors import JoulebookError

FAILED, USAGE, INTERRUPTED = 1, 2, 130

GROUPS = {
    "the daemon of a node": ("run", "doctor", "config", "hooks", "release", "health"),
    "what consumes, and what it costs": ("top", "job", "mark", "rates"),
    "publish": ("report", "leaderboard", "mlflow"),
    "the lab, from many nodes": ("collect", "bill", "relabel"),
    "traces": ("record", "replay"),
}
"""Under which heading of `joulebook --help` each command stands."""

_HANDLERS = {
    "run": "daemon.run",
    "release": "daemon.control",
    "config": "daemon.control:main_config",
    "hooks": "daemon.hooks",
    "doctor": "doctor.doctor",
    "job": "job.job",
    "report": "report.report",
    "top": "top.top",
    "record": "trace.record",
    "replay": "trace.replay",
    "mlflow": "leaderboard:main_mlflow",
    "collect": "lab",
    "relabel": "bill:main_relabel",
}
"""The module of `commands`, and its function if not `main`, where it is not the command's name."""

_DURATIONS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


def duration_s(text: str) -> float:
    """`90`, `90s`, `10m`, `2h` or `1d` as seconds. Raises `ArgumentTypeError`."""
    unit = text[-1:] if text[-1:] in _DURATIONS else "s"
    try:
        value = float(text.removesuffix(unit)) * _DURATIONS[unit]
    except ValueError:
        value = -1.0
    if not 0 <= value < 1e9:
        raise argparse.ArgumentTypeError(f"{text!r} is not a duration such as 30s, 10m or 2h")
    return value


class _Grouped(argparse.HelpFormatter):
    """Commands under the headings of `GROUPS`."""

    def _format_action(self, action: argparse.Action) -> str:
        if not isinstance(action, argparse._SubParsersAction):
            return super()._format_action(action)
        commands = {each.dest: each for each in action._get_subactions()}
        parts = []
        for title, names in GROUPS.items():
            parts.append(f"{' ' * self._current_indent}{title}\n")
            self._indent()
            parts += [self._format_action(commands[name]) for name in names]
            self._dedent()
        return "".join(parts)


def parser() -> argparse.ArgumentParser:
    """The whole command line. Each command's handler is named in `_HANDLERS`."""
    top = argparse.ArgumentParser(
        prog="joulebook",
        formatter_class=_Grouped,
        description="Every joule a lab's GPUs consume, booked once, to the experiment that "
        "consumed it.",
        epilog="joulebook COMMAND --help says more. To begin: `joulebook doctor` on a node with "
        "GPUs, `joulebook run --demo` and `joulebook leaderboard --demo` anywhere.",
    )
    top.add_argument("--version", action="version", version=f"joulebook {__version__}")
    config_help = f"configuration file (default: {DEFAULT_PATH}, if it exists)"
    top.add_argument("--config", type=Path, metavar="FILE", help=config_help)
    # Taken behind the command too; without a default, so that it leaves alone what came before it.
    common = argparse.ArgumentParser(add_help=False, argument_default=argparse.SUPPRESS)
    common.add_argument("--config", type=Path, metavar="FILE", help=config_help)
    commands = top.add_subparsers(
        title="commands", dest="command", required=True, metavar="COMMAND"
    )

    def command(name: str, summary: str, module: str = "") -> argparse.ArgumentParser:
        described = summary[:1].upper() + summary[1:]
        sub = commands.add_parser(name, help=summary, description=described, parents=[common])
        sub.set_defaults(module=module or _HANDLERS.get(name, name))
        return sub

    run = command("run", "the node's daemon: read the GPUs, book to jobs, serve /metrics")
    run.add_argument(
        "--demo",
        nargs="?",
        const="auto",
        choices=["auto", "always"],
        help="without a GPU ('always': with one too) play a recorded trace with simulated jobs, "
        "the ledger under ./.build/demo",
    )
    run.add_argument(
        "--compat",
        action="append",
        choices=["dcgm"],
        help="show the metric names of another exporter as well",
    )
    release = command("release", "ask the daemon to let go of the driver (MIG change, upgrade)")
    release.add_argument(
        "--for",
        dest="duration",
        type=duration_s,
        default=600.0,
        metavar="TIME",
        help="for how long, e.g. 10m (default); 0 takes hold again",
    )
    top_ = command("top", "what consumes power on this node now")
    top_.add_argument("--url", help="the daemon's address (default: from server.listen)")
    top_.add_argument("--once", action="store_true", help="print the table once and end")
    top_.add_argument(
        "--interval",
        type=duration_s,
        default=2.0,
        metavar="TIME",
        help="from one refresh to the next (default: 2s)",
    )
    top_.add_argument(
        "--user",
        metavar="NAME",
        help="name for basic auth; the password is JOULEBOOK_PASSWORD, or is asked for",
    )
    top_.add_argument(
        "--ca", type=Path, metavar="FILE", help="certificates of the authorities to trust (PEM)"
    )
    top_.add_argument(
        "--insecure", action="store_true", help="accept any certificate of the daemon"
    )
    top_.add_argument(
        "--users",
        action="store_true",
        help="by user: power now, energy since midnight (UTC) and how much of it while idle",
    )
    options.add_lab(top_)
    job = command("job", "what one job cost, from this node's ledger or the collected one")
    job.add_argument(
        "id",
        metavar="ID",
        help="job id as the scheduler shows it: 1234, 1234_7, 1234+1, 1234.r1; the id of an array "
        "lists its tasks",
    )
    options.add_ledgers(job)
    job.add_argument("--json", action="store_true", help="one JSON object instead of text")
    job.add_argument(
        "--summary", action="store_true", help="the three lines of the job's own output"
    )
    job.add_argument(
        "--append",
        action="store_true",
        help="wait until the job is booked, and append the summary to its output, as its user; "
        "hooks/job_summary.sh does this at its end",
    )
    job.add_argument("--uid", type=int, metavar="UID", help="with --append: the user of the job")
    job.add_argument(
        "--node", metavar="NAME", help="with --append: only if the job's script ran on this node"
    )
    job.add_argument(
        "--wait",
        type=duration_s,
        default=60.0,
        metavar="TIME",
        help="with --append: for how long to wait for the last energy (default: 60s)",
    )
    command(
        "mark", "run a command, and book what it consumes to an experiment: mark NAME -- COMMAND"
    )
    command("doctor", "what this node can read, what it cannot, why, and what to do")
    command("health", "whether the daemon of this node lives (what its /healthz answers)")
    hooks = command("hooks", "put SLURM's Prolog and Epilog beside those that a site has")
    hooks.add_argument("action", choices=["install", "remove"])
    hooks.add_argument(
        "--slurm-conf",
        type=Path,
        metavar="FILE",
        help="slurm.conf, which is read and never written (default: where SLURM keeps it)",
    )
    replay = command("replay", "send a recorded trace through the same pipeline and show the books")
    replay.add_argument(
        "trace", type=Path, metavar="TRACE", help="a trace file, or a shipped trace: a100, v100"
    )
    replay.add_argument(
        "--jobs",
        type=Path,
        metavar="FILE",
        help="who held what: CSV with job,user,account,experiment,gpu,start_s,end_s",
    )
    record = command("record", "write what the sensors of this node say into a trace")
    record.add_argument(
        "trace", type=Path, metavar="TRACE", help="the file to write, packed if it ends in .gz"
    )
    record.add_argument(
        "--for",
        dest="duration",
        type=duration_s,
        default=60.0,
        metavar="TIME",
        help="for how long (default: 60s)",
    )
    record.add_argument(
        "--every",
        type=duration_s,
        default=0.1,
        metavar="TIME",
        help="from one look to the next (default: 0.1s)",
    )
    rates = command("rates", "what a kWh costs and emits now, and where each figure is from")
    rates.add_argument(
        "action",
        nargs="?",
        choices=["show", "serve"],
        default="show",
        help="show them (default), or serve them to other nodes (their rates.*.kind is 'server')",
    )
    rates.add_argument("--ask", action="store_true", help="ask the sources now, not the cache")
    rates.add_argument("--json", action="store_true", help="one JSON object instead of text")
    rates.add_argument(
        "--listen",
        metavar="HOST:PORT",
        default="127.0.0.1:9817",
        help="where to serve (default: %(default)s)",
    )
    options.add(
        command("report", "what experiments consumed, cost and emitted: a list, or a statement")
    )
    leaderboard.add(command("leaderboard", "what results cost: accuracy against measured energy"))
    leaderboard.add_mlflow(
        command("mlflow", "write measured figures back to the runs of an MLflow store")
    )
    lab.add(command)
    command("config", "print the configuration in force, every key explained")
    return top


def _parsed(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse a command line; words behind an option count like words before it.

    argparse gives an optional word its default at the first option, and then knows the word no
    more: `bill close --account nlp 2026-10`.
    """
    top = parser()
    args, rest = top.parse_known_args(argv)
    if args.command == "bill":
        if args.action == "show" and rest[:1] and rest[0] in lab.BILL_ACTIONS:
            args.action = rest.pop(0)
        if args.month is None and len(rest) == 1 and not rest[0].startswith("-"):
            args.month = rest.pop()
    if rest:
        top.error(f"unrecognized arguments: {' '.join(rest)}")
    return args


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status (0 done, 1 failed, 2 wrong use or setting)."""
    argv = sys.argv[1:] if argv is None else argv
    if argv[:1] == ["mark"]:
        return mark.main(argv[1:])  # all that follows is somebody's command
    args = _parsed(argv)
    # Imported late: `joulebook job` needs neither NVML nor an HTTP server in memory.
    module, _, function = args.module.partition(":")
    handler = importlib.import_module(f"joulebook.commands.{module}")
    try:
        return int(getattr(handler, function or "main")(args))
    except JoulebookError as e:
        print(f"joulebook {args.command}: {e}", file=sys.stderr)
        return USAGE
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:  # the reader of our output has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED


if __name__ == "__main__":
    sys.exit(main())
