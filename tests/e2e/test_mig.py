"""A card cut up by MIG, in a real daemon: with GPM and without, cut again while it runs."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.e2e.books import IDLE_MW, assert_balanced, at_rest, job_uj, rest, wake
from tests.e2e.lab import Daemon, until
from tests.fakes.nvml.scenario import Architecture, Gpu, Instance, Process, Scenario

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240)]

SLICES = 7
NO_SUCH_PID = 2**22
"""Above all pids of Linux: what runs on the instances need not be real here."""
BIG = Instance(uuid="MIG-big", gpu_instance=1, gpu_slices=3, compute_slices=3, profile="3g.40gb")
SMALL = Instance(uuid="MIG-small", gpu_instance=7, profile="1g.10gb")
NEW = Instance(uuid="MIG-new", gpu_instance=2, gpu_slices=2, compute_slices=2, profile="2g.20gb")


class Cut:
    """One card in MIG mode, and a daemon reported by job-mapping files who holds which instance."""

    def __init__(self, home: Path, architecture: Architecture) -> None:
        self.scenario = Scenario.create(
            home / "scenario", [Gpu(uuid="GPU-cut", architecture=architecture)]
        )
        self.scenario.set_mig_mode(0, True)
        self.big, self.small = (self.scenario.create_instance(0, each) for each in (BIG, SMALL))
        self.before = rest(self.scenario)
        self.mapping = home / "mapping"
        self.mapping.mkdir(mode=0o755)
        self.daemon = Daemon(
            home / "daemon",
            self.scenario,
            home / "events",
            {
                "JOULEBOOK_NODE_NAME": "n1",
                "JOULEBOOK_TENANTS_SLURM_HPC_JOB_MAPPING_DIR": str(self.mapping),
                "JOULEBOOK_TENANTS_SLURM_SCONTROL": "",
                "JOULEBOOK_TENANTS_PROCESSES_PID_NAMESPACE": "host",
                "JOULEBOOK_MARKS_ENABLED": "false",
            },
        )

    def hold(self, gi: int, job: str) -> int:
        """A job is given an instance; when."""
        at_ns = self.scenario.now_ns()
        running = Process(pid=NO_SUCH_PID + gi, gpu_instance=gi, compute_instance=0)
        self.scenario.set_process(0, running)
        temporary = self.mapping / ".new"
        temporary.write_text(f"{job}\n")
        temporary.rename(self.mapping / f"0.{gi}")
        return at_ns

    def leave(self, gi: int) -> int:
        at_ns = self.scenario.now_ns()
        self.scenario.remove_process(0, NO_SUCH_PID + gi)
        (self.mapping / f"0.{gi}").unlink()
        return at_ns

    def true_uj(self, t0_ns: int, t1_ns: int) -> int:
        return self.scenario.true_energy_uj(0, t0_ns, t1_ns)

    def floor_uj(self, duration_ns: int, slices: int) -> int:
        return duration_ns * IDLE_MW * slices // SLICES // 10**6


@pytest.fixture
def cut(home: Path, request: pytest.FixtureRequest) -> Iterator[Cut]:
    cut = Cut(home, request.param)
    with cut.daemon:
        wake(cut.scenario)
        cut.daemon.learn_idle()
        yield cut


@pytest.mark.parametrize("cut", [Architecture.HOPPER], indirect=True)
def test_instances_pay_by_what_they_did_and_one_is_made_of_another(cut: Cut) -> None:
    scenario, daemon = cut.scenario, cut.daemon
    began_ns = cut.hold(BIG.gpu_instance, "101")
    cut.hold(SMALL.gpu_instance, "102")
    scenario.set_instance_activity(0, cut.big, 20)
    scenario.set_instance_activity(0, cut.small, 60)
    scenario.add_power(0, 140_000)
    time.sleep(8)
    # The second ends, its instance is destroyed, and another is made and given away.
    scenario.add_power(0, -140_000)
    scenario.set_instance_activity(0, cut.big, 0)
    over_ns = cut.leave(SMALL.gpu_instance)
    time.sleep(2.5)
    scenario.destroy_instance(0, cut.small)
    new = scenario.create_instance(0, NEW)
    until("the new instance to be seen", lambda: "MIG-new" in daemon.log())
    next_ns = cut.hold(NEW.gpu_instance, "103")
    scenario.set_instance_activity(0, new, 80)
    scenario.add_power(0, 100_000)
    time.sleep(6)
    scenario.add_power(0, -100_000)
    scenario.set_instance_activity(0, new, 0)
    end_ns = cut.leave(NEW.gpu_instance)
    cut.leave(BIG.gpu_instance)
    counters = at_rest(daemon)
    assert_balanced(daemon, {name: counters[name] - cut.before[name] for name in counters})
    first_uj = cut.true_uj(began_ns, over_ns)
    last_uj = cut.true_uj(next_ns, end_ns)
    first_ns, last_ns = over_ns - began_ns, end_ns - next_ns
    active_uj = first_uj - cut.floor_uj(first_ns, SLICES)
    jobs = job_uj(daemon)
    # Busy slices: 3 x 20 % and 1 x 60 %, so each has half of what is above the floor.
    assert jobs["101"] == pytest.approx(
        cut.floor_uj(end_ns - began_ns, 3) + active_uj / 2, rel=0.08
    )
    assert jobs["102"] == pytest.approx(cut.floor_uj(first_ns, 1) + active_uj / 2, rel=0.08)
    new_uj = cut.floor_uj(last_ns, 2) + last_uj - cut.floor_uj(last_ns, SLICES)
    assert jobs["103"] == pytest.approx(new_uj, rel=0.08)
    methods = daemon.rows("SELECT DISTINCT method, evidence FROM postings WHERE remainder = ''")
    assert methods == [("apportioned", "job-mapping")]
    assert gauge(daemon, "joulebook_gpu_info", mig="true")


@pytest.mark.parametrize("cut", [Architecture.AMPERE], indirect=True)
def test_without_gpm_instances_pay_by_their_slices(cut: Cut) -> None:
    scenario, daemon = cut.scenario, cut.daemon
    began_ns = cut.hold(BIG.gpu_instance, "101")
    cut.hold(SMALL.gpu_instance, "102")
    scenario.set_instance_activity(0, cut.small, 90)
    scenario.add_power(0, 140_000)
    until(
        "both to be shown as holders",
        lambda: (
            sorted(gauge(daemon, "joulebook_gpu_held_ratio").values())
            == [pytest.approx(1 / SLICES), pytest.approx(3 / SLICES)]
        ),
        60,
    )
    time.sleep(6)
    scenario.add_power(0, -140_000)
    over_ns = cut.leave(BIG.gpu_instance)
    cut.leave(SMALL.gpu_instance)
    counters = at_rest(daemon)
    assert_balanced(daemon, {name: counters[name] - cut.before[name] for name in counters})
    active_uj = cut.true_uj(began_ns, over_ns) - cut.floor_uj(over_ns - began_ns, SLICES)
    jobs = job_uj(daemon)
    floor_uj = cut.floor_uj(over_ns - began_ns, 3)
    assert jobs["101"] == pytest.approx(floor_uj + active_uj * 3 / 4, rel=0.05)
    assert jobs["102"] == pytest.approx(floor_uj / 3 + active_uj / 4, rel=0.05)


def gauge(daemon: Daemon, name: str, **labels: str) -> dict[frozenset[tuple[str, str]], float]:
    """The samples of a metric that carry these labels."""
    return {
        found: value
        for (metric, found), value in daemon.metrics().items()
        if metric == name and labels.items() <= dict(found).items()
    }
