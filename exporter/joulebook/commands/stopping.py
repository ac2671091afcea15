"""When a service is asked to end: the signals of `run`, `collect` and `rates serve`."""

from __future__ import annotations

import logging
import signal
import sys
import threading
from types import FrameType

logger = logging.getLogger(__name__)


def stop_asked() -> threading.Event:
    """What SIGTERM and SIGINT set; call it from the main thread.

    SIGHUP sets it only where a terminal can hang up. Sent to a service it means "read your
    configuration again", which none of ours does: it says so and goes on, since ending would be
    for good (systemd takes an end by SIGHUP for a clean one).
    """
    stop = threading.Event()
    at_terminal = sys.stdin is not None and sys.stdin.isatty()

    def end(_signal: int, _frame: FrameType | None) -> None:
        stop.set()

    def go_on(_signal: int, _frame: FrameType | None) -> None:
        # From a thread: the handler may have interrupted another line of the log.
        threading.Thread(
            target=logger.warning,
            args=(
                "SIGHUP: the configuration is read at the start only; restart to apply a change",
            ),
            name="sighup",
        ).start()

    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGINT, end)
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # as nohup(1) has it
        signal.signal(signal.SIGHUP, end if at_terminal else go_on)
    return stop
