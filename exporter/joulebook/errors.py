"""The exceptions of Joulebook, named for what the caller can do about them.

JoulebookError
  ConfigError          the user must change a setting or a file; the message names it
  LedgerError          the ledger cannot be used; the message says how to get it back
    LedgerBusy           another daemon holds it
    LedgerCorrupt        sqlite says that the file is damaged
    LedgerTooNew         a newer Joulebook wrote it
    LedgerUnavailable    full disk, lock, I/O error: the same commit may succeed later
  SensorError          a sensor gave no reading; `reason` is the label value
    SensorMissing        no such hardware or library here
    SensorDenied         no permission
    SensorLost           the device is gone until it is reset or reopened
    SensorRetry          may work at the next look
    SensorUnsupported    this device will never answer that question
  FeedError            a feed of prices or intensities gave no answer; `reason` is the label value
    FeedDown             cannot be reached
    FeedLimited          asked too often; `retry_after_s` says when to ask again
    FeedDenied           the key is missing, wrong or not good for this
    FeedEmpty            has nothing for this time yet
    FeedWrong            answered something that cannot be believed
  HttpFailure          no answer that can be taken came by HTTP; who asked says what it means
  SourceError          where a report is from cannot answer; the message says why
  InputError           something read from outside is refused; `reason` is the label value
"""

from __future__ import annotations


class JoulebookError(Exception):
    """Base of all errors that Joulebook raises on purpose."""


class ConfigError(JoulebookError):
    """A setting or a file of the user's cannot be used. The message names file, key and value."""


class LedgerError(JoulebookError):
    """The ledger cannot be used."""


class LedgerBusy(LedgerError):
    """Another daemon holds the ledger."""


class LedgerCorrupt(LedgerError):
    """The file is damaged."""


class LedgerTooNew(LedgerError):
    """A newer version of Joulebook wrote the file."""


class LedgerUnavailable(LedgerError):
    """The commit did not happen, and may succeed later: nothing is lost in the meantime."""


class SensorError(JoulebookError):
    """A sensor gave no reading.

    `reason` is a short stable word for the label `reason`; `remedy` says what a person can do.
    """

    def __init__(self, message: str, *, reason: str, remedy: str = "") -> None:
        super().__init__(message)
        self.reason = reason
        self.remedy = remedy


class SensorMissing(SensorError):
    """There is no such hardware or library here."""


class SensorDenied(SensorError):
    """The hardware is there, the permission is not."""


class SensorLost(SensorError):
    """The device or the driver is gone until it is reset or opened again."""


class SensorRetry(SensorError):
    """May work at the next look."""


class SensorUnsupported(SensorError):
    """This device will never answer that question."""


class InputError(JoulebookError):
    """Something that was read from outside is refused; `reason` is for the label `reason`."""

    def __init__(self, message: str, *, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


class SourceError(JoulebookError):
    """Where a report is from (Prometheus, a collected ledger) cannot answer; it says why."""


class HttpFailure(JoulebookError):
    """No answer that can be taken. The message names no address.

    `reason` is `unreachable`, `timeout`, `certificate`, `tls`, `broken`, `truncated`, `too_large`,
    `packed` or `address`.
    """

    def __init__(self, message: str, *, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


class FeedError(JoulebookError):
    """A source gave nothing usable. The message never holds a key, nor the query of an address."""

    def __init__(self, message: str, *, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


class FeedDown(FeedError):
    """May work at the next look."""


class FeedLimited(FeedError):
    """We ask too often. `retry_after_s`: what the feed wants; 0 if it did not say."""

    def __init__(self, message: str, *, retry_after_s: float = 0.0) -> None:
        super().__init__(message, reason="limited")
        self.retry_after_s = retry_after_s


class FeedDenied(FeedError):
    """A person must act."""


class FeedEmpty(FeedError):
    """It answers, and has nothing for that time."""

    def __init__(self, message: str) -> None:
        super().__init__(message, reason="no_data")


class FeedWrong(FeedError):
    """What it says cannot be used."""
