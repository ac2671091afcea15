"""The checks of `joulebook doctor`: their result, and the node they look at."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property
from pathlib import Path
from typing import NamedTuple, TypeVar

from joulebook.commands.daemon.client import daemon_pid
from joulebook.commands.doctor.nvml_survey import Survey, survey
from joulebook.config import Config, host_name
from joulebook.ledger.query import LedgerReader

T = TypeVar("T")


class Status(StrEnum):
    """The result of a check; `NONE` means that it does not apply here."""

    OK = "OK"
    WARN = "WARN"
    FAIL = "FAIL"
    NONE = "-"


class Finding(NamedTuple):
    """One line of output: what was found and, if there is a problem, what to do."""

    status: Status
    found: str
    todo: str = ""


def ok(found: str) -> Finding:
    """Return a finding that all is well."""
    return Finding(Status.OK, found)


def warn(found: str, todo: str = "") -> Finding:
    """Return a warning: it works, but not as well as it could, or not as may have been intended."""
    return Finding(Status.WARN, found, todo)


def fail(found: str, todo: str = "") -> Finding:
    """Return a failure: energy is not measured, or not booked to its owner."""
    return Finding(Status.FAIL, found, todo)


def nothing(found: str) -> Finding:
    """Return a finding that the check does not apply here."""
    return Finding(Status.NONE, found)


@dataclass(frozen=True)
class Site:
    """The node, as checks see it. Tests use other roots."""

    config: Config
    config_file: Path
    config_problem: str = ""
    environ: Mapping[str, str] = field(default_factory=lambda: os.environ)
    root: Path = Path("/")
    """The root for /etc, /run and configured paths outside /proc and /sys."""
    sysfs: Path = Path("/sys")
    proc: Path = Path("/proc")
    hostname: str = field(default_factory=host_name)
    patience_s: float = 20.0

    def at(self, path: str | Path) -> Path:
        """Return a path of the node."""
        return self.root / str(path).lstrip("/") if self.root != Path("/") else Path(path)

    @property
    def ledger(self) -> Path:
        """Return the ledger's path."""
        return self.at(self.config.ledger.path)

    def from_ledger(self, read: Callable[[LedgerReader], T]) -> T | None:
        """What the ledger says; `None` if it cannot: the checks of the ledger say why."""
        try:
            with LedgerReader(self.ledger) as reader:
                return read(reader)
        except Exception:  # There is none yet, it is not readable, or it is damaged.
            return None

    @cached_property
    def survey(self) -> Survey:
        """Return what NVML reports; queried once."""
        return survey(self.patience_s)

    @cached_property
    def daemon(self) -> int | None:
        """Return the PID of the daemon that holds the ledger."""
        return daemon_pid(self.ledger, self.proc)


Check = Callable[[Site], Iterable[Finding]]
