"""`joulebook report --wait`: what was consumed up to now is booked before it is reported."""

from __future__ import annotations

import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from joulebook.commands.report.source import bring_up_to_date
from joulebook.config import Config
from joulebook.core.report.dataset import ReportData, Selection
from joulebook.errors import ConfigError
from joulebook.lab.report.prometheus import PrometheusSource
from joulebook.lab.report.prometheus_api import Access, PrometheusApi

NOW_S = 1_767_225_600


class Daemon:
    """A node whose ledger is booked up to a later second at each look."""

    name = "ledger of n1"

    def __init__(self, booked_s: Iterator[int]) -> None:
        self._booked_s = booked_s
        self.looks = 0

    def account(self, since_s: int, until_s: int, selection: Selection) -> ReportData:
        self.looks += 1
        return ReportData(self.name, since_s, until_s, known_until_s={"n1": next(self._booked_s)})


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [float(NOW_S)]
    monkeypatch.setattr(time, "time", lambda: now[0])
    monkeypatch.setattr(time, "sleep", lambda s: now.__setitem__(0, now[0] + s))


def options(**given: Any) -> Any:
    return SimpleNamespace(**{"ledger": [], "collected": None, **given})


def test_it_waits_until_everything_up_to_now_is_booked(
    capsys: pytest.CaptureFixture[str],
) -> None:
    daemon = Daemon(iter(range(NOW_S - 3, NOW_S + 60)))
    bring_up_to_date(daemon, options(), Config())
    assert daemon.looks == 4
    assert capsys.readouterr().err == ""


def test_a_daemon_that_stands_still_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    daemon = Daemon(iter([NOW_S - 100] * 100))
    bring_up_to_date(daemon, options(), Config())
    assert daemon.looks == 61
    assert "has not booked all within 60 s" in capsys.readouterr().err


def test_copies_and_prometheus_cannot_be_brought_up_to_date() -> None:
    prometheus = PrometheusSource(PrometheusApi("http://localhost:1", Access()))
    for asked, given in (
        (prometheus, options()),
        (Daemon(iter(())), options(ledger=["n1=copy.db"])),
    ):
        with pytest.raises(ConfigError, match="--wait"):
            bring_up_to_date(asked, given, Config())
