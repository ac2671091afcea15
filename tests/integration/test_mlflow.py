"""A real MLflow tracking store, sqlite and files: read for the leaderboard, written back to."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from tests.unit.commands.ledger_sample import MINUTES, write_ledger

from joulebook import runs
from joulebook.cli import main
from joulebook.errors import ConfigError
from joulebook.mlflow_store import client

pytestmark = pytest.mark.timeout(180)


@pytest.fixture(scope="module")
def ledger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("ledger") / "n1.db"
    write_ledger(path)
    return path


@pytest.fixture
def environment(ledger: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JOULEBOOK_LEDGER_PATH", str(ledger))
    monkeypatch.setenv("JOULEBOOK_NODE_NAME", "n1")
    monkeypatch.setenv("COLUMNS", "160")


@pytest.fixture(scope="module")
def sqlite(tmp_path_factory: pytest.TempPathFactory) -> str:
    """An empty store; its tables take a while to be made, so it is made once."""
    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    path.touch()
    uri = f"sqlite:///{path}"
    with client(uri) as store:
        store.search_experiments()
    return uri


def log(uri: str, experiment: str, tags: dict[str, str], **metrics: float) -> str:
    """A run as a training script logs it; its id."""
    with client(uri) as store:
        known = store.get_experiment_by_name(experiment)
        number = known.experiment_id if known else store.create_experiment(experiment)
        run = store.create_run(number, tags=tags)
        for name, value in metrics.items():
            store.log_metric(run.info.run_id, name, value)
        store.set_terminated(run.info.run_id)
        return str(run.info.run_id)


def metrics(uri: str, run_id: str) -> dict[str, float]:
    with client(uri) as store:
        return dict(store.get_run(run_id).data.metrics)


def shown(uri: str, run_id: str) -> str:
    """A run of the experiment `bert` as people are shown it: by its name."""
    with client(uri) as store:
        return f"bert / {store.get_run(run_id).info.run_name} ({run_id[:6]})"


def said(capsys: pytest.CaptureFixture[str], *args: str) -> dict[str, Any]:
    assert main([*args, "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_a_leaderboard_of_tracked_runs_and_their_figures_written_back(
    sqlite: str, environment: None, capsys: pytest.CaptureFixture[str]
) -> None:
    bert = log(sqlite, "bert", {"slurm_job_id": "101"}, accuracy=0.9, loss=0.3, flops=1e18)
    again = log(sqlite, "bert", {"SLURM_JOB_ID": "300"}, accuracy=0.93, loss=0.2)
    lost = log(sqlite, "bert", {"slurm_job_id": "99999"}, accuracy=0.8)
    log(sqlite, "other", {}, f1=0.5)

    found = said(
        capsys, "leaderboard", "--mlflow", sqlite, "--metric", "accuracy", "--experiment", "bert"
    )
    (board,) = found["boards"]
    by_name = {each["name"]: each for each in board["results"]}
    first = by_name[shown(sqlite, bert)]
    assert first["energy_kwh"] == pytest.approx(0.05, rel=0.001), "600 s at 300 W"
    assert first["joined_by"] == "tag" and first["flops"] == 1e18
    # Both runs of the requeued job count: 2 x 60 s at 300 W.
    assert by_name[shown(sqlite, again)]["energy_kwh"] == pytest.approx(0.01, rel=0.001)
    assert by_name[shown(sqlite, again)]["runs"] == 2
    assert [each["result"] for each in found["without_energy"]] == [shown(sqlite, lost)]
    assert board["metric"]["unit"] == "ratio"

    dry = said(capsys, "mlflow", sqlite, "--dry-run")
    assert "energy_kwh" not in metrics(sqlite, bert) and len(dry["runs"]) == 2
    written = said(capsys, "mlflow", sqlite)
    assert [each["new"] for each in written["runs"]] == [True, True]
    stored = metrics(sqlite, bert)
    assert stored["energy_kwh"] == pytest.approx(0.05, rel=0.001)
    assert stored["gpu_hours"] == pytest.approx(600 / 3600, rel=0.001)
    assert stored["energy_measured_ratio"] == 1 and stored["accuracy"] == 0.9
    with client(sqlite) as store:
        tags = store.get_run(bert).data.tags
    assert tags["joulebook.workload"] == "slurm/101" and tags["joulebook.joined_by"] == "tag"
    assert [each["new"] for each in said(capsys, "mlflow", sqlite)["runs"]] == [False, False]
    with client(sqlite) as store:
        assert len(store.get_metric_history(bert, "energy_kwh")) == 1, "not written twice"
    assert main(["mlflow", sqlite]) == 0
    text = capsys.readouterr().out
    assert "has it" in text and "no job has its id" in text


def test_runs_without_an_id_are_joined_by_time_and_host_and_say_so(
    sqlite: str, environment: None, capsys: pytest.CaptureFixture[str]
) -> None:
    # Job 101 ran from the 60th to the 660th second.
    began_ms = int((time.time() - MINUTES * 60 + 60) * 1000)
    with client(sqlite) as store:
        number = store.create_experiment("inferred")
        run = store.create_run(number, start_time=began_ms, tags={"host": "n1.lab"})
        store.log_metric(run.info.run_id, "accuracy", 0.7)
        store.set_terminated(run.info.run_id, end_time=began_ms + 600_000)
    args = ("--mlflow", sqlite, "--experiment", "inferred")
    (board,) = said(capsys, "leaderboard", *args)["boards"]
    (result,) = board["results"]
    assert result["inferred"] and result["energy_kwh"] == pytest.approx(0.05, rel=0.05)
    assert main(["leaderboard", *args]) == 0
    text = capsys.readouterr().out
    assert "inferred from time and host" in text
    assert "that this energy belongs to these results is inferred" in text


def test_a_store_of_files_and_a_dictionary_for_wandb(
    tmp_path: Path, environment: None, ledger: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = str(tmp_path / "mlruns")
    run = log(uri, "files", {}, accuracy=0.9)
    figures = runs.log_energy(run, job="101", tracking_uri=uri, ledger=f"n1={ledger}")
    assert metrics(uri, run) == {"accuracy": 0.9, **figures}
    assert figures == runs.figures(job="101")
    assert figures["energy_kwh"] == pytest.approx(0.05, rel=0.001)
    assert all(type(value) is float for value in figures.values())
    sweep = runs.figures(experiment="sweep")
    assert sweep["gpu_hours"] == pytest.approx(11 * 30 / 3600, rel=0.01)
    with pytest.warns(UserWarning, match="nothing is booked"):
        assert runs.figures(job="no such job") == {}
    monkeypatch.setenv("SLURM_JOB_ID", "101")
    assert runs.figures() == figures
    monkeypatch.delenv("SLURM_JOB_ID")
    with pytest.warns(UserWarning, match="no SLURM_JOB_ID"):
        assert runs.figures() == {}
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(ConfigError, match="set MLFLOW_TRACKING_URI"):
        runs.log_energy(run, job="101")


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("sqlite:////proc/no/such.db", "no file /proc/no/such.db"),
        ("nosuch://host/x", "MLflow at nosuch://host/x"),
        ("sqlite:////proc/self/status", "MLflow at sqlite"),
    ],
)
def test_a_store_that_cannot_be_read_is_named(
    uri: str, message: str, environment: None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["leaderboard", "--mlflow", uri]) == 2
    assert message in capsys.readouterr().err


def test_a_missing_experiment_names_those_that_there_are(
    sqlite: str, environment: None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["leaderboard", "--mlflow", sqlite, "--experiment", "nix"]) == 2
    assert "no experiment 'nix'; has: Default" in capsys.readouterr().err


def test_nothing_loads_mlflow_unless_it_is_asked_for(environment: None) -> None:
    code = (
        "import sys, joulebook.cli, joulebook.commands.leaderboard as c; "
        "joulebook.cli.main(['leaderboard', '--demo', '--gpu', 'a40', '--format', 'csv']); "
        "assert not {'mlflow', 'PIL', 'sqlalchemy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)
