"""Implement `joulebook top`: what is drawing power on a node, as a live table or once."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import termios
import time
import tty
from collections.abc import Iterator
from types import FrameType

from joulebook.commands.daemon.client import DaemonUrl, Unreachable, daemon_at
from joulebook.commands.report.options import places
from joulebook.commands.report.source import source
from joulebook.commands.shared.lab_client import LabSource
from joulebook.commands.shared.options import FILE, Duration, Options, command, option
from joulebook.commands.top import text
from joulebook.commands.top.scrape import NodeScrape, read_board
from joulebook.commands.top.text import lines
from joulebook.config import Config, load
from joulebook.core.report.dataset import Selection
from joulebook.core.sanitize import one_line
from joulebook.errors import InputError
from joulebook.lab.collected.report_query import CollectedSource
from joulebook.lab.report.prometheus import PrometheusSource
from joulebook.lab.report.sources import FOREVER_S
from joulebook.terminal import Screen

FAILED = 1
LEAST_INTERVAL_S = 0.2

# The alternate screen keeps the user's terminal content.
_ENTER, _LEAVE = "\x1b[?1049h\x1b[?25l", "\x1b[?25h\x1b[?1049l"
_HOME, _END_OF_LINE, _END_OF_SCREEN = "\x1b[H", "\x1b[K", "\x1b[J"


def main(args: Options) -> int:
    """Show the table until `q` or Ctrl-C, or print it once."""
    config = load(args.config, os.environ)
    if args.users:
        return _users(args, config)
    daemon = daemon_at(args, config, os.environ)
    screen = Screen()
    try:
        board = read_board(daemon.metrics())
    except (Unreachable, InputError) as error:
        errors = Screen(sys.stderr)
        errors.say(one_line(f"joulebook top: {error}"))
        errors.say(
            "Start the daemon (`joulebook run`), or give another with --url. Run `joulebook "
            "doctor` to find what is wrong on this node."
        )
        return FAILED
    if args.once or not screen.is_terminal:
        for line in lines(board, screen, screen.width):
            screen.say(line)
        return 0
    with _full_screen(screen) as resized:
        _watch(daemon, board, screen, max(args.interval, LEAST_INTERVAL_S), resized)
    return 0


def _users(args: Options, config: Config) -> int:
    """Print the users' consumption once, from ledgers, not from the daemon's memory."""
    screen = Screen()
    source_ = source(args, config)
    now_s = int(time.time())
    account = source_.account(text.midnight(now_s), FOREVER_S, Selection())
    note = ""
    power_w: dict[str, float] = {}
    if isinstance(source_, PrometheusSource):
        power_w = text.power_of(source_.api, now_s)
    elif args.ledger or isinstance(source_, CollectedSource | LabSource):
        note = "Ledgers have no power: use --prometheus, or run this on the node itself."
    else:
        try:
            board = read_board(daemon_at(args, config, os.environ).metrics())
            power_w = text.power_on(board)
        except (Unreachable, InputError) as error:
            note = f"No power: {error}"
    for line in text.user_lines(text.by_user(account, power_w), account, screen, note):
        screen.say(line)
    return 0


def _watch(
    daemon: DaemonUrl, board: NodeScrape, screen: Screen, interval_s: float, resized: int
) -> None:
    """Draw and scrape until the user quits."""
    note = ""
    due = time.monotonic() + interval_s
    while True:
        _draw(screen, lines(board, screen, screen.width, screen.height, note))
        if _told_to_end(max(due - time.monotonic(), 0), resized):
            return
        if time.monotonic() < due:
            continue  # resized: draw the same again
        due = time.monotonic() + interval_s
        try:
            board, note = read_board(daemon.metrics()), ""
        except (Unreachable, InputError) as error:
            note = f"Showing old data: {error}"


def _draw(screen: Screen, made: list[str]) -> None:
    body = (_END_OF_LINE + "\n").join(made)
    charset = screen.stream.encoding or "ascii"
    whole = f"{_HOME}{body}{_END_OF_LINE}{_END_OF_SCREEN}"
    screen.stream.write(whole.encode(charset, "replace").decode(charset))
    screen.stream.flush()


def _told_to_end(patience_s: float, resized: int) -> bool:
    """Wait for a key, a resize or the interval; return whether to quit."""
    inputs = [resized, *([sys.stdin.fileno()] if sys.stdin.isatty() else [])]
    ready, _, _ = select.select(inputs, [], [], patience_s)
    if resized in ready:
        os.read(resized, 1024)
    if len(inputs) > 1 and inputs[1] in ready:
        typed = os.read(inputs[1], 64)
        return not typed or b"q" in typed.lower()
    return False


@contextlib.contextmanager
def _full_screen(screen: Screen) -> Iterator[int]:
    """Take over the terminal, and restore it however we end.

    Yields a descriptor that becomes readable when the window is resized.
    """

    def wake(_signal: int, _frame: FrameType | None) -> None:
        """Do nothing: the wakeup descriptor does it all."""

    def end(_signal: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    read_end, write_end = os.pipe()
    os.set_blocking(write_end, False)
    woken_before = signal.set_wakeup_fd(write_end, warn_on_full_buffer=False)
    handlers = {
        signal.SIGWINCH: signal.signal(signal.SIGWINCH, wake),
        signal.SIGTERM: signal.signal(signal.SIGTERM, end),
        signal.SIGHUP: signal.signal(signal.SIGHUP, end),
    }
    keys = sys.stdin.fileno() if sys.stdin.isatty() else None
    before = termios.tcgetattr(keys) if keys is not None else None
    try:
        if keys is not None:
            tty.setcbreak(keys)
        screen.stream.write(_ENTER)
        yield read_end
    except KeyboardInterrupt:
        pass  # the way to end this
    finally:
        if keys is not None and before is not None:
            termios.tcsetattr(keys, termios.TCSADRAIN, before)
        with contextlib.suppress(OSError):
            screen.stream.write(_LEAVE)
            screen.stream.flush()
        signal.set_wakeup_fd(woken_before)
        for number, handler in handlers.items():
            signal.signal(number, handler)
        os.close(read_end)
        os.close(write_end)


@command()
@option("--url", metavar="URL", help="URL of the daemon (default: from server.listen).")
@option("--once", is_flag=True, help="Print the table once and exit.")
@option(
    "--interval",
    type=Duration(),
    default=2.0,
    metavar="TIME",
    help="Time between refreshes (default: 2s).",
)
@option(
    "--user",
    metavar="NAME",
    help="User for basic auth. The password is JOULEBOOK_PASSWORD, or prompted for.",
)
@option("--ca", type=FILE, metavar="FILE", help="CA certificates to trust (PEM).")
@option("--insecure", is_flag=True, help="Do not verify the daemon's certificate.")
@option(
    "--users",
    is_flag=True,
    help="List users instead: current power, energy since midnight (UTC), and how much of it "
    "while idle.",
)
@places("With --users, for the whole lab")
def top(options: Options) -> int:
    """Show what is drawing power on this node."""
    # An interactive user is waiting.
    options.timeout = 20.0
    return main(options)
