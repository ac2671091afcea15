"""Who consumes what: `joulebook top --users` on a node, from a ledger, from a real Prometheus."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.e2e.books import at_rest
from tests.e2e.lab import Daemon, Prometheus, until
from tests.fakes.nvml.scenario import Gpu, Scenario

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(180)]


def give(events: Path, job: int, user: str, gpu: str) -> Path:
    """An event as the Prolog writes it."""
    event = {
        "v": 1, "scheduler": "slurm", "job_id": str(job), "restart_count": 0, "gpu_ids": "uuid",
        "gpus": [gpu], "user": user, "uid": 1000, "account": "nlp", "start_ns": time.time_ns(),
    }  # fmt: skip
    (new := events / f".{job}.tmp").write_text(json.dumps(event))
    return new.rename(events / f"{job}.0.json")


def top(daemon: Daemon, *args: str) -> str:
    return subprocess.run(
        [sys.executable, "-m", "joulebook", "top", "--users", *args],
        env={**daemon.environment(), "COLUMNS": "120"},
        capture_output=True, text=True, check=True, timeout=60,
    ).stdout  # fmt: skip


def by_run(daemon: Daemon, *args: str) -> dict[str, float]:
    """kWh of each result, from `joulebook leaderboard`."""
    done = subprocess.run(
        [sys.executable, "-m", "joulebook", "leaderboard", "--json", *args],
        env=daemon.environment(), capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    (board,) = json.loads(done.stdout)["boards"]
    return {each["name"]: each["energy_kwh"] for each in board["results"]}


def test_by_user_on_the_node_and_in_the_lab(tmp_path: Path) -> None:
    scenario = Scenario.create(tmp_path / "scenario", [Gpu(uuid=f"GPU-{n}") for n in "abc"])
    events = tmp_path / "events"
    events.mkdir()
    daemon = Daemon(tmp_path / "daemon", scenario, events, {"JOULEBOOK_NODE_NAME": "n1"})
    with daemon, Prometheus(tmp_path / "prometheus", daemon.port) as prometheus:
        scenario.set_power(0, 300_000)
        scenario.set_power(1, 100_000)
        scenario.set_power(2, 50_000)
        give(events, 1, "ada", "GPU-a")
        give(events, 2, "grace\x1b[2J", "GPU-b")

        def both_burn() -> bool:
            text = top(daemon)
            return bool(re.search(r"ada +300 W", text)) and bool(re.search(r"grace.* 100 W", text))

        until("power of both", both_burn, 60)

        def in_the_lab() -> bool:
            lab = top(daemon, "--prometheus", f"http://127.0.0.1:{prometheus.port}")
            return bool(re.search(r"ada +300 W", lab)) and "400 W now" in lab

        until("both in Prometheus", in_the_lab, 60)
        for each in events.glob("*.json"):
            each.unlink()
        at_rest(daemon)
        node, ledger = top(daemon), top(daemon, "--ledger", f"n1={daemon.ledger}")
        energy = {
            user: sum(uj for (uj,) in daemon.rows(
                "SELECT energy_uj FROM postings JOIN workloads ON workloads.id = workload_id "
                "WHERE user LIKE ?", f"{user}%"))
            for user in ("ada", "grace")
        }  # fmt: skip
        for text in (node, ledger):
            assert "\x1b" not in text
            rows = re.findall(
                r"^(ada|grace)(?: \[2J)? +\S+(?: W)? +([\d,.]+) (J|Wh)", text, re.MULTILINE
            )
            assert [name for name, *_ in rows] == ["ada", "grace"], text
            for name, number, unit in rows:
                unit_j = 3600 if unit == "Wh" else 1
                shown_j = float(number.replace(",", "")) * unit_j
                rounded_j = unit_j * 10 ** -len(number.partition(".")[2]) / 2
                assert shown_j == pytest.approx(energy[name] / 1e6, rel=0.006, abs=rounded_j)
            assert "of it unattributed" in text
        assert "Ledgers have no power" in ledger
        # Results of these jobs have the same energy from the ledger and from Prometheus.
        (results := tmp_path / "results.csv").write_text(
            "experiment,run,metric,value\nx,1,accuracy,90\nx,2,accuracy,80\n"
        )
        since = time.strftime("%Y-%m-%d", time.gmtime())
        booked = by_run(daemon, str(results), "--ledger", f"n1={daemon.ledger}")
        assert booked == pytest.approx({
            "x / 1": energy["ada"] / 3.6e12, "x / 2": energy["grace"] / 3.6e12,
        })  # fmt: skip
        source = ("--prometheus", f"http://127.0.0.1:{prometheus.port}", "--since", since)
        # Series show whole joules, and the last of them when they are scraped next.
        until(
            "the same from Prometheus",
            lambda: by_run(daemon, str(results), *source) == pytest.approx(booked, rel=0.005),
        )
    with_daemon_down = top(daemon)
    assert "No power: no daemon answers" in with_daemon_down and "ada" in with_daemon_down
