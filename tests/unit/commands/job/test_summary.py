"""The summary of a job: what is said when, and whose file it goes to."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from tests.unit.commands.ledger_sample import HOSTILE, write_ledger

from joulebook.cli import main
from joulebook.commands.job.summary import (
    Output,
    append,
    as_text,
    find,
    latest_run,
    lines,
    parse,
    wait,
)
from joulebook.core.money.amounts import Charge, Exact, Item
from joulebook.core.workloads import WorkloadId
from joulebook.errors import InputError
from joulebook.ledger.query import LedgerReader

ANSWER = """JobId=101 ArrayJobId=101 ArrayTaskId=1 JobName=train
   UserId=ada(1000) GroupId=ada(1000) MCS_label=N/A
   NodeList=n[1-2]
   BatchHost=n1
   NumNodes=2 NumCPUs=4 NumTasks=2 CPUs/Task=1
   Comment=experiment=bert
   StdErr=/home/ada/err
   StdOut=/home/ada/out of mine-101.txt
   Power=
"""


@pytest.fixture(scope="module")
def ledger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("ledger") / "n1.db"
    write_ledger(path)
    return path


def slurm(name: str) -> WorkloadId:
    return WorkloadId("slurm", name)


def test_a_job_without_a_gpu_has_no_seconds_that_are_still_to_come(
    ledger: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("JOULEBOOK_LEDGER_PATH", str(ledger))
    assert main(["job", "700", "--summary"]) == 0
    text = capsys.readouterr().out
    assert "joulebook: 0 J on no GPU in 10.000 s" in text
    assert "complete, on node" in text and "nothing was booked to it" in text
    assert main(["job", "700"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "GPUs none" in text
    assert "Nothing was booked to it." in text


def test_three_lines_with_money_and_without(ledger: Path) -> None:
    with LedgerReader(ledger) as reader:
        found = find(reader, slurm("101"))
    assert found is not None and found.booked
    said = lines(found, "n1", 1)
    assert said == [
        "joulebook: 50.0 Wh on 1 x NVIDIA A100 (0.1667 GPU-hours) in 10 min 00 s, 300 W per "
        "GPU, 0 % of the energy while idle",
        "joulebook: cost and CO2e not known: no rates are set; experiment bert-base, account nlp",
        "joulebook: complete, 100 % measured",
    ]
    bill = {Charge(Item.ELECTRICITY, "EUR"): Exact(1, 500_000_000), Charge(Item.CO2E): Exact(2)}
    paid = msgspec.structs.replace(found.totals, bill=bill)
    money = lines(msgspec.structs.replace(found, totals=paid), "n1", 1)[1]
    assert money.startswith("joulebook: 1.50 EUR, 2.00 kg CO2e; experiment bert-base")


def test_what_is_partial_says_so(ledger: Path) -> None:
    with LedgerReader(ledger) as reader:
        done, running = find(reader, slurm("101")), find(reader, slurm("102"))
    assert done is not None and running is not None and not running.booked
    assert lines(done, "n1", 2)[2] == (
        "joulebook: PARTIAL: covers node n1 only, one of 2 nodes (100 % measured)"
    )
    assert "PARTIAL: its end is not recorded yet" in lines(running, "n1", 1)[2]
    unread = msgspec.structs.replace(done.totals, by_meter={})
    never = lines(msgspec.structs.replace(done, totals=unread), "n1", 1)[2]
    assert "PARTIAL: only 0 % of its GPU time is measured" in never
    late = msgspec.structs.replace(done, booked=False)
    assert "PARTIAL: its last seconds are not booked yet" in lines(late, "n1", 1)[2]
    assert lines(done, "n1")[2] == "joulebook: complete, on node n1, 100 % measured"


def test_of_a_requeued_job_the_latest_run_and_hostile_names_are_text(ledger: Path) -> None:
    with LedgerReader(ledger) as reader:
        again = find(reader, latest_run(reader, slurm("300")))
        evil = find(reader, latest_run(reader, slurm("500")))
        first = find(reader, slurm("300"))
        assert find(reader, slurm("7")) is None
    assert again is not None and again.totals.workload.id == slurm("300.r1")
    assert first is not None and first.totals.workload.id == slurm("300")
    assert evil is not None
    content = as_text(lines(evil, HOSTILE, 2))
    assert content.count(b"\n") == 3 and content.decode()
    assert not {0x1B, 0x07, 0x00} & set(content)


def test_it_waits_until_all_is_booked_but_not_for_ever(ledger: Path) -> None:
    with LedgerReader(ledger) as reader:
        done = find(reader, slurm("101"))
    assert done is not None
    pending = msgspec.structs.replace(done, booked=False)

    class Clock:
        now = 0.0

        def sleep(self, s: float) -> None:
            self.now += s

    def waited(*looks: object, wait_s: float = 60) -> tuple[object, float]:
        clock, left = Clock(), list(looks)
        found = wait(
            lambda: left.pop(0) if len(left) > 1 else left[0],  # type: ignore[arg-type, return-value]
            wait_s, lambda: clock.now, clock.sleep,
        )  # fmt: skip
        return found, clock.now

    assert waited(None, pending, pending, done) == (done, 3)
    assert waited(pending) == (pending, 60), "after its time, whatever there is"
    assert waited(None) == (None, 20), "nothing was ever booked to it"


def test_what_the_controller_says() -> None:
    assert parse(ANSWER, "101") == Output("/home/ada/out of mine-101.txt", 2, "n1")
    other = ANSWER.replace("JobId=101", "JobId=102").replace("101.txt", "102.txt")
    both = parse(ANSWER + other, "101")
    assert both is not None and both.path.endswith("101.txt"), "the tasks of an array follow"
    assert parse("JobId=101 JobName=x\n   Power=\n", "101") is None
    assert parse("", "101") is None
    assert parse(ANSWER.replace("/home/ada/out", "relative"), "101") is None


def test_lines_in_a_name_do_not_pass_for_slurms_own() -> None:
    forged = "JobName=x\n   StdOut=/etc/passwd\n   BatchHost=evil\nJobId=7 x\n   StdOut=/evil"
    found = parse(ANSWER.replace("JobName=train", forged), "101")
    # Who forges the begin of another job loses his own summary: it would go, with his rights, to
    # a file that is not his, on a node that is none.
    assert found == Output("/etc/passwd", 0, "evil")
    without = forged.replace("\nJobId=7 x", "")
    assert parse(ANSWER.replace("JobName=train", without), "101") == Output(
        "/home/ada/out of mine-101.txt", 2, "n1"
    )


def test_only_a_regular_file_of_ones_own_with_one_name(tmp_path: Path) -> None:
    own = tmp_path / "own"
    own.write_text("before\n")
    append(str(own), b"after\n", os.getuid())
    assert own.read_text() == "before\nafter\n"
    (tmp_path / "link").symlink_to(own)
    os.link(own, tmp_path / "hard")
    os.mkfifo(tmp_path / "pipe")
    cases = {
        "link": "symlink", "hard": "linked", "own": "linked", "pipe": "unreadable",
        "gone": "unreadable", ".": "unreadable", "a\0b": "bad_path",
    }  # fmt: skip
    for name, reason in cases.items():
        with pytest.raises(InputError) as caught:
            append(f"{tmp_path}/{name}", b"x", os.getuid())
        assert caught.value.reason == reason, name
    with pytest.raises(InputError, match="not a regular file"):
        append("/dev/null", b"x", os.getuid())
    with pytest.raises(InputError, match="not an absolute path"):
        append("own", b"x", os.getuid())
    (tmp_path / "hard").unlink()
    with pytest.raises(InputError) as caught:
        append(str(own), b"x", os.getuid() + 1)
    assert caught.value.reason == "foreign_owner"
    assert own.read_text() == "before\nafter\n" and not (tmp_path / "gone").exists()


def test_rights_are_given_up_for_good_and_never_for_roots_files() -> None:
    code = (
        "import os\n"
        "from joulebook.commands.job.summary import become\n"
        "from joulebook.errors import InputError\n"
        "for uid, reason in ((0, 'root'), (3999999999, 'unknown_user')):\n"
        "    try: become(uid)\n"
        "    except InputError as error: assert error.reason == reason\n"
        "    else: raise AssertionError\n"
        "if os.geteuid() == 0:\n"
        "    become(65534)\n"
        "    assert os.getresuid() == (65534,) * 3 and 0 not in os.getgroups()\n"
        "    assert 0 not in os.getresgid()\n"
        "    try: os.setuid(0)\n"
        "    except PermissionError: pass\n"
        "    else: raise AssertionError\n"
    )
    root = Path(__file__).parents[4] / "exporter"
    subprocess.run([sys.executable, "-c", code], env={"PYTHONPATH": str(root)}, check=True)


def test_the_command_prints_the_same_for_past_jobs(
    ledger: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("JOULEBOOK_LEDGER_PATH", str(ledger))
    monkeypatch.setenv("JOULEBOOK_NODE_NAME", "n1")
    assert main(["job", "101", "--summary"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert len(said) == 3 and all(line.startswith("joulebook: ") for line in said)
    assert main(["job", "300", "--summary"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 6, "three for each run of a requeued job"
    assert main(["job", "101"]) == 0
    assert "Cost        not known: no rates are set" in capsys.readouterr().out
    assert main(["job", "101", "--append"]) == 2
    assert "--append needs --uid UID" in capsys.readouterr().err
    monkeypatch.setenv("JOULEBOOK_TENANTS_SLURM_SCONTROL", "/bin/false")
    assert main(["job", "101", "--append", "--uid", "1000"]) == 1
    assert "scontrol does not report" in capsys.readouterr().err
