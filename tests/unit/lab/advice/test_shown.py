"""Advice as gauges, over HTTP, and as people read it."""

from __future__ import annotations

import functools
import threading
from datetime import UTC, datetime
from pathlib import Path

import pytest
from tests.unit.lab.advice.ledger import filled
from tests.unit.lab.web.served import bearer, served

from joulebook.errors import LedgerUnavailable
from joulebook.lab.advice.metrics import ADVICE, AdviceGauges
from joulebook.lab.collected.database import Database, connect
from joulebook.metrics.exposition import Renderer


def _gauges(gauges: AdviceGauges) -> dict[str, float]:
    lines = "".join(Renderer("").block(each).lines for each in gauges.families())
    return {
        name: float(value)
        for name, _, value in (line.rpartition(" ") for line in lines.split("\n") if line)
    }


def test_the_gauges_are_of_the_month_before(tmp_path: Path) -> None:
    december_s = datetime(2026, 12, 5, tzinfo=UTC).timestamp()
    connected = functools.partial(connect, filled(tmp_path))
    gauges = AdviceGauges(connected, now_s=lambda: december_s)
    assert _gauges(gauges) == {}  # nothing was computed yet
    gauges.once()
    found = _gauges(gauges)
    name = 'joulebook_advice_{}{{cluster="lab",account="nlp",kind="unused_gpus"{}}}'
    assert found[name.format("energy_joules", "")] == 12 * 360_000
    assert found[name.format("cost", ',currency="EUR"')] == pytest.approx(23 * 12 / 21, rel=1e-6)
    assert not [each for each in found if "memory" in each or "time_limit" in each]
    assert {each.metric for each in gauges.families()} == set(ADVICE)
    later = AdviceGauges(connected, now_s=lambda: december_s + 40 * 86_400)
    later.once()
    assert _gauges(later) == {
        "joulebook_advice_computed_timestamp_seconds": december_s + 40 * 86_400
    }


@pytest.mark.parametrize("error", [LedgerUnavailable("it is away"), ValueError("it is away")])
def test_a_ledger_that_is_away_or_odd_ends_nothing(
    caplog: pytest.LogCaptureFixture, error: Exception
) -> None:
    stop = threading.Event()

    def away() -> Database:
        stop.set()
        raise error

    AdviceGauges(away).run(stop)
    assert "it is away" in caplog.text


def test_over_http_and_as_a_page(tmp_path: Path) -> None:
    url = filled(tmp_path)
    with served(url, admins=("root",)) as client:
        client.headers.update(bearer(url, "root"))
        answer = client.get("/api/v1/advice/2026-11").json()
        first = answer["advice"][0]
        assert (first["kind"], first["account"], first["user"]) == ("unused_gpus", "nlp", "ada")
        assert first["saving"]["kwh"] == "1.200000000"
        assert first["saving"]["money"]["EUR"].startswith("13.14")
        assert [each["job"] for each in first["jobs"]] == ["101"]
        assert answer["missing"] == []
        only = client.get("/api/v1/advice/2026-11?account=vision").json()["advice"]
        assert {each["account"] for each in only} == {"vision"}
        assert client.get("/api/v1/advice/2026-11?sort=size").status_code == 422
        text = client.get("/advice?month=2026-11").text
        assert text.index("GPUs that were not used") < text.index("A later start")
        assert "not claimed" in text
        assert 'href="/job/101"' in text
        assert "Nothing to save was found in 2026-09" in client.get("/advice?month=2026-09").text
        to_come = client.get("/api/v1/advice/2199-12").json()
        assert to_come == {"month": "2199-12", "advice": [], "missing": []}
        # Nanoseconds of which fit into no database.
        for page in ("advice", "bills"):
            assert client.get(f"/api/v1/{page}/2300-01").status_code == 422
            assert client.get(f"/api/v1/{page}/2199-12").is_success
        client.headers.update(bearer(url, "bob"))
        text = client.get("/advice?month=2026-11").text
        assert "vit" in text
        assert "bert" not in text
    with served(url) as client:
        assert client.get("/advice").status_code == 401
