"""Notify systemd that the daemon is ready and alive: sd_notify(3), a datagram.

Kubernetes polls `/healthz`; systemd expects a notification every half of `WatchdogSec`, and
restarts a daemon that stops sending them.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

log = logging.getLogger(__name__)

_PATIENCE_S = 0.5


class ServiceManager:
    """The service manager that started this process; silent if there is none."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        """`NOTIFY_SOCKET`, `WATCHDOG_USEC` and `WATCHDOG_PID` are systemd's."""
        self._address = environ.get("NOTIFY_SOCKET", "")
        usec = environ.get("WATCHDOG_USEC", "")
        for_us = environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        self.every_s = int(usec) / 2e6 if usec.isdecimal() and len(usec) < 20 and for_us else 0.0
        """Seconds from one sign of life to the next; 0: none is wanted."""

    def say(self, state: str) -> bool:
        """Send one message, like `READY=1`; whether it was taken is not for us to mend."""
        if not self._address:
            return False
        # A leading @ stands for the abstract name space.
        address = "\0" + self._address[1:] if self._address[0] == "@" else self._address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as out:
                # A manager that does not read must not hold us up.
                out.settimeout(_PATIENCE_S)
                out.sendto(state.encode(), address)
        except OSError as error:
            log.debug("cannot notify the service manager of %s: %s", state, error)
            return False
        return True

    @contextmanager
    def reported(self, healthy: Callable[[], tuple[bool, str]]) -> Iterator[None]:
        """Notify readiness in the context, and liveness as long as `healthy` is true."""
        done = threading.Event()

        def beat() -> None:
            while not done.wait(self.every_s):
                well, why = healthy()
                if well:
                    self.say("WATCHDOG=1")
                else:
                    log.error("watchdog not notified: %s", why)

        pulse = threading.Thread(target=beat, name="watchdog", daemon=True)
        if self.every_s:
            pulse.start()
        self.say("READY=1")
        try:
            yield
        finally:
            done.set()
            self.say("STOPPING=1")
