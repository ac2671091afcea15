"""The leaderboard's demo: six real training tasks, and the measured energy to reach each result.

The traces of Zeus (You, Chung and Chowdhury, NSDI 2023; Apache-2.0) tell in which epoch each run
first reached each target, and for each GPU how long an epoch took and what power was drawn. Energy
to reach a target = epochs x seconds per epoch x mean watts, at the largest power limit that was
measured. An entrant is one batch size and target that *all* of its two or more runs reached, at
their mean: of those that only some reached, the mean of the lucky ones would be too low.
"""

from __future__ import annotations

import csv
import gzip
from collections.abc import Iterator
from fractions import Fraction
from importlib.resources import files
from typing import NamedTuple

from joulebook.core.report.leaderboard import Board, ComparedMetric, Entrant, Unit, board
from joulebook.lab.leaderboard.formats import svg
from joulebook.lab.leaderboard.plot import draw
from joulebook.units import UJ_PER_J

GPUS = {"v100": "NVIDIA V100", "a40": "NVIDIA A40"}


class Task(NamedTuple):
    """One of the tasks: its names in the trace and for people, and its metric."""

    dataset: str
    network: str
    title: str
    metric: ComparedMetric


TASKS = (
    Task("cifar100", "shufflenetv2", "ShuffleNet V2 on CIFAR-100",
         ComparedMetric("accuracy", True, Unit.RATIO)),
    Task("imagenet", "resnet50", "ResNet-50 on ImageNet",
         ComparedMetric("accuracy", True, Unit.RATIO)),
    Task("squad", "bert_base_uncased", "BERT on SQuAD", ComparedMetric("F1", True, Unit.PERCENT)),
    Task("sentiment140", "bert_base_uncased", "BERT on Sentiment140",
         ComparedMetric("accuracy", True, Unit.RATIO)),
    Task("librispeech", "deepspeech2", "DeepSpeech2 on LibriSpeech",
         ComparedMetric("word error rate", False, Unit.PERCENT)),
    Task("movielens-1m", "ncf", "NeuMF on MovieLens-1M", ComparedMetric("NDCG", True, Unit.RATIO)),
)  # fmt: skip

NOTES = (
    "Results and energy of Zeus (NSDI 2023, Apache-2.0): measured GPU energy of one GPU, without "
    "host and PUE; see docs/leaderboard.md",
)


def boards(gpu: str = "") -> list[Board]:
    """Return a board for each task and GPU model, or only those of `gpu` (`v100`, `a40`)."""
    reached = _reached()
    made = []
    for task in TASKS:
        for name, model in GPUS.items():
            if gpu in {"", name}:
                entrants = list(_entrants(task, model, reached, _epochs(name)))
                made.append(board(task.title, task.metric, model, entrants))
    return made


def picture() -> str:
    """Return the plot of the documentation: all six tasks on one GPU model, as SVG."""
    return svg(draw(boards("v100")), "Results of six training tasks against the energy they took")


Config = tuple[str, str, str, str]
"""Dataset, network, batch size and optimizer."""


def _entrants(
    task: Task,
    model: str,
    reached: dict[Config, dict[str, dict[str, Fraction | None]]],
    joules: dict[Config, Fraction],
) -> Iterator[Entrant]:
    for config, targets in reached.items():
        if config[:2] != (task.dataset, task.network) or config not in joules:
            continue
        runs = max(len(by_run) for by_run in targets.values())
        for target, by_run in targets.items():
            taken = [epochs for epochs in by_run.values() if epochs is not None]
            if len(taken) == runs > 1:
                mean = sum(taken, Fraction(0)) / runs
                energy_uj = round(mean * joules[config] * UJ_PER_J)
                name = f"batch {config[2]}"
                yield Entrant(name, Fraction(target), energy_uj, gpu=model, runs=runs)


def _reached() -> dict[Config, dict[str, dict[str, Fraction | None]]]:
    """By configuration and target: the epochs that each run took, `None` where it never did."""
    found: dict[Config, dict[str, dict[str, Fraction | None]]] = {}
    for row in _rows("zeus_summary_train"):
        by_run = found.setdefault(_config(row), {}).setdefault(row["target_metric"], {})
        epoch = row["target_epoch"]
        by_run[row["run"]] = Fraction(epoch) if epoch != "nan" else None
    return found


def _epochs(gpu: str) -> dict[Config, Fraction]:
    """Joules of one epoch by configuration, at the largest power limit."""
    found: dict[Config, tuple[int, Fraction]] = {}
    for row in _rows(f"zeus_summary_power_{gpu}"):
        limit, known = int(row["power_limit"]), found.get(_config(row))
        if known is None or limit > known[0]:
            joules = Fraction(row["time_per_epoch"]) * Fraction(row["average_power"])
            found[_config(row)] = (limit, joules)
    return {config: joules for config, (_, joules) in found.items()}


def _config(row: dict[str, str]) -> Config:
    return row["dataset"], row["network"], row["batch_size"], row["optimizer"]


def _rows(name: str) -> Iterator[dict[str, str]]:
    packed = files("joulebook").joinpath("data", "results", f"{name}.csv.gz").read_bytes()
    yield from csv.DictReader(gzip.decompress(packed).decode().splitlines())
