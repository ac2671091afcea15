"""What a page or call asks of the ledger: as many questions for many jobs as for few.

Time is not measured: a question for each job, or each job's days read for a total, are what makes
a page slow with 20,000 jobs a day.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import pytest
from tests.unit.lab.collected.nodes import NOVEMBER_S, OCTOBER_S, Node
from tests.unit.lab.web.served import bearer, filled, served, uj

from joulebook.core.money.amounts import Exact
from joulebook.lab.collected.database import Database, Row
from joulebook.units import NS_PER_HOUR, NS_PER_S

FEW, MANY = 40, 160

TOTALS = (
    "/", "/?month=2026-10", "/?account=nlp", "/bills", "/bills/2026-11", "/api/v1/whoami",
    "/api/v1/months", "/api/v1/months/2026-11?by=experiment", "/api/v1/months/2026-11?by=user",
    "/api/v1/nodes", "/nodes", "/job/4", "/api/v1/jobs/4",
)  # fmt: skip
"""These read sums, or one job."""

LISTS = (
    "/me", "/jobs", "/jobs?month=2026-10", "/experiment?name=bert", "/advice",
    "/api/v1/advice/2026-11", "/api/v1/jobs?since=2026-11-01&until=2026-12-01",
    "/api/v1/statement?experiment=bert",
)  # fmt: skip
"""These read their jobs, and each once."""


class Asked(NamedTuple):
    """What a request asked of the ledger."""

    statements: int
    rows: int


def jobs(count: int) -> Node:
    """So many jobs of ada's and grace's in two months."""
    made = Node("n1", "a" * 32, "lab")
    for n in range(1, count + 1):
        begin_s = (NOVEMBER_S, OCTOBER_S)[n % 2] + 3600 + n * 900
        start_ns = begin_s * NS_PER_S
        made.label(
            f"{n}", "nlp", ("ada", "grace")[n // 2 % 2], ("bert", "vit")[n // 4 % 2],
            started_utc_ns=start_ns, ended_utc_ns=start_ns + NS_PER_HOUR, named=True, gpu_count=1,
        )  # fmt: skip
        made.burn(begin_s, uj(1), f"{n}", Exact(1, 0, 0), NS_PER_HOUR)
    return made


@pytest.fixture(scope="module")
def urls(tmp_path_factory: pytest.TempPathFactory) -> Sequence[str]:
    """Ledgers with few jobs and with many."""
    return [filled(tmp_path_factory.mktemp(f"{n}"), jobs(n)) for n in (FEW, MANY)]


def asked(url: str, user: str, path: str, patched: pytest.MonkeyPatch) -> Asked:
    """What a request asks, after another of the same."""
    found: list[int] = []
    real = Database.rows

    def rows(self: Database, sql: str, values: Sequence[object] = ()) -> list[Row]:
        answer = real(self, sql, values)
        found.append(len(answer))
        return answer

    with served(url, admins=("root",)) as client, patched.context() as patch:
        client.headers.update(bearer(url, user))
        assert client.get(path).status_code == 200
        patch.setattr(Database, "rows", rows)
        assert client.get(path).status_code == 200
    return Asked(len(found), sum(found))


@pytest.mark.parametrize(
    ("user", "path"),
    [
        (user, path)
        for user in ("root", "ada")
        for path in (*TOTALS, *LISTS)
        if user == "root" or "nodes" not in path
    ],
)
def test_questions_do_not_grow_with_jobs(
    urls: Sequence[str], user: str, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    few, many = (asked(url, user, path, monkeypatch) for url in urls)
    assert many.statements == few.statements
    if path in TOTALS:
        assert many.rows == few.rows
    else:
        assert many.rows <= few.rows * MANY / FEW
