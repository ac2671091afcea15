"""A callback of Hugging Face's Trainer: the energy of the training, by epoch and in all.

Trainer(..., callbacks=[joulebook.callbacks.hugging_face.EnergyCallback("bert")])
"""

from __future__ import annotations

from typing import Any

from transformers import TrainerCallback

from joulebook.callbacks.ranks import added_up
from joulebook.experiment_span import WAIT_S, Span, experiment


class EnergyCallback(TrainerCallback):  # type: ignore[misc]
    """Book the training to an experiment, each epoch as a window of it.

    At the end `figures` has those of all ranks together, which are also in the trainer's history
    (`trainer_state.json`), and the first process prints them.

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

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ANN401
        """Begin the run."""
        if self.run is None:
            self.run = self._block.__enter__()

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ANN401
        """Begin the window of an epoch."""
        self._leave_epoch()
        if self.run is not None:
            self._epoch = self.run.window("epoch")
            self._epoch.__enter__()

    def on_epoch_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ANN401
        """End the window of an epoch."""
        self._leave_epoch()

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ANN401
        """End the run, and tell what it consumed on all ranks."""
        self._leave_epoch()
        if (run := self.run) is None:
            return
        self.run = None
        self._block.__exit__()
        if (found := added_up(run.booked)) is None:
            return
        self.figures = found.as_dict()
        state.log_history.append({"step": state.global_step, **self.figures})
        if state.is_world_process_zero:
            print(f"joulebook: {run.experiment}: {found}")  # noqa: T201 - as the Trainer prints

    def _leave_epoch(self) -> None:
        if self._epoch is not None:
            self._epoch.__exit__()
            self._epoch = None
