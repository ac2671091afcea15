"""Which job is meant: ids, and what is near one that is not there."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from tests.unit.lab.collected.nodes import NOVEMBER_S, Node

from joulebook import cli
from joulebook.commands.job.job import JobId, nearest, parse_id
from joulebook.core.money.amounts import Exact
from joulebook.lab.collected import ingest
from joulebook.lab.collected.database import opened
from joulebook.units import NS_PER_S, UJ_PER_J


@pytest.mark.parametrize(
    ("text", "scheduler", "name"),
    [
        ("1234", "", "1234"),
        ("1234_7", "", "1234_7"),
        ("1234.r1", "", "1234.r1"),
        ("1234_7.r2", "", "1234_7.r2"),
        ("slurm/1234", "slurm", "1234"),
        ("1234+1", "", "1234+1"),
        ("span-1000-4711-0a1b.3f2e1d0c", "", "span-1000-4711-0a1b.3f2e1d0c"),
        ("mark.0123456789abcdef", "", "mark.0123456789abcdef"),
        ("session-4711", "", "session-4711"),
        ("run-4711-123456.u1000@0a1b2c3d", "", "run-4711-123456.u1000@0a1b2c3d"),
        ("train.service.u1001@0a1b", "", "train.service.u1001@0a1b"),
        ("3d\\x2dnet@1.service.u1@ws.0a1b2c3d", "", "3d\\x2dnet@1.service.u1@ws.0a1b2c3d"),
        ("7zip@ws1.lab.0a1b2c3d", "", "7zip@ws1.lab.0a1b2c3d"),
        ("docker-ab12ab12ab12.u1000", "", "docker-ab12ab12ab12.u1000"),
        ("train-0.1a2b3c4d", "", "train-0.1a2b3c4d"),
        ("kubernetes/train-0.1a2b3c4d", "kubernetes", "train-0.1a2b3c4d"),
        ("process/user.slice/user-1000.slice", "process", "user.slice/user-1000.slice"),
    ],
)
def test_an_id(text: str, scheduler: str, name: str) -> None:
    assert parse_id(text) == JobId(scheduler, name)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "abc",
        "12 34",
        "1234.batch",
        "-1",
        "1234'",
        "*",
        "12?",
        "1\n",
        "१२",
        "9" * 40,
        "\x1b[2J",
        "12-34",
        "a b@c",
    ],
)
def test_what_is_no_id(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert parse_id(text) is None
    assert cli.main(["job", "--", text]) == 2
    said = capsys.readouterr().err
    assert "is not a job id: expected 1234, 1234_7" in said
    assert "\x1b" not in said


def test_a_missing_ledger_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("JOULEBOOK_LEDGER_PATH", str(tmp_path / "none.db"))
    assert cli.main(["job", "1"]) == 2
    assert "no ledger at" in capsys.readouterr().err


def test_near_by_number_or_by_letters() -> None:
    known = ["99", "101", "101_7", "250", "train-a.1a2b3c4d"]
    assert nearest("103", known) == ["101", "101_7", "99"]
    assert nearest("train-b.1a2b3c4d", known)[0] == "train-a.1a2b3c4d"
    assert nearest("7", ["train-a.1a2b3c4d"]) == ["train-a.1a2b3c4d"]


def booked(node: str, number: str, begin_s: int, held_s: int, joules: int, **more: object) -> Node:
    """A node that booked one job of an hour on one card."""
    found = Node(node, node.ljust(32, "0"), "lab")
    t0_ns = (NOVEMBER_S + begin_s) * NS_PER_S
    facts = {"started_utc_ns": t0_ns, "ended_utc_ns": t0_ns + 3600 * NS_PER_S, **more}
    found.label(number, "nlp", "ada", "bert", **facts)
    found.burn(NOVEMBER_S + begin_s, joules * UJ_PER_J, number, Exact(0, 250_000_000),
               held_s * NS_PER_S)  # fmt: skip
    found.booked_to_s = NOVEMBER_S + 40_000
    return found


@pytest.fixture
def collected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A job on two nodes, of which one was away for three quarters of it."""
    url = f"sqlite://{tmp_path}/collected.db"
    monkeypatch.setenv("JOULEBOOK_COLLECT_URL", url)
    monkeypatch.setenv("JOULEBOOK_LEDGER_PATH", str(tmp_path / "none.db"))
    with opened(url, create=True) as database:
        for node in (booked("n1", "101", 0, 3600, 1000), booked("n2", "101", 0, 900, 250)):
            assert ingest.take(database, node.page(0), "t", NOVEMBER_S + 50_000)
    return tmp_path


@pytest.mark.parametrize("option", [(), ("--collected",)])
def test_a_job_of_the_collected_ledger(
    collected: Path, option: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    """A login node has no ledger of its own."""
    assert cli.main(["job", "101", *option]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "Job 101 on 2 nodes" in text
    assert "1,250.000000 J" in text
    assert "GPU time 2.00 GPU-hours; 62 % of it is measured: energy is a lower bound" in text
    assert "0.50 EUR" in text
    assert "this node's meters only" not in text
    assert cli.main(["job", "101", "--json", *option]) == 0
    (job,) = json.loads(capsys.readouterr().out)["workloads"]
    assert job["coverage"] == 0.625
    assert (job["gpu_seconds"], job["held_gpu_seconds"]) == (4500, 7200)
    assert job["nodes"] == ["n1", "n2"]
    assert cli.main(["job", "101", "--summary", *option]) == 0
    text = capsys.readouterr().out
    assert "PARTIAL: only 62 % of its GPU time is measured" in text
    assert "all of it" not in text
    assert cli.main(["job", "999", *option]) == 1
    assert "job 999 is not in the collected ledger" in capsys.readouterr().err


def test_the_list_says_for_how_much_of_the_time_energy_is_known(
    collected: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with opened(f"sqlite://{collected}/collected.db") as database:
        whole = booked("n3", "102", 0, 3600, 1000)
        whole.label("102", "nlp", "grace", "vit", started_utc_ns=NOVEMBER_S * NS_PER_S,
                    ended_utc_ns=(NOVEMBER_S + 3600) * NS_PER_S)  # fmt: skip
        assert ingest.take(database, whole.page(0), "t", NOVEMBER_S + 50_000)
    assert cli.main(["report", "--json"]) == 0
    lines = {line["experiment"]: line for line in json.loads(capsys.readouterr().out)["lines"]}
    assert (lines["bert"]["held_gpu_hours"], lines["bert"]["coverage"]) == (2, 0.625)
    assert (lines["vit"]["held_gpu_hours"], lines["vit"]["coverage"]) == (1, 1)
    assert cli.main(["report"]) == 0
    text = capsys.readouterr().out
    table = [re.split(" {2,}", line.strip()) for line in text.splitlines()]
    assert table[2][2:4] == ["GPU-hours", "measured"]
    rows = {row[0]: row[2:4] for row in table[3:6]}
    assert rows["nlp / ada / bert"] == ["2.00", "62 %"]
    assert rows["nlp / grace / vit"] == ["1.00", "100 %"]
    assert rows["in all"] == ["3.00", "75 %"]
    assert "below 100 %, it is a lower bound" in text
