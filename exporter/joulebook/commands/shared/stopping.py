"""The signals that end a command which runs until it is told to stop."""

from __future__ import annotations

import logging
import signal
import sys
import threading
from queue import SimpleQueue
from types import FrameType

logger = logging.getLogger(__name__)


def stop_asked() -> threading.Event:
    """Return an event that SIGTERM and SIGINT set; call it from the main thread.

    SIGHUP sets it only if a terminal can hang up. Sent to a service it means "reload", which we do
    not support: we log that and go on, since systemd treats an exit by SIGHUP as clean and would
    not restart the service.
    """
    stop, asked = threading.Event(), SimpleQueue[None]()
    at_terminal = sys.stdin is not None and sys.stdin.isatty()

    def wait() -> None:
        asked.get()
        stop.set()

    def end(_signal: int, _frame: FrameType | None) -> None:
        # Not the event itself: its lock may be held by what the signal interrupted, a wait for it
        # or the handler of the signal before, and would never be let go.
        asked.put(None)

    def go_on(_signal: int, _frame: FrameType | None) -> None:
        # In a thread, since the handler may have interrupted a log call.
        threading.Thread(
            target=logger.warning,
            args=(
                "SIGHUP ignored: the configuration is only read at startup; restart to apply "
                "changes",
            ),
            name="sighup",
        ).start()

    threading.Thread(target=wait, name="signals", daemon=True).start()
    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGINT, end)
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # as nohup(1) has it
        signal.signal(signal.SIGHUP, end if at_terminal else go_on)
    return stop
