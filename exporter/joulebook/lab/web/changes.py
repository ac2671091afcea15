"""The one way from a request to a change: of bills for administrators, of one's own results."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator

from joulebook.core.sanitize import clean_label
from joulebook.errors import ConfigError, InputError
from joulebook.lab import billing
from joulebook.lab.billing import WantedClose, WantedCorrection
from joulebook.lab.collected import months
from joulebook.lab.collected.database import Database
from joulebook.lab.collected.rollup import closed_to
from joulebook.lab.leaderboard.ranked import Asked
from joulebook.lab.web.grants import Grants
from joulebook.lab.web.result_view import number_of, parsed
from joulebook.lab.web.viewer import Viewer

_MOST_NAME = 80
_MOST_RESULTS = 50


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

    def keep_results(self, name: str, text: str, asked: Asked) -> int:
        """Keep results for the viewer's leaderboards, in the place of those of that name.

        Return their number. Raises `InputError`, and then nothing is changed.
        """
        who = self._known()
        if not name or name != clean_label(name) or len(name) > _MOST_NAME:
            raise InputError(
                f"name {name[:40]!r}: expected 1 to {_MOST_NAME} characters on a line",
                reason="name",
            )
        with _refused():
            if not parsed(text):
                raise ConfigError("results: no row")
        with self._database.transaction():
            closed_to(self._database)  # Whoever writes numbers them in turn.
            old = self._database.rows(
                "SELECT id FROM lab_results WHERE person = ? AND name = ?", [who, name]
            )
            ((count, last),) = self._database.rows(
                "SELECT count(CASE WHEN person = ? THEN 1 END), coalesce(max(id), 0)"
                " FROM lab_results",
                [who],
            )
            if not old and count >= _MOST_RESULTS:
                raise InputError(
                    f"{count} results of yours are kept: remove some first", reason="too_many"
                )
            number = int(old[0][0]) if old else int(last) + 1
            row = (number, who, name, text, json.dumps(asked), int(self._now_s()))
            self._database.rows("DELETE FROM lab_results WHERE id = ?", [number])
            self._database.rows("INSERT INTO lab_results VALUES (?, ?, ?, ?, ?, ?)", row)
        self._note(f"results {number} kept")
        return number

    def remove_results(self, board: str) -> None:
        """Remove results of the viewer's; administrators, anybody's. Raises `InputError`."""
        number = number_of(board)
        if not self._database.rows(
            "DELETE FROM lab_results WHERE id = ? AND (person = ? OR ? = 1) RETURNING id",
            [number, self._known(), int(self._viewer.admin)],
        ):
            raise InputError(f"no results {board[:80]!r} of yours", reason="missing")
        self._note(f"results {number} removed")

    def _known(self) -> str:
        if not self._viewer.user:
            raise InputError("log in first: joulebook acct --web", reason="unknown")
        return self._viewer.user

    def _admin(self) -> str:
        """Return the administrator's name. Raises `InputError` (`forbidden`)."""
        if not self._viewer.admin:
            raise InputError("only administrators change bills", reason="forbidden")
        return self._viewer.user

    def _note(self, what: str) -> None:
        Grants(self._database, self._now_s).note(self._viewer.user, self._viewer.how, what)


@contextlib.contextmanager
def _refused() -> Iterator[None]:
    """Raise `InputError` for what a person has to change."""
    try:
        yield
    except (ConfigError, ValueError) as error:
        raise InputError(str(error), reason="refused") from None
