"""Callbacks under the real Hugging Face Trainer, Lightning and MLflow, on a CPU."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.unit.node_stub import NodeStub, node

from joulebook.run_figures import NodeRuns, RunFigures

pytestmark = [pytest.mark.nightly, pytest.mark.timeout(3600)]

ROOT = Path(__file__).resolve().parents[2]
KWH_UJ = 3_600_000_000_000
BOOKED = RunFigures(
    "span", "ada", KWH_UJ, 0, 0, None, {"counter": KWH_UJ}, nodes=("n1",), node_count=1,
    ended_utc_s=1.0,
)  # fmt: skip
FRAMEWORKS = ("torch", "transformers[torch]", "lightning", "mlflow-skinny", "sqlalchemy", "alembic")

HUGGING_FACE = """
import json, sys, torch
from transformers import Trainer, TrainingArguments
from joulebook.callbacks.hugging_face import EnergyCallback

class Line(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def forward(self, x, labels):
        made = self.weight * x
        return {"loss": ((made - labels) ** 2).mean(), "logits": made}

data = [{"x": torch.ones(1), "labels": torch.ones(1)} for _ in range(8)]
callback = EnergyCallback("bert")
arguments = TrainingArguments(sys.argv[1], num_train_epochs=2, report_to=[], use_cpu=True)
trainer = Trainer(Line(), arguments, train_dataset=data, callbacks=[callback])
trainer.train()
(logged,) = [each for each in trainer.state.log_history if "energy_kwh" in each]
print("FIGURES", json.dumps([callback.figures["energy_kwh"], logged["energy_kwh"]]))
"""

LIGHTNING = """
import json, sys, torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.loggers import CSVLogger
from joulebook.callbacks.lightning import EnergyCallback

class Line(LightningModule):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def training_step(self, batch, number):
        return ((self.weight - batch) ** 2).mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)

callback, logger = EnergyCallback("bert"), CSVLogger(sys.argv[1])
trainer = Trainer(
    max_epochs=2, accelerator="cpu", devices=int(sys.argv[2]), logger=logger, callbacks=[callback],
    strategy="ddp_spawn" if sys.argv[2] != "1" else "auto", enable_progress_bar=False,
    enable_checkpointing=False,
)
if __name__ == "__main__":
    trainer.fit(Line(), torch.utils.data.DataLoader(torch.ones(8, 1), batch_size=2))
    print("FIGURES", json.dumps([callback.figures["energy_kwh"]]))
"""

MLFLOW = """
import json, sys, mlflow
from joulebook.callbacks.mlflow import energy
mlflow.set_tracking_uri(f"sqlite:///{sys.argv[1]}/mlflow.db")
with mlflow.start_run() as run, energy("bert") as span:
    pass
found = mlflow.get_run(run.info.run_id)
assert found.data.tags["joulebook.workload"] == "span"
print("FIGURES", json.dumps([found.data.metrics["energy_kwh"]]))
"""


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Python with the frameworks, from PyPI."""
    folder = tmp_path_factory.mktemp("frameworks")
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True, timeout=300)
    own = folder / "bin" / "python"
    install = ["-m", "pip", "install", "--quiet", "--no-compile", "msgspec", *FRAMEWORKS]
    subprocess.run([str(own), *install], check=True, timeout=3000)
    return own


@pytest.mark.parametrize(
    ("program", "words", "count"),
    [(HUGGING_FACE, (), 2), (LIGHTNING, ("1",), 1), (MLFLOW, (), 1)],
    ids=["hugging-face", "lightning", "mlflow"],
)
def test_a_training_knows_what_it_consumed(
    python: Path, tmp_path: Path, program: str, words: tuple[str, ...], count: int
) -> None:
    def answer(path: str, query: dict[str, str]) -> object:
        return NodeRuns("n1", 4e9, (BOOKED,))

    with node(answer) as server:
        said = trained(python, tmp_path, program, server, words)
    assert json.loads(said) == [1.0] * count
    windows = {query["job"] for path, query, _ in server.asked if "job" in query}
    assert len(windows) == 1, "one run; of its epochs nobody asked"


def trained(
    python: Path, folder: Path, program: str, server: NodeStub, words: tuple[str, ...]
) -> str:
    """Run a training, and return the figures that it prints."""
    (folder / "train.py").write_text(program)
    done = subprocess.run(
        [str(python), "train.py", str(folder), *words], cwd=folder, timeout=600, check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT / "exporter"), "CUDA_VISIBLE_DEVICES": "",
             "JOULEBOOK_SERVER_LISTEN": server.listen, "JOULEBOOK_MARKS_DIR": str(folder)},
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    (line,) = (each for each in done.stdout.splitlines() if each.startswith("FIGURES "))
    return line.removeprefix("FIGURES ")
