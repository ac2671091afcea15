"""`python -m joulebook.mark NAME -- COMMAND ...`: book a command's energy to an experiment.

The command runs as without it: same input and output, same exit status (128 + N if signal N ended
it), and signals sent to this process are forwarded to it. At its end one line on standard error
says what it consumed.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import subprocess
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from joulebook.experiment_span import DIRECTORY, VARIABLE, WAIT_S, experiment

NOT_FOUND, NOT_RUN = 127, 126

_SCHEDULED = {"SLURM_JOB_ID", "KUBERNETES_SERVICE_HOST"}
"""Where one of these is set, the scheduler names the experiment."""

_FORWARDED = (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGCONT)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command under a mark; return its exit status."""
    parser = argparse.ArgumentParser(
        prog="joulebook mark",
        description="Run a command and book the energy of the GPUs that it and its children use to "
        "an experiment. For machines without a scheduler.",
    )
    parser.add_argument("name", metavar="NAME", help="name of the experiment")
    parser.add_argument(
        "command", metavar="COMMAND", nargs="+", help="command to run; put -- before it"
    )
    parser.add_argument(
        "--wait",
        metavar="S",
        type=float,
        default=WAIT_S,
        help="wait at most so long for the figures of its last line (default: %(default)g; 0: no "
        "line)",
    )
    parser.add_argument(
        "--estimate",
        action="store_true",
        help="without daemon and meter, model the energy; the line says so",
    )
    args = parser.parse_args(argv)
    directory = Path(os.environ.get(VARIABLE) or DIRECTORY)
    if not directory.is_dir() and not os.environ.keys() & _SCHEDULED:
        print(
            f"joulebook mark: {directory} does not exist, so nothing is booked to {args.name!r}: "
            "is the daemon running here? (joulebook doctor)",
            file=sys.stderr,
        )
    warnings.formatwarning = lambda message, *_, **__: f"{message}\n"
    with experiment(args.name, wait_s=args.wait, estimate=args.estimate) as run:
        status = _run(args.command)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)  # ends the wait, and nothing else
    with contextlib.suppress(KeyboardInterrupt):
        if args.wait > 0 and (found := run.booked) is not None:
            print(f"joulebook mark: {args.name}: {found}", file=sys.stderr)
    return status


def _run(command: Sequence[str]) -> int:
    try:
        child = subprocess.Popen(command)
    except OSError as error:
        print(f"{command[0]}: {error.strerror}", file=sys.stderr)
        return NOT_FOUND if isinstance(error, FileNotFoundError) else NOT_RUN

    def forward(number: int, _frame: FrameType | None) -> None:
        child.send_signal(number)

    for number in _FORWARDED:
        signal.signal(number, forward)
    # Ctrl-C goes to the whole process group: the command decides, and we wait for it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGQUIT, signal.SIG_IGN)
    status = child.wait()
    return 128 - status if status < 0 else status


if __name__ == "__main__":
    sys.exit(main())
