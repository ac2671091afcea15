"""What a source of reports is: it gives an account of a stretch of time.

    ledgers.py      the ledgers of one node or of many, as files
    prometheus.py   Prometheus, and what speaks its API

A further source is one file with a class that has `name` and `account`. It selects where its data
is, so that a report on one experiment of a year reads that experiment; it adds nothing up that it
need not, and leaves out nothing in silence: what it cannot know it names in `Account.unknown`.
"""

from __future__ import annotations

from typing import Protocol

from joulebook.core.account import Account, Selection

FOREVER_S = 1 << 40
"""The end of a report that has none."""


class Source(Protocol):
    """Where a report is from."""

    @property
    def name(self) -> str:
        """What people are shown: `not known from NAME`."""

    def account(self, since_s: int, until_s: int, selection: Selection) -> Account:
        """What was booked in the quarter hours of [since, until), UTC seconds.

        Raises a `JoulebookError` that says what to do.
        """
