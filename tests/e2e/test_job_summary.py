"""The energy of a job at the end of its own output: real SLURM, real users, hostile users."""

from __future__ import annotations

import os
import pwd
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.e2e.books import job_uj, wake
from tests.e2e.lab import HOOKS, Daemon, Lab, until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """Two nodes, in a place that jobs of any user can reach, whoever else runs pytest here."""
    root = Path(tempfile.mkdtemp(prefix="jb-", dir="/tmp"))
    root.chmod(0o755)
    lab = Lab(root, nodes=2)
    with lab.slurm:
        yield lab
    shutil.rmtree(root, ignore_errors=True)


USER = "nobody"


def with_summary(lab: Lab, daemon: Daemon) -> None:
    """Let the Epilog append the summary, from the ledger of this daemon."""
    command = lab.directory / "joulebook"
    exports = "".join(
        f"export {key}={shlex.quote(value)}\n"
        for key, value in daemon.environment().items()
        if key.startswith(("JOULEBOOK_", "PYTHONPATH", "SLURM_CONF"))
    )
    command.write_text(
        f'#!/bin/sh\n{exports}echo "$*" >>{lab.directory}/asked\n'
        f'{shlex.quote(sys.executable)} -m joulebook "$@" 2>>{lab.directory}/refused\n'
        f"echo $? >>{lab.directory}/answered\n"
    )
    command.chmod(0o755)
    epilog = lab.directory / "epilog.sh"
    text = epilog.read_text()
    if "JOULEBOOK_SUMMARY" not in text:
        head, _, rest = text.partition("\n")
        wanted = f"export JOULEBOOK_SUMMARY=1 JOULEBOOK_COMMAND={command}"
        epilog.write_text(f"{head}\n{wanted}\n{rest}")


def submit(lab: Lab, *options: str, script: str) -> str:
    """As `USER`; on the first node, whose ledger is asked, unless the options say otherwise."""
    where = () if "-N2" in options else (f"--nodelist={lab.slurm.nodes[0]}",)
    return lab.slurm.sbatch(f"--uid={USER}", "--gres=gpu:1", *where, *options, script=script)


def answered(lab: Lab, count: int) -> None:
    """Wait until so many appending processes have ended."""
    path = lab.directory / "answered"
    until(
        f"{count} answers",
        lambda: path.exists() and len(path.read_text().split()) >= count,
        150,
    )


def test_three_lines_at_the_end_of_the_output_and_nowhere_else(lab: Lab, home: Path) -> None:
    user = pwd.getpwnam(USER)
    out = lab.directory / "out"
    out.mkdir()
    os.chown(out, user.pw_uid, user.pw_gid)
    for scenario in lab.scenarios.values():
        wake(scenario)
        scenario.path.chmod(0o666)  # its jobs are not root's
    with lab.daemon(home / "daemon") as daemon:
        with_summary(lab, daemon)
        burn = f"{lab.burn} 150 1500"
        plain = submit(
            lab, f"--output={out}/%x-%j.out", "--comment=experiment=bert", "--job-name=train me",
            script=f"echo begun; {burn}; echo done",
        )  # fmt: skip
        array = submit(
            lab, "--array=1-2", f"--output={out}/%A_%a.out", script=f"echo begun; {burn}"
        )
        both = submit(lab, "-N2", f"--output={out}/both.out", script=f"srun {burn}")
        forged = submit(
            lab, f"--output={out}/forged.out",
            f"--job-name=x\nStdOut=/etc/passwd\n StdOut={out}/elsewhere",
            script=f"echo begun; touch {out}/elsewhere; {burn}",
        )  # fmt: skip
        # What the user, or another, puts in the place of the output while the job runs.
        (target := out / "target").write_text("mine\n")
        os.chown(target, user.pw_uid, user.pw_gid)
        (foreign := out / "foreign").write_text("root's\n")
        foreign.chmod(0o666)
        tricks = {
            "linked": f"rm {out}/linked.out; ln -s {target} {out}/linked.out",
            "hard": f"rm {out}/hard.out; ln {target} {out}/hard.out",
            "gone": f"rm {out}/gone.out",
            "pipe": f"rm {out}/pipe.out; mkfifo {out}/pipe.out",
            "foreign": f"mv {foreign} {out}/foreign.out",
            "device": f"ln -sf /dev/null {out}/device.out",
        }
        tricked = [
            submit(lab, f"--output={out}/{name}.out", script=f"{burn}; {trick}")
            for name, trick in tricks.items()
        ]
        nowhere = submit(lab, "--output=/dev/null", script=burn)
        roots = lab.slurm.sbatch(
            "--gres=gpu:1", f"--nodelist={lab.slurm.nodes[0]}", f"--output={out}/root.out",
            script=burn,
        )  # fmt: skip
        jobs = (plain, array, both, forged, *tricked, nowhere, roots)
        lab.slurm.wait_done(*jobs, timeout_s=120)
        # One of each job but root's, and one more of the array and of the second node.
        answered(lab, len(jobs) - 1 + 2)

        name = f"{out}/train me-{plain}.out"
        lines = Path(name).read_text().splitlines()
        assert lines[:2] == ["begun", "done"] and len(lines) == 5
        assert all(line.startswith("joulebook: ") for line in lines[2:])
        found = re.match(r"joulebook: ([\d,.]+) (J|Wh) on 1 x ", lines[2])
        assert found, lines[2]
        shown_j = float(found[1].replace(",", "")) * (3600 if found[2] == "Wh" else 1)
        assert shown_j == pytest.approx(job_uj(daemon)[plain] / 1e6, rel=0.006), "to three digits"
        assert lines[3].endswith("experiment bert") and "no rates are set" in lines[3]
        assert lines[4] == "joulebook: complete, 100 % measured"
        assert Path(name).stat().st_uid == user.pw_uid

        for task in (1, 2):
            text = (out / f"{array}_{task}.out").read_text()
            assert text.startswith("begun\n") and text.count("joulebook: ") == 3
        text = (out / "both.out").read_text()
        assert text.count("joulebook: ") == 3, "one of its nodes is enough"
        assert "PARTIAL: covers node " in text and "one of 2 nodes" in text
        # The words of a user can at most choose among the user's own files.
        reported = (out / "forged.out").read_text() + (out / "elsewhere").read_text()
        assert reported.count("joulebook: ") == 3

        assert target.read_text() == "mine\n", "nothing was appended through a link"
        assert not (out / "gone.out").exists(), "nothing is created"
        assert (out / "foreign.out").read_text() == "root's\n"
        assert (out / "pipe.out").is_fifo() and Path("/dev/null").is_char_device()
        assert "joulebook" not in (out / "root.out").read_text()
        assert "joulebook" not in Path("/etc/passwd").read_text()
        refused = (lab.directory / "refused").read_text()
        for reason in (
            "Too many levels of symbolic links",
            "has 2 hard links",
            "No such file",
            "pipe.out",
        ):
            assert reason in refused, refused

        # The same for a job of the past, to whoever may read the ledger.
        said = subprocess.run(
            [sys.executable, "-m", "joulebook", "job", plain, "--summary"],
            env=daemon.environment(), capture_output=True, text=True, check=True,
        ).stdout.splitlines()  # fmt: skip
        assert said[:2] == lines[2:4]


def test_the_epilog_does_not_wait(tmp_path: Path) -> None:
    command, go_on = tmp_path / "slow", tmp_path / "go-on"
    command.write_text(
        f"#!/bin/sh\ntimeout 60 sh -c 'until [ -e {go_on} ]; do sleep 0.1; done'\n"
        f"touch {tmp_path}/ended\n"
    )
    command.chmod(0o755)
    env = {
        "SLURM_JOB_ID": "7", "SLURM_JOB_UID": "65534", "SLURMD_NODENAME": "n1",
        "JOULEBOOK_EVENTS_DIR": str(tmp_path), "JOULEBOOK_COMMAND": str(command),
        "JOULEBOOK_SUMMARY": "1",
    }  # fmt: skip
    # Through a pipe, as slurmd calls it: who inherits it keeps the caller waiting.
    done = subprocess.run([str(HOOKS / "epilog.sh")], env=env, capture_output=True, check=True)
    assert not (tmp_path / "ended").exists(), "the caller did not wait"
    assert done.stdout == b"" and done.stderr == b""
    go_on.touch()
    until("the detached step to end", (tmp_path / "ended").exists, 60)
