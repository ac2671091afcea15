"""`python -m joulebook.mark`: the command runs as it would without."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import joulebook

ROOT = Path(joulebook.__file__).parents[1]


def start(marks: Path, *command: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-m", "joulebook.mark", "name", "--", *command],
        env={**os.environ, "PYTHONPATH": str(ROOT), "JOULEBOOK_MARKS_DIR": str(marks)},
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def test_input_output_arguments_and_exit_status_are_the_commands(tmp_path: Path) -> None:
    ran = start(tmp_path, "sh", "-c", 'cat; printf "%s\\n" "$@"; exit 7', "sh", "--flag", "a b")
    out, err = ran.communicate("said\n", timeout=30)
    assert (ran.returncode, out, err) == (7, "said\n--flag\na b\n", "")
    (left,) = tmp_path.iterdir()
    assert '"exited_boottime_ns"' in left.read_text()


def test_a_command_that_is_not_there(tmp_path: Path) -> None:
    ran = start(tmp_path, "no-such-command")
    _, err = ran.communicate(timeout=30)
    assert (ran.returncode, err) == (127, "no-such-command: No such file or directory\n")


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
