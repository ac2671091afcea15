"""What the books of a daemon say, read from its ledger file by plain SQL, beside the daemon."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from statistics import median
from typing import NamedTuple

from tests.e2e.lab import Daemon, Held, Lab, Prometheus, until
from tests.fakes.nvml.scenario import Scenario

IDLE_MW = 60_000

PER_JOB = """
    SELECT CASE WHEN display = '' THEN workload ELSE display END, workload, sum(energy_uj)
    FROM postings JOIN workloads ON workloads.id = workload_id
    GROUP BY workload_id
"""
PER_METER = """
    SELECT name, sum(energy_uj) FROM postings JOIN meters ON meters.id = meter_id GROUP BY name
"""
PER_REMAINDER = """
    SELECT remainder, sum(energy_uj) FROM postings WHERE remainder <> '' GROUP BY remainder
"""


class Errors(NamedTuple):
    """Relative errors of jobs, absolute values, in percent."""

    median: float
    p95: float
    jobs: int


def job_uj(daemon: Daemon) -> dict[str, int]:
    """Energy booked to each job, by its id in the controller."""
    return {workload: energy for _, workload, energy in daemon.rows(PER_JOB)}


def meter_uj(daemon: Daemon) -> dict[str, int]:
    """All energy booked of each card."""
    return dict(daemon.rows(PER_METER))


def remainder_uj(daemon: Daemon) -> dict[str, int]:
    """Energy that is nobody's."""
    return dict(daemon.rows(PER_REMAINDER))


def true_uj(lab: Lab, held: Iterable[Held]) -> dict[str, int]:
    """What the cards of each job consumed while it held them."""
    sums: dict[str, int] = {}
    for each in held:
        sums[each.job_id] = sums.get(each.job_id, 0) + lab.true_uj(each)
    return sums


def errors(booked: Mapping[str, float], truth: Mapping[str, int]) -> Errors:
    """How far the booked energy of jobs is from the truth."""
    off = sorted(100 * abs(booked[job] - uj) / uj for job, uj in truth.items())
    return Errors(median(off), off[min(int(len(off) * 0.95), len(off) - 1)], len(off))


def counters_uj(scenario: Scenario) -> dict[str, int]:
    """The cards' counters, by UUID."""
    return {uuid: 1000 * scenario.counter_mj(slot) for slot, uuid in enumerate(scenario.uuids)}


def rest(scenario: Scenario) -> dict[str, int]:
    """Turn all power off; the counters once they stand still.

    The counter of a card that draws nothing stands still, so that what was read last can be
    compared with the truth to the microjoule.
    """
    for slot in range(len(scenario.uuids)):
        scenario.set_power(slot, 0)
    time.sleep(0.3)
    return counters_uj(scenario)


def wake(scenario: Scenario) -> None:
    """Every card draws its idle power again."""
    for slot in range(len(scenario.uuids)):
        scenario.set_power(slot, IDLE_MW)


MOMENT_UJ = 60_000_000
"""What a card draws in a fifth of a second."""


def assert_nobodys(remainders: dict[str, int], *also: str) -> None:
    """What no workload got was nobody's, but for moments before a holder was known.

    `also` are further reasons that there may be.
    """
    assert {"unallocated"} <= set(remainders) <= {"unallocated", "unknown_holder", *also}
    assert remainders.get("unknown_holder", 0) <= MOMENT_UJ


def at_rest(daemon: Daemon) -> dict[str, int]:
    """Turn all power off and wait until everything is booked; the counters in uJ."""
    counters = rest(daemon.scenario)

    def booked() -> bool:
        pending = sum(
            value
            for (name, _), value in daemon.metrics().items()
            if name == "joulebook_pending_energy_joules"
        )
        return pending == 0

    until("everything to be booked", booked, 60)
    return counters


def assert_balanced(daemon: Daemon, expected_uj: dict[str, int]) -> None:
    """Jobs and remainders are what the cards counted, card by card and in all.

    The last readings are booked when a later one confirms them; a busy machine takes its time.
    """

    def off() -> dict[str, int]:
        booked = meter_uj(daemon)
        return {name: booked.get(name, 0) - uj for name, uj in expected_uj.items()}

    try:
        until("all to be booked", lambda: not any(off().values()), 60)
    except AssertionError as late:
        raise AssertionError(f"booked less what was counted, in uJ: {off()}") from late
    total = sum(job_uj(daemon).values()) + sum(remainder_uj(daemon).values())
    assert total == sum(expected_uj.values())


def in_prometheus(prometheus: Prometheus, seconds: int) -> dict[str, float]:
    """Joules of each workload over the last `seconds`, by the exact range query."""
    m = "joulebook_workload_energy_joules_total"
    rows = prometheus.query(
        f"sum by (workload) (last_over_time({m}[{seconds}s]) - "
        f"((last_over_time({m}[15m] offset {seconds}s) <= last_over_time({m}[{seconds}s])) "
        f"or last_over_time({m}[{seconds}s]) * 0))"
    )
    return {row["metric"]["workload"]: float(row["value"][1]) for row in rows}
