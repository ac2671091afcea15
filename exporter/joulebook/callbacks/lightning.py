"""A callback of Lightning's Trainer: the energy of the training, by epoch and in all.

Trainer(callbacks=[joulebook.callbacks.lightning.EnergyCallback("bert")])
"""

from __future__ import annotations

from typing import Any

try:
    from lightning.pytorch.callbacks import Callback
except ImportError:  # by its older name
    from pytorch_lightning.callbacks import Callback

from joulebook.callbacks.ranks import added_up
from joulebook.experiment_span import WAIT_S, Span, experiment


class EnergyCallback(Callback):  # type: ignore[misc]
    """Book the training to an experiment, each epoch as a window of it.

    At the end `figures` has those of all ranks together, and the trainer's loggers get them.

    Attributes:
        run: The run on this rank; `None` before the training.
        figures: As `joulebook.runs.figures` names them; empty before the end.

    """

    def __init__(self, name: str, *, wait_s: float = WAIT_S, estimate: bool = False) -> None:
        """The end of the training waits for the daemon, for `wait_s` at most."""
        self._block = experiment(name, wait_s=wait_s, estimate=estimate)
        self._epoch: experiment | None = None
        self.run: Span | None = None
        self.figures: dict[str, float] = {}

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:  # noqa: ANN401
        """Begin the run."""
        if self.run is None:
            self.run = self._block.__enter__()

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:  # noqa: ANN401
        """Begin the window of an epoch."""
        self._leave_epoch()
        if self.run is not None:
            self._epoch = self.run.window("epoch")
            self._epoch.__enter__()

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:  # noqa: ANN401
        """End the window of an epoch."""
        self._leave_epoch()

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:  # noqa: ANN401
        """End the run, and log what it consumed on all ranks."""
        self._leave_epoch()
        if (run := self.run) is None:
            return
        self.run = None
        self._block.__exit__()
        if (found := added_up(run.booked)) is None:
            return
        self.figures = found.as_dict()
        if trainer.is_global_zero:
            for logger in trainer.loggers:
                logger.log_metrics(self.figures, step=trainer.global_step)

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:  # noqa: ANN401
        """End the run of a training that failed or was interrupted."""
        self._leave_epoch()
        if self.run is not None:
            self.run = None
            self._block.__exit__()

    def _leave_epoch(self) -> None:
        if self._epoch is not None:
            self._epoch.__exit__()
            self._epoch = None
