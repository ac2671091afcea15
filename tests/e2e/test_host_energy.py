"""CPU energy of real SLURM jobs that burn real CPU time, on a node without any GPU."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.e2e.burning_host import BurningHost, burner
from tests.e2e.lab import Daemon, Lab, get, until

ENERGY = (
    "SELECT coalesce(sum(energy_uj), 0) FROM postings JOIN meters ON meters.id = meter_id "
    "JOIN workloads ON workloads.id = workload_id WHERE component = 'cpu' AND workload = ?"
)
POSTED = "SELECT coalesce(sum(energy_uj), 0) FROM postings"

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    lab = Lab(tmp_path)
    with lab.slurm:
        yield lab


def booked_j(daemon: Daemon, job_id: str) -> float:
    return float(daemon.rows(ENERGY, job_id)[0][0]) / 1e6


def test_each_job_gets_the_cpu_energy_that_it_burnt(lab: Lab, tmp_path: Path) -> None:
    burn = burner(tmp_path / "burn.py")
    node = lab.slurm.nodes[0]
    with BurningHost(tmp_path / "host", node, idle_w=10, core_w=60) as host:
        daemon = lab.daemon(
            tmp_path / "node", 0, **host.settings(), JOULEBOOK_EXPOSITION_ZERO_HOLD_S="0"
        )
        with daemon:
            until("the idle floor", lambda: idle_w(daemon) is not None)
            go_on = tmp_path / "go-on"
            long = lab.slurm.sbatch("--job-name=long", script=f"{burn} 12 0 {go_on}")
            forks = lab.slurm.sbatch("--job-name=forks", script=f"{burn} 6 150 {go_on}")
            until("both to run", lambda: min(cpu_s(host, j) for j in (long, forks)) > 0.3, 120)
            # The daemon is away while they burn: the kernel's counters remember, until they end.
            daemon.kill()
            until(
                "energy in the outage",
                lambda: min(cpu_s(host, long) / 6, cpu_s(host, forks) / 3) > 0.99,
                120,
            )
            daemon.start()
            until("the daemon to be back", lambda: idle_w(daemon) is not None)
            go_on.touch()
            lab.slurm.wait_done(long, forks, timeout_s=200)
            short = lab.slurm.sbatch("--job-name=short", script=f"{burn} 0.3")
            lab.slurm.wait_done(short, timeout_s=60)
            jobs = (long, forks, short)
            rest(daemon)
            found = {job: (booked_j(daemon, job), host.true_j(job)) for job in jobs}
            for job, (booked, true) in found.items():
                # The node's own CPU time is reported in clock ticks, which a job of 0.3 s feels.
                tick_j = host.core_w / os.sysconf("SC_CLK_TCK") if job == short else 0
                assert booked == pytest.approx(true, rel=0.02, abs=0.02 * true + tick_j), found
            shown = {
                dict(labels)["workload"]: value
                for (name, labels), value in daemon.metrics().items()
                if name == "joulebook_workload_energy_joules_total"
                and dict(labels)["component"] == "cpu"
            }
            assert shown.keys() == set(jobs), "a job without a GPU has series too"
            assert shown[long] == pytest.approx(found[long][1], rel=0.02)
            nobody = remainders(daemon)
            assert nobody["system"] > 0.2 * sum(true for _, true in found.values())
            assert idle_w(daemon) == pytest.approx(10, rel=0.05)
            status, page = get(f"{daemon.url}/")
            assert status == 200 and "long" in page
        # Nothing was lost or counted twice, wraps and the outage included.
        ((posted,),) = daemon.rows(POSTED)
        booked = sum(
            value for (component,), value in energies(daemon).items() if component == "cpu"
        )
        assert posted == booked > 600e6


def idle_w(daemon: Daemon) -> float | None:
    return next(
        (v for (name, _), v in daemon.metrics().items() if name == "joulebook_meter_idle_watts"),
        None,
    )


def cpu_s(host: BurningHost, job_id: str) -> float:
    try:
        return host.cpu_s(job_id)
    except KeyError:
        return 0.0


def rest(daemon: Daemon) -> None:
    """Wait until what was read by now is booked: that is after `settle_s`, in whole ticks."""
    now = daemon.rows("SELECT max(seq) FROM postings")
    time.sleep(6)
    until("postings to go on", lambda: daemon.rows("SELECT max(seq) FROM postings") != now)


def remainders(daemon: Daemon) -> dict[str, float]:
    """Energy of the CPU that is nobody's, in joules, by reason."""
    return {
        dict(labels)["reason"]: value
        for (name, labels), value in daemon.metrics().items()
        if name == "joulebook_remainder_energy_joules_total" and dict(labels)["component"] == "cpu"
    }


def energies(daemon: Daemon) -> dict[tuple[str], int]:
    rows = daemon.rows(
        "SELECT component, sum(energy_uj) FROM postings JOIN meters ON meters.id = meter_id "
        "GROUP BY component"
    )
    return {(component,): uj for component, uj in rows}
