"""Measured figures as metrics of a run, for MLflow and for trackers that take a dictionary."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from joulebook.core.account import Account
from joulebook.core.leaderboard import Join
from joulebook.core.rates import NANO, UG_PER_G
from joulebook.report.leaderboard.joining import Left, Match, Spent, matches
from joulebook.report.leaderboard.results import Result
from joulebook.report.leaderboard.tracking import client, read_list
from joulebook.units import NS_PER_HOUR, kwh_from_uj

ENERGY = "energy_kwh"


def figures(found: Sequence[Spent]) -> dict[str, float]:
    """What workloads took together, by metric name; what is not known is left out.

    `energy_kwh`, `energy_idle_kwh`, `gpu_hours`, `energy_measured_ratio` (the part that was
    measured, not apportioned or modelled), `co2e_g`, and `cost_eur` or another currency.
    """
    energy_uj = sum(each.energy_uj for each in found)
    made = {
        ENERGY: kwh_from_uj(energy_uj),
        "energy_idle_kwh": kwh_from_uj(sum(each.idle_uj for each in found)),
        "gpu_hours": sum(each.gpu_ns for each in found) / NS_PER_HOUR,
    }
    measured = [each.measured_uj for each in found]
    if energy_uj and None not in measured:
        made["energy_measured_ratio"] = sum(uj or 0 for uj in measured) / energy_uj
    emitted = [each.co2e_ug for each in found]
    if emitted and None not in emitted:
        made["co2e_g"] = sum(ug or 0 for ug in emitted) / UG_PER_G
    for currency in sorted({currency for each in found for currency in each.cost_nano}):
        nano = sum(each.cost_nano.get(currency, 0) for each in found)
        made[f"cost_{re.sub('[^a-z]', '', currency.lower())}"] = nano / NANO
    return made


class Written(NamedTuple):
    """A run, its figures, how they were joined, and whether they are new to the store."""

    result: Result
    figures: dict[str, float]
    join: Join
    new: bool


def write_back(
    uri: str, account: Account, experiments: Sequence[str] = (), *, dry: bool = False
) -> tuple[list[Written], list[Left]]:
    """Write the figures of every run of a store that has energy; `dry`: only say what they are.

    A figure that the run has already is not written again, so this may be repeated. A job that made
    several runs cannot be divided among them: those are left out, with the reason. Raises
    `ConfigError`.
    """
    with client(uri) as store:
        runs, known = read_list(store, uri, experiments)
        made, left = matches(runs, account)
        uses: dict[str, int] = {}
        for match in made:
            for each in match.found:
                uses[str(each.workload.id)] = uses.get(str(each.workload.id), 0) + 1
        written: list[Written] = []
        for match in made:
            shared = max(uses[str(each.workload.id)] for each in match.found)
            if shared > 1:
                left.append(Left(match.result, f"its job made {shared} runs"))
                continue
            wanted = figures(match.found)
            have = known[match.result.run]
            new = {name: value for name, value in wanted.items() if have.get(name) != value}
            if new and not dry:
                for name, value in new.items():
                    store.log_metric(match.result.run, name, value)
                for name, text in _tags(match).items():
                    store.set_tag(match.result.run, name, text)
            written.append(Written(match.result, wanted, match.join, bool(new)))
    return written, left


def _tags(match: Match) -> dict[str, str]:
    return {
        "joulebook.workload": ",".join(sorted(str(e.workload.id) for e in match.found))[:250],
        "joulebook.joined_by": match.join.value,
        "joulebook.gpu": ",".join(sorted({e.gpu for e in match.found} - {""}))[:250],
    }
