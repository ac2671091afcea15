"""What a newcomer sees without a GPU: `joulebook run --demo`."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tests.e2e.lab import ROOT, get, until
from tests.ports import free_port

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240)]


def test_the_demo_says_that_it_is_one_and_shows_jobs(tmp_path: Path) -> None:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    env = {
        **os.environ,
        "PYTHONPATH": str(ROOT / "exporter"),
        "JOULEBOOK_SERVER_LISTEN": f"127.0.0.1:{port}",
    }
    with (tmp_path / "log").open("wb") as log:
        demo = subprocess.Popen(
            ["env", "--default-signal=HUP",  # whatever this runs under, nohup too
             sys.executable, "-m", "joulebook", "run", "--demo=always"],
            cwd=tmp_path, env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
        )  # fmt: skip
    try:
        until("the demo to be served", lambda: get(f"{url}/readyz")[0] == 200, 60)
        demo.send_signal(signal.SIGHUP)  # "read your configuration again": it says no, and goes on
        until("a job with joules", lambda: "bert-base" in energies(url), 90)
        first = (tmp_path / "log").read_text().splitlines()[0]
        assert "DEMO: no GPU is read" in first
        assert (
            "SIGHUP ignored: the configuration is only read at startup"
            in (tmp_path / "log").read_text()
        )
        status, page = get(url)
        assert status == 200
        assert "bert-base" in page
        assert "recorded trace" in page, "the page says what its figures are"
        drawn, complaints = browser(f"{url}/", tmp_path / "profile")
        assert "bert-base" in drawn
        assert "Content Security Policy" not in complaints, "its style is allowed by its policy"
        metrics = get(f"{url}/metrics")[1]
        for method in ("counter", "integrated"):
            line = (
                f'joulebook_method_energy_joules_total{{node="{node(metrics)}",method="{method}"}}'
            )
            value = next(x for x in metrics.splitlines() if x.startswith(line)).split()[-1]
            assert float(value) > 0, f"one trace is {method}"
    finally:
        demo.terminate()
        assert demo.wait(20) == 0


def browser(url: str, profile: Path) -> tuple[str, str]:
    """A page as a real browser has it in a window the width of a phone, and what it logs."""
    done = subprocess.run(
        ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run",
         "--disable-background-networking", "--disable-component-update", "--disable-sync",
         f"--user-data-dir={profile}", "--window-size=400,900", "--enable-logging=stderr",
         "--dump-dom", url],
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    return done.stdout, done.stderr


def energies(url: str) -> str:
    """The series of workloads that have more than zero joules."""
    return "\n".join(
        line
        for line in get(f"{url}/metrics")[1].splitlines()
        if line.startswith("joulebook_workload_energy_joules_total") and not line.endswith(" 0")
    )


def node(metrics: str) -> str:
    """The name of the node in an exposition."""
    return metrics.partition('node="')[2].partition('"')[0]
