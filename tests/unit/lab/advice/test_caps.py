"""Power limits: from runs at different limits, on real training traces with runs held out."""

from __future__ import annotations

import csv
import gzip
import random
from collections import defaultdict
from importlib.resources import files
from statistics import median

import msgspec
import pytest
from tests.unit.lab.advice.jobs import charges, job

from joulebook.core.evidence import Amount
from joulebook.core.money.rates import NANO
from joulebook.core.workloads import Labels
from joulebook.lab.advice.caps import CappedRun, advise, effects
from joulebook.lab.advice.model import JobUse, Saving
from joulebook.units import NS_PER_HOUR, UJ_PER_KWH

Config = tuple[str, ...]


def _rows(name: str) -> list[dict[str, str]]:
    path = files("joulebook").joinpath(f"data/results/zeus_summary_{name}.csv.gz")
    with path.open("rb") as packed, gzip.open(packed, "rt", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def zeus() -> dict[Config, list[CappedRun]]:
    """Every seed of every task that reached its best common target, at every power limit.

    A run repeats an epoch that was measured once, so each gets 0.5 % of noise of its own.
    """
    reached: dict[Config, dict[str, dict[str, float]]] = defaultdict(lambda: defaultdict(dict))
    for row in _rows("train"):
        config = (row["dataset"], row["network"], row["batch_size"], row["optimizer"])
        if row["target_epoch"].replace(".", "").isdecimal():
            reached[config][row["target_metric"]].setdefault(row["run"], float(row["target_epoch"]))
    seeds = {
        config: max(targets.values(), key=lambda epochs: (len(epochs), sum(epochs.values())))
        for config, targets in reached.items()
    }
    noise = random.Random(1)
    runs: dict[Config, list[CappedRun]] = defaultdict(list)
    for gpu in ("v100", "a40"):
        for row in _rows(f"power_{gpu}"):
            config = (row["dataset"], row["network"], row["batch_size"], row["optimizer"])
            for epochs in seeds.get(config, {}).values():
                time = epochs * float(row["time_per_epoch"]) * noise.gauss(1, 0.005)
                energy = time * float(row["average_power"])
                runs[(gpu, *config)].append(CappedRun(int(row["power_limit"]), energy, time))
    return runs


def test_held_out_runs_of_real_training_agree_within_three_points() -> None:
    every = zeus()
    off, silent = list[float](), 0
    for split in range(10):
        for runs in every.values():
            mixed = random.Random(split).sample(runs, len(runs))
            seen, held_out = mixed[::2], mixed[1::2]
            found = effects(seen)
            silent += not found
            for effect in found:
                top, capped = (
                    [run for run in held_out if run.limit_w == limit]
                    for limit in (effect.from_w, effect.to_w)
                )
                if min(len(top), len(capped)) < 2:
                    continue
                energy, time = (
                    median([getattr(run, name) for run in capped])
                    / median([getattr(run, name) for run in top])
                    for name in ("energy", "time")
                )
                off.append(max(abs(effect.saved - (1 - energy)), abs(effect.slower - (time - 1))))
    assert len(off) > 500
    assert sum(each <= 0.03 for each in off) >= 0.995 * len(off)
    # Most experiments there have runs of different lengths: nothing is claimed of these.
    assert silent > 10 * len(every) / 2


def test_nothing_is_claimed_without_enough_runs_or_from_runs_that_differ() -> None:
    top, low = [CappedRun(300, 100, 10)] * 3, [CappedRun(200, 80, 10.5)] * 3
    (effect,) = effects([*top, *low])
    assert (effect.from_w, effect.to_w, effect.from_runs, effect.to_runs) == (300, 200, 3, 3)
    assert effect.saved == pytest.approx(0.2)
    assert effect.slower == pytest.approx(0.05)
    assert effects([]) == []
    assert effects(top) == []
    assert effects([*top, *low[:2]]) == []
    assert effects([*top, *low[:2], CappedRun(200, 110, 14)]) == []
    assert effects([*top, *low[:2], CappedRun(200, 0, 0)]) == []


def runs(limit_w: int, kwh: float, hours: float, first: int, **more: object) -> list[JobUse]:
    """Three runs at a limit."""
    return [
        job(
            f"{number}",
            limits_w=frozenset({limit_w}),
            gpu=Amount(int(kwh * UJ_PER_KWH), 0, int(hours * NS_PER_HOUR)),
            energy_uj=int(kwh * UJ_PER_KWH),
            charges=charges(electricity=10, hardware=90, co2e=5),
            **more,
        )
        for number in range(first, first + 3)
    ]


def test_a_saving_of_electricity_pays_for_the_longer_time_of_the_hardware() -> None:
    high, low = runs(300, 100, 10, 1), runs(200, 80, 10.5, 11)
    (line,) = advise([*high, *low], [*high, *low])
    assert line.saving is not None
    assert line.saving.energy_uj == pytest.approx(3 * 20 * UJ_PER_KWH, rel=1e-6)
    assert line.saving.money == {"EUR": pytest.approx(3 * (10 * 0.2 - 90 * 0.05) * NANO, rel=1e-6)}
    assert line.saving.co2e_ug == pytest.approx(3 * NANO, rel=1e-6)
    assert "3 runs at 200 W against 3 at 300 W: 20.0% less energy, +5.0% time" in line.evidence
    assert {each.shown for each in line.jobs} == {"1", "2", "3"}


def test_only_comparable_runs_are_compared() -> None:
    high, low = runs(300, 100, 10, 1), runs(200, 80, 10.5, 11)
    for other in (
        {"gpu_count": 2},
        {"model": "NVIDIA A100"},
        {"labels": Labels("ada", "nlp", "other")},
        {"labels": Labels("ada", "nlp", "")},
        {"outcome": "failed"},
        {"whole": False},
        {"limits_w": frozenset({200, 300})},
    ):
        changed = [msgspec.structs.replace(each, **other) for each in low]
        assert list(advise([*high, *changed], [*high, *changed])) == []
    nameless = [msgspec.structs.replace(e, labels=Labels("ada", "nlp")) for e in [*high, *low]]
    assert list(advise(nameless, nameless)) == []
    # Of a month in which nothing ran at the high limit, the effect is said and nothing claimed.
    (line,) = advise(low, [*high, *low])
    assert line.saving == Saving()
