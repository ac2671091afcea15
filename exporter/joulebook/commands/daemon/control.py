"""Implement `joulebook release` and `joulebook config`."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from joulebook.commands.daemon.client import daemon_pid, described, lock_path
from joulebook.commands.shared.options import Duration, Options, command, option
from joulebook.commands.shared.text import moment, seconds
from joulebook.config import load
from joulebook.core.sanitize import one_line
from joulebook.errors import ConfigError
from joulebook.node import release
from joulebook.terminal import Screen


def main_config(args: Options) -> int:
    """Print the configuration as a TOML file."""
    Screen().say(load(args.config, os.environ).describe().rstrip("\n"))
    return 0


PATIENCE_S = 5.0
"""Seconds to wait beyond one tick of the daemon, which checks for requests once per tick."""

FAILED = 1


def main(args: Options) -> int:
    """Request the release, wait for the daemon's answer, and print it."""
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
        return _no_answer(ledger, patience_s, "nothing was released, and the request was withdrawn")
    screen.say(
        f"The daemon has released the driver until {moment(until_s)} ({seconds(args.duration)})."
    )
    screen.say(
        "Meanwhile no GPU is read (gap 'released'). If the driver stays loaded, its counters "
        "make up for the energy afterwards."
    )
    screen.say("To end the release at once: joulebook release --for 0")
    return 0


def _missing(ledger: Path) -> str:
    """Return why no daemon can be running here; empty if one may be."""
    named = "if it uses another ledger, give --config FILE or set JOULEBOOK_LEDGER_PATH"
    lock = lock_path(ledger)
    try:
        ledger.stat()
        lock.stat()
    except (FileNotFoundError, NotADirectoryError) as e:
        what = "ledger" if e.filename == str(ledger) else "lock of a daemon"
        return (
            f"no daemon is running here: no {what} at {e.filename}; nothing was requested; {named}"
        )
    except OSError as e:
        raise ConfigError(
            f"cannot read {e.filename}: {e.strerror}; run this as the daemon's user"
        ) from e
    return ""


def _take_hold(ledger: Path, patience_s: float, screen: Screen) -> int:
    if not release.request_path(ledger).exists():
        screen.say("Nothing was released: there is no release to end.")
        return 0
    release.ask(ledger, 0.0)
    if not release.granted(ledger, patience_s):
        _withdraw(ledger)
        return _no_answer(ledger, patience_s, "the release was withdrawn all the same")
    screen.say("The release has ended: the daemon reads the GPUs again.")
    return 0


def _withdraw(ledger: Path) -> None:
    # A daemon that starts later must not release the GPUs for a forgotten request.
    release.request_path(ledger).unlink(missing_ok=True)


def _no_answer(ledger: Path, patience_s: float, so: str) -> int:
    pid = daemon_pid(ledger)
    if pid is None:
        why = f"no daemon is running on ledger {ledger}: nobody holds {lock_path(ledger)}"
    else:
        why = (
            f"the daemon, {one_line(described(pid))}, has not answered within {patience_s:.0f} s; "
            "a driver call may be hanging: see /readyz and its log"
        )
    Screen(sys.stderr).say(f"joulebook release: {why}; {so}")
    return FAILED


@command()
def config(options: Options) -> int:
    """Print the effective configuration, with a comment on every key."""
    return main_config(options)


@command()
@option(
    "--for",
    "duration",
    type=Duration(),
    default=600.0,
    metavar="TIME",
    help="How long to release it (default: 10m). 0 ends a release.",
)
def let_go(options: Options) -> int:
    """Ask the daemon to release the GPU driver for a while (MIG change, driver upgrade)."""
    return main(options)
