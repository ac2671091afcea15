"""The first hour: what README and tutorial print is typed as printed, and the network is not there.

Daemon and commands run in a network namespace that has the loopback interface only: whatever tried
to leave the machine is counted by the kernel, as a packet without a route or a question to a name
server.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.e2e.lab import ROOT, until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

OUTSIDE = ("Ip OutNoRoutes", "Udp OutDatagrams")
"""Counters of a namespace that only a request to somewhere else moves."""


@pytest.fixture(scope="module")
def alone() -> Iterator[list[str]]:
    """What to put before a command so that it runs without a network."""
    holder = subprocess.Popen(
        ["unshare", "--net", "sh", "-ec", "ip link set lo up; echo up; exec sleep infinity"],
        stdout=subprocess.PIPE,
    )
    assert holder.stdout is not None
    try:
        assert holder.stdout.readline() == b"up\n"
        yield ["nsenter", f"--net=/proc/{holder.pid}/ns/net"]
    finally:
        holder.kill()
        holder.wait(20)
        holder.stdout.close()


def sent(alone: list[str]) -> list[int]:
    """The counters of `OUTSIDE`."""
    text = subprocess.run(
        [*alone, "cat", "/proc/net/snmp"], capture_output=True, text=True, check=True
    ).stdout
    rows = [line.split() for line in text.splitlines()]
    known = {
        f"{names[0].strip(':')} {name}": int(value)
        for names, values in zip(rows[::2], rows[1::2], strict=True)
        for name, value in zip(names[1:], values[1:], strict=True)
    }
    return [known[name] for name in OUTSIDE]


def printed(page: str) -> list[str]:
    """The commands that a page prints, but for those that install it on a node."""
    text = (ROOT / page).read_text("utf-8").partition("## Documentation")[0]
    text = re.sub(r"(?ms)^## Deploy\n.*?(?=^## )", "", text)
    lines = re.findall(r"(?m)^    (joulebook .*)$|`(joulebook [^`\n]*--[^`\n]*)`", text)
    return ["".join(line) for line in lines]


def test_every_command_that_is_printed_works_as_printed_and_without_a_network(
    alone: list[str], tmp_path: Path
) -> None:
    env = {name: value for name, value in os.environ.items() if not name.startswith("JOULEBOOK_")}
    env |= {"PYTHONPATH": str(ROOT / "exporter"), "JOULEBOOK_DAEMON_COMMIT_S": "1"}
    # SLURM's own programs look for a controller in the DNS.
    env["JOULEBOOK_REPORT_SACCT"] = ""

    def joulebook(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*alone, sys.executable, "-m", "joulebook", *words], cwd=tmp_path, env=env, check=False,
            capture_output=True, text=True, timeout=120, stdin=subprocess.DEVNULL,
        )  # fmt: skip

    # What `make run` runs, once it has installed, in a checkout of its own.
    (tmp_path / "tools").mkdir()
    shutil.copy(ROOT / "tools/run", tmp_path / "tools")
    (tmp_path / ".venv").symlink_to(Path(sys.executable).parents[1])
    log = tmp_path / "log"
    with log.open("wb") as file:
        demo = subprocess.Popen(
            [*alone, "tools/run", "--demo=always"], cwd=tmp_path, env=env, stdout=file, stderr=file,
            stdin=subprocess.DEVNULL,
        )  # fmt: skip
    try:
        until("its last line", lambda: "More of it" in log.read_text(), 240)
        shown = " ".join(log.read_text().split())
        for part in ("this node http://", "the lab http://", "cost (EUR) CO2e (", "emitting"):
            assert part in shown, f"{part}: {log.read_text()}"
        assert sent(alone) == [0, 0], "the daemon"
        commands = [*printed("README.md"), *printed("docs/tutorial.md")]
        assert len(commands) >= 10
        for command in dict.fromkeys(commands):
            done = joulebook(*shlex.split(command)[1:])
            assert done.returncode == 0, f"{command}: {done.stderr}{done.stdout}"
            assert "is not set" not in done.stdout, f"{command}: the demo has rates"
            assert sent(alone) == [0, 0], command
        assert "EUR" in joulebook("report", "--experiment", "bert-base").stdout
        assert sent(alone) == [0, 0]
    finally:
        demo.terminate()
        assert demo.wait(20) == 0


def test_a_request_that_leaves_the_machine_would_be_seen(alone: list[str]) -> None:
    code = "import socket; socket.create_connection(('192.0.2.1', 80), 1)"
    subprocess.run([*alone, sys.executable, "-c", code], check=False, stderr=subprocess.DEVNULL)
    assert sent(alone)[0] > 0
