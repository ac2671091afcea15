"""What a program is told of its run: whole, with how much of it is booked, and nobody else's."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.unit.commands.ledger_sample import write_ledger

from joulebook.errors import InputError, LedgerError
from joulebook.ledger.run_answer import answer


@pytest.fixture(scope="module")
def ledger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("ledger") / "ledger.db"
    write_ledger(path)
    return path


def test_a_job_by_its_number(ledger: Path) -> None:
    found = answer(ledger, "n1", {"job": "101"})
    (run,) = found.runs
    assert (run.name, run.energy_uj, run.nodes) == ("101", 180_000_000_000, ("n1",))
    assert run.methods == {"counter": run.energy_uj}
    assert run.ended_utc_s is not None and found.booked_to_utc_s >= run.ended_utc_s
    assert run.known_ns == run.gpu_ns == 600 * 10**9


def test_requeues_tasks_and_experiments(ledger: Path) -> None:
    assert {run.name for run in answer(ledger, "n1", {"job": "300"}).runs} == {"300", "300.r1"}
    assert {run.name for run in answer(ledger, "n1", {"job": "300.r1"}).runs} == {"300.r1"}
    assert len(answer(ledger, "n1", {"job": "200"}).runs) == 11
    assert len(answer(ledger, "n1", {"job": "200_7"}).runs) == 1
    assert answer(ledger, "n1", {"experiment": "bert-base", "user": "nobody"}).runs == ()
    assert len(answer(ledger, "n1", {"experiment": "bert-base"}).runs) >= 2


def test_of_nothing_it_tells_up_to_when_all_is_booked(ledger: Path) -> None:
    found = answer(ledger, "n1", {"job": "nope"})
    assert found.runs == () and found.booked_to_utc_s > 0


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ({}, "expected job=ID or experiment=NAME"),
        ({"user": "ada"}, "expected job=ID or experiment=NAME"),
        ({"job": ""}, "expected job=ID or experiment=NAME"),
        ({"job": "1", "x": "1"}, "x: expected one of job, experiment, user, account"),
        ({"job": "1" * 257}, "job: more than 256 characters"),
    ],
)
def test_a_query_that_means_nothing_is_refused(
    ledger: Path, query: dict[str, str], said: str
) -> None:
    with pytest.raises(InputError) as caught:
        answer(ledger, "n1", query)
    assert str(caught.value) == said


def test_wildcards_of_the_database_select_nothing(ledger: Path) -> None:
    for job in ("%", "10_", "1%", "'", "101' OR '1'='1", "\x00"):
        assert answer(ledger, "n1", {"job": job}).runs == ()


def test_without_a_ledger_it_says_so(tmp_path: Path) -> None:
    with pytest.raises(LedgerError):
        answer(tmp_path / "none.db", "n1", {"job": "1"})
