"""`joulebook.runs.figures`: what comes back in the last line of a training, whatever is wrong."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace
from tests.unit.commands.ledger_sample import write_ledger
from tests.unit.node_stub import node

from joulebook import runs
from joulebook.lab.web import munge
from joulebook.run_figures import NodeRuns, RunFigures

KWH_UJ = 3_600_000_000_000
HOUR_NS = 3_600_000_000_000

FIRST = RunFigures(
    "500", "nlp", KWH_UJ // 1000, KWH_UJ // 10_000, HOUR_NS, HOUR_NS, {"counter": KWH_UJ // 1000},
    {"EUR": 250_000}, {"EUR": 1_000}, 358_000, ("n1",), 1,
)  # fmt: skip


@pytest.fixture(autouse=True)
def nothing_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SLURM_JOB_ID", "JOULEBOOK_LAB_URL", "JOULEBOOK_LEDGER_PATH", "JOULEBOOK_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("JOULEBOOK_SERVER_LISTEN", "127.0.0.1:1")  # where nothing listens


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Iterator[None]:
    with node(NodeRuns("n1", 1e9, request.param)) as server:
        monkeypatch.setenv("JOULEBOOK_SERVER_LISTEN", server.listen)
        yield


has = pytest.mark.parametrize


@has("asked", [(FIRST,)], indirect=True)
def test_all_that_is_known_is_told(asked: None) -> None:
    assert runs.figures(job="500") == {
        "energy_kwh": 0.001, "energy_idle_kwh": 0.0001, "gpu_hours": 1.0,
        "energy_measured_ratio": 1.0, "energy_coverage_ratio": 1.0, "co2e_g": 0.358,
        "cost_eur": 0.00025,
    }  # fmt: skip


@has("asked", [()], indirect=True)
def test_of_a_job_that_is_not_there_nothing_comes(asked: None) -> None:
    with pytest.warns(UserWarning, match="nothing is booked to job 'nope' here"):
        assert runs.figures(job="nope") == {}
    with pytest.warns(UserWarning, match="nothing is booked to experiment 'nope'"):
        assert runs.figures(experiment="nope") == {}


def test_nothing_raises(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.warns(UserWarning, match="give job= or experiment="):
        assert runs.figures() == {}
    with pytest.warns(UserWarning, match="nothing answers at 127.0.0.1:1"):
        assert runs.figures(job="1") == {}
    with pytest.warns(UserWarning, match="no ledger at"):
        assert runs.figures(job="1", ledger=tmp_path / "none.db") == {}
    (tmp_path / "junk.db").write_text("not a ledger at all, but long enough to look like a file")
    with pytest.warns(UserWarning, match="no figures"):
        assert runs.figures(job="1", ledger=tmp_path / "junk.db") == {}
    for url in ("http://", "ftp://x", "http://[", "http://n1:99999", "::", "http://x y/"):
        monkeypatch.setenv("JOULEBOOK_URL", url)
        with pytest.warns(UserWarning, match="no figures"):
            assert runs.figures(job="1") == {}


@has(
    "answer",
    [
        b"",
        b"<html>",
        b"[]",
        b'{"node":1}',
        b"\xff",
        b'{"node":"n","booked_to_utc_s":"x"}',
        404,
        500,
    ],
)
def test_a_server_that_answers_something_else_raises_nothing(
    answer: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    with node(lambda path, query: answer) as server:
        monkeypatch.setenv("JOULEBOOK_URL", server.listen)
        with pytest.warns(UserWarning, match="no figures"):
            assert runs.figures(job="1") == {}


def test_a_program_that_makes_errors_of_warnings_ends_as_well() -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c",
         "import joulebook.runs; print(joulebook.runs.figures(job='1'))"],
        env={"PYTHONPATH": ":".join(sys.path), "JOULEBOOK_SERVER_LISTEN": "127.0.0.1:1"},
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    assert done.stdout == "{}\n"
    assert done.stderr.startswith("joulebook: no figures: nothing answers at 127.0.0.1:1")


@has("asked", [(FIRST,)], indirect=True)
def test_one_node_of_two_is_marked(asked: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "500")
    monkeypatch.setenv("SLURM_JOB_NUM_NODES", "2")
    with pytest.warns(UserWarning, match="only part of the job's nodes"):
        found = runs.figures()
    assert (found["energy_nodes_ratio"], found["energy_kwh"]) == (0.5, 0.001)
    # Of another job, and of an experiment, that is not known.
    assert "energy_nodes_ratio" not in runs.figures(job="7")
    assert "energy_nodes_ratio" not in runs.figures(experiment="bert")


@has("asked", [(replace(FIRST, node_count=2),)], indirect=True)
def test_one_node_of_two_is_marked_as_the_node_says_it(asked: None) -> None:
    with pytest.warns(UserWarning, match="only part of the job's nodes"):
        assert runs.figures(job="500")["energy_nodes_ratio"] == 0.5


@has("asked", [(replace(FIRST, known_ns=HOUR_NS // 4),)], indirect=True)
def test_what_was_measured_in_part_is_marked(asked: None) -> None:
    found = runs.figures(job="500")
    assert (found["energy_coverage_ratio"], found["gpu_hours"]) == (0.25, 1)


@has("asked", [(FIRST, replace(FIRST, energy_uj=2 * FIRST.energy_uj))], indirect=True)
def test_of_two_jobs_of_one_number_the_later_is_meant(asked: None) -> None:
    assert runs.figures(job="500")["energy_kwh"] == 0.002


@has("asked", [(FIRST, replace(FIRST, name="500.r1", co2e_ug=None))], indirect=True)
def test_requeues_add_up_and_what_is_unknown_of_one_is_unknown(asked: None) -> None:
    found = runs.figures(job="500")
    assert found["energy_kwh"] == 0.002
    assert found["cost_eur"] == 0.0005
    assert "co2e_g" not in found


@has("asked", [(FIRST, replace(FIRST, name="7", owner="vision"))], indirect=True)
def test_two_owners_of_an_experiment_are_not_added_up(asked: None) -> None:
    with pytest.warns(UserWarning, match="nlp, vision each have an experiment of that name"):
        assert runs.figures(experiment="bert") == {}
    assert runs.figures(experiment="bert", account="nlp")["energy_kwh"] == 0.002


def test_another_daemon_is_asked_with_a_password(monkeypatch: pytest.MonkeyPatch) -> None:
    with node(NodeRuns("n1", 1e9, (FIRST,))) as server:
        monkeypatch.setenv("JOULEBOOK_URL", f"http://ada@{server.listen}/proxy/")
        monkeypatch.setenv("JOULEBOOK_PASSWORD", "secret")
        assert runs.figures(job="500")["energy_kwh"] == 0.001
    assert server.asked == [("/proxy/v1/runs", {"job": "500"}, "Basic YWRhOnNlY3JldA==")]


def lab_job(name: str, energy_uj: int) -> dict[str, object]:
    told = {
        "energy_uj": energy_uj, "idle_uj": 0, "held_ns": HOUR_NS, "cost": {"EUR": "0.25"},
        "idle_cost": {}, "co2e_kg": "0.000358", "energy_kwh": "1", "gpu_hours": "1",
    }  # fmt: skip
    return {"id": name, "account": "nlp", "user": "ada", "figures": told, "more": 1}


def test_the_lab_server_is_asked_where_no_daemon_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    def answer(path: str, query: dict[str, str]) -> object:
        if path.startswith("/api/v1/jobs/"):
            return [lab_job("500", KWH_UJ)]
        further = query.get("after", "")
        return {"jobs": [lab_job(f"7{further}", KWH_UJ)], "next": "" if further else "x"}

    with node(answer) as server:
        monkeypatch.setenv("JOULEBOOK_LAB_TOKEN", "abc")
        monkeypatch.setenv("JOULEBOOK_LAB_URL", f"http://{server.listen}/")
        one = runs.figures(job="500+1")
        both = runs.figures(experiment="bert", lab=f"http://{server.listen}")
    assert one == {
        "energy_kwh": 1.0, "energy_idle_kwh": 0.0, "gpu_hours": 1.0, "co2e_g": 0.358,
        "cost_eur": 0.25,
    }  # fmt: skip
    assert (both["energy_kwh"], both["cost_eur"]) == (2.0, 0.5)
    assert {header for *_, header in server.asked} == {"Bearer abc"}
    assert server.asked[0][0] == "/api/v1/jobs/500%2B1"


def test_a_login_by_munge_is_what_the_lab_server_expects() -> None:
    url, nonce = "http://lab:9817", "abc"
    assert runs.payload(url, nonce) == munge.payload(url, nonce)


def test_a_ledger_is_read_where_it_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_ledger(tmp_path / "n1.db")
    found = runs.figures(job="101", ledger=f"n1={tmp_path}/n1.db")
    assert found["energy_kwh"] == pytest.approx(0.05)
    assert found["energy_measured_ratio"] == 1
    monkeypatch.setenv("JOULEBOOK_LEDGER_PATH", str(tmp_path / "n1.db"))
    assert runs.figures(job="101") == found
    assert runs.figures(job="300")["energy_kwh"] == pytest.approx(0.01)  # two runs, requeued
    sweep = runs.figures(job="200")
    assert sweep["energy_kwh"] == pytest.approx(82_500 / 3.6e6)
