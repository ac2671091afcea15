"""A node on which there is nothing to measure: refused, or waited for as on Kubernetes."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.e2e.lab import ROOT, get, until
from tests.fakes.sysfs.machine import Machine
from tests.ports import free_port

pytestmark = pytest.mark.e2e

QUICK = (
    "import sys; from joulebook import cli; from joulebook.commands.daemon import run; "
    "run.LOOK_S = 0.2; "
    "sys.exit(cli.main(['run']))"
)
"""`joulebook run`, which does not wait a whole minute before it looks again."""


class Node:
    """A daemon on a machine that has nothing yet."""

    def __init__(self, directory: Path) -> None:
        self.machine = Machine(directory / "machine")
        self.url = f"http://127.0.0.1:{(port := free_port())}"
        self.log = directory / "log"
        self.env = {
            **os.environ,
            "PYTHONPATH": str(ROOT / "exporter"),
            "JOULEBOOK_NODE_NAME": "bare",
            "JOULEBOOK_SERVER_LISTEN": f"127.0.0.1:{port}",
            "JOULEBOOK_LEDGER_PATH": str(directory / "ledger.db"),
            "JOULEBOOK_LEDGER_ALLOW_VOLATILE": "true",
            "JOULEBOOK_DAEMON_WAIT_FOR_SENSORS": "true",
            "JOULEBOOK_SENSORS_NVML_ENABLED": "false",
            "JOULEBOOK_SENSORS_DRM_ENABLED": "false",
            "JOULEBOOK_SENSORS_HWMON_ENABLED": "false",
            "JOULEBOOK_SENSORS_RAPL_ROOT": str(self.machine.powercap),
        }

    def start(self) -> subprocess.Popen[bytes]:
        with self.log.open("wb") as out:
            return subprocess.Popen(
                [sys.executable, "-c", QUICK], env=self.env, stdout=out, stderr=out
            )

    def doctor(self) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "joulebook", "doctor"],
            env=self.env,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        return " ".join(done.stdout.split())


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path)


@pytest.fixture
def daemon(node: Node) -> Iterator[subprocess.Popen[bytes]]:
    process = node.start()
    try:
        yield process
        process.terminate()
        assert process.wait(30) == 0, node.log.read_text()
    finally:
        process.kill()
        process.wait()


def test_a_daemon_that_is_to_wait_stays_up_says_so_and_begins_when_it_can(
    node: Node, daemon: subprocess.Popen[bytes]
) -> None:
    until("an answer", lambda: get(f"{node.url}/readyz")[0] == 200)
    said = get(f"{node.url}/readyz")[1]
    assert said.startswith("nothing to measure: no NVIDIA GPU on the PCI bus")
    assert get(f"{node.url}/healthz") == (200, "healthy\n")
    text = get(f"{node.url}/metrics")[1]
    assert 'joulebook_build_info{node="bare"' in text
    assert "joulebook_sensor_up{" not in text
    assert get(f"{node.url}/")[0] == 200
    assert "nothing to measure" in node.log.read_text()
    doctor = node.doctor()
    assert "WARN" in doctor
    assert "/readyz: nothing to measure" in doctor
    assert "FAIL" not in doctor

    zone = node.machine.zone("intel-rapl:0", "package-0", 1_000_000)
    until(
        "the meter that has come", lambda: "joulebook_sensor_up{" in get(f"{node.url}/metrics")[1]
    )
    until("a reading", lambda: get(f"{node.url}/readyz") == (200, "ready\n"))
    (zone / "energy_uj").write_text("6000000")
    until(
        "its energy",
        lambda: "joulebook_meter_energy_joules_total{" in get(f"{node.url}/metrics")[1],
    )
    assert daemon.poll() is None, "the same process"


def test_a_daemon_that_is_not_refuses(node: Node) -> None:
    node.env["JOULEBOOK_DAEMON_WAIT_FOR_SENSORS"] = "false"
    process = node.start()
    assert process.wait(60) == 2
    assert "nothing to measure" in node.log.read_text()
    assert "joulebook run --demo" in node.log.read_text()
