"""`joulebook.runs.figures`: what comes back in the last line of a training, whatever is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.unit.lab.leaderboard.test_misleading import books, consumed, job

from joulebook import runs
from joulebook.core.report.dataset import ReportData, Selection


class Books:
    """A source that has what it is given."""

    name = "test"

    def __init__(self, data: ReportData) -> None:
        self._data = data

    def account(self, since_s: int, until_s: int, selection: Selection) -> ReportData:
        return self._data


FIRST, AGAIN = job("500"), job("500", begin_h=50)


def test_of_a_job_that_is_not_there_nothing_comes() -> None:
    source = Books(books((FIRST, consumed(FIRST, 1))))
    with pytest.warns(UserWarning, match="nothing is booked to job 'nope' here"):
        assert runs.figures(job="nope", source=source) == {}
    with pytest.warns(UserWarning, match="nothing is booked to experiment 'nope'"):
        assert runs.figures(experiment="nope", source=Books(books())) == {}


def test_nothing_raises(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    with pytest.warns(UserWarning, match="give job= or experiment="):
        assert runs.figures() == {}
    with pytest.warns(UserWarning, match="no ledger at"):
        assert runs.figures(job="1", ledger=tmp_path / "none.db") == {}
    (tmp_path / "junk.db").write_text("not a ledger at all, but long enough to look like a file")
    with pytest.warns(UserWarning, match="no figures"):
        assert runs.figures(job="1", ledger=tmp_path / "junk.db") == {}


def test_one_node_of_two_is_marked(monkeypatch: pytest.MonkeyPatch) -> None:
    source = Books(books((FIRST, consumed(FIRST, 1))))
    monkeypatch.setenv("SLURM_JOB_ID", "500")
    monkeypatch.setenv("SLURM_JOB_NUM_NODES", "2")
    with pytest.warns(UserWarning, match="only part of the job's nodes"):
        found = runs.figures(source=source)
    assert found["energy_nodes_ratio"] == 0.5
    assert found["energy_kwh"] == 0.001
    # Of another job it is not known.
    assert "energy_nodes_ratio" not in runs.figures(experiment="bert", source=source)


def test_what_was_measured_in_part_is_marked() -> None:
    source = Books(books((FIRST, consumed(FIRST, 1, held_h=0.25))))
    found = runs.figures(job="500", source=source)
    assert found["energy_coverage_ratio"] == 0.25
    assert found["gpu_hours"] == 1


def test_of_two_jobs_of_one_number_the_later_is_meant() -> None:
    source = Books(books((FIRST, consumed(FIRST, 1)), (AGAIN, consumed(AGAIN, 2))))
    assert runs.figures(job="500", source=source)["energy_kwh"] == 0.002


def test_two_owners_of_an_experiment_are_not_added_up() -> None:
    import msgspec

    other = job("7")
    other = msgspec.structs.replace(other, labels=other.labels._replace(account="vision"))
    source = Books(books((FIRST, consumed(FIRST, 1)), (other, consumed(other, 2))))
    with pytest.warns(UserWarning, match="nlp, vision each have an experiment of that name"):
        assert runs.figures(experiment="bert", source=source) == {}
