"""`joulebook release` and `config`: let go of the driver for a while; print the configuration."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from joulebook.commands.daemon.running import daemon_pid, described, lock_path
from joulebook.commands.shared.options import Duration, Options, command, option
from joulebook.commands.shared.text import moment, seconds
from joulebook.config import load
from joulebook.core.sanitize import one_line
from joulebook.errors import ConfigError
from joulebook.node import release
from joulebook.terminal import Screen


def main_config(args: Options) -> int:
    """Print it as a TOML file."""
    Screen().say(load(args.config, os.environ).describe().rstrip("\n"))
    return 0


PATIENCE_S = 5.0
"""On top of one tick of the daemon, which looks for requests once in each."""

FAILED = 1


def main(args: Options) -> int:
    """Ask, wait for the answer, and say what came of it."""
    config = load(args.config, os.environ)
    ledger = Path(config.ledger.path)
    patience_s = PATIENCE_S + (config.daemon.interval_s if config.daemon.interval_s > 1 else 0)
    screen = Screen()
    if missing := _missing(ledger):
        Screen(sys.stderr).say(f"joulebook release: {missing}")
        return FAILED
    if not args.duration:
        return _take_hold(ledger, patience_s, screen)
    until_s = time.time() + args.duration
    release.ask(ledger, until_s)
    try:
        granted = release.granted(ledger, patience_s)
    except KeyboardInterrupt:
        _withdraw(ledger)
        raise
    if not granted:
        _withdraw(ledger)
        return _no_answer(ledger, patience_s, "nothing was let go of, the request is withdrawn")
    screen.say(
        f"The daemon has let go of the driver until {moment(until_s)} ({seconds(args.duration)})."
    )
    screen.say(
        "Until then no GPU is read: a gap 'released'. If the driver stays loaded, its counters "
        "bring the energy in afterwards."
    )
    screen.say("`joulebook release --for 0` takes hold again at once.")
    return 0


def _missing(ledger: Path) -> str:
    """Why no daemon can be reading here; empty if one may be."""
    named = "name its ledger with --config FILE or JOULEBOOK_LEDGER_PATH if it has another"
    lock = lock_path(ledger)
    try:
        ledger.stat()
        lock.stat()
    except (FileNotFoundError, NotADirectoryError) as e:
        what = "ledger" if e.filename == str(ledger) else "lock of a daemon"
        return (
            f"no daemon runs here: there is no {what} at {e.filename}; nothing was asked for; "
            f"{named}"
        )
    except OSError as e:
        raise ConfigError(
            f"cannot look at {e.filename}: {e.strerror}; run this as the daemon's user"
        ) from e
    return ""


def _take_hold(ledger: Path, patience_s: float, screen: Screen) -> int:
    if not release.request_path(ledger).exists():
        screen.say("Nothing was let go of: there is no release to end.")
        return 0
    release.ask(ledger, 0.0)
    if not release.granted(ledger, patience_s):
        _withdraw(ledger)
        return _no_answer(ledger, patience_s, "the release is withdrawn all the same")
    screen.say("The release is over: the daemon takes hold of the driver again.")
    return 0


def _withdraw(ledger: Path) -> None:
    # A daemon that starts later must not stay off the GPUs for a request nobody remembers.
    release.request_path(ledger).unlink(missing_ok=True)


def _no_answer(ledger: Path, patience_s: float, so: str) -> int:
    pid = daemon_pid(ledger)
    if pid is None:
        why = f"no daemon runs on ledger {ledger}: nobody holds {lock_path(ledger)}"
    else:
        why = (
            f"the daemon, {one_line(described(pid))}, has not answered within {patience_s:.0f} s; "
            "a call to the driver may hang: see /readyz and its log"
        )
    Screen(sys.stderr).say(f"joulebook release: {why}; {so}")
    return FAILED


@command()
def config(options: Options) -> int:
    """Print the configuration in force, every key explained."""
    return main_config(options)


@command()
@option(
    "--for",
    "duration",
    type=Duration(),
    default=600.0,
    metavar="TIME",
    help="For how long, e.g. 10m (default); 0 takes hold again.",
)
def let_go(options: Options) -> int:
    """Ask the daemon to let go of the driver (MIG change, upgrade)."""
    return main(options)
