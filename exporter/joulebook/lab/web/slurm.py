"""Coordinators of accounts, as SLURM's accounting has them: asked now and then, and kept."""

from __future__ import annotations

import logging
import os
import subprocess
import threading
from collections.abc import Mapping

from joulebook.core.sanitize import one_line
from joulebook.log import LogOnce

logger = logging.getLogger(__name__)
_once = LogOnce(logger)

_EVERY_S = 600.0
_TIMEOUT_S = 60.0
_MOST_BYTES = 16 * 2**20
_WORDS = ("sacctmgr", "-n", "-P", "show", "account", "withcoord", "format=Account,Coordinators")


class SlurmCoordinators:
    """The users who coordinate each account; while sacctmgr fails, as it said last."""

    def __init__(self, environ: Mapping[str, str] = os.environ) -> None:
        self._environ = environ
        self._known: Mapping[str, frozenset[str]] = {}

    def __call__(self) -> Mapping[str, frozenset[str]]:
        """Return them by account; never waits."""
        return self._known

    def run(self, stop: threading.Event, every_s: float = _EVERY_S) -> None:
        """Ask now and then until told to stop."""
        while not stop.is_set():
            self.refresh()
            stop.wait(every_s)

    def refresh(self) -> None:
        """Ask sacctmgr."""
        try:
            done = subprocess.run(
                _WORDS,
                env={**self._environ, "LC_ALL": "C"},
                stdin=subprocess.DEVNULL, capture_output=True, timeout=_TIMEOUT_S, check=False,
            )  # fmt: skip
        except (OSError, subprocess.TimeoutExpired) as error:
            problem = str(error)
        else:
            problem = done.stderr.decode("utf-8", "replace") or f"status {done.returncode}"
            if not done.returncode and len(done.stdout) <= _MOST_BYTES:
                self._known = coordinators(done.stdout.decode("utf-8", "replace"))
                _once.recovered("sacctmgr", "coordinators are read from sacctmgr again")
                return
        _once.failed(
            "sacctmgr",
            "lab.slurm_coordinators: sacctmgr does not tell them (%s): those that it told last "
            "stay",
            one_line(problem),
        )


def coordinators(text: str) -> dict[str, frozenset[str]]:
    """Return users by account, from what sacctmgr prints."""
    found: dict[str, frozenset[str]] = {}
    for line in text.splitlines():
        account, bar, users = line.partition("|")
        names = {user.strip() for user in users.rstrip("|").split(",")} - {""}
        if bar and account and names:
            found[account] = found.get(account, frozenset()) | names
    return found
