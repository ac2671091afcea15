"""What each panel must show of the simulated lab: worked out from its truth, not from queries."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

from tests.lab import serving
from tests.lab.scrape import SAVINGS
from tests.lab.truth import J_PER_KWH, Key, Truth
from tests.lab.world import JOBS, Job, cluster_of

from joulebook.core.report.footprint import peaks_of

Answer = Mapping[str, float]
"""The values of a panel by what its rows are called ("": it has one)."""

UNATTRIBUTED = ("unknown_holder", "daemon_down", "counter_reset")


class Window(NamedTuple):
    """What is true of a stretch of time."""

    truth: Truth
    t0_s: int
    t1_s: int

    def sum(self, what: str, fits: Callable[[Key], bool] = lambda _key: True) -> float:
        """By how much the counters grew."""
        return self.truth.total(what, self.t0_s, self.t1_s, fits)

    def by(self, what: str, name: Callable[[Key], str], scale: float = 1) -> Answer:
        """The same by name."""
        sums = self.truth.sums(what, self.t0_s, self.t1_s, name)
        return {key: value / scale for key, value in sums.items()}

    def kwh(self, what: str, fits: Callable[[Key], bool] = lambda _key: True) -> Answer:
        """One figure in kWh."""
        return {"": self.sum(f"{what}_energy_joules", fits) / J_PER_KWH}

    def net(self, whose: str, name: Callable[[Key], str]) -> Answer:
        """Cost less credit."""
        credit = self.by(f"{whose}_credit", name)
        return {
            key: value - credit.get(key, 0.0)
            for key, value in self.by(f"{whose}_cost", name).items()
        }

    def served(self, what: str, label: str) -> Answer:
        """What served models came to, energy in kWh."""
        scale = J_PER_KWH if what == "energy_joules" else 1
        return {"": serving.total(self.t1_s - self.t0_s, what, label) / scale}

    def pflops_days(self) -> float:
        """Time in which held cards worked, times their peak."""
        flop = 0.0
        for job in JOBS:
            for gpu in job.gpus:
                (peak,) = (p.flops for p in peaks_of(gpu.model) if p.precision == "fp16")
                flop += peak * _busy_s(job, self.t0_s, self.t1_s)
        return flop / 8.64e19


def _busy_s(job: Job, t0_s: int, t1_s: int) -> float:
    """Seconds in which the job ran kernels, as a share of the card if it is shared."""
    return job.share * sum(
        max(0, min(p.t1_s, t1_s) - max(p.t0_s, t0_s)) for p in job.phases if not p.idle
    )


def _gpu(key: Key) -> bool:
    return key.labels[-1] == "gpu"


def account(key: Key) -> str:
    """Of a counter of an experiment."""
    return key.labels[1]


def user(key: Key) -> str:
    """Of a counter of an experiment."""
    return key.labels[0]


def experiment(key: Key) -> str:
    """Of a counter of an experiment, with its cluster and account."""
    return f"{cluster_of(key.node)}/{key.labels[1]}/{key.labels[2]}"


def run(key: Key) -> str:
    """Of a counter of a workload, with its cluster."""
    return f"{cluster_of(key.node)}/{key.labels[1]}"


def _one(_key: Key) -> str:
    return ""


def currency(key: Key) -> str:
    """Of a counter of cost or credit."""
    return key.labels[-1]


def _idle_share(w: Window) -> Answer:
    idle = w.sum("experiment_idle_energy_joules", _gpu)
    return {"": idle / w.sum("experiment_energy_joules", _gpu)}


def _nobody(w: Window) -> Answer:
    nobody = w.sum("remainder_energy_joules")
    return {"": nobody / (nobody + w.sum("experiment_energy_joules"))}


def _unattributed(w: Window) -> Answer:
    lost = w.sum("remainder_energy_joules", lambda key: key.labels[-1] in UNATTRIBUTED)
    return {"": lost / w.sum("meter_energy_joules")}


def _unallocated(key: Key) -> bool:
    return "unallocated" in key.labels


def _unallocated_cost(w: Window) -> Answer:
    cost, credit = (
        w.by(what, lambda key: currency(key) if _unallocated(key) else "")
        for what in ("remainder_cost", "remainder_credit")
    )
    return {name: cost[name] - credit.get(name, 0.0) for name in cost if name}


def _advice(what: str, per: float) -> Answer:
    return {"": sum(value for name, _, value in SAVINGS if name == f"advice_{what}") / per}


LAB: Mapping[str, Callable[[Window], Answer]] = {
    "Energy": lambda w: w.kwh("experiment"),
    "Cost": lambda w: w.net("experiment", currency),
    "CO2e": lambda w: w.by("experiment_co2e_grams", _one, 1000),
    "Cost of idle allocations": lambda w: w.by("experiment_idle_cost", currency),
    "GPU-hours": lambda w: w.by("experiment_gpu_seconds", _one, 3600),
    "Allocated but idle": _idle_share,
}
"""Figures that the lab and the experiment (with all chosen) have in common."""

PANELS: Mapping[tuple[str, str], Callable[[Window], Answer]] = {
    **{("joulebook-lab", title): answer for title, answer in LAB.items()},
    **{("joulebook-experiment", title): answer for title, answer in LAB.items()},
    **{
        (uid, title): answer
        for uid in ("joulebook-mine", "joulebook-account")
        for title, answer in LAB.items()
    },
    ("joulebook-lab", "Unattributed"): _nobody,
    ("joulebook-lab", "Energy by account"): lambda w: w.by(
        "experiment_energy_joules", account, J_PER_KWH
    ),
    ("joulebook-lab", "Top users"): lambda w: w.by("experiment_energy_joules", user, J_PER_KWH),
    ("joulebook-experiment", "Energy by node"): lambda w: w.by(
        "experiment_energy_joules", lambda key: key.node, J_PER_KWH
    ),
    ("joulebook-node", "Energy"): lambda w: w.kwh("meter"),
    ("joulebook-waste", "Allocated but idle"): lambda w: w.kwh("experiment_idle"),
    ("joulebook-waste", "Unallocated"): lambda w: w.kwh("remainder", _unallocated),
    ("joulebook-waste", "Cost of idle allocations"): LAB["Cost of idle allocations"],
    ("joulebook-waste", "Cost of unallocated GPUs"): _unallocated_cost,
    ("joulebook-waste", "Idle GPU-hours"): lambda w: w.by(
        "experiment_idle_gpu_seconds", _one, 3600
    ),
    ("joulebook-waste", "Unallocated GPU-hours"): lambda w: w.by(
        "remainder_gpu_seconds", _one, 3600
    ),
    ("joulebook-waste", "Unattributed, by reason"): lambda w: w.by(
        "remainder_energy_joules", lambda key: key.labels[-1], J_PER_KWH
    ),
    ("joulebook-waste", "Energy that advice would have saved"): lambda _: _advice(
        "energy_joules", J_PER_KWH
    ),
    ("joulebook-waste", "Cost that advice would have saved"): lambda _: _advice("cost", 1),
    ("joulebook-waste", "CO2e that advice would have saved"): lambda _: _advice("co2e_grams", 1000),
    ("joulebook-serving", "Output tokens"): lambda w: w.served("tokens", "output"),
    ("joulebook-serving", "Prompt tokens"): lambda w: w.served("tokens", "prompt"),
    ("joulebook-serving", "Energy of models"): lambda w: w.served("energy_joules", "active"),
    ("joulebook-serving", "Idle energy"): lambda w: w.served("energy_joules", "idle"),
    ("joulebook-serving", "Cost of models"): lambda w: w.served("cost", "active"),
    ("joulebook-serving", "Cost of idle servers"): lambda w: w.served("cost", "idle"),
    ("joulebook-books", "Not attributed"): _unattributed,
    ("joulebook-books", "How amounts are known"): lambda w: w.by(
        "method_energy_joules", lambda key: key.labels[0], J_PER_KWH
    ),
    ("joulebook-books", "How holders are known"): lambda w: w.by(
        "evidence_energy_joules", lambda key: key.labels[0], J_PER_KWH
    ),
}
"""Panels of one value or of bars."""

COLUMNS: Mapping[str, Callable[[Window], Answer]] = {
    "Cost": lambda w: w.net("experiment", experiment),
    "Energy": lambda w: w.by("experiment_energy_joules", experiment, J_PER_KWH),
    "CO2e": lambda w: w.by("experiment_co2e_grams", experiment, 1000),
    "GPU-hours": lambda w: w.by("experiment_gpu_seconds", experiment, 3600),
}
"""Columns of the table of the lab."""

RUN_COLUMNS: Mapping[str, Callable[[Window], Answer]] = {
    "Cost": lambda w: w.net("workload", run),
    "Energy": lambda w: w.by("workload_energy_joules", run, J_PER_KWH),
    "CO2e": lambda w: w.by("workload_co2e_grams", run, 1000),
    "GPU-hours": lambda w: w.by("workload_gpu_seconds", run, 3600),
}
"""Columns of the table of runs."""
