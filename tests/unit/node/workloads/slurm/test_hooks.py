"""The hook scripts in every shell that is here, with an empty environment like slurmd's."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import joulebook
from joulebook.node.workloads.slurm.event_file import read_event, read_labels
from joulebook.untrusted_files import open_directory, trusted_owners

HOOKS = Path(joulebook.__file__).parent / "hooks"


def _takes_programs(shell: str) -> bool:
    """Whether a shell runs what PATH has, which these tests replace: busybox-static does not."""
    if shell != "busybox":
        return True
    asked = [shell, "sh", "-c", "command -v dd"]
    return subprocess.run(asked, capture_output=True, check=False).stdout.startswith(b"/")


SHELLS = [
    shell
    for shell in ("dash", "bash", "busybox", "ksh", "mksh", "yash")
    if shutil.which(shell) and _takes_programs(shell)
]

Hook = Callable[..., "subprocess.CompletedProcess[bytes]"]


@pytest.fixture(params=SHELLS)
def hook(request: pytest.FixtureRequest, tmp_path: Path) -> Hook:
    shell = [shutil.which(request.param) or ""]
    if request.param == "busybox":
        shell.append("sh")

    def run(name: str, **env: str | bytes) -> subprocess.CompletedProcess[bytes]:
        base = {
            "SLURM_JOB_ID": "101",
            "SLURM_JOB_RESTART_COUNT": "0",
            "SLURM_JOB_GPUS": "0,3",
            "SLURM_JOB_USER": "ada",
            "SLURM_JOB_UID": "1000",
            "SLURM_JOB_PARTITION": "a100",
            "SLURMD_NODENAME": "n1",
            "SLURM_CLUSTER_NAME": "lab",
            "JOULEBOOK_EVENTS_DIR": str(tmp_path / "run" / "jobs"),
        }
        done = subprocess.run(
            [*shell, str(HOOKS / f"{name}.sh")],
            env={**base, **env},
            capture_output=True,
            timeout=20,
            check=False,
        )
        assert done.returncode == 0, done
        assert done.stdout == b""
        return done

    return run


@pytest.fixture
def events(tmp_path: Path) -> Path:
    return tmp_path / "run" / "jobs"


def load(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_bytes())
    return content


def test_a_job_from_beginning_to_end(hook: Hook, events: Path) -> None:
    before = time.time_ns()
    hook("prolog", SLURM_JOB_ACCOUNT="nlp", SLURM_JOB_COMMENT="experiment=bert-base")
    after = time.time_ns()
    assert [p.name for p in events.iterdir()] == ["101.0.json"]
    assert events.stat().st_mode & 0o7777 == 0o755
    begun = load(events / "101.0.json")
    assert before <= begun["start_ns"] <= after
    assert begun.pop("boot_id") == Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    assert abs(begun.pop("start_uptime_ms") / 1000 - time.clock_gettime(time.CLOCK_BOOTTIME)) < 5
    del begun["start_ns"]
    assert begun == {
        "v": 1,
        "scheduler": "slurm",
        "job_id": "101",
        "restart_count": 0,
        "gpus": ["0", "3"],
        "user": "ada",
        "uid": 1000,
        "account": "nlp",
        "partition": "a100",
        "comment": "experiment=bert-base",
        "node": "n1",
        "cluster": "lab",
    }
    hook("epilog")
    assert [p.name for p in events.iterdir()] == ["101.0.end"]
    ended = load(events / "101.0.end")
    assert ended["end_ns"] > ended["start_ns"]
    assert ended["end_uptime_ms"] >= ended["start_uptime_ms"]
    fd = open_directory(events, trusted_owners())
    event, _ = read_event(fd, "101.0.end", trusted_owners())
    os.close(fd)
    assert (event.user, event.end_ns) == ("ada", ended["end_ns"])


@pytest.mark.parametrize(
    ("value", "read"),
    [
        (b'a"b\\c', 'a"b\\c'),
        (b"line\nline\ttab\r\x01\x7f\x1b[31m", "line line tab    [31m"),
        (b"gr\xc3\xb6\xc3\x9fe \xe5\xad\xa6\xe4\xb9\xa0", "größe 学习"),
        (b"bad \xff\xc3( utf", "bad ( utf"),
        (b'","user":"root","x":"', '","user":"root","x":"'),
        (b"$(id) `id` ${HOME} %s %n", "$(id) `id` ${HOME} %s %n"),
        (b"-n -e \\n \\x41 \\u0041", "-n -e \\n \\x41 \\u0041"),
        (b"-", "-"),
        (b"*", "*"),
        (b"'" * 3, "'''"),
    ],
)
def test_any_comment_is_a_json_string(hook: Hook, events: Path, value: bytes, read: str) -> None:
    hook("prolog", SLURM_JOB_COMMENT=value)
    event = load(events / "101.0.json")
    assert event["comment"] == read
    assert event["user"] == "ada"
    hook("epilog")
    assert load(events / "101.0.end")["comment"] == read


@pytest.mark.parametrize("letter", [b"a", b'"', b"\n", "ü".encode(), b"\xff", b"\\"])
def test_64_kib_are_cut(hook: Hook, events: Path, letter: bytes) -> None:
    long = letter * (65_536 // len(letter))
    hook("prolog", SLURM_JOB_COMMENT=long, SLURM_JOB_USER=long, SLURM_JOB_ACCOUNT=long)
    hook("epilog")
    assert (events / "101.0.end").stat().st_size < 32_768
    fd = open_directory(events, trusted_owners())
    read_event(fd, "101.0.end", trusted_owners())
    os.close(fd)


def test_without_iconv_only_ascii_is_left(hook: Hook, events: Path, tmp_path: Path) -> None:
    text = (HOOKS / "prolog.sh").read_text().replace("/usr/bin/iconv", "/nowhere/iconv")
    other = tmp_path / "prolog.sh"
    other.write_text(text)
    subprocess.run(
        ["/bin/sh", str(other)],
        env={
            "SLURM_JOB_ID": "7",
            "JOULEBOOK_EVENTS_DIR": str(events),
            "SLURM_JOB_COMMENT": 'ä"b\n',
        },
        check=True,
    )
    assert load(events / "7.0.json")["comment"] == '"b '


@pytest.mark.parametrize(
    ("start", "end", "limit_s"),
    [
        ("1796035273", "1796042473", 7200),
        ("1796035273", "1796035272", None),
        ("", "1796042473", None),
        ("1796035273", "9" * 60, None),
        ("0x10000000", "1796042473", None),
        ("1796035273", "1;reboot;1", None),
    ],
)
def test_the_time_limit_where_slurm_says_it(
    hook: Hook, events: Path, start: str, end: str, limit_s: int | None
) -> None:
    hook("prolog", SLURM_JOB_START_TIME=start, SLURM_JOB_END_TIME=end)
    assert load(events / "101.0.json").get("time_limit_s") == limit_s


def test_ids_that_are_none(hook: Hook, events: Path) -> None:
    for job in ("", "x", "../1", "1 2", "-1"):
        hook("prolog", SLURM_JOB_ID=job)
        hook("epilog", SLURM_JOB_ID=job)
    assert not events.exists()
    hook(
        "prolog",
        SLURM_JOB_RESTART_COUNT="x/y",
        SLURM_JOB_GPUS='0,",;,MIG-a/1/2, ,GPU-b',
        SLURM_JOB_UID="0x",
        SLURMD_NODENAME="../n",
    )
    event = load(events / "101.0.json")
    assert event["gpus"] == ["0", "MIG-a/1/2", "GPU-b"]
    assert "uid" not in event and "node" not in event


def test_two_nodes_of_a_job_on_one_host(hook: Hook, events: Path) -> None:
    hook("prolog")
    hook("prolog", SLURMD_NODENAME="n2", SLURM_JOB_GPUS="1")
    hook("prolog", SLURMD_NODENAME="n2", SLURM_JOB_GPUS="2")
    assert {p.name for p in events.iterdir()} == {"101.0.json", "101.0.n2.json"}
    assert load(events / "101.0.n2.json")["gpus"] == ["2"]
    hook("epilog", SLURMD_NODENAME="n2")
    assert {p.name for p in events.iterdir()} == {"101.0.json", "101.0.n2.end"}
    hook("epilog", SLURMD_NODENAME="n3")
    hook("epilog")
    assert {p.name for p in events.iterdir()} == {"101.0.end", "101.0.n2.end"}


def test_many_nodes_at_the_same_instant(hook: Hook, events: Path) -> None:
    events.mkdir(parents=True)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: hook("prolog", SLURMD_NODENAME=f"n{n}"), range(8)))
    nodes = {load(path)["node"] for path in events.glob("*.json")}
    assert nodes == {f"n{n}" for n in range(8)}
    assert not list(events.glob(".*"))


def test_the_epilog_of_a_requeued_run_has_the_next_count(hook: Hook, events: Path) -> None:
    hook("prolog")
    hook("epilog", SLURM_JOB_RESTART_COUNT="1")
    hook("prolog", SLURM_JOB_RESTART_COUNT="1")
    assert {p.name for p in events.iterdir()} == {"101.0.end", "101.1.json"}


def test_an_epilog_without_a_prolog_and_one_after_a_stranger(hook: Hook, events: Path) -> None:
    hook("epilog")
    events.mkdir(parents=True)
    (events / "101.0.json").write_text('{\n"v": 1\n}\n')
    hook("epilog")
    assert list(events.iterdir()) == [], "what cannot be extended is removed, which is an end too"


def test_leftovers_of_a_killed_prolog_stop_nobody(hook: Hook, events: Path) -> None:
    events.mkdir(parents=True)
    (events / ".101.0.tmp").write_text("half")
    (events / ".101.0.n1.tmp").write_text("half")
    hook("prolog")
    assert load(events / "101.0.n1.json")["node"] == "n1"
    hook("epilog")
    assert (events / "101.0.n1.end").exists()


def test_it_never_fails_whatever_is_in_the_way(hook: Hook, tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.touch()
    for place in (str(blocked), str(blocked / "x"), "/proc/nowhere", "/dev/full"):
        for name in ("prolog", "epilog", "task_prolog"):
            hook(name, JOULEBOOK_EVENTS_DIR=place)


def test_a_number_that_comes_again_before_its_end_is_booked(hook: Hook, events: Path) -> None:
    for user in ("alice", "bob"):
        hook("prolog", SLURM_JOB_USER=user)
        hook("epilog")
    fd = open_directory(events, trusted_owners())
    names = sorted(p.name for p in events.iterdir())
    read = [read_event(fd, name, trusted_owners())[0] for name in names]
    os.close(fd)
    assert {event.user for event in read} == {"alice", "bob"}
    assert all(event.end_ns for event in read)


def test_what_a_full_file_system_left_is_swept_away(hook: Hook, events: Path) -> None:
    events.mkdir(parents=True)
    (events / "101.0.json").touch()
    hook("epilog")
    assert list(events.iterdir()) == []


def test_ends_that_nobody_collects_do_not_pile_up(hook: Hook, events: Path) -> None:
    events.mkdir(parents=True)
    old, new = events / "1.0.end", events / "2.0.end"
    old.touch()
    new.touch()
    long_ago = time.time() - 9 * 86_400
    os.utime(old, (long_ago, long_ago))
    hook("prolog", SLURM_JOB_ID="1200")
    hook("epilog", SLURM_JOB_ID="1200")
    assert {p.name for p in events.iterdir()} == {"2.0.end", "1200.0.end"}


def test_labels_by_the_task_prolog(hook: Hook, events: Path) -> None:
    env = {
        "SLURM_JOB_NAME": 'na"me\nx',
        "SLURM_ARRAY_JOB_ID": "100",
        "SLURM_ARRAY_TASK_ID": "7",
        "WANDB_PROJECT": "größe",
        "WANDB_API_KEY": "secret",
        "AWS_SECRET_ACCESS_KEY": "secret",
    }
    hook("task_prolog", **env)
    assert not events.exists()
    hook("prolog")
    hook("task_prolog", **env)
    assert not (events / "labels").exists(), "off unless asked for"
    hook("prolog", JOULEBOOK_LABELS="1")
    labels = events / "labels"
    assert labels.stat().st_mode & 0o7777 == 0o1777
    hook("task_prolog", **env)
    hook("task_prolog", **{**env, "SLURM_LOCALID": "1", "SLURM_JOB_NAME": "second"})
    (path,) = labels.iterdir()
    assert b"secret" not in path.read_bytes()
    assert read_labels(labels, "101", os.getuid()) == {
        "SLURM_JOB_NAME": 'na"me x',
        "WANDB_PROJECT": "größe",
    }


def test_a_hook_takes_milliseconds(hook: Hook) -> None:
    took = []
    for _ in range(10):
        began = os.times()
        hook("prolog")
        hook("epilog")
        ended = os.times()
        used = ended.children_user - began.children_user
        took.append((used + ended.children_system - began.children_system) / 2)
    assert sorted(took)[5] < 0.05, "of CPU; 15 ms on a quiet machine"


@pytest.mark.parametrize("planted", ["link", "dangling", "fifo", "directory"])
def test_root_follows_nothing_that_the_daemons_user_planted(
    hook: Hook, events: Path, tmp_path: Path, planted: str
) -> None:
    secret = tmp_path / "secret"
    secret.write_text("precious\n")
    hook("prolog")

    def plant(name: str) -> None:
        path = events / name
        if planted == "fifo":
            os.mkfifo(path)
        elif planted == "directory":
            (tmp_path / "elsewhere").mkdir(exist_ok=True)
            path.symlink_to(tmp_path / "elsewhere")
        else:
            path.symlink_to(secret if planted == "link" else tmp_path / "new")

    for name in (".101.0.end.tmp", "101.0.end"):
        plant(name)
    hook("epilog")
    assert load(events / "101.0.end")["end_ns"]
    (events / "101.0.end").unlink()
    for name in (".101.0.tmp", "101.0.json"):
        plant(name)
    hook("prolog")
    hook("epilog")
    assert secret.read_text() == "precious\n"
    assert not (tmp_path / "new").exists()
    assert not list((tmp_path / "elsewhere").glob("*")) if planted == "directory" else True


def test_a_directory_that_was_exchanged_for_a_link_is_not_entered(
    hook: Hook, events: Path, tmp_path: Path
) -> None:
    hook("prolog")
    hook("epilog")
    os.chown(events.parent, 12345, 12345)
    os.chown(events, 12345, 12345)
    hook("prolog")
    assert (events / "101.0.json").exists(), "his own directory below his own"
    for each in events.iterdir():
        each.unlink()
    events.rmdir()
    (tmp_path / "etc").mkdir()
    events.symlink_to(tmp_path / "etc")
    hook("prolog")
    hook("epilog")
    assert not list((tmp_path / "etc").iterdir())
