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
    """Raised for an invalid setting or user file. The message names file, key and value."""


class LedgerError(JoulebookError):
    """Raised if the ledger cannot be used."""


class LedgerBusy(LedgerError):
    """Raised if another daemon holds the ledger."""


class LedgerCorrupt(LedgerError):
    """Raised if the file is damaged."""


class LedgerTooNew(LedgerError):
    """Raised if a newer version of Joulebook wrote the file."""


class LedgerUnavailable(LedgerError):
    """Raised if a commit failed but may succeed later; nothing is lost in the meantime."""


class SensorError(JoulebookError):
    """Raised if a sensor returned no reading.

    `reason` is a short stable word for the label `reason`; `remedy` tells the administrator what to
    do.
    """

    def __init__(self, message: str, *, reason: str, remedy: str = "") -> None:
        super().__init__(message)
        self.reason = reason
        self.remedy = remedy


class SensorMissing(SensorError):
    """Raised if there is no such hardware or library."""


class SensorDenied(SensorError):
    """Raised if permission is missing."""


class SensorLost(SensorError):
    """Raised if the device or driver is gone until reset or reopened."""


class SensorRetry(SensorError):
    """Raised for failures that may be over at the next try."""


class SensorUnsupported(SensorError):
    """Raised if this device will never support the query."""


class InputError(JoulebookError):
    """Raised for rejected outside input; `reason` is the value of the label `reason`."""

    def __init__(self, message: str, *, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


class SourceError(JoulebookError):
    """Raised if a report's source (Prometheus, a collected ledger) cannot answer, with the
    reason.
    """


class HttpFailure(JoulebookError):
    """No answer that can be taken. The message names no address.

    `reason` is `unreachable`, `timeout`, `certificate`, `tls`, `broken`, `truncated`, `too_large`,
    `packed` or `address`.
    """

    def __init__(self, message: str, *, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


class FeedError(JoulebookError):
    """Raised if a feed returned nothing usable. The message has neither a key nor a URL's query."""

    def __init__(self, message: str, *, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


class FeedDown(FeedError):
    """Raised for failures that may be over at the next try."""


class FeedLimited(FeedError):
    """Raised if requests are too frequent; `retry_after_s` is the feed's demand (0: none)."""

    def __init__(self, message: str, *, retry_after_s: float = 0.0) -> None:
        super().__init__(message, reason="limited")
        self.retry_after_s = retry_after_s


class FeedDenied(FeedError):
    """Raised if a person must act."""


class FeedEmpty(FeedError):
    """Raised if the feed responds but has no data for that time."""

    def __init__(self, message: str) -> None:
        super().__init__(message, reason="no_data")


class FeedWrong(FeedError):
    """Raised if the response cannot be used."""
