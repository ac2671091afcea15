"""Traces through the pipeline on virtual time: what is booked is what was recorded."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from joulebook import cli
from joulebook.commands.trace.jobs_csv import read_jobs
from joulebook.errors import ConfigError

HEAD = "job,user,account,experiment,gpu,start_s,end_s\n"


def write_trace(
    path: Path, *, watts: int = 300, seconds: int = 60, failed: range = range(0)
) -> Path:
    """A GPU with a counter and one without, at a constant power, a line for each 100 ms."""
    header = {
        "v": 1,
        "kind": "joulebook-trace",
        "devices": [{"name": "GPU-a", "model": "NVIDIA A100"}, {"name": "GPU-b"}],
    }
    lines: list[dict[str, object]] = [header]
    for tenth in range(seconds * 10 + 1):
        t_ns = tenth * 100_000_000
        if tenth // 10 in failed:
            lines.append({"t_ns": t_ns, "gpu": 0, "failed": "timeout"})
        else:
            consumed = 5_000_000 + watts * tenth * 100_000
            lines.append({"t_ns": t_ns, "gpu": 0, "energy_uj": consumed, "power_mw": watts * 1000})
        lines.append({"t_ns": t_ns, "gpu": 1, "power_mw": watts * 1000})
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_jobs_get_what_they_burnt(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trace = write_trace(tmp_path / "t.jsonl")
    jobs = tmp_path / "jobs.csv"
    jobs.write_text(
        HEAD
        + "101,ada,nlp,bert,0,10,20\n101,ada,nlp,bert,1,10,20\n102,grace,,sweep,GPU-a,20,20.5\n"
    )
    assert cli.main(["replay", str(trace), "--jobs", str(jobs)]) == 0
    said = capsys.readouterr().out
    assert "balanced to the microjoule" in said
    assert re.search(r"^Read +36,000\.000000 J", said, re.MULTILINE)
    rows = {line.split()[0]: line for line in said.splitlines() if line}
    assert "1.667 Wh" in rows["101"]
    assert "20 s" in rows["101"] and "grace" in rows["102"]
    assert "0.042 Wh" in rows["102"]
    assert "counter" in said and "integrated" in said


def test_a_gap_is_shown_and_its_energy_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trace = write_trace(tmp_path / "t.jsonl", failed=range(30, 40))
    assert cli.main(["replay", str(trace)]) == 0
    said = capsys.readouterr().out
    assert re.search(r"^Gaps +1\d s timeout", said, re.MULTILINE)
    assert re.search(r"^Posted +36,000\.000000 J", said, re.MULTILINE)


def test_a_shipped_trace_is_found_by_its_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["replay", "a100"]) == 0
    assert "balanced to the microjoule" in capsys.readouterr().out


def test_what_is_no_trace_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "t.jsonl").write_text("hello\n")
    assert cli.main(["replay", str(tmp_path / "t.jsonl")]) == 2
    assert "t.jsonl:1: no header of a trace" in capsys.readouterr().err
    assert cli.main(["replay", str(tmp_path / "none")]) == 2


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("job,gpu,start_s\n", "no column end_s"),
        (HEAD + "1,a,b,c,2,0,1\n", r":2: gpu = '2': expected 0 to 1"),
        (HEAD + "1,a,b,c,0,5,5\n", "end_s 5 is not after"),
        (HEAD + "1,a,b,c,0,x,5\n", "start_s = 'x': expected seconds"),
        (HEAD + "1,a,b,c,0,nan,5\n", "start_s = 'nan'"),
        (HEAD + "1,a,b,c,0,-1,5\n", "start_s = '-1'"),
        (HEAD + ",a,b,c,0,1,5\n", "job is empty"),
        (HEAD + "1,a,b,c,0,0,10\n2,a,b,c,GPU-a,9,12\n", "jobs 1 and 2 hold GPU-a at the same time"),
        (HEAD + "1,a\n", "start_s = ''"),
    ],
)
def test_a_wrong_timetable_is_refused(tmp_path: Path, text: str, problem: str) -> None:
    path = tmp_path / "jobs.csv"
    path.write_text(text)
    with pytest.raises(ConfigError, match=problem):
        read_jobs(path, ["GPU-a", "GPU-b"])


def test_a_timetable_in_other_bytes_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "jobs.csv"
    path.write_bytes(HEAD.encode() + b"\xff\xfe\n")
    with pytest.raises(ConfigError, match="not UTF-8 at byte"):
        read_jobs(path, ["GPU-a"])
    with pytest.raises(ConfigError, match="cannot be read"):
        read_jobs(tmp_path / "none.csv", ["GPU-a"])


def test_names_in_a_timetable_are_cleaned(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trace = write_trace(tmp_path / "t.jsonl")
    jobs = tmp_path / "jobs.csv"
    jobs.write_text(HEAD + "1\x1b[2J,ada\x07,nlp,bert,0,10,20\n")
    assert cli.main(["replay", str(trace), "--jobs", str(jobs)]) == 0
    said = capsys.readouterr().out
    assert "\x1b" not in said and "\x07" not in said and "1 [2J" in said
