"""Results of leaderboards that a viewer may see: their own, and what of the site's is theirs."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import msgspec

from joulebook.core.report.dataset import ReportData, Selection
from joulebook.errors import ConfigError, InputError
from joulebook.lab.leaderboard.formats import Leaderboard
from joulebook.lab.leaderboard.join import matches
from joulebook.lab.leaderboard.mlflow import read_runs
from joulebook.lab.leaderboard.model_card import parse_card, read_card
from joulebook.lab.leaderboard.ranked import Asked, ranked
from joulebook.lab.leaderboard.results import Result, parse_csv, read_csv
from joulebook.lab.report.sources import FOREVER_S
from joulebook.lab.web.view import LabView

_ASKED = msgspec.json.Decoder(Asked)
_CARDS = (".md", ".yaml", ".yml")

SITE = "site:"
"""Begins the names of results that the site links in `[lab.results]`."""


class ResultSet(NamedTuple):
    """Results that somebody uploaded; those of the site have no owner and no time."""

    id: str
    name: str
    owner: str
    made_s: int = 0


def parsed(text: str) -> list[Result]:
    """Return the results in CSV or in a model card. Raises `ConfigError`."""
    if text.lstrip().startswith("---"):
        return parse_card(Path("results.md"), text.lstrip())
    return parse_csv(Path("results"), text)


def number_of(board: str) -> int:
    """Return the number of results that somebody uploaded; 0: it is none."""
    return int(board) if re.fullmatch("[1-9][0-9]{0,8}", board) else 0


def of_site(place: str) -> list[Result]:
    """Return the results in a file, or an MLflow store, of the site's. Raises `ConfigError`."""
    if "://" in place:
        return read_runs(place)
    path = Path(place)
    return read_card(path) if path.suffix.lower() in _CARDS else read_csv(path)


class ResultView(LabView):
    """The questions on leaderboards that a viewer may ask an open database."""

    def result_sets(self, linked: Mapping[str, str]) -> list[ResultSet]:
        """Return the viewer's own results, and the names of the site's."""
        where, values = ("1 = 1", []) if self.viewer.admin else ("person = ?", [self.viewer.user])
        rows = self._database.rows(
            f"SELECT id, name, person, made_s FROM lab_results WHERE {where} ORDER BY name, id",  # noqa: S608
            values,
        )
        own = [ResultSet(str(number), *more) for number, *more in rows]
        return [*own, *(ResultSet(f"{SITE}{name}", name, "") for name in sorted(linked))]

    def leaderboard(self, board: str, linked: Mapping[str, str]) -> tuple[str, Leaderboard]:
        """Return the name and the leaderboard of some results.

        Of the site's results only those that are joined to runs of the viewer's. Raises
        `InputError`.
        """
        try:
            if board.startswith(SITE):
                name = board.removeprefix(SITE)
                if name not in linked:
                    raise InputError(f"no results {board[:80]!r}", reason="missing")
                results, asked = of_site(linked[name]), Asked()
                data = self._data(results)
                if not self.viewer.admin:
                    results = [match.result for match in matches(results, data)[0] if match.found]
            else:
                name, results, asked = self._own(board)
                data = self._data(results)
            return name, ranked(results, asked, lambda: data)
        except ConfigError as error:
            raise InputError(str(error).replace("--", ""), reason="results") from None

    def _own(self, board: str) -> tuple[str, list[Result], Asked]:
        rows = self._database.rows(
            "SELECT name, text, asked FROM lab_results WHERE id = ? AND (person = ? OR ? = 1)",
            [number_of(board), self.viewer.user, int(self.viewer.admin)],
        )
        if not rows:
            raise InputError(f"no results {board[:80]!r} of yours", reason="missing")
        name, text, asked = rows[0]
        return str(name), parsed(text), _ASKED.decode(asked)

    def _data(self, results: list[Result]) -> ReportData:
        """Return what results can be joined to: the runs of their experiments, or all."""
        named = frozenset(result.experiment for result in results)
        wanted = Selection(experiments=named) if named and "" not in named else Selection()
        return self.dataset(0, FOREVER_S, wanted)
