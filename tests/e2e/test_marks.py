"""Experiments that programs name themselves: real processes, the real daemon, exact energy."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.e2e.books import at_rest, meter_uj, remainder_uj, rest, wake
from tests.e2e.lab import BUILD, ROOT, Daemon, until
from tests.fakes.nvml.build import build_power
from tests.fakes.nvml.scenario import Gpu, Scenario

import joulebook.runs
from joulebook import cli
from joulebook.units import UJ_PER_KWH

UJ_PER_WH = UJ_PER_KWH // 1000
ENDLESS_MS = "3600000"
"""A burn that the test ends, however long a busy machine takes to see it."""

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(180)]

PROGRAM = """
import subprocess, sys, time
import joulebook

def burn(watts, ms):
    subprocess.run([POWER, SCENARIO, GPU, f"+{watts}000", "--burn", str(ms)], check=True)

def said(what):
    print(what, time.clock_gettime_ns(time.CLOCK_BOOTTIME), flush=True)

@joulebook.experiment("decorated")
def work():
    said("decorated in")
    burn(150, 1500)
    said("decorated out")

said("begin")
burn(90, 1200)
with joulebook.experiment("outer") as outer:
    print("run", outer.id, "outer")
    said("outer in")
    burn(100, 1900)
    with joulebook.experiment("inner") as inner:
        print("run", inner.id, "inner")
        said("inner in")
        burn(220, 2200)
        said("inner out")
    with outer.window("epoch") as epoch:
        burn(60, 1600)
    said("outer out")
print("figures", outer.energy_kwh, epoch.energy_kwh, outer.known)
work()
said("end")
"""
"""Consumes through children, as a program does that starts workers; nested, and a decorator."""


def booked(daemon: Daemon) -> dict[str, int]:
    """Energy by experiment."""
    return dict(
        daemon.rows(
            "SELECT experiment, sum(energy_uj) FROM postings "
            "JOIN workloads ON workloads.id = workload_id GROUP BY experiment"
        )
    )


def near(truth_uj: int) -> object:
    """The truth, give or take a tick of the counter (100 ms) at each edge.

    So much is lost where a busy machine runs no burst of readings in time; the sums are exact.
    """
    step_mw, tick_ms = 160_000, 100
    return pytest.approx(truth_uj, rel=0.03, abs=2 * step_mw * tick_ms)


def environment(marks: Path) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT / "exporter"), "JOULEBOOK_MARKS_DIR": str(marks)}


@pytest.fixture
def scenario(tmp_path: Path) -> Scenario:
    return Scenario.create(tmp_path / "scenario", [Gpu(uuid="GPU-a"), Gpu(uuid="GPU-b")])


@pytest.fixture
def daemon(tmp_path: Path, scenario: Scenario) -> Daemon:
    return Daemon(
        tmp_path / "daemon",
        scenario,
        tmp_path / "none",
        {
            "JOULEBOOK_TENANTS_SLURM_ENABLED": "false",
            "JOULEBOOK_TENANTS_KUBERNETES_ENABLED": "false",
            "JOULEBOOK_MARKS_ENABLED": "true",
            "JOULEBOOK_MARKS_DIR": str(tmp_path / "marks"),
            # A list of processes at each look, so that short ones are seen.
            "JOULEBOOK_DAEMON_PROCESS_INTERVAL_S": "0.5",
        },
    )


def test_energy_from_entry_to_exit_is_the_marked_experiments(
    tmp_path: Path,
    scenario: Scenario,
    daemon: Daemon,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    power = build_power(BUILD)
    marks = tmp_path / "marks"
    before = rest(scenario)
    with daemon:
        wake(scenario)
        until("the directory", marks.is_dir)
        assert marks.stat().st_mode & 0o7777 == 0o1777
        here = {**environment(marks), "JOULEBOOK_SERVER_LISTEN": f"127.0.0.1:{daemon.port}"}
        head = f"POWER, SCENARIO, GPU = {str(power)!r}, {str(scenario.path)!r}, 'GPU-a'\n"
        done = subprocess.run(
            [sys.executable, "-c", head + PROGRAM],
            env=here, capture_output=True, text=True, check=True, timeout=60,
        )  # fmt: skip
        at = {
            line.rpartition(" ")[0]: int(line.rpartition(" ")[2])
            for line in done.stdout.splitlines()
            if line[0] in "bedoi"
        }
        # On another card, by the command line; its child's child consumes.
        command = f"{power} {scenario.path} GPU-b +180000 --burn 2500 & wait; exit 7"
        named = subprocess.run(
            [sys.executable, "-m", "joulebook.mark", "by command", "--", "sh", "-c", command],
            env=here, capture_output=True, text=True, check=False, timeout=60,
        )  # fmt: skip
        t0_ns, t1_ns = map(int, named.stdout.split())
        assert named.returncode == 7, "the command's own exit status"
        after = at_rest(daemon)
        energy = booked(daemon)
        assert_balanced_all(daemon, {name: after[name] - before[name] for name in after})

        def truth(gpu: int, first: int, last: int) -> int:
            return scenario.true_energy_uj(gpu, first, last)

        inner = truth(0, at["inner in"], at["inner out"])
        outer = truth(0, at["outer in"], at["outer out"]) - inner
        assert energy["inner"] == near(inner)
        assert energy["outer"] == near(outer)
        # From a result to its run: the id that the block gave leads to what was booked to it.
        monkeypatch.setenv("JOULEBOOK_LEDGER_PATH", str(daemon.ledger))
        for _, run, name in (x.split() for x in done.stdout.splitlines() if x.startswith("run ")):
            found = joulebook.runs.figures(job=run, ledger=daemon.ledger)
            assert found["energy_kwh"] * UJ_PER_KWH == pytest.approx(energy[name])
            assert cli.main(["job", run, "--json"]) == 0
            told = json.loads(capsys.readouterr().out)
            assert told["total"]["energy_uj"] == energy[name]
            assert {job["experiment"] for job in told["workloads"]} == {name}
        (line,) = (x for x in done.stdout.splitlines() if x.startswith("figures "))
        _, whole_kwh, epoch_kwh, known = line.split(maxsplit=3)
        assert float(whole_kwh) * UJ_PER_KWH == pytest.approx(energy["outer"])
        assert 0 < float(epoch_kwh) < float(whole_kwh)
        assert "measured by the energy counter" in known
        # It waited until all was booked, and so its last line has the same.
        said = f"by command: {energy['by command'] / UJ_PER_WH:.4g} Wh ("
        assert f"joulebook mark: {said}" in named.stderr
        decorated = truth(0, at["decorated in"], at["decorated out"])
        assert energy["decorated"] == near(decorated)
        # As the command says when it began and ended: how long interpreters take is not in it.
        assert energy["by command"] == pytest.approx(truth(1, t0_ns, t1_ns), rel=0.12)
        owners = daemon.rows(
            "SELECT DISTINCT scheduler, user, account, evidence FROM workloads "
            "WHERE experiment IN ('inner', 'outer', 'decorated', 'by command')"
        )
        assert owners == [("process", "root", "", "processes")]
        ends = daemon.rows("SELECT count(*) FROM workloads WHERE ended_utc_ns IS NOT NULL")
        assert ends[0][0] >= 4
        assert not [each for each in marks.iterdir() if each.suffix == ".json"], "all collected"


def assert_balanced_all(daemon: Daemon, expected_uj: dict[str, int]) -> None:
    """As `assert_balanced`, with workloads of all schedulers."""
    assert {name: meter_uj(daemon).get(name, 0) for name in expected_uj} == expected_uj
    total = sum(booked(daemon).values()) + sum(remainder_uj(daemon).values())
    assert total == sum(expected_uj.values())


@pytest.mark.timeout(900)
def test_a_killed_process_ends_its_mark_and_a_restarted_daemon_goes_on_with_a_living_one(
    tmp_path: Path, scenario: Scenario, daemon: Daemon
) -> None:
    power = build_power(BUILD)
    marks = tmp_path / "marks"
    with daemon:
        wake(scenario)
        until("the directory", marks.is_dir)
        lives = subprocess.Popen(
            [sys.executable, "-m", "joulebook.mark", "lives", "--",
             str(power), str(scenario.path), "GPU-a", "+100000", "--burn", ENDLESS_MS],
            env=environment(marks), stdout=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            until("its energy", lambda: booked(daemon).get("lives", 0) > 0, 120)
            daemon.kill()
            time.sleep(1)
            daemon.start()
            resumed = booked(daemon)["lives"]
            until("more energy", lambda: booked(daemon)["lives"] > resumed + 200_000_000, 120)
        finally:
            lives.terminate()
            lives.wait(20)
        killed = subprocess.Popen(
            [sys.executable, "-c",
             "import joulebook, subprocess, sys\n"
             "with joulebook.experiment('killed'):\n"
             "    subprocess.run(sys.argv[1:])",
             str(power), str(scenario.path), "GPU-b", "+100000", "--burn", ENDLESS_MS],
            env=environment(marks), stdout=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        try:
            until("its energy", lambda: booked(daemon).get("killed", 0) > 0, 120)
            killed.kill()
            killed.wait()
            at_rest(daemon)
            until(
                "its end on record",
                lambda: daemon.rows(
                    "SELECT 1 FROM workloads "
                    "WHERE experiment = 'killed' AND ended_utc_ns IS NOT NULL"
                ),
                120,
            )
        finally:
            os.killpg(killed.pid, signal.SIGKILL)  # the child that it left behind
            killed.wait()
