"""Callbacks against the interface of their frameworks, which are stood in for here.

`tests/integration/test_frameworks.py` has the real ones, nightly.
"""

from __future__ import annotations

import importlib
import sys
import types
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from tests.unit.node_stub import NodeStub, node

from joulebook.callbacks import ranks
from joulebook.run_figures import NodeRuns, RunFigures
from joulebook.warn_once import say_once

KWH_UJ = 3_600_000_000_000
BOOKED = RunFigures(
    "span", "ada", KWH_UJ, 0, 0, None, {"counter": KWH_UJ}, nodes=("n1",), node_count=1,
    ended_utc_s=1.0,
)  # fmt: skip
OTHER = RunFigures("other", "ada", 2 * KWH_UJ, methods={"counter": 2 * KWH_UJ}, nodes=("n2",))


@pytest.fixture(autouse=True)
def daemon(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[NodeStub]:
    say_once.cache_clear()
    for name in ("SLURM_JOB_ID", "JOULEBOOK_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("JOULEBOOK_MARKS_DIR", str(tmp_path))
    with node(NodeRuns("n1", 4e9, (BOOKED,))) as server:
        monkeypatch.setenv("JOULEBOOK_SERVER_LISTEN", server.listen)
        yield server


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Load a callback with its framework stood in for."""

    def load(name: str, framework: str, **has: object) -> Any:
        parts = framework.split(".")
        for n in range(1, len(parts) + 1):
            monkeypatch.setitem(sys.modules, ".".join(parts[:n]), types.ModuleType(parts[n - 1]))
        vars(sys.modules[framework]).update(has)
        monkeypatch.delitem(sys.modules, f"joulebook.callbacks.{name}", raising=False)
        return importlib.import_module(f"joulebook.callbacks.{name}")

    return load


def test_hugging_face(loaded: Callable[..., Any], capsys: pytest.CaptureFixture[str]) -> None:
    made = loaded("hugging_face", "transformers", TrainerCallback=type("TrainerCallback", (), {}))
    callback = made.EnergyCallback("bert")
    state = types.SimpleNamespace(log_history=[], global_step=7, is_world_process_zero=True)
    args = (object(), state, object())
    callback.on_train_begin(*args, model=None)
    run = callback.run
    for _ in range(2):
        callback.on_epoch_begin(*args, model=None)
        callback.on_epoch_end(*args, model=None)
    callback.on_epoch_begin(*args)  # one that is broken off
    callback.on_train_end(*args, model=None)
    assert run.energy_kwh == callback.figures["energy_kwh"] == 1
    assert state.log_history == [{"step": 7, **callback.figures}]
    said = capsys.readouterr().out
    assert said == ("joulebook: bert: 1 kWh (0 Wh idle); 100% measured by the energy counter\n")
    callback.on_train_end(*args)  # and again, without a training
    assert len(state.log_history) == 1


@pytest.mark.parametrize(
    "framework", ["lightning.pytorch.callbacks", "pytorch_lightning.callbacks"]
)
def test_lightning(
    loaded: Callable[..., Any], framework: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if framework.startswith("pytorch"):
        monkeypatch.setitem(sys.modules, "lightning", None)
    made = loaded("lightning", framework, Callback=type("Callback", (), {}))
    logged: list[tuple[dict[str, float], int]] = []
    logger = types.SimpleNamespace(log_metrics=lambda metrics, step: logged.append((metrics, step)))
    trainer = types.SimpleNamespace(is_global_zero=True, loggers=[logger], global_step=7)
    callback = made.EnergyCallback("bert")
    callback.on_train_start(trainer, None)
    callback.on_train_epoch_start(trainer, None)
    callback.on_train_epoch_end(trainer, None)
    callback.on_train_end(trainer, None)
    assert logged == [(callback.figures, 7)]
    assert callback.figures["energy_kwh"] == 1
    callback.on_train_start(trainer, None)
    callback.on_train_epoch_start(trainer, None)
    callback.on_exception(trainer, None, KeyboardInterrupt())
    callback.on_train_end(trainer, None)
    assert len(logged) == 1


@pytest.mark.filterwarnings("ignore:joulebook")
def test_mlflow(loaded: Callable[..., Any]) -> None:
    logged: dict[str, object] = {}
    active: list[object] = [object()]
    made = loaded(
        "mlflow",
        "mlflow",
        active_run=lambda: active[0],
        log_metrics=logged.update,
        set_tag=logged.__setitem__,
    )
    with made.energy("bert") as run:
        pass
    assert logged["energy_kwh"] == run.energy_kwh == 1
    assert logged["joulebook.workload"] == "span"
    active[0] = None
    logged.clear()
    with made.energy("bert"):
        pass
    assert logged == {}
    with pytest.raises(KeyError), made.energy("bert"):
        raise KeyError("loss")
    active[0] = object()
    sys.modules["mlflow"].log_metrics = None  # type: ignore[attr-defined]
    with made.energy("bert"):  # the tracking server is down
        pass


def distributed(monkeypatch: pytest.MonkeyPatch, *every: object) -> None:
    def gather(into: list[object], own: object) -> None:
        into[:] = [own, *every]

    module = types.ModuleType("torch.distributed")
    vars(module).update(
        is_available=lambda: True, is_initialized=lambda: True, all_gather_object=gather,
        get_world_size=lambda: 1 + len(every),
    )  # fmt: skip
    monkeypatch.setitem(sys.modules, "torch.distributed", module)


def energy_kwh(found: RunFigures | None) -> float:
    assert found is not None
    return found.energy_kwh


def test_the_ranks_of_a_machine_without_a_scheduler_are_added_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert ranks.added_up(BOOKED) == BOOKED
    assert ranks.added_up(None) is None
    distributed(monkeypatch, ("", "n1", BOOKED), ("", "n2", OTHER))
    found = ranks.added_up(BOOKED)
    assert energy_kwh(found) == 4
    assert found is not None and found.nodes == ("n1", "n2")


def test_in_a_job_the_ranks_of_a_node_count_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "500")
    monkeypatch.setattr("socket.gethostname", lambda: "n1")
    distributed(monkeypatch, ("500", "n1", BOOKED), ("500", "n2", OTHER), ("500", "n2", OTHER))
    assert energy_kwh(ranks.added_up(BOOKED)) == 3


def test_ranks_of_which_nothing_is_known_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    distributed(monkeypatch, ("", "n2", None))
    with pytest.warns(UserWarning, match="figures of 1 of 2 ranks"):
        assert energy_kwh(ranks.added_up(BOOKED)) == 1
    sys.modules["torch.distributed"].all_gather_object = None  # type: ignore[attr-defined]
    with pytest.warns(UserWarning, match="figures of this rank alone"):
        assert energy_kwh(ranks.added_up(BOOKED)) == 1


def test_each_is_short() -> None:
    from pathlib import Path

    for path in Path(ranks.__file__).parent.glob("*.py"):
        assert len(path.read_text().splitlines()) < 80, path.name
