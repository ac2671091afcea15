"""A workstation without any scheduler: the daemon, fake cards, real processes in real cgroups."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.e2e.books import IDLE_MW, assert_balanced, at_rest, rest, wake
from tests.e2e.lab import Daemon, until
from tests.fakes.nvml.scenario import Gpu, Process, Scenario

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240)]

CONTAINER = "3f2a91bc0d12" + "e5" * 26
ADA, BOB = 64_001, 64_002
"""Uids without a name: what is shown of such a user is his number."""

MW = 1000
SECOND = 10**9


def hierarchies() -> list[Path]:
    """Where cgroups can be made that tell whose a process is: v2, and v1's hierarchy of systemd."""
    places = [Path("/sys/fs/cgroup"), *(Path("/sys/fs/cgroup") / n for n in ("unified", "systemd"))]
    return [place for place in places if (place / "cgroup.procs").exists()]


def comm(pid: int) -> str:
    return Path(f"/proc/{pid}/comm").read_text().strip()


class Program:
    """A process of a user in a cgroup, on a card of the scenario."""

    def __init__(
        self, scenario: Scenario, gpu: int, *, uid: int, cgroup: str = "", hierarchy: int = 0,
        sm_pct: int = 50, experiment: str = "", program: str = "/bin/sleep",
    ) -> None:  # fmt: skip
        self._scenario, self._gpu = scenario, gpu
        self._watts = 0
        self._directory: Path | None = None
        if cgroup:
            found = hierarchies()
            self._directory = found[hierarchy % len(found)] / cgroup
            self._directory.mkdir(parents=True)
        enter = f"echo $$ >{self._directory}/cgroup.procs; " if self._directory else ""
        self.t0_ns = scenario.now_ns()
        self._process = subprocess.Popen(
            ["/bin/sh", "-c", f"{enter}exec setpriv --reuid {uid} --clear-groups {program} 600"],
            start_new_session=True,
            env={"JOULEBOOK_EXPERIMENT": experiment, "SECRET": "t0k3n"} if experiment else {},
        )
        self.pid = self._process.pid
        until("the program", lambda: comm(self.pid) == Path(program).name)
        scenario.set_process(gpu, Process(pid=self.pid, sm_pct=sm_pct))
        self.t1_ns = 0

    def burn(self, watts: int) -> None:
        """Let the card draw so much more."""
        self._scenario.add_power(self._gpu, watts * MW)
        self._watts += watts

    def end(self) -> None:
        """kill -9, and what the driver does then."""
        self._process.kill()
        self._process.wait()
        self.t1_ns = self._scenario.add_power(self._gpu, -self._watts * MW)
        self._scenario.remove_process(self._gpu, self.pid)
        if self._directory is not None:
            until("the cgroup to be empty", self._left)

    def _left(self) -> bool:
        assert self._directory is not None
        for directory in (self._directory, *self._directory.parents):
            if (directory / "cgroup.procs").exists() and directory not in hierarchies():
                try:
                    directory.rmdir()
                except OSError:
                    return directory != self._directory  # a parent that others use
        return True

    def true_uj(self) -> int:
        return self._scenario.true_energy_uj(self._gpu, self.t0_ns, self.t1_ns)


class Workstation:
    """Two cards and a daemon, no scheduler."""

    def __init__(self, home: Path) -> None:
        self.scenario = Scenario.create(
            home / "scenario",
            [Gpu(uuid=f"GPU-{n}", tick_phase_ns=n * 23_000_000) for n in range(2)],
        )
        self.before = rest(self.scenario)
        self.daemon = Daemon(
            home / "daemon",
            self.scenario,
            home / "events",
            {
                "JOULEBOOK_NODE_NAME": "ws1",
                "JOULEBOOK_TENANTS_SLURM_ENABLED": "false",
                "JOULEBOOK_TENANTS_PROCESSES_ENABLED": "true",
                "JOULEBOOK_TENANTS_PROCESSES_PID_NAMESPACE": "host",
                "JOULEBOOK_MARKS_ENABLED": "false",
            },
        )

    def booked(self) -> dict[str, tuple[int, str, str, int, str]]:
        """Energy, user, experiment, held time and extra of each workload, by its name."""
        rows = self.daemon.rows(
            "SELECT workload, sum(energy_uj), user, experiment, sum(held_ns), extra "
            "FROM postings JOIN workloads ON workloads.id = workload_id GROUP BY workload_id"
        )
        return {row[0]: row[1:] for row in rows}


@pytest.fixture
def place(home: Path) -> Iterator[Workstation]:
    place = Workstation(home)
    with place.daemon:
        wake(place.scenario)
        place.daemon.learn_idle()
        yield place


def test_what_people_run_is_theirs_and_everything_adds_up(place: Workstation) -> None:
    scenario, daemon = place.scenario, place.daemon
    unit = "system.slice/jb-hub.service"
    container = Program(
        scenario, 0, uid=ADA, cgroup=f"system.slice/docker-{CONTAINER}.scope", hierarchy=0
    )
    hub = Program(scenario, 1, uid=BOB, cgroup=unit, hierarchy=-1, sm_pct=60)
    time.sleep(5)
    container.burn(200)
    hub.burn(120)
    time.sleep(5)
    container.end()
    # A second user on the other card, from a session and with a name for what he does.
    training = Program(scenario, 1, uid=ADA, sm_pct=20, experiment="bert")
    time.sleep(3)
    training.burn(40)
    time.sleep(5)
    both_ns = scenario.now_ns()
    training.end()
    time.sleep(2)
    hub.end()
    counters = at_rest(daemon)
    assert_balanced(daemon, {name: counters[name] - place.before[name] for name in counters})
    booked = place.booked()
    boot = Path("/proc/sys/kernel/random/boot_id").read_text()[:8]
    held, hub_part = f"docker-{CONTAINER[:12]}.u{ADA}", f"jb-hub.service.u{BOB}@ws1.{boot}"
    (session,) = set(booked) - {held, hub_part}
    assert session.startswith(f"run-{training.pid}-") and f".u{ADA}." in session
    assert booked[held][0] == pytest.approx(container.true_uj(), rel=0.01)
    assert booked[session][1:3] == (f"uid-{ADA}", "bert")
    assert booked[hub_part][1:3] == (f"uid-{BOB}", "jb-hub")
    # While both were on the card each had half of the floor, and of the rest by busy time.
    alone = scenario.true_energy_uj(1, hub.t0_ns, training.t0_ns)
    alone += scenario.true_energy_uj(1, both_ns, hub.t1_ns)
    together = scenario.true_energy_uj(1, training.t0_ns, both_ns)
    floor = (both_ns - training.t0_ns) * IDLE_MW // 10**6
    assert booked[session][0] == pytest.approx(floor / 2 + (together - floor) / 4, rel=0.05)
    hubs = alone + floor / 2 + (together - floor) * 3 / 4
    assert booked[hub_part][0] == pytest.approx(hubs, rel=0.03)
    methods = daemon.rows("SELECT DISTINCT evidence FROM postings WHERE remainder = ''")
    assert methods == [("processes",)]
    assert "t0k3n" not in (daemon.directory / "ledger.db").read_bytes().decode("latin-1")
    ended = dict(daemon.rows("SELECT workload, ended_ns FROM workloads"))
    assert all(ended.values()), "each is known to have ended"
