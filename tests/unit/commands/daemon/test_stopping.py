"""Which signal ends a service, and which does not."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys

import pytest

SERVICE = """
import logging, signal, sys
from joulebook.commands.shared.stopping import stop_asked
logging.basicConfig(format="%(message)s", stream=sys.stdout)
stop = stop_asked()
print("up", flush=True)
while not stop.wait(0.05):
    pass
print("done", flush=True)
"""


class Service:
    """A service of ours in a process of its own, reported by signals."""

    def __init__(self, stdin: int, hangup: str = "default") -> None:
        self.process = subprocess.Popen(
            ["env", f"--{hangup}-signal=HUP", sys.executable, "-c", SERVICE],
            stdin=stdin, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert self.line() == "up"

    def line(self) -> str:
        assert self.process.stdout
        return self.process.stdout.readline().strip()

    def end(self, how: signal.Signals) -> None:
        """Send a signal that ends it; it ends in order."""
        self.process.send_signal(how)
        out, _ = self.process.communicate(timeout=30)
        assert (self.process.returncode, out.splitlines()) == (0, ["done"])


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_a_service_goes_on_after_a_hangup_until_it_is_asked_to_end(how: signal.Signals) -> None:
    service = Service(subprocess.DEVNULL)
    service.process.send_signal(signal.SIGHUP)
    assert service.line().startswith("SIGHUP ignored: the configuration is only read at startup")
    service.end(how)


def test_a_terminal_that_hangs_up_ends_what_was_started_in_it() -> None:
    ours, its = pty.openpty()
    try:
        Service(its).end(signal.SIGHUP)
    finally:
        os.close(ours)
        os.close(its)


def test_nohup_is_heeded() -> None:
    ours, its = pty.openpty()
    try:
        service = Service(its, "ignore")
        service.process.send_signal(signal.SIGHUP)
        service.end(signal.SIGTERM)
    finally:
        os.close(ours)
        os.close(its)


def test_a_signal_within_a_wait_is_no_deadlock() -> None:
    """As two signals at once are, or one that comes as the main thread begins to wait."""
    interrupted = """
import signal
from joulebook.commands.shared.stopping import stop_asked
stop = stop_asked()
with stop._cond:
    signal.raise_signal(signal.SIGTERM)
    signal.raise_signal(signal.SIGINT)
assert stop.wait(30)
"""
    subprocess.run([sys.executable, "-c", interrupted], check=True, timeout=60)
