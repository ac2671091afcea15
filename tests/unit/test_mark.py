"""`python -m joulebook.mark`: the command runs as it would without."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from tests.unit.node_stub import node

import joulebook
from joulebook.run_figures import NodeRuns, RunFigures

ROOT = Path(joulebook.__file__).parents[1]


SILENCE = "joulebook: nothing answers at 127.0.0.1:1: "


def start(
    marks: Path, *command: str, listen: str = "127.0.0.1:1", words: tuple[str, ...] = ()
) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-m", "joulebook.mark", *words, "name", "--", *command],
        env={
            **os.environ, "PYTHONPATH": str(ROOT), "JOULEBOOK_MARKS_DIR": str(marks),
            "JOULEBOOK_SERVER_LISTEN": listen,
        },
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def test_input_output_arguments_and_exit_status_are_the_commands(tmp_path: Path) -> None:
    ran = start(tmp_path, "sh", "-c", 'cat; printf "%s\\n" "$@"; exit 7', "sh", "--flag", "a b")
    out, err = ran.communicate("said\n", timeout=30)
    assert (ran.returncode, out) == (7, "said\n--flag\na b\n")
    assert err.startswith(SILENCE) and err.count("\n") == 1
    (left,) = tmp_path.iterdir()
    assert '"exited_boottime_ns"' in left.read_text()


def test_a_command_that_is_not_there(tmp_path: Path) -> None:
    ran = start(tmp_path, "no-such-command")
    _, err = ran.communicate(timeout=30)
    assert ran.returncode == 127
    assert err.endswith("\nno-such-command: No such file or directory\n")


def test_signals_reach_the_command_and_show_in_the_status(tmp_path: Path) -> None:
    ran = start(tmp_path, "sh", "-c", "echo up; exec sleep 60")
    assert ran.stdout is not None
    assert ran.stdout.readline() == "up\n"
    time.sleep(0.1)
    ran.send_signal(signal.SIGTERM)
    assert ran.wait(30) == 128 + signal.SIGTERM
    ran.communicate()


def test_a_directory_that_is_missing_is_said_and_stops_nothing(tmp_path: Path) -> None:
    ran = start(tmp_path / "none", "sh", "-c", "exit 7")
    _, err = ran.communicate(timeout=30)
    assert ran.returncode == 7
    assert err.startswith(f"joulebook mark: {tmp_path}/none does not exist, so nothing is booked")


def test_its_last_line_says_what_the_command_consumed(tmp_path: Path) -> None:
    booked = RunFigures(
        "span", "ada", 3_600_000_000_000, 900_000_000_000, methods={"counter": 3_600_000_000_000},
        cost_nano={"EUR": 250_000_000}, co2e_ug=358_000_000, nodes=("n1",), node_count=1,
        ended_utc_s=1.0,
    )  # fmt: skip
    with node(NodeRuns("n1", 4e9, (booked,))) as server:
        ran = start(tmp_path, "sh", "-c", "exit 7", listen=server.listen)
        _, err = ran.communicate(timeout=30)
        quiet = start(tmp_path, "true", listen=server.listen, words=("--wait", "0"))
        assert quiet.communicate(timeout=30) == ("", "")
    assert ran.returncode == 7
    assert err == (
        "joulebook mark: name: 1 kWh (250 Wh idle), 0.25 EUR, 358 g CO2e; 100% measured by the "
        "energy counter\n"
    )
