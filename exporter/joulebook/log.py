"""Logging to standard error, in text for people and the journal or in JSON for collectors.

Repeated failures are logged once, counted, and logged again when they end: `LogOnce`.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import threading
import time
from collections.abc import Mapping
from typing import Literal, TextIO

from joulebook.config.load import redact
from joulebook.core.sanitize import escaped

_MAX_FAILURES = 1024
"""The most failures tracked at a time; beyond it the oldest is dropped, and may be logged again."""

MAX_REASONS = 16
"""The most reasons logged for one key, since users can make up any number."""

_SYSLOG = {
    logging.DEBUG: 7,
    logging.INFO: 6,
    logging.WARNING: 4,
    logging.ERROR: 3,
    logging.CRITICAL: 2,
}


def setup(
    level: Literal["debug", "info", "warning", "error"] = "info",
    form: Literal["text", "json"] = "text",
    *,
    stream: TextIO | None = None,
    environ: Mapping[str, str] | None = None,
) -> None:
    """Send every log record of `level` and above to `stream` (standard error).

    Lines for the systemd journal have its priority prefix instead of the time, which the journal
    adds.
    """
    stream = sys.stderr if stream is None else stream
    handler = logging.StreamHandler(stream)
    if form == "json":
        handler.setFormatter(_Json())
    else:
        handler.setFormatter(_Text(journal=_is_journal(stream, environ or os.environ)))
    root = logging.getLogger()
    for old in list(root.handlers):
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(level.upper())


class LogOnce:
    """Log a failure once; again for another reason, or after a recovery.

    Repetitions are counted and logged at DEBUG. Thread-safe.
    """

    def __init__(self, logger: logging.Logger) -> None:
        self._logger = logger
        self._lock = threading.Lock()
        self._failing: dict[str, _Failing] = {}

    def failed(
        self,
        key: str,
        message: str,
        *args: object,
        reason: str = "",
        level: int = logging.WARNING,
        exc_info: BaseException | None = None,
    ) -> int:
        """Log that `key` fails, unless it failed for that `reason` since it last worked.

        Returns how often it has failed in a row. At most `MAX_REASONS` reasons are logged per key.
        """
        with self._lock:
            failing = self._failing.pop(key, None) or _Failing()
            self._failing[key] = failing
            if len(self._failing) > _MAX_FAILURES:
                del self._failing[next(iter(self._failing))]
            failing.count += 1
            count = failing.count
            new = reason not in failing.reasons and len(failing.reasons) < MAX_REASONS
            if new:
                failing.reasons.add(reason)
            last = new and len(failing.reasons) == MAX_REASONS
        if new:
            more = "; further ones of this kind are only counted" if last else ""
            self._logger.log(level, message + more, *args, exc_info=exc_info, stacklevel=2)
        else:
            self._logger.debug("again (%d): " + message, count, *args, stacklevel=2)
        return count

    def fault(self, what: str, *, level: int = logging.ERROR) -> int:
        """Log an exception that is a fault of ours, and being handled, with its traceback.

        `what` is what failed and what is unknown until it works again. Returns as `failed` does.
        """
        error = sys.exception()
        said, kind = "%s (please report this; repetitions are only counted)", type(error).__name__
        return self.failed(what, said, what, reason=kind, level=level, exc_info=error)

    def recovered(self, key: str, message: str, *args: object) -> int:
        """Log that `key` works again, if it was failing; return how often it had failed."""
        with self._lock:
            failing = self._failing.pop(key, None)
        if failing is None:
            return 0
        count = failing.count
        after = " (after %d failure%s)"
        self._logger.info(message + after, *args, count, "s" * (count > 1), stacklevel=2)
        return count

    def failing(self) -> list[str]:
        """Return the keys that are failing."""
        with self._lock:
            return list(self._failing)


class _Failing:
    """One key: how often it has failed in a row, and for which reasons."""

    def __init__(self) -> None:
        self.count = 0
        self.reasons: set[str] = set()


def clean(text: str) -> str:
    """The text on one line, without passwords in URLs: nothing in it can look like a record."""
    return escaped(redact(text))


def _is_journal(stream: TextIO, environ: Mapping[str, str]) -> bool:
    # systemd.exec(5): device and inode of the stream, since children may inherit the variable.
    try:
        status = os.fstat(stream.fileno())
    except (OSError, ValueError):
        return False
    return environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"


class _Text(logging.Formatter):
    """`time LEVEL logger: message`, or with a syslog priority for the journal."""

    def __init__(self, *, journal: bool) -> None:
        super().__init__()
        self._journal = journal

    def format(self, record: logging.LogRecord) -> str:
        lines = [f"{record.name}: {clean(record.getMessage())}"]
        if record.exc_info:
            lines += [clean(line) for line in self.formatException(record.exc_info).splitlines()]
        if self._journal:
            prefix = f"<{_SYSLOG.get(record.levelno, 5)}>"
            return "\n".join(prefix + line for line in lines)
        lines[0] = f"{_utc(record)} {record.levelname} {lines[0]}"
        return "\n  ".join(lines)


class _Json(logging.Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        fields = {
            "time": _utc(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": redact(record.getMessage()),
        }
        if record.exc_info:
            fields["exception"] = redact(self.formatException(record.exc_info))
        return json.dumps(fields)


def _utc(record: logging.LogRecord) -> str:
    whole = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
    return f"{whole}.{int(record.msecs):03d}Z"
