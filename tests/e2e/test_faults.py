"""Jobs run on while everything around them fails; the ledger balances to the microjoule."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from tests.e2e.books import (
    assert_balanced,
    assert_nobodys,
    at_rest,
    job_uj,
    meter_uj,
    remainder_uj,
    rest,
    wake,
)
from tests.e2e.lab import Daemon, Lab, Prometheus, get, until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

GPU_IS_LOST = 15
ENERGY = "nvmlDeviceGetTotalEnergyConsumption"


def jobs_of(lab: Lab) -> list[str]:
    """Two jobs of one card each that go on until they are cancelled, and an array of short ones."""
    long = [lab.slurm.sbatch("--gres=gpu:1", script=f"{lab.burn} 200 600000") for _ in range(2)]
    short = lab.slurm.sbatch("--array=0-40", "--gres=gpu:1", script=f"{lab.burn} 150 300")
    return [*long, short]


class Watch:
    """Every counter that /metrics has shown; none may ever fall."""

    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon
        self._highest: dict[object, float] = {}

    def poll(self) -> None:
        for key, value in self._daemon.metrics().items():
            if key[0].startswith("joulebook_") and key[0].endswith("_joules_total"):
                assert value >= self._highest.get(key, 0), f"{key} fell to {value}"
                self._highest[key] = value


@pytest.mark.parametrize("commit_s", ["1", "10"])
def test_kill_9_again_and_again(lab: Lab, home: Path, commit_s: str) -> None:
    before = rest(lab.scenario)
    with (
        lab.daemon(home / "daemon", JOULEBOOK_DAEMON_COMMIT_S=commit_s) as daemon,
        Prometheus(home / "prom", daemon.port) as prometheus,
    ):
        wake(lab.scenario)
        jobs = jobs_of(lab)
        watch = Watch(daemon)
        # A job that begins just before a kill is not on record yet, and proves nothing.
        until("the long jobs on record", lambda: set(jobs[:2]) <= holders(daemon))
        for pause_s in (1.3, 2.1, 0.7, 3.4):
            watch.poll()
            time.sleep(pause_s)
            watch.poll()
            daemon.kill()
            time.sleep(0.4)
            daemon.start()
            watch.poll()
        lab.slurm.run("scancel", *jobs[:2])
        lab.slurm.wait_done(*jobs, timeout_s=120)
        counters = at_rest(daemon)
        watch.poll()
        assert_balanced(daemon, {name: counters[name] - before[name] for name in counters})
        assert_nobodys(remainder_uj(daemon), "daemon_down")
        # A job that held its card from before a kill until after it is proven to have held it.
        held = lab.held()
        for job in jobs[:2]:
            truth = sum(lab.true_uj(each) for each in held if each.job_id == job)
            assert job_uj(daemon)[job] == pytest.approx(truth, rel=0.02)
        assert_seen_whole(prometheus, sum(meter_uj(daemon).values()))


def assert_seen_whole(prometheus: Prometheus, booked_uj: int) -> None:
    """What Prometheus saw over all kills balances, is all of it, and no counter of it fell."""
    meters = "joulebook_meter_energy_joules_total"
    until(
        "Prometheus to see the last of it",
        lambda: (
            abs(prometheus.value(f"sum({meters})") - booked_uj / 1e6)
            <= quanta(prometheus.query(meters))
        ),
    )
    assert_balanced_in(prometheus)
    for of in ("meter", "workload", "experiment", "remainder"):
        resets = prometheus.query(f"resets(joulebook_{of}_energy_joules_total[10m])")
        assert resets and all(float(row["value"][1]) == 0 for row in resets), resets
    assert prometheus.value("count_over_time(up[10m])") > 10
    assert prometheus.value("min_over_time(up[10m])") == 0, "it has seen the daemon down"


def assert_balanced_in(prometheus: Prometheus) -> None:
    """The law of the exposition: meters = experiments + remainders + pending, to a quantum each."""
    rows = prometheus.query(
        '{__name__=~"joulebook_(meter|experiment|remainder)_energy_joules_total'
        '|joulebook_pending_energy_joules"}'
    )
    difference = sum(
        float(row["value"][1]) * (1 if "_meter_" in row["metric"]["__name__"] else -1)
        for row in rows
    )
    assert len({row["metric"]["__name__"] for row in rows}) == 4
    assert abs(difference) <= quanta(rows)


def quanta(rows: list[dict[str, Any]]) -> float:
    """How far off series may be together: each is floored to 1/64 J, from 1000 J on to 1 J."""
    return sum(1 if float(row["value"][1]) >= 1000 else 1 / 64 for row in rows)


def test_a_job_that_lives_inside_an_outage_is_known(lab: Lab, home: Path) -> None:
    rest(lab.scenario)
    daemon = lab.daemon(home / "daemon")
    daemon.start()
    wake(lab.scenario)
    time.sleep(2)
    daemon.kill()
    job = lab.slurm.sbatch("--gres=gpu:1", "--job-name=inside", script=f"{lab.burn} 200 500")
    lab.slurm.wait_done(job)
    daemon.start()
    try:
        at_rest(daemon)
        known = daemon.rows(
            "SELECT started_utc_ns, ended_utc_ns FROM workloads WHERE workload = ?", job
        )
        assert len(known) == 1
        started, ended = known[0]
        assert 0.4e9 < ended - started < 3e9
        assert remainder_uj(daemon)["daemon_down"] > 0
        assert job not in job_uj(daemon), "its joules cannot be reported from the others'"
    finally:
        daemon.stop()


def test_a_reset_a_lost_card_and_a_hang(lab: Lab, home: Path) -> None:
    before = rest(lab.scenario)
    with (
        lab.daemon(home / "daemon") as daemon,
        Prometheus(home / "prom", daemon.port) as prometheus,
    ):
        wake(lab.scenario)
        jobs = jobs_of(lab)
        watch = Watch(daemon)
        time.sleep(3)

        lost = lab.scenario.inject("*", GPU_IS_LOST, gpu=1)
        until("the gap of the lost card", lambda: gap(daemon, "GPU-01") > 0)
        watch.poll()
        assert gap(daemon, "GPU-00") == 0, "the others go on"
        lab.scenario.clear(lost)

        hung = lab.scenario.hang(ENERGY, count=1)
        until(
            "/readyz to say it",
            lambda: "sensor nvml has been hanging in a call for" in get(f"{daemon.url}/readyz")[1],
        )
        assert get(f"{daemon.url}/metrics")[0] == 200, "a hung driver does not hold up a scrape"
        lab.scenario.clear(hung)
        until("/readyz after the hang", lambda: get(f"{daemon.url}/readyz")[0] == 200)
        watch.poll()

        lab.slurm.run("scancel", *jobs[:2])
        # A reset: what card 2 had counted until then, and what it counts from zero after it.
        last = lab.scenario.counter_mj(2) * 1000
        lab.scenario.reset_counter(2)
        lab.slurm.wait_done(*jobs, timeout_s=120)
        counters = at_rest(daemon)
        watch.poll()
        booked = meter_uj(daemon)
        for name in ("GPU-00", "GPU-01", "GPU-03"):
            assert booked[name] == counters[name] - before[name]
        # Between the last reading before the reset and the reset is a gap: at most one tick.
        counted = last - before["GPU-02"] + counters["GPU-02"]
        assert 0 <= counted - booked["GPU-02"] <= 1.2 * 260_000_000
        assert sum(job_uj(daemon).values()) + sum(remainder_uj(daemon).values()) == sum(
            meter_uj(daemon).values()
        )
        assert_balanced_in(prometheus)


def holders(daemon: Daemon) -> set[str]:
    """The jobs that hold a card now, by what the daemon shows (and so has committed)."""
    return {
        dict(labels)["workload"]
        for name, labels in daemon.metrics()
        if name == "joulebook_gpu_held_ratio"
    }


def gap(daemon: Daemon, card: str) -> float:
    """Seconds for which a card could not be read."""
    return sum(
        value
        for (name, labels), value in daemon.metrics().items()
        if name == "joulebook_gap_seconds_total" and ("meter", card) in labels
    )
