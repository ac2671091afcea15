"""The one way from a request to a change of the collected ledger: for administrators, on record."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from joulebook.errors import ConfigError, InputError
from joulebook.lab import billing
from joulebook.lab.billing import WantedClose, WantedCorrection
from joulebook.lab.collected import months
from joulebook.lab.collected.database import Database
from joulebook.lab.web.viewer import Viewer


class LabChanges:
    """What one viewer may change in one open database."""

    def __init__(self, database: Database, viewer: Viewer, now_s: Callable[[], float]) -> None:
        self._database = database
        self._viewer = viewer
        self._now_s = now_s

    def close(self, wanted: WantedClose) -> None:
        """Close a month permanently. Raises `InputError`, and then nothing is changed."""
        who, shown = self._admin(), months.shown(wanted.month)
        with _refused():
            now_s = int(self._now_s())
            late = billing.close(self._database, wanted, who, now_s, self._viewer.how)
        if late:
            names = ", ".join(node for node, _ in late[:5]) + ", ..." * (len(late) > 5)
            raise InputError(
                f"{shown} is not closed: {len(late)} nodes have yet to report some of it "
                f"({names}), which would become late entries of the next month. Collect them "
                "first, or close it anyway",
                reason="behind",
            )

    def correct(self, wanted: WantedCorrection) -> tuple[int, int]:
        """Write a correction; return its number and its month.

        Raises `InputError`, and then nothing is changed.
        """
        who = self._admin()
        with _refused():
            now_s = int(self._now_s())
            number, month, _, _ = billing.correct(
                self._database, wanted, who, now_s, self._viewer.how
            )
        return number, month

    def _admin(self) -> str:
        """Return the administrator's name. Raises `InputError` (`forbidden`)."""
        if not self._viewer.admin:
            raise InputError("only administrators change bills", reason="forbidden")
        return self._viewer.user


@contextlib.contextmanager
def _refused() -> Iterator[None]:
    """Raise `InputError` for what a person has to change."""
    try:
        yield
    except (ConfigError, ValueError) as error:
        raise InputError(str(error), reason="refused") from None
